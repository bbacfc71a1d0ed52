"""The training log that lies beside a checkpoint, as a record: last loss, curve, samples seen, time."""

from __future__ import annotations

from pathlib import Path

from evals.engine.records import Outcome
from vgt.core import files, record

SUITE, METRIC = "training", "loss"


def run(name: str, fingerprint: str, rows: list[dict], parameters: int, *, records: str | Path) -> Outcome:
    """One record from log rows with ``step``, ``samples``, ``loss``; nothing is measured again.

    The value is the mean loss over the last tenth of the log; ``extra.curve`` holds [step, loss] pairs."""
    if not rows:
        raise ValueError(f"the training log of {name} is empty")
    log_hash = files.digest_json(rows)
    key = record.make_key(fingerprint=fingerprint, log=log_hash)
    kept = record.find(records, f"{name}/{SUITE}/{METRIC}", key)
    if kept is not None:
        return Outcome([kept], 0, 1)
    tail = [row["loss"] for row in rows[-max(1, len(rows) // 10) :]]
    extra = {
        "curve": [[row["step"], round(row["loss"], 6)] for row in rows],
        "steps": rows[-1]["step"],
        "samples": rows[-1]["samples"],
        "parameters": parameters,
    }
    if "minutes" in rows[-1]:
        extra["minutes"] = sum(row.get("minutes", 0.0) for row in rows)  # one of the rows of each round
    made = record.make(
        subject=name,
        suite=SUITE,
        metric=METRIC,
        value=sum(tail) / len(tail),
        n=len(tail),
        n_expected=len(tail),
        protocol="training-log",
        fingerprint=fingerprint,
        suite_hash=log_hash,
        key=key,
        extra=extra,
        note="mean over the last tenth of the log; the log travels with the checkpoint",
    )
    record.write(made, records)
    return Outcome([made], 1, 0)
