"""The one place where measurements become records: value, 95 % interval, coverage, samples beside them.

An evaluator asks ``stored`` which of its records still hold, measures the others, and hands them to ``write`` as

* ``Measure``: the mean of per-sample values, whose interval is made here (cluster bootstrap, or Wilson's), or
* ``Estimate``: a number that is no such mean (a distance, a kappa, a loss), with an interval of its own.

The rule of coverage is the same for both (docs/evaluators.md 0.2): where samples are missing, or there are some that
nobody asked for, the value is withheld unless that was allowed (``partial_ok``), and the note says so either way.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evals.engine import api
from vgt.core import files, record, samples
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

SAMPLES, EVIDENCE, IMAGE, JUDGING = "samples", "evidence", "image", "judging"  # what a record's hashes are of


def stored(
    root: str | Path,
    model: str,
    suite: str,
    keys: Mapping[str, str],
    undefined_ok: bool = False,
    work: str | Path | None = None,
    given: Mapping[str, Path] | None = None,
) -> dict[str, Record]:
    """Stored records (metric -> record) whose keys still hold, that miss no sample and that have their samples.  Says
    on stderr why others will be made again.

    ``undefined_ok``: those without a value stand too, where a value may not be defined; ``work``: the folder that
    evidence is relative to: where it was changed, or half of it is gone, its records do not stand; ``given``: the files
    that they would be made from now (EVIDENCE, and JUDGING): records of other evidence do not stand."""
    kept, reasons = {}, {}
    digest = functools.cache(files.digest_path)
    for metric, key in keys.items():
        found = record.get(root, f"{model}/{suite}/{metric}")
        if found is None or (found.value is None and not undefined_ok) or found.n_failed:
            continue
        why = _changed(root, found, key, None if work is None else Path(work), digest)
        if why is None and given is not None and work is not None:
            why = _of_others(found, Path(work), given, digest)
        if why is None:
            kept[metric] = found
        else:
            reasons.setdefault(why, []).append(metric)
    for why, metrics in reasons.items():
        print(f"note: {model}/{suite}: {', '.join(metrics)} will be made again: {why}", file=sys.stderr)
    return kept


def check_names(root: str | Path, new: Sequence[Record]) -> None:
    """Raises ValueError naming both where a new record's subject has the name, or the place, of another model's records
    below ``root``."""
    there = {subject: list(record.below(root, subject)) for subject in {r.subject for r in new}}
    for each in new:
        other = record.of_another(there[each.subject], each)
        if other is not None:
            raise ValueError(_both(root, other, each))


def claim(root: str | Path, metrics: Iterable[str], **fields: Any) -> None:
    """``check_names`` for records that are still to be measured; ``fields``: their subject, accel, suite, fingerprint,
    origin and extra."""
    check_names(root, [_blank(**fields, metric=metric) for metric in metrics])


def settled(root: str | Path, subject: Any, given: str | None = None, accel: int | None = None) -> str:
    """The name that a subject's records carry below ``root``: the ``given`` one, else its own, with a hash of the
    model (or of its settings) where another one has that; stderr says so.

    Raises ValueError for a given name that cannot be one, or is another model's, naming both."""
    settings = getattr(subject, "settings", None)
    told = {"accel": accel, "fingerprint": subject.fingerprint, "origin": api.origin(subject)}
    told["extra"] = {} if settings is None else {"settings": dict(settings)}
    name = record.clean(subject.name) if given is None else record.checked_name(given)
    other = record.of_another(record.below(root, name), _blank(subject=name, **told))
    if other is None:
        return name
    if given is not None:
        raise ValueError(_both(root, other, _blank(subject=name, **told)))
    taken = other
    while other is not None:
        same = other.subject == name and other.origin == told["origin"]
        name += "-" + (files.digest_json(told["extra"]) if same else told["origin"].split()[-1])[:8]
        other = record.of_another(record.below(root, name), _blank(subject=name, **told))
    print(
        f"note: {root} has records of another model as {taken.subject!r} ({record.whose(taken)}); this one's are "
        f"{name!r}; give --name to choose",
        file=sys.stderr,
    )
    return name


def _blank(**fields: Any) -> Record:
    """A record without a number, to compare with others."""
    blank = {"suite": "", "metric": "", "value": None, "n": 0, "n_expected": 0, "protocol": "", "suite_hash": ""}
    return Record(**{**blank, "key": "", **fields})


def _both(root: str | Path, other: Record, new: Record) -> str:
    return (
        f"{root} has records of another model as {other.subject!r}: {record.whose(other)}; these would be of "
        f"{record.whose(new)}: give another --name or --out, or remove the others"
    )


def _changed(
    root: str | Path, found: Record, key: str, work: Path | None, digest: Callable[[Path], str | None]
) -> str | None:
    """Why a record does not stand, None where it does.  Evidence that is gone as a whole is no reason."""
    if found.key != key:
        return "settings or inputs are not those of the stored numbers"
    beside = samples.path(root, found)
    if found.extra.get("samples") and not beside.exists():
        return "their samples are gone"
    if digest(beside) != found.hashes.get(SAMPLES, digest(beside)):
        return "their samples were changed since they were written"
    for what, name in ((EVIDENCE, found.evidence), (IMAGE, found.extra.get("image"))) if work is not None else ():
        there = digest(work / name) if name else None
        if there is not None and there != found.hashes.get(what, there):
            return f"their {what} {name} was changed since it was written"
    return None


def _of_others(
    found: Record, work: Path, given: Mapping[str, Path], digest: Callable[[Path], str | None]
) -> str | None:
    """Why a record is not one of the ``given`` evidence, None where it is.  Its own evidence, in its own place, was
    looked at before, and may be gone as a whole."""
    rows = given[EVIDENCE]
    own = found.evidence is not None and work / found.evidence == rows
    if not own and found.hashes.get(EVIDENCE) != (digest(rows) or ""):
        return f"they were not made from {rows}"
    there = digest(given[JUDGING])
    if there is not None and there != found.hashes.get(JUDGING, there):
        return f"{given[JUDGING]} is not what they were made with"
    return None


def write(
    root: str | Path,
    keys: Mapping[str, str],
    kept: Mapping[str, Record],
    measures: Mapping[str, Measure | Estimate] = {},
    common: Mapping[str, Any] = {},
    partial_ok: bool = False,
    work: str | Path | None = None,
) -> Outcome:
    """Write the records of all metrics in ``keys`` (metric -> key) that are not among the ``kept`` ones.

    ``common``: fields that these records share; its "extra" goes into the records' own; ``work``: the folder that
    evidence is relative to.  Returns all records, in the order of ``keys``.  Raises ValueError naming both, and writes
    nothing, where the subject's name is that of another model's records below ``root``."""
    made = {}
    digest = functools.cache(files.digest_path)
    for metric, key in keys.items():
        if metric not in kept:
            found, its = _made(key, replace(measures[metric], metric=metric), common, partial_ok)
            hashes = {SAMPLES: samples.digest(its)} if its is not None else {}
            if work is not None and found.evidence and (content := digest(Path(work) / found.evidence)) is not None:
                hashes[EVIDENCE] = content
            image = found.extra.get("image")
            if work is not None and image and (content := digest(Path(work) / image)) is not None:
                hashes[IMAGE] = content
            made[metric] = found.model_copy(update={"hashes": found.hashes | hashes}), its
    check_names(root, [new for new, _ in made.values()])
    for new, its in made.values():
        if its is not None:
            samples.write(its, root, new)
        else:
            samples.path(root, new).unlink(missing_ok=True)
        record.write(new, root)
    records = {**kept, **{metric: new for metric, (new, _) in made.items()}}
    return Outcome([records[metric] for metric in keys], len(keys) - len(kept), len(kept))


def _made(
    key: str, measure: Measure | Estimate, common: Mapping[str, Any], partial_ok: bool
) -> tuple[Record, Samples | None]:
    """One record, and the samples that lie beside it."""
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
    return record.make(**fields), kept


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
