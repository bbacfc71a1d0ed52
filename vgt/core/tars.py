"""Plain ``.tar`` files whose members are read by offset, in any order; WebDataset shards are such files."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from vgt.core.images import ImageError
from vgt.core.listing import kind_of
from vgt.core.text import printable

CAPTIONS = (".txt", ".json")


@dataclass(frozen=True)
class Member:
    """A file inside an archive: ``size`` bytes at ``offset`` of ``path``."""

    path: Path
    offset: int
    size: int
    name: str

    def read(self) -> bytes:
        """Its content.  Raises ImageError where the archive ends before it, is gone or cannot be read."""
        shown = f"{printable(self.name)} in {printable(self.path.name)}"
        try:
            with open(self.path, "rb") as archive:
                archive.seek(self.offset)
                content = archive.read(self.size)
        except OSError as error:
            reason = "missing file" if isinstance(error, FileNotFoundError) else "unreadable file"
            raise ImageError(f"{shown} cannot be read: {error.strerror or error}", reason) from error
        if len(content) < self.size:
            raise ImageError(f"{shown} is cut off; copy the shard again", "torn file")
        return content

    def digest(self) -> str:
        """sha256 of what there is of its content."""
        with open(self.path, "rb") as archive:
            archive.seek(self.offset)
            return hashlib.sha256(archive.read(self.size)).hexdigest()


@dataclass(frozen=True)
class Sample:
    """An image with its captions: the files of one ``key``, their path in the archive up to the last dot."""

    key: str
    image: Member
    txt: Member | None
    json: Member | None


def archives(path: str | Path) -> list[Path]:
    """The shards that ``path`` names: itself, or all ``.tar`` files of a folder, by name; [] where there are none."""
    path = Path(path)
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix.lower() == ".tar" and not p.name.startswith("."))
    return [path] if path.suffix.lower() == ".tar" and path.is_file() else []


def samples(shard: Path) -> tuple[list[Sample], Mapping[str, int]]:
    """The samples of one archive, in its order, and how many files of each kind were left out.

    Names may hold dots: ``v0.5.png`` has the key ``v0.5``.  Of WebDataset's samples with several images, ``7.png`` and
    ``7.seg.png``, that of the plain name is the image and the others are left out; an image without a caption of its
    own name has that of the name up to its first dot, ``7.txt``.

    Raises ValueError naming an archive that cannot be listed (compressed ones among them), and for two images, or two
    captions of a kind, of one key."""
    found: dict[str, dict[str, Member]] = {}
    left_out: Counter[str] = Counter()
    for member, kind in _members(shard):
        key, suffix = os.path.splitext(PurePosixPath(member.name).as_posix())
        part = "image" if kind == "image" else suffix.lower()
        if part not in ("image", *CAPTIONS):
            left_out.update([kind] if kind != "plain" else [])
            continue
        parts = found.setdefault(key, {})
        if part in parts:
            what = "images" if part == "image" else f"{part} files"
            raise ValueError(f"{shard.name} has two {what} for the key {printable(key)}; keep one of them")
        parts[part] = member
    made = []
    for key, parts in found.items():
        short = found.get(_first_dot(key), {})
        if "image" in parts and parts is not short and "image" in short:
            left_out["image beside that of its sample"] += 1
        elif "image" in parts:
            captions = (parts.get(kind, short.get(kind)) for kind in CAPTIONS)
            made.append(Sample(key, parts["image"], *captions))
    return made, left_out


def _members(shard: Path) -> list[tuple[Member, str]]:
    """All files of an archive, each with its kind (vgt/core/listing.py) or why it is left out.

    Raises ValueError for an archive that cannot be listed to its end (``_check_end``)."""
    found, last = [], ""
    try:
        with open(shard, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            size = os.fstat(file.fileno()).st_size
            while (member := archive.next()) is not None:
                if archive.offset > size:
                    raise ValueError(f"{printable(member.name)} is cut off")
                last = member.name
                if not member.isdir():
                    inside = Member(shard, member.offset_data, member.size, member.name)
                    found.append((inside, _kind(member.name) if member.isfile() else "link"))
            _check_end(file, archive.offset)
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError) as error:
        if last:
            remedy = "copy it again; of archives put together with cat, give each for itself"
            raise ValueError(f"{shard.name} is torn after member {printable(last)} ({error}); {remedy}") from error
        raise ValueError(f"{shard.name} is no plain tar file ({error}); unpack it or copy it again") from error
    return found


def _check_end(file: BinaryIO, offset: int) -> None:
    """Raises ValueError unless a tar file ends at ``offset``: with two blocks of zeros, which only zeros follow.
    ``tarfile`` takes any block that is no header for the end."""
    file.seek(offset)
    size = 0
    while block := file.read(1 << 20):
        if block.count(0) < len(block):
            raise ValueError("what follows is neither a member nor the end")
        size += len(block)
    if size < 2 * tarfile.BLOCKSIZE:
        raise ValueError("its end is missing")


def _kind(name: str) -> str:
    where = PurePosixPath(name)
    hidden = any(part.startswith(".") and part != ".." for part in where.parts)
    return "hidden file" if hidden else kind_of(where.name)


def _first_dot(key: str) -> str:
    where = PurePosixPath(key)
    return where.with_name(where.name.partition(".")[0]).as_posix()
