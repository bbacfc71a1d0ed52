"""Which files of a folder are images: the only lister of the folders of users (what is in them: vgt/core/images.py).

An image is what bears one of the SUFFIXES, in upper or lower case.  Names that begin with a dot are hidden, files and
folders alike: macOS, file managers and killed writers leave them.  Links are followed, to files and to folders, but not
to a folder above the link.  A folder is none, whatever its name; a link to nothing is listed, to be counted as an image
that cannot be read.  What is left out is counted and said once, on stderr.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vgt.core.images import SUFFIXES
from vgt.core.text import printable

# What lies beside images and is none by anyone's reckoning: captions, tables, labels, logs.
PLAIN = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".html", ".toml", ".yaml", ".yml", ".log", ".cls", ".hashes")
IMAGE_LIST = "images.jsonl"  # beside images that `vgt generate` wrote: file, prompt and seed of each


@dataclass(frozen=True)
class Listing:
    """``images``: their paths below a folder, with slashes, in the order of their text; ``texts``: those of its .txt
    files; ``left_out``: how many of each kind were left out, for example {".heic file": 2, "hidden file": 1}."""

    images: tuple[str, ...]
    texts: tuple[str, ...]
    left_out: Mapping[str, int]


def kind_of(name: str) -> str:
    """What a file's name says: "image", "plain", "hidden file", or what is left out (".heic file")."""
    suffix = os.path.splitext(name)[1].lower()
    if name.startswith("."):
        return "plain" if suffix == ".lock" else "hidden file"
    if suffix in SUFFIXES:
        return "image"
    return "plain" if suffix in PLAIN else f"{printable(suffix)} file" if suffix else "file without a suffix"


def listed(root: str | Path, deep: bool = True, tell: bool = True) -> Listing:
    """The images of a folder; ``deep``: and of all folders in it; ``tell``: say what is left out.

    Raises ValueError for a folder that is not there or cannot be listed."""
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"there is no folder {printable(str(root))}; give one with {', '.join(SUFFIXES)} files")
    images, texts, left_out = [], [], Counter()
    waiting = [("", (os.path.realpath(root),))]  # path below the root, real paths of the folders above and of itself
    while waiting:
        below, above = waiting.pop()
        for entry in _entries(root / below):
            path = f"{below}{entry.name}"
            if not _is_folder(entry):
                kind = kind_of(entry.name)
                if kind == "image":
                    images.append(path)
                elif kind != "plain":
                    left_out[kind] += 1
                elif entry.name.lower().endswith(".txt"):
                    texts.append(path)
            elif entry.name.startswith("."):
                left_out["hidden folder"] += 1
            elif not deep:
                left_out["folder"] += 1
            elif (real := os.path.realpath(entry.path)) in above:
                left_out["link to a folder above it"] += 1
            else:
                waiting.append((f"{path}/", (*above, real)))
    if tell:
        tell_left_out(root, left_out)
    return Listing(tuple(sorted(images)), tuple(sorted(texts)), left_out)


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as error:
        shown = printable(str(folder))
        raise ValueError(f"folder {shown} cannot be listed ({error.strerror}); allow reading it") from error


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def tell_left_out(where: str | Path, left_out: Mapping[str, int]) -> None:
    """One line on stderr, once a process: what was left out at ``where`` and how often."""
    if left_out:
        listed = ", ".join(f"{n:,} x {kind}" for kind, n in sorted(left_out.items()))
        _tell(f"{printable(str(where))}: left out {listed}")


@functools.cache
def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def folder_name(folder: str | Path) -> str:
    """What a folder, or the one that a link leads to, is called: text of one line."""
    return printable(os.path.basename(os.path.realpath(folder)))


def image_name(path: str) -> str:
    """A path without suffix as the name by which an image is matched with its counterpart elsewhere: accents composed
    (macOS takes them apart), text of one line."""
    return printable(unicodedata.normalize("NFC", path))


def image_files(folder: str | Path) -> dict[str, Path]:
    """All images of a folder tree: {``image_name`` of the path inside it without suffix: file}, sorted by name.

    Raises ValueError as ``listed`` does, for a folder without images and for two files that differ in their suffix
    alone."""
    root, found = Path(folder), {}
    for path in listed(root).images:
        name = image_name(os.path.splitext(path)[0])
        if name in found:
            shown = f"{printable(found[name].name)} and {printable(PurePosixPath(path).name)}"
            raise ValueError(f"{shown} in {printable(str(root))} have the same name; keep one of them")
        found[name] = root / path
    if not found:
        raise ValueError(f"folder {printable(str(root))} holds no {', '.join(SUFFIXES)} files")
    return dict(sorted(found.items()))


# ----------------------------------------------------------------------------------------------------------- order


def _numbers(name: str) -> list[str]:
    """ "img_10" -> ["img_", "10", ""]: text and digits in turn."""
    return re.split(r"([0-9]+)", name)


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Files of one folder in the order that their names mean: 2.png before 10.png.

    Where names differ in their numbers alone, these decide.  Other names must have one order, as text and by their
    numbers, with and without regard to case.  Raises ValueError naming two files whose order is not clear."""
    paths = sorted(paths, key=lambda p: p.name)
    parts = {path: _numbers(path.stem) for path in paths}

    def natural(path: Path) -> list:
        return [int(part) if k % 2 else part for k, part in enumerate(parts[path])]

    def folded(path: Path) -> list:
        return [part.casefold() if isinstance(part, str) else part for part in natural(path)]

    found = sorted(paths, key=natural)
    for first, second in zip(found, found[1:], strict=False):
        if natural(first) == natural(second):
            raise _unclear(first, second)
    texts = {tuple(part[::2]) for part in parts.values()}
    if len(texts) > 1 or "." in next(iter(texts), ()):  # other texts between the numbers, or perhaps decimal fractions
        for other in (paths, sorted(paths, key=lambda p: p.stem), sorted(paths, key=folded)):
            for first, second in zip(found, other, strict=True):
                if first != second:
                    raise _unclear(first, second)
    return found


def _unclear(first: Path, second: Path) -> ValueError:
    names = f"{printable(first.name)} or {printable(second.name)}"
    return ValueError(
        f"folder {printable(str(first.parent))}: which comes first, {names}, is not clear from their names, and the "
        "order decides whose image it is; name them 0000.png, 0001.png, ... or use GenEval's layout"
    )
