"""Reconstruction of drawn scenes and of photographs, in the shape of the paper's Table 2."""

from __future__ import annotations

from reports.measured import Measured, is_reference, label
from reports.tables.table import Cell, Column, Row, Table, finish, from_record

NAMED = ("scenes", "photos")
METRICS = (
    Column("psnr-mean", "PSNR", "dB", 2, "high"),
    Column("ssim-wang", "SSIM", "", 3, "high"),
    Column("ssim-taming", "SSIM (range-2 variant, inflated)", "", 3, "high"),
    Column("fd-efflite2", "fd-efflite2", "", 2, "low"),
    Column("judge-agreement", "Judge agreement", "", 3, "high", optional=True),
    Column("lpips-alex-v0.1", "LPIPS (Alex)", "", 3, "low", optional=True),
    Column("lpips-vgg-v0.1", "LPIPS (VGG)", "", 3, "low", optional=True),
)
NOTES = (
    "PSNR: mean over images. SSIM: ssim-wang, 11x11 Gaussian window, data range 1; the range-2 variant (ssim-taming) "
    "is the one in the paper's lineage and is inflated by construction.",
    "fd-efflite2: Fréchet distance on EfficientNet-Lite2 features; it is not FID and has no counterpart in papers.",
)
AGREEMENT = (
    "Judge agreement: share of scenes whose set of (color, shape) the judge finds unchanged after reconstruction."
)


def build(measured: Measured) -> Table:
    """Rows: autoencoders; columns: the metrics on ``scenes`` and on ``photos``."""
    columns, rows = [], []
    for suite in NAMED:
        for c in METRICS:
            if suite == "scenes" or c.key != "judge-agreement":
                columns.append(
                    Column(
                        f"{suite}_{c.key}", c.head, c.unit, c.digits, c.better, suite.capitalize(), optional=c.optional
                    )
                )
    for subject in measured.autoencoders():
        cells = {c.key: from_record(measured.get(subject, *c.key.split("_", 1))) for c in columns}
        rows.append(Row(label(subject), cells, "reference" if is_reference(subject) else "model"))
    table = Table(
        "vgt_tab2_reconstruction",
        "Reconstruction on drawn scenes and on photographs",
        columns,
        rows,
        [*NOTES, AGREEMENT],
        row_head="Autoencoder",
    )
    return finish(table)


EVERY = (
    METRICS[0],
    Column("psnr-global", "PSNR of pooled error", "dB", 2, "high", optional=True),
    Column("ssim-wang", "ssim-wang", "", 3, "high"),
    Column("ssim-tm", "ssim-tm", "", 3, "high", optional=True),
    Column("ssim-y", "ssim-y", "", 3, "high", optional=True),
    Column("ssim-sk", "ssim-sk", "", 3, "high", optional=True),
    Column("ssim-tm-signed", "ssim-tm-signed", "", 3, "high", optional=True),
    Column("ssim-taming", "ssim-taming (inflated)", "", 3, "high"),
    Column("fd-efflite0", "fd-efflite0", "", 2, "low", optional=True),
)


def build_variants(measured: Measured) -> Table:
    """Every definition of PSNR and SSIM side by side, one row per autoencoder and data set."""
    columns = [Column("data", "Data", text=True), *EVERY]
    rows = [
        Row(label(s), {"data": Cell(suite)} | {c.key: from_record(measured.get(s, suite, c.key)) for c in EVERY})
        for suite in NAMED
        for s in measured.subjects(suite)
    ]
    notes = [
        "One image pair, many definitions: only columns of the same name may be compared across reports.",
        "fd-efflite0: a Fréchet distance on features that the autoencoders' training loss uses too: it flatters them.",
    ]
    title = "Definitions of PSNR and SSIM side by side"
    return finish(Table("reconstruction_variants", title, columns, rows, notes, row_head="Autoencoder"), compare=False)


def build_other(measured: Measured) -> Table:
    """The same metrics on any other data that was scored, one row per autoencoder and data set."""
    found = [r for r in measured.records if r.metric == "psnr-mean" and r.suite.partition("@")[0] not in NAMED]
    columns = [Column("data", "Data", text=True), *METRICS]
    rows = []
    for r in found:
        cells = {c.key: from_record(measured.get(r.subject, r.suite, c.key)) for c in METRICS}
        rows.append(Row(label(r.subject), {"data": Cell(r.suite), **cells}))
    return finish(
        Table(
            "reconstruction_other", "Reconstruction on other data", columns, rows, list(NOTES), row_head="Autoencoder"
        )
    )
