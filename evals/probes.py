"""Probes of an autoencoder's latent space (spec evaluators 5) on test scenes of a single coloured shape.

Image-level probes see latents averaged over tokens, token-level ones every token.  Beside each probe with labels
stands its chance level: the same probe after the labels were shuffled.  The subject ``random_projection`` of
evals.subjects.pca is the anchor for what an unlearned representation scores.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evals.api import Outcome, Tokenizer
from evals.data import padded
from evals.metrics import latents as space
from evals.metrics.frechet import BLOCKS, Moments, moments
from vgt.core import files, record, scenes
from vgt.core.statistics import Interval, cluster_interval, jackknife_interval, wilson

SUITE = "scenes-latents"
TASK = "colors"  # one object, so that an image has one shape and one color
IMAGES, SIZE, SEED, BATCH = 500, 64, 0, 32


@dataclass(frozen=True)
class Latents:
    """``tokens`` float32 [N, T, d]; ``shape`` and ``color`` names [N]."""

    tokens: np.ndarray
    shape: np.ndarray
    color: np.ndarray

    @property
    def images(self) -> np.ndarray:
        """Averaged over tokens: [N, d]."""
        return self.tokens.mean(1)


def run(tokenizer: Tokenizer, *, work: str | Path, records: str | Path, n: int = IMAGES) -> Outcome:
    """Probe the latents of ``n`` test scenes.  Records that stand are reused; latents are kept as evidence."""
    if n < 3 * BLOCKS:
        raise ValueError(f"n = {n} scenes are too few to probe a latent space; give {3 * BLOCKS} or more")
    size = tokenizer.size or SIZE
    suite_hash = files.digest_json([scenes.WORLD, "test", TASK, n, size])
    params = {"task": TASK, "size": size, "standardized": "per dimension"}
    keys = {
        m: record.make_key(subject=tokenizer.fingerprint, suite=suite_hash, metric=m, params=params | about, seed=SEED)
        for m, (_, about) in PROBES.items()
    }
    kept = {m: record.find(records, f"{tokenizer.name}/{SUITE}/{m}", key) for m, key in keys.items()}
    missing = [m for m in PROBES if kept[m] is None]
    if missing:
        inputs = files.digest_json([tokenizer.fingerprint, suite_hash])
        path = Path(work) / "probes" / tokenizer.name.replace("/", "_") / f"latents-{inputs[:12]}.npz"
        found = _latents(tokenizer, n, size, path)
        for metric in tqdm(missing, desc=f"probes of {tokenizer.name}", unit="probe"):
            started = time.perf_counter()
            probe, about = PROBES[metric]
            kept[metric] = record.make(
                subject=tokenizer.name,
                suite=SUITE,
                metric=metric,
                **probe(found),
                n=n,
                n_expected=IMAGES,
                protocol=f"probe-{metric}",
                protocol_params=params | about,
                seed=SEED,
                fingerprint=tokenizer.fingerprint,
                suite_hash=suite_hash,
                key=keys[metric],
                evidence=path.relative_to(work).as_posix(),
                seconds=round(time.perf_counter() - started, 3),
            )
            record.write(kept[metric], records)
    return Outcome([kept[m] for m in PROBES], len(missing), len(PROBES) - len(missing))


def _latents(tokenizer: Tokenizer, n: int, size: int, path: Path) -> Latents:
    """The latents of the first ``n`` scenes, from ``path`` where they are stored already."""
    if not path.exists():
        items = [scenes.item("test", i, size, task=TASK) for i in range(n)]
        images = np.stack([item.image for item in items])
        found = []
        for start in tqdm(range(0, n, BATCH), desc=f"latents of {tokenizer.name}", unit="batch"):
            some = images[start : start + BATCH]
            found.append(tokenizer.encode(padded(some, BATCH))[: len(some)])
        tokens = np.concatenate(found)
        if tokens.ndim != 3 or len(tokens) != n or not np.isfinite(tokens).all():
            raise ValueError(f"{tokenizer.name} encodes {n} images to {tokens.shape}; finite [N, T, d] is needed")
        names = [(item.scene.objects[0].shape, item.scene.objects[0].color) for item in items]
        with files.atomic(path) as part:
            np.savez(part, tokens=tokens.astype(np.float32), names=np.array(names, dtype=np.str_))
    with np.load(path, allow_pickle=False) as stored:
        return Latents(stored["tokens"], stored["names"][:, 0], stored["names"][:, 1])


# ------------------------------------------------------------------------------------------------------- probes


def _fields(interval: Interval, **extra) -> dict:
    bounds = {"value": interval.value, "low": interval.low, "high": interval.high, "interval": interval.method}
    return bounds | {"extra": extra}


def _shuffled(labels: np.ndarray) -> np.ndarray:
    return np.random.default_rng(SEED).permutation(labels)


def _blocks(points: np.ndarray) -> list[Moments]:
    """Moments of blocks of images: [N, d], or [N, T, d] with all tokens of an image in one block."""
    d = points.shape[-1]
    # Sums of squares lose digits far from the origin; no number here depends on the mean.
    centered = points.astype(np.float64) - points.reshape(-1, d).mean(0, dtype=np.float64)
    return [moments(centered[b::BLOCKS].reshape(-1, d)) for b in range(BLOCKS)]


def _spectral(measure: Callable[[np.ndarray], float], tokens: bool, standardized: bool = True):
    """A probe of the covariance, with a delete-one-block-of-images jackknife interval."""

    def of(part: Moments) -> float:
        return measure(space.correlation(part.covariance) if standardized else part.covariance)

    def probe(found: Latents) -> dict:
        parts = _blocks(found.tokens if tokens else found.images)
        whole = sum(parts[1:], parts[0])
        interval = jackknife_interval(of(whole), [of(whole - part) for part in parts])
        return _fields(interval, dimensions=int(found.tokens.shape[-1])) | {
            "low": max(0.0, interval.low) if interval.low is not None else None
        }

    return probe


def _tsne(found: Latents) -> dict:
    points, trust = space.tsne(found.images, SEED)
    extra = {
        "points": np.round(points, 3).tolist(),
        "labels": found.shape.tolist(),
        "colors": found.color.tolist(),
    }
    note = "value is trustworthiness (5 neighbors); distances between clusters of a t-SNE carry no meaning"
    return {"value": trust, "note": note, "extra": extra}


def _silhouette(labels_of: Callable[[Latents], np.ndarray]):
    def probe(found: Latents) -> dict:
        points, labels = found.images, labels_of(found)
        block = np.arange(len(points)) % BLOCKS
        left = [space.silhouette(points[block != b], labels[block != b]) for b in range(BLOCKS)]
        interval = jackknife_interval(space.silhouette(points, labels), left)
        return _fields(interval, chance=space.silhouette(points, _shuffled(labels)))

    return probe


def _knn(labels_of: Callable[[Latents], np.ndarray]):
    def probe(found: Latents) -> dict:
        points, labels = found.images, labels_of(found)
        right = space.knn_correct(points, labels)
        return _fields(
            wilson(int(right.sum()), len(right)),
            chance=float(space.knn_correct(points, _shuffled(labels)).mean()),
            plain_k5=float(space.knn_correct(points, labels, k=5, temperature=None).mean()),
        )

    return probe


def _linear(labels_of: Callable[[Latents], np.ndarray]):
    def probe(found: Latents) -> dict:
        points, labels = found.images, labels_of(found)
        if space.smallest_class(labels) <= space.FOLDS:
            few = f"a class has only {space.smallest_class(labels)} images, too few for {space.FOLDS} folds; raise n"
            return {"value": None, "note": few}
        right = space.linear_correct(points, labels, seed=SEED)
        chance = space.linear_correct(points, _shuffled(labels), tune=False, seed=SEED)
        return _fields(wilson(int(right.sum()), len(right)), chance=float(chance.mean()))

    return probe


def _smoothness(found: Latents) -> dict:
    values = space.spatial_smoothness(found.tokens, np.random.default_rng(SEED))
    return _fields(cluster_interval(values, range(len(values))))


def _shape(found: Latents) -> np.ndarray:
    return found.shape


def _color(found: Latents) -> np.ndarray:
    return found.color


_IMAGE, _TOKEN = {"view": "mean over tokens"}, {"view": "every token"}
_KNN = {"k": 20, "similarity": "cosine", "weights": "exp(similarity / 0.07)", "split": "leave one out"}
_LINEAR = {"folds": space.FOLDS, "inner_folds": space.INNER_FOLDS, "C": list(space.GRID)}

# metric -> (probe, what is part of its protocol)
PROBES: dict[str, tuple[Callable[[Latents], dict], dict]] = {
    "tsne": (_tsne, _IMAGE | {"perplexity": 30, "init": "pca", "max_iter": 1000}),
    "effective-rank": (_spectral(space.effective_rank, tokens=False), _IMAGE),
    "participation-ratio": (_spectral(space.participation_ratio, tokens=False), _IMAGE),
    "pc1-share": (_spectral(space.first_component_share, tokens=False), _IMAGE),
    "collapse": (_spectral(space.collapsed_share, tokens=False, standardized=False), _IMAGE),
    "silhouette": (_silhouette(_shape), _IMAGE | {"labels": "shape", "distance": "cosine"}),
    "silhouette-color": (_silhouette(_color), _IMAGE | {"labels": "color", "distance": "cosine"}),
    "knn-accuracy": (_knn(_shape), _IMAGE | _KNN | {"labels": "shape"}),
    "knn-accuracy-color": (_knn(_color), _IMAGE | _KNN | {"labels": "color"}),
    "linear-probe-shape": (_linear(_shape), _IMAGE | _LINEAR | {"labels": "shape"}),
    "linear-probe-color": (_linear(_color), _IMAGE | _LINEAR | {"labels": "color"}),
    "token-effective-rank": (_spectral(space.effective_rank, tokens=True), _TOKEN),
    "token-participation-ratio": (_spectral(space.participation_ratio, tokens=True), _TOKEN),
    "token-collapse": (_spectral(space.collapsed_share, tokens=True, standardized=False), _TOKEN),
    "spatial-smoothness": (_smoothness, _TOKEN | {"neighbors": 4, "random_pairs": 20_000}),
}
