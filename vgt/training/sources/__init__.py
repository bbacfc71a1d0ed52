"""Where training images come from: sources by name, every sample of which can be asked for at any time.

``open_source`` reads "scenes", "folder:DIR", "webdataset:PATTERN", "datasets:DIR_OR_NAME", or several joined by "+".
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from PIL import Image

from vgt.core import captions as wordings
from vgt.core import files
from vgt.core import scenes as synthetic
from vgt.training.sources.folder import Folder
from vgt.training.sources.hugging_face import HuggingFace
from vgt.training.sources.sample import Sample, Skipped, SkipReport, Source, in_order
from vgt.training.sources.webdataset import WebDataset

__all__ = ["Joined", "Sample", "Scenes", "SkipReport", "Skipped", "Source", "open_source", "parts"]

SCENE_SIZE = 128  # pixels: the largest image that is drawn
KINDS = ("scenes", "folder:DIR", "webdataset:PATTERN", "datasets:DIR_OR_NAME")
_NEXT = re.compile(r"\+(?=scenes(?:\+|$)|folder:|webdataset:|datasets:)")


def parts(text: str) -> list[str]:
    """The sources of a joined name, one by one."""
    return _NEXT.split(text)


class Scenes:
    """The first ``count`` training scenes at 128 px, captioned densely where they are laid out for it, else shortly."""

    name = "scenes"
    classes = None

    def __init__(self, count: int):
        self._count = count
        self.fingerprint = files.digest("drawn", synthetic.WORLD, str(count))

    def __len__(self) -> int:
        return self._count

    def item(self, index: int) -> Sample:
        found = synthetic.item("train", index, SCENE_SIZE)
        caption = wordings.dense_caption if found.scene.task == "dense" else wordings.short_caption
        return Sample(Image.fromarray(found.image), caption(found.scene), f"scene {index}")


class Joined:
    """Several sources one after the other.  Over all samples the order is uniform: a large source gives more."""

    def __init__(self, sources: Sequence[Source]):
        self._sources = tuple(sources)
        self._ends = list(accumulate(map(len, sources)))
        self.name = "+".join(source.name for source in sources)
        self.fingerprint = files.digest("joined", *(source.fingerprint for source in sources))
        known = [source.classes for source in sources]
        self.classes = None if None in known else in_order(name for names in known for name in names or ())

    def __len__(self) -> int:
        return self._ends[-1]

    def item(self, index: int) -> Sample | Skipped:
        k = bisect_right(self._ends, index)
        return self._sources[k].item(index - (self._ends[k - 1] if k else 0))


def open_source(
    text: str,
    cache: Path,
    captions: bool = False,
    image_column: str | None = None,
    caption_column: str | None = None,
    scenes: int = 65_536,
    labels: bool = False,
    label_column: str | None = None,
) -> Source:
    """The source that ``text`` names.  ``cache``: where indexes of tar files are kept; ``captions``, ``labels``:
    whether samples must have one; ``scenes``: how many synthetic scenes there are.

    Raises ValueError for an unknown kind, for what cannot be found, and where no sample could have a caption or
    label."""
    opened: list[Source] = []
    for part in parts(text):
        kind, _, rest = part.partition(":")
        if part == "scenes" and labels:
            raise ValueError(f"data.source {text!r}: scenes have labels only by themselves; leave the others out")
        if part == "scenes":
            opened.append(Scenes(scenes))
        elif kind == "folder" and rest:
            opened.append(Folder(part, Path(rest).expanduser(), captions, image_column, caption_column, labels))
        elif kind == "webdataset" and rest:
            place = str(Path(rest).expanduser())
            opened.append(WebDataset(part, place, captions, caption_column, cache, labels, label_column))
        elif kind == "datasets" and rest:
            opened.append(HuggingFace(part, rest, captions, image_column, caption_column, labels, label_column))
        else:
            raise ValueError(f"data.source {part!r} is unknown; write {', '.join(KINDS)}, or several joined by +")
    return opened[0] if len(opened) == 1 else Joined(opened)
