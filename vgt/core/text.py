"""Text: the one reader of JSON, JSON lines, CSV and TOML, and tables for a terminal.

Files are UTF-8, with or without a byte order mark.  Only ``\\n`` ends a line of JSON lines, and blank lines are passed
over.  What cannot be read is a ValueError of one line that names the file, the line and, through ``Fields``, the field.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

DEPTH = (
    100  # levels of nesting that JSON and TOML may have: more are no data, and what walks them would run out of stack
)
CELL = 1 << 28  # characters of a cell: tables of other harnesses hold images
BOM = b"\xef\xbb\xbf"


# -------------------------------------------------------------------------------------------------------- reading


def present(path: str | Path, what: str = "", remedy: str = "") -> Path:
    """``path`` as that of a file.  Raises ValueError saying whether there is nothing or a folder in its place;
    ``what`` it should be ("results") and the ``remedy`` stand in the message."""
    path = Path(path)
    if path.is_file():
        return path
    wrong = "is a folder, not a file" if path.is_dir() else "does not exist"
    raise ValueError(f"{what} {path} {wrong}".lstrip() + (f"; {remedy}" if remedy else ""))


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.removeprefix(BOM).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error


def read(path: str | Path) -> str:
    """All of a file.  Raises ValueError where it is absent, a folder or not UTF-8."""
    return _decoded(present(path).read_bytes(), str(path))


def parse_json(content: str | bytes, where: str) -> Any:
    """The value of a JSON text; ``where`` it stands begins the message of the ValueError for anything else.

    NaN and infinity pass, as Python writes them: ``Fields`` and ``number`` refuse them where a number is read."""
    content = _decoded(content, where) if isinstance(content, bytes) else content
    try:
        value = json.loads(content)
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if "\n" in content.strip() else ""
        raise ValueError(f"{where}{line}: not valid JSON ({error.msg}, column {error.colno})") from error
    except RecursionError:
        raise ValueError(_deep(where)) from None
    except ValueError as error:  # a number of more digits than Python reads
        raise ValueError(f"{where}: not valid JSON ({error})") from error
    if content.count("[") + content.count("{") > DEPTH:
        _check_depth(value, where)
    return value


def _deep(where: str) -> str:
    return f"{where}: nested more than {DEPTH} levels deep; no such data is known here"


def _check_depth(value: Any, where: str) -> None:
    """Raises ValueError for lists and tables below each other deeper than DEPTH."""
    level = [value]
    for _ in range(DEPTH):
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list)))
        level = [value for values in inner for value in values]
        if not level:
            return
    raise ValueError(_deep(where))


def setting_value(content: str) -> Any:
    """The value in ``key=value`` on a command line: JSON where it is that, else the text itself."""
    try:
        return parse_json(content, "setting")
    except ValueError:
        return content


def read_json(path: str | Path) -> Any:
    """The value in a JSON file.  Raises ValueError naming file and line."""
    return parse_json(read(path), str(path))


def json_lines(path: str | Path, torn: bool = False) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of a file of JSON lines, read as it is walked through.

    ``torn``: a last line that was not finished, as a kill leaves it, is left out.  Raises ValueError naming file and
    line for any other that is not JSON."""
    with open(present(path), "rb") as lines:
        for number, line in enumerate(lines, 1):
            line = line.removeprefix(BOM) if number == 1 else line
            if not line.strip():
                continue
            try:
                value = parse_json(line, f"{path}, line {number}")
            except ValueError:
                if torn and not line.endswith(b"\n"):
                    return
                raise
            yield number, value


def objects(path: str | Path, torn: bool = False) -> Iterator[Fields]:
    """The objects in a file of JSON lines; see ``json_lines``.  Raises ValueError naming file and line for what is
    none."""
    for number, value in json_lines(path, torn):
        yield Fields.of(value, f"{path}, line {number}")


def log_rows(path: str | Path) -> list[Fields]:
    """The objects in a log of ours, [] where there is none yet; a last line that a kill cut short is left out."""
    return list(objects(path, torn=True)) if Path(path).exists() else []


def csv_rows(path: str | Path, columns: Iterable[str] = (), delimiter: str = ",") -> Iterator[Fields]:
    """The rows below the header of a CSV file as column -> text; cells that a short row lacks are "".

    Raises ValueError for a header without one of ``columns`` or with a column twice, and, naming the line, for a NUL
    byte, a quote that never ends and a row with more cells than the header."""
    csv.field_size_limit(CELL)
    with open(present(path), "rb") as lines:
        reader = csv.reader(_decoded_lines(lines, path), delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            _check_header(header, columns, path)
            for row in filter(None, reader):
                where = f"{path}, line {reader.line_num}"
                if len(row) > len(header):
                    remedy = f"quote cells that hold {delimiter!r}"
                    raise ValueError(f"{where}: {len(row)} cells, the header has {len(header)}; {remedy}")
                yield Fields(zip(header, row + [""] * (len(header) - len(row)), strict=True), where=where)
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from error


def _decoded_lines(lines: Iterable[bytes], path: str | Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        found = _decoded(line, f"{path}, line {number}")
        if "\0" in found:
            raise ValueError(f"{path}, line {number}: holds a NUL byte; save it as UTF-8 text")
        yield found


def _check_header(header: list[str], columns: Iterable[str], path: str | Path) -> None:
    found = ", ".join(header) or "none"
    for name in columns:
        if header.count(name) != 1:
            fault = f"has the column {name!r} twice" if name in header else f"has no column {name!r}"
            raise ValueError(f"{path} {fault} (found: {found})")


# What a spreadsheet takes for the beginning of a formula, which it executes (https://owasp.org, CSV injection).
_FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV.  A cell of text that a spreadsheet would execute gets an apostrophe in front, which ``csv_plain``
    takes away; numbers, also as text, stay as they are, and None is an empty cell."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([_csv_cell(cell) for cell in row] for row in rows)
    return out.getvalue()


def _csv_cell(cell: object) -> object:
    if not isinstance(cell, str) or not cell.removeprefix("'").startswith((*_FORMULA, "'")) or _is_number(cell):
        return cell
    return f"'{cell}"


def csv_plain(cell: str) -> str:
    """A cell of ``csv_text`` as it was."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith((*_FORMULA, "'")) else cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell == cell.strip()


def parse_toml(content: str, where: str) -> dict[str, Any]:
    """The table of a TOML text.  Raises ValueError saying that ``where`` is not valid."""
    try:
        value = tomllib.loads(content)
    except RecursionError:
        raise ValueError(_deep(where)) from None
    except ValueError as error:
        raise ValueError(f"{where} is not valid TOML: {error}") from error
    _check_depth(value, where)
    return value


# --------------------------------------------------------------------------------------------------------- fields


def shown(value: Any) -> str:
    """A value as a message quotes it: not more than some 60 characters."""
    told = repr(value)
    return told if len(told) <= 60 else f"{told[:57]}..."


def writable(value: str) -> bool:
    """Whether a text can be written as UTF-8: half of a surrogate pair, which JSON can spell, cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def number(value: Any, where: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number within ``low``..``high``, and no text or truth value.  Raises ValueError for anything else;
    ``where`` it stands begins the message."""
    try:
        finite = not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        finite = False
    if not finite:
        raise ValueError(f"{where}: {shown(value)} is not a finite number")
    if not low <= value <= high:
        limits = f"outside {low:g}..{high:g}" if math.isfinite(high) else f"below {low:g}"
        raise ValueError(f"{where}: {shown(value)} is {limits}")
    return value


class Fields(dict):
    """A JSON object or a row of a CSV file that knows ``where`` it stands ("results.jsonl, line 3").

    The methods give a field's value.  Raise ValueError, with file, line and field, where it is absent or of another
    kind."""

    def __init__(self, values: Any = (), where: str = ""):
        super().__init__(values)
        self.where = where

    @classmethod
    def of(cls, value: Any, where: str) -> Fields:
        """Raises ValueError for a value that is no object."""
        if not isinstance(value, dict):
            raise ValueError(f"{where}: {shown(value)} is no JSON object")
        return cls(value, where)

    def place(self, name: str) -> str:
        return f"{self.where}, field {name!r}"

    def need(self, name: str) -> Any:
        """A field of any kind."""
        if name not in self:
            raise ValueError(f"{self.where}: the field {name!r} is missing")
        return self[name]

    def text(self, name: str) -> str:
        """Text that can be written again: half of a surrogate pair cannot."""
        value = self.need(name)
        if not isinstance(value, str):
            raise ValueError(f"{self.place(name)}: {shown(value)} is not text")
        if not writable(value):
            raise ValueError(f"{self.place(name)}: {shown(value)} holds half a character")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.need(name)
        if not isinstance(value, bool):
            raise ValueError(f"{self.place(name)}: {shown(value)} is not true or false")
        return value

    def number(self, name: str, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number within ``low``..``high``; see ``number``."""
        return number(self.need(name), self.place(name), low, high)

    def figure(self, name: str) -> float:
        """A finite number that stands there as text, in a row of a CSV file."""
        return figure(self.need(name), self.place(name))

    def whole(self, name: str) -> int:
        """A whole number, also as text and as ``1.0``, which spreadsheets make of 1."""
        return whole(self.need(name), self.place(name))

    def object(self, name: str) -> Fields:
        """An object, or one that stands there as JSON text."""
        value = self.need(name)
        return Fields.of(parse_json(value, self.place(name)) if isinstance(value, str) else value, self.place(name))


def figure(value: Any, where: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number within ``low``..``high``, also as text; see ``number``."""
    try:
        return number(float(value) if isinstance(value, str) else value, where, low, high)
    except ValueError as error:
        if str(error).startswith(where):
            raise
        raise ValueError(f"{where}: {shown(value)} is not a finite number") from None


def whole(value: Any, where: str) -> int:
    """A whole number: 3, "3", " 3.0 ".  Raises ValueError for anything else; ``where`` begins the message."""
    for read_as in (int, float) if isinstance(value, str) else (lambda given: number(given, where),):
        try:
            found = read_as(value)
            if found == int(found):
                return int(found)
        except (ValueError, OverflowError):
            continue
    raise ValueError(f"{where}: {shown(value)} is not a whole number")


# --------------------------------------------------------------------------------------------------------- tables


def printable(name: str) -> str:
    """A file's name as text of one line: bytes that are not UTF-8, line ends and the like are written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def table(
    rows: Iterable[Sequence[object]], align: str = "l", header: Sequence[object] | None = None, rule: bool = False
) -> str:
    """Rows of equally many cells as lines with padded columns, two spaces apart; "" without rows and header.

    ``align``: "l" or "r" for each column, the last letter stands for all that follow ("lr": the first column left,
    every other right).  ``rule``: a line of dashes below the header.  A cell is shown as its ``str``, None as nothing.
    Raises ValueError for rows of different lengths."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in [*([header] if header else []), *rows]]
    if not cells:
        return ""
    count = len(cells[0])
    if any(len(row) != count for row in cells):
        raise ValueError(f"a table's rows have {sorted({len(row) for row in cells})} cells; give all equally many")
    widths = [max(len(row[k]) for row in cells) for k in range(count)]
    sides = align.ljust(count, align[-1])
    lines = [
        "  ".join(c.rjust(w) if side == "r" else c.ljust(w) for c, w, side in zip(row, widths, sides, strict=False))
        for row in cells
    ]
    lines = [line.rstrip() for line in lines]
    if header and rule:
        lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------------- colour


_GREEN, _RED, _YELLOW = "32", "31", "33"
VERDICTS = {
    "pass": _GREEN, "better": _GREEN, "improvement": _GREEN, "present": _GREEN,
    "fail": _RED, "worse": _RED, "regression": _RED, "MISSING": _RED,
    "inconclusive": _YELLOW, "incomparable": _YELLOW, "absent": _YELLOW,
}  # fmt: skip
# Verdicts stand at the beginning of a cell or behind a name ("gate: pass", "verdict=regression"), never within prose.
_VERDICT = re.compile(rf"(^|  |: |=)({'|'.join(VERDICTS)})(?=[:; (]|$)", re.MULTILINE)


def coloured(text: str, stream: TextIO | None = None) -> str:
    """``text`` with its verdicts in colour where ``stream`` (default stdout) is a terminal that has one and $NO_COLOR
    (https://no-color.org) is not set."""
    stream = stream or sys.stdout
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb" or not stream.isatty():
        return text
    return _VERDICT.sub(lambda m: f"{m[1]}\x1b[{VERDICTS[m[2]]}m{m[2]}\x1b[0m", text)
