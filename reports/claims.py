"""The paper's ordinal claims (docs/vgt.md 5.11) that these records can speak to, claim by claim.

A verdict compares two estimates of the same prompts or images.  Where the records hold their paired difference
(evals/compare), its test decides, corrected for all such claims (Holm).  Elsewhere 95 % intervals that are apart
decide; overlapping ones do not, whatever the order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

from reports import published
from reports.measured import DPG, GENEVAL, Measured, unlike
from reports.table import EMPTY, Cell, Column, Row, Table, apart, from_record
from reports.tables import ARMS, TRADEOFF, VQA
from vgt.core.record import Record
from vgt.core.samples import DIFFERENCES, difference
from vgt.core.statistics import holm

PAPER = "vgt"
ALPHA = 0.05
Where = tuple[str, str, str, int | None]  # subject, suite, metric, acceleration


@dataclass(frozen=True)
class Claim:
    """ "left is higher than right", and the numbers of the paper that say so: a column of two rows of its table.

    ``models``: the two whose training must have been equal."""

    number: str
    text: str
    left: Where
    right: Where
    table: str
    rows: tuple[str, str]
    column: str
    digits: int
    models: tuple[str, str] | None = None


def verdict(left: Cell, right: Cell, paired: tuple[Record, float] | None = None) -> str:
    """What two scores say about "left is higher than right"; ``paired``: the record of their difference and its
    p-value, corrected."""
    if not isinstance(left.value, float) or not isinstance(right.value, float):
        return "not measured"
    if left.basis != right.basis:
        return "not comparable (other prompts, protocol or judge)"
    if differ := unlike(left.settings, right.settings):
        return f"not comparable: {', '.join(differ)}"
    order = "as claimed" if left.value > right.value else "equal" if left.value == right.value else "reversed"
    if paired is not None:
        d, p = paired
        found = f"{d.value:+.3g} [{d.low:.3g}, {d.high:.3g}], p = {p:.2g}"
        how = f"paired test{'' if p <= ALPHA else ': undecided'} ({found})"
    elif None in (left.low, left.high, right.low, right.high):
        how = "no interval"
    else:
        how = "intervals apart" if apart(left, right) else "intervals overlap: undecided"
    return f"{order}, {how}" + (" (partial records)" if left.partial or right.partial else "")


def _claims(measured: Measured) -> Iterator[Claim]:
    """The claims of the kind "left is higher" whose models were measured."""
    found = measured.generators()
    pairs = []
    for query, mar in measured.rivals()[:1]:
        for number, a, b in (("C11", 1, 1), ("C12", 4, 4), ("C13", 4, 1)):
            words = f"QueryAR above MAR at {a}x" if a == b else f"QueryAR at {a}x above MAR at {b}x"
            pairs.append((number, words, (query, a), (mar, b), "table8", (f"QueryAR {a}x", f"MAR {b}x")))
    ours = ("query_ar_internvl", 1)
    for number, words, left, right, table, rows in (
        ("C10", "VGT-AE latents above pixel-AE latents", ours, ("query_ar_pixel", 1), "table7",
         ("VGT-AE (InternVL3)", "DC-AE")),
        ("C16", "Qwen family above InternVL family", ("query_ar_qwen", 1), ours, "table6",
         ("VGT (Qwen2.5-VL)", "VGT (InternVL3)")),
    ):  # fmt: skip
        if left[0] in found and right[0] in found:
            pairs.append((number, words, left, right, table, rows))
    for suite, metric, column, name, digits in (
        (GENEVAL, "overall", "geneval", "GenEval", 3),
        (DPG, "dpg", "dpg", "DPG", 1),
    ):
        for number, words, (left, a), (right, b), table, rows in pairs:
            sides = (left, suite, metric, a), (right, suite, metric, b)
            yield Claim(number, f"{name}: {words}", *sides, table, rows, column, digits, (left, right))
    # C1: self-distillation keeps understanding and costs reconstruction, on the InternVL family as in the paper.
    vlm, without, distilled = ARMS[0]
    answers = [(f"{vlm}+{ae}", VQA, "accuracy", None) for ae in (distilled, without)]
    if isinstance(from_record(measured.get(*answers[1])).value, float):
        labels = ("2: with self-distillation", "1: without self-distillation")
        words = "Understanding: higher with self-distillation"
        yield Claim("C1", words, *answers, "table1", labels, "mmb", 3)
        sharp = [(ae, "photos", "psnr-mean", None) for ae in (without, distilled)]
        words = "PSNR on photos: higher without self-distillation"
        yield Claim("C1", words, *sharp, "table1", labels[::-1], "psnr", 2)


def compared(measured: Measured) -> list[tuple[Record, Record]]:
    """The records that claims hold against each other, left and right, where both have a value."""
    found = [tuple(measured.get(*side) for side in (claim.left, claim.right)) for claim in _claims(measured)]
    return [pair for pair in found if all(one is not None and one.value is not None for one in pair)]


def _tests(measured: Measured) -> dict[tuple[str, str], tuple[Record, float]]:
    """The paired differences that stand for the records as they are, with p-values corrected for all of them, by the
    names of the two records."""
    found = {}
    for left, right in compared(measured):
        subject, metric = difference(left, right)
        tested = measured.get(subject, DIFFERENCES, metric)
        if tested is not None and tested.extra.get("of") == [left.key, right.key]:
            found[left.name, right.name] = tested
    adjusted = holm([one.extra["p"] for one in found.values()])
    return dict(zip(found, zip(found.values(), adjusted, strict=True), strict=True))


def _row(number: str, *words: str) -> Row:
    return Row(number, {c.key: Cell(word) for c, word in zip(CLAIMS.columns, words, strict=True)})


def _text(cell: Cell, form: str) -> str:
    return f"{cell.value:{form}}" if isinstance(cell.value, float) else EMPTY


def _judged(measured: Measured, claim: Claim, tests: dict[tuple[str, str], tuple[Record, float]]) -> Row:
    paper = published.load(PAPER)[claim.table]
    sides = measured.get(*claim.left), measured.get(*claim.right)
    left, right = map(from_record, sides)
    paired = tests.get(tuple(one.name for one in sides)) if None not in sides else None
    theirs = " vs ".join(f"{paper.value(row, claim.column):.2f}" for row in claim.rows)
    ours = " vs ".join(_text(cell, f".{claim.digits}f") for cell in (left, right))
    unequal = _unequal(measured, *claim.models) if claim.models else ""
    return _row(claim.number, claim.text, theirs, ours, unequal or verdict(left, right, paired))


def _samples(measured: Measured, subject: str) -> int | None:
    """Images that a model saw in training, where its record says so."""
    found = measured.get(subject, "training", "loss")
    return found.extra.get("samples") if found else None


def _unequal(measured: Measured, left: str, right: str) -> str:
    """Why two models say nothing about their methods: they saw different numbers of images; "" if not known to."""
    a, b = _samples(measured, left), _samples(measured, right)
    return f"not comparable: {a:,} and {b:,} images seen" if a and b and a != b else ""


def _acceleration(measured: Measured) -> Iterator[Row]:
    """C14: going from 1x to 4x costs QueryAR less GenEval than MAR (no interval: the two scores share prompts)."""
    paper = published.load(PAPER)["table8"]
    theirs = (paper.value(f"{arm} 4x", "geneval") - paper.value(f"{arm} 1x", "geneval") for arm in ("QueryAR", "MAR"))
    for pair in measured.rivals()[:1]:
        changes = []
        for subject in pair:
            one, four = (from_record(measured.get(subject, GENEVAL, "overall", a)) for a in (1, 4))
            same = isinstance(one.value, float) and isinstance(four.value, float) and one.basis == four.basis
            same = same and not unlike(one.settings, four.settings)
            changes.append(replace(four, value=four.value - one.value, low=None, high=None) if same else Cell())
        ours = " vs ".join(_text(change, "+.3f") for change in changes)
        words = "GenEval: 4x costs QueryAR less than MAR"
        yield _row("C14", words, " vs ".join(f"{change:+.2f}" for change in theirs), ours, verdict(*changes))


def inverse(points: list[tuple[float, float]]) -> list[tuple[int, int]]:
    """Index pairs of (reconstruction, generation) points in which the better at one is the worse at the other."""
    pairs = combinations(range(len(points)), 2)
    return [(i, j) for i, j in pairs if (points[i][0] - points[j][0]) * (points[i][1] - points[j][1]) < 0]


def _tradeoff(measured: Measured) -> Iterator[Row]:
    """C7: across autoencoders, better reconstruction goes with lower GenEval; counted over pairs."""
    keys = ("scenes_psnr-mean", "overall")
    rows = TRADEOFF.fill(measured).rows
    found = [row for row in rows if all(isinstance(row.cells[k].value, float) for k in keys)]
    if len(found) < 2:
        return
    theirs = [(row["psnr"], row["geneval"]) for row in published.load(PAPER)["table6"].rows]
    ours = inverse([tuple(row.cells[k].value for k in keys) for row in found])
    sure = sum("apart" in verdict(found[i].cells["overall"], found[j].cells["overall"]) for i, j in ours)
    seen = {_samples(measured, row.subject) for row in found} - {None}
    yield _row(
        "C7",
        "GenEval: better reconstruction (PSNR) goes with lower generation",
        *(
            f"{len(opposed)} of {len(of) * (len(of) - 1) // 2} pairs inverse"
            for opposed, of in ((inverse(theirs), theirs), (ours, found))
        ),
        "not comparable: different numbers of images seen"
        if len(seen) > 1
        else f"GenEval intervals apart in {sure} of ours",
    )


def _rows(measured: Measured) -> list[Row]:
    """One row per claim and benchmark, by number."""
    tests = _tests(measured)
    rows = [_judged(measured, claim, tests) for claim in _claims(measured)]
    rows += [*_acceleration(measured), *_tradeoff(measured)]
    return sorted(rows, key=lambda row: int(row.label[1:]))


VERDICTS = Table(
    "vgt_verdicts",
    "The paper's claims here",
    [Column("claim", "Claim", text=True), Column("verdict", "Verdict", text=True)],
    _rows,
    row_head="No.",
)
CLAIMS = Table(
    "vgt_claims",
    "The paper's claims, read off these records",
    [
        Column("claim", "Claim", text=True),
        Column("paper", "Paper", text=True),
        Column("ours", "Here", text=True),
        Column("verdict", "Verdict", text=True),
    ],
    _rows,
    [
        "Claims of the paper, numbered as in docs/vgt.md 5.11, in its own scores at its own scale; "
        "ours at the scale of this report.",
        "A verdict is that of a paired test on the same prompts or images (difference, 95 % interval and p-value, "
        "corrected by Holm for all claims here), or, where samples were not kept, says whether 95 % intervals overlap.",
    ],
    row_head="No.",
)
