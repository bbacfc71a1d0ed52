"""DPG-Bench's own files: the questions CSV and the prompts, as a suite of this harness (docs/evaluators.md 3.1), and
2x2 grids of images (3.2): one file an item, tiles top-left, top-right, bottom-left, bottom-right.

The files are not part of the package; they come from TencentQQGYLab/ELLA, folder ``dpg_bench``.  Four separate images
are the better store; grids are read from and written for the official script.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from evals.engine.generation import Images, place
from evals.subjects.folder import Folder, folder
from vgt.core import files, images, record, text
from vgt.core.images import ImageError, read_image
from vgt.core.listing import folder_name, listed
from vgt.core.text import Fields

SUITE = "dpg-bench"
ITEMS = 1065  # prompts of the benchmark
TILES = 4  # of a grid
NAME = 200  # bytes of an item's name: file systems take 255, and a suffix and a writer's mark come on top
COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")  # those read
REMEDY = "give DPG-Bench's dpg_bench.csv"


def item_name(word: str) -> str:
    """An item's id, as files carry it: up to the first dot."""
    return word.strip().split(".")[0]


def file_names(prompts: list[dict]) -> list[str]:
    """``item_name`` of each item: what its grid is named.

    Raises ValueError for an id that cannot name a file, and for two items that have one name."""
    taken: dict[str, str] = {}
    for index, prompt in enumerate(prompts):
        word = str(prompt.get("id", f"{index:05d}"))
        where = f"{prompt.where}, id" if isinstance(prompt, Fields) else "item"
        name = item_name(word)
        if not name or set(name) & set("/\\") or any(ord(c) < 32 for c in name) or len(os.fsencode(name)) > NAME:
            raise ValueError(f"{where} {text.shown(word)}: {text.shown(name)} is no file name; change the id for grids")
        if name in taken:
            both = f"{text.shown(taken[name])} and {text.shown(word)}"
            raise ValueError(f"{where} {text.shown(word)}: {both} are both {name!r} up to the first dot; rename one")
        taken[name] = word
    return list(taken)


def _question(row: Fields) -> dict:
    """One row as a question record, which knows its place."""
    parts = [part.strip() for part in row["dependency"].split(",")]
    numbers = [text.whole(part, row.place("dependency")) for part in parts]
    question = {
        "proposition_id": row.whole("proposition_id"),
        "dependency": [number for number in numbers if number],
        "tuple": row["tuple"],
        "question": row["question_natural_language"].strip(),
    }
    return Fields(question, row.where)


def _item(row: Fields, words: dict[str, str]) -> str:
    """The item of a row; ``words``: item -> its id as the rows before have it, to which this one's is added."""
    name = item_name(row["item_id"])
    if not name:
        raise ValueError(f"{row.place('item_id')}: {text.shown(row['item_id'])} names no item")
    earlier = words.setdefault(name, row["item_id"].strip())
    if row["item_id"].strip().removesuffix(".0") != earlier.removesuffix(".0"):
        both = f"{text.shown(earlier)} and {text.shown(row['item_id'])}"
        raise ValueError(f"{row.place('item_id')}: {both} are both item {name!r} up to the first dot; rename one")
    return name


def read_questions(path: str | Path) -> list[dict]:
    """The items of ``dpg_bench.csv`` in file order: {"id", "prompt", "questions"}.

    As the official reader does (docs/evaluators.md 3.1), ids may be written ``1.0``, a row that repeats a question
    takes its place, and the rows of an item that stand apart take the place of its earlier ones; what is left out is
    said on stderr.  Raises ValueError for a file that is absent or empty, a column that is missing and a number that is
    none."""
    items: dict[str, dict] = {}
    first = last = None  # the first row's question; the last row's item
    replaced: dict[str, int] = {}
    words: dict[str, str] = {}
    for row in text.csv_rows(text.present(path, "questions file", f"{REMEDY} with --csv"), COLUMNS):
        name, question = _item(row, words), _question(row)
        if name != last:
            replaced[name] = replaced.get(name, 0) + len(items.get(name, {"questions": ()})["questions"])
            items[name] = {"id": name, "prompt": row["text"].strip(), "questions": {}}
        replaced[name] += question["proposition_id"] in items[name]["questions"]
        items[name]["questions"][question["proposition_id"]] = question
        first, last = first or question, name
    if not items:
        raise ValueError(f"{path} has no questions; {REMEDY}")
    for name, count in replaced.items():
        if count:
            remark = "come again farther down; the later ones count, as in the official reader"
            print(f"note: {path}: {count} row(s) of item {name} {remark}", file=sys.stderr)
    found = [{**item, "questions": list(item["questions"].values())} for item in items.values()]
    if found[0]["questions"][0] is not first:
        found[0]["first_row_repeated"] = True  # a reader that skips the first row loses nothing
    return found


def read_prompts(path: str | Path) -> dict[str, str]:
    """Item id -> prompt, from a folder of ``<item_id>.txt`` or a file of JSON lines with ``item_id`` and ``text``.

    Raises ValueError for a path that is neither, for broken lines, and for an item that comes twice."""
    path = Path(path)
    if path.is_dir():
        pairs = [(p.name, text.read(p)) for p in files.visible(path, "*.txt") if p.is_file()]
    elif path.is_file():
        pairs = [(str(row.need("item_id")), row.text("text")) for row in text.objects(path)]
    else:
        raise ValueError(f"prompts {path} are neither a folder of <item_id>.txt nor a file of JSON lines")
    found: dict[str, str] = {}
    for name, prompt in pairs:
        if item_name(name) in found:
            raise ValueError(f"{path} has two prompts for item {item_name(name)}; remove one")
        found[item_name(name)] = prompt.strip()
    if not found:
        raise ValueError(f"{path} holds no prompts; expected <item_id>.txt files or JSON lines")
    return found


def load(questions: str | Path, prompts: str | Path | None = None) -> list[dict]:
    """The suite: items in the order of the CSV, with the prompts of ``prompts`` where given (default: its own text).

    Raises ValueError as the readers do, and for items without a prompt and prompts without questions."""
    items = read_questions(questions)
    if prompts is None:
        return items
    texts = read_prompts(prompts)
    ids = {item["id"] for item in items}
    for left, right, what in ((ids, texts.keys(), "prompt"), (texts.keys(), ids, "questions")):
        lost = sorted(left - right)
        if lost:
            raise ValueError(f"item {lost[0]} has no {what} ({len(lost)} such items); {questions} and {prompts} differ")
    return [{**item, "prompt": texts[item["id"]]} for item in items]


# ---------------------------------------------------------------------------------------------------------- grids


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
    for path in (root / name for name in listed(root, deep=False).images):
        name = item_name(path.name)
        if name in found:
            raise ValueError(f"{found[name]} and {path} are both grids of item {name}; remove one")
        found[name] = path
    if not found:
        raise ValueError(f"folder {root} holds no grids; expected <item_id>.png files")
    return found


def _write_tiles(grid: Path, resolution: int, tile_files: list[Path]) -> None:
    """Write the tiles of one grid.  A file that is no image stands in place of each (empty where it cannot be opened),
    to be reported there."""
    try:
        image = read_image(grid)
    except ImageError:
        tiles = None
    else:
        try:
            tiles = split_grid(image, resolution)
        except ValueError as error:
            raise ValueError(f"{grid} {error}") from error
    for number, path in enumerate(tile_files):
        path.parent.mkdir(parents=True, exist_ok=True)
        if tiles is None:
            path.write_bytes(_bytes(grid))
        else:
            Image.fromarray(tiles[number]).save(path)


def _bytes(path: Path) -> bytes:
    try:
        return images.content(path)
    except ImageError as error:
        print(f"failed: {error}", file=sys.stderr)
        return b""


def unpack_grids(
    root: str | Path, prompts: list[dict], work: str | Path, resolution: int, full: list[dict] | None = None
) -> Folder:
    """A folder of grids as a folder of GenEval's layout below ``work``, made once for the same files.

    ``full``: the whole suite, where ``prompts`` are a part.  An item without a grid has no images, and an image of no
    item becomes one beyond the last prompt: the evaluator reports both.  Raises ValueError as ``file_names``,
    ``grid_files`` and ``split_grid`` do, before anything is judged."""
    root = Path(root)
    found = grid_files(root)
    known = set(file_names(full or prompts))
    names = file_names(prompts)
    mine = {index: found[name] for index, name in enumerate(names) if name in found}
    if not mine:
        raise ValueError(f"folder {root} holds no grid of this suite; their names must be <item_id>.png")
    extra = [path for name, path in sorted(found.items()) if name not in known]
    content = [[index, prompts[index]["prompt"], images.digest(path)] for index, path in sorted(mine.items())]
    content_hash = files.digest_json([resolution, content, [[path.name, images.digest(path)] for path in extra]])
    out = Path(work) / "dpg" / "grids" / content_hash[:16]
    if not out.exists():
        with files.atomic_folder(out) as part:
            for index, path in mine.items():
                _write_tiles(path, resolution, [part / place(index, tile) for tile in range(TILES)])
                files.write_text(part / f"{index:05d}" / "metadata.jsonl", json.dumps(prompts[index]) + "\n")
            for index, path in enumerate(extra, len(prompts)):
                (part / place(index, 0)).parent.mkdir(parents=True)
                (part / place(index, 0)).write_bytes(_bytes(path))
    return folder(out, f"folder:{folder_name(root)}", record.place(root))


def export_grids(shown: Images, prompts: list[dict], out: str | Path) -> list[Path]:
    """Write ``<out>/<item_id>.png`` for every item with four images, for the official script.  Returns the files.

    Raises ValueError as ``file_names`` does, and where images of an item differ in size or are fewer than four."""
    written, names = [], file_names(prompts)
    for index in sorted({index for index, _ in shown.paths}):
        paths = [shown.paths[index, tile] for tile in range(TILES) if (index, tile) in shown.paths]
        name = names[index]
        try:
            grid = join_tiles([read_image(path) for path in paths])
        except (OSError, ValueError) as error:
            raise ValueError(f"item {name} cannot be made a grid: {error}") from error
        path = Path(out) / f"{name}.png"
        with files.atomic(path) as part:
            Image.fromarray(grid).save(part)
        written.append(path)
    return written
