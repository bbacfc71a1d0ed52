"""What differs between systems that were trained with several seeds and scored on the same prompts (docs/evaluators.md
7.6).

An effect is a sum over sides.  A side is what one training of each seed contributes: its score, signed and weighted; of
trainings that share a parent per seed, their difference.  Two things are random: the trainings (sides are independent
of each other) and the prompts (shared by all sides).  Their variances are estimated apart and put together by
Banerjee's inequality (1960).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from vgt.core.intervals import error, grouped, jackknife_error, quantile

POWER = 0.8
BLOCKS = 20  # of prompts, for statistics that are no mean
LEAST_P = 1e-12
METHOD = "Student's t of seeds and of prompts, joined by Banerjee's inequality"


@dataclass(frozen=True)
class Part:
    """One source's share of the variance of an estimate, and the degrees of freedom that it was estimated with."""

    variance: float
    freedom: float


@dataclass(frozen=True)
class Effect:
    """``value`` with its interval of ``level`` and the two-sided p-value of "it is 0".  ``seeds``, ``items``: where its
    variance comes from.  ``low`` and ``high`` are None where nothing varies: that cannot be told from luck."""

    value: float
    low: float | None
    high: float | None
    level: float
    p_value: float
    seeds: Part
    items: Part

    @property
    def parts(self) -> tuple[Part, Part]:
        return self.seeds, self.items

    def detectable(self, alpha: float = 0.05, power: float = POWER) -> float:
        """The smallest true effect that a test of level ``alpha`` finds with probability ``power``, about."""
        return half_width(self.parts, alpha) + half_width(self.parts, 2 * (1 - power))


def half_width(parts: Sequence[Part], alpha: float) -> float:
    """Half of the interval of level 1 - alpha: sqrt(sum_i t_i^2 V_i), t_i the quantile of part i's own freedom.

    For Z normal with variance sum_i v_i, independent of estimates V_i = v_i U_i with U_i ~ chi^2_f / f:
    P(Z^2 <= sum t_i^2 V_i) = E F(sum w_i t_i^2 U_i) >= sum w_i E F(t_i^2 U_i) = 1 - alpha with w_i = v_i / sum v, as
    the distribution function F of a squared normal is concave (Banerjee 1960).  The V_i may depend on each other.
    Satterthwaite's one freedom for the sum is too short here: a few seeds often show less spread than there is."""
    return float(np.sqrt(sum(quantile(1 - alpha / 2, p.freedom) ** 2 * p.variance for p in parts if p.variance > 0)))


def p_value(value: float, parts: Sequence[Part]) -> float:
    """The alpha whose ``half_width`` is |value|, not below LEAST_P; 1 where nothing varies."""
    if not any(p.variance > 0 for p in parts):
        return 1.0
    low, high = np.log(LEAST_P), 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if half_width(parts, np.exp(middle)) < abs(value) else (middle, high)
    return float(np.exp(high))


def pooled(arms: Sequence[Sequence[float]]) -> Part:
    """What trainings vary by on average: the mean variance of the values of each arm's seeds, and their freedom.

    Raises ValueError without an arm of two seeds."""
    varying = [np.asarray(arm, np.float64) for arm in arms if len(arm) > 1]
    if not varying:
        raise ValueError("no arm has two seeds, which it takes to know how trainings vary")
    return Part(float(np.mean([arm.var(ddof=1) for arm in varying])), float(sum(len(arm) - 1 for arm in varying)))


def seeds_part(sides: Sequence[Sequence[float]], common: Sequence[Part | None] = ()) -> Part:
    """What trainings add to the variance of sum_a mean_s x_as; a side of one value is not random and adds nothing.

    With two or three seeds a side's own variance s_a^2 is often far too small by luck, and Student's t at its freedom
    makes up for that at a price that hides nearly every effect.  So it counts on top of what trainings vary by on
    average: sum_a (s_a^2 + c_a) / S_a at the freedom of ``common`` c_a, ``pooled`` over all arms and in the side's
    units.  In simulation that stays at the level where arms differ in spread by a factor of two to either side, and at
    5 % by a factor of three.  Without ``common`` the sides are all there is: twice their own, at Welch's freedom
    (sum V_a)^2 / sum V_a^2 / (S_a - 1); one side alone is Student's t."""
    given = [(np.asarray(side, np.float64), c) for side, c in zip_longest(sides, common) if len(side) > 1]
    own = [(side.var(ddof=1) / len(side), len(side) - 1) for side, _ in given]
    total = float(sum(share for share, _ in own))
    if len(given) == 0:
        return Part(0.0, np.inf)
    if all(c is not None for _, c in given):
        shared = sum(c.variance / len(side) for side, c in given)
        return Part(total + shared, min(c.freedom for _, c in given))
    if total == 0:
        return Part(0.0, min(freedom for _, freedom in own))
    welch = total**2 / sum(share**2 / freedom for share, freedom in own)
    return Part(total if len(given) == 1 else 2 * total, welch)


def between(
    sides: Sequence[Sequence[float]], items: Part, level: float = 0.95, common: Sequence[Part | None] = ()
) -> Effect:
    """The effect of sides given by the values of their seeds, [seeds] each; ``items``: what the prompts add;
    ``common``: see ``seeds_part``.  Raises ValueError for no side and for values that are not finite."""
    if not sides or any(len(side) == 0 for side in sides):
        raise ValueError("an effect needs sides with at least one value each")
    for side in sides:
        if not np.isfinite(side).all():
            raise ValueError(f"a side holds {list(map(float, side))}; every seed needs a finite value")
    value, seeds = float(sum(np.mean(side) for side in sides)), seeds_part(sides, common)
    half = half_width((seeds, items), 1 - level)
    bounds = (value - half, value + half) if half > 0 else (None, None)
    return Effect(value, *bounds, level, p_value(value, (seeds, items)), seeds, items)


def effect(
    sides: Sequence[np.ndarray],
    clusters: Sequence,
    groups: Sequence | None = None,
    level: float = 0.95,
    common: Sequence[Part | None] = (),
) -> Effect:
    """The effect from per-sample values: ``sides`` [seeds, samples] each, signed and weighted, the same samples in the
    same order; ``clusters`` (prompts) and ``groups`` (tasks, which weigh the same) of the samples; ``common``: of each
    side, see ``seeds_part``.

    Left minus right with independent trainings: ``[left, -right]``; with seed s of both from one parent:
    ``[left - right]``; 4x against 1x of two systems: ``[left_4x - left_1x, right_1x - right_4x]``."""
    sides = [np.atleast_2d(np.asarray(side, np.float64)) for side in sides]
    weights = item_weights(len(clusters), groups)
    if any(side.shape[1:] != weights.shape for side in sides):
        shapes = ", ".join(str(side.shape) for side in sides)
        raise ValueError(f"sides of shapes {shapes} for {len(weights)} samples; give [seeds, samples] each")
    spread, freedom = error(grouped(sum(side.mean(0) for side in sides), clusters, groups))
    return between([side @ weights for side in sides], Part(spread**2, max(freedom, 1)), level, common)


def item_weights(count: int, groups: Sequence | None) -> np.ndarray:
    """What each sample weighs in the mean of group means, float64 [samples]."""
    if groups is None:
        return np.full(count, 1 / count)
    _, of, sizes = np.unique(np.asarray(groups, str), return_inverse=True, return_counts=True)
    return 1 / (len(sizes) * sizes[of])


def jackknifed(replicates: Sequence[Sequence[float]]) -> Part:
    """What the items add to an effect of statistics that are no mean: delete-one-block values of its sides, [blocks]
    each (means over seeds, signed), on common blocks (docs/evaluators.md 7.4)."""
    lengths = {len(side) for side in replicates}
    if len(lengths) != 1:
        raise ValueError(f"sides with {sorted(lengths)} blocks; they must be of the same images")
    spread, freedom = jackknife_error(np.sum(np.asarray(replicates, np.float64), axis=0))
    return Part(spread**2, freedom)


# ------------------------------------------------------------------------------------------------ learning curves


def images_to_reach(images: Sequence[float], scores: Sequence[float], level: float) -> float | None:
    """Images after which a learning curve first reaches ``level``, straight between its points over log images.

    Its first point's where that is above already (as "at most"), None where it never is.  A curve counts by its best
    score so far, so that one lucky dip or rise of evaluation noise moves the crossing, not the order."""
    best = np.maximum.accumulate(np.asarray(scores, np.float64))
    reached = np.flatnonzero(best >= level)
    if not len(reached):
        return None
    at = int(reached[0])
    if at == 0:
        return float(images[0])
    share = (level - best[at - 1]) / (best[at] - best[at - 1])
    return float(np.exp(np.log(images[at - 1]) + share * (np.log(images[at]) - np.log(images[at - 1]))))


def speedup(
    images: Sequence[float],
    left: np.ndarray,
    right: np.ndarray,
    level: float,
    clusters: Sequence,
    groups: Sequence | None = None,
    confidence: float = 0.95,
    at_least: bool = False,
) -> Effect | None:
    """log(images that right needs / images that left needs) to reach the score ``level``; exp of it is the ratio.

    left, right: [seeds, points, samples] at the same ``images`` [points].  A value per seed from its own curve; what
    prompts add is jackknifed over BLOCKS blocks of prompts within groups.  None where a curve does not reach the level
    or starts above it, with all prompts or without one block; ``at_least``: a left one that starts above counts by its
    first point, which makes the ratio a lower bound."""
    sides = [np.asarray(right, np.float64), np.asarray(left, np.float64)]
    groups_of = ["all"] * len(clusters) if groups is None else list(groups)
    number: dict[str, dict] = {}
    for group, cluster in zip(groups_of, clusters, strict=True):
        number.setdefault(group, {}).setdefault(cluster, len(number.get(group, ())))
    block = np.array([number[g][c] % BLOCKS for g, c in zip(groups_of, clusters, strict=True)])

    def logs(kept: np.ndarray) -> list[np.ndarray] | None:
        weights = np.zeros(len(kept))
        weights[kept] = item_weights(int(kept.sum()), [g for g, k in zip(groups_of, kept, strict=True) if k])
        found = []
        for side, bound in zip(sides, (False, at_least), strict=True):
            curves = side @ weights
            if ((curves[:, 0] >= level).any() and not bound) or (curves.max(1) < level).any():
                return None
            found.append(np.log([images_to_reach(images, curve, level) for curve in curves]))
        return [found[0], -found[1]]

    whole = logs(np.ones(len(block), bool))
    without = [logs(block != b) for b in np.unique(block)]
    if whole is None or len(without) < 2 or any(part is None for part in without):
        return None
    replicates = [[float(np.mean(part[side])) for part in without] for side in (0, 1)]
    return between(whole, jackknifed(replicates), confidence)
