"""PSNR and SSIM of image pairs (docs/evaluators.md 1.3, 1.4), SSIM in the variants in use.

The variants differ by up to 0.2 for the same pair, so a value goes by its variant's id.  ``ssim_batch`` is what the
evaluator uses: all variants of many pairs at once, sharing the local moments.  ``ssim`` is scikit-image's answer for
one pair of uint8 images, and the check of the other.

Shapes: N pairs, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

CAP = 100.0  # dB; a perfect image would be infinite


def squared_error(original: np.ndarray, reconstruction: np.ndarray) -> float:
    """Mean over all pixels and channels of one image pair uint8 [H, W, 3], on the 0..1 scale."""
    if original.shape != reconstruction.shape or original.dtype != np.uint8 or reconstruction.dtype != np.uint8:
        raise ValueError(
            f"images are {original.dtype} {original.shape} and {reconstruction.dtype} {reconstruction.shape}; "
            "compare two uint8 images of one shape"
        )
    difference = original.astype(np.int64) - reconstruction
    return float(np.square(difference).sum()) / difference.size / 255**2


@torch.inference_mode()
def squared_errors(a: Tensor, b: Tensor) -> Tensor:
    """The same for many pairs -> float64 [N]: uint8 of any layout, without rounding anywhere, or float in [0, 1].

    Image by image and a part of it at a time, whatever its size.  Raises ValueError where shapes or dtypes differ."""
    if a.shape != b.shape or a.dtype != b.dtype or a.ndim != 4:
        kinds = f"{a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}"
        raise ValueError(f"images are {kinds}; give two batches of one kind")
    # Differences of levels and their squares are whole numbers below 2^24: exact in float32.
    whole = a.dtype == torch.uint8
    longest = int(np.argmax(a.shape[1:]))
    rows = max(1, 3 * PART * a.shape[1 + longest] // max(1, a[:1].numel()))
    sums = [
        sum(
            (x.float() - y.float() if whole else x.double() - y.double()).square_().sum(dtype=torch.float64)
            for x, y in zip(one.split(rows, longest), other.split(rows, longest), strict=True)
        )
        for one, other in zip(a, b, strict=True)
    ]
    if not sums:
        return torch.zeros(0, dtype=torch.float64)
    return torch.stack(sums) / a[0].numel() / (255**2 if whole else 1)


def psnr(mse: float) -> float:
    """10 log10(1 / MSE) in dB, at most CAP (docs/evaluators.md 1.3)."""
    if mse < 0:
        raise ValueError(f"mean squared error {mse} is negative")
    return min(CAP, -10 * float(np.log10(mse))) if mse > 0 else CAP


# --------------------------------------------------------------------------------------------------------------- SSIM

# Variants that share their local moments.  Their definitions are rows of evals.recon.metrics.
GAUSSIAN = ("ssim-wang", "ssim-tm", "ssim-tm-signed")
UNIFORM = ("ssim-taming", "ssim-sk")
LUMA = ("ssim-y",)
SSIM = ("ssim-wang", "ssim-taming", "ssim-sk", "ssim-tm", "ssim-tm-signed", "ssim-y")
SMALLEST = 11  # pixels; the side of the larger window
SMALLEST_UNIFORM = 7
PART = 2**18  # pixels of an image that are worked on at a time; an image of up to so many is one part
_RIM = SMALLEST // 2
_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # ITU-R BT.601, studio range: black is 16/255, white 235/255
_BLACK = 16 / 255
_bell = np.exp(-0.5 * (np.arange(-_RIM, _RIM + 1) / 1.5) ** 2)
_bell /= _bell.sum()
# In float32, weights that are multiples of 2^-24 and sum to 1 exactly: a flat region then has no variance at all.
_rounded = np.rint(_bell * 2**24)
_rounded[_RIM] += 2**24 - _rounded.sum()
_GAUSSIAN = {torch.float64: _bell.tolist(), torch.float32: (_rounded / 2**24).tolist()}
_K1, _K2 = 0.01, 0.03
_DOUBT = 3e-6  # mean relative error of the variances that float32 may bring in


def luma(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] in [0, 1] -> BT.601 luma [H, W] in [16/255, 235/255], as image-restoration papers score it."""
    return image @ np.array(_LUMA) + _BLACK


def check_sides(height: int, width: int, smallest: int = SMALLEST) -> None:
    """Raises ValueError for an image that is smaller than the window."""
    if min(height, width) < smallest:
        raise ValueError(f"an image of {width}x{height} is too small for SSIM's {smallest}x{smallest} window")


# ------------------------------------------------------------------------------------------------ many at once


def _gaussian(x: Tensor) -> Tensor:
    """Weighted mean over 11 x 11 windows, without a rim: [..., H, W] -> [..., H - 10, W - 10]."""
    weights = _GAUSSIAN[x.dtype]
    for dim in (-2, -1):
        size = x.shape[dim] - 2 * _RIM
        total = (x.narrow(dim, 0, size) + x.narrow(dim, 2 * _RIM, size)).mul_(weights[0])
        for i in range(1, _RIM):
            total.add_(x.narrow(dim, i, size) + x.narrow(dim, 2 * _RIM - i, size), alpha=weights[i])
        total.add_(x.narrow(dim, _RIM, size), alpha=weights[_RIM])
        x = total
    return x


def _uniform(x: Tensor) -> Tensor:
    """Sum over 7 x 7 windows, without a rim: [..., H, W] -> [..., H - 6, W - 6]; of 2, 4 and 7 pixels in turn."""
    for dim in (-2, -1):
        size = x.shape[dim]
        two = x.narrow(dim, 0, size - 1) + x.narrow(dim, 1, size - 1)
        four = two.narrow(dim, 0, size - 3) + two.narrow(dim, 2, size - 3)
        x = (four.narrow(dim, 0, size - 6) + two.narrow(dim, 4, size - 6)).add_(x.narrow(dim, 6, size - 6))
    return x


def _moments(a: Tensor, b: Tensor, window: Callable[[Tensor], Tensor], weight: int) -> tuple[Tensor, ...]:
    """Local (mean of a, mean of b, sum of both variances, covariance) under a ``window`` whose weights sum to
    ``weight``.

    Windows are summed in levels (0..255) from a centre that is a whole level: variances do not change by that, sums of
    8-bit levels stay whole numbers, and little is lost in E[x^2] - E[x]^2."""
    centre = ((a + b).mean((1, 2, 3), keepdim=True) * 127.5).round()
    a, b = a * 255 - centre, b * 255 - centre
    sums = window(torch.stack([a, b, a * a + b * b, a * b]))
    mean_a, mean_b, squares, product = (sums.double() / weight if weight > 1 else sums).unbind(0)
    both = mean_a.square() + mean_b.square()
    variances = squares.sub_(both).div_(255**2)
    covariance = product.sub_(mean_a * mean_b).div_(255**2)
    return (mean_a + centre) / 255, (mean_b + centre) / 255, variances, covariance, both


def _map(moments: tuple[Tensor, ...], data_range: float, unbiased: float = 1.0) -> Tensor:
    """SSIM at every window (Wang et al. 2004, eq. 13) [N, C, h, w]; ``unbiased``: N / (N - 1), or 1 for the
    population."""
    mean_a, mean_b, variances, covariance, _ = moments
    c2 = (_K2 * data_range) ** 2
    above = _luminance(mean_a, mean_b, data_range).mul_((2 * unbiased * covariance).add_(c2))
    return above.div_((unbiased * variances).add_(c2))


def _luminance(mean_a: Tensor, mean_b: Tensor, data_range: float) -> Tensor:
    c1 = (_K1 * data_range) ** 2
    return (2 * mean_a * mean_b).add_(c1).div_((mean_a.square() + mean_b.square()).add_(c1))


def _signed(moments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The moments of 2 x - 1."""
    mean_a, mean_b, variances, covariance, cancelled = moments
    return 2 * mean_a - 1, 2 * mean_b - 1, 4 * variances, 4 * covariance, cancelled


def _doubt(moments: tuple[Tensor, ...]) -> Tensor:
    """Mean relative error of the variances that rounding in float32 may have brought in: what cancelled, against the
    variances and C2."""
    _, _, variances, _, cancelled = moments
    return (cancelled / (variances.clamp(min=0) + _K2**2)).mean() * (2.0**-25 / 255**2)


@torch.inference_mode()
def ssim_batch(a: Tensor, b: Tensor, variants: Sequence[str] = SSIM) -> dict[str, Tensor]:
    """SSIM of every pair in each of the ``variants``: float [N, 3, H, W] in [0, 1] twice -> {variant: float64 [N]}.

    float32 agrees with scikit-image to 1e-5: a pair whose flat regions lie too far from its mean for that (drawings in
    black and white) is computed again in float64.  Image by image, large ones by parts of PART pixels, so that memory
    is that of a part.  A variant's value does not depend on which others are asked for.

    Raises ValueError for shapes that differ or are too small and for an unknown variant."""
    if a.shape != b.shape or a.ndim != 4 or a.dtype not in _GAUSSIAN or a.dtype != b.dtype:
        kinds = f"{a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}"
        raise ValueError(f"images are {kinds}; give two batches [N, 3, H, W], float32 or float64")
    unknown = [v for v in variants if v not in SSIM]
    if unknown:
        raise ValueError(f"SSIM variant {unknown[0]!r} is unknown; choose one of {', '.join(SSIM)}")
    check_sides(*a.shape[-2:], SMALLEST_UNIFORM if set(variants) <= set(UNIFORM) else SMALLEST)
    families = [(parts, group) for group, parts in _FAMILIES.items() if set(group) & set(variants)]
    found: dict[str, list[float]] = {v: [] for v in SSIM}
    for i in range(len(a)):
        for parts, _ in families:
            for variant, value in _averaged(parts, a[i : i + 1], b[i : i + 1]).items():
                found[variant].append(value)
    return {v: torch.tensor(found[v], dtype=torch.float64) for v in variants}


# Of a part of a pair: its moments, and the SSIM maps of the variants that follow from them.
_Part = tuple[tuple[Tensor, ...], dict[str, Tensor]]


def _averaged(parts: Callable[[Tensor, Tensor, torch.dtype], Iterator[_Part]], a: Tensor, b: Tensor) -> dict:
    """{variant: mean over all windows} of one pair [1, 3, H, W]."""
    means: dict[str, list[tuple[float, int]]] = {}
    for dtype in (a.dtype, torch.float64):
        doubts: list[tuple[float, int]] = []
        means = {}
        for moments, maps in parts(a, b, dtype):
            doubts.append((float(_doubt(moments)), moments[0].numel()))
            for variant, values in maps.items():
                means.setdefault(variant, []).append((float(values.double().mean()), values.numel()))
        if dtype == torch.float64 or _weighted(doubts) <= _DOUBT:
            break
    return {variant: _weighted(found) for variant, found in means.items()}


def _uniform_parts(a: Tensor, b: Tensor, dtype: torch.dtype) -> Iterator[_Part]:
    for first, last in _rows(a, SMALLEST_UNIFORM):
        moments = _moments(*(x[..., first : last + 6, :].to(dtype) for x in (a, b)), _uniform, 49)
        ranges = (("ssim-taming", 2.0), ("ssim-sk", 1.0))
        yield moments, {variant: _map(moments, data_range, 49 / 48) for variant, data_range in ranges}


def _gaussian_parts(a: Tensor, b: Tensor, dtype: torch.dtype) -> Iterator[_Part]:
    """On images reflected by the rim; ``ssim-wang`` is the inside, whose windows touch no reflected pixel."""
    height = a.shape[-2]
    for first, last in _rows(a, 1):
        at = torch.arange(first - _RIM, last + _RIM).abs()
        at = torch.where(at < height, at, 2 * (height - 1) - at)
        padded = [functional.pad(x[..., at, :].to(dtype), [_RIM, _RIM, 0, 0], mode="reflect") for x in (a, b)]
        moments = _moments(*padded, _gaussian, 1)
        whole = _map(moments, 1.0)
        maps = {"ssim-tm": whole, "ssim-tm-signed": _map(_signed(moments), 2.0)}
        inside = slice(max(0, _RIM - first), min(last, height - _RIM) - first)
        if inside.stop > inside.start:
            maps["ssim-wang"] = whole[..., inside, _RIM : whole.shape[-1] - _RIM]
        yield moments, maps


def _luma_parts(a: Tensor, b: Tensor, dtype: torch.dtype) -> Iterator[_Part]:
    for first, last in _rows(a, SMALLEST):
        strips = [x[..., first : last + 2 * _RIM, :].to(dtype) for x in (a, b)]
        weights = strips[0].new_tensor(_LUMA).view(1, 3, 1, 1)
        moments = _moments(*((x * weights).sum(1, keepdim=True) + _BLACK for x in strips), _gaussian, 1)
        yield moments, {"ssim-y": _map(moments, 1.0)}


_FAMILIES = {UNIFORM: _uniform_parts, GAUSSIAN: _gaussian_parts, LUMA: _luma_parts}


def _rows(image: Tensor, window: int) -> Iterator[tuple[int, int]]:
    """The rows (first, last + 1) of windows of an image [..., H, W], by parts of PART pixels."""
    count, step = image.shape[-2] - window + 1, max(1, PART // image.shape[-1])
    return ((first, min(first + step, count)) for first in range(0, count, step))


def _weighted(found: Sequence[tuple[float, int]]) -> float:
    """The mean of all from (mean, count) of parts."""
    if len(found) == 1:
        return found[0][0]
    return sum(mean * count for mean, count in found) / sum(count for _, count in found)


# ------------------------------------------------------------------------------------------------- scikit-image


def ssim(original: np.ndarray, reconstruction: np.ndarray, variant: str) -> float:
    """One of SSIM for one image pair, uint8 [H, W, 3], by scikit-image; both sides at least 11 pixels."""
    from skimage.metrics import structural_similarity

    if original.shape != reconstruction.shape or original.dtype != np.uint8 or reconstruction.dtype != np.uint8:
        raise ValueError(
            f"images are {original.dtype} {original.shape} and {reconstruction.dtype} {reconstruction.shape}; "
            "compare two uint8 images of one shape"
        )
    check_sides(*original.shape[:2])
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    a, b = original / 255.0, reconstruction / 255.0
    if variant == "ssim-taming":
        return float(structural_similarity(a, b, data_range=2.0, channel_axis=-1))
    if variant == "ssim-sk":
        return float(structural_similarity(a, b, data_range=1.0, channel_axis=-1))
    if variant == "ssim-wang":
        return float(structural_similarity(a, b, data_range=1.0, channel_axis=-1, **gaussian))
    if variant in ("ssim-tm", "ssim-tm-signed"):
        # scikit-image drops a rim of 5; on images reflected by 5 what is left is the whole of the original.
        pad = ((_RIM, _RIM), (_RIM, _RIM), (0, 0))
        a, b = np.pad(a, pad, mode="reflect"), np.pad(b, pad, mode="reflect")
        a, b, data_range = (a, b, 1.0) if variant == "ssim-tm" else (2 * a - 1, 2 * b - 1, 2.0)
        return float(structural_similarity(a, b, data_range=data_range, channel_axis=-1, **gaussian))
    if variant == "ssim-y":
        return float(structural_similarity(luma(a), luma(b), data_range=1.0, **gaussian))
    raise ValueError(f"SSIM variant {variant!r} is unknown; choose one of {', '.join(SSIM)}")
