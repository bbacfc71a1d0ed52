"""Intervals of one estimate (docs/evaluators.md 7.1, 7.2, 7.4).

Items come in clusters that vary together (the images of one prompt, the crops of one image), so clusters are what
is resampled.  Groups (the six tasks) weigh the same whatever their size: an estimate is the unweighted mean over
groups of the mean over a group's items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

Draw = Callable[[np.random.Generator, int, int], np.ndarray]
AT_ONCE = 4_000_000  # numbers in one table of resamplings [draws, clusters]: bounds the memory
MANY = 2000  # clusters: above, normal theory replaces resampling (docs/evaluators.md 7.4), for the two then agree


@dataclass(frozen=True)
class Interval:
    """An estimate and its bounds; ``low`` and ``high`` are None where the data cannot tell (a single cluster)."""

    value: float
    low: float | None
    high: float | None
    level: float
    method: str


@dataclass(frozen=True)
class Sums:
    """Of one group, per cluster: sum of values, sum of their squares, number of items; float64 [clusters] each."""

    total: np.ndarray
    square: np.ndarray
    count: np.ndarray


def grouped(values, clusters: Sequence, groups: Sequence | None) -> list[Sums]:
    """Per-cluster sums of each group, sorted by name: the order of the items decides nothing."""
    values = np.asarray(values, np.float64)
    groups = ["all"] * len(values) if groups is None else list(groups)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"values have shape {values.shape}; give a list of at least one number")
    if not len(values) == len(clusters) == len(groups):
        raise ValueError(
            f"{len(values)} values, {len(clusters)} clusters and {len(groups)} groups; give one of each per item"
        )
    if not np.isfinite(values).all():
        where = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"value {values[where]} at item {where} is not finite; leave it out or cap it")
    places: dict = {}
    for group, cluster in dict.fromkeys(zip(groups, clusters, strict=True)):
        places.setdefault(group, []).append(cluster)
    ordered = [(g, sorted(of, key=str)) for g, of in sorted(places.items(), key=lambda m: str(m[0]))]
    number = {key: i for i, key in enumerate((g, c) for g, of in ordered for c in of)}
    where = [number[key] for key in zip(groups, clusters, strict=True)]
    ends = np.cumsum([len(of) for _, of in ordered])[:-1]
    parts = (np.split(np.bincount(where, weights), ends) for weights in (values, np.square(values), None))
    return [Sums(total, square, count.astype(np.float64)) for total, square, count in zip(*parts, strict=True)]


def estimate(sums: list[Sums]) -> float:
    return float(np.mean([s.total.sum() / s.count.sum() for s in sums]))


def quantile(p: float, freedom: float = np.inf) -> float:
    """Quantile of Student's t, of the normal distribution for infinite ``freedom``."""
    return float(special.ndtri(p) if np.isinf(freedom) else special.stdtrit(freedom, p))


def error(sums: list[Sums]) -> tuple[float, int]:
    """Standard error of the estimate over new clusters, and its degrees of freedom (clusters - groups).

    SE^2 = (1/K^2) sum_g G/(G-1) sum_i (T_i - R_g C_i)^2 / (sum_i C_i)^2, with T_i the total and C_i the size of cluster
    i of group g, R_g that group's mean, G its clusters (the linearised variance of a ratio of cluster totals)."""
    variance = 0.0
    for s in sums:
        size = len(s.total)
        residual = s.total - s.total.sum() / s.count.sum() * s.count
        variance += size / max(size - 1, 1) * np.square(residual).sum() / s.count.sum() ** 2
    return float(np.sqrt(variance)) / len(sums), sum(len(s.total) for s in sums) - len(sums)


def _tail(clusters: int, groups: int, level: float) -> float:
    """Probability to cut from each tail of the bootstrap distribution.

    A bootstrap over G clusters is too narrow by sqrt((G-1)/G) and ignores that the spread is itself estimated; the
    expanded percentile interval (Hesterberg 2015, section 3.3) cuts at Phi(-sqrt(G/(G-1)) t) instead of alpha/2.
    For many clusters both agree."""
    freedom = clusters - groups
    return float(special.ndtr(-np.sqrt(clusters / freedom) * quantile((1 + level) / 2, freedom)))


def multiplicities(rng: np.random.Generator, clusters: int, draws: int) -> np.ndarray:
    """How often each cluster comes in each resampling, float64 [draws, clusters]."""
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws).astype(np.float64)


@lru_cache(maxsize=4)
def _tables(draw: Draw, sizes: tuple[int, ...], draws: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [draw(rng, size, draws) for size in sizes]


def means_under(
    draw: Draw, mean: Callable[[np.ndarray, Sums], np.ndarray], sums: list[Sums], draws: int, seed: int
) -> np.ndarray:
    """The ``mean`` of every group under random weights of its clusters, averaged over groups; float64 [draws].

    ``draw(rng, clusters, draws)`` -> weights [draws, clusters]; ``mean(weights, sums)`` -> [draws].  Small tables are
    kept for the next metric of the same suite, large ones made piece by piece; both give the same numbers."""
    sizes = tuple(len(s.total) for s in sums)
    if sum(sizes) * draws <= AT_ONCE:
        return sum(mean(w, s) for w, s in zip(_tables(draw, sizes, draws, seed), sums, strict=True)) / len(sums)
    rng = np.random.default_rng(seed)
    means = np.zeros(draws)
    for s, size in zip(sums, sizes, strict=True):
        at_once = max(1, AT_ONCE // size)
        for start in range(0, draws, at_once):
            part = slice(start, min(start + at_once, draws))
            means[part] += mean(draw(rng, size, part.stop - part.start), s) / len(sums)
    return means


def _resampled_means(sums: list[Sums], draws: int, seed: int) -> np.ndarray:
    """The estimate under ``draws`` resamplings of the clusters, float64 [draws]."""
    return means_under(multiplicities, lambda w, s: (w @ s.total) / (w @ s.count), sums, draws, seed)


def cluster_interval(
    values: Sequence[float],
    clusters: Sequence,
    groups: Sequence | None = None,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Would it hold for other prompts of this kind?  Cluster bootstrap (docs/evaluators.md 7.1 b, 7.2).

    values, clusters, groups: one per item.  Clusters are resampled with all their items within each group; a cluster
    name counts per group.  Bounds are expanded percentiles: with few clusters they widen to the range of the cluster
    means (simulated coverage of a 95 % interval: 0.85 with 4 clusters, 0.94 with 6, 0.95 from 10 on).  Above MANY
    clusters: the estimate +- t SE, see ``error``.
    No bounds where no group has two clusters that differ: resampling would call the estimate exact.
    Raises ValueError for empty or non-finite values and for lengths that differ."""
    sums = grouped(values, clusters, groups)
    found = interval_of(sums, groups is not None, draws, level, seed)
    if found.low is None or any(_differ(s.total / s.count) for s in sums):
        return found
    total, many = sum(len(s.total) for s in sums), f" in {len(sums)} groups" if groups is not None else ""
    return Interval(found.value, None, None, level, f"none: {total} clusters{many} show no spread")


def _differ(means: np.ndarray) -> bool:
    """Whether numbers differ by more than their rounding."""
    return bool(np.ptp(means) > 1e-12 * np.abs(means).max())


def interval_of(sums: list[Sums], named_groups: bool, draws: int, level: float, seed: int) -> Interval:
    """``cluster_interval`` from sums."""
    value, total = estimate(sums), sum(len(s.total) for s in sums)
    many = f" in {len(sums)} groups" if named_groups else ""
    if total - len(sums) < 1:
        return Interval(value, None, None, level, f"none: {total} clusters{many} cannot show a spread")
    if total > MANY:
        spread, freedom = error(sums)
        half = quantile((1 + level) / 2, freedom) * spread
        return Interval(value, value - half, value + half, level, f"Student's t over {total} clusters{many}")
    means = _resampled_means(sums, draws, seed)
    tail = _tail(total, len(sums), level)
    low, high = np.quantile(means, [tail, 1 - tail])
    method = f"cluster bootstrap over {total} clusters{many}, {draws} draws, expanded percentiles"
    return Interval(value, float(low), float(high), level, method)


def fixed_interval(
    values: Sequence[float], clusters: Sequence, groups: Sequence | None = None, level: float = 0.95
) -> Interval:
    """Would another draw of images from the same prompts change the result?  (docs/evaluators.md 7.1 a)

    The clusters stay; the items within each are what varies: SE^2 = (1/K^2) sum_g sum_i C_i s_i^2 / (sum_i C_i)^2 with
    s_i^2 the sample variance within cluster i.  No bounds where a cluster has a single item."""
    sums = grouped(values, clusters, groups)
    value = estimate(sums)
    if min(s.count.min() for s in sums) < 2:
        return Interval(value, None, None, level, "none: a cluster with one item does not show how items vary")
    freedom = int(sum((s.count - 1).sum() for s in sums))
    variance = sum((s.count * _within(s)).sum() / s.count.sum() ** 2 for s in sums) / len(sums) ** 2
    half = quantile((1 + level) / 2, freedom) * float(np.sqrt(variance))
    return Interval(value, value - half, value + half, level, f"clusters fixed, {freedom} degrees of freedom within")


def _within(s: Sums) -> np.ndarray:
    """Sample variance of the items of each cluster [clusters]; clusters of one item count 0."""
    return np.maximum(s.square - np.square(s.total) / s.count, 0) / np.maximum(s.count - 1, 1)


def intracluster_correlation(values: Sequence[float], clusters: Sequence, groups: Sequence | None = None) -> float:
    """rho, the correlation of two items of one cluster (docs/evaluators.md 7.2): the one-way analysis of variance
    estimate (MSB - MSW) / (MSB + (m - 1) MSW) within groups, m the mean cluster size less its variation.

    NaN where every cluster has one item or nothing varies."""
    sums = grouped(values, clusters, groups)
    items, between = sum(s.count.sum() for s in sums), sum(len(s.count) - 1 for s in sums)
    within = items - sum(len(s.count) for s in sums)
    if not between or not within:
        return float("nan")
    spread = sum((s.count * np.square(s.total / s.count - s.total.sum() / s.count.sum())).sum() for s in sums)
    msb, msw = spread / between, sum(((s.count - 1) * _within(s)).sum() for s in sums) / within
    m = sum(s.count.sum() - np.square(s.count).sum() / s.count.sum() for s in sums) / between
    scale = msb + (m - 1) * msw
    return float((msb - msw) / scale) if scale > 0 else float("nan")


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share of independent yes/no items."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} of {n} is no share")
    z, p = quantile((1 + level) / 2), successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(
        p, float(max(0.0, centre - half)), float(min(1.0, centre + half)), level, f"Wilson score, {n} items"
    )


def jackknife_error(replicates: Sequence[float]) -> tuple[float, int]:
    """Standard error from the estimates without block 1, 2, ... B, and its B - 1 degrees of freedom:
    SE^2 = (B-1)/B * sum (theta_i - mean theta)^2 (docs/evaluators.md 7.4)."""
    left_out = np.asarray(replicates, np.float64)
    blocks = len(left_out)
    if blocks < 2:
        raise ValueError(f"{blocks} blocks; a jackknife needs at least 2 (20 to 50 are usual)")
    return float(np.sqrt((blocks - 1) / blocks * np.square(left_out - left_out.mean()).sum())), blocks - 1


def jackknife_interval(value: float, replicates: Sequence[float], level: float = 0.95) -> Interval:
    """Delete-one-block jackknife (docs/evaluators.md 7.4).

    ``value``: the estimate on everything; ``replicates``: the estimate without block 1, 2, ... B (B >= 2).
    Bounds from ``jackknife_error`` and Student's t with B-1 degrees of freedom."""
    spread, freedom = jackknife_error(replicates)
    half = quantile((1 + level) / 2, freedom) * spread
    return Interval(
        float(value), float(value - half), float(value + half), level, f"jackknife, {freedom + 1} blocks deleted"
    )


def design_effect(images_per_prompt: float, correlation: float) -> float:
    """1 + (m-1) rho: by how much m images of a prompt with intra-prompt correlation rho inflate a variance."""
    return 1 + (images_per_prompt - 1) * correlation


def overall_variance(
    shares: Sequence[float], prompts: Sequence[int], images_per_prompt: int, correlation: float
) -> float:
    """Closed form of the variance of an unweighted mean over T tasks (docs/evaluators.md 7.2):
    (1/T^2) sum_t p_t (1-p_t) (1 + (m-1) rho) / (m n_t)."""
    p, n = np.asarray(shares, np.float64), np.asarray(prompts, np.float64)
    if p.shape != n.shape:
        raise ValueError(f"{len(p)} shares and {len(n)} prompt counts; give one of each per task")
    inflation = design_effect(images_per_prompt, correlation)
    return float((p * (1 - p) * inflation / (images_per_prompt * n)).sum() / len(p) ** 2)
