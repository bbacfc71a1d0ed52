"""DPG-Bench's 2x2 grids (docs/evaluators.md 3.2): one file an item, its tiles row by row.

Four separate files are the better store; grids are read from and written for the official script.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from evals.dpg.data import item_name
from evals.engine.generation import Images, place
from evals.subjects.folder import SUFFIXES, Folder, folder
from vgt.core import files
from vgt.core.images import read_image

TILES = 4


def split_grid(grid: np.ndarray, resolution: int) -> list[np.ndarray]:
    """uint8 [2R, 2R, 3] -> four tiles [R, R, 3] in reading order.  Raises ValueError for any other size."""
    height, width = grid.shape[:2]
    if (height, width) != (2 * resolution, 2 * resolution):
        raise ValueError(
            f"is {width}x{height} pixels; a 2x2 grid of {resolution}-pixel tiles has "
            f"{2 * resolution}x{2 * resolution}: give the tiles' own size with --resolution"
        )
    halves = (slice(0, resolution), slice(resolution, None))
    return [grid[rows, columns] for rows in halves for columns in halves]


def join_tiles(tiles: list[np.ndarray]) -> np.ndarray:
    """Four tiles [R, R, 3] -> [2R, 2R, 3], the inverse of ``split_grid``."""
    shapes = {tile.shape for tile in tiles}
    if len(tiles) != TILES or len(shapes) > 1:
        raise ValueError(f"a grid takes {TILES} images of one size, not {len(tiles)} of {sorted(shapes)}")
    return np.concatenate([np.concatenate(tiles[:2], 1), np.concatenate(tiles[2:], 1)], 0)


def grid_files(root: Path) -> dict[str, Path]:
    """Item id -> image file below ``root``; other files are none of ours (the official script leaves results there).

    Raises ValueError for a folder that is absent or holds no image, and for two images of one item."""
    if not root.is_dir():
        raise ValueError(f"image folder {root} does not exist; give a folder of grids as folder:<dir>")
    found: dict[str, Path] = {}
    for path in sorted(p for p in root.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES):
        name = item_name(path.name)
        if name in found:
            raise ValueError(f"{found[name]} and {path} are both grids of item {name}; remove one")
        found[name] = path
    if not found:
        raise ValueError(f"folder {root} holds no grids; expected <item_id>.png files")
    return found


def _unpack(grid: Path, resolution: int, places: list[Path]) -> None:
    """Write the tiles of one grid.  A file that is no image takes their places as it is, to be reported there."""
    try:
        image = read_image(grid)
    except (OSError, ValueError):
        tiles = None
    else:
        try:
            tiles = split_grid(image, resolution)
        except ValueError as error:
            raise ValueError(f"{grid} {error}") from error
    for number, path in enumerate(places):
        path.parent.mkdir(parents=True, exist_ok=True)
        if tiles is None:
            shutil.copyfile(grid, path)
        else:
            Image.fromarray(tiles[number]).save(path)


def unpack(
    root: str | Path, prompts: list[dict], work: str | Path, resolution: int, full: list[dict] | None = None
) -> Folder:
    """A folder of grids as a folder of GenEval's layout below ``work``, made once for the same files.

    ``full``: the whole suite, where ``prompts`` are a part.  An item without a grid has no images, and an image of no
    item becomes one beyond the last prompt: the evaluator reports both.  Raises ValueError as ``grid_files`` and
    ``split_grid`` do, before anything is judged."""
    root = Path(root)
    found = grid_files(root)
    names = [item_name(str(prompt["id"])) for prompt in prompts]
    known = {item_name(str(prompt["id"])) for prompt in full or prompts}
    mine = {index: found[name] for index, name in enumerate(names) if name in found}
    if not mine:
        raise ValueError(f"folder {root} holds no grid of this suite; their names must be <item_id>.png")
    extra = [path for name, path in sorted(found.items()) if name not in known]
    content = [[index, prompts[index]["prompt"], files.digest_file(path)] for index, path in sorted(mine.items())]
    mark = files.digest_json([resolution, content, [[path.name, files.digest_file(path)] for path in extra]])
    out = Path(work) / "dpg" / "grids" / mark[:16]
    if not out.exists():
        with files.atomic_folder(out) as part:
            for index, path in mine.items():
                _unpack(path, resolution, [part / place(index, tile) for tile in range(TILES)])
                files.write_text(part / f"{index:05d}" / "metadata.jsonl", json.dumps(prompts[index]) + "\n")
            for index, path in enumerate(extra, len(prompts)):
                (part / place(index, 0)).parent.mkdir(parents=True)
                shutil.copyfile(path, part / place(index, 0))
    return folder(out, f"folder:{root.resolve().name}")


def export(shown: Images, prompts: list[dict], out: str | Path) -> list[Path]:
    """Write ``<out>/<item_id>.png`` for every item with four images, for the official script.  Returns the files.

    Raises ValueError where images of an item differ in size or are fewer than four."""
    written = []
    for index in sorted({index for index, _ in shown.paths}):
        paths = [shown.paths[index, tile] for tile in range(TILES) if (index, tile) in shown.paths]
        name = item_name(str(prompts[index].get("id", f"{index:05d}")))
        try:
            grid = join_tiles([read_image(path) for path in paths])
        except (OSError, ValueError) as error:
            raise ValueError(f"item {name} cannot be made a grid: {error}") from error
        path = Path(out) / f"{name}.png"
        with files.atomic(path) as part:
            Image.fromarray(grid).save(part)
        written.append(path)
    return written
