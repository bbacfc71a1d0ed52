"""The per-sample results of an evaluation on disk: what is there is kept, what is missing is made, kills lose little.

Every evaluator keeps its results here, in one of two kinds:

* **Rows**, one line of JSON a sample, in ``<stem>.jsonl``.  They are appended as they are made and put in order at the
  end, so a resumed run ends with the bytes of one that was never interrupted.  A row may carry a *stamp*, the hash of
  all that decides it: a row of another stamp is made again.  ``collect`` makes them one by one; ``Rows`` takes them in
  batches.
* **Arrays**, one ``.npz`` a batch or block in a folder: whole or absent.

Both carry a hash of their own content: a line or file that is torn, was changed since it was written, or lacks its hash
counts as absent, is said on stderr, and is made again.

A part of a run (``Shard``: every n-th batch or block) writes rows to a file of its own, ``<stem>.2-of-4.jsonl``, which
the next whole run takes in and removes; arrays need no such file.  ``exclusive`` keeps processes with the same work
apart.

A sample that cannot be used (``SampleError``, or an image that cannot be read) is a row with an ``error``: it stays in
the denominator and the run goes on.  Any other exception ends the run; what was made before stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from vgt.core import files, text
from vgt.core.images import ImageError

T = TypeVar("T")


class SampleError(ValueError):
    """One sample cannot be used or judged, and the next one can: it is counted, and the run goes on."""


# ------------------------------------------------------------------------------------------------ parts of a run


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 0) of ``count``: every ``count``-th batch or block, so that an image is made in the same
    batch whatever the number of processes."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not (self.count >= 1 and 0 <= self.index < self.count):
            raise ValueError(f"shard {self} does not exist; give k/n with 1 <= k <= n")

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"

    @property
    def whole(self) -> bool:
        return self.count == 1

    @property
    def suffix(self) -> str:
        """What the shard's own files carry in their names: "" or ".2-of-4"."""
        return "" if self.whole else f".{self.index + 1}-of-{self.count}"

    def mine(self, position: int) -> bool:
        """Whether the batch or block at ``position`` belongs to this part."""
        return position % self.count == self.index

    def take(self, items: Sequence[T]) -> list[T]:
        """Those of ``items`` (batches, blocks, samples) that belong to this part."""
        return list(items[self.index :: self.count])


WHOLE = Shard()


def parse_shard(given: str | None) -> Shard:
    """ "2/4" -> the second of four; None -> WHOLE (under ``accelerate launch`` evals.engine.launch divides it)."""
    if given is None:
        return WHOLE
    if not re.fullmatch(r"[0-9]{1,9}/[0-9]{1,9}", given):
        raise ValueError(f"--shards {given!r} is not of the form k/n, for example 2/4")
    index, count = map(int, given.split("/"))
    return Shard(index - 1, count)


def _held(path: Path) -> bool:
    """Whether a living process holds the lock file at ``path``; one that nobody holds is removed."""
    try:
        with FileLock(path, timeout=0):
            path.unlink(missing_ok=True)
    except Timeout:
        return True
    return False


@contextlib.contextmanager
def exclusive(path: str | Path, shard: Shard = WHOLE) -> Iterator[None]:
    """Hold ``path``, a file or folder that is being filled, for one part of the work.

    Parts of one division go side by side; the whole, the same part, or parts of another division exclude each other.
    The lock files beside ``path`` are hidden, and a process that was killed holds nothing.  The whole, which is alone,
    first removes what writers that were killed have left there.
    Raises ValueError where a living process is in the way."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d+)-of-(\d+)\.lock")
    part = f"{shard.index + 1}-of-{shard.count}"
    own = FileLock(path.with_name(f".{path.name}.{part}.lock"), timeout=0)
    door = FileLock(path.with_name(f".{path.name}.lock"))  # held only while coming and going
    with door:
        for other in sorted(path.parent.iterdir()):
            found = name.fullmatch(other.name)
            beside = found and int(found[2]) == shard.count and int(found[1]) != shard.index + 1
            if found and not beside and _held(other):
                raise ValueError(
                    f"part {found[1]}/{found[2]} of {path} is still at work in another process; wait for it or stop it"
                )
        own.acquire()
    try:
        if shard.whole:
            files.remove_unfinished(path)
        yield
    finally:
        with door:
            own.release()
            Path(own.lock_file).unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------- rows


def row_line(row: Mapping) -> str:
    """A row as a line of its file."""
    return json.dumps(files.sealed(dict(row))) + "\n"


def read_rows(path: str | Path, said: bool = False) -> list[dict]:
    """The whole lines of a file of rows, none where there is no file; those that are torn, or were changed since they
    were written, are left out.  ``said``: how many, on stderr."""
    path = Path(path)
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()] if path.exists() else []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            found.append(text.parse_json(line, str(path)))
    rows = [row for row in (files.unsealed(row) for row in found if isinstance(row, dict)) if row is not None]
    rows = [row for row in rows if isinstance(row.get("id"), str)]
    if said and len(rows) < len(lines):
        _say_lost(path, len(lines) - len(rows), len(lines))
    return rows


def _say_lost(path: Path, lost: int, among: int) -> None:
    print(f"note: {lost} of {among} lines of {path} are torn or were changed; they are made again", file=sys.stderr)


def checked_rows(path: str | Path) -> list[text.Fields]:
    """All lines of a file of rows.  Raises ValueError naming file and line for one that is torn or was changed."""
    rows = list(text.objects(path))
    for row in rows:
        if files.CHECK not in row:
            raise ValueError(f"{row.where}: its hash, the field {files.CHECK!r}, is missing; evaluate again")
        if files.unsealed(row) is None:
            raise ValueError(f"{row.where}: it was changed since it was written; evaluate again")
        row.text("id")
        del row[files.CHECK]
    return rows


def failures(rows: Mapping[str, dict]) -> str | None:
    """One line on the rows with an error, for the note of a record: how many, and what the first one was."""
    errors = {name: row["error"] for name, row in rows.items() if "error" in row}
    if not errors:
        return None
    name = next(iter(errors))
    return f"{len(errors)} failed, the first {name}: {errors[name]}"


class Rows:
    """The rows of the samples ``wanted`` in ``path``, for one who holds it (``exclusive``).

    ``wanted``: the ids of this part's samples in the order of the finished file; as a mapping, id -> stamp.  Without
    stamps a row that is there is kept, one with an error too; with them, rows of another stamp and those with an error
    are made again.  ``kept``: id -> row, with ``id`` (and ``stamp``).  ``check`` raises ValueError for a row without an
    error that cannot be used, which counts as torn.

        rows = Rows(path, ids, shard)
        for batch in shard.take(batches):
            if rows.lacks(batch):
                rows.add({id: row, ...})       # one write; rows that are there already are left as they are
        rows.finish()                          # in order; a whole run removes the files of its parts
    """

    def __init__(
        self,
        path: str | Path,
        wanted: Sequence[str] | Mapping[str, str],
        shard: Shard = WHOLE,
        check: Callable[[text.Fields], object] = dict,
    ):
        self.path, self.shard, self._check = Path(path), shard, check
        self.own = self.path.with_name(f"{self.path.stem}{shard.suffix}{self.path.suffix}")
        self.stamps = wanted if isinstance(wanted, Mapping) else None
        self.ids = list(wanted)
        self._ready = False  # whether ``own`` holds exactly what is kept, so that lines can be appended
        name = re.compile(rf"{re.escape(self.path.stem)}\.\d+-of-\d+{re.escape(self.path.suffix)}")
        self._parts = sorted(p for p in self.path.parent.glob("*") if name.fullmatch(p.name))  # of whatever division
        known = set(self.ids)
        self.kept: dict[str, dict] = {}
        for source in (self.path, *self._parts):
            rows = read_rows(source, said=True)
            usable = [row for row in rows if row["id"] not in known or self._usable(row)]
            if len(usable) < len(rows):
                _say_lost(source, len(rows) - len(usable), len(rows))
            self.kept |= {row["id"]: row for row in usable if row["id"] in known and self._holds(row)}

    def _usable(self, row: dict) -> bool:
        with contextlib.suppress(ValueError):
            fields = text.Fields.of(row, str(self.path))
            fields.text("error") if "error" in row else self._check(fields)
            return True
        return False

    def _holds(self, row: dict) -> bool:
        return self.stamps is None or (row.get("stamp") == self.stamps[row["id"]] and "error" not in row)

    def lacks(self, ids: Iterable[str]) -> list[str]:
        """Those of ``ids`` that have no row yet."""
        return [name for name in ids if name not in self.kept]

    def add(self, rows: Mapping[str, dict]) -> None:
        """Append rows by id; the file is whole again after each call, so a kill loses one call's rows at most."""
        if not self.lacks(rows):
            return
        if not self._ready:
            files.write_text(self.own, self._text(name for name in self.ids if name in self.kept))
            self._ready = True
        new = self.lacks(rows)
        stamps = self.stamps or {}
        self.kept |= {n: {"id": n, **({"stamp": stamps[n]} if n in stamps else {}), **rows[n]} for n in new}
        with open(self.own, "a", encoding="utf-8") as lines:
            lines.write(self._text(new))

    def finish(self) -> dict[str, dict]:
        """Put the file in order; the rows by id.  A whole run removes the files of its parts."""
        content = self._text(self.ids)
        if not self.own.exists() or self.own.read_bytes() != content.encode():
            files.write_text(self.own, content)
        for part in self._parts if self.shard.whole else ():
            part.unlink()
        return {name: self.kept[name] for name in self.ids}

    def _text(self, ids: Iterable[str]) -> str:
        return "".join(row_line(self.kept[name]) for name in ids)


def collect(
    path: str | Path,
    wanted: Mapping[str, str],
    make: Callable[[str], dict],
    title: str,
    shard: Shard = WHOLE,
    check: Callable[[text.Fields], object] = dict,
) -> dict[str, dict]:
    """The row of every wanted sample: ``wanted`` maps its id to its stamp, the hash of all that decides the row.

    Rows on disk with the right stamp are kept, the others come from ``make(id)``.  Where it raises SampleError, or
    ImageError for an image that cannot be read, the row has a key "error" (as one that ``make`` itself gives) and is
    made again by the next run; anything else that it raises ends the run, and the rows made so far are kept.
    A part of a run passes the samples of its own images as ``wanted`` and leaves ``<stem>.2-of-4.jsonl``; the whole
    run keeps what all parts made, writes ``path`` in the order of ``wanted``, and removes their files.
    ``check``: see ``Rows``."""
    with exclusive(path, shard):
        rows = Rows(path, wanted, shard, check)
        missing = rows.lacks(wanted)
        for name in tqdm(missing, desc=title, unit="image", mininterval=0.5, disable=not missing or None):
            try:
                row = make(name)
            except (SampleError, ImageError) as error:
                row = {"error": " ".join(str(error).split())}
            rows.add({name: row})
        return rows.finish()


# -------------------------------------------------------------------------------------------------------- arrays


def write_arrays(path: str | Path, **arrays: np.ndarray) -> Path:
    """Write a ``.npz`` atomically, with the hash of its name and content."""
    held = {name: np.asarray(array) for name, array in arrays.items()}
    with files.atomic(path) as part:
        np.savez(part, **held, **{files.CHECK: np.array(_digest(Path(path).name, held))})
    return Path(path)


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz``.  Raises ValueError naming one that is torn or was changed since it was written."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            held = dict(stored)
        if str(held.pop(files.CHECK, "")) != _digest(Path(path).name, held):
            raise ValueError("it was changed since it was written")
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be used ({error}); delete it and run again") from error
    return held


def are_whole(path: str | Path, fit: Callable[[dict[str, np.ndarray]], bool] = lambda _: True) -> bool:
    """Whether a ``.npz`` is there and as it was written, with arrays that ``fit``; says on stderr that one is torn or
    was changed."""
    if not Path(path).exists():
        return False
    try:
        held = read_arrays(path)
    except ValueError:
        held = None
    if held is None or not fit(held):
        print(f"note: {path} is torn or was changed; it is made again", file=sys.stderr)
        return False
    return True


def _digest(file: str, arrays: Mapping[str, np.ndarray]) -> str:
    hashed = hashlib.sha256(file.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        hashed.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        hashed.update(array.data if array.dtype.kind != "U" else array.tobytes())
    return hashed.hexdigest()


@dataclass(frozen=True)
class Arrays:
    """Arrays by batch or block number in ``folder``: ``<prefix><number>.npz``, each whole or absent.

    For one who holds the folder (``exclusive``); parts of a run write other numbers, so they need no files of their
    own.  ``digits``: of the number in a file's name."""

    folder: Path
    prefix: str = ""
    digits: int = 8

    def path(self, number: int) -> Path:
        return self.folder / f"{self.prefix}{number:0{self.digits}d}.npz"

    def lacks(self, number: int, fit: Callable[[dict[str, np.ndarray]], bool] = lambda _: True) -> bool:
        """Whether the arrays of a number are absent, torn, or do not ``fit``."""
        return not are_whole(self.path(number), fit)

    def add(self, number: int, **arrays: np.ndarray) -> None:
        """Write the arrays of one batch or block."""
        write_arrays(self.path(number), **arrays)

    def read(self, number: int) -> dict[str, np.ndarray]:
        return read_arrays(self.path(number))

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """The arrays of every batch or block that is there, in the order of their numbers."""
        for path in sorted(self.folder.glob(f"{self.prefix}{'[0-9]' * self.digits}.npz")):
            yield read_arrays(path)


def check_finite(values: np.ndarray, ids: Sequence[str], what: str) -> None:
    """Raises ValueError naming the first of the samples ``ids`` whose ``values`` [N, ...] hold a NaN or infinity.

    ``what``: the values, for example "efflite2 features (pool)"."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        first = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(1)))
        raise ValueError(f"the {what} of image {ids[first]} are not finite; look at the image and at the weights file")
