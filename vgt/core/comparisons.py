"""A versus B (docs/evaluators.md 7.3, 7.4): differences with intervals, p-values and what could have been seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from vgt.core.intervals import (
    MANY,
    Interval,
    Sums,
    error,
    estimate,
    grouped,
    interval_of,
    jackknife_error,
    jackknife_interval,
    means_under,
    quantile,
)

# "two-sided": A and B differ; "less": A is less than B.
Alternative = Literal["two-sided", "less"]


@dataclass(frozen=True)
class Comparison:
    """A minus B: the difference of the estimates with its interval, the p-value, the number of clusters (or jackknife
    blocks) compared, the standard error of the difference with its degrees of freedom, and the test behind the p-value.

    ``error`` is None where the data cannot tell."""

    difference: Interval
    p_value: float
    clusters: int
    error: float | None = None
    freedom: float = np.inf
    test: str = ""


# --------------------------------------------------------------------------------------------------------- pairs


def signs(rng: np.random.Generator, clusters: int, flips: int) -> np.ndarray:
    """A random sign for each cluster, float64 [flips, clusters]."""
    return rng.integers(0, 2, size=(flips, clusters), dtype=np.int8) * 2.0 - 1


def _flipped(sums: list[Sums], flips: int, seed: int) -> np.ndarray:
    """The estimate with the signs of whole clusters flipped at random, float64 [flips]."""
    return means_under(signs, lambda w, s: (w @ s.total) / s.count.sum(), sums, flips, seed)


def _sign_flip_p(sums: list[Sums], flips: int, seed: int, alternative: Alternative) -> tuple[float, str]:
    """p-value and name of the test that flips the signs of whole clusters' differences within groups."""
    observed, clusters = estimate(sums), sum(len(s.total) for s in sums)
    if clusters > MANY:  # the flipped estimate is normal with this spread
        spread = np.sqrt(sum(np.square(s.total).sum() / s.count.sum() ** 2 for s in sums)) / len(sums)
        z = observed / spread if spread > 0 else 0.0
        p = special.ndtr(z) if alternative == "less" else min(1.0, 2 * special.ndtr(-abs(z)))
        return float(p), f"sign flips of {clusters} clusters, normal limit"
    flipped = _flipped(sums, flips, seed)
    # Flips that equal the observed value but for rounding count as equal: with few clusters they are many.
    slack = abs(observed) * 1e-12 + 1e-15
    reached = flipped <= observed + slack if alternative == "less" else np.abs(flipped) >= abs(observed) - slack
    return (1 + int(reached.sum())) / (1 + flips), f"{flips} sign flips of {clusters} clusters"


def compare_pairs(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence,
    groups: Sequence | None = None,
    flips: int = 10_000,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    alternative: Alternative = "two-sided",
    span: float | None = None,
) -> Comparison:
    """A versus B on the same items (docs/evaluators.md 7.3).

    p-value: sign flips of whole clusters' differences within groups, p = (1 + #>=) / (1 + flips).
    Interval: cluster bootstrap of the differences, which resamples the same clusters for both.
    ``span``: the largest difference that two items can have (1 for shares).  Where no cluster differs, resampling shows
    no spread, and the bounds are those of an event never seen in G clusters: +- span (1 - ((1 - level)/2)^(1/G))."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} items of A and {len(b)} of B; pair them by id first")
    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    sums = grouped(differences, clusters, groups)
    count = sum(len(s.total) for s in sums)
    p_value, test = _sign_flip_p(sums, flips, seed, alternative)
    interval = interval_of(sums, groups is not None, draws, level, seed)
    spread, freedom = error(sums)
    if not differences.any() and span:
        unseen = span * (1 - ((1 - level) / 2) ** (1 / count))
        interval = Interval(0.0, -unseen, unseen, level, f"no difference in {count} clusters")
        spread = unseen / quantile((1 + level) / 2)
    return Comparison(interval, p_value, count, spread if interval.low is not None else None, freedom, test)


def mcnemar(a: Sequence[bool], b: Sequence[bool], alternative: Alternative = "two-sided") -> tuple[int, int, float]:
    """(only A, only B, p) of the exact McNemar test of one binary per prompt (docs/evaluators.md 7.3): where A and B
    differ, each is the right one with probability 1/2."""
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    if a.shape != b.shape:
        raise ValueError(f"{a.size} items of A and {b.size} of B; pair them by id first")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if alternative == "less":
        return only_a, only_b, float(special.bdtr(only_a, only_a + only_b, 0.5)) if only_a + only_b else 1.0
    tail = special.bdtr(min(only_a, only_b), only_a + only_b, 0.5) if only_a + only_b else 1.0
    return only_a, only_b, float(min(1.0, 2 * tail))


# ------------------------------------------------------------------------------------- without common samples


def compare_intervals(a: Interval, b: Interval, level: float = 0.95, alternative: Alternative = "two-sided"):
    """A versus B, independent, each known by its interval only; returns a Comparison.

    Bounds by the method of variance estimates recovery (Zou and Donner 2008), which keeps the asymmetry of the two
    intervals: d - sqrt((a - a_low)^2 + (b_high - b)^2), d + sqrt((a_high - a)^2 + (b - b_low)^2).  The p-value is that
    of the bound which reaches 0."""
    for side in (a, b):
        if side.low is None or side.high is None:
            raise ValueError(f"an estimate of {side.value} has no interval; give one to compare it")
    za, zb = quantile((1 + a.level) / 2), quantile((1 + b.level) / 2)
    d = a.value - b.value
    below = float(np.hypot((a.value - a.low) / za, (b.high - b.value) / zb))
    above = float(np.hypot((a.high - a.value) / za, (b.value - b.low) / zb))
    z, toward = quantile((1 + level) / 2), below if d > 0 else above
    score = 0.0 if d == 0 else d / toward if toward > 0 else np.inf * np.sign(d)
    p = special.ndtr(score) if alternative == "less" else min(1.0, 2 * special.ndtr(-abs(score)))
    interval = Interval(d, d - z * below, d + z * above, level, "independent, from the two intervals")
    return Comparison(interval, float(p), 0, max(below, above), np.inf, "normal score of the two intervals")


def compare_replicates(
    a: float,
    b: float,
    replicates_a: Sequence[float],
    replicates_b: Sequence[float],
    level: float = 0.95,
    alternative: Alternative = "two-sided",
) -> Comparison:
    """A versus B of a statistic that is no mean, such as a Frechet distance: jackknife of the difference on common
    blocks (docs/evaluators.md 7.4).  ``replicates``: the estimates without block 1, 2, ... B of the same images."""
    if len(replicates_a) != len(replicates_b):
        raise ValueError(f"{len(replicates_a)} blocks of A and {len(replicates_b)} of B; they must be the same images")
    left_out = np.asarray(replicates_a, np.float64) - np.asarray(replicates_b, np.float64)
    interval = jackknife_interval(a - b, left_out, level)
    spread, freedom = jackknife_error(left_out)
    score = interval.value / spread if spread > 0 else np.inf * np.sign(interval.value) if interval.value else 0.0
    p = special.stdtr(freedom, score) if alternative == "less" else min(1.0, 2 * special.stdtr(freedom, -abs(score)))
    return Comparison(interval, float(p), freedom + 1, spread, freedom, "jackknife t on common blocks")


# -------------------------------------------------------------------------------------- many, and what can be seen


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the given order: a comparison is significant at alpha where its own is <= alpha, and
    then the chance of even one false alarm among all is at most alpha (docs/evaluators.md 7.3)."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()


def holm_level(p_values: Sequence[float], alpha: float = 0.05) -> float:
    """The level that Holm's procedure stopped at: what the next p-value would have had to reach."""
    left = sum(p > alpha for p in holm(p_values))
    return alpha / max(left, 1)


def minimum_detectable(
    error: float, freedom: float = np.inf, alpha: float = 0.05, power: float = 0.8, sides: int = 2
) -> float:
    """The smallest true difference that a test of level ``alpha`` finds with probability ``power`` (docs/evaluators.md
    7.2, 7.5): (t_{1-alpha/sides} + t_{power}) SE."""
    return (quantile(1 - alpha / sides, freedom) + quantile(power, freedom)) * error
