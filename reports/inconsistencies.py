"""Where a paper's numbers disagree with each other or with what is said of them, with the arithmetic.

Every number is computed from the tables of ``papers/<paper>.toml``; nothing here was measured by this project.  What
needs no arithmetic of its own is declared there (``[[inconsistencies]]``)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache

from pydantic import BaseModel, ConfigDict, model_validator

from reports import published, recipe
from reports.published import DEFAULT, Paper
from reports.table import Cell, Column, Filled, Row
from reports.verdicts import their_images, their_ratio
from vgt.core.text import parse_toml, read

K2 = 0.03  # the constant of SSIM's contrast term, c2 = (K2 L)^2 for data range L


def _convergence(paper: Paper) -> tuple[str, str, str]:
    table = paper["figure1c"]
    slower, matched = "AR on DC-AE 0.6B", "InternVL3 0.6B"
    steps, scores = their_images(table, slower)
    ratios = {row["label"]: their_ratio(table, row["label"], slower) for row in table.rows if row["label"] != slower}
    told = ", ".join(f"{name} {'at least ' if bound else ''}{ratio:.1f}" for name, (ratio, bound) in ratios.items())
    return (
        'Convergence "up to 20x" (Figure 1c)',
        f"{slower} ends at {scores.max():.3f} after {steps[scores.argmax()]:.0f}k steps; steps of it over those after "
        f"which the others reach that: {told}",
        f"for the pair of equal size and language model, {ratios[matched][0]:.0f}x; only other models give more",
    )


def _one_autoencoder(paper: Paper) -> tuple[str, str, str]:
    """The autoencoder that several tables credit with unlike GenEval scores: known by its rFID and PSNR."""
    found = defaultdict(list)
    for table in paper.tables:
        for row in table.rows:
            if {"rfid", "psnr", "geneval"} <= row.keys():
                found[row["rfid"], row["psnr"]].append((table.source.rsplit(", ", 1)[-1], row["geneval"]))
    (rfid, psnr), scores = max(found.items(), key=lambda item: len(item[1]))
    values = [score for _, score in scores]
    return (
        "One autoencoder, several scores",
        f"rFID {rfid:.2f} and PSNR {psnr:.2f} stand beside GenEval "
        + ", ".join(f"{score:.2f} ({where})" for where, score in scores),
        f"{max(values) - min(values):.2f} apart: training budgets and fine-tuning differ from table to table",
    )


def _inverse(paper: Paper) -> tuple[str, str, str]:
    rows = paper["table6"].rows
    scores = [row["geneval"] for row in rows]
    return (
        "Inverse trend of reconstruction and generation (Table 6)",
        "PSNR " + ", ".join(f"{row['psnr']:.2f}" for row in rows) + " go with GenEval "
        + ", ".join(f"{score:.2f}" for score in scores),
        f"rests on a difference of {max(scores) - min(scores):.2f} between {len(rows)} single trainings",
    )  # fmt: skip


def _which(paper: Paper) -> tuple[str, str, str]:
    """The main table's smaller model works on the autoencoder that the other table says is the worse one."""
    main = next(row for row in paper["table3"].rows if row["label"] == "VGT (InternVL3) 0.6B")
    same = next(row for row in paper["table6"].rows if all(row[k] == main[k] for k in ("geneval", "dpg")))
    other = next(row for row in paper["table6"].rows if row["label"] == "VGT (InternVL3, low rec.)")
    return (
        "Which autoencoder the main table uses",
        f"{main['label']} in Table 3 has {main['geneval']:.2f} and {main['dpg']:.2f}, the row {same['label']} of "
        f"Table 6 (rFID {same['rfid']:.2f})",
        f"the reconstruction-heavy one, though Table 6 finds rFID {other['rfid']:.2f} to generate better "
        f"({other['geneval']:.2f}, {other['dpg']:.2f})",
    )


def _ssim(paper: Paper) -> tuple[str, str, str]:
    """SSIM of flat places, where the image has no contrast of its own and all error is added: c2 / (error + c2)."""
    row = next(row for row in paper["table4"].rows if row["label"] == "InternVL3, DC-AE")
    error = 10 ** (-row["psnr"] / 10)
    narrow, wide = K2**2, (2 * K2) ** 2
    return (
        "SSIM with data range 2 on images in [0, 1]",
        f"c2 = ({K2} L)^2 is {narrow:.4f} for L = 1 and {wide:.4f} for L = 2; at PSNR {row['psnr']:.2f}, an error of "
        f"{error:.4f}, flat places get c2 / (error + c2) = {narrow / (error + narrow):.2f} and "
        f"{wide / (error + wide):.2f}",
        f"stabilising constants {wide / narrow:.0f} times as large: not comparable with any SSIM of range 1",
    )


def _shrunk(paper: Paper) -> tuple[str, str, str]:
    table = paper["table2"]
    native = recipe.load(DEFAULT).scale("full").size
    scored = int(re.search(r"(\d+)x\1", table.setting).group(1))
    ours = int(next(row for row in table.rows if row["label"].startswith("VGT-AE"))["ratio"])
    return (
        f"{native} px shrunk to {scored} px before scoring (Table 2)",
        f"ratio {ours}: {native} / {ours} = {native / ours:g}, but {scored} / {ours} = {scored / ours:.2f} is not "
        f"whole; {native} / {scored} = {native / scored:.2f}, so that a scored pixel is {(native / scored) ** 2:.2f}",
        f"rFID, PSNR and SSIM of VGT-AE stand beside tokenizers that saw {scored} px, and are favored",
    )


def _pretrained(paper: Paper) -> tuple[str, str, str]:
    there = next(row for row in paper["table8"].rows if row["label"] == "QueryAR 1x")
    card = {row["label"]: row for row in paper["model_card"].rows}
    base, tuned = card["VGT-Qwen2.5-VL-2B-Pretrain"], card["VGT-Qwen2.5-VL-2B-SFT"]
    main = next(row for row in paper["table3"].rows if row["label"] == "VGT (Qwen2.5-VL) 1.6B")

    def less(row: dict) -> str:
        return f"{there['geneval'] - row['geneval']:+.2f} and {there['dpg'] - row['dpg']:+.2f}"

    return (
        "Level of QueryAR in Table 8",
        f"{there['geneval']:.2f} and {there['dpg']:.2f}: {less(base)} from the pretrained release, {less(main)} from "
        f"Table 3, {less(tuned)} from the fine-tuned release",
        "a comparison of pretrained models, beside tables of fine-tuned ones",
    )


FOUND = {DEFAULT: (_convergence, _one_autoencoder, _inverse, _which, _ssim, _shrunk, _pretrained)}


# ----------------------------------------------------------------------------------------------------- declared ones


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stated(_Strict):
    """``what`` and ``so`` in words, and one of: ``values``, (table, row, column) of numbers that should be one;
    ``below``, (table, column, other column): the rows in which the first is below the other, and those in which it is
    not; ``ratio``, the same columns divided in each of ``rows``."""

    what: str
    so: str
    values: list[tuple[str, str, str]] = []
    below: tuple[str, str, str] | None = None
    ratio: tuple[str, str, str] | None = None
    rows: list[str] = []

    @model_validator(mode="after")
    def _one(self) -> Stated:
        if sum(map(bool, (self.values, self.below, self.ratio))) != 1 or len(self.values) == 1:
            raise ValueError(f"{self.what!r} needs one of values (two or more), below and ratio")
        return self

    def arithmetic(self, paper: Paper) -> str:
        if self.values:
            return _apart(paper, self.values)
        found = paper[(self.below or self.ratio)[0]]
        return _below(found, *self.below[1:]) if self.below else _ratio(found, *self.ratio[1:], self.rows)


class _Stated(_Strict):
    model_config = ConfigDict(frozen=True, extra="ignore")

    inconsistencies: list[Stated] = []


def _digits(table: published.PublishedTable, key: str) -> int:
    return next(c.digits for c in table.columns if c.key == key)


def _apart(paper: Paper, cells: list[tuple[str, str, str]]) -> str:
    found = [(paper[table].value(row, key), _digits(paper[table], key), paper[table], row) for table, row, key in cells]
    same = len({row for *_, row in found}) == 1
    told = [f"{value:.{digits}f} ({table.title if same else row})" for value, digits, table, row in found]
    values, digits = [value for value, *_ in found], found[0][1]
    return f"{', '.join(told)}: {max(values) - min(values):.{digits}f} apart"


def _pairs(table: published.PublishedTable, key: str, other: str) -> list[tuple[str, float, float]]:
    return [(row["label"], row[key], row[other]) for row in table.rows if key in row and other in row]


def _below(table: published.PublishedTable, key: str, other: str) -> str:
    pairs = _pairs(table, key, other)
    digits = _digits(table, key)
    others = [f"{label} ({a:.{digits}f} and {b:.{digits}f})" for label, a, b in pairs if not a < b]
    return f"below in {len(pairs) - len(others)} of {len(pairs)} rows; not in {', '.join(others) or 'none'}"


def _ratio(table: published.PublishedTable, key: str, other: str, rows: list[str]) -> str:
    digits = _digits(table, key)
    pairs = [pair for pair in _pairs(table, key, other) if pair[0] in rows]
    return ", ".join(f"{label} {a:.{digits}f} / {b:.{digits}f} = {a / b:.1f}" for label, a, b in pairs)


@lru_cache
def stated(paper: str) -> list[Stated]:
    """The declared ones of a paper.  Raises ValueError for a malformed file and for a number that is not there."""
    path = published.PAPERS / f"{paper}.toml"
    try:
        found = _Stated.model_validate(parse_toml(read(path), path.name)).inconsistencies
        for one in found:
            try:
                one.arithmetic(published.load(paper))
            except (KeyError, StopIteration) as error:
                raise ValueError(f"{one.what!r} names a table, row or column that is not there") from error
    except ValueError as error:
        raise ValueError(f"papers/{path.name} is malformed: {error}") from error
    return found


# -------------------------------------------------------------------------------------------------------- the table

COLUMNS = [Column("arithmetic", "Arithmetic", text=True), Column("so", "So", text=True)]


def _rows(name: str) -> Iterator[tuple[str, str, str]]:
    paper = published.load(name)
    yield from (found(paper) for found in FOUND.get(name, ()))
    yield from ((one.what, one.arithmetic(paper), one.so) for one in stated(name))


def table(name: str = DEFAULT) -> Filled:
    """One row for every inconsistency of a paper."""
    rows = [
        Row(title, {"arithmetic": Cell(arithmetic), "so": Cell(so)}, kind="published")
        for title, arithmetic, so in _rows(name)
    ]
    return Filled(
        f"{name}_inconsistencies",
        "The paper against itself",
        COLUMNS,
        rows,
        [published.load(name).paper["against"]],
        published.LABEL,
        row_head="What",
    )
