"""``vgt eval training``: the training log beside a checkpoint as a record: last loss, curve, samples, time."""

from __future__ import annotations

from pathlib import Path

from evals.engine import options
from evals.engine.judging import Named
from evals.engine.options import option
from evals.engine.records import Estimate, Outcome, plain, write
from vgt.core import files, record

SUITE, METRIC = "training", "loss"
EXAMPLE = "vgt eval training --subject vgt:query_ar_internvl"


class Options(options.Common):
    subject: str | None = option(None, "vgt:<checkpoint>")


def evaluate(given: Options) -> Outcome:
    from evals.subjects import vgt

    given.refuse("a log is read as it is", "seed")
    path = options.checkpoint(given.subject, "has no training log", "vgt:query_ar_internvl")
    name, *log = vgt.training_log(path)
    name = given.named(Named(name, log[0])).name
    return run(name, *log, records=given.records)


def run(
    name: str, fingerprint: str, rows: list[dict], parameters: int, device: str | None = None, *, records: str | Path
) -> Outcome:
    """One record from log rows with ``step``, ``samples``, ``loss``; nothing is measured again.

    The value is the mean loss over the last tenth of the log; ``extra.curve`` holds [step, loss] pairs, ``device`` is
    what it was trained on (in its last round)."""
    if not rows:
        raise ValueError(f"the training log of {name} is empty")
    log_hash = files.digest_json(rows)
    keys = {METRIC: record.make_key(fingerprint=fingerprint, log=log_hash, device=device)}
    there = record.find(records, f"{name}/{SUITE}/{METRIC}", keys[METRIC])
    kept = {} if there is None else {METRIC: there}
    tail = [row["loss"] for row in rows[-max(1, len(rows) // 10) :]]
    extra = {
        "curve": [[row["step"], round(row["loss"], 6)] for row in rows],
        "steps": rows[-1]["step"],
        "samples": rows[-1]["samples"],
        "parameters": parameters,
    }
    if device is not None:
        extra["device"] = device
    if "minutes" in rows[-1]:
        extra["minutes"] = sum(row.get("minutes", 0.0) for row in rows)  # one of the rows of each round
    loss = Estimate(
        metric=METRIC,
        estimate=plain(sum(tail) / len(tail)),
        n=len(tail),
        asked=len(tail),
        n_expected=len(tail),
        note="mean over the last tenth of the log; the log travels with the checkpoint",
        extra=extra,
    )
    common = {
        "subject": name,
        "suite": SUITE,
        "protocol": "training-log",
        "fingerprint": fingerprint,
        "origin": fingerprint,
        "suite_hash": log_hash,
    }
    return write(records, keys, kept, {METRIC: loss}, common)
