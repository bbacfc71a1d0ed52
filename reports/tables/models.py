"""The models themselves: what the VLMs understand, what training cost."""

from __future__ import annotations

from reports.measured import Measured, label
from reports.tables.table import Cell, Column, Row, Table, finish, from_record


def understanding(measured: Measured) -> Table:
    """Held-out question answering of the VLMs."""
    metrics = sorted({r.metric for r in measured.where("scenes-vqa")}, key=lambda m: (m != "accuracy", m))
    columns = [Column(m, m.replace("-", " ").capitalize(), "", 3, "high") for m in metrics]
    rows = [
        Row(label(s), {c.key: from_record(measured.get(s, "scenes-vqa", c.key)) for c in columns})
        for s in measured.subjects("scenes-vqa")
    ]
    return finish(
        Table("vlm_understanding", "Understanding: questions about unseen scenes", columns, rows, row_head="Model")
    )


BENCHMARKS = (
    ("MME-P", "mme-perception", "MME-P", 1),
    ("MMBench-EN", "accuracy", "MMBench", 1),
    ("AI2D", "accuracy", "AI2D", 1),
    ("TextVQA", "accuracy", "TextVQA", 1),
)


def benchmarks(measured: Measured) -> Table:
    """Understanding benchmarks, imported from the result files of other harnesses (paper Table 1)."""
    columns = [Column(suite, head, "", digits, "high") for suite, _, head, digits in BENCHMARKS]
    columns.append(Column("harness", "Harness", text=True))
    rows = []
    for s in measured.subjects(*(b[0] for b in BENCHMARKS)):
        found = {suite: measured.get(s, suite, metric) for suite, metric, _, _ in BENCHMARKS}
        harness = sorted({r.protocol.split("/")[0] for r in found.values() if r is not None})
        rows.append(
            Row(label(s), {k: from_record(r) for k, r in found.items()} | {"harness": Cell(", ".join(harness))})
        )
    title = "Understanding benchmarks (imported results)"
    return finish(Table("understanding_benchmarks", title, columns, rows, row_head="Model"))


def training(measured: Measured) -> Table:
    """What each model's training cost and where its loss ended."""
    columns = [
        Column("loss", "Final loss", "", 4),
        Column("steps", "Steps", "", 0),
        Column("samples", "Samples", "", 0, optional=True),
        Column("minutes", "Minutes", "", 1, optional=True),
        Column("parameters", "Parameters", "", 0, optional=True),
        Column("device", "Device", text=True),
    ]
    rows = []
    for r in measured.where("training", "loss"):
        curve = r.extra.get("curve") or []
        cells = {"loss": Cell(r.value), "device": Cell(r.device or None)}
        cells["steps"] = Cell(float(curve[-1][0]) if curve else None)
        for key in ("samples", "minutes", "parameters"):
            value = r.extra.get(key)
            cells[key] = Cell(float(value) if isinstance(value, (int, float)) else None)
        rows.append(Row(label(r.subject), cells))
    notes = ["Losses of different kinds of model are not comparable with each other."]
    return finish(Table("training", "Training runs", columns, rows, notes, row_head="Model"))
