"""From measured rounds to records, and from pytest-benchmark's JSON to records."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from bench.timing import quartiles
from vgt.core import record
from vgt.core.record import Record


@dataclass(frozen=True)
class Metric:
    """``operations``: what must have been measured; ``better``: "high", "low", or None where it is no merit;
    ``everywhere``: comparable across devices; ``whole``: not of a part of the decode steps."""

    unit: str
    better: str | None
    operations: tuple[str, ...] = ("generate",)
    everywhere: bool = False
    whole: bool = False


METRICS = {
    "images-per-second": Metric("images/s", "high", whole=True),
    "ms-per-image": Metric("ms", "low"),
    "eager-ms-per-image": Metric("ms", "low", ("eager",)),
    "speedup-over-eager": Metric("", "high", ("generate", "eager"), everywhere=True),
    "floor-ms-per-image": Metric("ms", None),
    "energy-mj-per-image": Metric("mJ", "low", whole=True),
    "ms-per-call": Metric("ms", "low", ("call",)),
    "plain-ms-per-call": Metric("ms", "low", ("plain",)),
    "speedup-over-plain": Metric("", "high", ("call", "plain"), everywhere=True),
    "floor-ms-per-call": Metric("ms", None, ("call",)),
    "encode-images-per-second": Metric("images/s", "high", ("encode",)),
    "decode-images-per-second": Metric("images/s", "high", ("decode",)),
    "peak-memory-mib": Metric("MiB", "low", ()),
}
THRESHOLD = 0.1


def metrics_of(operations: Collection[str], partial: bool = False) -> list[str]:
    """The metrics of a model whose ``operations`` are timed; ``partial``: only the first decode steps."""
    return [
        name
        for name, metric in METRICS.items()
        if set(metric.operations) <= set(operations) and not (partial and metric.whole)
    ]


def to_record(metric: str, shared: dict, operations: dict[str, dict], repeats: int) -> Record:
    """One record from the measurements of a model; ``shared``: the fields known before; ``repeats``: how many rounds
    the protocol asks for.  The value is the median over rounds, low and high are the quartiles; of the first decode
    steps alone, n counts steps, so that it never passes for the whole.  Out of memory, there is no value."""
    first = operations.get("generate") or next(iter(operations.values()))
    needed = METRICS[metric].operations or tuple(name for name in operations if name != "eager")
    lost = next((found["out_of_memory"] for name in needed if "out_of_memory" in (found := operations[name])), None)
    if lost is not None:
        made = {"value": None, "n": 0, "n_expected": repeats, "extra": {"out_of_memory": lost}}
        return _record(metric, shared, made, memory_words(lost))
    if metric == "peak-memory-mib":
        return _record(metric, shared, *_peak(operations))
    if metric in ("floor-ms-per-image", "floor-ms-per-call", "energy-mj-per-image"):
        value, extra, why = _beside(metric, first)
        made = {"value": value, "n": int(value is not None), "n_expected": 1, "extra": extra}
    else:
        made, why = _rounds(metric, operations, repeats), None
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


def _rounds(metric: str, operations: dict[str, dict], repeats: int) -> dict:
    """Value and quartiles of what every round gives a value of."""
    found = operations[METRICS[metric].operations[-1]]
    images, seconds = found["images"], found["seconds"]
    if metric.startswith("speedup"):
        ours = operations[METRICS[metric].operations[0]]["seconds"]
        values = [theirs / own for theirs, own in zip(seconds, ours, strict=True)]
    else:
        values = [1000 * s / images for s in seconds] if "ms-per" in metric else [images / s for s in seconds]
    low, middle, high = quartiles(values)
    return {
        "value": middle,
        "low": low,
        "high": high,
        "interval": f"quartiles of {len(values)} repeats",
        "n": len(values),
        "n_expected": max(repeats, len(values)),
        "extra": {k: v for k, v in found.items() if k not in ("peak_mib", "memory", "floor", "energy")},
        "seconds": sum(seconds),
    }


def _beside(metric: str, found: dict) -> tuple[float | None, dict, str | None]:
    """Value, extra and, where there is none, why, of what is known once a measurement."""
    if metric.startswith("floor"):
        return found["floor"]["ms"], found["floor"], None
    value, how = found["energy"]["mj_per_image"], found["energy"]["how"]
    return value, {"how": how}, how if value is None else None


def _peak(operations: dict[str, dict]) -> tuple[dict, str | None]:
    """The highest peak among a model's operations, of a generator with its engine."""
    peaks = {name: found.get("peak_mib") for name, found in operations.items()}
    of = [peak for name, peak in peaks.items() if name != "eager"]
    known = None not in of
    extra = {"how": next(iter(operations.values()))["memory"]}
    extra |= {"eager_mib": peaks["eager"]} if "eager" in peaks else {}
    made = {"value": max(of) if known else None, "n": int(known), "n_expected": 1, "extra": extra}
    return made, None if known else "peak memory of a process cannot be read on this system"


# ------------------------------------------------------------------------------------------- pytest-benchmark


def benchmark_info(heading: dict, stamp: dict, operation: str, measurement: dict, repeats: int) -> dict:
    """What a pytest-benchmark test leaves in its ``extra_info`` for ``from_benchmark_json``."""
    return {"shared": {**heading, **stamp}, "operation": operation, "measurement": measurement, "repeats": repeats}


MODEL_SUITES = ("test_generation.py", "test_autoencoder.py")


def from_benchmark_json(path: str | Path) -> list[Record]:
    """The records of a ``pytest bench --benchmark-enable --benchmark-only --benchmark-json=FILE`` run, sorted by name.

    Benchmarks of other things (metrics, Frechet distances) are left out; an autoencoder's memory needs both of its own
    in the file.  Raises ValueError for a file that is no such JSON, and for rounds that are not those that
    pytest-benchmark clocked."""
    try:
        benchmarks = json.loads(Path(path).read_text(encoding="utf-8"))["benchmarks"]
        infos = [(b["extra_info"], b["stats"]["data"], b["fullname"]) for b in benchmarks]
        infos = [row for row in infos if any(suite in row[2] for suite in MODEL_SUITES)]
    except FileNotFoundError:
        raise ValueError(
            f"no file {path}; make it with `pytest bench --benchmark-enable --benchmark-only --benchmark-json={path}`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the JSON of pytest-benchmark ({type(error).__name__}: {error})") from error
    models: dict[tuple, dict] = {}
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
        model = models.setdefault((shared["subject"], shared["accel"]), {"shared": shared, "operations": {}, **info})
        if model["shared"]["key"] != shared["key"]:
            raise ValueError(f"{path} holds {shared['subject']} under two conditions; write them to two files")
        model["operations"][info["operation"]] = info["measurement"]
    made = []
    for (_, accel), model in models.items():
        operations = model["operations"]
        complete = accel is not None or set(operations) == {"encode", "decode"}
        for metric in metrics_of(operations):
            if METRICS[metric].operations or complete:
                made.append(to_record(metric, model["shared"], operations, model["repeats"]))
    return sorted(made, key=lambda r: r.name)
