"""Subject ``folder:<dir>``: images made elsewhere, in GenEval's layout or flat.

GenEval's layout (docs/evaluators.md 2.2) is ``<index>/metadata.jsonl`` and ``<index>/samples/<digits>.png``, index and
digits numeric; it may have gaps, and images that nobody asked for, both of which the evaluator reports.  A flat folder
holds images only; in the order of their names (vgt/core/listing.py) they are the samples of the first prompt, then of
the second, and so on, so their number must be exact.  Where ``images.jsonl`` of `vgt generate` lies beside them, its
prompts must be the suite's.  Of a part of a suite (-n) a folder may show the part alone, or the whole suite, from which
the part is taken; a flat one without that list does not show which prompts it is a part of, and a warning says so.
Images may differ in size; each is judged at its own.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vgt.core import files, images, record, suites, text
from vgt.core.images import SUFFIXES
from vgt.core.listing import IMAGE_LIST, folder_name, in_order, listed, tell_left_out
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
    """A folder of images; ``whole``: how many prompts the suite has, of which a part may be asked for.  Raises
    ValueError where there is none or where it holds no images."""

    root: Path
    name: str
    origin: str | None = None
    whole: int | None = None

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
            return self._in_order(prompts, images_per_prompt), ()
        found: dict[tuple[int, int], Path] = {}
        everything: list[Path] = []
        for first, second in zip(self._numbered, self._numbered[1:], strict=False):
            if int(first.name) == int(second.name):
                raise ValueError(f"{first} and {second} are both prompt {int(first.name)}; keep one of them")
        places = self._places(prompts)
        index_of = {place: index for index, place in enumerate(places)}
        passed_over = range(self.whole or 0) if places != list(range(len(prompts))) else ()
        for folder in self._numbered:
            index = index_of.get(int(folder.name))
            if index is not None:
                self._check(folder, prompts[index])
                chosen = _numbered_samples(self._pngs(folder), images_per_prompt)
                found |= {(index, sample): path for sample, path in chosen.items()}
            if index is not None or int(folder.name) not in passed_over:
                everything += self._pngs(folder)
        asked = set(found.values())
        return found, tuple(printable(p.relative_to(self.root).as_posix()) for p in everything if p not in asked)

    def _places(self, prompts: list[dict]) -> list[int]:
        """GenEval's layout: the number of each prompt's folder.  A part of the suite has its numbers in the whole one,
        unless the folders show the part alone."""
        own = list(range(len(prompts)))
        within = suites.spaced(self.whole or len(prompts), len(prompts))
        telling = [p for p in self._numbered if int(p.name) < len(prompts) and within[int(p.name)] != int(p.name)]
        alone = all(_prompt(p) == prompts[int(p.name)]["prompt"] for p in telling)
        if alone and (telling or int(self._numbered[-1].name) < len(prompts)):
            return own
        return within

    def _in_order(self, prompts: list[dict], images_per_prompt: int) -> dict[tuple[int, int], Path]:
        """Flat: (prompt index, sample) -> file, by the order of the files."""
        places, wanted = list(range(len(prompts))), len(prompts) * images_per_prompt
        whole = self.whole or len(prompts)
        if whole > len(prompts) and len(self._flat) == whole * images_per_prompt:
            places = suites.spaced(whole, len(prompts))
        elif len(self._flat) != wanted:
            others = f", all {whole} need {whole * images_per_prompt}" if whole > len(prompts) else ""
            raise ValueError(
                f"flat folder {self.root} holds {len(self._flat)} images; {len(prompts)} prompts x {images_per_prompt} "
                f"need {wanted}{others}: use GenEval's layout for a partial set, or give its prompts with --suite"
            )
        elif whole > len(prompts) and not (self.root / IMAGE_LIST).is_file():
            first = [prompt["prompt"] for prompt in prompts[:2]]
            print(
                f"warning: flat folder {self.root} does not say which prompts its {wanted} images show; they are taken "
                f"for {len(prompts)} from all over the suite, as -n does ({first[0]!r}, then {first[-1]!r}, ...); "
                "if they show others, give these with --suite FILE and without -n",
                file=sys.stderr,
            )
        ordered = in_order(self._flat)
        found = {
            (i, sample): ordered[place * images_per_prompt + sample]
            for i, place in enumerate(places)
            for sample in range(images_per_prompt)
        }
        if (self.root / IMAGE_LIST).is_file():
            self._check_list(found, prompts)
        return found

    def _check_list(self, found: dict[tuple[int, int], Path], prompts: list[dict]) -> None:
        """Raises ValueError naming the first file whose prompt by IMAGE_LIST is not the suite's."""
        path = self.root / IMAGE_LIST
        shown = {row.text("file"): row.text("prompt") for row in text.objects(path)}
        for (index, _), file in sorted(found.items()):
            if shown.get(file.name) != prompts[index]["prompt"]:
                told = repr(shown[file.name]) if file.name in shown else "no prompt"
                raise ValueError(
                    f"{path} has {told} for {file.name}, which would be judged by {prompts[index]['prompt']!r}; give "
                    "the prompts of these images with --suite FILE, and without -n"
                )

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

    def _check(self, folder: Path, asked: dict) -> None:
        """One numbered folder belongs to this suite and holds no file that GenEval would skip."""
        others = [printable(p.relative_to(self.root).as_posix()) for p in self._images[folder] if p.suffix != ".png"]
        if others:
            raise ValueError(
                f"{_shown(others)}: GenEval's layout scores PNG files with the suffix .png only; convert or rename them"
            )
        if (prompt := _prompt(folder)) != asked["prompt"]:
            raise ValueError(
                f"{folder} shows {prompt!r}, prompt {int(folder.name)} of the suite is {asked['prompt']!r}; is this "
                "another suite's? Give its prompts with --suite FILE"
            )


def _prompt(folder: Path) -> str:
    """The prompt of a numbered folder.  Raises ValueError where its metadata is missing or names none."""
    path = folder / "metadata.jsonl"
    if not path.is_file():
        raise ValueError(
            f"{path} is missing; write the prompt's record there: line {int(folder.name) + 1} of `vgt prompts SUITE`"
        )
    try:
        return read_json(path)["prompt"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} does not name the prompt; write one JSON object with the prompt's record") from error


def folder(path: str | Path, name: str | None = None, origin: str | None = None, whole: int | None = None) -> Folder:
    """The subject of a folder; ``name`` defaults to ``folder:<its own name>``; ``origin``: where its images came from
    (vgt.core.record.place); ``whole``: see Folder.  Raises ValueError as Folder does."""
    root = Path(path)
    found = Folder(root, name or f"folder:{folder_name(root)}", origin or record.place(root), whole)
    assert found.layout in ("geneval", "flat")  # looks at the disk: errors come here, not halfway through
    return found
