"""The same reconstructions under the protocols of several papers."""

from __future__ import annotations

from reports.measured import Measured, label
from reports.tables.table import Cell, Column, Row, Table, finish, from_record
from vgt.core.record import Record

SSIM = ("ssim-wang", "ssim-taming", "ssim-tm-signed")
NOTES = [
    "Every row of one autoencoder is made from the same network and the same images. A protocol decides how a "
    "image is cut, at which size the two are compared after which resampling, how values are rounded, and which SSIM "
    "is printed; evals/PROTOCOLS.md lists them. The tiny models keep each paper's ratio of sizes.",
]


def _of(measured: Measured, base: str) -> list[Record]:
    """PSNR records of the data set ``base``, plain and ``base@protocol``, by autoencoder; only those that have both."""
    found = [r for r in measured.records if r.metric == "psnr-mean" and r.suite.split("@")[0] == base]
    several = {r.subject for r in found if "@" in r.suite}
    ranked = [s for s in measured.subjects(base) if s in several]
    kept = [r for r in found if r.subject in ranked]
    return sorted(kept, key=lambda r: (ranked.index(r.subject), r.suite != base, r.suite))


def _printed(measured: Measured, record: Record) -> tuple[str, Record | None]:
    """The SSIM that the papers of the record's protocol print: its name and record."""
    own = [r for r in measured.where(record.suite) if r.subject == record.subject and r.metric.startswith("ssim")]
    for r in own:
        if r.protocol_params.get("reported_by_its_papers"):
            return r.metric, r
    return SSIM[0], measured.get(record.subject, record.suite, SSIM[0])


def _size(params: dict) -> str:
    model, compared = params.get("model_res"), params.get("eval_res")
    return f"{model} px" if compared in (None, model) else f"{model} \N{RIGHTWARDS ARROW} {compared} px"


def build(measured: Measured, base: str = "photos") -> Table:
    """Rows: autoencoder and protocol; columns: PSNR, three SSIMs, and the SSIM that the protocol's papers print."""
    columns = [
        Column("protocol", "Protocol", text=True),
        Column("size", "Compared at", text=True),
        Column("psnr-mean", "PSNR", "dB", 2),
        *(Column(m, m, "", 3) for m in SSIM),
        Column("printed", "SSIM as its papers print it", "", 3),
        Column("which", "which is", text=True),
    ]
    rows = []
    for record in _of(measured, base):
        name, printed = _printed(measured, record)
        cells = {m: from_record(measured.get(record.subject, record.suite, m)) for m in ("psnr-mean", *SSIM)}
        cells |= {"printed": from_record(printed), "which": Cell(name), "size": Cell(_size(record.protocol_params))}
        cells["protocol"] = Cell(record.suite.partition("@")[2] or "default")
        rows.append(Row(label(record.subject), cells))
    title = f"One set of reconstructions, five protocols ({base})"
    return finish(Table("protocols", title, columns, rows, NOTES, row_head="Autoencoder"), compare=False)
