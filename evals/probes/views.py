"""The latents of a set of images: made once per autoencoder, kept as evidence, seen in several ways.

A subject may have, beside ``encode``, a method ``encode_with_class(images) -> (tokens [N, T, d], class token [N, d])``;
only then does the view "class" exist.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evals.engine.api import Tokenizer
from evals.engine.images import padded
from evals.metrics.clusters import k_means
from evals.metrics.latents import standardize
from evals.probes.data import ProbeSet
from vgt.core import files

BATCH, SEED = 32, 0
PAIRS = 256  # images that are encoded once more in another guise, for the alignment
TOKENS = 5000  # points of the token view
VIEWS = {
    "mean": "mean over tokens",
    "max": "largest over tokens",
    "class": "class token",
    "token": f"every token, {TOKENS} of them",
}


@dataclass(frozen=True)
class Latents:
    """``tokens`` float32 [N, T, d] of the images that could be read, ``kept`` their places in ``images``;
    ``class_token`` [N, d] where there is one; ``positives``: view -> [M, d], the second guise of the first M
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
    return Path(work) / "probes" / tokenizer.name.replace("/", "_") / f"latents-{inputs[:12]}.npz"


def gather(tokenizer: Tokenizer, images: ProbeSet, path: Path) -> Latents:
    """The latents of ``images``, from ``path`` where they are stored already.

    Raises ValueError where the subject's latents are not finite [N, T, d]."""
    if not path.exists():
        made = _encode(tokenizer, images)
        with files.atomic(path) as part:
            np.savez(part, **made)
    with np.load(path, allow_pickle=False) as stored:
        positives = {v: stored[f"positive_{v}"] for v in VIEWS if f"positive_{v}" in stored}
        class_token = stored.get("class_token")
        failed = tuple(stored["failed"].tolist())
        return Latents(images, stored["tokens"], stored["kept"], class_token, positives, failed)


def _encode(tokenizer: Tokenizer, images: ProbeSet) -> dict[str, Any]:
    """Arrays to store.  Unreadable images are left out and named."""
    kept, failed, found, classes = [], [], [], []
    for start in tqdm(range(0, len(images), BATCH), desc=f"latents of {tokenizer.name}", unit="batch"):
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
