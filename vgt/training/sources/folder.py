"""Image files of a folder tree, with captions beside them or in one table.

The listing is held in memory (some 200 bytes an image): beyond some ten million images use tar shards.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePosixPath

from vgt.core import files
from vgt.core.images import SUFFIXES, content
from vgt.core.listing import listed
from vgt.core.text import Fields, csv_rows, objects, printable
from vgt.training.sources.sample import Sample, Skipped, column, decoded, in_order, worded

TABLES = ("metadata.jsonl", "metadata.csv", "captions.csv")
_FILE_NAMES = ("file_name", "file", "image", "filename")


class Folder:
    """All images of a folder: flat, or in folders of classes, whose names are the labels where ``labels`` are wanted.

    Captions come from a table at its root, as Hugging Face's imagefolder has it (``file_name`` and a column of text in
    metadata.jsonl, metadata.csv or captions.csv), else from NAME.txt beside NAME.jpg.  A row without its image and a
    image without its caption stay in the set, to be skipped and counted.  Samples are sorted by path; class folders
    may be links."""

    def __init__(
        self,
        name: str,
        root: Path,
        captions: bool,
        image_column: str | None,
        caption_column: str | None,
        labels: bool = False,
    ):
        self.name, self.root, self.captions = name, root, captions
        found = listed(root)
        images, texts = set(found.images), found.texts
        table = _table(root, name, image_column, caption_column) if captions else None
        if captions and not (texts if table is None else table):
            raise ValueError(f"{name} has no captions; add NAME.txt beside each image, or {' or '.join(TABLES)}")
        self._table = table
        self._paths = sorted(images | table.keys() if table else images)
        if not self._paths:
            shards = any(root.glob("*.tar"))
            remedy = f"write webdataset:{root} for tar shards" if shards else f"put {', '.join(SUFFIXES)} files there"
            raise ValueError(f"{name} holds no images; {remedy}")
        self.classes = self._classes() if labels else None
        worded_as = files.digest_json(sorted(table.items()) if table else texts if captions else [])
        self.fingerprint = files.digest("folder", "\n".join(self._paths).encode("utf-8", "backslashreplace"), worded_as)

    def __len__(self) -> int:
        return len(self._paths)

    def item(self, index: int) -> Sample | Skipped:
        path = self._paths[index]
        caption = self._caption(path) if self.captions else None
        label = PurePosixPath(path).parts[0] if self.classes is not None else None
        return decoded(partial(content, self.root / path), caption, printable(path), label)

    def _classes(self) -> tuple[str, ...]:
        """Raises ValueError for an image that is in the folder of no class."""
        loose = next((path for path in self._paths if "/" not in path), None)
        if loose is not None:
            raise ValueError(f"{self.name} has no labels: {loose} is in no folder of a class; put each image into one")
        return in_order(PurePosixPath(path).parts[0] for path in self._paths)

    def _caption(self, path: str) -> str | Skipped:
        if self._table is not None:
            return worded(self._table.get(path), printable(path))
        try:
            return worded((self.root / path).with_suffix(".txt").read_bytes(), printable(path))
        except OSError:
            return Skipped(printable(path), "no caption")


def _table(root: Path, source: str, image_column: str | None, caption_column: str | None) -> dict | None:
    """{relative path: caption} of the folder's table; None where it has none.

    Raises ValueError naming the table, the line and the fault."""
    present = [name for name in TABLES if (root / name).is_file()]
    if not present:
        return None
    if len(present) > 1:
        raise ValueError(f"{source} has {' and '.join(present)}; keep one of them")
    where = f"{source}: {present[0]}"
    rows = objects if present[0].endswith(".jsonl") else csv_rows
    return _collected(rows(root / present[0]), where, image_column, caption_column)


def _collected(
    rows: Iterable[Fields], where: str, image_column: str | None, caption_column: str | None
) -> dict[str, object]:
    """{relative path: caption}.  The first row decides the columns."""
    table: dict[str, object] = {}
    files_in = captions_in = None
    for row in rows:
        if files_in is None:
            named = column(image_column, row, "data.image_column", where) if image_column else None
            files_in = named or next((each for each in _FILE_NAMES if each in row), None)
            captions_in = column(caption_column, row, "data.caption_column", where)
        if files_in is None or captions_in is None:
            raise ValueError(
                f"{where} has the columns {', '.join(row)}; name the files file_name and the captions text, "
                "or set data.image_column and data.caption_column"
            )
        path = _inside(row.get(files_in), row.where)
        if path in table:
            raise ValueError(f"{row.where} names {path} again; keep one row per image")
        table[path] = row.get(captions_in)
    return table


def _inside(value: object, where: str) -> str:
    """A table's file name as a relative POSIX path; it must not lead out of the folder."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} names no file; give its path inside the folder")
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{where} names {value!r}, which leads out of the folder; give a path inside it")
    return path.as_posix()
