"""Images in WebDataset shards (``vgt.core.tars``).

A sample's image is the member of its key with an image suffix.  Shards are taken by name and members by key, so the
order in an archive decides nothing.
"""

from __future__ import annotations

from pathlib import Path

from vgt.core.tars import Member, archives, split_key
from vgt.core.tars import members as listed

__all__ = ["Member", "archives", "members"]


def members(shards: list[Path], extensions: tuple[str, ...]) -> dict[str, Member]:
    """{key: image} of all shards, sorted; with several shards a key begins with its shard's name.

    Raises ValueError naming an archive that cannot be listed (compressed ones among them), has two images for one key,
    or where no shard holds an image."""
    found: dict[str, Member] = {}
    for shard in shards:
        for member in listed(shard):
            if Path(member.name).suffix.lower() not in extensions:
                continue
            key = split_key(member.name)[0]
            key = f"{shard.stem}/{key}" if len(shards) > 1 else key
            if key in found:
                raise ValueError(f"{shard.name} has two images for the key {key}; keep one of them")
            found[key] = member
    if not found:
        raise ValueError(f"{', '.join(s.name for s in shards)} hold no {', '.join(extensions)} images")
    return dict(sorted(found.items()))
