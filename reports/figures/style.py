"""The look of all figures: palette, axes, drawing to SVG (for the page and as a file), PDF and PNG."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, NullLocator

from reports.table import Cell
from vgt.core import files

INK, MUTED, LINE = "#1d2329", "#5c6670", "#d9dee3"
# Okabe and Ito's colors, which stay apart for color-blind readers.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#b0609a", "#c98a00", "#56b4e9"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = "osD^vP"
DASHED, DOTTED = (0, (3, 3)), (0, (1, 2))
LOOKS = {
    "query_ar_internvl": (BLUE, "o"),
    "mar_internvl": (VERMILION, "s"),
    "mar_internvl_compute": (ORANGE, "v"),
    "query_ar_qwen": (GREEN, "D"),
    "query_ar_pixel": (PURPLE, "^"),
    "vgt_ae_internvl": (BLUE, "o"),
    "vgt_ae_qwen": (GREEN, "D"),
    "vgt_ae_internvl_nodistill": (SKY, "v"),
    "pixel_ae": (PURPLE, "^"),
    "pca": (MUTED, "s"),
    "vlm_internvl": (BLUE, "o"),
    "vlm_qwen": (GREEN, "D"),
}
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
RC = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 9,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": LINE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#eceff2",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "vgt",
    "pdf.fonttype": 42,
}
ABOVE = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 2, "handletextpad": 0.4, "columnspacing": 1}


@dataclass(frozen=True)
class Figure:
    """A finished figure: file stem, SVG text, PNG and PDF bytes, words for those who cannot see it, and the largest
    width on the page in CSS pixels, beyond which its letters would outgrow the text around it.  ``inline``: its SVG is
    part of the page, so that parts of it show their titles under the pointer."""

    name: str
    svg: str
    png: bytes
    pdf: bytes
    alt: str
    widest: int
    inline: bool = False

    @property
    def forms(self) -> dict[str, bytes]:
        """{suffix: the file of that format}."""
        return {"svg": self.svg.encode(), "png": self.png, "pdf": self.pdf}


def look(subject: str, index: int = 0) -> tuple[str, str]:
    """(color, marker) of a subject; ``index`` picks one for subjects without a look of their own."""
    count = len(MARKERS)
    return LOOKS.get(subject, (PALETTE[index % len(PALETTE)], MARKERS[(index + index // count) % count]))


def plain_log(ax: Axes, which: str) -> None:
    """A logarithmic "x" or "y" axis with plain numbers at 1, 2 and 5."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axis.set_minor_formatter(FuncFormatter(lambda v, _: f"{v:g}" if f"{v:e}"[0] in "25" else ""))
    ax.tick_params(axis=which, which="minor", labelsize=8.5)


def accel_axis(ax: Axes, accels: Sequence[int]) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(accels, [f"{a}x" for a in accels])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("Acceleration (tokens decoded per step)")


def errors(*cells: Cell) -> list[list[float]]:
    """Intervals as matplotlib wants them, [below, above]; 0 without, or where a bootstrap's lies to one side."""
    known = [c.low is not None and c.high is not None for c in cells]
    below = [max(0.0, c.value - c.low) if ok else 0.0 for c, ok in zip(cells, known, strict=True)]
    above = [max(0.0, c.high - c.value) if ok else 0.0 for c, ok in zip(cells, known, strict=True)]
    return [below, above]


def reference_line(ax: Axes, value: float, words: str, across: str = "y", style=DASHED) -> None:
    """A thin named line at ``value`` of the "x" or the "y" axis."""
    (ax.axvline if across == "x" else ax.axhline)(value, color=MUTED, linestyle=style, linewidth=1, zorder=1)
    where = (value, 1.0) if across == "x" else (1.0, value)
    transform = ax.get_xaxis_transform() if across == "x" else ax.get_yaxis_transform()
    side = "center" if across == "x" else "right"
    ax.text(*where, words, transform=transform, color=MUTED, fontsize=8, ha=side, va="bottom")


def draw(
    name: str, size: tuple[float, float], alt: str, paint: Callable[[Axes], None], titles: Sequence[str] = ()
) -> Figure:
    """Call ``paint`` on one pair of axes of ``size`` inches; every format, and the same bytes for the same input.

    ``titles``: what shows under the pointer over the artists whose gid is ``title_id`` of 0, 1, ..."""
    with mpl.rc_context(RC):
        canvas = Canvas(figsize=size, layout="constrained")
        paint(canvas.subplots())
        return _saved(canvas, name, alt, titles)


def of_pixels(name: str, pixels: np.ndarray, alt: str) -> Figure:
    """A figure of an image, uint8 [H, W, 3], pixel by pixel."""
    height, width = pixels.shape[:2]
    with mpl.rc_context(RC):
        canvas = Canvas(figsize=(width / 100, height / 100), dpi=100)
        canvas.figimage(pixels)
        return _saved(canvas, name, alt)


def title_id(index: int) -> str:
    return f"title-{index}"


def _saved(canvas: Canvas, name: str, alt: str, titles: Sequence[str] = ()) -> Figure:
    svg, png, pdf = io.StringIO(), io.BytesIO(), io.BytesIO()
    canvas.savefig(svg, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    dpi = 200 if canvas.axes else canvas.dpi
    canvas.savefig(png, format="png", dpi=dpi, metadata={"Software": None}, facecolor="white")
    canvas.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    # Laid out with matplotlib's own font, shown in the reader's: every system font is narrower.
    text = svg.getvalue().replace("'DejaVu Sans'", FONTS.replace('"', "'"))
    for index, title in enumerate(titles):
        group = f'<g id="{title_id(index)}">'
        text = text.replace(group, f"{group}<title>{html.escape(title)}</title>", 1)
    widest = round(canvas.get_figwidth() * 96 * 1.25)
    return Figure(name, text[text.index("<svg") :], png.getvalue(), pdf.getvalue(), alt, widest, inline=bool(titles))


def write(figure: Figure, folder: Path) -> list[Path]:
    """Write ``<name>.svg``, ``.png`` and ``.pdf`` into ``folder``; returns the paths."""
    paths = [folder / f"{figure.name}.{suffix}" for suffix in figure.forms]
    for path, data in zip(paths, figure.forms.values(), strict=True):
        with files.atomic(path) as part:
            part.write_bytes(data)
    return paths


def part_of_page(figure: Figure) -> str:
    """The SVG as an element of an HTML page: ids that no other figure has, no declarations and metadata of a file."""
    text = re.sub(r"<metadata>.*?</metadata>", "", figure.svg, flags=re.S)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{figure.name}-", text).replace("*{", "svg *{")
    label = f'<svg role="img" aria-label="{html.escape(figure.alt)}" style="max-width: min(100%, {figure.widest}px)"'
    return text.replace("<svg", label, 1)
