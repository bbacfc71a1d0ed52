"""How alike the encoders see the same images: a matrix of linear CKA."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from reports.figures.style import BLUE, INK, Figure, draw
from reports.measured import AUTOENCODERS, Measured, is_reference, label

SUITE = "scenes-cka"


def _place(name: str) -> tuple:
    """Reading order: known autoencoders, others, references."""
    known = list(AUTOENCODERS)
    return is_reference(name), known.index(name) if name in known else len(known), name


def pairs(measured: Measured) -> tuple[list[str], dict]:
    """(encoders in reading order, {(a, b): record} in both orders)."""
    found = {}
    for record in measured.where(SUITE):
        other = record.extra.get("other") or record.protocol_params.get("other")
        if isinstance(other, str):
            found[record.subject, other] = found[other, record.subject] = record
    return sorted({name for pair in found for name in pair}, key=_place), found


def matrix(measured: Measured) -> Figure | None:
    """Values in the cells; the diagonal is 1 by definition and left empty."""
    names, found = pairs(measured)
    if len(names) < 2:
        return None
    values = np.full((len(names), len(names)), np.nan)
    for (a, b), record in found.items():
        if record.value is not None:
            values[names.index(a), names.index(b)] = record.value
    shades = LinearSegmentedColormap.from_list("blues", ["#ffffff", BLUE])

    def paint(ax: Axes) -> None:
        ax.imshow(np.clip(values, 0, 1), cmap=shades, vmin=0, vmax=1)
        for row, column in np.ndindex(values.shape):
            if np.isfinite(values[row, column]):
                color = "white" if values[row, column] > 0.6 else INK
                ax.text(column, row, f"{values[row, column]:.2f}", ha="center", va="center", color=color)
        words = [label(n).replace(" (", "\n(") for n in names]
        ax.set_xticks(range(len(names)), words, rotation=35, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(names)), words)
        ax.set_title("Linear CKA of mean latents")
        for spine in ax.spines.values():
            spine.set_visible(False)

    side = 1.5 + 0.62 * len(names)
    alt = "Matrix of linear CKA between " + ", ".join(label(n) for n in names)
    return draw("cka", (side + 0.5, side), alt, paint)
