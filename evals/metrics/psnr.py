"""Peak signal-to-noise ratio (docs/evaluators.md 1.3)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

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

    Image by image, in the processor's cache.  Raises ValueError where shapes or dtypes differ."""
    if a.shape != b.shape or a.dtype != b.dtype or a.ndim != 4:
        kinds = f"{a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}"
        raise ValueError(f"images are {kinds}; give two batches of one kind")
    # Differences of levels and their squares are whole numbers below 2^24: exact in float32.
    whole = a.dtype == torch.uint8
    sums = [
        (x.float() - y.float() if whole else x.double() - y.double()).square_().sum(dtype=torch.float64)
        for x, y in zip(a, b, strict=True)
    ]
    if not sums:
        return torch.zeros(0, dtype=torch.float64)
    return torch.stack(sums) / a[0].numel() / (255**2 if whole else 1)


def psnr(mse: float) -> float:
    """10 log10(1 / MSE) in dB, at most CAP (docs/evaluators.md 1.3)."""
    if mse < 0:
        raise ValueError(f"mean squared error {mse} is negative")
    return min(CAP, -10 * float(np.log10(mse))) if mse > 0 else CAP
