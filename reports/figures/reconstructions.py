"""Originals and their reconstructions, from the strips that the reconstruction scores left beside their evidence.

Nothing is selected by looking: columns are spread evenly over the first test images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from reports.figures.grid import Grid, cell
from reports.measured import Measured, label

COLUMNS = {"scenes": 3, "photos": 4}  # data -> how many of its images are shown


def strip(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """(originals, reconstructions), uint8 [N, S, S, 3] each, from a image with the originals above; None without."""
    if not path.is_file():
        return None
    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    side = pixels.shape[0] // 2
    count = pixels.shape[1] // side
    tiles = pixels[: 2 * side, : count * side].reshape(2, side, count, side, 3).swapaxes(1, 2)
    return tiles[0], tiles[1]


def grid(measured: Measured, work: Path) -> Grid | None:
    """One row of originals, then one per autoencoder that was scored on the very same images."""
    originals: dict[str, np.ndarray] = {}
    rebuilt: dict[tuple[str, str], np.ndarray] = {}
    for suite in COLUMNS:
        for r in measured.where(suite, "psnr-mean"):
            path = work / str(r.extra.get("image", ""))
            pair = strip(path) if path.resolve().is_relative_to(work.resolve()) else None
            if pair and np.array_equal(originals.setdefault(suite, pair[0]), pair[0]):
                rebuilt[r.subject, suite] = pair[1]
    if not rebuilt:
        return None
    shown = {
        s: np.unique(np.linspace(0, len(originals[s]) - 1, n).astype(int)) for s, n in COLUMNS.items() if s in originals
    }

    def row(tiles: dict[str, np.ndarray | None]) -> list:
        return [cell(Image.fromarray(tiles[s][i])) if tiles[s] is not None else None for s in shown for i in shown[s]]

    heads = [s.removesuffix("s") for s in shown for _ in shown[s]]
    subjects = list(dict.fromkeys(subject for subject, _ in rebuilt))
    subjects = [s for s in measured.autoencoders() if s in subjects]
    rows = [("Original", row(originals))]
    rows += [(label(a), row({s: rebuilt.get((a, s)) for s in shown})) for a in subjects]
    return Grid("reconstructions", heads, rows)
