"""The shape of a table: columns, rows, cells with intervals and coverage, and the marks that a reader needs.

Marks: † partial coverage, ‡ not comparable with the rest of its column, letters for the reasons of empty cells.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field, replace

from reports.measured import basis
from vgt.core.record import Record

EMPTY = "\N{EM DASH}"
PARTIAL = "\N{DAGGER}"
ODD = "\N{DOUBLE DAGGER}"
NOT_APPLICABLE = ""
ARROWS = {"high": "\N{UPWARDS ARROW}", "low": "\N{DOWNWARDS ARROW}", None: ""}


@dataclass(frozen=True)
class Column:
    """``digits`` after the point; ``better`` "high" or "low" shows an arrow and sets the best value in bold;
    ``optional`` columns vanish where no row has a value."""

    key: str
    head: str
    unit: str = ""
    digits: int = 3
    better: str | None = None
    group: str = ""
    text: bool = False
    optional: bool = False

    @property
    def title(self) -> str:
        unit = f" [{self.unit}]" if self.unit else ""
        arrow = f" {ARROWS[self.better]}" if self.better else ""
        return f"{self.head}{unit}{arrow}"


@dataclass(frozen=True)
class Cell:
    """A number (or a word) with its 95 % interval and coverage; ``why`` says why ``value`` is None."""

    value: float | str | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    n_expected: int | None = None
    n_failed: int = 0
    why: str | None = None
    basis: tuple | None = None
    odd: bool = False
    interval: str | None = None

    @property
    def partial(self) -> bool:
        return self.n is not None and self.n_expected is not None and (self.n < self.n_expected or self.n_failed > 0)

    @property
    def coverage(self) -> str:
        """How many items the value covers, e.g. "n 480" or, where it should be more, "n 120 of 480"."""
        if self.n is None:
            return ""
        failed = f", {self.n_failed} failed" if self.n_failed else ""
        return f"n {self.n} of {self.n_expected}{failed}" if self.partial else f"n {self.n}"


@dataclass(frozen=True)
class Row:
    """``kind``: "model" competes for bold, "reference" (floor, ceiling) and "published" do not."""

    label: str
    cells: dict[str, Cell]
    kind: str = "model"


@dataclass(frozen=True)
class Table:
    """``name`` is the file stem; ``label`` a warning shown with the title; ``missing`` explains empty cells."""

    name: str
    title: str
    columns: list[Column]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    label: str = ""
    missing: str = "not measured: no record of it was found"
    row_head: str = ""

    def cell(self, row: Row, column: Column) -> Cell:
        return row.cells.get(column.key, Cell())


@dataclass(frozen=True)
class Shown:
    """One cell as text.  ``coverage`` is filled only where it differs from the column's."""

    value: str
    interval: str = ""
    coverage: str = ""
    marks: str = ""
    best: bool = False
    empty: bool = False
    text: bool = False


@dataclass(frozen=True)
class View:
    """A table ready for any format: heads with their usual coverage, the grid of cells, footnotes (mark, text)."""

    heads: list[str]
    coverage: list[str]
    grid: list[list[Shown]]
    footnotes: list[tuple[str, str]]


def from_record(record: Record | None) -> Cell:
    """The cell of one record; an empty one without."""
    if record is None:
        return Cell()
    if record.value is None or not math.isfinite(record.value):
        return Cell(why=record.note or "the record holds no value", basis=basis(record))
    return Cell(
        record.value,
        record.low,
        record.high,
        record.n,
        record.n_expected,
        record.n_failed,
        basis=basis(record),
        interval=record.interval,
    )


def finish(table: Table, compare: bool = True) -> Table:
    """The table without empty optional columns and with a note on how the intervals were made; with ``compare``, cells
    are marked that were measured differently from the most of their column."""
    columns = [
        c for c in table.columns if not c.optional or any(table.cell(r, c).value is not None for r in table.rows)
    ]
    rows = list(table.rows)
    for column in columns if compare else ():
        bases = [table.cell(r, column).basis for r in rows if table.cell(r, column).value is not None]
        usual = Counter(b for b in bases if b is not None).most_common(1)
        for i, row in enumerate(rows):
            cell = row.cells.get(column.key)
            if cell and usual and cell.value is not None and cell.basis not in (None, usual[0][0]):
                rows[i] = replace(row, cells={**row.cells, column.key: replace(cell, odd=True)})
    # One line per way of making intervals, not per number of clusters.
    methods = {re.sub(r"\bover \d+", "over", c.interval) for row in rows for c in row.cells.values() if c.interval}
    notes = list(table.notes)
    repeats = {m for m in methods if m.startswith("quartiles")}
    if methods - repeats:
        notes.append(f"Brackets: 95 % intervals ({'; '.join(sorted(methods - repeats))}).")
    if repeats:
        notes.append(f"Brackets of speeds: {'; '.join(sorted(repeats))}.")
    return replace(table, columns=columns, rows=rows, notes=notes)


def _number(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _usual(cells: list[Cell]) -> str:
    """The most frequent coverage among the cells with a value; complete before partial where they tie."""
    found = Counter(c.coverage for c in sorted(cells, key=lambda c: c.partial) if c.value is not None and c.coverage)
    return found.most_common(1)[0][0] if found else ""


def _best(table: Table, column: Column, usual: str) -> set[int]:
    """Indices of the rows that share the best shown value among comparable models of the usual coverage; none where
    all are equal."""
    if column.better is None:
        return set()
    cells = [(i, table.cell(row, column)) for i, row in enumerate(table.rows) if row.kind == "model"]
    fair = {
        i: _number(c.value, column.digits)
        for i, c in cells
        if isinstance(c.value, (int, float)) and c.coverage == usual and not c.odd
    }
    if len(set(fair.values())) < 2:
        return set()
    top = (max if column.better == "high" else min)(fair.values(), key=float)
    return {i for i, text in fair.items() if text == top}


def _letter(i: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    return (_letter(i // 26 - 1) if i >= 26 else "") + chr(ord("a") + i % 26)


def view(table: Table) -> View:
    """Everything that the formats show, decided once."""
    letters: dict[str, str] = {}
    grid: list[list[Shown]] = [[] for _ in table.rows]
    coverage: list[str] = []
    every = [table.cell(row, column) for column in table.columns for row in table.rows]
    for column in table.columns:
        cells = [table.cell(row, column) for row in table.rows]
        usual = _usual(cells)
        coverage.append(usual)
        best = _best(table, column, usual)
        for i, cell in enumerate(cells):
            if cell.value is None:
                mark = letters.setdefault(cell.why, _letter(len(letters))) if cell.why else ""
                grid[i].append(Shown(EMPTY, marks=mark, empty=True, text=column.text))
            else:
                grid[i].append(_shown(cell, column, usual, i in best))
    footnotes = []
    if any(c.partial and c.value is not None for c in every):
        footnotes.append((PARTIAL, "partial: n of the expected number of items; not the benchmark's value"))
    if any(c.odd for c in every):
        footnotes.append((ODD, "measured on other data, or with another protocol, judge or device: not comparable"))
    if any(c.value is None and c.why is None for c in every):
        footnotes.append((EMPTY, table.missing))
    footnotes += [(mark, why) for why, mark in letters.items()]
    return View([c.title for c in table.columns], coverage, grid, footnotes)


def _shown(cell: Cell, column: Column, usual: str, best: bool) -> Shown:
    if isinstance(cell.value, str):
        return Shown(cell.value, text=column.text)
    interval = ""
    if cell.low is not None and cell.high is not None:
        interval = f"[{_number(cell.low, column.digits)}, {_number(cell.high, column.digits)}]"
    coverage = cell.coverage if cell.coverage != usual else ""
    return Shown(_number(cell.value, column.digits), interval, coverage, PARTIAL * cell.partial + ODD * cell.odd, best)
