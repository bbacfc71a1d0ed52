"""How close the generators' images come to the right ones, as sets (KID, precision, recall ...)."""

from __future__ import annotations

from reports.measured import Measured, is_reference, row_label
from reports.tables.table import Column, Row, Table, finish, from_record

SUITE = "images-oracle"
COLUMNS = (
    Column("kid-efflite2", "KID", "", 3, "low"),
    Column("precision-efflite2", "Precision", "", 3, "high"),
    Column("recall-efflite2", "Recall", "", 3, "high"),
    Column("density-efflite2", "Density", "", 3, "high"),
    Column("coverage-efflite2", "Coverage", "", 3, "high"),
)
NOTES = [
    "Images drawn for the GenEval prompts against the right images of the same prompts, on EfficientNet-Lite2 "
    "features. They ask whether the set looks right, not whether a image fits its prompt: a floor of right images "
    "of other prompts scores well here. Too few images for a Fréchet distance.",
]


def build(measured: Measured) -> Table:
    """Rows: generators by acceleration, then floor and ceilings."""
    found = {(r.subject, r.accel) for r in measured.where(SUITE)}
    models = [(s, a) for s in measured.generators() for a in measured.accels(s) if (s, a) in found]
    others = [(s, None) for s in measured.subjects(SUITE) if is_reference(s)]
    rows = [
        Row(
            row_label(subject, accel),
            {c.key: from_record(measured.get(subject, SUITE, c.key, accel)) for c in COLUMNS},
            "reference" if is_reference(subject) else "model",
        )
        for subject, accel in models + others
    ]
    return finish(Table("fidelity", "The drawn images as a set", list(COLUMNS), rows, NOTES, row_head="Generator"))
