"""From measured rounds to records, from pytest-benchmark's JSON to records, and two sets of records compared."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from bench.timing import quartiles
from vgt.core import record
from vgt.core.record import Record

# metric: (operation that it is about, or None for all; unit; whether more is better)
METRICS = {
    "images-per-second": ("generate", "images/s", True),
    "ms-per-image": ("generate", "ms", False),
    "encode-images-per-second": ("encode", "images/s", True),
    "decode-images-per-second": ("decode", "images/s", True),
    "peak-memory-mib": (None, "MiB", False),
}
OPERATIONS = {True: ("generate",), False: ("encode", "decode")}  # by: is it a generator
THRESHOLD = 0.1


def metrics_of(accel: int | None) -> list[str]:
    """The metrics of a generator (with an acceleration) or of an autoencoder (None)."""
    operations = OPERATIONS[accel is not None]
    return [metric for metric, (operation, _, _) in METRICS.items() if operation is None or operation in operations]


def to_record(metric: str, shared: dict, operations: dict[str, dict], repeats: int) -> Record:
    """One record from the measurements of a model; ``shared``: the fields known before; ``repeats``: how many rounds
    the protocol asks for.  The value is the median over rounds, low and high are the quartiles."""
    operation, unit, _ = METRICS[metric]
    if operation is None:
        return _memory_record(metric, unit, shared, operations)
    found = operations[operation]
    images, seconds = found["images"], found["seconds"]
    values = [1000 * s / images for s in seconds] if metric == "ms-per-image" else [images / s for s in seconds]
    low, middle, high = quartiles(values)
    extra = {k: v for k, v in found.items() if k not in ("peak_mib", "memory")}
    return record.make(
        **shared,
        metric=metric,
        unit=unit,
        value=middle,
        low=low,
        high=high,
        interval=f"quartiles of {len(values)} repeats",
        n=len(values),
        n_expected=max(repeats, len(values)),
        extra=extra,
        seconds=sum(seconds),
    )


def _memory_record(metric: str, unit: str, shared: dict, operations: dict[str, dict]) -> Record:
    """The highest peak among a model's operations."""
    peaks = [found["peak_mib"] for found in operations.values()]
    known = None not in peaks
    reason = None if known else "peak memory of a process cannot be read on this system"
    return record.make(
        **{**shared, "note": "; ".join(filter(None, (shared.get("note"), reason))) or None},
        metric=metric,
        unit=unit,
        value=max(peaks) if known else None,
        n=int(known),
        n_expected=1,
        extra={"how": next(iter(operations.values()))["memory"]},
    )


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
        complete = set(operations) == set(OPERATIONS[accel is not None])
        for metric in metrics_of(accel):
            operation = METRICS[metric][0]
            if operation in operations or (operation is None and complete):
                made.append(to_record(metric, model["shared"], operations, model["repeats"]))
    return sorted(made, key=lambda r: r.name)


# ----------------------------------------------------------------------------------------------------- compare


def compare(a_records: Iterable[Record], b_records: Iterable[Record], threshold: float = THRESHOLD) -> list[dict]:
    """Speed records B against A, one row a name: ``model, metric, a, b, ratio, verdict, why``.

    ``ratio`` is how many times better B is (faster, smaller).  ``verdict``: "regression" below 1 - threshold,
    "improvement" above 1 / (1 - threshold), else "same"; "missing" where a side has no value, "incomparable" where
    device or protocol differ.  Weights may differ: their values do not decide the time."""
    if not 0 < threshold < 1:
        raise ValueError(f"threshold {threshold} is not a share; choose one between 0 and 1, for example 0.1")
    a, b = ({r.name: r for r in side if r.suite == "bench" and r.metric in METRICS} for side in (a_records, b_records))
    return [_comparison(a.get(name), b.get(name), threshold) for name in sorted({**a, **b})]


def _comparison(a: Record | None, b: Record | None, threshold: float) -> dict:
    one = a or b
    assert one is not None
    row = {
        "model": one.model,
        "metric": one.metric,
        "a": a.value if a else None,
        "b": b.value if b else None,
        "ratio": None,
        "verdict": "missing",
        "why": None,
    }
    if a is None or b is None or a.value is None or b.value is None:
        absent = "A" if a is None or a.value is None else "B"
        return {**row, "why": f"{absent} has no value"}
    differing = _differences(a, b)
    if differing:
        return {**row, "verdict": "incomparable", "why": "different " + ", ".join(differing)}
    if not a.value or not b.value:
        return {**row, "verdict": "incomparable", "why": "a value is zero"}
    ratio = b.value / a.value if METRICS[one.metric][2] else a.value / b.value
    verdict = "regression" if ratio < 1 - threshold else "improvement" if ratio > 1 / (1 - threshold) else "same"
    return {**row, "ratio": ratio, "verdict": verdict}


def _differences(a: Record, b: Record) -> list[str]:
    """Conditions under which two speeds do not compare."""
    free = {"weights", "repeats", "warmup"}
    params = sorted(
        k
        for k in {**a.protocol_params, **b.protocol_params}
        if k not in free and a.protocol_params.get(k) != b.protocol_params.get(k)
    )
    heads = [k for k in ("device", "protocol", "suite_hash") if getattr(a, k) != getattr(b, k)]
    return [*heads, *params]
