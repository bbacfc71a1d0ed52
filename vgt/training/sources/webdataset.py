"""WebDataset shards: local tar files, read in any order through an index of offsets.

The webdataset package reads shards from front to back and shuffles through a buffer, so its order depends on the
number of workers and on where a run was stopped.  An index of offsets gives any sample at any time: batches stay pure
functions of their number.  It is built once per shard and kept in the cache folder, under the shard's path, size and
modification time; in memory a shard costs nothing but its name.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from glob import glob, has_magic
from itertools import accumulate, product
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vgt.core import files, tars
from vgt.core.images import SUFFIXES, ImageError
from vgt.core.listing import tell_left_out
from vgt.core.text import parse_json, printable, read_json
from vgt.training.sources.sample import CAPTION_NAMES, LABEL_NAMES, Sample, Skipped, decoded, labelled, worded

INDEX = "tar-index-v2"
_ROW = np.dtype([(part, "<i8", 2) for part in ("image", "txt", "json")])  # (offset, size); size -1: there is none


class WebDataset:
    """Samples of all shards of a pattern: ``KEY.jpg`` (or .png, .webp, ...) with ``KEY.txt``, or with ``KEY.json`` and
    a field of text in it (vgt/core/tars.py).  Where both are there the text file decides, or the JSON file if
    ``caption_column`` names its field.  Labels are a field of the JSON file (``label_column``)."""

    classes = None  # only every JSON file together would tell

    def __init__(
        self,
        name: str,
        pattern: str,
        captions: bool,
        caption_column: str | None,
        cache: Path,
        labels: bool = False,
        label_column: str | None = None,
    ):
        self.name, self.captions, self._field = name, captions, caption_column
        self._labels, self._label_field = labels, label_column
        self._shards = shards(pattern)
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(partial(_indexed, cache=cache), self._shards)
            self._indexes = list(tqdm(found, "tar index", len(self._shards), file=sys.stderr, delay=5, disable=None))
        left_out: Counter[str] = Counter()
        for path in self._indexes:
            left_out.update(read_json(path.with_suffix(".json")))
        tell_left_out(name, left_out)
        counts = [path.stat().st_size // _ROW.itemsize for path in self._indexes]
        self._ends = list(accumulate(counts))
        if not self._ends[-1]:
            raise ValueError(f"{name}: {len(counts)} shards hold no {', '.join(SUFFIXES)} files")
        if captions:
            self._check("captions", ("txt", "json"), counts)
        if labels:
            self._check("labels", ("json",), counts)
        sizes = [[path.name, path.stat().st_size, n] for path, n in zip(self._shards, counts, strict=True)]
        self.fingerprint = files.digest_json(["webdataset", sizes, captions and caption_column])

    def __len__(self) -> int:
        return self._ends[-1]

    def item(self, index: int) -> Sample | Skipped:
        shard = bisect_right(self._ends, index)
        row = self._row(shard, index - (self._ends[shard - 1] if shard else 0))
        name = f"{self._shards[shard].name}:{_name(self._shards[shard], int(row['image'][0]))}"
        caption = self._caption(shard, row, name) if self.captions else None
        label = self._label(shard, row, name) if self._labels else None
        return decoded(self._member(shard, row["image"], name).read, caption, name, label)

    def _row(self, shard: int, place: int) -> np.ndarray:
        with open(self._indexes[shard], "rb") as index:
            index.seek(place * _ROW.itemsize)
            return np.frombuffer(index.read(_ROW.itemsize), _ROW)[0]

    def _member(self, shard: int, where: np.ndarray, name: str) -> tars.Member:
        return tars.Member(self._shards[shard], int(where[0]), int(where[1]), name)

    def _caption(self, shard: int, row: np.ndarray, name: str) -> str | Skipped:
        kind = next((k for k in (("json", "txt") if self._field else ("txt", "json")) if row[k][1] >= 0), None)
        if kind is None:
            return Skipped(name, "no caption")
        try:
            content = self._member(shard, row[kind], name).read()
        except ImageError:
            return Skipped(name, "caption cannot be read")
        return worded(content, name) if kind == "txt" else _json_caption(content, self._field, name)

    def _label(self, shard: int, row: np.ndarray, name: str) -> str | Skipped:
        if row["json"][1] < 0:
            return Skipped(name, "no label")
        try:
            content = self._member(shard, row["json"], name).read()
        except ImageError:
            return Skipped(name, "label cannot be read")
        found = _field(content, self._label_field, LABEL_NAMES, "label", name)
        return found if isinstance(found, Skipped) else labelled(found, name)

    def _check(self, what: str, kinds: tuple[str, ...], counts: list[int]) -> None:
        """Raises ValueError where no sample of the first shard that has any can have captions, or labels."""
        shard = next(k for k, n in enumerate(counts) if n)
        rows = np.fromfile(self._indexes[shard], _ROW)
        if not any((rows[kind][:, 1] >= 0).any() for kind in kinds):
            members = " or ".join(f"KEY.{kind}" for kind in kinds)
            raise ValueError(f"{self.name}: {self._shards[shard].name} has no {what}; add {members}")


def _json_caption(content: bytes, field: str | None, name: str) -> str | Skipped:
    found = _field(content, field, CAPTION_NAMES, "caption", name)
    return found if isinstance(found, Skipped) else worded(found, name)


def _field(content: bytes, field: str | None, names: tuple[str, ...], what: str, name: str) -> object:
    """The value of a JSON file's ``field``, or of the first of ``names`` that it has."""
    try:
        value = parse_json(content, name)
    except ValueError:
        return Skipped(name, f"{what} is not valid JSON")
    if not isinstance(value, dict):
        return Skipped(name, f"no {what}")
    return value.get(field or next((each for each in names if each in value), None))


def _name(shard: Path, offset: int) -> str:
    """The name in the header before a member's content, for messages (the first 100 bytes of a very long one)."""
    try:
        with open(shard, "rb") as archive:
            archive.seek(max(0, offset - 512))
            header = archive.read(100)
    except OSError:
        return f"offset {offset}"
    return printable(header.split(b"\0")[0].decode("utf-8", "surrogateescape").removeprefix("./"))


# -------------------------------------------------------------------------------------------------------- index


def _indexed(shard: Path, cache: Path) -> Path:
    """The index file of a shard, built where it is absent; a .json file beside it says what was left out."""
    state = shard.stat()
    mark = files.digest(INDEX, str(shard.resolve()), str(state.st_size), str(state.st_mtime_ns))
    path = cache / INDEX / f"{mark[:24]}.bin"
    if not (path.exists() and path.with_suffix(".json").exists()):
        rows, left_out = _rows(shard)
        files.write_json(path.with_suffix(".json"), left_out)
        with files.atomic(path) as part:
            rows.tofile(part)
    return path


def _rows(shard: Path) -> tuple[np.ndarray, Mapping[str, int]]:
    """One row per sample, in the order of the archive, and how many files of each kind are no part of any."""
    found, left_out = tars.samples(shard)
    rows = [tuple((m.offset, m.size) if m else (-1, -1) for m in (each.image, each.txt, each.json)) for each in found]
    return np.array(rows, _ROW), left_out


# ------------------------------------------------------------------------------------------------------ pattern


def shards(pattern: str) -> list[Path]:
    """Local tar files by a path, a folder, a glob, or braces as in ``{000..012}`` and ``{a,b}``, in sorted order.

    Raises ValueError naming what is missing."""
    found: list[Path] = []
    for each in braced(pattern):
        matched = sorted(map(Path, glob(each))) if has_magic(each) and not Path(each).exists() else [Path(each)]
        inside = [shard for path in matched for shard in tars.archives(path)]
        if not inside:
            kind = "is no plain .tar file" if Path(each).is_file() else "names no .tar file"
            raise ValueError(f"webdataset: {each} {kind} on this machine; give shards such as train-{{000..012}}.tar")
        found += inside
    return sorted(set(found))


def braced(pattern: str) -> list[str]:
    """All words of a pattern with braces: ``a{08..10}{x,y}`` -> a08x, a08y, a09x, ...  Digits keep their leading zeros.

    Raises ValueError for braces that hold neither a range nor a list."""
    pieces = re.split(r"\{([^{}]*)\}", pattern)
    return ["".join(word) for word in product(*(_choices(p) if k % 2 else [p] for k, p in enumerate(pieces)))]


def _choices(text: str) -> list[str]:
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if ends:
        first, last = map(int, ends.groups())
        if first > last:
            raise ValueError(f"{{{text}}} counts down; write the smaller number first")
        padded = len(ends[1]) if ends[1].startswith("0") or len(ends[1]) == len(ends[2]) else 0
        return [f"{n:0{padded}d}" for n in range(first, last + 1)]
    if "," not in text:
        raise ValueError(f"{{{text}}} is neither a range such as {{000..012}} nor a list such as {{a,b}}")
    return text.split(",")
