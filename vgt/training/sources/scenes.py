"""The synthetic scenes as a source, to be joined with others; "scenes" alone keeps its own, older batches."""

from __future__ import annotations

from PIL import Image

from vgt.core import captions, files, scenes
from vgt.training.sources.sample import Sample

SIZE = 128  # pixels: the largest image that is drawn


class Drawn:
    """The first ``count`` training scenes at 128 px, captioned densely where they are laid out for it, else shortly."""

    name = "scenes"

    def __init__(self, count: int):
        self._count = count
        self.fingerprint = files.digest("drawn", scenes.WORLD, str(count))

    def __len__(self) -> int:
        return self._count

    def item(self, index: int) -> Sample:
        drawn = scenes.item("train", index, SIZE)
        caption = captions.dense_caption if drawn.scene.task == "dense" else captions.short_caption
        return Sample(Image.fromarray(drawn.image), caption(drawn.scene), f"scene {index}")
