"""Every probe: what it finds in latents, how its interval comes about, under which metric and protocol.

A probe is a function of the latents of a set of images and of one view of them.  Images that vary together are
resampled together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evals.engine.registry import protocols
from evals.metrics import latents as space
from evals.metrics.frechet import moments
from evals.probes.data import PAIRS, SEED, TOKENS, VIEWS, Latents, Points, ProbeSet
from vgt.core import files
from vgt.core.samples import Samples
from vgt.core.statistics import Interval, cluster_interval, jackknife_interval, wilson

BLOCKS = 20
BATCH, SHOWN = 32, 8  # images of one class that are clustered together; those of them whose maps are stored
CLUSTERS = 6


@dataclass(frozen=True)
class Measured:
    """One number.  ``n`` of ``asked`` images entered it, None for all; ``samples`` where it is a mean over them."""

    interval: Interval | None
    note: str | None = None
    unit: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    n: int | None = None
    asked: int | None = None
    samples: Samples | None = None


def blocks(cluster: np.ndarray) -> list[np.ndarray]:
    """Masks bool [M] of at most BLOCKS blocks of whole clusters; no two share a point, together they have all."""
    number = np.unique(cluster, return_inverse=True)[1]
    count = min(BLOCKS, int(number.max()) + 1)
    return [number % count == b for b in range(count)]


def left_out(value: float, replicates: Sequence[float], least: float | None = None) -> Interval:
    """Jackknife interval from the estimates without each block; ``least`` cuts the lower bound."""
    if len(replicates) < 2:
        return Interval(value, None, None, 0.95, "none: images of one cluster cannot show a spread")
    found = jackknife_interval(value, replicates)
    return found if least is None else replace(found, low=max(least, found.low))


def jackknife(measure: Callable[[np.ndarray], float], cluster: np.ndarray, least: float | None = None) -> Interval:
    """``measure(keep)`` over the points in ``keep``, bool [M], with its delete-one-block interval."""
    parts = blocks(cluster)
    whole = measure(np.ones(len(cluster), bool))
    return left_out(whole, [measure(~part) for part in parts] if len(parts) > 1 else [], least)


def merged(measure: Callable[[Any], float], parts: Sequence[Any], least: float | None = None) -> Interval:
    """The same where the ``parts`` are sums of blocks that can be added and taken away."""
    whole = sum(parts[1:], parts[0])
    return left_out(measure(whole), [measure(whole - p) for p in parts] if len(parts) > 1 else [], least)


def average(values: np.ndarray, seen: Points, ids: Sequence[str], **about) -> Measured:
    """Mean over points [M], with its samples: Wilson's interval for right and wrong of images that vary on their own,
    else a bootstrap over clusters of images.  ``ids``: of all images."""
    values = np.asarray(values, np.float64)
    binary = set(values.tolist()) <= {0.0, 1.0}
    alone = len(set(seen.cluster.tolist())) == len(values)
    if binary and alone:
        interval = wilson(int(values.sum()), len(values))
    else:
        interval = cluster_interval(values, seen.cluster.tolist())
    names = [ids[i] for i in seen.image]
    if seen.tokens:
        names = [f"{name}#{row}" for row, name in enumerate(names)]
    samples = Samples(names, values.tolist(), [str(c) for c in seen.cluster])
    return Measured(interval, samples=samples, **about)


Probe = Callable[[Latents, Points], Measured]


# ---------------------------------------------------------------------------------------------------- without labels


def _ids(found: Latents) -> list[str]:
    return [found.images.ids[i] for i in found.kept]


def every_token(found: Latents) -> Points:
    """All tokens as points, without labels."""
    n, tokens, d = found.tokens.shape
    image = np.repeat(np.arange(n), tokens)
    return Points(found.tokens.reshape(-1, d), image, found.clusters[image], {}, tokens=True)


def tsne(found: Latents, seen: Points) -> Measured:
    """The points of the map in ``extra``; the value is their trustworthiness."""
    rng = np.random.default_rng(SEED)
    rows = np.sort(rng.choice(len(seen.points), min(TOKENS, len(seen.points)), replace=False))
    points = seen.points[rows]
    flat = space.tsne(points, SEED)
    shown = replace(seen, points=points, image=seen.image[rows], cluster=seen.cluster[rows])
    extra: dict = {
        "points": np.round(flat, 3).tolist(),
        "chance": float(space.trustworthiness(points, rng.permutation(flat)).mean()),
    }
    for key, name in zip(("labels", "colors"), seen.labels, strict=False):
        extra[key] = seen.labels[name][rows].tolist()
    note = "value is trustworthiness (5 neighbors); distances between clusters of a t-SNE carry no meaning"
    return average(space.trustworthiness(points, flat), shown, _ids(found), note=note, extra=extra)


def spectral(measure: Callable[[np.ndarray], float], tokens: bool = False, standardized: bool = True) -> Probe:
    """A number of the covariance, with an interval from sums of blocks of images."""

    def of(part) -> float:
        return measure(space.correlation(part.covariance) if standardized else part.covariance)

    def probe(found: Latents, seen: Points) -> Measured:
        seen = every_token(found) if tokens else seen
        # Sums of squares lose digits far from the origin; no number here depends on the mean.
        centred = seen.points.astype(np.float64) - seen.points.mean(0, dtype=np.float64)
        parts = [moments(centred[part]) for part in blocks(seen.cluster)]
        return Measured(merged(of, parts, least=0.0), extra={"dimensions": centred.shape[1]})

    return probe


def distribution(per_dimension: Callable[[space.Powers], np.ndarray], summary=np.mean, unit: str = "") -> Probe:
    """A summary over dimensions of a number of each one's distribution over all tokens; the numbers in ``extra``."""

    def probe(found: Latents, _: Points) -> Measured:
        seen = every_token(found)
        points = seen.points.astype(np.float64)
        deviation = points.std(0)
        scale = np.where(deviation > 0, deviation, 1.0)
        parts = [space.powers(points[part], points.mean(0), scale) for part in blocks(seen.cluster)]
        each = per_dimension(sum(parts[1:], parts[0]))
        if not np.isfinite(each).all():
            where = int(np.argmin(np.isfinite(each)))
            raise ValueError(f"dimension {where} is constant: its divergence from N(0, 1) is infinite")
        interval = merged(lambda part: float(summary(per_dimension(part))), parts, least=0.0)
        extra = {"least": float(each.min()), "median": float(np.median(each)), "largest": float(each.max())}
        extra["channels"] = [float(f"{v:.6g}") for v in each]
        return Measured(interval, extra=extra, unit=unit)

    return probe


def mean_absolute(values: np.ndarray) -> float:
    return float(np.abs(values).mean())


def alignment(view: str) -> Probe:
    """Distance on the sphere between an image and its positive."""

    def probe(found: Latents, seen: Points) -> Measured:
        positives = found.positives[view]
        pairs = len(positives)
        values = space.alignment(seen.points, positives)
        first = replace(seen, points=positives, image=seen.image[:pairs], cluster=seen.cluster[:pairs])
        extra = {"chance": space.strangers(seen.points)}
        asked = min(PAIRS, found.images.expected)
        return replace(average(values, first, _ids(found), extra=extra), n=pairs, asked=asked)

    return probe


def uniformity(_: Latents, seen: Points) -> Measured:
    """How evenly the images cover the sphere."""
    near = space.closeness(seen.points)
    interval = jackknife(lambda keep: space.uniformity(near, keep), seen.cluster)
    random = np.random.default_rng(SEED).normal(size=seen.points.shape)
    return Measured(interval, extra={"chance": space.uniformity(space.closeness(random))})


def smoothness(found: Latents, seen: Points) -> Measured:
    """Likeness of neighbouring tokens, per image."""
    values = space.spatial_smoothness(found.tokens, np.random.default_rng(SEED))
    images = replace(seen, image=np.arange(len(values)), cluster=found.clusters, tokens=False)
    return average(values, images, _ids(found))


# ----------------------------------------------------------------------------------------------- labels and clusters


def _shuffled(labels: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Labels [M] shuffled among the images, so that the points of one image keep one label."""
    first = np.unique(image, return_index=True)[1]
    shuffled = np.random.default_rng(SEED).permutation(labels[first])
    return shuffled[np.searchsorted(image[first], image)]


def silhouette(label: str) -> Probe:
    def probe(_: Latents, seen: Points) -> Measured:
        labels = seen.labels[label]
        chance = float(space.silhouettes(seen.points, _shuffled(labels, seen.image)).mean())
        interval = jackknife(
            lambda keep: float(space.silhouettes(seen.points[keep], labels[keep]).mean()), seen.cluster
        )
        return Measured(interval, extra={"chance": chance})

    return probe


def knn(label: str) -> Probe:
    def probe(found: Latents, seen: Points) -> Measured:
        labels = seen.labels[label]

        def right(truth: np.ndarray, **how) -> np.ndarray:
            return space.knn_correct(seen.points, truth, groups=seen.groups, **how)

        extra = {
            "chance": float(right(_shuffled(labels, seen.image)).mean()),
            "plain_k5": float(right(labels, k=5, temperature=None).mean()),
        }
        ids = [found.images.ids[i] for i in found.kept]
        return average(right(labels), seen, ids, unit="share", extra=extra)

    return probe


def linear(label: str) -> Probe:
    def probe(found: Latents, seen: Points) -> Measured:
        labels, groups = seen.labels[label], seen.groups
        right = space.linear_correct(seen.points, labels, seed=SEED, groups=groups)
        mixed = _shuffled(labels, seen.image)
        chance = space.linear_correct(seen.points, mixed, tune=False, seed=SEED, groups=groups)
        ids = [found.images.ids[i] for i in found.kept]
        return average(right, seen, ids, unit="share", extra={"chance": float(chance.mean())})

    return probe


def agreement(score: str, label: str) -> Probe:
    """NMI, ARI, homogeneity or completeness of k-means clusters, k = number of classes."""
    measure = space.AGREEMENT[score]

    def probe(_: Latents, seen: Points) -> Measured:
        labels = seen.labels[label]
        found = seen.clustered(len(np.unique(labels)))
        interval = jackknife(lambda keep: float(measure(labels[keep], found[keep])), seen.cluster)
        chance = float(measure(_shuffled(labels, seen.image), found))
        return Measured(interval, extra={"chance": chance, "clusters": len(np.unique(labels))})

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


def _maps(found: Latents, wanted: str | None, k: int) -> tuple[np.ndarray, space.ClusterMaps]:
    space.square_side(found.tokens.shape[1])  # before k-means
    rows = _batch(found, wanted)
    return rows, space.cluster_maps(found.tokens[rows], k, SEED)


def cluster_maps(wanted: str | None, k: int) -> Probe:
    """Maps of the first SHOWN images of class ``wanted`` in ``extra``; the value is the variance explained."""

    def probe(found: Latents, _: Points) -> Measured:
        rows, maps = _maps(found, wanted, k)
        explained = jackknife(
            lambda keep: float(1 - maps.within[keep].sum() / maps.total[keep].sum()), found.clusters[rows], least=0.0
        )
        side, places = space.square_side(maps.labels.shape[1]), found.kept[rows][:SHOWN]
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
        return Measured(explained, extra=extra, unit="share", n=len(rows), asked=asked)

    return probe


def _asked(found: Latents, wanted: str | None) -> int:
    """How many images the full protocol clusters: those of the class in a complete set, at most BATCH."""
    labels = found.images.labels
    if not labels or len(found.images) < found.images.expected:
        return BATCH
    return min(BATCH, list(next(iter(labels.values()))).count(wanted))


def object_clusters(wanted: str | None, k: int) -> Probe:
    """How much of "does this token show the object" the same maps tell."""

    def probe(found: Latents, _: Points) -> Measured:
        rows, maps = _maps(found, wanted, k)
        side = space.square_side(maps.labels.shape[1])
        covered = np.stack([found.images.covered(int(i), side).reshape(-1) for i in found.kept[rows]])
        interval = jackknife(
            lambda keep: space.object_homogeneity(maps.labels[keep], covered[keep]), found.clusters[rows], 0.0
        )
        chance = space.object_homogeneity(maps.labels, np.roll(covered, 1, 0))
        extra = {"chance": chance, "grid": [side, side]}
        return Measured(interval, extra=extra, unit="share", n=len(rows), asked=_asked(found, wanted))

    return probe


def side_by_side(found: Latents, ids: list[str], path: Path) -> Path:
    """The images behind stored maps side by side, for reports that cannot render them again."""
    images = [found.images.load(found.images.ids.index(name)) for name in ids]
    with files.atomic(path) as part:
        Image.fromarray(np.concatenate(images, 1)).save(part)
    return path


# ----------------------------------------------------------------------------------------------------- the catalogue


@dataclass(frozen=True)
class Entry:
    """One probe in a run: ``protocol`` id, what it computes, what belongs to its settings beside the protocol's."""

    protocol: str
    probe: Probe
    about: dict[str, Any]


def _named(base: str, label: str, labels: list[str]) -> str:
    """Metric of a probe with labels: the main label goes without saying."""
    return base if label == labels[0] else f"{base}-{label}"


def _of_labels(labels: list[str], seen: dict) -> dict[str, Entry]:
    found = {}
    for label in labels:
        about = seen | {"labels": label}
        found |= {
            _named("silhouette", label, labels): Entry("probe-silhouette", silhouette(label), about),
            _named("knn-accuracy", label, labels): Entry("probe-knn", knn(label), about),
            f"linear-probe-{label}": Entry("probe-linear", linear(label), about),
        }
        for score in space.AGREEMENT:
            found[_named(score, label, labels)] = Entry(f"probe-{score}", agreement(score, label), about)
    return found


_SPECTRAL = {
    "effective-rank": (space.effective_rank, True),
    "participation-ratio": (space.participation_ratio, True),
    "pc1-share": (space.first_component_share, True),
    "correlation": (space.mean_correlation, True),
    "collapse": (space.collapsed_share, False),
}


def _spectral(tokens: bool, seen: dict) -> dict[str, Entry]:
    return {
        f"{'token-' * tokens}{name}": Entry(f"probe-{name}", spectral(measure, tokens, standardized), seen)
        for name, (measure, standardized) in _SPECTRAL.items()
    }


def _of_tokens(images: ProbeSet, wanted: str | None, clusters: int) -> dict[str, Entry]:
    seen = {"view": "every token"}
    absolute = mean_absolute
    variance = partial(distribution, lambda part: part.variance)
    found = _spectral(True, seen) | {
        "channel-variance": Entry("probe-channel-variance", variance(np.median), seen),
        "skew": Entry("probe-skew", distribution(space.skewness, absolute), seen),
        "kurtosis": Entry("probe-kurtosis", distribution(space.excess_kurtosis, absolute), seen),
        "kl-normal": Entry("probe-kl-normal", distribution(space.kl_to_normal, unit="nats"), seen),
        "spatial-smoothness": Entry("probe-smoothness", smoothness, seen),
    }
    seen = seen | {"k": clusters, "class": wanted}
    found["cluster-maps"] = Entry("probe-cluster-maps", cluster_maps(wanted, clusters), seen)
    if images.covered is not None:
        found["object-clusters"] = Entry("probe-object-clusters", object_clusters(wanted, clusters), seen)
    return found


def entries(
    images: ProbeSet,
    through: str = "mean",
    wanted: str | None = None,
    clusters: int = CLUSTERS,
    tokens: bool = True,
) -> dict[str, Entry]:
    """metric -> probe, for one view.  What needs labels is left out where there are none, what sees every token without
    ``tokens``, what needs whole images with the view "token"."""
    seen = {"view": VIEWS[through]}
    found = {"tsne": Entry("probe-tsne", tsne, seen)} | _of_labels(list(images.labels), seen)
    if through != "token":
        pairs = seen | {"positive": images.positives}
        found |= _spectral(False, seen)
        found["alignment"] = Entry("probe-alignment", alignment(through), pairs)
        found["uniformity"] = Entry("probe-uniformity", uniformity, seen)
    if tokens:
        found |= _of_tokens(images, wanted or images.map_class, clusters)
    return found


def settings(images: ProbeSet, entry: Entry) -> dict[str, Any]:
    """All resolved settings of one probe on these images."""
    return dict(protocols()[entry.protocol].settings) | images.params | entry.about
