"""The tables of README.md and docs/speed.md, written from the published records: ``python -m reports.markdown``.

A page marks the place of a table with ``<!-- table: NAME -->`` before it and ``<!-- end -->`` behind it."""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reports import published, regenerated, verdicts
from reports.measured import Measured
from reports.regenerated import Regenerated
from reports.results import unpack
from reports.table import Row
from reports.table import markdown as as_markdown
from vgt.core import record, samples
from vgt.core.record import Record

ROOT = Path(__file__).resolve().parent.parent
RECORDS = Path(__file__).parent / "records" / "tiny.jsonl"
PLACE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.S)


@dataclass(frozen=True)
class Pair:
    """One of our numbers and the paper's: ``ours`` is (subject, acceleration, suite, metric), ``paper`` (table, row,
    column) of reports/papers/vgt.toml, None where the paper has no such number."""

    label: str
    ours: tuple[str, int | None, str, str]
    digits: int
    paper: tuple[str, str, str] | None = None
    unit: str = ""


GENEVAL, DPG = ("scenes-geneval", "overall"), ("scenes-dpg", "dpg")
RESULTS = [
    Pair("VGT-AE (InternVL), PSNR of photographs", ("vgt_ae_internvl", None, "photos", "psnr-mean"), 1,
         ("table2", "VGT-AE (InternViT)", "psnr"), " dB"),
    Pair("VGT-AE (Qwen), PSNR of photographs", ("vgt_ae_qwen", None, "photos", "psnr-mean"), 1,
         ("table2", "VGT-AE (QwenViT)", "psnr"), " dB"),
    Pair("QueryAR (Qwen) 1x, GenEval", ("query_ar_qwen", 1, *GENEVAL), 3, ("table8", "QueryAR 1x", "geneval")),
    Pair("QueryAR (Qwen) 1x, DPG", ("query_ar_qwen", 1, *DPG), 1, ("table8", "QueryAR 1x", "dpg")),
    Pair("QueryAR (Qwen) 4x, GenEval", ("query_ar_qwen", 4, *GENEVAL), 3, ("table8", "QueryAR 4x", "geneval")),
    Pair("MAR (InternVL; paper: Qwen) 1x, GenEval", ("mar_internvl", 1, *GENEVAL), 3, ("table8", "MAR 1x", "geneval")),
    Pair("MAR (InternVL; paper: Qwen) 1x, DPG", ("mar_internvl", 1, *DPG), 1, ("table8", "MAR 1x", "dpg")),
    Pair("MAR (InternVL; paper: Qwen) 4x, GenEval", ("mar_internvl", 4, *GENEVAL), 3, ("table8", "MAR 4x", "geneval")),
    Pair("QueryAR (InternVL) 1x, GenEval", ("query_ar_internvl", 1, *GENEVAL), 3),
    Pair("QueryAR (pixel-only latents) 1x, GenEval", ("query_ar_pixel", 1, *GENEVAL), 3),
    Pair("Shuffled prompts (the lower end of the scale), GenEval", ("shuffled", None, *GENEVAL), 3),
]  # fmt: skip
DECIDED = (verdicts.REPRODUCED, verdicts.CONTRADICTED)
ACCELERATIONS, BATCHES = (1, 2, 4, 8, 16), (8, 1)


class Published(dict):
    """The published records by (subject, acceleration, suite, metric)."""

    def __init__(self):
        super().__init__({(r.subject, r.accel, r.suite, r.metric): r for r in record.read(RECORDS)})

    def __missing__(self, name: tuple) -> Record:
        raise ValueError(f"{RECORDS.name} has no record {name}")


def _value(r: Record, digits: int, unit: str = "") -> str:
    interval = f" [{r.low:.{digits}f}, {r.high:.{digits}f}]" if r.low is not None and r.high is not None else ""
    return f"{r.value:.{digits}f}{unit}{interval}"


def _lines(heads: list[str], rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in [heads, ["---"] * len(heads), *rows])


def results() -> str:
    """Our scores beside the paper's."""
    records, paper = Published(), published.load("vgt")
    rows = []
    for pair in RESULTS:
        theirs, source = "", ""
        if pair.paper:
            table, row, key = pair.paper
            digits = next(c.digits for c in paper[table].columns if c.key == key)
            theirs = f"{paper[table].value(row, key):.{digits}f}{pair.unit}"
            source = paper[table].source.rpartition(", ")[2]
        rows.append([pair.label, _value(records[pair.ours], pair.digits, pair.unit), theirs, source])
    return _lines(["", "here: tiny models, 64 px", "the paper: full size, 448 px", "source"], rows)


def speed() -> str:
    """Images a second of the bundled models, beside the reference implementation and the lower bound of time."""
    records = Published()
    rows = []
    for batch in BATCHES:
        for name, subject in (("QueryAR", "query_ar_internvl"), ("MAR", "mar_internvl")):
            cells = []
            for accel in ACCELERATIONS:
                metrics = ("images-per-second", "speedup-over-eager", "ms-per-image", "floor-ms-per-image")
                rate, gain, ms, least = (records[subject, accel, f"bench-b{batch}", m].value for m in metrics)
                cells.append(f"{rate:.1f} ({gain:.1f}x; {ms / least:.1f})")
            rows.append([f"{name}, batch {batch}", *cells])
    device = records["query_ar_internvl", 1, "bench-b8", "images-per-second"].device
    heads = [
        f"images/s on {device} (over the reference implementation; time over the lower bound)",
        *(f"{a}x" for a in ACCELERATIONS),
    ]
    return _lines(heads, rows)


def paper(roots: Path | Sequence[Path], scale: str, of: str = "vgt") -> dict[str, str]:
    """The paper regenerated at a scale, as Markdown by name: "claims", those of them that were decided ("verdicts"),
    and every table and figure of the recipe ("table8", "tradeoff").  Raises ValueError for records that hold no model
    of the scale with a seed."""
    measured = Measured(record.read(roots))
    if scale not in regenerated.scales(measured, of):
        raise ValueError(
            f"no record of a model of the scale {scale} with a seed; run: vgt reproduce paper --scale {scale}"
        )
    ours = Regenerated(measured, of, scale, samples.lookup(roots))
    tables = {entry.id: ours.table(entry.id) for entry in ours.recipe.regenerated}
    found = {}
    if claims := regenerated.claims(ours):
        tables["claims"] = claims[0]
        found["verdicts"] = _verdicts(claims[1].rows)
    return found | {name: as_markdown(filled) for name, filled in tables.items()}


def _verdicts(rows: Sequence[Row]) -> str:
    """The decided claims in short: a line each, with the numbers of its comparisons."""
    lines = []
    for row in rows:
        number, part = row.label.partition(".")[::2]
        words = {key: str(cell.value) for key, cell in row.cells.items()}
        if not part and words["verdict"] in DECIDED:
            several = any(other.label.startswith(f"{number}.") for other in rows)
            lines.append([number, words["claim"], words["verdict"], "" if several else words["here"]])
        elif part and lines and lines[-1][0] == number:
            lines[-1][-1] += f"{'; ' if lines[-1][-1] else ''}{words['here']}"
    return _lines(["", "claim", "verdict", "left vs right: difference, 95 %"], lines)


@functools.cache
def micro() -> dict[str, str]:
    """The paper regenerated at 32 px, from the published results."""
    with tempfile.TemporaryDirectory() as folder:
        unpack("micro", Path(folder))
        return paper(Path(folder) / "records", "micro")


TABLES = {"results": results, "speed": speed}
PAGES = (ROOT / "README.md", ROOT / "docs" / "speed.md", ROOT / "docs" / "results.md")


def _table(name: str) -> str:
    return micro()[name.removeprefix("micro_")] if name.startswith("micro_") else TABLES[name]()


def filled(text: str) -> str:
    """A page with its tables as the records say."""
    return PLACE.sub(lambda m: m[1] + _table(m[2]) + m[3], text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
        print(page.relative_to(ROOT))
