"""The difference of two records, from the best evidence that both have (docs/evaluators.md 7.3, 7.4):

per-sample values of the same samples (paired), delete-one-block replicates of the same data (jackknife of the
difference), or else the two intervals (independent).  Records of one key are one measurement, and do not differ.

And which way a metric is better.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np

from vgt.core import samples
from vgt.core.record import Record
from vgt.core.samples import REPLICATES, Samples
from vgt.core.sides import Stored
from vgt.core.statistics import (
    Alternative,
    Comparison,
    Interval,
    compare_intervals,
    compare_pairs,
    compare_replicates,
    fixed_interval,
    intracluster_correlation,
    mcnemar,
)

PAIRED, BLOCKS, UNPAIRED, IDENTICAL = "paired", "common blocks", "unpaired", "identical"
LEVEL = 0.95  # of the intervals that records hold

# ------------------------------------------------------------------------------------------- what is better

HIGHER, LOWER = "higher", "lower"

# Metrics of recon, fidelity and probes declare theirs.  Of the others the first pattern of the name decides.
NAMES: tuple[tuple[str, str | None], ...] = (
    *((name, LOWER) for name in ("*mse", "loss*", "ms-*", "peak-memory*", "*flip-rate")),
    *((name, HIGHER) for name in ("*accuracy*", "*agreement*", "*kappa*")),
    *((name, HIGHER) for name in ("mme*", "mmbench*", "ai2d*", "textvqa*", "clip*", "*per-second")),
)
# Then its unit.
UNITS = {"share": HIGHER, "of 100": HIGHER, "dB": HIGHER, "images/s": HIGHER, "ms": LOWER, "s": LOWER, "MiB": LOWER}


def better(record: Record) -> str | None:
    """ "higher" or "lower" for what is better, None where that is not known."""
    from evals.fidelity import metrics as fidelity
    from evals.probes import protocol as probes
    from evals.recon import metrics as recon

    for declared in (recon.direction, fidelity.direction, probes.direction):
        with contextlib.suppress(KeyError):
            return declared(record.metric)
    for pattern, direction in NAMES:
        if fnmatchcase(record.metric, pattern):
            return direction
    return UNITS.get(record.unit)


def span(record: Record) -> float | None:
    """The largest difference that two samples can have, None for values without bounds."""
    return {"share": 1.0, "of 100": 100.0}.get(record.unit)


# ---------------------------------------------------------------------------------------------- differences


@dataclass(frozen=True)
class Matched:
    """The samples that two records share, in the order of their ids: values of A and B, clusters, groups."""

    a: np.ndarray
    b: np.ndarray
    clusters: list[str]
    groups: list[str] | None
    unmatched: int  # samples of either side without a counterpart


@dataclass(frozen=True)
class Contrast:
    """B minus A.  ``how``: "paired", "common blocks", "unpaired" or "identical"; ``pairs``: samples or blocks compared,
    0 for the last two; ``notes``: what a reader must know."""

    comparison: Comparison
    how: str
    pairs: int
    notes: tuple[str, ...] = ()
    matched: Matched | None = None

    @property
    def tested(self) -> bool:
        """Whether it counts among the comparisons that a correction is for."""
        return self.how != IDENTICAL


def match_samples(a: Samples, b: Samples) -> Matched | None:
    """Samples with the same id; None where there are none.  Raises ValueError for ids in other clusters or groups."""

    places = [{name: i for i, name in enumerate(side.ids)} for side in (a, b)]
    common = sorted(places[0].keys() & places[1].keys())
    if not common:
        return None
    at_a, at_b = ([place[name] for name in common] for place in places)

    def column(side: Samples, at: list[int], what: str) -> list[str]:
        return [getattr(side, what)[i] for i in at] if getattr(side, what) is not None else [""] * len(at)

    shared = {what: column(a, at_a, what) for what in ("clusters", "groups")}
    for what, ours in shared.items():
        theirs = column(b, at_b, what)
        if ours != theirs:
            i = next(i for i in range(len(common)) if ours[i] != theirs[i])
            raise ValueError(f"sample {common[i]!r} is of {what[:-1]} {ours[i]!r} and of {theirs[i]!r}: other suites")
    return Matched(
        np.asarray(a.values, np.float64)[at_a],
        np.asarray(b.values, np.float64)[at_b],
        shared["clusters"],
        shared["groups"] if any(shared["groups"]) else None,
        len(a.ids) + len(b.ids) - 2 * len(common),
    )


def _one_binary_per_cluster(found: Matched) -> bool:
    """Whether every cluster is one yes/no item of one group: then McNemar's test is the exact one."""
    single = found.groups is None and len(set(found.clusters)) == len(found.clusters)
    return single and len({*np.unique(found.a), *np.unique(found.b), 0.0}) == 2


def _clusters(found: Matched) -> int:
    return len(set(zip(found.groups or found.clusters, found.clusters, strict=True)))


def paired(
    found: Matched, record: Record, sign: int = 1, level: float = 0.95, alternative: Alternative = "two-sided"
) -> Contrast | None:
    """B minus A, times ``sign``, from the samples that both have; None where clusters are too few to show a spread."""
    if _clusters(found) < 2:
        return None
    a, b = sign * found.a, sign * found.b
    result = compare_pairs(b, a, found.clusters, found.groups, level=level, alternative=alternative, span=span(record))
    if _one_binary_per_cluster(found):
        # With sign -1 a "yes" is a loss: the two swap their places in the one-sided test.
        pair = (found.b != 0, found.a != 0) if sign > 0 else (found.a != 0, found.b != 0)
        p = mcnemar(*pair, alternative)[2]
        result = replace(result, p_value=p, test="exact McNemar")
    notes = (f"{found.unmatched} samples have no counterpart and are left out",) if found.unmatched else ()
    return Contrast(result, PAIRED, len(found.a), notes, found) if result.error is not None else None


def _replicates(a: Record, b: Record) -> tuple[list[float], list[float]] | None:
    """Delete-one-block values of both, where they left out the same samples."""
    left, right = (one.extra.get(REPLICATES) for one in (a, b))
    same = a.suite_hash == b.suite_hash and a.n == b.n and not a.n_failed and not b.n_failed
    if not (isinstance(left, list) and isinstance(right, list) and same and len(left) == len(right) >= 2):
        return None
    return left, right


def _interval(record: Record, sign: int) -> Interval:
    bounds = [None if bound is None else sign * bound for bound in (record.low, record.high)][::sign]
    return Interval(sign * record.value, *bounds, LEVEL, record.interval or "")


def contrast(
    a: Stored, b: Stored, *, sign: int = 1, level: float = 0.95, alternative: Alternative = "two-sided"
) -> Contrast:
    """B minus A, times ``sign`` (-1 turns "lower is better" round).

    Raises ValueError where nothing can be concluded: no interval on a side, a single cluster, or samples that do not
    belong to their record."""
    if a.record.key == b.record.key and a.record.value == b.record.value:
        nothing = Interval(0.0, 0.0, 0.0, level, "one measurement")
        return Contrast(Comparison(nothing, 1.0, 0, 0.0, test="none"), IDENTICAL, 0)
    left, right = (samples.checked(s.samples, s.record) if s.samples is not None else None for s in (a, b))
    found = match_samples(left, right) if left is not None and right is not None else None
    made = paired(found, b.record, sign, level, alternative) if found is not None else None
    if made is not None:
        return made
    left_out = _replicates(a.record, b.record)
    if left_out is not None:
        ours, theirs = (np.multiply(sign, side) for side in left_out)
        comparison = compare_replicates(sign * b.record.value, sign * a.record.value, theirs, ours, level, alternative)
        return Contrast(comparison, BLOCKS, comparison.clusters)
    lacking = "without samples on both sides" if left is None or right is None else "no common samples"
    if found is not None:
        each = f", one in each of {len(set(found.groups))} groups," if found.groups else ""
        lacking = f"not paired: {len(found.a)} common samples in {_clusters(found)} clusters{each} show no spread"
    for one in (a.record, b.record):
        if one.low is None or one.high is None:
            why = f"no interval; {lacking}" if found else "neither samples that both sides share nor an interval"
            raise ValueError(f"{one.model} has {why}")
        if "quartiles" in (one.interval or ""):
            raise ValueError(f"{one.model} has {one.interval}, which are no interval")
    comparison = compare_intervals(_interval(b.record, sign), _interval(a.record, sign), level, alternative)
    return Contrast(comparison, UNPAIRED, 0, (lacking,))


def same_prompts(found: Matched) -> dict[str, float | None]:
    """Question (a) of docs/evaluators.md 7.1 for the difference B - A: its interval over other images of the same
    prompts, and rho, how much the differences of one prompt's images correlate (None where its estimate, of few
    prompts, is no correlation)."""
    fixed = fixed_interval(found.b - found.a, found.clusters, found.groups)
    rho = intracluster_correlation(found.b - found.a, found.clusters, found.groups)
    return {"low": fixed.low, "high": fixed.high, "correlation": round(rho, 6) if -1 <= rho <= 1 else None}


def per_prompt(found: Matched) -> dict[str, dict]:
    """Exact McNemar tests of one binary per prompt, "any" and "majority" of its images (docs/evaluators.md 7.3); empty
    where samples are not yes/no or come one a prompt."""
    values = {*found.a.tolist(), *found.b.tolist()}
    members: dict[tuple[str, str], list[int]] = {}
    for i, key in enumerate(zip(found.groups or found.clusters, found.clusters, strict=True)):
        members.setdefault(key, []).append(i)
    if len(values | {0.0}) != 2 or len(members) == len(found.a):
        return {}
    right = [[(side[items] != 0).mean() for items in members.values()] for side in (found.a, found.b)]
    result = {}
    for name, least in (("any", 0.0), ("majority", 0.5)):
        a, b = (np.array(shares) > least for shares in right)
        only_a, only_b, p = mcnemar(a, b)
        result[name] = {"prompts": len(a), "a": int(a.sum()), "b": int(b.sum()), "only_a": only_a, "only_b": only_b}
        result[name]["p"] = p
    return result
