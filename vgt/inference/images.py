"""Images between networks, arrays and files: conversion to and from [-1, 1], grids, writing (reading:
vgt/core/images.py)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vgt.core import files


def to_uint8(x: Tensor) -> np.ndarray:
    """float [N, 3, H, W] in [-1, 1] -> uint8 [N, H, W, 3]: round(255 (x + 1) / 2), clamped (docs/evaluators.md 1.2)."""
    return (x.float().clamp(-1, 1) + 1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def to_float(images: np.ndarray, device="cpu") -> Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def grid(images: Sequence[np.ndarray], columns: int, gap: int = 2) -> np.ndarray:
    """Images of one size side by side on white, ``columns`` a row."""
    h, w, _ = images[0].shape
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for k, image in enumerate(images):
        y, x = (k // columns) * (h + gap), (k % columns) * (w + gap)
        sheet[y : y + h, x : x + w] = image
    return sheet


def check_name(path: str | Path) -> Path:
    """Raises ValueError where no image can be written under that name."""
    path = Path(path)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"cannot write an image to {path.name!r}; use a name that ends in .png, .jpg or .webp")
    return path


def write_png(path: str | Path, image: np.ndarray) -> Path:
    """Write one image atomically; the suffix decides the format."""
    path = check_name(path)
    with files.atomic(path) as part:
        Image.fromarray(image).save(part)
    return path
