"""What a source gives: a image with its caption, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from vgt.core.images import ImageError, convert

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
CAPTION_NAMES = ("text", "caption", "prompt", "txt")  # where no column or field is named, the first one found


@dataclass(frozen=True)
class Sample:
    """``image``: upright, 8-bit RGB; ``caption``: None where the source was opened without captions; ``name``: for
    messages; ``kind``: what the image was converted from, None for 8-bit RGB."""

    image: Image.Image
    caption: str | None
    name: str
    kind: str | None = None


@dataclass(frozen=True)
class Skipped:
    """A sample that cannot be used.  ``reason``: a few words to count by."""

    name: str
    reason: str


class Source(Protocol):
    """Samples 0 .. len-1 in any order, as often as wanted, from several threads at once.  ``name``: as the user wrote
    it; ``fingerprint``: changes where samples were added, removed or reordered, the same on every machine."""

    name: str
    fingerprint: str

    def __len__(self) -> int: ...

    def item(self, index: int) -> Sample | Skipped: ...


def decoded(read: Callable[[], bytes], caption: str | Skipped | None, name: str) -> Sample | Skipped:
    """The sample whose image file ``read`` gives; a Skipped caption comes back as it is."""
    if isinstance(caption, Skipped):
        return caption
    try:
        image, kind = convert(read(), name)
    except ImageError as error:
        return Skipped(name, error.reason)
    except FileNotFoundError:
        return Skipped(name, "missing file")
    except OSError:
        return Skipped(name, "unreadable file")
    except ValueError:  # an archive that ends too early
        return Skipped(name, "torn file")
    return Sample(image, caption, name, kind)


def worded(value: object, name: str) -> str | Skipped:
    """A caption from whatever a file or a column holds, without the white space around it."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8-sig")
        except UnicodeDecodeError:
            return Skipped(name, "caption is not UTF-8")
    if value is None or (isinstance(value, str) and not value.strip()):
        return Skipped(name, "no caption")
    return value.strip() if isinstance(value, str) else Skipped(name, "caption is not text")


def column(wanted: str | None, present: Iterable[str], setting: str, where: str) -> str | None:
    """The column or field of captions: ``wanted``, or the first known name that is ``present``; None for neither.

    Raises ValueError where ``wanted``, which the user gave as ``setting``, is absent."""
    present = list(present)
    if wanted is None:
        return next((name for name in CAPTION_NAMES if name in present), None)
    if wanted not in present:
        raise ValueError(f"{where} has no {wanted!r}; set {setting} to one of {', '.join(present)}")
    return wanted
