"""Images as figures: samples, reconstructions and cluster maps side by side, inlined on the page and as files.

Nothing is selected by looking: prompts are the first of each task in the suite and always sample 0; reconstructions
are spread evenly over the first test images; cluster maps are of the images that the probes name.
"""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from scipy.optimize import linear_sum_assignment

from reports.figures.style import GREEN, INK, LINE, MUTED, PALETTE, VERMILION, Figure, of_pixels
from reports.measured import GENEVAL, ORACLE, TASKS, Measured, is_reference, label, row_label
from vgt.core import files, scenes
from vgt.core.record import Record
from vgt.core.text import log_rows, objects

SHOWN = 128  # side of an image in the files, pixels
LARGEST = 256  # larger images are reduced to this side before they are inlined
SAMPLE = "samples/0000.png"
HASHES = "images.hashes"  # of the images in a folder, beside them
STRIPS = {"scenes": 3, "photos": 4}  # data -> how many of its images are shown
COLORS = (*PALETTE, "#f0e442", INK)  # of clusters
OVERLAY = 0.5


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
    """An image of at most LARGEST pixels a side."""
    image = image.convert("RGB")
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "PNG")
    return Cell(out.getvalue(), correct)


def figure(grid: Grid) -> Figure:
    """The grid as one figure, images enlarged without smoothing, a green or red bar for the judge's verdict."""
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
    names = ", ".join(name for name, _ in grid.rows)
    return of_pixels(grid.name, np.asarray(canvas), f"{names}: {'; '.join(grid.prompts)}")


def inside(work: Path | None, path: object) -> Path | None:
    """``path`` of a record as a path below the folder of the run; None without either, or where it leads outside."""
    if work is None or not path:
        return None
    found = work / str(path)
    return found if found.resolve().is_relative_to(work.resolve()) else None


# ---------------------------------------------------------------------------------------------------------- samples


def folder_of(record: Record, work: Path | None) -> Path | None:
    """The folder of images (GenEval layout) behind a score, if it is still there below ``work``."""
    path = inside(work, record.evidence)
    path = path.parent if path is not None and not path.is_dir() else path
    if path is None or not path.resolve().is_relative_to(work.resolve()):
        return None
    return path if any(path.glob("[0-9]*/metadata.jsonl")) else None


def prompts_of(folder: Path) -> dict[str, dict]:
    """``{folder name: prompt record}`` of a folder of images, in order."""
    found = {}
    for path in sorted(folder.glob("[0-9]*/metadata.jsonl")):
        found[path.parent.name] = next(objects(path))
    return found


def _verdicts(folder: Path) -> dict[str, bool]:
    """``{"00000/samples/0000.png": correct}`` from the judge's results file, where there is one."""
    path = folder / "results.jsonl"
    if not path.is_file():
        return {}
    return {"/".join(Path(row.text("filename")).parts[-3:]): row.flag("correct") for row in objects(path)}


def _hashes(folder: Path) -> dict[str, str]:
    """``{"00000/samples/0000.png": hash}`` of the files as they were made, where that is told."""
    return {row["id"]: row["content"] for row in log_rows(folder / HASHES)}


def _check(path: Path, content: str | None) -> None:
    """Raises ValueError where an image is not the one that was scored; ``content``: the hash of that one's file."""
    if content is not None and files.digest_file(path) != content:
        raise ValueError(f"{path} is not the image that was scored; evaluate again, which makes it again")


def _cell(folder: Path, index: str, verdicts: dict[str, bool], hashes: dict[str, str]) -> Cell | None:
    path = folder / index / SAMPLE
    if not path.is_file():
        return None
    _check(path, hashes.get(f"{index}/{SAMPLE}"))
    with Image.open(path) as opened:
        return cell(opened, verdicts.get(f"{index}/{SAMPLE}"))


def samples(measured: Measured, work: Path | None, per_task: int = 2) -> list[Grid]:
    """One grid per ``k < per_task``: the k-th prompt of every task; rows are the oracle, then every generator.

    An image whose folder holds another prompt under the same number is left out."""
    found = measured.where(GENEVAL, "overall")
    records = [r for r in found if r.subject == ORACLE] + [r for r in found if not is_reference(r.subject)]
    folders = {row_label(r.subject, r.accel): f for r in records if (f := folder_of(r, work))}
    if not folders.keys() - {row_label(ORACLE)}:
        return []
    listed = {name: prompts_of(folder) for name, folder in folders.items()}
    first = max(listed.values(), key=len)
    made = []
    for k in range(per_task):
        of_task = [[i for i, p in first.items() if p.get("tag") == task] for task in TASKS]
        chosen = [indices[k] for indices in of_task if len(indices) > k]
        if not chosen:
            break
        rows = []
        for name, folder in folders.items():
            verdicts, hashes = _verdicts(folder), _hashes(folder)
            same = {i: listed[name].get(i, {}).get("prompt") == first[i]["prompt"] for i in chosen}
            rows.append((name, [_cell(folder, i, verdicts, hashes) if same[i] else None for i in chosen]))
        made.append(Grid(f"samples_{k + 1}", [first[i]["prompt"] for i in chosen], rows))
    return made


def summary(measured: Measured, work: Path | None) -> list[Grid]:
    """The first grid of samples, without those of 2x and more."""
    fast = {row_label(s, a) for s in measured.generators() for a in measured.accels(s) if a is not None and a > 1}
    rows = [
        (grid, [(name, images) for name, images in grid.rows if name not in fast])
        for grid in samples(measured, work, per_task=1)
    ]
    return [Grid("samples_summary", grid.prompts, kept) for grid, kept in rows if len(kept) > 1]


# -------------------------------------------------------------------------------------------------- reconstructions


def strip(path: Path | None) -> tuple[np.ndarray, np.ndarray] | None:
    """(originals, reconstructions), uint8 [N, S, S, 3] each, from an image with the originals above; None without."""
    if path is None or not path.is_file():
        return None
    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    side = pixels.shape[0] // 2
    count = pixels.shape[1] // side
    tiles = pixels[: 2 * side, : count * side].reshape(2, side, count, side, 3).swapaxes(1, 2)
    return tiles[0], tiles[1]


def reconstructions(measured: Measured, work: Path | None) -> list[Grid]:
    """One grid: a row of originals, then one per autoencoder that was scored on the very same images."""
    originals: dict[str, np.ndarray] = {}
    rebuilt: dict[tuple[str, str], np.ndarray] = {}
    for suite in STRIPS:
        for r in measured.where(suite, "psnr-mean"):
            path = inside(work, r.extra.get("image"))
            if path is not None and path.is_file():
                _check(path, r.hashes.get("image"))
            pair = strip(path)
            if pair and np.array_equal(originals.setdefault(suite, pair[0]), pair[0]):
                rebuilt[r.subject, suite] = pair[1]
    if not rebuilt:
        return []
    shown = {s: np.unique(np.linspace(0, len(of) - 1, STRIPS[s]).astype(int)) for s, of in originals.items()}

    def row(tiles: dict[str, np.ndarray | None]) -> list:
        return [cell(Image.fromarray(tiles[s][i])) if tiles[s] is not None else None for s in shown for i in shown[s]]

    heads = [s.removesuffix("s") for s in shown for _ in shown[s]]
    scored = {subject for subject, _ in rebuilt}
    rows = [("Original", row(originals))]
    rows += [(label(a), row({s: rebuilt.get((a, s)) for s in shown})) for a in measured.autoencoders() if a in scored]
    return [Grid("reconstructions", heads, rows)]


# ----------------------------------------------------------------------------------------------------- cluster maps


def _enlarged(maps: np.ndarray, side: int) -> np.ndarray:
    """[N, h, h] -> [N, side, side] by repeating; ``side`` is a multiple of h."""
    times = side // maps.shape[1]
    return maps.repeat(times, 1).repeat(times, 2)


def matched(reference: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """``maps`` [N, h, h] with the clusters renumbered so that they overlap those of the ``reference`` [N, g, g] as much
    as one-to-one names can (Hungarian method); clusters beyond the reference's get the next free numbers."""
    side = math.lcm(reference.shape[1], maps.shape[1])
    a, b = _enlarged(reference, side).reshape(-1), _enlarged(maps, side).reshape(-1)
    size = int(max(a.max(), b.max())) + 1
    overlap = np.zeros((size, size), int)
    np.add.at(overlap, (b, a), 1)
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    names = np.empty(size, int)
    names[rows] = columns
    return names[maps]


def _maps(record: Record) -> np.ndarray | None:
    """int [N, h, w] as stored, None without."""
    stored, grid = record.extra.get("maps"), record.extra.get("grid")
    return np.array(stored, int).reshape(-1, *grid) if stored and grid else None


def _images(record: Record, work: Path | None) -> list[Image.Image] | None:
    """The images behind the maps: synthetic scenes rendered again, others from the strip beside the evidence."""
    rendered = record.extra.get("scenes")
    if rendered:
        at = {"size": rendered["size"], "task": rendered["task"]}
        return [Image.fromarray(scenes.item(rendered["split"], i, **at).image) for i in rendered["indices"]]
    path = inside(work, record.extra.get("image"))
    if path is None or not path.is_file():
        return None
    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    return [Image.fromarray(part) for part in np.split(pixels, pixels.shape[1] // pixels.shape[0], 1)]


def overlay(image: Image.Image, clusters: np.ndarray) -> Image.Image:
    """The clusters' colors over the image, half and half, in blocks as large as a token."""
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLORS], np.uint8)
    colors = Image.fromarray(rgb[clusters % len(COLORS)])
    return Image.blend(image.convert("RGB"), colors.resize(image.size, Image.Resampling.NEAREST), OVERLAY)


def clusters(measured: Measured, work: Path | None = None) -> list[Grid]:
    """A grid per set of images: the images, then each autoencoder's clusters in colors matched to the first one's.
    Autoencoders whose maps show other images than the most do are left out."""
    suites = sorted({r.suite for r in measured.records if r.metric == "cluster-maps"})
    made = (_cluster_grid(suite, measured.where(suite, "cluster-maps"), work) for suite in suites)
    return [grid for grid in made if grid]


def _cluster_grid(suite: str, records: list[Record], work: Path | None) -> Grid | None:
    found = [(r, _maps(r), _images(r, work)) for r in records]
    found = [(r, maps, images) for r, maps, images in found if maps is not None and len(images or ()) == len(maps)]
    if not found:
        return None
    usual = Counter(tuple(r.extra["ids"]) for r, _, _ in found).most_common(1)[0][0]
    found = [each for each in found if tuple(each[0].extra["ids"]) == usual]
    first, reference, images = found[0]
    rows = [("Image", [cell(image) for image in images])]
    for record, maps, own in found:
        seen = matched(reference, maps)
        rows.append((label(record.subject), [cell(overlay(*pair)) for pair in zip(own, seen, strict=True)]))
    kind = first.extra.get("class") or "image"
    heads = [f"{kind}, {name.rpartition('/')[2]}" for name in usual]
    return Grid(f"clusters_{suite.removesuffix('-latents')}", heads, rows)
