"""Measuring workloads, keeping every round as evidence, and making records of it.

Evidence lies in ``work/bench/<suite>/<model>.json``; records are made from it alone, and both are reused while nothing
that decides the time has changed.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from bench import roofline, timing
from bench.roofline import Limits
from bench.timing import Call, quartiles
from bench.workloads import PROTOCOL_REPEATS, Workload, same_conditions
from evals.engine.records import claim
from vgt.core import env, files, record
from vgt.core.record import SPEED, Record
from vgt.core.text import present, read_json

ENERGY_SECONDS = 1.0  # of work under the energy counter, at least

# ---------------------------------------------------------------------------------------------------- measuring


def stamp() -> dict:
    """Where and when a measurement was made, as fields of its records."""
    commit, dirty = env.commit()
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"commit": commit, "dirty": dirty, "versions": env.versions(), "created": now, "command": env.command()}


def _load_average() -> float | None:
    """Processes that wanted the machine in the last minute, this one among them."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


LimitsKey = tuple[str, torch.dtype, int, int]


def _limits_key(work: Workload) -> LimitsKey | None:
    """What the limits of a workload's lower bound depend on: device, precision, bytes read, threads."""
    if work.reads is None:
        return None
    return (work.conditions.device, *work.reads, torch.get_num_threads())


def limits_of(works: Iterable[Workload]) -> dict[LimitsKey, Limits]:
    """The limits of the device for each workload with a lower bound, each measured once and before all else, so that
    no bound depends on what was measured earlier in the process, or in which order."""
    keys = dict.fromkeys(key for key in map(_limits_key, works) if key is not None)
    return {key: roofline.measure_limits(*key[:3]) for key in keys}


def measure(
    works: Sequence[Workload],
    limits: Mapping[LimitsKey, Limits],
    operations: Collection[str] | None = None,
    on_call: Call = lambda: None,
    loop: Callable[[Call, int], object] = timing.plain,
) -> dict[str, dict[str, dict]]:
    """Time workloads of the same conditions in alternation: {workload's name: {operation: measurement}}.

    ``limits``: of ``limits_of``; ``operations`` leaves the others out; ``loop`` lets another harness drive the timed
    rounds (timing.alternate).  Raises ValueError for workloads of different conditions."""
    how = same_conditions(works)
    device, on_gpu = timing.instruments(how.device), how.device.startswith("cuda")
    lost: dict[tuple[str, str], dict] = {}
    calls: dict[tuple[str, str], Call] = {}
    for work in works:
        wanted = [name for name in work.operations if operations is None or name in operations]
        lost |= {(work.name, n): found for n in wanted if (found := _without_room(work, n)) is not None}
        fitting = [name for name in wanted if (work.name, name) not in lost]
        made = work.calls() if fitting else {}
        calls |= {(work.name, name): made[name] for name in fitting}
    splits: dict[tuple[str, str], dict | None] = {}

    def watch(work: Workload, name: str) -> Call:
        def watched() -> None:
            splits[work.name, name] = work.split(name, calls[work.name, name], device.synchronize)

        return watched

    watches = {(work.name, n): watch(work, n) for work in works for n in work.splits if (work.name, n) in calls}
    before = _load_average()
    timings = timing.alternate(
        calls,
        repeats=how.repeats,
        warmup=how.warmup,
        synchronize=device.synchronize,
        peak_memory=device.peak_memory,
        watched={} if on_gpu else watches,
        loop=loop,
        on_call=on_call,
    )
    for watched in watches.values() if on_gpu else ():  # its clocks change what the engine does, and its memory
        watched()
    made = {}
    for work in works:
        facts, mine = work.facts(), {}
        for name in (name for owner, name in (*calls, *lost) if owner == work.name):
            at = (work.name, name)
            if at in lost:
                mine[name] = {"out_of_memory": lost[at], **facts}
                continue
            mine[name] = {
                "images": work.items(name),
                "seconds": list(timings[at].seconds),
                "cpu_seconds": list(timings[at].cpu_seconds),
                "peak_mib": timings[at].peak_mib,
                "memory": device.memory,
                "load_average": [before, _load_average()],
                **facts,
                **({"split_ms_per_image": splits[at]} if at in splits else {}),
                **_beside(work, name, calls[at], limits, device),
            }
            doubt = timing.busy(mine[name]["seconds"], mine[name]["cpu_seconds"], not on_gpu)
            mine[name] |= {"busy": doubt} if doubt else {}
        made[work.name] = mine
    return made


def _without_room(work: Workload, operation: str) -> dict | None:
    """None if memory has room for the call, else which batch it has room for, of those that halving leaves."""
    batch = fits = work.conditions.batch
    while fits:
        try:
            if work.attempt(operation, fits):
                break
        except torch.OutOfMemoryError:
            pass  # memory comes back when the error and its frames are gone
        fits //= 2
        timing.free_memory()
    return None if fits == batch else {"batch": batch, "fits": fits}


def _beside(work: Workload, name: str, call: Call, limits: Mapping, device: timing.Instruments) -> dict:
    """The lower bound and the energy of a workload's own way, where its records name them."""
    found = {}
    if name != work.operations[0]:
        return found
    if any(METRICS[metric].kind == "bound" for metric in work.metrics):
        found["bound"] = work.bound(limits[_limits_key(work)])
    if any(METRICS[metric].kind == "energy" for metric in work.metrics):
        found["energy"] = _energy(call, work.items(name), device)
    return found


def _energy(call: Call, images: int, device: timing.Instruments) -> dict:
    """Millijoules an image over calls of a second or more; no number where none is reported."""
    if device.energy is None:
        return {"mj_per_image": None, "how": device.energy_source}
    calls, start, until = 0, device.energy(), time.monotonic() + ENERGY_SECONDS
    while time.monotonic() < until:
        call()
        device.synchronize()
        calls += 1
    used = 1000 * (device.energy() - start)
    return {"mj_per_image": used / (calls * images), "how": f"{device.energy_source}, {calls} calls"}


def calmer(works: Sequence[Workload], measured: Callable[[], dict]) -> dict:
    """``measured()``, made once more where a busy machine was seen in it; of both the one with fewer doubtful calls,
    and of these the faster one."""

    def doubts(found: dict) -> tuple[int, float]:
        of = [operation for work in works for operation in found[work.name].values()]
        return sum("busy" in one for one in of), sum(quartiles(one["seconds"])[1] for one in of if "seconds" in one)

    first = measured()
    return min(first, measured(), key=doubts) if doubts(first)[0] else first


# ------------------------------------------------------------------------------------------------------ records


@dataclass(frozen=True)
class Metric:
    """``kind``: how its value follows from measurements; ``better``: "high", "low", or None where it is no merit;
    ``operations``: what must have been measured, ours before theirs (any for memory, if empty); ``everywhere``:
    comparable across devices."""

    kind: Literal["rate", "time", "gain", "bound", "energy", "memory"]
    unit: str
    better: str | None
    operations: tuple[str, ...] = ("generate",)
    everywhere: bool = False


METRICS = {
    "images-per-second": Metric("rate", "images/s", "high"),
    "tokens-per-second": Metric("rate", "tokens/s", "high"),  # of whole images, their decoding included
    "ms-per-image": Metric("time", "ms", "low"),
    "eager-ms-per-image": Metric("time", "ms", "low", ("eager",)),
    "speedup-over-eager": Metric("gain", "", "high", ("generate", "eager"), everywhere=True),
    "floor-ms-per-image": Metric("bound", "ms", None),
    "energy-mj-per-image": Metric("energy", "mJ", "low"),
    "ms-per-call": Metric("time", "ms", "low", ("call",)),
    "plain-ms-per-call": Metric("time", "ms", "low", ("plain",)),
    "speedup-over-plain": Metric("gain", "", "high", ("call", "plain"), everywhere=True),
    "floor-ms-per-call": Metric("bound", "ms", None, ("call",)),
    "encode-images-per-second": Metric("rate", "images/s", "high", ("encode",)),
    "decode-images-per-second": Metric("rate", "images/s", "high", ("decode",)),
    "step-seconds": Metric("time", "s", "low", ("step",)),
    "peak-memory-mib": Metric("memory", "MiB", "low", ()),
    "peak-memory-gib": Metric("memory", "GiB", "low", ()),
}
_PER_SECOND = {"s": 1.0, "ms": 1000.0}
_PER_MIB = {"MiB": 1.0, "GiB": 1 / 1024}


def to_record(metric: str, shared: dict, operations: dict[str, dict]) -> Record:
    """One record from the measurements of a workload; ``shared``: the fields known before.

    The value is the median over rounds, low and high are the quartiles; of the first decode steps alone, n counts
    steps, so that it never passes for the whole.  Out of memory, there is no value."""
    what = METRICS[metric]
    first = next(iter(operations.values()))
    needed = what.operations or tuple(name for name in operations if name != "eager")
    lost = next((found["out_of_memory"] for name in needed if "out_of_memory" in (found := operations[name])), None)
    if lost is not None:
        made = {"value": None, "n": 0, "n_expected": PROTOCOL_REPEATS, "extra": {"out_of_memory": lost}}
        return _record(metric, shared, made, memory_words(lost))
    if what.kind == "memory":
        return _record(metric, shared, *_peak(what, operations))
    if what.kind in ("bound", "energy"):
        value, extra, why = _beside_value(what, operations[what.operations[0]])
        made = {"value": value, "n": int(value is not None), "n_expected": 1, "extra": extra}
    else:
        made, why = _rounds(what, [operations[name] for name in what.operations])
    steps = shared["protocol_params"].get("steps")
    if steps is not None and made["value"] is not None:
        made |= {"n": steps, "n_expected": first["decode_steps"]}
    return _record(metric, shared, made, why)


def _record(metric: str, shared: dict, made: dict, why: str | None) -> Record:
    note = "; ".join(filter(None, (shared.get("note"), why))) or None
    return record.make(**{**shared, "note": note}, metric=metric, unit=METRICS[metric].unit, **made)


def memory_words(lost: dict) -> str:
    """What a row says of a batch that the memory has no room for."""
    fits = f"{lost['fits']} images fit" if lost["fits"] else "not even one image fits"
    return f"out of memory with {lost['batch']} images at a time; {fits}"


def _rounds(what: Metric, found: list[dict]) -> tuple[dict, str | None]:
    """Value and quartiles of what every round gives a value of, and what makes them doubtful."""
    each = [[s / one["images"] for s in one["seconds"]] for one in found]
    if what.kind == "gain":
        values = [theirs / ours for ours, theirs in zip(*each, strict=True)]
    else:
        many = found[0]["tokens"] if what.unit == "tokens/s" else 1
        values = [many / s if what.kind == "rate" else _PER_SECOND[what.unit] * s for s in each[0]]
    low, middle, high = quartiles(values)
    last = found[-1]
    doubt = next((one["busy"] for one in found if "busy" in one), None)
    extra = {k: v for k, v in last.items() if k not in ("peak_mib", "memory", "bound", "energy")}
    made = {
        "value": middle,
        "low": low,
        "high": high,
        "interval": f"quartiles of {len(values)} repeats",
        "n": len(values),
        "n_expected": max(PROTOCOL_REPEATS, len(values)),
        "extra": extra | ({"busy": doubt} if doubt else {}),
        "seconds": sum(last["seconds"]),
    }
    return made, f"measured on a busy machine: {doubt}" if doubt else None


def _beside_value(what: Metric, found: dict) -> tuple[float | None, dict, str | None]:
    """Value, extra and, where there is none, why, of what is known once a measurement."""
    if what.kind == "bound":
        return found["bound"]["ms"], found["bound"], None
    value, how = found["energy"]["mj_per_image"], found["energy"]["how"]
    return value, {"how": how}, how if value is None else None


def _peak(what: Metric, operations: dict[str, dict]) -> tuple[dict, str | None]:
    """The highest peak among a workload's operations, of a generator with its engine."""
    peaks = {name: found.get("peak_mib") for name, found in operations.items()}
    of = [peak for name, peak in peaks.items() if name != "eager"]
    known = None not in of
    extra = {"how": next(iter(operations.values()))["memory"]}
    extra |= {"eager_mib": peaks["eager"]} if "eager" in peaks else {}
    value = _PER_MIB[what.unit] * max(of) if known else None
    made = {"value": value, "n": int(known), "n_expected": 1, "extra": extra}
    return made, None if known else "peak memory of a process cannot be read on this system"


# --------------------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Outcome:
    """All records of a run, and how many were made now or found unchanged on disk."""

    records: list[Record] = field(default_factory=list)
    computed: int = 0
    reused: int = 0


def _stored(path: Path, key: str, operations: Iterable[str]) -> dict | None:
    """Evidence on disk if it was gathered under that key and holds these operations."""
    try:
        found = files.unsealed(read_json(path))
        if found is None:
            print(f"note: {path} was changed since it was written; it is measured again", file=sys.stderr)
            return None
        return found if found["key"] == key and set(operations) <= set(found["operations"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _evidence(works: list[Workload], work: Path, fresh: bool) -> tuple[dict[str, dict], set[str]]:
    """Evidence of all workloads by name, measured where it does not stand; and of which it was measured now."""
    kept = {w.name: None if fresh else _stored(work / w.evidence, w.heading["key"], w.operations) for w in works}
    todo = [each for each in works if kept[each.name] is None]
    groups: dict[tuple, list[Workload]] = {}
    for each in todo:
        groups.setdefault(each.group, []).append(each)
    limits = limits_of(todo)
    rounds = sum((w.conditions.warmup + w.conditions.repeats) * len(w.operations) for w in todo)
    with tqdm(total=rounds, desc="bench", unit="round", disable=not todo or None) as bar:
        for group in groups.values():
            bar.set_postfix_str(", ".join(each.model for each in group)[:60])
            measured = calmer(group, lambda group=group: measure(group, limits, on_call=bar.update))
            for each in group:
                kept[each.name] = {"key": each.heading["key"], "stamp": stamp(), "operations": measured[each.name]}
                files.remove_unfinished(work / each.evidence)
                files.write_json(work / each.evidence, files.sealed(kept[each.name]))
    return kept, {each.name for each in todo}


def run(works: Sequence[Workload], work: str | Path, records: str | Path, fresh: bool = False) -> Outcome:
    """The records of all workloads: those that stand are reused, and missing ones made from evidence that stands;
    ``fresh`` measures all again.  Workloads of one group are measured in alternation.

    Raises ValueError before any work for one that is given twice, and for a name that is another model's below
    ``records``."""
    names = [each.name for each in works]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{twice[0]} is asked for twice; give each model, acceleration and batch once")
    for each in works:
        told = {name: each.heading.get(name) for name in ("subject", "accel", "suite", "fingerprint", "origin")}
        claim(records, each.metrics, **told)
    wanted = {f"{each.name}/{metric}": (each, metric) for each in works for metric in each.metrics}
    kept = {n: None if fresh else record.find(records, n, w.heading["key"]) for n, (w, _) in wanted.items()}
    needing = {each.name: each for name, (each, _) in wanted.items() if kept[name] is None}
    evidence, measured = _evidence(list(needing.values()), Path(work), fresh)
    # Times of one measurement stand together: what was measured anew replaces all records of its workload.
    missing = [name for name, (each, _) in wanted.items() if kept[name] is None or each.name in measured]
    for name in missing:
        each, metric = wanted[name]
        of = evidence[each.name]
        shared = {**each.heading, **of["stamp"], "evidence": each.evidence.as_posix()}
        kept[name] = to_record(metric, shared, of["operations"])
        record.write(kept[name], records)
    return Outcome([kept[name] for name in wanted], len(missing), len(wanted) - len(missing))


# --------------------------------------------------------------------------------------------------------- rows

FIELDS = {
    "ms-per-image": "engine_ms",
    "eager-ms-per-image": "eager_ms",
    "speedup-over-eager": "ratio",
    "floor-ms-per-image": "bound_ms",
    "ms-per-call": "engine_ms",
    "plain-ms-per-call": "eager_ms",
    "speedup-over-plain": "ratio",
    "floor-ms-per-call": "bound_ms",
}


def rows(records: Iterable[Record]) -> list[dict]:
    """One row a model and suite for people and programs: milliseconds are of one image (a call, a row of a step).

    ``ratio``: eager over engine; ``of_bound``: lower bound over engine; ``busy``: why its times are doubtful; None
    where it was not measured."""
    table: dict[str, dict] = {}
    for found in records:
        if found.metric not in METRICS or not (SPEED.fullmatch(found.suite) or found.metric == "step-seconds"):
            continue
        row = table.setdefault(f"{found.model}/{found.suite}", _row(found))
        if "busy" in found.extra:
            row["busy"] = found.extra["busy"]
        if found.metric == "step-seconds":
            if found.value:
                row |= {"engine_ms": 1000 * found.value / row["batch"], "images_per_second": row["batch"] / found.value}
            continue
        row[FIELDS.get(found.metric, found.metric.replace("-", "_"))] = found.value
        if "out_of_memory" in found.extra and found.metric in ("ms-per-image", "eager-ms-per-image"):
            row["error"] = memory_words(found.extra["out_of_memory"])
        if found.metric == "ms-per-image":
            row |= {"split_ms": found.extra.get("split_ms_per_image"), "notes": found.extra.get("notes", [])}
    for row in table.values():
        if row["engine_ms"] and row["bound_ms"]:
            row["of_bound"] = row["bound_ms"] / row["engine_ms"]
    return list(table.values())


def _row(found: Record) -> dict:
    """A row before its numbers."""
    params = found.protocol_params
    row = {"model": found.model, "accel": found.accel, "batch": params["batch"], "mode": params.get("mode")}
    row |= {"steps": params.get("steps"), "weights": params.get("weights"), "dtype": params.get("dtype")}
    numbers = ("engine_ms", "eager_ms", "ratio", "bound_ms", "of_bound", "images_per_second", "error", "busy")
    return row | dict.fromkeys(numbers)


# --------------------------------------------------------------------------------------------- pytest-benchmark


def benchmark_info(work: Workload, operation: str, measurement: dict) -> dict:
    """What a pytest-benchmark test leaves in its ``extra_info`` for ``from_benchmark_json``."""
    shared = {**work.heading, **stamp()}
    return {"shared": shared, "operation": operation, "measurement": measurement, "metrics": work.metrics}


RECORDED = ("test_generate[", "test_autoencoder[")  # of test_speed.py


def from_benchmark_json(path: str | Path) -> list[Record]:
    """The records of a ``pytest bench --benchmark-enable --benchmark-only --benchmark-json=FILE`` run, sorted by name.

    Benchmarks of other things than models are left out; a record that needs several operations is made where all of
    them are in the file.  Raises ValueError for a file that is no such JSON, and for
    rounds that are not those that pytest-benchmark clocked."""
    remedy = f"make it with `pytest bench --benchmark-enable --benchmark-only --benchmark-json={path}`"
    present(path, "results", remedy)
    try:
        benchmarks = read_json(path)["benchmarks"]
        infos = [(b["extra_info"], b["stats"]["data"], b["name"]) for b in benchmarks]
        infos = [row for row in infos if row[2].startswith(RECORDED)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the JSON of pytest-benchmark ({type(error).__name__}: {error})") from error
    found: dict[tuple, dict] = {}
    for info, clocked, name in infos:
        if "measurement" not in info:
            raise ValueError(f"{path}: benchmark {name} is none of this project's; run `pytest bench` alone")
        measured = info["measurement"]["seconds"]
        # The outer clock also sees the few microseconds between its reading and ours.
        if len(measured) != len(clocked) or any(
            abs(a - b) > 0.005 + 0.01 * b for a, b in zip(measured, clocked, strict=True)
        ):
            raise ValueError(f"{path}: the rounds of {name} are not those that pytest-benchmark clocked; run it again")
        shared = info["shared"]
        # One model under two conditions would be two records of one name.
        one = found.setdefault((shared["subject"], shared["accel"]), {"operations": {}, **info})
        if one["shared"]["key"] != shared["key"]:
            raise ValueError(f"{path} holds {shared['subject']} under two conditions; write them to two files")
        one["operations"][info["operation"]] = info["measurement"]
    made = []
    for one in found.values():
        for metric in one["metrics"]:
            needed = METRICS[metric].operations
            needed = needed or {op for m in one["metrics"] for op in METRICS[m].operations}
            if set(needed) <= set(one["operations"]):
                made.append(to_record(metric, one["shared"], one["operations"]))
    return sorted(made, key=lambda r: r.name)
