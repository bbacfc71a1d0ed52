"""Files that are either whole or absent, and content hashes."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

OLD = ".old"  # ends the name of a folder that another one is taking the place of


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (same suffix); it is flushed and renamed onto ``path`` on success only."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield part
        flush_entry(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def remove_unfinished(path: str | Path) -> None:
    """Remove the hidden files that ``atomic`` leaves where it is killed in the middle of writing: those of the file
    ``path``, or all below the folder ``path``.  For one who writes there alone.  Links are not followed."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        left = re.compile(r"\.(?!.*\.lock$).+\.[0-9a-f]{8}(\.[^.]*)?")
        found = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    else:
        left = re.compile(rf"\.{re.escape(path.stem)}\.[0-9a-f]{{8}}{re.escape(path.suffix)}")
        found = [each for each in path.parent.glob(".*") if not each.is_dir()]
    for each in found:
        if left.fullmatch(each.name):
            each.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it takes the place of ``path`` on success only.  Whatever fails, what
    was there before is there unchanged; after a kill between the two renames, ``restore`` brings it back."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    restore(path)
    mark = uuid.uuid4().hex[:8]
    part, old = path.with_name(f".{path.name}.{mark}"), path.with_name(f".{path.name}.{mark}{OLD}")
    part.mkdir()
    try:
        yield part
        flush(part)
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(part, path)
        except BaseException:
            if old.exists():
                os.replace(old, path)
            raise
        flush_entry(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def restore(path: Path) -> None:
    """Put back what ``atomic_folder`` was about to replace when it was killed; nothing where ``path`` is there."""
    old = [p for p in path.parent.glob(f".{glob.escape(path.name)}.????????{OLD}") if p.is_dir()]
    if old and not path.exists():
        os.replace(max(old, key=lambda p: p.stat().st_mtime_ns), path)


def flush(folder: Path) -> None:
    """Return when all files of a folder are on the disk, and not only on their way to it."""
    for path in [*folder.rglob("*"), folder]:
        flush_entry(path)


def flush_entry(path: Path) -> None:
    """The same for one file, or for the names in one folder."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # a system that opens no folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text atomically."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, value) -> Path:
    return write_text(path, json.dumps(value, indent=1, sort_keys=False) + "\n")


def read_json_lines(path: str | Path) -> list:
    """The values of a file of JSON lines; [] where there is none.  A last line that was not finished, as a kill leaves
    it, is left out.

    Raises ValueError naming file and line for any other that is not JSON."""
    try:
        *lines, last = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate([*lines, last], 1):
        try:
            found += [json.loads(line.decode())] if line.strip() else []
        except ValueError as error:
            if number > len(lines):
                break
            raise ValueError(f"{path}, line {number} is not valid JSON ({error}); repair or remove it") from error
    return found


def digest(*parts: str | bytes) -> str:
    """sha256 hex of the parts, each preceded by its length."""
    h = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        h.update(len(data).to_bytes(8, "big") + data)
    return h.hexdigest()


def digest_json(value) -> str:
    """sha256 hex of the canonical JSON of ``value``."""
    return digest(json.dumps(value, sort_keys=True, separators=(",", ":")))


def digest_file(path: str | Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def digest_path(path: str | Path) -> str | None:
    """``digest_file`` of a file; of a folder the hash of the names and contents of all its files, hidden ones left out;
    None where there is neither."""
    path = Path(path)
    if path.is_file():
        return digest_file(path)
    if not path.is_dir():
        return None
    found = sorted(p for p in path.rglob("[!.]*") if p.is_file())
    return digest_json([[p.relative_to(path).as_posix(), digest_file(p)] for p in found])
