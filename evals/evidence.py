"""Per-sample evidence in JSON lines, and the records that are made from it.

Evidence is added to a file line by line while it is gathered, so a killed run loses at most one sample, and rewritten
in order when it is complete, so a resumed run ends with the same bytes as one that was never interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from evals.api import Outcome
from vgt.core import files, record
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


def gather(path: Path, wanted: Mapping[str, str], make: Callable[[str], dict], title: str) -> dict[str, dict]:
    """Evidence of every wanted sample: ``wanted`` maps its id to its stamp, the hash of all that decides the evidence.

    Entries already in ``path`` with the right stamp are kept, the others come from ``make(id)``.  An entry with a key
    "error" is reported and tried again in the next run."""
    stored = _read(path)
    kept = {e["id"]: e for e in stored if e.get("id") in wanted and e.get("stamp") == wanted[e["id"]]}
    kept = {name: entry for name, entry in kept.items() if "error" not in entry}
    missing = [name for name in wanted if name not in kept]
    if missing:
        files.write_text(path, _text([kept[name] for name in wanted if name in kept]))
        with open(path, "a", encoding="utf-8") as lines:
            for name in tqdm(missing, desc=title, unit="image", mininterval=0.5):
                kept[name] = {"id": name, "stamp": wanted[name], **make(name)}
                lines.write(json.dumps(kept[name]) + "\n")
                lines.flush()
    complete = [kept[name] for name in wanted]
    if stored != complete:
        files.write_text(path, _text(complete))
    return {entry["id"]: entry for entry in complete}


@dataclass(frozen=True)
class Measure:
    """One number to record: the mean of ``values`` (of group means, where ``groups`` are given), times ``scale``.

    ``asked`` is the number of samples that this run asked for, ``n_expected`` the number that the protocol asks for;
    ``n`` of them were judged and ``n_failed`` could not be."""

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


def _interval(measure: Measure) -> Interval:
    """Cluster bootstrap; Wilson over clusters where all values are 0 or all are 1 and resampling shows no spread."""
    values = set(measure.values)
    if values in ({0.0}, {1.0}):
        n = len(set(zip(measure.groups or measure.clusters, measure.clusters, strict=True)))
        interval = wilson(n * int(values.pop()), n)
        return replace(interval, method=f"Wilson over {n} clusters: no spread to resample")
    return cluster_interval(measure.values, measure.clusters, measure.groups)


def _value(measure: Measure, partial_ok: bool) -> dict:
    """Value, interval and note; the value is withheld where samples are missing and nobody allowed that."""
    absent = measure.asked - measure.n
    if not measure.values or (absent and not partial_ok):
        reason = f"{measure.n} of {measure.asked} samples judged, {absent} missing or unreadable: value withheld"
        return {"value": None, "note": "; ".join(filter(None, (measure.note, reason)))}
    interval = _interval(measure)
    reason = f"partial: {measure.n} of {measure.asked} samples judged" if absent else None
    low, high = (None if b is None else round(b * measure.scale, 12) for b in (interval.low, interval.high))
    return {
        "value": round(interval.value * measure.scale, 12),
        "low": low,
        "high": high,
        "interval": interval.method,
        "note": "; ".join(filter(None, (measure.note, reason))) or None,
    }


def reusable(root: str | Path, model: str, suite: str, keys: Mapping[str, str]) -> dict[str, Record]:
    """Stored records (metric -> record) whose keys still hold and that miss no sample."""
    found = {metric: record.find(root, f"{model}/{suite}/{metric}", key) for metric, key in keys.items()}
    return {m: r for m, r in found.items() if r is not None and r.value is not None and r.n_failed == 0}


def settle(
    root: str | Path,
    keys: Mapping[str, str],
    kept: Mapping[str, Record],
    measures: Mapping[str, Measure],
    common: Mapping[str, Any],
    partial_ok: bool = False,
) -> Outcome:
    """Write the records of all metrics in ``keys`` that are not among the ``kept`` ones; ``common`` are their shared
    fields.  Returns all, in the order of ``keys``."""
    records = dict(kept)
    for metric in keys:
        if metric not in kept:
            m = measures[metric]
            records[metric] = record.make(
                **common,
                **_value(m, partial_ok),
                metric=metric,
                key=keys[metric],
                unit=m.unit,
                n=m.n,
                n_expected=m.n_expected,
                n_failed=m.n_failed,
                extra=m.extra,
            )
            record.write(records[metric], root)
    return Outcome([records[metric] for metric in keys], len(keys) - len(kept), len(kept))
