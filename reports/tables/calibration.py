"""Calibration of the judge: how often it is right about images with known content."""

from __future__ import annotations

from reports.measured import TASKS, Measured, label
from reports.tables.table import Column, Row, Table, finish, from_record
from reports.tables.vgt_tab8_decoding import TASK_HEADS

JUDGE = "judge-analytic"
REQUIRED = 0.99  # judge accuracy on ground-truth renders, per task
DEGRADATIONS = {
    "calibration-clean": "Clean renders",
    "calibration-blur1": "Blur, sigma 1",
    "calibration-blur1.5": "Blur, sigma 1.5",
    "calibration-noise10": "Noise, sigma 10",
    "calibration-noise20": "Noise, sigma 20",
    "calibration-jpeg50": "JPEG, quality 50",
    "calibration-jpeg25": "JPEG, quality 25",
    "calibration-shrink48": "Shrunk to 48 px and back",
    "calibration-shrink32": "Shrunk to 32 px and back",
}


def build(measured: Measured) -> Table:
    """Rows: degradations of images with known content; columns: how often the judge is right."""
    judges = sorted({r.subject for r in measured.records if r.suite in DEGRADATIONS})
    columns = [Column("overall", "Overall", "", 3)]
    columns += [Column(t, TASK_HEADS[t], "", 3) for t in TASKS]
    columns.append(Column("exact-set", "Exact set", "", 3))
    rows = []
    for judge in judges:
        for suite, words in DEGRADATIONS.items():
            cells = {c.key: from_record(measured.get(judge, suite, c.key)) for c in columns}
            if any(r.suite == suite and r.subject == judge for r in measured.records):
                rows.append(Row(words if len(judges) == 1 else f"{label(judge)}: {words}", cells))
    notes = [
        "Overall and tasks: GenEval's rules on images that show exactly what the prompt says. Exact set: share of "
        "test scenes whose whole set of (color, shape) is found.",
    ]
    return finish(
        Table("judge_calibration", "Calibration of the judge", columns, rows, notes, row_head="Images"), compare=False
    )


def verdict(measured: Measured) -> str:
    """Whether the judge may be trusted on clean images, in a sentence; empty without calibration."""
    cells = {t: from_record(measured.get(JUDGE, "calibration-clean", t)) for t in TASKS}
    known = {t: c.value for t, c in cells.items() if isinstance(c.value, float)}
    if not known:
        return ""
    low = [TASK_HEADS[t] for t, v in known.items() if v < REQUIRED]
    partial = " (partial records)" if any(c.partial for c in cells.values()) else ""
    missing = f"; {len(TASKS) - len(known)} of {len(TASKS)} tasks not measured" if len(known) < len(TASKS) else ""
    state = (
        f"not met for {', '.join(low)}" if low else "met for every task measured" if missing else "met for every task"
    )
    return f"Required on clean renders: at least {REQUIRED} per task; {state}{missing}{partial}."
