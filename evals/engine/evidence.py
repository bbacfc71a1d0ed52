"""Per-sample evidence in JSON lines, and the records that are made from it.

Evidence is added to a file line by line while it is gathered, so a killed run loses at most one sample, and rewritten
in order when it is complete, so a resumed run ends with the same bytes as one that was never interrupted.  A part of a
run (evals.engine.shards) writes a file of its own beside it, ``<stem>.2-of-4.jsonl``, which the next whole run takes in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from evals.engine.api import Outcome
from evals.engine.shards import WHOLE, Shard, alone
from vgt.core import files, record, samples
from vgt.core.record import Record
from vgt.core.statistics import Interval, cluster_interval, wilson


def _read(path: Path) -> list[dict]:
    """The whole lines of a file; a line cut short by a kill is left out."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries


def _text(entries: list[dict]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def _parts(path: Path) -> list[Path]:
    """The files that parts of a run have left beside ``path``, of whatever division."""
    name = re.compile(rf"{re.escape(path.stem)}\.\d+-of-\d+{re.escape(path.suffix)}")
    return sorted(p for p in path.parent.glob("*") if name.fullmatch(p.name))


def _made(make: Callable[[str], dict], name: str) -> dict:
    """``make(name)``, or {"error": why} where it raises: one bad item neither ends a run nor leaves its denominator."""
    try:
        return make(name)
    except Exception as error:
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())}


def gather(
    path: Path, wanted: Mapping[str, str], make: Callable[[str], dict], title: str, shard: Shard = WHOLE
) -> dict[str, dict]:
    """Evidence of every wanted sample: ``wanted`` maps its id to its stamp, the hash of all that decides the evidence.

    Entries already on disk with the right stamp are kept, the others come from ``make(id)``.  A sample for which it
    raises gets an entry with a key "error" (as one that ``make`` itself gives); it is tried again in the next run.
    A part of a run passes the samples of its own images as ``wanted`` and leaves ``<stem>.2-of-4.jsonl``; the whole
    run keeps what all parts made, writes ``path`` in the order of ``wanted``, and removes their files."""
    path = Path(path)
    own = path if shard.whole else path.with_name(f"{path.stem}{shard.suffix}{path.suffix}")
    with alone(path, shard):
        parts = _parts(path)
        kept: dict[str, dict] = {}
        for entry in (e for source in (path, *parts) for e in _read(source)):
            if entry.get("stamp") == wanted.get(entry.get("id"), "") and "error" not in entry:
                kept[entry["id"]] = entry
        missing = [name for name in wanted if name not in kept]
        if missing:
            files.write_text(own, _text([kept[name] for name in wanted if name in kept]))
            with open(own, "a", encoding="utf-8") as lines:
                for name in tqdm(missing, desc=title, unit="image", mininterval=0.5):
                    kept[name] = {"id": name, "stamp": wanted[name], **_made(make, name)}
                    lines.write(json.dumps(kept[name]) + "\n")
                    lines.flush()
        complete = [kept[name] for name in wanted]
        text = _text(complete)
        if not own.exists() or own.read_text(encoding="utf-8") != text:
            files.write_text(own, text)
        for part in parts if shard.whole else ():
            part.unlink()
    return {entry["id"]: entry for entry in complete}


def failures(entries: Mapping[str, dict]) -> str | None:
    """One line on the entries with an error, for the note of a record: how many, and what the first one was."""
    errors = {name: entry["error"] for name, entry in entries.items() if "error" in entry}
    if not errors:
        return None
    name = next(iter(errors))
    return f"{len(errors)} failed, the first {name}: {errors[name]}"


@dataclass(frozen=True)
class Measure:
    """One number to record: the mean of ``values`` (of group means, where ``groups`` are given), times ``scale``.

    ``asked`` is the number of samples that this run asked for, ``n_expected`` the number that the protocol asks for;
    ``n`` of them were judged and ``n_failed`` could not be; ``n_extra`` items were there that nobody asked for.
    ``ids`` (one per value, or none) name a value across models, for example prompt id and sample number: with them the
    values are kept beside the record, so that two records can be compared in pairs."""

    metric: str
    values: Sequence[float]
    clusters: Sequence[str]
    n: int
    asked: int
    n_expected: int
    groups: Sequence[str] | None = None
    n_failed: int = 0
    scale: float = 1.0
    unit: str = "share"
    note: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    ids: Sequence[str] = ()
    n_extra: int = 0


def _interval(measure: Measure) -> Interval:
    """Cluster bootstrap; Wilson over clusters where all values are 0 or all are 1 and resampling shows no spread."""
    values = set(measure.values)
    if values in ({0.0}, {1.0}):
        n = len(set(zip(measure.groups or measure.clusters, measure.clusters, strict=True)))
        interval = wilson(n * int(values.pop()), n)
        return replace(interval, method=f"Wilson over {n} clusters: no spread to resample")
    return cluster_interval(measure.values, measure.clusters, measure.groups)


def _value(measure: Measure, partial_ok: bool) -> dict:
    """Value, interval and note (docs/evaluators.md 0.2); the value is withheld where samples are missing or there are
    samples too many, and nobody allowed that."""
    absent = measure.asked - measure.n
    lacks = [f"{absent} missing or unreadable"] if absent else []
    lacks += [f"{measure.n_extra} that nobody asked for"] if measure.n_extra else []
    found = ", ".join([f"{measure.n} of {measure.asked} samples judged", *lacks])
    if not measure.values or (lacks and not partial_ok):
        return {"value": None, "note": "; ".join(filter(None, (measure.note, f"{found}: value withheld")))}
    interval = _interval(measure)
    reason = f"partial: {found}" if lacks else None
    low, high = (None if b is None else round(b * measure.scale, 12) for b in (interval.low, interval.high))
    return {
        "value": round(interval.value * measure.scale, 12),
        "low": low,
        "high": high,
        "interval": interval.method,
        "note": "; ".join(filter(None, (measure.note, reason))) or None,
    }


def _extra(measure: Measure, shared: Mapping[str, Any], value: float | None) -> dict[str, Any]:
    """A record's small further results; ``samples`` counts the values that lie beside it."""
    counts = {"samples": len(measure.ids) if value is not None else 0, "n_extra": measure.n_extra}
    return {**shared, **measure.extra, **{name: count for name, count in counts.items() if count}}


def _write(made: Record, measure: Measure, root: str | Path) -> None:
    """A record and its samples; the samples first, so that a record that stands has them."""
    if made.extra.get("samples"):
        values = [round(value * measure.scale, 12) for value in measure.values]
        samples.write(samples.Samples(measure.ids, values, measure.clusters, measure.groups), root, made)
    else:
        samples.path(root, made).unlink(missing_ok=True)
    record.write(made, root)


def reusable(root: str | Path, model: str, suite: str, keys: Mapping[str, str]) -> dict[str, Record]:
    """Stored records (metric -> record) whose keys still hold, that miss no sample and that have their samples."""
    found = {metric: record.find(root, f"{model}/{suite}/{metric}", key) for metric, key in keys.items()}
    return {
        m: r
        for m, r in found.items()
        if r is not None
        and r.value is not None
        and r.n_failed == 0
        and (not r.extra.get("samples") or samples.path(root, r).exists())
    }


def settle(
    root: str | Path,
    keys: Mapping[str, str],
    kept: Mapping[str, Record],
    measures: Mapping[str, Measure],
    common: Mapping[str, Any],
    partial_ok: bool = False,
) -> Outcome:
    """Write the records of all metrics in ``keys`` that are not among the ``kept`` ones; ``common`` are their shared
    fields (its "extra" goes into the records' own).  Returns all, in the order of ``keys``."""
    records = dict(kept)
    shared = {name: value for name, value in common.items() if name != "extra"}
    for metric in keys:
        if metric not in kept:
            m = measures[metric]
            found = _value(m, partial_ok)
            records[metric] = record.make(
                **shared,
                **found,
                metric=metric,
                key=keys[metric],
                unit=m.unit,
                n=m.n,
                n_expected=m.n_expected,
                n_failed=m.n_failed,
                extra=_extra(m, common.get("extra", {}), found["value"]),
            )
            _write(records[metric], m, root)
    return Outcome([records[metric] for metric in keys], len(keys) - len(kept), len(kept))
