"""Reconstruction metrics: the batched SSIM and PSNR against scikit-image's definitions, image by image."""

from __future__ import annotations

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio

from bench.pairs import Pair
from evals.metrics import pixels
from vgt.core import photos

IMAGES, SIDE = 8, 256
WHAT = "batched, against scikit-image pair by pair"
MODULES = ("bench.metrics",)


def images(count: int = IMAGES) -> tuple[np.ndarray, np.ndarray]:
    """Photographs uint8 [count, SIDE, SIDE, 3], and the same with noise."""
    originals = photos.images("test", range(count), SIDE)
    noise = np.random.default_rng(0).normal(0, 10, originals.shape)
    return originals, np.clip(originals + noise, 0, 255).astype(np.uint8)


def ssim_pair(variants: tuple[str, ...], count: int = IMAGES) -> Pair:
    """SSIM of every pair in one variant or all of them.  Raises ValueError where the two do not agree."""
    pairs = images(count)
    a, b = (torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().float() / 255 for x in pairs)
    arrays = list(zip(*pairs, strict=True))

    def theirs() -> dict[str, list[float]]:
        return {v: [pixels.ssim(x, y, v) for x, y in arrays] for v in variants}

    ours, wanted = pixels.ssim_batch(a, b, variants), theirs()
    _agree("SSIM", *(np.array([side[v] for v in variants]) for side in (ours, wanted)), 1e-5)
    name = variants[0] if len(variants) == 1 else "ssim-all"
    return Pair(name, count, lambda: pixels.ssim_batch(a, b, variants), theirs, WHAT, MODULES)


def psnr_pair(count: int = IMAGES) -> Pair:
    """PSNR of every pair.  Raises ValueError where the two do not agree."""
    pairs = images(count)
    a, b = (torch.from_numpy(x) for x in pairs)

    def ours() -> list[float]:
        return [pixels.psnr(e) for e in pixels.squared_errors(a, b).tolist()]

    def theirs() -> list[float]:
        return [peak_signal_noise_ratio(x, y, data_range=255) for x, y in zip(*pairs, strict=True)]

    _agree("PSNR", np.array(ours()), np.array(theirs()), 1e-6)
    return Pair("psnr", count, ours, theirs, WHAT, MODULES)


def _agree(name: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    if np.abs(ours - theirs).max() >= tolerance:
        raise ValueError(
            f"{name} of the two implementations differs by {np.abs(ours - theirs).max():.2g}; time neither"
        )


def pairs(count: int = IMAGES) -> list[Pair]:
    """All that are timed."""
    return [*(ssim_pair((v,), count) for v in pixels.SSIM), ssim_pair(tuple(pixels.SSIM), count), psnr_pair(count)]
