"""One evaluation over several processes (spec evaluators 0.5, 0.6): who does which batches."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 0) of ``count``.  Whole batches are dealt out in turn, so that a picture is made in the same
    batch whatever the number of processes."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not (self.count >= 1 and 0 <= self.index < self.count):
            raise ValueError(f"shard {self.index + 1}/{self.count} does not exist; give k/n with 1 <= k <= n")

    @property
    def whole(self) -> bool:
        return self.count == 1

    @property
    def suffix(self) -> str:
        """What the shard's own files carry in their names: "" or ".2-of-4"."""
        return "" if self.whole else f".{self.index + 1}-of-{self.count}"

    def mine(self, position: int) -> bool:
        """Whether the batch or item at ``position`` belongs to this part."""
        return position % self.count == self.index


WHOLE = Shard()


def parse(text: str | None) -> Shard:
    """ "2/4" -> the second of four; None -> the process's place under ``accelerate launch`` or torchrun, else WHOLE."""
    if text is None:
        return Shard(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit()):
        raise ValueError(f"--shards {text!r} is not of the form k/n, for example 2/4")
    return Shard(int(index) - 1, int(count))
