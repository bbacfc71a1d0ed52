"""The one place where measurements become records: value, 95 % interval, coverage, samples beside them.

An evaluator asks ``stored`` which of its records still hold, measures the others, and hands them to ``write`` as

* ``Measure``: the mean of per-sample values, whose interval is made here (cluster bootstrap, or Wilson's), or
* ``Estimate``: a number that is no such mean (a distance, a kappa, a loss), with an interval of its own.

The rule of coverage is the same for both (docs/evaluators.md 0.2): where samples are missing, or there are some that
nobody asked for, the value is withheld unless that was allowed (``partial_ok``), and the note says so either way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vgt.core import record, samples
from vgt.core.record import Record
from vgt.core.samples import Samples
from vgt.core.statistics import Interval, cluster_interval, wilson


@dataclass(frozen=True)
class Outcome:
    """What an evaluator returns: all its records, and how many were computed now or found unchanged on disk.
    Outcomes add up: ``sum(outcomes, Outcome.none())``."""

    records: list[Record]
    computed: int
    reused: int

    @classmethod
    def none(cls) -> Outcome:
        """Of a part of a run, which has no records yet."""
        return cls([], 0, 0)

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.records + other.records, self.computed + other.computed, self.reused + other.reused)


# ------------------------------------------------------------------------------------------------ what was measured


@dataclass(frozen=True, kw_only=True)
class _Counted:
    """What every number to record carries.

    ``asked``: samples that this run asked for; ``n_expected``: those that the protocol asks for; ``n`` of them entered
    the value and ``n_failed`` could not; ``n_extra`` were there that nobody asked for.  ``fields``: fields of this
    record alone (protocol, evidence, seconds ...), which go before those that all records of a run share."""

    metric: str
    n: int
    asked: int
    n_expected: int
    n_failed: int = 0
    n_extra: int = 0
    unit: str = ""
    note: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Measure(_Counted):
    """One number: the mean of ``values`` (of group means, where ``groups`` are given), times ``scale``.

    ``clusters``: what varies together, one per value.  ``ids`` (one per value, or none) name a value across models,
    for example prompt id and sample number: with them the values are kept beside the record, so that two records can
    be compared in pairs."""

    values: Sequence[float]
    clusters: Sequence[str]
    groups: Sequence[str] | None = None
    ids: Sequence[str] = ()
    scale: float = 1.0
    unit: str = "share"

    def interval(self) -> Interval | None:
        """Cluster bootstrap; Wilson over clusters where all values are 0 or all are 1 and resampling shows no spread.
        None without values."""
        if not len(self.values):
            return None
        only = set(self.values)
        if only in ({0.0}, {1.0}):
            n = len(set(zip(self.groups or self.clusters, self.clusters, strict=True)))
            found = wilson(n * int(only.pop()), n)
            found = replace(found, method=f"Wilson over {n} clusters: no spread to resample")
        else:
            found = cluster_interval(self.values, self.clusters, self.groups)
        value, low, high = (
            None if bound is None else round(bound * self.scale, 12) for bound in (found.value, found.low, found.high)
        )
        return replace(found, value=value, low=low, high=high)

    def samples(self) -> Samples | None:
        if not self.ids:
            return None
        return Samples(self.ids, [round(value * self.scale, 12) for value in self.values], self.clusters, self.groups)


@dataclass(frozen=True, kw_only=True)
class Estimate(_Counted):
    """One number with an interval of its own, recorded as it is; None where it is not defined, and ``note`` says why.
    ``kept``: per-sample values, where it is their mean after all."""

    estimate: Interval | None
    kept: Samples | None = None

    def interval(self) -> Interval | None:
        return self.estimate

    def samples(self) -> Samples | None:
        return self.kept


def plain(value: float) -> Interval:
    """A number without an interval."""
    return Interval(value, None, None, 0.95, "")


# --------------------------------------------------------------------------------------------------------- records


def stored(
    root: str | Path, model: str, suite: str, keys: Mapping[str, str], undefined_ok: bool = False
) -> dict[str, Record]:
    """Stored records (metric -> record) whose keys still hold, that miss no sample and that have their samples.

    ``undefined_ok``: those without a value stand too, where a value may not be defined."""
    found = {metric: record.find(root, f"{model}/{suite}/{metric}", key) for metric, key in keys.items()}
    return {
        m: r
        for m, r in found.items()
        if r is not None
        and (r.value is not None or undefined_ok)
        and r.n_failed == 0
        and (not r.extra.get("samples") or samples.path(root, r).exists())
    }


def write(
    root: str | Path,
    keys: Mapping[str, str],
    kept: Mapping[str, Record],
    measures: Mapping[str, Measure | Estimate] = {},
    common: Mapping[str, Any] = {},
    partial_ok: bool = False,
) -> Outcome:
    """Write the records of all metrics in ``keys`` (metric -> key) that are not among the ``kept`` ones.

    ``common``: fields that these records share; its "extra" goes into the records' own.  Returns all records, in the
    order of ``keys``."""
    records = dict(kept)
    for metric, key in keys.items():
        if metric not in kept:
            records[metric] = _write(root, key, replace(measures[metric], metric=metric), common, partial_ok)
    return Outcome([records[metric] for metric in keys], len(keys) - len(kept), len(kept))


def _write(
    root: str | Path, key: str, measure: Measure | Estimate, common: Mapping[str, Any], partial_ok: bool
) -> Record:
    """Make one record; write its samples, then itself, so that a record that stands has them."""
    found = _value(measure, partial_ok)
    kept = measure.samples() if found["value"] is not None else None
    counts = {"samples": len(kept.ids) if kept is not None else 0, "n_extra": measure.n_extra}
    extra = {**common.get("extra", {}), **measure.extra, **{name: count for name, count in counts.items() if count}}
    fields = {
        **common,
        **found,
        "metric": measure.metric,
        "key": key,
        "unit": measure.unit,
        "n": measure.n,
        "n_expected": measure.n_expected,
        "n_failed": measure.n_failed,
        **measure.fields,
        "extra": extra,
    }
    made = record.make(**fields)
    if kept is not None:
        samples.write(kept, root, made)
    else:
        samples.path(root, made).unlink(missing_ok=True)
    record.write(made, root)
    return made


def _value(measure: Measure | Estimate, partial_ok: bool) -> dict[str, Any]:
    """Value, interval and note by the rule of coverage."""
    absent = measure.asked - measure.n
    lacks = [f"{absent} missing or unreadable"] if absent else []
    lacks += [f"{measure.n_extra} that nobody asked for"] if measure.n_extra else []
    coverage = ", ".join([f"{measure.n} of {measure.asked} samples judged", *lacks])
    interval = measure.interval()
    withheld = bool(lacks) and not partial_ok
    empty = interval is None and isinstance(measure, Measure)
    if interval is None or withheld:
        notes = (measure.note, f"{coverage}: value withheld" if withheld or empty else None)
        return {"value": None, "note": "; ".join(filter(None, notes)) or None}
    return {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "interval": interval.method or None,
        "note": "; ".join(filter(None, (measure.note, f"partial: {coverage}" if lacks else None))) or None,
    }
