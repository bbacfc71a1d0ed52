"""The paper's ordinal claims that these records can speak to, claim by claim.

A verdict compares two estimates and their 95 % intervals.  Intervals that are apart decide; overlapping intervals
do not, whatever the order (a paired test may: see the gate).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations

from reports import published
from reports.measured import Measured
from reports.tables import vgt_tab1_distillation
from reports.tables.table import EMPTY, Cell, Column, Row, Table, from_record
from reports.tables.vgt_tab6_tradeoff import points

COLUMNS = [
    Column("claim", "Claim", text=True),
    Column("paper", "Paper", text=True),
    Column("ours", "Here", text=True),
    Column("verdict", "Verdict", text=True),
]
Add = Callable[[str, str, str, str, str], None]  # number, claim, the paper's, ours, verdict
SUITES = (("scenes-geneval", "overall", "geneval", "GenEval", 3), ("scenes-dpg", "dpg", "dpg", "DPG", 1))


def verdict(left: Cell, right: Cell) -> str:
    """What two scores say about "left is higher than right"."""
    if not isinstance(left.value, float) or not isinstance(right.value, float):
        return "not measured"
    if left.basis != right.basis:
        return "not comparable (other prompts, protocol or judge)"
    order = "as claimed" if left.value > right.value else "equal" if left.value == right.value else "reversed"
    if None in (left.low, left.high, right.low, right.high):
        how = "no interval"
    else:
        apart = left.low > right.high or right.low > left.high
        how = "intervals apart" if apart else "intervals overlap: undecided"
    return f"{order}, {how}" + (" (partial records)" if left.partial or right.partial else "")


def _text(cell: Cell, digits: int) -> str:
    return f"{cell.value:.{digits}f}" if isinstance(cell.value, float) else EMPTY


def _pairs(measured: Measured) -> Iterator[tuple[str, str, tuple[str, int], tuple[str, int], tuple[str, str], str]]:
    """(id, claim, left, right, labels of the paper's rows, paper's table) of the comparisons "left is higher"."""
    for query, mar in measured.rivals()[:1]:
        yield "C11", "QueryAR above MAR at 1x", (query, 1), (mar, 1), ("QueryAR 1x", "MAR 1x"), "table8"
        yield "C12", "QueryAR above MAR at 4x", (query, 4), (mar, 4), ("QueryAR 4x", "MAR 4x"), "table8"
        yield "C13", "QueryAR at 4x above MAR at 1x", (query, 4), (mar, 1), ("QueryAR 4x", "MAR 1x"), "table8"
    found = measured.generators()
    if {"query_ar_internvl", "query_ar_pixel"}.issubset(found):
        rows = ("VGT-AE (InternVL3)", "DC-AE")
        yield (
            "C10",
            "VGT-AE latents above pixel-AE latents",
            ("query_ar_internvl", 1),
            ("query_ar_pixel", 1),
            rows,
            "table7",
        )
    if {"query_ar_internvl", "query_ar_qwen"}.issubset(found):
        rows = ("VGT (Qwen2.5-VL)", "VGT (InternVL3)")
        yield "C16", "Qwen family above InternVL family", ("query_ar_qwen", 1), ("query_ar_internvl", 1), rows, "table6"


def build(measured: Measured) -> Table:
    """One row per claim and benchmark."""
    paper = published.load("vgt")
    rows: list[Row] = []

    def add(name: str, claim: str, theirs: str, ours: str, decision: str) -> None:
        texts = dict(zip((c.key for c in COLUMNS), (claim, theirs, ours, decision), strict=True))
        rows.append(Row(name, {key: Cell(text) for key, text in texts.items()}))

    for suite, metric, column, name, digits in SUITES:
        for claim_id, text, left, right, labels, table in _pairs(measured):
            a, b = (from_record(measured.get(subject, suite, metric, accel)) for subject, accel in (left, right))
            theirs = " vs ".join(f"{paper[table].value(row, column):.2f}" for row in labels)
            decision = _unlike(measured, left[0], right[0]) or verdict(a, b)
            add(claim_id, f"{name}: {text}", theirs, f"{_text(a, digits)} vs {_text(b, digits)}", decision)
    _distillation(measured, add)
    _acceleration(measured, add)
    _tradeoff(measured, add)
    rows.sort(key=lambda r: int(r.label[1:]))
    notes = [
        "Claims of the paper by number, in its own scores at its own scale; ours at the scale of this report.",
        "A verdict compares two estimates and says whether their 95 % intervals overlap; a paired test may decide.",
    ]
    return Table("vgt_claims", "The paper's claims, read off these records", COLUMNS, rows, notes, row_head="No.")


def _samples(measured: Measured, subject: str) -> int | None:
    """Images that a model saw in training, where its record says so."""
    found = measured.get(subject, "training", "loss")
    return found.extra.get("samples") if found else None


def _unlike(measured: Measured, left: str, right: str) -> str:
    """Why two models say nothing about their methods: they saw different numbers of images; "" if not known to."""
    a, b = _samples(measured, left), _samples(measured, right)
    return f"not comparable: {a:,} and {b:,} images seen" if a and b and a != b else ""


def _distillation(measured: Measured, add: Add) -> None:
    """C1: self-distillation keeps understanding and costs reconstruction, on the InternVL family as in the paper."""
    vlm, without, distilled = vgt_tab1_distillation.ARMS[0]
    paper = {row["label"][0]: row for row in published.load("vgt")["table1"].rows}
    answers = [from_record(measured.get(f"{vlm}+{ae}", "scenes-vqa", "accuracy")) for ae in (distilled, without)]
    sharp = [from_record(measured.get(ae, "photos", "psnr-mean")) for ae in (without, distilled)]
    if not isinstance(answers[1].value, float):
        return
    rows = (
        ("Understanding: higher with self-distillation", "mmb", ("2", "1"), answers, 3),
        ("PSNR on photos: higher without self-distillation", "psnr", ("1", "2"), sharp, 2),
    )
    for claim, column, order, (left, right), digits in rows:
        theirs = " vs ".join(f"{paper[row][column]:.2f}" for row in order)
        add("C1", claim, theirs, f"{_text(left, digits)} vs {_text(right, digits)}", verdict(left, right))


def _acceleration(measured: Measured, add: Add) -> None:
    """C14: going from 1x to 4x costs QueryAR less GenEval than MAR (no interval: the two scores share prompts)."""
    scores = {row["label"]: row["geneval"] for row in published.load("vgt")["table8"].rows}
    theirs = [scores[f"{arm} 4x"] - scores[f"{arm} 1x"] for arm in ("QueryAR", "MAR")]
    for pair in measured.rivals()[:1]:
        changes = []
        for subject in pair:
            one, four = (from_record(measured.get(subject, "scenes-geneval", "overall", a)) for a in (1, 4))
            same = isinstance(one.value, float) and isinstance(four.value, float) and one.basis == four.basis
            changes.append(replace(four, value=four.value - one.value, low=None, high=None) if same else Cell())
        ours = (f"{c.value:+.3f}" if isinstance(c.value, float) else EMPTY for c in changes)
        paper = " vs ".join(f"{change:+.2f}" for change in theirs)
        add("C14", "GenEval: 4x costs QueryAR less than MAR", paper, " vs ".join(ours), verdict(*changes))


def _inverse(points_: list[tuple[float, float]]) -> list[tuple[int, int]]:
    """Index pairs of (reconstruction, generation) points in which the better at one is the worse at the other."""
    pairs = combinations(range(len(points_)), 2)
    return [(i, j) for i, j in pairs if (points_[i][0] - points_[j][0]) * (points_[i][1] - points_[j][1]) < 0]


def _tradeoff(measured: Measured, add: Add) -> None:
    """C7: across autoencoders, better reconstruction goes with lower GenEval; counted over pairs."""
    keys = ("scenes_psnr-mean", "overall")
    found = [p for p in points(measured) if all(isinstance(p.cells[k].value, float) for k in keys)]
    if len(found) < 2:
        return
    theirs = [(row["psnr"], row["geneval"]) for row in published.load("vgt")["table6"].rows]
    ours = _inverse([tuple(p.cells[k].value for k in keys) for p in found])
    apart = sum("apart" in verdict(found[i].cells["overall"], found[j].cells["overall"]) for i, j in ours)
    seen = {_samples(measured, p.generator) for p in found} - {None}
    unlike = "not comparable: different numbers of images seen" if len(seen) > 1 else ""
    texts = [
        f"{len(inverse)} of {len(of) * (len(of) - 1) // 2} pairs inverse"
        for inverse, of in ((_inverse(theirs), theirs), (ours, found))
    ]
    add(
        "C7",
        "GenEval: better reconstruction (PSNR) goes with lower generation",
        *texts,
        unlike or f"GenEval intervals apart in {apart} of ours",
    )
