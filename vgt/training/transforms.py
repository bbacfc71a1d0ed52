"""From a photograph of any shape to a training square (docs/vgt.md 1.11 and 2.6).

A transform takes an upright RGB image and ``below(n, what)``, its only source of chance, and gives uint8
[size, size, 3]; it raises ImageError for a image that must not be trained on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from vgt.core.images import ImageError

Below = Callable[[int, str], int]
Transform = Callable[[Image.Image, Below], np.ndarray]

ASPECT = 10  # longer by shorter side


def autoencoder(size: int, flip: bool = True) -> Transform:
    """Shorter edge to ``size`` (bicubic, antialiased, the longer one rounded down), random crop, half are mirrored.

    The specification rejects no image here; those beyond 1:10 are rejected all the same, as in ``generator``."""

    def cut(image: Image.Image, below: Below) -> np.ndarray:
        _check_aspect(image)
        short = min(image.size)
        width, height = (size * side // short for side in image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        x, y = below(width - size + 1, "x"), below(height - size + 1, "y")
        pixels = np.asarray(image.crop((x, y, x + size, y + size)))
        mirrored = flip and below(2, "mirror") == 1
        return np.ascontiguousarray(pixels[:, ::-1]) if mirrored else pixels

    return cut


def generator(size: int, min_side: int = 81) -> Transform:
    """A random square along the longer side, resized to ``size`` (bicubic, antialiased), never mirrored: captions know
    left from right.  Rejects images with a side below ``min_side`` pixels and those beyond 1:10."""

    def cut(image: Image.Image, below: Below) -> np.ndarray:
        short = min(image.size)
        if short < min_side:
            raise ImageError(f"a side of {short} px is below data.min_side = {min_side}", f"below {min_side} px")
        _check_aspect(image)
        x, y = (below(side - short + 1, what) for side, what in zip(image.size, "xy", strict=True))
        square = image.crop((x, y, x + short, y + short))
        return np.asarray(square if short == size else square.resize((size, size), Image.Resampling.BICUBIC))

    return cut


def _check_aspect(image: Image.Image) -> None:
    if max(image.size) > ASPECT * min(image.size):
        raise ImageError(f"{image.width} x {image.height} px is beyond 1:{ASPECT}", f"aspect beyond 1:{ASPECT}")
