"""What self-distillation keeps of the VLM's understanding, in the shape of the paper's Table 1 (claim C1)."""

from __future__ import annotations

from reports.measured import Measured, label
from reports.tables.table import Column, Row, Table, finish, from_record

# (the VLM, its autoencoder trained without self-distillation, and with it)
ARMS = (
    ("vlm_internvl", "vgt_ae_internvl_nodistill", "vgt_ae_internvl"),
    ("vlm_qwen", "vgt_ae_qwen_nodistill", "vgt_ae_qwen"),
)
COLUMNS = [
    Column("accuracy", "Questions answered", "", 3, "high", "Understanding"),
    Column("scenes_psnr-mean", "PSNR", "dB", 2, "high", "Reconstruction, scenes"),
    Column("scenes_judge-agreement", "Judge agreement", "", 3, "high", "Reconstruction, scenes"),
    Column("photos_psnr-mean", "PSNR", "dB", 2, "high", "Photos"),
]


def build(measured: Measured) -> Table:
    """Three rows a VLM: before tuning, and with the encoders of both arms; none where no arm was measured without."""
    rows = []
    for vlm, without, distilled in ARMS:
        if measured.get(f"{vlm}+{without}", "scenes-vqa", "accuracy") is None:
            continue
        rows.append(_row(measured, f"{label(vlm)}, before tuning", vlm, None))
        rows.append(_row(measured, "1: without self-distillation", f"{vlm}+{without}", without))
        rows.append(_row(measured, "2: with self-distillation", f"{vlm}+{distilled}", distilled))
    notes = [
        "The same questions about unseen scenes; only the vision encoder and projector change within a VLM.",
        "Both arms have the same steps, samples and losses but for self-distillation.",
    ]
    return finish(
        Table("vgt_tab1_distillation", "Self-distillation and understanding", COLUMNS, rows, notes, row_head="Encoder")
    )


def _row(measured: Measured, name: str, answering: str, autoencoder: str | None) -> Row:
    cells = {"accuracy": from_record(measured.get(answering, "scenes-vqa", "accuracy"))}
    for key in (c.key for c in COLUMNS[1:]):
        suite, metric = key.split("_")
        cells[key] = from_record(measured.get(autoencoder, suite, metric) if autoencoder else None)
    return Row(name, cells, kind="model" if autoencoder else "reference")
