"""Structural similarity in the five variants in use (spec evaluators 1.4), from quantized uint8 images.

They differ by up to 0.2 for the same pair, so a value goes by its variant's id.
"""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity

VARIANTS = ("ssim-wang", "ssim-taming", "ssim-sk", "ssim-tm", "ssim-y")
DESCRIPTIONS = {
    "ssim-wang": "11x11 Gaussian sigma 1.5, population covariance, range 1, per channel, rim dropped",
    "ssim-taming": "7x7 uniform, sample covariance, range 2 for images in [0, 1] (inflated), per channel, rim dropped",
    "ssim-sk": "7x7 uniform, sample covariance, range 1, per channel, rim dropped",
    "ssim-tm": "11x11 Gaussian sigma 1.5, population covariance, range 1, all channels, reflected rim kept",
    "ssim-y": "11x11 Gaussian sigma 1.5, population covariance, range 1, BT.601 luma only, rim dropped",
}
_GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
_LUMA = np.array([65.481, 128.553, 24.966]) / 255  # ITU-R BT.601, studio range: black is 16/255, white 235/255
_RIM = 5  # half of the 11-pixel window


def luma(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] in [0, 1] -> BT.601 luma [H, W] in [16/255, 235/255], as image-restoration papers score it."""
    return image @ _LUMA + 16 / 255


def ssim(original: np.ndarray, reconstruction: np.ndarray, variant: str) -> float:
    """One of VARIANTS for one image pair, uint8 [H, W, 3]; both sides at least 11 pixels."""
    if original.shape != reconstruction.shape or original.dtype != np.uint8 or reconstruction.dtype != np.uint8:
        raise ValueError(
            f"images are {original.dtype} {original.shape} and {reconstruction.dtype} {reconstruction.shape}; "
            "compare two uint8 images of one shape"
        )
    if min(original.shape[:2]) < 2 * _RIM + 1:
        raise ValueError(f"an image of {original.shape[1]}x{original.shape[0]} is too small for SSIM's 11x11 window")
    a, b = original / 255.0, reconstruction / 255.0
    if variant == "ssim-taming":
        return float(structural_similarity(a, b, data_range=2.0, channel_axis=-1))
    if variant == "ssim-sk":
        return float(structural_similarity(a, b, data_range=1.0, channel_axis=-1))
    if variant == "ssim-wang":
        return float(structural_similarity(a, b, data_range=1.0, channel_axis=-1, **_GAUSSIAN))
    if variant == "ssim-tm":
        # scikit-image drops a rim of 5; on images reflected by 5 what is left is the whole of the original.
        pad = ((_RIM, _RIM), (_RIM, _RIM), (0, 0))
        a, b = np.pad(a, pad, mode="reflect"), np.pad(b, pad, mode="reflect")
        return float(structural_similarity(a, b, data_range=1.0, channel_axis=-1, **_GAUSSIAN))
    if variant == "ssim-y":
        return float(structural_similarity(luma(a), luma(b), data_range=1.0, **_GAUSSIAN))
    raise ValueError(f"SSIM variant {variant!r} is unknown; choose one of {', '.join(VARIANTS)}")
