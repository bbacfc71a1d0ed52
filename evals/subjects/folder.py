"""Subject ``folder:<dir>``: images made elsewhere, in GenEval's layout or flat.

GenEval's layout (docs/evaluators.md 2.2) is ``<index>/metadata.jsonl`` and ``<index>/samples/<digits>.png``, index and
digits numeric; it may have gaps, and images that nobody asked for, both of which the evaluator reports.  A flat folder
holds images only; in the order of their names (vgt/core/listing.py) they are the samples of the first prompt, then of
the second, and so on, so their number must be exact.  Images may differ in size; each is judged at its own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vgt.core import files, images, record
from vgt.core.images import SUFFIXES
from vgt.core.listing import folder_name, in_order, listed, tell_left_out
from vgt.core.text import printable, read_json


def _shown(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _numbered_samples(pngs: list[Path], count: int) -> dict[int, Path]:
    """Sample -> file: by the digits of its name where all are below ``count``, so that a gap stays a gap, otherwise
    the first ``count`` in the order of their digits.  Raises ValueError for two files of one number."""
    pngs = sorted((p for p in pngs if _is_number(p.stem)), key=lambda p: int(p.stem))
    numbers = [int(p.stem) for p in pngs]
    for first, second in zip(pngs, pngs[1:], strict=False):
        if int(first.stem) == int(second.stem):
            raise ValueError(f"{first} and {second.name} are both sample {int(first.stem)}; keep one of them")
    if all(number < count for number in numbers):
        return dict(zip(numbers, pngs, strict=True))
    return dict(enumerate(pngs[:count]))


@dataclass(frozen=True)
class Folder:
    """A folder of images.  Raises ValueError where there is none or where it holds no images."""

    root: Path
    name: str
    origin: str | None = None

    @cached_property
    def layout(self) -> str:
        """ "geneval" or "flat"."""
        if not self.root.is_dir():
            raise ValueError(f"image folder {self.root} does not exist; give a folder as folder:<dir>")
        if self._numbered:
            return "geneval"
        if self._flat:
            return "flat"
        raise ValueError(
            f"folder {self.root} holds no images; expected <00000>/samples/<0000>.png or {', '.join(SUFFIXES)} files"
        )

    @cached_property
    def _numbered(self) -> list[Path]:
        found = [p for p in self.root.iterdir() if _is_number(p.name) and p.is_dir()]
        return sorted(found, key=lambda p: (int(p.name), p.name))

    @cached_property
    def _flat(self) -> list[Path]:
        return [self.root / name for name in listed(self.root, deep=False).images]

    @cached_property
    def _images(self) -> dict[Path, list[Path]]:
        """GenEval's layout: the images of each prompt's folder, wherever they lie in it.  Says what is left out."""
        beside = listed(self.root, deep=False, tell=False)
        left_out = Counter(beside.left_out) - Counter(folder=len(self._numbered))
        left_out["image outside of the folders of prompts"] += len(beside.images)
        found = {}
        for folder in self._numbered:
            listing = listed(folder, tell=False)
            found[folder] = [folder / name for name in listing.images]
            left_out.update(listing.left_out)
        tell_left_out(self.root, +left_out)
        return found

    def _pngs(self, folder: Path) -> list[Path]:
        """The PNG files of one prompt in GenEval's layout, sorted by name."""
        return [p for p in self._images[folder] if p.suffix == ".png" and p.parent == folder / "samples"]

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of every image and its place."""
        flat = self.layout == "flat"
        paths = self._flat if flat else sorted(p for folder in self._numbered for p in self._pngs(folder))
        return files.digest_json([[p.relative_to(self.root).as_posix(), images.digest(p)] for p in paths])

    def samples(
        self, prompts: list[dict], images_per_prompt: int
    ) -> tuple[dict[tuple[int, int], Path], tuple[str, ...]]:
        """(prompt index, sample) -> file, for the files that are there; and the images, relative to the root, that the
        suite does not ask for: more than ``images_per_prompt``, beyond its last prompt, or not named by digits.

        Raises ValueError for images in GenEval's layout that do not end in .png (the official scorer skips them in
        silence), for prompts that are not the suite's, for two folders of one prompt or two files of one sample, and
        for a flat folder of another length or without a clear order."""
        if self.layout == "flat":
            wanted = len(prompts) * images_per_prompt
            if len(self._flat) != wanted:
                raise ValueError(
                    f"flat folder {self.root} holds {len(self._flat)} images; {len(prompts)} prompts x "
                    f"{images_per_prompt} need {wanted}: use GenEval's layout for a partial set"
                )
            ordered = in_order(self._flat)
            return {(i // images_per_prompt, i % images_per_prompt): path for i, path in enumerate(ordered)}, ()
        found: dict[tuple[int, int], Path] = {}
        everything: list[Path] = []
        for first, second in zip(self._numbered, self._numbered[1:], strict=False):
            if int(first.name) == int(second.name):
                raise ValueError(f"{first} and {second} are both prompt {int(first.name)}; keep one of them")
        for folder in self._numbered:
            index = int(folder.name)
            everything += self._pngs(folder)
            if index < len(prompts):
                self._check(folder, index, prompts)
                chosen = _numbered_samples(self._pngs(folder), images_per_prompt)
                found |= {(index, sample): path for sample, path in chosen.items()}
        asked = set(found.values())
        return found, tuple(printable(p.relative_to(self.root).as_posix()) for p in everything if p not in asked)

    def lacks(self, prompts: list[dict], images_per_prompt: int) -> str | None:
        """One line on what is missing of a suite's images and what is too much; None where neither is.  Raises
        ValueError as ``samples`` does."""
        found, extra = self.samples(prompts, images_per_prompt)
        wanted, shown = len(prompts) * images_per_prompt, {index for index, _ in found}
        empty = [f"{index:05d}" for index in range(len(prompts)) if index not in shown]
        told = [f"{len(found)} of {wanted} images are there"] if len(found) < wanted else []
        told += [f"{len(empty)} prompts have none ({_shown(empty)})"] if empty else []
        told += [f"{len(extra)} images are none that the suite asks for ({_shown(list(extra))})"] if extra else []
        return f"folder {self.root}: {', '.join(told)}" if told else None

    def _check(self, folder: Path, index: int, prompts: list[dict]) -> None:
        """One numbered folder belongs to this suite and holds no file that GenEval would skip."""
        others = [printable(p.relative_to(self.root).as_posix()) for p in self._images[folder] if p.suffix != ".png"]
        if others:
            raise ValueError(
                f"{_shown(others)}: GenEval's layout scores PNG files with the suffix .png only; convert or rename them"
            )
        try:
            prompt = read_json(folder / "metadata.jsonl")["prompt"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{folder}/metadata.jsonl does not name the prompt; write one JSON object with the prompt's record"
            ) from error
        if prompt != prompts[index]["prompt"]:
            raise ValueError(
                f"{folder} shows {prompt!r}, prompt {index} of the suite is {prompts[index]['prompt']!r}; "
                f"is this another suite's?"
            )


def folder(path: str | Path, name: str | None = None, origin: str | None = None) -> Folder:
    """The subject of a folder; ``name`` defaults to ``folder:<its own name>``; ``origin``: where its images came from
    (vgt.core.record.place).  Raises ValueError as Folder does."""
    root = Path(path)
    found = Folder(root, name or f"folder:{folder_name(root)}", origin or record.place(root))
    assert found.layout in ("geneval", "flat")  # looks at the disk: errors come here, not halfway through
    return found
