"""Plain ``.tar`` files whose members are read by offset, in any order; WebDataset shards are such files.

A sample's key is its members' path in the archive up to the first dot of the file name.
"""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Member:
    """A file inside an archive: ``size`` bytes at ``offset`` of ``path``."""

    path: Path
    offset: int
    size: int
    name: str

    def read(self) -> bytes:
        """Its content.  Raises ValueError where the archive ends before it."""
        with open(self.path, "rb") as archive:
            archive.seek(self.offset)
            content = archive.read(self.size)
        if len(content) < self.size:
            raise ValueError(f"{self.name} in {self.path.name} is cut off; copy the shard again")
        return content

    def digest(self) -> str:
        """sha256 of what there is of its content."""
        with open(self.path, "rb") as archive:
            archive.seek(self.offset)
            return hashlib.sha256(archive.read(self.size)).hexdigest()


def archives(path: str | Path) -> list[Path]:
    """The shards that ``path`` names: itself, or all ``.tar`` files of a folder, by name; [] where there are none."""
    path = Path(path)
    if path.is_dir():
        return sorted(p for p in path.glob("*.tar") if not p.name.startswith("."))
    return [path] if path.suffix == ".tar" and path.is_file() else []


def members(shard: Path) -> list[Member]:
    """All files of one archive but hidden ones, in its order.

    Raises ValueError naming an archive that cannot be listed (compressed ones among them)."""
    try:
        with tarfile.open(shard, "r:") as archive:
            found = [Member(shard, m.offset_data, m.size, m.name) for m in archive if m.isfile()]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{shard.name} is no plain tar file ({error}); unpack it or copy it again") from error
    return [member for member in found if not PurePosixPath(member.name).name.startswith(".")]


def split_key(name: str) -> tuple[str, str]:
    """A member's (key, extension): what stands before and after the first dot of its file name.  The extension is in
    lower case and has no dot in front; "a/7.seg.PNG" -> ("a/7", "seg.png")."""
    where = PurePosixPath(name)
    stem, _, extension = where.name.partition(".")
    return where.with_name(stem).as_posix(), extension.lower()
