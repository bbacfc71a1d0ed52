"""One evaluation over several processes (docs/evaluators.md 0.5, 0.6): who does which batches, and who is at work."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 0) of ``count``.  Whole batches are dealt out in turn, so that a image is made in the same
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
        """Whether the batch or item at ``position`` belongs to this part."""
        return position % self.count == self.index


WHOLE = Shard()


def parse(text: str | None) -> Shard:
    """ "2/4" -> the second of four; None -> WHOLE (evals.engine.launch deals out the parts under ``accelerate launch``)."""
    if text is None:
        return WHOLE
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit()):
        raise ValueError(f"--shards {text!r} is not of the form k/n, for example 2/4")
    return Shard(int(index) - 1, int(count))


def _held(path: Path) -> bool:
    """Whether a living process holds the lock file at ``path``; one that nobody holds is removed."""
    try:
        with FileLock(path, timeout=0):
            path.unlink(missing_ok=True)
    except Timeout:
        return True
    return False


@contextlib.contextmanager
def alone(path: str | Path, shard: Shard = WHOLE) -> Iterator[None]:
    """Hold ``path``, a file or folder that is being filled, for one part of the work.

    Parts of one division go side by side; the whole, the same part, or parts of another division exclude each other.
    The lock files beside ``path`` are hidden, and a process that was killed holds nothing.
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
        yield
    finally:
        with door:
            own.release()
            Path(own.lock_file).unlink(missing_ok=True)
