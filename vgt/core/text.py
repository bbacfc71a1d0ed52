"""Tables of text for a terminal: the one place that pads columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


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
