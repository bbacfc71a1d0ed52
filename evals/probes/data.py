"""What is probed: drawn scenes of one coloured shape, photo crops, or a folder; with labels where there are some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from evals.engine import images as data
from vgt.core import files
from vgt.core import scenes as world

TASK = "colors"  # one object, so that an image has one shape and one color
SCENES, SIZE = 500, 64
FOLDER = 2000  # images of a folder that the full protocol asks for


@dataclass(frozen=True)
class ProbeSet:
    """``load(i)`` -> uint8 [H, W, 3], ValueError where it cannot be read; ``positive(i)``: another image of the same
    content, ``positives`` says which.  ``labels``: name -> one label per image, the main one first; ``covered(i,
    side)``: bool [side, side], the cells that show the object.  ``expected``: how many images the full protocol has.
    ``map_class``: the class of the main label whose images are clustered; ``redraw``: arguments of vgt.core.scenes.item
    with which a report draws an image again, None where it cannot."""

    name: str
    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]
    load: Callable[[int], np.ndarray]
    positive: Callable[[int], np.ndarray]
    positives: str
    expected: int
    fingerprint: str
    params: dict
    map_class: str | None = None
    covered: Callable[[int, int], np.ndarray] | None = None
    redraw: dict | None = None

    def __len__(self) -> int:
        return len(self.ids)


def scenes(n: int | None = None, size: int = SIZE) -> ProbeSet:
    """The first ``n`` (default 500) test scenes of a single coloured shape; labels shape and color.  The positive of a
    scene is its object before the background of the next scene."""
    if size not in world.SIZES:
        drawable = ", ".join(map(str, world.SIZES))
        raise ValueError(f"scenes are drawn at {drawable} pixels, not {size}; probe this encoder with --data <folder>")
    count = SCENES if n is None else n
    drawn = [world.scene("test", i, TASK) for i in range(count + 1)]

    def moved(i: int) -> np.ndarray:
        return world.render(replace(drawn[i], background=drawn[i + 1].background), size).image

    objects = [scene.objects[0] for scene in drawn[:count]]
    return ProbeSet(
        name="scenes",
        ids=tuple(f"test-{i:05d}" for i in range(count)),
        clusters=tuple(f"test-{i:05d}" for i in range(count)),
        labels={"shape": tuple(o.shape for o in objects), "color": tuple(o.color for o in objects)},
        load=lambda i: world.render(drawn[i], size).image,
        positive=moved,
        positives="same object, background of the next scene",
        expected=SCENES,
        fingerprint=files.digest_json([world.WORLD, "test", TASK, count, size]),
        params={"task": TASK, "size": size},
        map_class="star",
        covered=lambda i, side: object_cells(world.render(drawn[i], size).masks[0], side),
        redraw={"split": "test", "task": TASK, "size": size},
    )


def object_cells(mask: np.ndarray, side: int) -> np.ndarray:
    """Mask bool [S, S] -> bool [side, side]: cells covered by half or more, and the most covered one.

    Raises ValueError where ``side`` does not divide the mask."""
    if mask.shape[0] % side:
        raise ValueError(f"a grid of {side} cells does not divide {mask.shape[0]} pixels")
    step = mask.shape[0] // side
    share = mask.reshape(side, step, side, step).mean((1, 3))
    return (share >= 0.5) | (share == share.max())


def _from(images: data.ImageSet, chosen: list[int], labels: dict, expected: int) -> ProbeSet:
    return ProbeSet(
        name=images.name,
        ids=tuple(images.ids[i] for i in chosen),
        clusters=tuple(images.clusters[i] for i in chosen),
        labels=labels,
        load=lambda i: images.load(chosen[i]),
        positive=lambda i: images.load(chosen[i])[:, ::-1],
        positives="mirrored left to right",
        expected=expected,
        fingerprint=files.digest_json([images.fingerprint, chosen]),
        params=images.params,
        map_class=min(labels["class"]) if labels else None,
    )


def photos(n: int | None = None, size: int = SIZE) -> ProbeSet:
    """Crops of the photographs; a cluster is a image.  No labels."""
    images = data.photos(n, size)
    return _from(images, list(range(len(images))), {}, images.expected)


def folder(path: str | Path, n: int | None = None, size: int = SIZE) -> ProbeSet:
    """``n`` (default 2,000) images spread evenly over a folder.  In an ImageFolder, where every image lies in one of
    two sub-folders or more, the sub-folder is the label ``class``.  Raises ValueError as evals.engine.images.folder does."""
    images = data.folder(path, None, size)
    full = min(len(images), FOLDER)
    count = min(len(images), full if n is None else n)
    chosen = [i * len(images) // count for i in range(count)]
    classes = [name.partition("/")[0] if "/" in name else "" for name in images.ids]
    labelled = "" not in classes and len(set(classes)) > 1
    return _from(images, chosen, {"class": tuple(classes[i] for i in chosen)} if labelled else {}, full)


def named(spec: str, n: int | None = None, size: int = SIZE) -> ProbeSet:
    """``scenes``, ``photos`` or a folder's path."""
    return (
        {"scenes": scenes, "photos": photos}[spec](n, size) if spec in ("scenes", "photos") else folder(spec, n, size)
    )
