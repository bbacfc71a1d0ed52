"""Names the shape of a segmented object by its best match among images of the world's own shapes.

The templates go through the same segmentation and the same normalization as the object, at several sizes, sub-pixel
positions and blurs, so that whatever the measurement does to an edge it does to both sides.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np
from scipy import ndimage

from evals.judges.segmentation import segment
from vgt.core.scenes import SHAPES, Background, Object, Scene, render

GRID = 24  # samples along a side of a normalized shape
SPAN = 2.0  # half the side of the normalized window, in radii of gyration
RADII = (34, 38, 50, 58)  # canvas units: the ends of the world's two size ranges
BLURS = (0.0, 0.8, 1.2, 1.8)  # standard deviations, pixels of a 64-pixel image
PHASES = ((128, 128), (130, 131))  # centres, canvas units


def normalize(alpha: np.ndarray) -> tuple[np.ndarray, float]:
    """float32 [h, w] cover -> (float32 [GRID*GRID], radius of gyration in pixels): upright, centred on its centroid and
    scaled by its radius of gyration, both of which blur and noise hardly move."""
    h, w = alpha.shape
    mass = float(alpha.sum()) + 1e-9
    rows, columns = alpha.sum(1), alpha.sum(0)
    ys, xs = np.arange(h), np.arange(w)
    cy, cx = float(rows @ ys) / mass, float(columns @ xs) / mass
    gyration = np.sqrt(float(rows @ (ys - cy) ** 2 + columns @ (xs - cx) ** 2) / mass) + 1e-9
    step = 2 * SPAN * gyration / GRID
    offsets = (np.arange(GRID) - (GRID - 1) / 2) * step

    def spread(centre: float, n: int) -> np.ndarray:
        """[GRID, n] tent weights: linear interpolation, wider where samples are further apart than pixels."""
        width = max(1.0, step)
        tent = np.maximum(0, 1 - np.abs((centre + offsets)[:, None] - np.arange(n)) / width)
        return tent / width

    return (spread(cy, h) @ alpha @ spread(cx, w).T).astype(np.float32).ravel(), float(gyration)


@lru_cache(maxsize=1)
def templates() -> tuple[np.ndarray, np.ndarray]:
    """Every shape at every radius, blur and phase: float32 [len(SHAPES), variants, GRID*GRID], and float64
    [len(SHAPES), variants], the drawn radius (canvas units) that stands behind one pixel of gyration."""
    plain = Background("gray", "none", (138, 138, 138), 0, (0,) * 25)
    images, units = [], []
    for shape in SHAPES:
        for radius, (cx, cy), blur in itertools.product(RADII, PHASES, BLURS):
            drawn = render(Scene((Object(shape, "black", cx, cy, radius, (22, 22, 22)),), plain, "colors")).image
            seen = segment(ndimage.gaussian_filter(drawn, (blur, blur, 0)) if blur else drawn)
            image, gyration = normalize(seen.blobs[0].alpha)
            images.append(image)
            units.append(radius / gyration)
    variants = len(RADII) * len(PHASES) * len(BLURS)
    return np.array(images).reshape(len(SHAPES), variants, -1), np.array(units).reshape(len(SHAPES), variants)


def match(alpha: np.ndarray) -> tuple[np.ndarray, float]:
    """(float64 [len(SHAPES)], radius): the soft intersection over union (Tanimoto: ab / (aa + bb - ab)) with the best
    template of each shape, and the drawn radius in canvas units that the best of all implies (blur hardly moves it)."""
    bank, units = templates()
    image, gyration = normalize(alpha)
    both = bank @ image
    overlap = both / ((bank * bank).sum(-1) + image @ image - both)
    shape, variant = np.unravel_index(np.argmax(overlap), overlap.shape)
    return overlap.max(1).astype(np.float64), float(units[shape, variant] * gyration)
