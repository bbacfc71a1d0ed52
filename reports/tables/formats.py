"""One table as Markdown, LaTeX (booktabs) or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from reports.tables.table import EMPTY, Cell, Column, Shown, Table, view
from vgt.core import files

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


_CSV_NAMES = {"why": "note", "odd": "not_comparable"}


def tex(text: str) -> str:
    """``text`` with LaTeX's special characters escaped."""
    return "".join(_TEX.get(c, c) for c in text)


def write(table: Table, folder: Path) -> list[Path]:
    """Write ``<name>.md``, ``.tex`` and ``.csv`` into ``folder``; returns the paths."""
    forms = {"md": markdown(table), "tex": latex(table), "csv": csv_text(table)}
    return [files.write_text(folder / f"{table.name}.{suffix}", text) for suffix, text in forms.items()]


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _markdown_cell(shown: Shown) -> str:
    value = f"**{shown.value}**" if shown.best else shown.value
    marks = f"<sup>{shown.marks}</sup>" if shown.marks.isalpha() else shown.marks
    parts = (_plain(value) + marks, shown.interval, f"({shown.coverage})" if shown.coverage else "")
    return " ".join(p for p in parts if p)


def markdown(table: Table) -> str:
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
    lines += [
        f"- {mark}{':' if mark.isalpha() or mark == EMPTY else ''} {_plain(text)}" for mark, text in seen.footnotes
    ]
    lines += [f"- {_plain(note)}" for note in table.notes]
    return "\n".join(lines).rstrip() + "\n"


def _latex_mark(mark: str) -> str:
    return tex(mark) if mark == EMPTY else rf"\textsuperscript{{{tex(mark)}}}"


def _latex_cell(shown: Shown) -> str:
    value = rf"\textbf{{{tex(shown.value)}}}" if shown.best else tex(shown.value)
    marks = rf"\textsuperscript{{{tex(shown.marks)}}}" if shown.marks else ""
    small = " ".join(p for p in (shown.interval, f"({shown.coverage})" if shown.coverage else "") if p)
    # Braces: a cell that starts with "[" would be read as an argument of the row before it.
    return f"{{{value}}}{marks}" + (rf" {{\scriptsize {tex(small)}}}" if small else "")


def _group_lines(columns: list[Column]) -> Iterator[str]:
    """The spanning heads and the rules below them, where columns have groups."""
    if not any(c.group for c in columns):
        return
    spans, rules, at = [""], [], 2
    for group, members in groupby(columns, key=lambda c: c.group):
        width = len(list(members))
        spans.append(rf"\multicolumn{{{width}}}{{c}}{{{tex(group)}}}")
        rules += [rf"\cmidrule(lr){{{at}-{at + width - 1}}}"] if group else []
        at += width
    yield " & ".join(spans) + r" \\"
    yield " ".join(rules)


def latex(table: Table) -> str:
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
    notes = [f"{_latex_mark(mark)} {tex(text)}" for mark, text in seen.footnotes] + [tex(n) for n in table.notes]
    if notes:
        lines += ["", r"\vspace{2pt}\raggedright\footnotesize", *(note + r"\par" for note in notes)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def csv_text(table: Table) -> str:
    """Full precision: per column the value and, where there are any, low, high, n, n_expected, n_failed and a note."""
    parts = {c.key: _csv_parts([table.cell(row, c) for row in table.rows]) for c in table.columns}
    heads = [
        c.key + suffix for c in table.columns for suffix in ("", *(f"_{_CSV_NAMES.get(p, p)}" for p in parts[c.key]))
    ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", *heads])
    for row in table.rows:
        fields = []
        for column in table.columns:
            cell = table.cell(row, column)
            fields += [cell.value, *(getattr(cell, p) for p in parts[column.key])]
        writer.writerow([row.label, *("" if f is None else f for f in fields)])
    return out.getvalue()


def _csv_parts(cells: list[Cell]) -> list[str]:
    present = [p for p in ("low", "high", "n", "n_expected", "why") if any(getattr(c, p) is not None for c in cells)]
    return present + [p for p in ("n_failed", "odd") if any(getattr(c, p) for c in cells)]
