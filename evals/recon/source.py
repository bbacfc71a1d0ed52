"""What a reconstruction is scored on: a tokenizer with a set of images, or two folders of images made elsewhere; and
what a pipeline makes of the two, up to the images that are compared (docs/evaluators.md 1.1, 1.2).

Both sources give, batch by batch, originals and reconstructions of one shape, and name what could not be read.

Shapes: N images, H x W pixels of the model, h x w of the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from evals.engine.api import Tokenizer
from evals.engine.images import ImageSet, padded
from evals.recon.protocol import Pipeline
from vgt.core import files
from vgt.core import images as reader
from vgt.core.images import SUFFIXES, ImageError, convert, image_size, printable
from vgt.core.listing import image_files

QUANTIZERS = ("round", "half-up", "trunc255", "float")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_BFLOAT16, _PILLOW = "bfloat16 tensor", "uint8, Pillow"


@runtime_checkable
class Quantized(Protocol):
    """A tokenizer with a codebook of ``codebook_size`` entries."""

    codebook_size: int

    def indices(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> integers [N, T], the codes of each image."""
        ...


@runtime_checkable
class Continuous(Protocol):
    """A tokenizer that can give its pixels before they are rounded, for protocols that round in another way."""

    def reconstruct_float(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> float32 [N, H, W, 3] in [0, 1]."""
        ...


@dataclass(frozen=True)
class Group:
    """Images of one shape: ``positions`` in the source, uint8 ``originals`` and uint8 or float ``rebuilt``
    [N, H, W, 3]; ``codes``: integers [N, T] of a quantised tokenizer, made when called."""

    positions: list[int]
    originals: np.ndarray
    rebuilt: np.ndarray
    codes: Callable[[], np.ndarray] | None = None


@dataclass
class Batch:
    """``groups`` of images that were read; ``errors`` and ``converted`` by position."""

    groups: list[Group] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    converted: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Originals and their reconstructions, batch by batch.

    ``identity``: fingerprint of what reconstructed; ``originals``: of what was reconstructed; ``size``: the side of the
    images, None where they have several; ``given``: they are taken as they are; ``batch(positions, size)`` reads the
    images at ``positions``, ``size`` at a time through a tokenizer."""

    name: str
    suite: str
    ids: Sequence[str]
    clusters: Sequence[str]
    expected: int
    identity: str
    originals: str
    params: Mapping[str, Any]
    size: int | None
    given: bool
    batch: Callable[[range, int], Batch]


def reconstructed(tokenizer: Tokenizer, images: ImageSet, float_pixels: bool = False) -> Source:
    """A tokenizer's reconstructions of a set of images; ``float_pixels``: before they are rounded, where it can."""
    floats = float_pixels and isinstance(tokenizer, Continuous)
    make = tokenizer.reconstruct_float if floats else tokenizer.reconstruct
    wanted = np.dtype(np.float32 if floats else np.uint8)

    def batch(positions: range, size: int) -> Batch:
        """Raises ValueError for a tokenizer that changes shapes."""
        found, loaded = Batch(), {}
        for i in positions:
            try:
                loaded[i] = images.load(i)
            except ValueError as error:
                found.errors[i] = str(error)
                continue
            if kind := images.converted(i):
                found.converted[i] = kind
        if not loaded:
            return found
        originals = np.stack(list(loaded.values()))
        fed = padded(originals, size)
        rebuilt = make(fed)[: len(originals)]
        if rebuilt.shape != originals.shape or rebuilt.dtype != wanted:
            raise ValueError(
                f"{tokenizer.name} turned uint8 {originals.shape} into {rebuilt.dtype} {rebuilt.shape}; "
                f"a tokenizer gives back {wanted.name} images of the same shape"
            )

        def codes() -> np.ndarray:
            return np.asarray(tokenizer.indices(fed))[: len(originals)].reshape(len(originals), -1)

        quantized = isinstance(tokenizer, Quantized)
        found.groups.append(Group(list(loaded), originals, rebuilt, codes if quantized else None))
        return found

    return Source(
        name=tokenizer.name,
        suite=images.name,
        ids=images.ids,
        clusters=images.clusters,
        expected=images.expected,
        identity=tokenizer.fingerprint,
        originals=images.fingerprint,
        params={**images.params, "reconstruction": "float" if floats else "uint8"},
        size=tokenizer.size,
        given=False,
        batch=batch,
    )


def folders(real_dir: str | Path, recon_dir: str | Path) -> Source:
    """Two folders of images matched by their path without suffix, at their own size.

    Raises ValueError where one is missing or empty, or where no name is in both."""
    real, rebuilt = image_files(real_dir), image_files(recon_dir)
    if not set(real) & set(rebuilt):
        raise ValueError(
            f"no image of {real_dir} has a counterpart in {recon_dir}: {next(iter(real))}, {next(iter(rebuilt))}, ...; "
            f"the two folders need files of the same names ({', '.join(SUFFIXES)})"
        )
    ids = sorted({*real, *rebuilt})

    def pair(name: str) -> tuple[np.ndarray, np.ndarray, str]:
        for here, there, folder in ((real, rebuilt, recon_dir), (rebuilt, real, real_dir)):
            if name not in there:
                raise ValueError(f"{printable(here[name].name)} has no counterpart in {folder}")
        read = [convert(reader.content(side[name]), side[name].name) for side in (real, rebuilt)]
        a, b = (np.asarray(image) for image, _ in read)
        if a.shape != b.shape:
            sizes = f"{a.shape[1]}x{a.shape[0]} and {b.shape[1]}x{b.shape[0]}"
            raise ValueError(f"{name}: the two images are {sizes} pixels; resize them to one size first")
        return a, b, " and ".join(dict.fromkeys(kind for _, kind in read if kind))

    def batch(positions: range, size: int) -> Batch:
        found = Batch()
        shapes: dict[tuple[int, ...], list[tuple[int, np.ndarray, np.ndarray]]] = {}
        for i in positions:
            try:
                a, b, kinds = pair(ids[i])
            except ValueError as error:
                found.errors[i] = str(error)
                continue
            shapes.setdefault(a.shape, []).append((i, a, b))
            if kinds:
                found.converted[i] = kinds
        for members in shapes.values():
            where, originals, remade = zip(*members, strict=True)
            found.groups.append(Group(list(where), np.stack(originals), np.stack(remade)))
        return found

    hashes = [files.digest_json([(k, reader.digest(p)) for k, p in found.items()]) for found in (real, rebuilt)]
    side = _common_side(real)
    return Source(
        name=f"pairs-{printable(Path(recon_dir).resolve().name)}",
        suite="pairs",
        ids=ids,
        clusters=ids,
        expected=len(ids),
        identity=hashes[1],
        originals=hashes[0],
        params={"size": side or "several", "cluster": "image", "reconstruction": "uint8"},
        size=side,
        given=True,
        batch=batch,
    )


def _common_side(real: Mapping[str, Path]) -> int | None:
    """The side of all readable images where they are squares of one size."""
    sizes = set()
    for path in real.values():
        try:
            sizes.add(image_size(path))
        except ImageError:
            continue
    width, height = sizes.pop() if len(sizes) == 1 else (0, 1)
    return width if width == height else None


# -------------------------------------------------------------------------------------------------- what is compared


@dataclass(frozen=True)
class Compared:
    """Original ``a`` and reconstruction ``b`` as PSNR, SSIM and LPIPS see them (float32 [N, 3, h, w] in [0, 1]), and
    as feature networks and judges see them (uint8 [N, h, w, 3]); ``same``: whether these are the same pixels."""

    a: Tensor
    b: Tensor
    images_a: np.ndarray
    images_b: np.ndarray
    same: bool


def compare(pipeline: Pipeline, originals: np.ndarray, rebuilt: np.ndarray) -> Compared:
    """uint8 originals and uint8 (or float in [0, 1]) reconstructions, [N, H, W, 3] both."""
    s = pipeline.settings
    images = [_original(_unit(originals), s["original"]), _unit(rebuilt)]
    height, width = originals.shape[1:3]
    size = (round(height * pipeline.ratio), round(width * pipeline.ratio))
    if pipeline.resizes and s["resampled"] == _PILLOW:
        resized = [_pillow(to_uint8(quantize(x, s["quantize"])), size) for x in images]
        return Compared(*(_unit(x) for x in resized), *resized, same=True)
    if pipeline.resizes:
        images = [resample(x, size, s["resampler"], s["resampled"] == _BFLOAT16) for x in images]
    images = [x.float() for x in images]
    seen = [quantize(x, s["quantize"]) for x in images]
    same = s["features"] == s["quantize"]
    shown = seen if same else [quantize(x, s["features"]) for x in images]
    return Compared(*seen, *(to_uint8(x) for x in shown), same=same)


def _unit(images: np.ndarray) -> Tensor:
    """[N, H, W, 3], uint8 or float in [0, 1] -> float32 [N, 3, H, W] in [0, 1]."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return x.float() / 255 if images.dtype == np.uint8 else x.float().clamp(0, 1)


def _original(x: Tensor, how: str) -> Tensor:
    return x if how == "uint8" else normalized_and_back(x)


def normalized_and_back(x: Tensor) -> Tensor:
    """VGT's originals: ImageNet's mean and std taken off, bfloat16, put on again.  That alone caps PSNR at 67 dB."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _STD))
    return (((x - mean) / std).bfloat16() * std + mean).clamp(0, 1)


def resample(x: Tensor, size: tuple[int, int], kernel: str, bfloat16: bool = False) -> Tensor:
    """[N, 3, H, W] -> [N, 3, h, w] without antialiasing, corners not aligned, within [0, 1].

    ``bfloat16``: of bfloat16 numbers, rounded to bfloat16 once, as GPUs do.  Summed in float64: torch's kernels for
    CPUs give other last bits with one thread than with two, and in bfloat16 these are 0.004 of the range."""
    x = (x.bfloat16() if bfloat16 else x).double()
    x = functional.interpolate(x, size, mode=kernel, align_corners=False, antialias=False)
    return (x.bfloat16() if bfloat16 else x).float().clamp(0, 1)


def _pillow(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [N, H, W, 3] -> uint8 [N, h, w, 3] by Pillow's antialiased bicubic filter."""
    resized = [Image.fromarray(x).resize(size[::-1], Image.Resampling.BICUBIC) for x in images]
    return np.stack([np.asarray(x) for x in resized])


def quantize(x: Tensor, how: str) -> Tensor:
    """float32 in [0, 1] -> levels / 255 by one of QUANTIZERS (docs/evaluators.md 1.2), written as their users do, on
    [-1, 1]: float noise is what makes ``trunc255`` lose a level."""
    if how == "float":
        return x
    signed = (2 * x - 1).clamp(-1, 1)
    if how == "round":
        levels = (255 * (signed + 1) / 2).round()
    elif how == "half-up":
        levels = (127.5 * signed + 128).clamp(0, 255).floor()
    elif how == "trunc255":
        levels = ((signed + 1) / 2 * 255).floor()
    else:
        raise ValueError(f"quantisation {how!r} is unknown; choose one of {', '.join(QUANTIZERS)}")
    return levels / 255


def to_uint8(x: Tensor) -> np.ndarray:
    """Levels / 255 [N, 3, h, w] -> uint8 [N, h, w, 3]."""
    return (x * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
