"""Tables: declared (columns, a query for the rows, notes), filled from records, shown as Markdown, LaTeX and CSV.

A table is one declaration, see ``reports/tables.py``; filling it looks up a record for every row and column.  Marks:
† partial coverage, ‡ not comparable with the rest of its column, § timed on a busy machine, letters for the reasons of
empty cells.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from reports.measured import Measured, basis, chosen, unlike
from vgt.core import files
from vgt.core.record import Record
from vgt.core.text import csv_text as csv_lines

EMPTY = "\N{EM DASH}"
PARTIAL = "\N{DAGGER}"
ODD = "\N{DOUBLE DAGGER}"
BUSY = "\N{SECTION SIGN}"
NOT_APPLICABLE = ""
ARROWS = {"high": "\N{UPWARDS ARROW}", "low": "\N{DOWNWARDS ARROW}", None: ""}


@dataclass(frozen=True)
class Cell:
    """A number (or a word) with its 95 % interval and coverage; ``why`` says why ``value`` is None, and ``blank`` is
    shown in its place."""

    value: float | str | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    n_expected: int | None = None
    n_failed: int = 0
    why: str | None = None
    blank: str = EMPTY
    basis: tuple | None = None
    settings: dict[str, object] = field(default_factory=dict)
    odd: bool = False
    busy: bool = False
    interval: str | None = None
    record: str | None = None  # whose value it is

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
        settings=chosen(record),
        busy="busy" in record.extra,
        interval=record.interval,
        record=record.name,
    )


def apart(a: Cell, b: Cell) -> bool:
    """Whether two cells have intervals, and these do not overlap."""
    return None not in (a.low, a.high, b.low, b.high) and (a.low > b.high or b.low > a.high)


def ratio(above: Cell, below: Cell) -> Cell:
    """The quotient of two speeds; empty, with the reason, unless both were measured on one device in one way."""
    if not isinstance(above.value, float) or not isinstance(below.value, float) or below.value == 0:
        return Cell()
    if above.basis != below.basis or unlike(above.settings, below.settings):
        return Cell(why="no ratio: the two speeds come from different devices or settings")
    return Cell(above.value / below.value, busy=above.busy or below.busy)


# ------------------------------------------------------------------------------------------------- declarations


@dataclass(frozen=True)
class Row:
    """What a row is about: a subject at an acceleration, ``others`` beside it by role (None: it has none), the suite
    and record that the columns may need.  ``cells``: those known already, by key of the column.

    ``kind``: "model" competes for bold, "reference" (baseline, ceiling) and "published" do not."""

    label: str
    cells: dict[str, Cell] = field(default_factory=dict)
    kind: str = "model"
    subject: str = ""
    accel: int | None = None
    suite: str = ""
    others: dict[str, tuple[str, int | None] | None] = field(default_factory=dict)
    record: Record | None = None


@dataclass(frozen=True)
class Column:
    """One column and where its cells come from.

    ``digits`` after the point; ``better`` "high" or "low" shows an arrow and sets the best value in bold;
    ``optional`` columns vanish where no row has a value, and those with ``unless`` where no value differs from the
    column of that key; ``signed`` numbers show their sign, ``muted`` ones stand back.  A cell is the record of
    ``metric`` (by default ``key``) in ``suite`` (by default the row's) of the row's subject, or of its other subject
    ``of``; or what ``value`` makes of the row, whose ``cells`` are those of the columns before."""

    key: str
    head: str
    unit: str = ""
    digits: int = 3
    better: str | None = None
    group: str = ""
    text: bool = False
    optional: bool = False
    unless: str = ""
    signed: bool = False
    muted: bool = False
    suite: str = ""
    metric: str = ""
    of: str = ""
    value: Callable[[Measured, Row], Cell] | None = None

    @property
    def title(self) -> str:
        unit = f" [{self.unit}]" if self.unit else ""
        arrow = f" {ARROWS[self.better]}" if self.better else ""
        return f"{self.head}{unit}{arrow}"

    def cell(self, measured: Measured, row: Row) -> Cell:
        if self.key in row.cells:
            return row.cells[self.key]
        if self.value is not None:
            return self.value(measured, row)
        about = row.others.get(self.of) if self.of else (row.subject, row.accel)
        if about is None:
            return Cell(NOT_APPLICABLE)
        subject, accel = about
        return from_record(measured.get(subject, self.suite or row.suite, self.metric or self.key, accel))


def text(key: str, head: str, of: Callable[[Row], str | None], group: str = "") -> Column:
    """A column of words; ``of``: the words of a row (None: unknown)."""
    return Column(key, head, group=group, text=True, value=lambda _, row: Cell(of(row)))


@dataclass(frozen=True)
class Filled:
    """A table with its cells: what the formats show.  ``name`` is the file stem; ``label`` a warning shown with the
    title; ``missing`` explains empty cells."""

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    label: str = ""
    missing: str = "not measured: no record of it was found"
    row_head: str = ""

    def cell(self, row: Row, column: Column) -> Cell:
        return row.cells.get(column.key, Cell())


@dataclass(frozen=True)
class Table:
    """A declared table.  ``columns`` and ``notes`` may depend on the records; ``rows`` is a query over them.  With
    ``compare``, cells are marked that were measured differently from the most of their column."""

    name: str
    title: str
    columns: Sequence[Column] | Callable[[Measured], Sequence[Column]]
    rows: Callable[[Measured], Iterable[Row]]
    notes: Sequence[str] | Callable[[Measured, Sequence[Row]], Sequence[str]] = ()
    row_head: str = ""
    missing: str = Filled.missing
    compare: bool = True

    def fill(self, measured: Measured) -> Filled:
        """The table of these records; without rows where nothing of it was measured."""
        columns = self.columns(measured) if callable(self.columns) else self.columns
        rows = []
        for row in self.rows(measured) if columns else ():
            for column in columns:
                row = replace(row, cells={**row.cells, column.key: column.cell(measured, row)})
            rows.append(row)
        columns = [c for c in columns if _wanted(c, rows)]
        if self.compare:
            rows = _odd_marked(columns, rows)
        notes = self.notes(measured, rows) if callable(self.notes) else self.notes
        shown = [*notes, *_interval_notes(rows)]
        return Filled(self.name, self.title, columns, rows, shown, missing=self.missing, row_head=self.row_head)


def _wanted(column: Column, rows: Sequence[Row]) -> bool:
    """Whether a column has something to show that no other has."""
    values = [row.cells[column.key].value for row in rows]
    if column.unless and values == [row.cells[column.unless].value for row in rows]:
        return False
    return not column.optional or any(value is not None for value in values)


def _odd_marked(columns: Sequence[Column], rows: list[Row]) -> list[Row]:
    """The rows, with cells marked whose basis or settings are not the usual ones of their column."""
    for column in columns:
        cells = [cell for row in rows if (cell := row.cells[column.key]).value is not None and cell.basis is not None]
        basis = _most_common(cell.basis for cell in cells)
        settings = _most_common(tuple(sorted(cell.settings.items(), key=str)) for cell in cells if cell.settings)
        for i, row in enumerate(rows):
            cell = row.cells[column.key]
            if cell.value is None or cell.basis is None:
                continue
            if cell.basis != basis or unlike(cell.settings, dict(settings or ())):
                rows[i] = replace(row, cells={**row.cells, column.key: replace(cell, odd=True)})
    return rows


def _most_common(values: Iterable) -> Any:
    """The most frequent of values, compared as text; None without any."""
    kept = {}
    count = Counter()
    for value in values:
        kept.setdefault(repr(value), value)
        count[repr(value)] += 1
    return kept[count.most_common(1)[0][0]] if kept else None


def _interval_notes(rows: Sequence[Row]) -> list[str]:
    """How the intervals were made: a line per way, not per number of clusters."""
    methods = {re.sub(r"\bover \d+", "over", c.interval) for row in rows for c in row.cells.values() if c.interval}
    repeats = {m for m in methods if m.startswith("quartiles")}
    notes = []
    if methods - repeats:
        notes.append(f"Brackets: 95 % intervals ({'; '.join(sorted(methods - repeats))}).")
    if repeats:
        notes.append(f"Brackets of speeds: {'; '.join(sorted(repeats))}.")
    return notes


# --------------------------------------------------------------------------------------------- as the formats show


@dataclass(frozen=True)
class Shown:
    """One cell as text.  ``coverage`` is filled only where it differs from the column's; ``sort``: the number that rows
    are sorted by, "" for words and empty cells."""

    value: str
    interval: str = ""
    coverage: str = ""
    marks: str = ""
    best: bool = False
    empty: bool = False
    text: bool = False
    muted: bool = False
    sort: str = ""
    record: str | None = None


@dataclass(frozen=True)
class View:
    """A table ready for any format: heads with their usual coverage, the grid of cells, footnotes (mark, text)."""

    heads: list[str]
    coverage: list[str]
    grid: list[list[Shown]]
    footnotes: list[tuple[str, str]]


def _number(value: float, digits: int, signed: bool = False) -> str:
    shown = f"{value:{'+' if signed else ''}.{digits}f}"
    return shown.lstrip("+-") if float(shown) == 0 else shown


def _usual(cells: list[Cell]) -> str:
    """The most frequent coverage among the cells with a value; complete before partial where they tie."""
    found = Counter(c.coverage for c in sorted(cells, key=lambda c: c.partial) if c.value is not None and c.coverage)
    return found.most_common(1)[0][0] if found else ""


def _best(table: Filled, column: Column, usual: str) -> set[int]:
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
    return {i for i, shown in fair.items() if shown == top}


def _letter(i: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    return (_letter(i // 26 - 1) if i >= 26 else "") + chr(ord("a") + i % 26)


def view(table: Filled) -> View:
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
                grid[i].append(Shown(cell.blank, marks=mark, empty=True, text=column.text))
            else:
                grid[i].append(_shown(cell, column, usual, i in best))
    footnotes = []
    if any(c.partial and c.value is not None for c in every):
        footnotes.append((PARTIAL, "partial: n of the expected number of items; not the benchmark's value"))
    if any(c.odd for c in every):
        footnotes.append(
            (ODD, "measured on other data, or with another protocol, setting, judge or device: not comparable")
        )
    if any(c.value is None and c.why is None for c in every):
        footnotes.append((EMPTY, table.missing))
    if any(c.busy and c.value is not None for c in every):
        footnotes.append((BUSY, "timed while other work ran on the machine; not shown in figures"))
    footnotes += [(mark, why) for why, mark in letters.items()]
    return View([c.title for c in table.columns], coverage, grid, footnotes)


def _marks(cell: Cell) -> str:
    return PARTIAL * cell.partial + ODD * cell.odd + BUSY * cell.busy


def _shown(cell: Cell, column: Column, usual: str, best: bool) -> Shown:
    if isinstance(cell.value, str):
        return Shown(cell.value, text=column.text)
    interval = ""
    if cell.low is not None and cell.high is not None:
        interval = f"[{_number(cell.low, column.digits)}, {_number(cell.high, column.digits)}]"
    coverage = cell.coverage if cell.coverage != usual else ""
    shown, of = _number(cell.value, column.digits, column.signed), cell.record
    return Shown(shown, interval, coverage, _marks(cell), best, muted=column.muted, sort=repr(cell.value), record=of)


def spans(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Runs of neighboring columns with the same group: (group, how many)."""
    return [(group, len(list(members))) for group, members in groupby(columns, key=lambda c: c.group)]


# ---------------------------------------------------------------------------------------------------- the formats


def write(table: Filled, folder: Path) -> list[Path]:
    """Write ``<name>.md``, ``.tex`` and ``.csv`` into ``folder``; returns the paths."""
    forms = {"md": markdown(table), "tex": latex(table), "csv": csv_text(table)}
    return [files.write_text(folder / f"{table.name}.{suffix}", form) for suffix, form in forms.items()]


def _plain(words: str) -> str:
    return words.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _markdown_cell(shown: Shown) -> str:
    mark = "**" if shown.best else "*" if shown.muted else ""
    value = f"{mark}{shown.value}{mark}"
    marks = f"<sup>{shown.marks}</sup>" if shown.marks.isalpha() else shown.marks
    parts = (_plain(value) + marks, shown.interval, f"({shown.coverage})" if shown.coverage else "")
    return " ".join(p for p in parts if p)


def markdown(table: Filled) -> str:
    """GitHub-flavoured Markdown: title, warning label, table, footnotes and notes."""
    seen = view(table)
    heads = [
        _plain(" ".join(p for p in (c.group, head, f"({n})" if n else "") if p))
        for c, head, n in zip(table.columns, seen.heads, seen.coverage, strict=True)
    ]
    lines = [f"**{_plain(table.title)}**", ""]
    if table.label:
        lines += [f"*{_plain(table.label)}*", ""]
    lines.append("| " + " | ".join([table.row_head or " ", *heads]) + " |")
    lines.append("|" + "|".join([":--", *(":--" if c.text else "--:" for c in table.columns)]) + "|")
    for row, cells in zip(table.rows, seen.grid, strict=True):
        lines.append("| " + " | ".join([_plain(row.label), *map(_markdown_cell, cells)]) + " |")
    lines.append("")
    lines += [f"- {mark}{':' if mark.isalpha() or mark == EMPTY else ''} {_plain(why)}" for mark, why in seen.footnotes]
    lines += [f"- {_plain(note)}" for note in table.notes]
    return "\n".join(lines).rstrip() + "\n"


BETWEEN = "\N{ZERO WIDTH SPACE}"  # of two hyphens, which would become a dash
_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    BETWEEN: "{}",
    "\N{EM DASH}": "---",
    "\N{EN DASH}": "--",
    "\N{DAGGER}": r"\dag{}",
    "\N{DOUBLE DAGGER}": r"\ddag{}",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{UPWARDS ARROW}": r"$\uparrow$",
    "\N{DOWNWARDS ARROW}": r"$\downarrow$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
    "\N{MIDDLE DOT}": r"$\cdot$",
}


def tex(words: str) -> str:
    """``words`` with LaTeX's special characters escaped."""
    return "".join(_TEX.get(c, c) for c in re.sub("-(?=-)", f"-{BETWEEN}", words))


def _latex_mark(mark: str) -> str:
    return tex(mark) if mark == EMPTY else rf"\textsuperscript{{{tex(mark)}}}"


def _latex_cell(shown: Shown) -> str:
    value = rf"\textbf{{{tex(shown.value)}}}" if shown.best else tex(shown.value)
    value = rf"\scriptsize {value}" if shown.muted else value
    marks = rf"\textsuperscript{{{tex(shown.marks)}}}" if shown.marks else ""
    small = " ".join(p for p in (shown.interval, f"({shown.coverage})" if shown.coverage else "") if p)
    # Braces: a cell that starts with "[" would be read as an argument of the row before it.
    return f"{{{value}}}{marks}" + (rf" {{\scriptsize {tex(small)}}}" if small else "")


def _group_lines(columns: Sequence[Column]) -> Iterator[str]:
    """The spanning heads and the rules below them, where columns have groups."""
    if not any(c.group for c in columns):
        return
    heads, rules, at = [""], [], 2
    for group, width in spans(columns):
        heads.append(rf"\multicolumn{{{width}}}{{c}}{{{tex(group)}}}")
        rules += [rf"\cmidrule(lr){{{at}-{at + width - 1}}}"] if group else []
        at += width
    yield " & ".join(heads) + r" \\"
    yield " ".join(rules)


def latex(table: Filled) -> str:
    """A booktabs table (packages booktabs, graphicx, textcomp and T1 fonts), no wider than the text."""
    seen = view(table)
    heads = [
        tex(head) + (rf" {{\scriptsize ({n})}}" if n else "") for head, n in zip(seen.heads, seen.coverage, strict=True)
    ]
    lines = [
        r"% \usepackage[T1]{fontenc} \usepackage{textcomp,booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{tex(' '.join(p for p in (table.title + '.', table.label) if p))}}}",
        rf"\label{{tab:{table.name.replace('_', '-')}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{''.join('l' if c.text else 'r' for c in table.columns)}}}",
        r"\toprule",
        *_group_lines(table.columns),
        " & ".join([tex(table.row_head), *heads]) + r" \\",
        r"\midrule",
    ]
    for row, cells in zip(table.rows, seen.grid, strict=True):
        lines.append(" & ".join([tex(row.label), *map(_latex_cell, cells)]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}%", "}"]
    notes = [f"{_latex_mark(mark)} {tex(why)}" for mark, why in seen.footnotes] + [tex(n) for n in table.notes]
    if notes:
        lines += ["", r"\vspace{2pt}\raggedright\footnotesize", *(note + r"\par" for note in notes)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


_CSV_NAMES = {"why": "note", "odd": "not_comparable"}


def csv_text(table: Filled) -> str:
    """Full precision: per column the value and, where there are any, low, high, n, n_expected, n_failed and a note."""
    parts = {c.key: _csv_parts([table.cell(row, c) for row in table.rows]) for c in table.columns}
    heads = [
        c.key + suffix for c in table.columns for suffix in ("", *(f"_{_CSV_NAMES.get(p, p)}" for p in parts[c.key]))
    ]
    rows: list[list[object]] = [["row", *heads]]
    for row in table.rows:
        fields: list[object] = [row.label]
        for column in table.columns:
            cell = table.cell(row, column)
            fields += [cell.value, *(getattr(cell, p) for p in parts[column.key])]
        rows.append(fields)
    return csv_lines(rows)


def _csv_parts(cells: list[Cell]) -> list[str]:
    present = [p for p in ("low", "high", "n", "n_expected", "why") if any(getattr(c, p) is not None for c in cells)]
    return present + [p for p in ("n_failed", "odd") if any(getattr(c, p) for c in cells)]
