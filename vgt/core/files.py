"""Files that are either whole or absent, and content hashes."""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

CHECK = "check"  # the entry of ``sealed`` that is the hash of all others
OLD = ".old"  # ends the name of a folder that another one is taking the place of
ABANDONED = 3600  # seconds without a change after which a temporary file or folder is what a kill has left
_TEMPORARY = re.compile(r"(\..+\.)[0-9a-f]{8}(\.[^.]*)?", re.DOTALL)

DEVICES = (Path("/dev"), Path("/dev/fd"))  # what lies right in there is written to and never replaced
_STEM = 40  # characters of a name that its temporary file keeps: a name may be as long as the file system allows


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (same suffix); it is flushed and renamed onto ``path`` on success only.
    Devices and pipes (``/dev/stdout``) are written to.  Raises OSError naming ``path`` where the disk refuses."""
    path = Path(path)
    with _naming(path):
        if _device(path):
            with tempfile.TemporaryDirectory() as folder:
                part = Path(folder, path.name)
                yield part
                with open(part, "rb") as source, _opened(path) as target:
                    shutil.copyfileobj(source, target)
            return
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = path.suffix if len(path.suffix) <= _STEM else ""
        part = path.with_name(f".{path.stem[:_STEM]}.{uuid.uuid4().hex[:8]}{suffix}")
        _remove_abandoned(part)
        try:
            yield part
            flush_entry(part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def _device(path: Path) -> bool:
    """Whether ``path`` stands for a device or a pipe."""
    place = path.absolute()
    if place.parent in DEVICES or place.is_relative_to("/proc"):
        return not place.is_dir()
    return place.exists() and not (place.is_file() or place.is_dir())


def _opened(device: Path):
    """A device for writing; stdout under another name goes on where it is, also where that is a file."""
    try:
        out = os.fstat(1)
        if os.path.samestat(out, os.stat(device)):
            sys.stdout.flush()
            return open(os.dup(1), "wb")
    except OSError:  # stdout is closed
        pass
    return open(device, "ab")


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An error of the system names ``path``, not its temporary file nor, as where a disk is full, nothing at all."""
    try:
        yield
    except OSError as error:
        name = error.filename
        temporary = isinstance(name, str) and name.startswith(str(path.with_name(f".{path.stem[:_STEM]}.")))
        if error.errno is not None and (name is None or temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def check_writable(path: str | Path, folder: bool = False) -> None:
    """Raises OSError, as writing would, where no file (``folder``: no folder) can be made at ``path``.  To be called
    before the work whose result goes there; leaves nothing behind."""
    path = Path(path)
    if _device(path):
        open(path, "ab").close()
        return
    if path.exists() and path.is_dir() != folder:
        code = errno.ENOTDIR if folder else errno.EISDIR
        raise OSError(code, os.strerror(code), str(path))
    place = path if folder else path.parent
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def remove_unfinished(path: str | Path) -> None:
    """Remove the hidden files that ``atomic`` leaves where it is killed in the middle of writing: those of the file
    ``path`` and of its parts, or all below the folder ``path``.  For one who writes there alone, and need not wait
    until they are old.  Links are not followed."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        found = [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    else:
        stem = f".{path.stem[:_STEM]}."
        found = [p for p in path.parent.glob(".*") if p.name.startswith(stem) and (p.is_symlink() or not p.is_dir())]
    for each in found:
        if _TEMPORARY.fullmatch(each.name) and each.suffix != ".lock":
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
    _remove_abandoned(part)
    part.mkdir()
    try:
        with _naming(path):
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


def _remove_abandoned(part: Path) -> None:
    """Remove the temporary files or folders of the same target that earlier, killed processes have left."""
    for left in _temporaries(part.parent.absolute()).get(_TEMPORARY.fullmatch(part.name).groups(), ()):
        with contextlib.suppress(OSError):  # another process has just removed it
            inside = left.rglob("*") if left.is_dir() else ()
            if time.time() - max(p.lstat().st_mtime for p in (left, *inside)) > ABANDONED:
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


@functools.cache
def _temporaries(folder: Path) -> dict[tuple[str, str | None], list[Path]]:
    """The temporary files and folders that lay in a folder when this process first wrote there, by their target."""
    found: dict[tuple[str, str | None], list[Path]] = {}
    for name in os.listdir(folder):
        if match := _TEMPORARY.fullmatch(name):
            found.setdefault(match.groups(), []).append(folder / name)
    return found


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


def visible(root: str | Path, *patterns: str) -> list[Path]:
    """The paths below ``root`` that match one of the ``patterns``, sorted, without hidden ones and those in hidden
    folders: what killed writers (``atomic``), macOS and editors leave is never read."""
    found = {path for pattern in patterns for path in Path(root).glob(pattern)}
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(root).parts))


def inside(root: str | Path, *parts: str | Path) -> Path:
    """A place below the folder ``root`` that is written to.  Raises ValueError where a link on the way leads out of it;
    ``root`` itself may be one."""
    path = Path(root).joinpath(*parts)
    for place in (path, *path.parents):
        if place == Path(root):
            return path
        if place.is_symlink():
            raise ValueError(f"{place} is a link, and links inside a folder of results are not followed; remove it")
    raise ValueError(f"{path} is not below {root}")


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
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        h.update(len(data).to_bytes(8, "big") + data)
    return h.hexdigest()


def digest_json(value) -> str:
    """sha256 hex of the canonical JSON of ``value``."""
    return digest(json.dumps(value, sort_keys=True, separators=(",", ":")))


def sealed(data: dict) -> dict:
    """The entries with the hash of all of them, as they will be read again from JSON: see ``unsealed``."""
    plain = json.loads(json.dumps(data))
    return {**plain, CHECK: digest_json(plain)}


def unsealed(data: dict, must: bool = True) -> dict | None:
    """The entries without their hash; None where they were changed since they were ``sealed``, or, where there ``must``
    be one, lack it."""
    plain = {key: value for key, value in data.items() if key != CHECK}
    whole = data[CHECK] == digest_json(plain) if CHECK in data else not must
    return plain if whole else None


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
