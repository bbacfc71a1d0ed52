"""Grids of images: for the page inlined, for a file as one PNG."""

from __future__ import annotations

import base64
import io
import textwrap
from dataclasses import dataclass

from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from reports.figures.style import GREEN, INK, LINE, MUTED, VERMILION

SHOWN = 128  # side of a image in the PNG file, pixels
LARGEST = 256  # larger images are reduced to this side before they are inlined


@dataclass(frozen=True)
class Cell:
    """One sample: PNG bytes, and whether the judge found it correct (None where that is not on file)."""

    png: bytes
    correct: bool | None

    @property
    def uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class Grid:
    """``name``: file stem; ``prompts``: words above each column; ``rows``: (label, one image or None per column)."""

    name: str
    prompts: list[str]
    rows: list[tuple[str, list[Cell | None]]]


def cell(image: Image.Image, correct: bool | None = None) -> Cell:
    """A image of at most LARGEST pixels a side."""
    image = image.convert("RGB")
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return Cell(out.getvalue(), correct)


def png(grid: Grid) -> bytes:
    """The grid as one PNG, images enlarged without smoothing, a green or red bar for the judge's verdict."""
    regular = font_manager.findfont("DejaVu Sans")
    font, small = ImageFont.truetype(regular, 15), ImageFont.truetype(regular, 12)
    left, gap, top = 190, 10, 64
    width = left + len(grid.prompts) * (SHOWN + gap)
    canvas = Image.new("RGB", (width, top + len(grid.rows) * (SHOWN + gap)), "white")
    pen = ImageDraw.Draw(canvas)
    for column, prompt in enumerate(grid.prompts):
        words = textwrap.fill(prompt.removeprefix("a photo of "), 18)
        pen.multiline_text((left + column * (SHOWN + gap), top - 8), words, MUTED, small, anchor="ld", spacing=2)
    for row, (name, images) in enumerate(grid.rows):
        y = top + row * (SHOWN + gap)
        pen.multiline_text((8, y + SHOWN // 2), textwrap.fill(name, 20), INK, font, anchor="lm")
        for column, shown in enumerate(images):
            x = left + column * (SHOWN + gap)
            if shown is None:
                pen.rectangle((x, y, x + SHOWN - 1, y + SHOWN - 1), outline=LINE)
                continue
            with Image.open(io.BytesIO(shown.png)) as image:
                canvas.paste(image.resize((SHOWN, SHOWN), Image.Resampling.NEAREST), (x, y))
            if shown.correct is not None:
                pen.rectangle((x, y + SHOWN, x + SHOWN - 1, y + SHOWN + 3), GREEN if shown.correct else VERMILION)
    out = io.BytesIO()
    canvas.save(out, "PNG", optimize=True)
    return out.getvalue()
