"""A map-style data set of Hugging Face's ``datasets`` package, from a folder or by name."""

from __future__ import annotations

from pathlib import Path

from vgt.core import files, images
from vgt.training.sources.sample import LABEL_NAMES, Sample, Skipped, column, decoded, in_order, labelled, worded

_ENCODED = ("binary", "string")


class HuggingFace:
    """``DIR_OR_NAME``, or ``DIR_OR_NAME@SPLIT``: what ``save_to_disk`` wrote, or whatever ``load_dataset`` reads.

    Without a split it is "train", or the only one.  The image column is the only one with images, or
    ``image_column``; it may also hold encoded bytes or paths."""

    def __init__(
        self,
        name: str,
        text: str,
        captions: bool,
        image_column: str | None,
        caption_column: str | None,
        labels: bool = False,
        label_column: str | None = None,
    ):
        self.name = name
        rows = _loaded(text)
        self._image = _image_column(rows, image_column, name)
        self._caption = column(caption_column, rows.column_names, "data.caption_column", name) if captions else None
        if captions and self._caption is None:
            present = ", ".join(rows.column_names)
            raise ValueError(f"{name} has the columns {present}; set data.caption_column to the one with captions")
        if not len(rows):
            raise ValueError(f"{name} is empty; choose another split with {text.partition('@')[0]}@SPLIT")
        self._label = self.classes = self._names = None
        if labels:
            self._label = column(label_column, rows.column_names, "data.label_column", name, LABEL_NAMES)
            if self._label is None:
                present = ", ".join(rows.column_names)
                raise ValueError(f"{name} has the columns {present}; set data.label_column to the one with classes")
            self._names = getattr(rows.features[self._label], "names", None)
            self.classes = tuple(self._names or in_order(map(str, rows.unique(self._label))))
        wanted = [self._image, *filter(None, (self._caption, self._label))]
        self._rows = _undecoded(rows.select_columns(wanted).with_format(None), self._image)
        self.fingerprint = files.digest_json(["datasets", rows._fingerprint, len(rows), wanted])

    def __len__(self) -> int:
        return len(self._rows)

    def item(self, index: int) -> Sample | Skipped:
        name = f"row {index}"
        row = self._rows[index]
        caption = worded(row[self._caption], name) if self._caption else None
        image = row[self._image]
        if image is None:
            return Skipped(name, "no image")
        return decoded(lambda: _content(image), caption, name, self._labelled(row, name))

    def _labelled(self, row: dict, name: str) -> str | Skipped | None:
        if self._label is None:
            return None
        value = row[self._label]
        named = self._names is not None and type(value) is int and value >= 0
        return labelled(self._names[value] if named else value, name)


def _content(image: dict | bytes | str) -> bytes:
    """The encoded image of a row: bytes, a path, or the pair of both that an image column holds."""
    if isinstance(image, dict):
        image = image["path"] if image.get("bytes") is None else image["bytes"]
    return image if isinstance(image, bytes) else images.content(image or "")


def _loaded(text: str):
    """The ``datasets.Dataset`` that ``text`` names.  Raises ValueError where the package or the data set is absent."""
    try:
        import datasets
    except ImportError:
        raise ValueError("a datasets: source needs the datasets package; pip install datasets") from None
    text = str(Path(text).expanduser()) if text.startswith("~") else text
    place, _, split = (text, "", "") if Path(text).exists() or "@" not in text else text.rpartition("@")
    if not Path(place).exists() and (place.startswith((".", "/")) or place.count("/") > 1):  # no name on a hub
        raise ValueError(f"there is no data set at {place}; give a folder that exists")
    try:
        if any((Path(place) / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
            found = datasets.load_from_disk(place)
        else:
            found = datasets.load_dataset(place)
    except Exception as error:  # the package, its file systems and its readers raise all kinds
        fault = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"data set {place} cannot be loaded ({fault}); give a folder or a name that exists") from error
    if isinstance(found, datasets.Dataset):
        if split:
            raise ValueError(f"{place} has no splits; write datasets:{place} without @{split}")
        return found
    chosen = split or ("train" if "train" in found or len(found) != 1 else next(iter(found)))
    if chosen not in found:
        raise ValueError(f"{place} has no split {chosen!r}; write datasets:{place}@ and one of {', '.join(found)}")
    return found[chosen]


def _image_column(rows, wanted: str | None, name: str) -> str:
    from datasets import Image, Value

    if wanted:
        column(wanted, rows.column_names, "data.image_column", name)
        kind = rows.features[wanted]
        if isinstance(kind, Image) or (isinstance(kind, Value) and kind.dtype.removeprefix("large_") in _ENCODED):
            return wanted
        raise ValueError(f"{name}: column {wanted!r} holds {kind}; it must hold images, encoded bytes or paths")
    found = [each for each, feature in rows.features.items() if isinstance(feature, Image)]
    if len(found) != 1:
        some = f"images in {', '.join(found)}" if found else f"no image among {', '.join(rows.column_names)}"
        raise ValueError(f"{name} has {some}; set data.image_column to the column to train on")
    return found[0]


def _undecoded(rows, image: str):
    """Rows whose images stay encoded, so that a torn one is seen and named by our own reader."""
    from datasets import Image

    return rows.cast_column(image, Image(decode=False)) if isinstance(rows.features[image], Image) else rows
