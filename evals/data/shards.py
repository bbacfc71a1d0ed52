"""Images in WebDataset shards: plain ``.tar`` files, read by offset.

A sample's key is its path in the archive up to the first dot of the file name; its image is the member with an image
suffix.  Shards are taken by name and members by key, so the order in an archive decides nothing.
"""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Member:
    """An image inside an archive: ``size`` bytes at ``offset`` of ``path``."""

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


def members(shards: list[Path], extensions: tuple[str, ...]) -> dict[str, Member]:
    """{key: image} of all shards, sorted; with several shards a key begins with its shard's name.

    Raises ValueError naming an archive that cannot be listed (compressed ones among them), has two images for one key,
    or where no shard holds an image."""
    found: dict[str, Member] = {}
    for shard in shards:
        try:
            with tarfile.open(shard, "r:") as archive:
                entries = [m for m in archive if m.isfile()]
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"{shard.name} is no plain tar file ({error}); unpack it or copy it again") from error
        for entry in entries:
            where = Path(entry.name)
            if where.suffix.lower() not in extensions or where.name.startswith("."):
                continue
            key = where.with_name(where.name.split(".")[0]).as_posix().removeprefix("./")
            key = f"{shard.stem}/{key}" if len(shards) > 1 else key
            if key in found:
                raise ValueError(f"{shard.name} has two images for the key {key}; keep one of them")
            found[key] = Member(shard, entry.offset_data, entry.size, entry.name)
    if not found:
        raise ValueError(f"{', '.join(s.name for s in shards)} hold no {', '.join(extensions)} images")
    return dict(sorted(found.items()))
