"""Reconstruction metrics against scikit-image and plain formulations."""

from __future__ import annotations

import warnings
from functools import lru_cache, partial

import numpy as np

from parity import Check
from vgt.core import photos, scenes

_INPUTS = "8 photo crops of 96 px with noise, 4 drawn scenes with noise, and black and white halves"


@lru_cache(maxsize=1)
def _pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """uint8 pairs of natural, flat and extreme images."""
    rng = np.random.default_rng(0)
    found = []
    for images, width in ((photos.images("test", range(8), 96), 9.0), (scenes.images("test", range(4)), 1.5)):
        noisy = np.clip(images + rng.normal(0, width, images.shape), 0, 255).astype(np.uint8)
        found += list(zip(images, noisy, strict=True))
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, 32:] = 255
    striped = halves.copy()
    striped[::2] ^= 3
    return [*found, (halves, striped)]


def _tensors(a: np.ndarray, b: np.ndarray):
    import torch

    return [torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)[None].float() / 255 for x in (a, b)]


def psnr_skimage() -> float:
    import torch
    from skimage.metrics import peak_signal_noise_ratio

    from evals.metrics import pixels

    ours = [pixels.psnr(float(pixels.squared_errors(*(torch.from_numpy(x)[None] for x in pair)))) for pair in _pairs()]
    theirs = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in _pairs()]
    return float(np.abs(np.subtract(ours, theirs)).max())


def ssim_skimage(variant: str) -> float:
    from evals.metrics import pixels

    return max(
        abs(float(pixels.ssim_batch(*_tensors(a, b), [variant])[variant]) - pixels.ssim(a, b, variant)) for a, b in _pairs()
    )


def ssim_windows(signed: bool) -> float:
    """SSIM by one two-dimensional convolution in float64 over reflected images, as torchmetrics lays it out."""
    import torch
    from torch.nn import functional

    from evals.metrics import pixels

    axis = torch.exp(-0.5 * (torch.arange(-5, 6, dtype=torch.float64) / 1.5) ** 2)
    kernel = (axis[:, None] * axis / axis.sum() ** 2).expand(3, 1, 11, 11)
    variant, data_range = ("ssim-tm-signed", 2.0) if signed else ("ssim-tm", 1.0)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    worst = 0.0
    for pair in _pairs():
        images = [x.double() * (2 if signed else 1) - (1 if signed else 0) for x in _tensors(*pair)]
        a, b = (functional.pad(x, [5] * 4, mode="reflect") for x in images)
        mean_a, mean_b, aa, bb, ab = (functional.conv2d(x, kernel, groups=3) for x in (a, b, a * a, b * b, a * b))
        luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        contrast = (2 * (ab - mean_a * mean_b) + c2) / (aa - mean_a**2 + bb - mean_b**2 + c2)
        ours = pixels.ssim_batch(*_tensors(*pair), [variant])[variant]
        worst = max(worst, abs(float(ours) - float((luminance * contrast).mean())))
    return worst


def lpips_by_hand() -> float:
    """LPIPS (alex) with random weights: our loading against torchvision's layers and the package's heads by hand."""
    import torch
    from lpips import LPIPS
    from torchvision import models

    from evals.metrics import lpips

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision in an old way
        torch.manual_seed(0)
        backbone = models.alexnet(weights=None).eval()
        heads = LPIPS(net="alex", pnet_rand=True, verbose=False).lins
    ours = lpips.distance(lpips.network("alex", backbone.state_dict()))
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    worst = 0.0
    with torch.inference_mode():
        for pair in _pairs()[:4]:
            sides = [((2 * x - 1) - shift.view(1, 3, 1, 1)) / scale.view(1, 3, 1, 1) for x in _tensors(*pair)]
            total = 0.0
            for i, layer in enumerate(backbone.features):
                # Not in place: the features before a layer are still needed.
                sides = [torch.relu(x) if isinstance(layer, torch.nn.ReLU) else layer(x) for x in sides]
                if i in (1, 4, 7, 9, 11):
                    a, b = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in sides)
                    head = heads[(1, 4, 7, 9, 11).index(i)].model[-1].weight
                    total += float(((a - b).square() * head.view(1, -1, 1, 1)).sum(1).mean())
            worst = max(worst, abs(float(ours(*_tensors(*pair))) / total - 1))
    return worst


def rfid_direct() -> float:
    """Fréchet distance from stored batches of features against scipy's matrix square root on all at once, relative."""
    import tempfile
    from pathlib import Path

    from scipy import linalg

    from evals.engine.store import Arrays
    from evals.recon import metrics as recon_metrics

    rng = np.random.default_rng(0)
    a = rng.normal(size=(200, 12)).astype(np.float32)
    b = (a + 0.3 * rng.normal(size=a.shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as place:
        for name, x in (("a", a), ("b", b)):
            store = Arrays(Path(place) / name)
            for start in range(0, 200, 32):
                rows = x[start : start + 32]
                store.add(start, positions=np.arange(start, start + len(rows)), values=rows)
        found = recon_metrics.distance(Arrays(Path(place) / "a"), Arrays(Path(place) / "b"), 200)
    sigmas = [np.cov(x.astype(np.float64), rowvar=False) for x in (a, b)]
    shift = a.astype(np.float64).mean(0) - b.astype(np.float64).mean(0)
    wanted = shift @ shift + np.trace(sum(sigmas)) - 2 * np.trace(linalg.sqrtm(sigmas[0] @ sigmas[1])).real
    return float(abs(found.value - wanted) / wanted)


CHECKS: tuple[Check, ...] = (
    Check("psnr-mean", "scikit-image", _INPUTS, "dB", 1e-6, psnr_skimage),
    *(
        Check(variant, "scikit-image", _INPUTS, "SSIM", 1e-5, partial(ssim_skimage, variant))
        for variant in ("ssim-wang", "ssim-taming", "ssim-sk", "ssim-tm", "ssim-tm-signed", "ssim-y")
    ),
    Check("ssim-tm", "torchmetrics' layout in float64", _INPUTS, "SSIM", 1e-5, partial(ssim_windows, False)),
    Check("ssim-tm-signed", "torchmetrics' layout in float64", _INPUTS, "SSIM", 1e-5, partial(ssim_windows, True)),
    Check("lpips-alex-v0.1", "layer by layer", "4 photo crops, random backbone", "relative", 1e-5, lpips_by_hand),
    Check("rfid-tf-compat", "scipy.linalg.sqrtm", "200 x 12 features in 7 batches", "relative", 1e-9, rfid_direct),
)
