"""What is probed: scenes of one coloured shape, photo crops or a folder, with labels where there are some; and their
latents, made once per autoencoder, kept as evidence, seen in several ways.

A subject may have, beside ``encode``, a method ``encode_with_class(images) -> (tokens [N, T, d], class token [N, d])``;
only then does the view "class" exist.  Of our own checkpoints these are tokenizers with ``probe_features``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evals.engine import images as sets
from evals.engine.api import Tokenizer
from evals.engine.images import ImageSet, padded
from evals.engine.store import are_whole, read_arrays, write_arrays
from evals.metrics.latents import k_means, standardize
from vgt.core import files, record
from vgt.core import scenes as world

TASK = "colors"  # one object, so that an image has one shape and one color
SCENES, SIZE = 500, 64
FOLDER = 2000  # images of a folder that the full protocol asks for
BATCH, SEED = 32, 0
PAIRS = 256  # images that are encoded once more as another view of the same content, for the alignment
TOKENS = 5000  # points of the token view
VIEWS = {
    "mean": "mean over tokens",
    "max": "largest over tokens",
    "class": "class token",
    "token": f"every token, {TOKENS} of them",
}


@dataclass(frozen=True)
class ProbeSet:
    """``load(i)`` -> uint8 [H, W, 3], ValueError where it cannot be read; ``positive(i)``: another image of the same
    content, ``positives`` says which.  ``labels``: name -> one label per image, the main one first; ``covered(i,
    side)``: bool [side, side], the cells that show the object.  ``expected``: how many images the full protocol has.
    ``map_class``: the class of the main label whose images are clustered; ``redraw``: arguments of vgt.core.scenes.item
    with which a report renders an image again, None where it cannot."""

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
        sizes = ", ".join(map(str, world.SIZES))
        raise ValueError(f"scenes are rendered at {sizes} pixels, not {size}; probe this encoder with --data <folder>")
    count = SCENES if n is None else n
    scenes_of = [world.scene("test", i, TASK) for i in range(count + 1)]

    def moved(i: int) -> np.ndarray:
        return world.render(replace(scenes_of[i], background=scenes_of[i + 1].background), size).image

    objects = [scene.objects[0] for scene in scenes_of[:count]]
    return ProbeSet(
        name="scenes",
        ids=tuple(f"test-{i:05d}" for i in range(count)),
        clusters=tuple(f"test-{i:05d}" for i in range(count)),
        labels={"shape": tuple(o.shape for o in objects), "color": tuple(o.color for o in objects)},
        load=lambda i: world.render(scenes_of[i], size).image,
        positive=moved,
        positives="same object, background of the next scene",
        expected=SCENES,
        fingerprint=files.digest_json([world.WORLD, "test", TASK, count, size]),
        params={"task": TASK, "size": size},
        map_class="star",
        covered=lambda i, side: object_cells(world.render(scenes_of[i], size).masks[0], side),
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


def _from(images: ImageSet, chosen: list[int], labels: dict, expected: int) -> ProbeSet:
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
    """Crops of the photographs; a cluster is an image.  No labels."""
    images = sets.photos(n, size)
    return _from(images, list(range(len(images))), {}, images.expected)


def folder(path: str | Path, n: int | None = None, size: int = SIZE) -> ProbeSet:
    """``n`` (default 2,000) images spread evenly over a folder.  In an ImageFolder, where every image lies in one of
    two sub-folders or more, the sub-folder is the label ``class``.  Raises ValueError as evals.engine.images does."""
    images = sets.folder(path, None, size)
    full = min(len(images), FOLDER)
    count = min(len(images), full if n is None else n)
    if n is not None and n > len(images):
        images, full = sets.of(images, n), n
    chosen = [i * len(images) // count for i in range(count)]
    classes = [name.partition("/")[0] if "/" in name else "" for name in images.ids]
    labelled = "" not in classes and len(set(classes)) > 1
    return _from(images, chosen, {"class": tuple(classes[i] for i in chosen)} if labelled else {}, full)


def named(spec: str | Path, n: int | None = None, size: int = SIZE) -> ProbeSet:
    """``scenes``, ``photos`` (always the built-in sets) or a folder's path."""
    return (
        {"scenes": scenes, "photos": photos}[spec](n, size) if spec in ("scenes", "photos") else folder(spec, n, size)
    )


# ----------------------------------------------------------------------------------------------------- their latents


@dataclass(frozen=True)
class Latents:
    """``tokens`` float32 [N, T, d] of the images that could be read, ``kept`` their positions in ``images``;
    ``class_token`` [N, d] where there is one; ``positives``: view -> [M, d], the second view of the first M
    images; ``failed``: why images could not be read."""

    images: ProbeSet
    tokens: np.ndarray
    kept: np.ndarray
    class_token: np.ndarray | None
    positives: dict[str, np.ndarray]
    failed: tuple[str, ...]

    def labels(self, name: str) -> np.ndarray:
        return np.array(self.images.labels[name])[self.kept]

    @property
    def clusters(self) -> np.ndarray:
        """int [N]: images with the same number vary together; numbered in order of appearance."""
        seen: dict[str, int] = {}
        return np.array([seen.setdefault(self.images.clusters[i], len(seen)) for i in self.kept])


@dataclass(frozen=True, eq=False)
class Points:
    """One view: ``points`` [M, d], the image of each (row of Latents), ``cluster`` of that image, labels by name."""

    points: np.ndarray
    image: np.ndarray
    cluster: np.ndarray
    labels: dict[str, np.ndarray]
    tokens: bool = False
    _memo: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def groups(self) -> np.ndarray | None:
        """What a point must not be told from: the other tokens of its image; None where a point is an image."""
        return self.image if self.tokens else None

    def clustered(self, k: int) -> np.ndarray:
        """Cluster of every standardized point [M], made once per ``k``."""
        if k not in self._memo:
            self._memo[k] = k_means(standardize(self.points), k, SEED)[0]
        return self._memo[k]


def view(found: Latents, name: str = "mean") -> Points:
    """The latents as points.  Raises ValueError for an unknown view and for "class" where there is no class token."""
    if name not in VIEWS:
        raise ValueError(f"view {name!r} is unknown; choose one of {', '.join(VIEWS)}")
    n, tokens, d = found.tokens.shape
    image = np.arange(n)
    if name == "class":
        if found.class_token is None:
            raise ValueError("this encoder gives no class token; choose the view mean, max or token")
        points = found.class_token
    elif name == "token":
        rng = np.random.default_rng(SEED)
        chosen = np.sort(rng.choice(n * tokens, min(TOKENS, n * tokens), replace=False))
        points, image = found.tokens.reshape(-1, d)[chosen], chosen // tokens
    else:
        points = found.tokens.mean(1) if name == "mean" else found.tokens.max(1)
    labels = {label: found.labels(label)[image] for label in found.images.labels}
    return Points(points, image, found.clusters[image], labels, name == "token")


def evidence_path(work: str | Path, tokenizer: Tokenizer, images: ProbeSet) -> Path:
    """Where the latents of ``images`` are kept."""
    inputs = files.digest_json([tokenizer.fingerprint, images.fingerprint, "pairs"])
    return files.inside(work, "probes", record.folder_name(tokenizer.name), f"latents-{inputs[:12]}.npz")


def encoded(tokenizer: Tokenizer, images: ProbeSet, path: Path) -> Latents:
    """The latents of ``images``, from ``path`` where they are stored already.

    Raises ValueError where the subject's latents are not finite [N, T, d]."""
    if not are_whole(path):
        files.remove_unfinished(path)
        write_arrays(path, **_encode(tokenizer, images))
    stored = read_arrays(path)
    positives = {v: stored[f"positive_{v}"] for v in VIEWS if f"positive_{v}" in stored}
    failed = tuple(stored["failed"].tolist())
    return Latents(images, stored["tokens"], stored["kept"], stored.get("class_token"), positives, failed)


def _encode(tokenizer: Tokenizer, images: ProbeSet) -> dict[str, Any]:
    """Arrays to store.  Unreadable images are left out and named."""
    kept, failed, found, classes = [], [], [], []
    for start in tqdm(range(0, len(images), BATCH), desc=f"latents of {tokenizer.name}", unit="batch", disable=None):
        some = {}
        for i in range(start, min(start + BATCH, len(images))):
            try:
                some[i] = images.load(i)
            except ValueError as error:
                failed.append(str(error))
        if some:
            tokens, class_token = _batch(tokenizer, np.stack(list(some.values())))
            kept += list(some)
            found.append(tokens)
            classes.append(class_token)
    if not kept:
        raise ValueError(f"none of {len(images)} images can be read; the first: {failed[0]}")
    pairs = kept[:PAIRS]
    second = [_pooled(tokenizer, images, pairs[s : s + BATCH]) for s in range(0, len(pairs), BATCH)]
    made = {"tokens": np.concatenate(found), "kept": np.array(kept), "failed": np.array(failed, dtype=np.str_)}
    made |= {f"positive_{v}": np.concatenate([part[v] for part in second]) for v in second[0]}
    return made | ({"class_token": np.concatenate(classes)} if classes[0] is not None else {})


def _pooled(tokenizer: Tokenizer, images: ProbeSet, chosen: list[int]) -> dict[str, np.ndarray]:
    tokens, class_token = _batch(tokenizer, np.stack([images.positive(i) for i in chosen]))
    pooled = {"mean": tokens.mean(1), "max": tokens.max(1)}
    return pooled | ({"class": class_token} if class_token is not None else {})


def _batch(tokenizer: Tokenizer, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(tokens float32 [N, T, d], class token [N, d] or None) of one batch, padded to the usual size."""
    both = getattr(tokenizer, "encode_with_class", None)
    whole = padded(images, BATCH)
    tokens, class_token = both(whole) if both else (tokenizer.encode(whole), None)
    if tokens.ndim != 3 or len(tokens) != len(whole) or not np.isfinite(tokens).all():
        raise ValueError(f"{tokenizer.name} encodes {len(whole)} images to {tokens.shape}; finite [N, T, d] is needed")
    n = len(images)
    return tokens[:n].astype(np.float32), None if class_token is None else class_token[:n].astype(np.float32)
