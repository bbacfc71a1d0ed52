"""Upright 8-bit RGB images (``vgt.core.images``) to the size that a protocol asks for."""

from __future__ import annotations

import numpy as np
from PIL import Image

GEOMETRIES = {
    "adm-crop": "halve (box) while the short side is at least twice the target, short side to target, centre crop",
    "resize-crop": "short side to target (bilinear, antialiased, in float), centre crop",
    "squash": "resize to a square (bilinear, antialiased), aspect ratio not kept",
}


def resize(image: Image.Image, size: int, geometry: str) -> np.ndarray:
    """An RGB image by one of GEOMETRIES: uint8 [size, size, 3]."""
    if geometry not in GEOMETRIES:
        raise ValueError(f"geometry {geometry!r} is unknown; choose one of {', '.join(GEOMETRIES)}")
    return {"adm-crop": adm_crop, "resize-crop": resize_crop, "squash": squash}[geometry](image, size)


def adm_crop(image: Image.Image, size: int) -> np.ndarray:
    """``adm-crop`` (docs/evaluators.md 1.1): halve with a box filter while the short side is at least 2 x ``size``, bring
    the short side to ``size`` (bicubic), cut the centre.  -> uint8 [size, size, 3]"""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    x, y = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((x, y, x + size, y + size)))


def resize_crop(image: Image.Image, size: int) -> np.ndarray:
    """``resize-crop`` (docs/evaluators.md 1.1): short side to ``size`` as torchvision's Resize does on a float tensor
    (bilinear, antialiased; the long side rounded down), centre crop, then 8 bits.  -> uint8 [size, size, 3]"""
    import torch
    from torch.nn import functional

    x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    short = min(image.size)
    height, width = (int(size * side / short) for side in (image.height, image.width))
    if (height, width) != tuple(x.shape[-2:]):
        x = functional.interpolate(x, (height, width), mode="bilinear", align_corners=False, antialias=True)
    top, left = round((height - size) / 2), round((width - size) / 2)
    cut = x[0, :, top : top + size, left : left + size].permute(1, 2, 0)
    return (cut * 255 + 0.5).clamp(0, 255).byte().numpy()


def squash(image: Image.Image, size: int) -> np.ndarray:
    """``squash`` (docs/evaluators.md 1.1): to ``size`` x ``size`` whatever the shape, as torchvision's Resize does on a
    Pillow image (bilinear, antialiased).  -> uint8 [size, size, 3]"""
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
