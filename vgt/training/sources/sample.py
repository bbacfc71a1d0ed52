"""What a source gives: an image with its caption, or the reason why there is none; and the count of the latter."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Protocol

from PIL import Image
from tqdm import tqdm

from vgt.core import files
from vgt.core.images import ImageError, convert
from vgt.core.text import writable

LABEL_NAMES = ("label", "class", "cls")  # likewise, of classes
CAPTION_NAMES = ("text", "caption", "prompt", "txt")  # where no column or field is named, the first one found


@dataclass(frozen=True)
class Sample:
    """``image``: upright, 8-bit RGB; ``caption``, ``label``: None where the source was opened without captions,
    without the names of classes; ``name``: for messages; ``kind``: what the image was converted from, None for 8-bit
    RGB."""

    image: Image.Image
    caption: str | None
    name: str
    kind: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Skipped:
    """A sample that cannot be used.  ``reason``: a few words to count by."""

    name: str
    reason: str


class Source(Protocol):
    """Samples 0 .. len-1 in any order, as often as wanted, from several threads at once.  ``name``: as the user wrote
    it; ``fingerprint``: changes where samples were added, removed or reordered, the same on every machine; ``classes``:
    the names of all, sorted, where the source was opened with labels and can tell without reading every sample."""

    name: str
    fingerprint: str
    classes: tuple[str, ...] | None

    def __len__(self) -> int: ...

    def item(self, index: int) -> Sample | Skipped: ...


def decoded(
    read: Callable[[], bytes], caption: str | Skipped | None, name: str, label: str | Skipped | None = None
) -> Sample | Skipped:
    """The sample whose image file ``read`` gives; a Skipped caption or label comes back as it is."""
    for text in (caption, label):
        if isinstance(text, Skipped):
            return text
    try:
        image, kind = convert(read(), name)
    except ImageError as error:
        return Skipped(name, error.reason)
    return Sample(image, caption, name, kind, label)


def worded(value: object, name: str) -> str | Skipped:
    """A caption from whatever a file or a column holds, without the white space around it."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8-sig")
        except UnicodeDecodeError:
            return Skipped(name, "caption is not UTF-8")
    if value is None or (isinstance(value, str) and not value.strip()):
        return Skipped(name, "no caption")
    if not isinstance(value, str):
        return Skipped(name, "caption is not text")
    return value.strip() if writable(value) else Skipped(name, "caption holds half a character")


def labelled(value: object, name: str) -> str | Skipped:
    """The name of a class from whatever a file or a column holds; a number is its own name."""
    if type(value) is int:
        return str(value)
    if not isinstance(value, str) or not value.strip():
        return Skipped(name, "no label")
    return value.strip()


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes, each once: numbers by value, else by the alphabet."""
    found = set(names)
    return tuple(sorted(found, key=(lambda name: (int(name), name)) if all(map(str.isdecimal, found)) else None))


def column(
    wanted: str | None, present: Iterable[str], setting: str, where: str, names: tuple[str, ...] = CAPTION_NAMES
) -> str | None:
    """The column or field of captions: ``wanted``, or the first of the known ``names`` that is ``present``; None for
    neither.

    Raises ValueError where ``wanted``, which the user gave as ``setting``, is absent."""
    present = list(present)
    if wanted is None:
        return next((name for name in names if name in present), None)
    if wanted not in present:
        raise ValueError(f"{where} has no {wanted!r}; set {setting} to one of {', '.join(present)}")
    return wanted


# ---------------------------------------------------------------------------------------------------------- skips


def _tell(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


class SkipReport:
    """Counts looks at samples by what came of them, in this process and since it started.

    A sample that is looked at in every pass counts in every pass.  ``limit``: the largest share that may be skipped
    once ``least`` samples were looked at; ``kept``: how many names are kept per reason; ``tell``: gets one line when a
    reason occurs for the first time."""

    def __init__(
        self, limit: float = 0.1, least: int = 1000, kept: int = 5, tell: Callable[[str], None] | None = _tell
    ):
        self.limit, self.least, self._kept, self._tell = limit, least, kept, tell
        self.looked = 0
        self._skips: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._notes: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._lock = Lock()

    @property
    def skips(self) -> int:
        """How many were skipped."""
        return sum(n for n, _ in self._skips.values())

    def used(self) -> None:
        """One sample was used."""
        with self._lock:
            self.looked += 1

    def skipped(self, sample: Skipped) -> None:
        """One sample was skipped.  Raises ValueError when the share is over the limit."""
        with self._lock:
            self.looked += 1
            first = sample.reason not in self._skips
            self._count(self._skips, sample.reason, sample.name)
            over = self.looked >= self.least and self.skips > self.limit * self.looked
        if first and self._tell:
            self._tell(f"skipped {sample.name}: {sample.reason} (more of this kind are only counted)")
        if over:
            raise ValueError(
                f"{self.summary()}; more than data.skip_limit = {self.limit:g} allows: repair the data or raise it"
            )

    def noted(self, what: str, name: str) -> None:
        """One sample was used after a change, such as a truncated caption."""
        with self._lock:
            self._count(self._notes, what, name)

    def _count(self, table: dict[str, tuple[int, tuple[str, ...]]], what: str, name: str) -> None:
        n, names = table.get(what, (0, ()))
        table[what] = (n + 1, names if name in names or len(names) >= self._kept else (*names, name))

    def summary(self) -> str:
        """One line: how many of how many were skipped, and why."""
        reasons = sorted(self._skips.items(), key=lambda entry: -entry[1][0])
        listed = "; ".join(f"{n:,} x {reason} ({', '.join(names)})" for reason, (n, names) in reasons)
        return f"{self.skips:,} of {self.looked:,} samples looked at were skipped" + (f": {listed}" if listed else "")

    def to_dict(self) -> dict:
        """``looked``, and by reason ``skipped`` and by change ``changed``: {"count", "first": names}."""
        with self._lock:
            tables = [
                {what: {"count": n, "first": list(names)} for what, (n, names) in sorted(table.items())}
                for table in (self._skips, self._notes)
            ]
            return {"looked": self.looked, "skipped": tables[0], "changed": tables[1]}

    def write(self, path: str | Path) -> Path:
        """Write ``to_dict`` as JSON, atomically."""
        return files.write_json(path, self.to_dict())
