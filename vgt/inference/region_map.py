"""Pictures of where region-adaptive tokens looked (docs/vfmtok.md 4)."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from vgt.inference.images import grid, to_float

SIDE = 192  # pixels of one token's picture
SHOWN = 6  # pictures on a side
BLUR = SIDE / 32
GLOW = np.array([255, 90, 30], np.float32)


def heat(places: np.ndarray, weights: np.ndarray, side: int = SIDE) -> np.ndarray:
    """float [side, side] in [0, 1], its largest value 1: weights [S] at places [S, 2], (x, y) in [0, 1] or outside the
    image, spread out a little."""
    cells = np.floor(places * side).astype(int)
    inside = ((cells >= 0) & (cells < side)).all(1)
    found = np.zeros((side, side))
    np.add.at(found, (cells[inside, 1], cells[inside, 0]), weights[inside])
    found = gaussian_filter(found, BLUR, mode="constant")
    return found / found.max() if found.max() > 0 else found


def region_map(image: np.ndarray, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """uint8 [H', W', 3]: the image once for each of up to 6 x 6 tokens, dark but where that token looked, each at the
    place of its anchor.  ``image`` uint8 [H, H, 3], ``places`` [N, S, 2], ``weights`` [N, S] of N = n x n tokens."""
    n = round(len(places) ** 0.5)
    kept = np.unique(np.linspace(0, n - 1, min(n, SHOWN)).round().astype(int))
    whole = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = np.asarray(whole, np.float32)
    pictures = []
    for row in kept:
        for column in kept:
            token = row * n + column
            share = heat(places[token], weights[token])[..., None]
            shown = pixels * (0.25 + 0.75 * share) + GLOW * 0.25 * share
            pictures.append(shown.clip(0, 255).astype(np.uint8))
    return grid(pictures, len(kept))


@torch.no_grad()
def look(tokenizer, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places [N, S, 2] and weights [N, S] of one image uint8 [H, W, 3], by the tokenizer's ``regions``."""
    found = tokenizer.regions(to_float(image[None], next(tokenizer.parameters()).device))
    return found.places[0].float().cpu().numpy(), found.weights[0].float().cpu().numpy()
