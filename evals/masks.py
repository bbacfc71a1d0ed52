"""Masks as run lengths, COCO's uncompressed form: column by column, alternately zeros and ones, zeros first."""

from __future__ import annotations

import numpy as np


def encode(mask: np.ndarray) -> dict:
    """bool [H, W] -> ``{"size": [H, W], "counts": [...]}``."""
    flat = mask.astype(bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat.size and flat[0] else counts}


def decode(code: dict) -> np.ndarray:
    """The inverse of ``encode``.  Raises ValueError where the counts do not fill the size."""
    height, width = code["size"]
    counts = code["counts"]
    if sum(counts) != height * width:
        raise ValueError(f"run lengths sum to {sum(counts)}, a mask of {height} x {width} has {height * width} pixels")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape((height, width), order="F")
