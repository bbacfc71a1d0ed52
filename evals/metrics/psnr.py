"""Peak signal-to-noise ratio (spec evaluators 1.3), from quantized uint8 images."""

from __future__ import annotations

import numpy as np

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


def psnr(mse: float) -> float:
    """10 log10(1 / MSE) in dB, at most CAP (spec evaluators 1.3)."""
    if mse < 0:
        raise ValueError(f"mean squared error {mse} is negative")
    return min(CAP, -10 * float(np.log10(mse))) if mse > 0 else CAP
