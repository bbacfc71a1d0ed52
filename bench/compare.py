"""Two sets of speed records compared: absolute values on one device, ratios across devices."""

from __future__ import annotations

from collections.abc import Iterable

from bench.run import METRICS, Metric
from vgt.core.record import SPEED, Record, one_form
from vgt.methods import registry

RIVALS = (registry.QUERY_AR.name, registry.MAR.name)  # QueryAR and MAR of one kind differ in this part of their names
OVER_MAR = "speedup-over-mar"
THRESHOLD = 0.1  # slower by more than this share is a regression
_FREE = {"weights", "repeats", "warmup"}  # they do not decide the time
_MACHINE = {"device", "threads"}


def compare(a_records: Iterable[Record], b_records: Iterable[Record], threshold: float = THRESHOLD) -> list[dict]:
    """Speed records B against A, one row a name: ``model, suite, metric, a, b, ratio, verdict, why``.

    ``ratio`` is how many times better B is (faster, smaller).  ``verdict``: "regression" below 1 - threshold,
    "improvement" above 1 / (1 - threshold), else "same"; "missing" where a side has no value, "incomparable" where
    conditions differ.  Ratios (engine over the reference implementation, QueryAR over MAR) compare whatever the devices
    are, all else on one device only.  Weights may differ: their values do not decide the time."""
    if not 0 < threshold < 1:
        raise ValueError(f"threshold {threshold} is not a share; choose one between 0 and 1, for example 0.1")
    a, b = ({r.name: r for r in _comparable(side)} for side in (a_records, b_records))
    return [_comparison(a.get(name), b.get(name), threshold) for name in sorted({**a, **b})]


def _metric(name: str) -> Metric:
    return Metric("gain", "", "high", everywhere=True) if name == OVER_MAR else METRICS[name]


def _comparable(records: Iterable[Record]) -> list[Record]:
    """Speeds that are better or worse, with the ratio of each QueryAR to the MAR beside it."""
    found = [r for r in records if SPEED.fullmatch(r.suite) and r.metric in METRICS and METRICS[r.metric].better]
    by_name = {r.name: r for r in found}
    pairs = [(r, by_name.get(r.name.replace(*RIVALS))) for r in found if r.metric == "images-per-second"]
    return found + [over_mar(r, mar) for r, mar in pairs if mar is not None and mar is not r]


def over_mar(query_ar: Record, mar: Record) -> Record:
    """The ratio of two speeds as a record; without a value unless both were measured in one way on one device."""
    known = query_ar.value is not None and mar.value and not _differences(query_ar, mar, set())
    return query_ar.model_copy(
        update={"metric": OVER_MAR, "value": query_ar.value / mar.value if known else None, "unit": ""}
    )


def _comparison(a: Record | None, b: Record | None, threshold: float) -> dict:
    one = a or b
    assert one is not None
    row = {
        "model": one.model,
        "suite": one.suite,
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
    metric = _metric(one.metric)
    differing = _differences(a, b, _MACHINE if metric.everywhere else set())
    if differing:
        return {**row, "verdict": "incomparable", "why": "different " + ", ".join(differing)}
    if not a.value or not b.value:
        return {**row, "verdict": "incomparable", "why": "a value is zero"}
    ratio = b.value / a.value if metric.better == "high" else a.value / b.value
    verdict = "regression" if ratio < 1 - threshold else "improvement" if ratio > 1 / (1 - threshold) else "same"
    return {**row, "ratio": ratio, "verdict": verdict}


def _differences(a: Record, b: Record, also_free: set[str]) -> list[str]:
    """Conditions under which two speeds do not compare."""
    free, left, right = _FREE | also_free, one_form(a.protocol_params), one_form(b.protocol_params)
    params = sorted(k for k in {**left, **right} if k not in free and left.get(k) != right.get(k))
    heads = [k for k in ("device", "protocol", "suite_hash") if k not in free and getattr(a, k) != getattr(b, k)]
    return [*heads, *params]
