"""k-means maps of latent tokens laid over the images, autoencoders side by side (docs/evaluators.md 5)."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

from reports.figures.grid import Grid, cell
from reports.figures.style import INK, PALETTE
from reports.measured import Measured, label
from vgt.core import scenes
from vgt.core.record import Record

COLORS = (*PALETTE, "#f0e442", INK)
OVERLAY = 0.5


def _enlarged(maps: np.ndarray, side: int) -> np.ndarray:
    """[N, h, h] -> [N, side, side] by repeating; ``side`` is a multiple of h."""
    times = side // maps.shape[1]
    return maps.repeat(times, 1).repeat(times, 2)


def matched(reference: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """``maps`` [N, h, h] with the clusters renumbered so that they overlap those of the ``reference`` [N, g, g] as much
    as one-to-one names can (Hungarian method); clusters beyond the reference's get the next free numbers."""
    side = math.lcm(reference.shape[1], maps.shape[1])
    a, b = _enlarged(reference, side).reshape(-1), _enlarged(maps, side).reshape(-1)
    size = int(max(a.max(), b.max())) + 1
    overlap = np.zeros((size, size), int)
    np.add.at(overlap, (b, a), 1)
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    names = np.empty(size, int)
    names[rows] = columns
    return names[maps]


def _maps(record: Record) -> np.ndarray | None:
    """int [N, h, w] as stored, None without."""
    stored, grid = record.extra.get("maps"), record.extra.get("grid")
    return np.array(stored, int).reshape(-1, *grid) if stored and grid else None


def _images(record: Record, work: Path | None) -> list[Image.Image] | None:
    """The images behind the maps: drawn scenes drawn again, others from the strip beside the evidence."""
    drawn = record.extra.get("scenes")
    if drawn:
        at = {"size": drawn["size"], "task": drawn["task"]}
        return [Image.fromarray(scenes.item(drawn["split"], i, **at).image) for i in drawn["indices"]]
    path = work / str(record.extra.get("image", "")) if work is not None else None
    if path is None or not path.is_file() or not path.resolve().is_relative_to(work.resolve()):
        return None
    with Image.open(path) as opened:
        strip = np.asarray(opened.convert("RGB"))
    return [Image.fromarray(part) for part in np.split(strip, strip.shape[1] // strip.shape[0], 1)]


def overlay(image: Image.Image, clusters: np.ndarray) -> Image.Image:
    """The clusters' colors over the image, half and half, in blocks as large as a token."""
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLORS], np.uint8)
    colors = Image.fromarray(rgb[clusters % len(COLORS)])
    return Image.blend(image.convert("RGB"), colors.resize(image.size, Image.Resampling.NEAREST), OVERLAY)


def grids(measured: Measured, work: Path | None = None) -> list[Grid]:
    """A grid per set of images: the images, then each autoencoder's clusters in colors matched to the first one's.
    Autoencoders whose maps show other images than the most do are left out."""
    suites = sorted({r.suite for r in measured.records if r.metric == "cluster-maps"})
    made = (_grid(suite, measured.where(suite, "cluster-maps"), work) for suite in suites)
    return [grid for grid in made if grid]


def _grid(suite: str, records: list[Record], work: Path | None) -> Grid | None:
    found = [(r, _maps(r), _images(r, work)) for r in records]
    found = [(r, maps, images) for r, maps, images in found if maps is not None and len(images or ()) == len(maps)]
    if not found:
        return None
    usual = Counter(tuple(r.extra["ids"]) for r, _, _ in found).most_common(1)[0][0]
    found = [each for each in found if tuple(each[0].extra["ids"]) == usual]
    first, reference, images = found[0]
    rows = [("Image", [cell(image) for image in images])]
    for record, maps, own in found:
        seen = matched(reference, maps)
        rows.append((label(record.subject), [cell(overlay(*pair)) for pair in zip(own, seen, strict=True)]))
    kind = first.extra.get("class") or "image"
    heads = [f"{kind}, {name.rpartition('/')[2]}" for name in usual]
    return Grid(f"clusters_{suite.removesuffix('-latents')}", heads, rows)
