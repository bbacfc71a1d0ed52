"""Probes of what the latents tell: labels, clusters against labels, clusters over the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from evals.metrics import clusters as clustering
from evals.metrics import labelled
from evals.metrics.latents import square_side
from evals.probes.findings import Finding, average, jackknife
from evals.probes.geometry import Probe
from evals.probes.views import SEED, Latents, Points
from vgt.core import files

BATCH, SHOWN = 32, 8  # images of one class that are clustered together; those of them whose maps are stored


def _shuffled(labels: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Labels [M] dealt out anew to the images, so that the points of one image keep one label."""
    first = np.unique(image, return_index=True)[1]
    dealt = np.random.default_rng(SEED).permutation(labels[first])
    return dealt[np.searchsorted(image[first], image)]


def silhouette(label: str) -> Probe:
    def probe(_: Latents, seen: Points) -> Finding:
        labels = seen.labels[label]
        chance = float(labelled.silhouettes(seen.points, _shuffled(labels, seen.image)).mean())
        interval = jackknife(
            lambda keep: float(labelled.silhouettes(seen.points[keep], labels[keep]).mean()), seen.cluster
        )
        return Finding(interval, extra={"chance": chance})

    return probe


def knn(label: str) -> Probe:
    def probe(found: Latents, seen: Points) -> Finding:
        labels = seen.labels[label]

        def right(truth: np.ndarray, **how) -> np.ndarray:
            return labelled.knn_correct(seen.points, truth, groups=seen.groups, **how)

        extra = {
            "chance": float(right(_shuffled(labels, seen.image)).mean()),
            "plain_k5": float(right(labels, k=5, temperature=None).mean()),
        }
        ids = [found.images.ids[i] for i in found.kept]
        return average(right(labels), seen, ids, unit="share", extra=extra)

    return probe


def linear(label: str) -> Probe:
    def probe(found: Latents, seen: Points) -> Finding:
        labels, groups = seen.labels[label], seen.groups
        right = labelled.linear_correct(seen.points, labels, seed=SEED, groups=groups)
        mixed = _shuffled(labels, seen.image)
        chance = labelled.linear_correct(seen.points, mixed, tune=False, seed=SEED, groups=groups)
        ids = [found.images.ids[i] for i in found.kept]
        return average(right, seen, ids, unit="share", extra={"chance": float(chance.mean())})

    return probe


def agreement(score: str, label: str) -> Probe:
    """NMI, ARI, homogeneity or completeness of k-means clusters, k = number of classes."""
    measure = clustering.AGREEMENT[score]

    def probe(_: Latents, seen: Points) -> Finding:
        labels = seen.labels[label]
        found = seen.clustered(len(np.unique(labels)))
        interval = jackknife(lambda keep: float(measure(labels[keep], found[keep])), seen.cluster)
        chance = float(measure(_shuffled(labels, seen.image), found))
        return Finding(interval, extra={"chance": chance, "clusters": len(np.unique(labels))})

    return probe


# --------------------------------------------------------------------------------------------- cluster maps


def _batch(found: Latents, wanted: str | None) -> np.ndarray:
    """Rows of the images whose tokens are clustered together: of one class, or the first ones without labels."""
    if not found.images.labels:
        return np.arange(len(found.tokens))[:BATCH]
    main = next(iter(found.images.labels))
    labels = found.labels(main)
    if wanted not in labels:
        raise ValueError(f"no image has the {main} {wanted!r}; there are {', '.join(sorted(set(labels))[:8])}")
    return np.flatnonzero(labels == wanted)[:BATCH]


def _maps(found: Latents, wanted: str | None, k: int) -> tuple[np.ndarray, clustering.ClusterMaps]:
    square_side(found.tokens.shape[1])  # before k-means
    rows = _batch(found, wanted)
    return rows, clustering.cluster_maps(found.tokens[rows], k, SEED)


def cluster_maps(wanted: str | None, k: int) -> Probe:
    """Maps of the first SHOWN images of class ``wanted`` in ``extra``; the value is the variance explained."""

    def probe(found: Latents, _: Points) -> Finding:
        rows, maps = _maps(found, wanted, k)
        explained = jackknife(
            lambda keep: float(1 - maps.within[keep].sum() / maps.total[keep].sum()), found.clusters[rows], least=0.0
        )
        side, places = square_side(maps.labels.shape[1]), found.kept[rows][:SHOWN]
        extra = {
            "class": wanted,
            "k": k,
            "grid": [side, side],
            "ids": [found.images.ids[i] for i in places],
            "maps": maps.labels[:SHOWN].tolist(),
        }
        if found.images.redraw is not None:
            extra["scenes"] = found.images.redraw | {"indices": places.tolist()}
        asked = _asked(found, wanted)
        return Finding(explained, extra=extra, unit="share", n=len(rows), asked=asked)

    return probe


def _asked(found: Latents, wanted: str | None) -> int:
    """How many images the full protocol clusters: those of the class in a complete set, at most BATCH."""
    labels = found.images.labels
    if not labels or len(found.images) < found.images.expected:
        return BATCH
    return min(BATCH, list(next(iter(labels.values()))).count(wanted))


def object_clusters(wanted: str | None, k: int) -> Probe:
    """How much of "does this token show the object" the same maps tell."""

    def probe(found: Latents, _: Points) -> Finding:
        rows, maps = _maps(found, wanted, k)
        side = square_side(maps.labels.shape[1])
        covered = np.stack([found.images.covered(int(i), side).reshape(-1) for i in found.kept[rows]])
        interval = jackknife(
            lambda keep: clustering.object_homogeneity(maps.labels[keep], covered[keep]), found.clusters[rows], 0.0
        )
        chance = clustering.object_homogeneity(maps.labels, np.roll(covered, 1, 0))
        extra = {"chance": chance, "grid": [side, side]}
        return Finding(interval, extra=extra, unit="share", n=len(rows), asked=_asked(found, wanted))

    return probe


def strip(found: Latents, ids: list[str], path: Path) -> Path:
    """The images behind stored maps side by side, for reports that cannot draw them again."""
    images = [found.images.load(found.images.ids.index(name)) for name in ids]
    with files.atomic(path) as part:
        Image.fromarray(np.concatenate(images, 1)).save(part)
    return path
