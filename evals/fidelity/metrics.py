"""The fidelity metrics in one table: what each needs, which way is better, and how it follows from the evidence of two
sets of images.  Further facts of a metric stand in its protocol (evals.fidelity.protocol)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from evals import features
from evals.metrics import entropy, frechet, kernel, manifold
from evals.metrics.frechet import Jackknife
from vgt.core.samples import REPLICATES, Samples
from vgt.core.statistics import Interval, cluster_interval, wilson

if TYPE_CHECKING:
    from evals.fidelity.images import Reference
    from evals.fidelity.run import Evidence

MOMENTS, FEATURES = "moments", "features"
Kind = tuple[str, str]  # ("moments" | "features", view)
POOL, SPATIAL, LOGITS = "pool", "spatial", "logits"
SEED = 0


@dataclass(frozen=True)
class Measured:
    """``interval`` with the value, further facts, a remark, and per-image values of metrics that are means."""

    interval: Interval | None
    extra: dict = field(default_factory=dict)
    note: str | None = None
    samples: Samples | None = None


@dataclass(frozen=True)
class Pair:
    """Two sets of images with one extractor.  ``reference``: statistics that stand in for ``real``, or go before it
    where an ADM file holds both; ``paired``: image i of the subject is a reconstruction of the real image i."""

    subject: Evidence
    real: Evidence | None
    reference: Reference | None
    paired: bool

    @cached_property
    def pools(self) -> tuple[np.ndarray, np.ndarray]:
        """Pooled features of both sides, float32 [N, d], [M, d]."""
        assert self.real is not None, "checked when the metrics were chosen"
        return self.subject.features(POOL), self.real.features(POOL)

    @property
    def blocks(self) -> tuple[np.ndarray, np.ndarray]:
        assert self.real is not None
        return self.subject.block_of, self.real.block_of

    @cached_property
    def precision_recall(self) -> tuple[np.ndarray, np.ndarray]:
        return manifold.precision_recall(*self.pools)

    @cached_property
    def density_coverage(self) -> tuple[np.ndarray, np.ndarray]:
        return manifold.density_coverage(*self.pools)

    def few(self, view: str) -> bool:
        """Whether a covariance would be singular: not more images than dimensions."""
        sides = (self.subject,) if self.reference or self.real is None else (self.subject, self.real)
        return min(len(side.images) for side in sides) <= self.subject.extractor.dims[view]


def _of_jackknife(found: Jackknife, floor: float = -np.inf, note: str | None = None, **extra) -> Measured:
    replicates = {REPLICATES: list(found.replicates)} if found.replicates else {}
    return Measured(found.interval(floor), {**extra, **replicates}, note)


# ------------------------------------------------------------------------------------------ Frechet distances


def _frechet(pair: Pair, view: str) -> Measured:
    d = pair.subject.extractor.dims[view]
    few = pair.few(view)
    read = pair.subject.count
    note = f"{read} images for {d} dimensions: strongly biased, no FID of anything" if few or read <= d else None
    if pair.reference is not None:
        found = frechet.blocks_jackknife(pair.subject.moments(view), pair.reference.gaussians[view])
        if pair.paired:  # the reference cannot lose the images that the subject loses
            interval = Interval(found.value, None, None, 0.95, "none: statistics hold no blocks of the same images")
            return Measured(interval, note=note)
        note = "; ".join(filter(None, (note, pair.reference.label, "interval over generated images alone")))
    elif few:
        assert pair.real is not None
        found = frechet.features_jackknife(pair.subject.features(view), pair.real.features(view), *pair.blocks)
    else:
        assert pair.real is not None
        found = frechet.blocks_jackknife(pair.subject.moments(view), pair.real.moments(view))
    finite = frechet.FINITE if found.replicates else None
    return _of_jackknife(found, 0.0, "; ".join(filter(None, (note, finite))) or None)


def _infinite(pair: Pair) -> Measured:
    if pair.reference is not None:
        reference, label = pair.reference.gaussians[POOL], pair.reference.label
    else:
        assert pair.real is not None
        reference, label = frechet.total(pair.real.moments(POOL)).gaussian, None
    found = pair.subject.features(POOL)
    value, points = frechet.infinite(found, reference, np.random.default_rng(SEED))
    interval = Interval(value, None, None, 0.95, "none: the points of the line share images")
    return Measured(interval, {"points": points}, label)


# ---------------------------------------------------------------------------------------------- other metrics


def _inception_score(pair: Pair, variant: str) -> Measured:
    found, spread = entropy.inception_score(pair.subject.features(LOGITS), variant, pair.subject.block_of)
    return _of_jackknife(found, std_over_splits=spread)


def _kid_subsets(pair: Pair) -> Measured:
    value, spread = kernel.kid_subsets(*pair.pools)
    interval = Interval(value, None, None, 0.95, "none: subsets overlap, so their spread is no interval")
    return Measured(interval, {"std_over_subsets": spread})


def _mean(values: np.ndarray, side: Evidence, given: str) -> Measured:
    """A mean over one side's images with the other side taken as given."""
    numbers = np.asarray(values, np.float64)
    if set(np.unique(numbers)) in ({0.0}, {1.0}):
        n = len(set(side.clusters))
        interval = wilson(n * int(numbers[0]), n)
    else:
        interval = cluster_interval(numbers, side.clusters)
    found = Interval(numbers.mean(), interval.low, interval.high, interval.level, f"{interval.method}, {given} fixed")
    return Measured(found, samples=Samples(side.ids, numbers.tolist(), side.clusters))


def _over_subject(pair: Pair, values: np.ndarray) -> Measured:
    return _mean(values, pair.subject, "real images")


def _over_real(pair: Pair, values: np.ndarray) -> Measured:
    assert pair.real is not None
    return _mean(values, pair.real, "generated images")


@dataclass(frozen=True)
class Metric:
    """``protocol``: id; ``needs``: the kind of evidence; ``direction``: which way is better; ``reference``: whether
    statistics can stand in for the real images, None where no real images are looked at; ``least``: smallest number of
    images on either side."""

    protocol: str
    needs: Kind
    compute: Callable[[Pair], Measured]
    direction: str
    reference: bool | None = False
    least: int = 2
    unit: str = ""

    @property
    def inception_only(self) -> bool:
        return self.needs[1] != POOL

    @property
    def covariance(self) -> bool:
        """Whether it takes the covariance of a view."""
        return self.reference is True


HIGHER, LOWER = "higher", "lower"
_ROWS, _LOGITS = (FEATURES, POOL), (FEATURES, LOGITS)
METRICS: dict[str, Metric] = {
    "fd": Metric("frechet", (MOMENTS, POOL), lambda p: _frechet(p, POOL), LOWER, True),
    "fd-inf": Metric("frechet-infinity", _ROWS, _infinite, LOWER, True),
    "sfid": Metric("sfid", (MOMENTS, SPATIAL), lambda p: _frechet(p, SPATIAL), LOWER, True),
    "is-10": Metric("is-10", _LOGITS, lambda p: _inception_score(p, "is-10"), HIGHER, None, entropy.SPLITS),
    "is-5000": Metric("is-5000", _LOGITS, lambda p: _inception_score(p, "is-5000"), HIGHER, None),
    "is-1": Metric("is-1", _LOGITS, lambda p: _inception_score(p, "is-1"), HIGHER, None),
    "kid": Metric("kid", _ROWS, lambda p: _of_jackknife(kernel.kid(*p.pools, *p.blocks)), LOWER),
    "kid-subsets": Metric("kid-subsets", _ROWS, _kid_subsets, LOWER, least=kernel.SUBSET_SIZE),
    "precision": Metric(
        "precision-recall", _ROWS, lambda p: _over_subject(p, p.precision_recall[0]), HIGHER, least=4, unit="share"
    ),
    "recall": Metric(
        "precision-recall", _ROWS, lambda p: _over_real(p, p.precision_recall[1]), HIGHER, least=4, unit="share"
    ),
    "density": Metric("density-coverage", _ROWS, lambda p: _over_subject(p, p.density_coverage[0]), HIGHER, least=6),
    "coverage": Metric(
        "density-coverage", _ROWS, lambda p: _over_real(p, p.density_coverage[1]), HIGHER, least=6, unit="share"
    ),
    "cmmd": Metric("cmmd", _ROWS, lambda p: _of_jackknife(kernel.cmmd(*p.pools, *p.blocks)), LOWER),
}
ALIASES = {"prdc": ("precision", "recall", "density", "coverage"), "is": ("is-10",), "fid": ("fd",)}
# Several at once, of which each extractor gives those that are defined on it; what none gives stays without a record.
TABLES = {"adm": ("fd", "sfid", "is-5000", "precision", "recall")}
DEFAULT = ("fd", "kid", "precision", "recall", "density", "coverage")


def chosen(names: Sequence[str]) -> list[str]:
    """Metrics by name, alias or table, each once.  Raises ValueError for an unknown one."""
    found: dict[str, None] = {}
    for name in names:
        if name not in (*METRICS, *ALIASES, *TABLES):
            known = ", ".join([*METRICS, *ALIASES, *TABLES])
            raise ValueError(f"fidelity metric {name!r} is unknown; choose from {known}")
        found |= dict.fromkeys({**ALIASES, **TABLES}.get(name, (name,)))
    return list(found)


def record_name(metric: str, extractor: str) -> str:
    """``fd-efflite2``, ``fid-tf-compat``: a Frechet distance is called FID on the Inception network alone."""
    if metric in ("fd", "fd-inf") and extractor in features.INCEPTION:
        metric = metric.replace("fd", "fid")
    return f"{metric}-{extractor}"


def direction(name: str) -> str:
    """Which way is better of a record's metric: "higher" or "lower".  Raises KeyError for a metric of others."""
    for extractor in features.NAMES:
        if name.endswith(f"-{extractor}"):
            for metric, one in METRICS.items():
                if name == record_name(metric, extractor):
                    return one.direction
    raise KeyError(name)


def needs(metric: str, pair: Pair) -> tuple[set[Kind], set[Kind]]:
    """Kinds of evidence that a metric takes of (subject, real)."""
    kind, view = METRICS[metric].needs
    if metric == "fd-inf":
        return {(FEATURES, POOL)}, {(MOMENTS, POOL)}
    if kind == MOMENTS and pair.reference is None and pair.few(view):
        kind = FEATURES
    return {(kind, view)}, {(kind, view)}
