"""Files that are either whole or absent, and content hashes."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
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
