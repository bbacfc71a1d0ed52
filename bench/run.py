"""Speed records: which models under which conditions, measured once and kept as evidence, reused while nothing changed.

Evidence (every round of a model) lies in ``work/bench/<suite>/<model>.json``; records are made from it alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bench import timing, training
from bench.conditions import PROTOCOL_REPEATS, Conditions
from bench.jobs import Job, plan
from bench.measure import measure, stamp
from bench.records import METRICS, memory_words, metrics_of, to_record
from bench.subjects import Subject, subject
from vgt.core import files, record
from vgt.core.record import SPEED, Record


@dataclass(frozen=True)
class Outcome:
    """All records of a run, and how many were made now or found unchanged on disk."""

    records: list[Record]
    computed: int
    reused: int


def _groups(jobs: Iterable[Job]) -> list[list[Job]]:
    """What is measured in alternation: generators of one acceleration under the same conditions; autoencoders."""
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.heading["accel"], job.heading["suite"]), []).append(job)
    return list(groups.values())


def _stored(path: Path, key: str, operations: Iterable[str]) -> dict | None:
    """Evidence on disk if it was gathered under that key and holds these operations."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if found["key"] == key and set(operations) <= set(found["operations"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _gather(jobs: list[Job], work: Path, fresh: bool) -> tuple[dict[str, dict], set[str]]:
    """Evidence of all jobs by name, measured where it does not stand; and of which it was measured now."""
    kept = {
        job.name: None if fresh else _stored(work / job.evidence, job.heading["key"], job.operations) for job in jobs
    }
    todo = [job for job in jobs if kept[job.name] is None]
    rounds = sum((j.conditions.warmup + j.conditions.repeats) * len(j.operations) for j in todo)
    with tqdm(total=rounds, desc="bench", unit="round", disable=not todo) as bar:
        for group in _groups(todo):
            bar.set_postfix_str(", ".join(job.model for job in group)[:60])
            measured = measure(group, on_call=bar.update)
            for job in group:
                kept[job.name] = {"key": job.heading["key"], "stamp": stamp(), "operations": measured[job.name]}
                files.write_json(work / job.evidence, kept[job.name])
    return kept, {job.name for job in todo}


def run(
    subjects: Sequence[str | Subject],
    *,
    work: str | Path,
    records: str | Path,
    accelerations: Sequence[int] = (1, 4, 16),
    batches: Sequence[int] = (8,),
    warmup: int | None = None,
    device: str = "cpu",
    settings: Mapping[str, Any] | None = None,
    runs: Path | None = None,
    autoencoder: str | None = None,
    fresh: bool = False,
    dtype: torch.dtype = torch.float32,
    **how,
) -> Outcome:
    """Time generators at every acceleration and autoencoders, in batches of each size.

    ``subjects``: bundled models, runs below ``runs``, folders, ``random:<preset>``, or what ``bench.subjects.subject``
    makes of them; ``autoencoder``: that of the generators, if not under its own name; ``settings``: sampling settings
    that are not the models' usual ones; ``how``: the other conditions (conditions.py).

    Generators of one acceleration and batch are measured in alternation.  Records that stand are reused and missing
    ones made from evidence that stands; ``fresh`` measures all again.  ``warmup`` defaults to 1 on a CPU and 2 on a
    GPU.  Raises ValueError before any work for unknown subjects and impossible conditions."""
    warmup = warmup if warmup is not None else 1 if device.startswith("cpu") else 2
    asked = [Conditions(b, warmup=warmup, device=device, settings=dict(settings or {}), **how) for b in batches]
    timing.instruments(device)
    found = [
        each if isinstance(each, Subject) else subject(each, runs, device, autoencoder, dtype)
        for each in dict.fromkeys(subjects)
    ]
    jobs = [job for each in found for conditions in asked for job in plan(each, conditions, accelerations)]
    names = [job.name for job in jobs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{twice[0]} is asked for twice; give each model, acceleration and batch once")
    wanted = {
        f"{job.name}/{metric}": (job, metric)
        for job in jobs
        for metric in metrics_of(job.operations, job.conditions.steps is not None and job.settings is not None)
    }
    kept = {n: None if fresh else record.find(records, n, job.heading["key"]) for n, (job, _) in wanted.items()}
    needing = {job.name: job for name, (job, _) in wanted.items() if kept[name] is None}
    evidence, measured = _gather(list(needing.values()), Path(work), fresh)
    # Times of one measurement stand together: what was measured anew replaces all records of its job.
    missing = [name for name, (job, _) in wanted.items() if kept[name] is None or job.name in measured]
    for name in missing:
        job, metric = wanted[name]
        of = evidence[job.name]
        shared = {**job.heading, **of["stamp"], "evidence": job.evidence.as_posix()}
        kept[name] = to_record(metric, shared, of["operations"], PROTOCOL_REPEATS)
        record.write(kept[name], records)
    return Outcome([kept[name] for name in wanted], len(missing), len(wanted) - len(missing))


def rows(records: Iterable[Record]) -> list[dict]:
    """One row a model and suite for people and programs: milliseconds are of one image.

    ``ratio``: eager over engine; ``of_floor``: floor over engine; None where it was not measured."""
    table: dict[str, dict] = {}
    for found in records:
        known = SPEED.fullmatch(found.suite) and found.metric in METRICS
        if not known and found.metric != training.METRIC:
            continue
        row = table.setdefault(f"{found.model}/{found.suite}", _row(found))
        if found.metric == training.METRIC and found.value:
            row |= {"engine_ms": 1000 * found.value / row["batch"], "images_per_second": row["batch"] / found.value}
            continue
        row[FIELDS.get(found.metric, found.metric.replace("-", "_"))] = found.value
        if "out_of_memory" in found.extra and found.metric in ("ms-per-image", "eager-ms-per-image"):
            row["error"] = memory_words(found.extra["out_of_memory"])
        if found.metric == "ms-per-image":
            row |= {"split_ms": found.extra.get("split_ms_per_image"), "notes": found.extra.get("notes", [])}
    for row in table.values():
        if row["engine_ms"] and row["floor_ms"]:
            row["of_floor"] = row["floor_ms"] / row["engine_ms"]
    return list(table.values())


FIELDS = {
    "ms-per-image": "engine_ms",
    "eager-ms-per-image": "eager_ms",
    "speedup-over-eager": "ratio",
    "floor-ms-per-image": "floor_ms",
    "ms-per-call": "engine_ms",
    "plain-ms-per-call": "eager_ms",
    "speedup-over-plain": "ratio",
    "floor-ms-per-call": "floor_ms",
}


def _row(found: Record) -> dict:
    """A row before its numbers."""
    params = found.protocol_params
    row = {"model": found.model, "accel": found.accel, "batch": params["batch"], "mode": params.get("mode")}
    row |= {"steps": params.get("steps"), "weights": params.get("weights"), "dtype": params.get("dtype")}
    return row | dict.fromkeys(
        ("engine_ms", "eager_ms", "ratio", "floor_ms", "of_floor", "images_per_second", "error"), None
    )
