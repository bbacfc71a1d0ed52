"""Subject ``folder:<dir>``: images made elsewhere, in GenEval's layout or flat.

GenEval's layout (docs/evaluators.md 2.2) is ``<index>/metadata.jsonl`` and ``<index>/samples/<digits>.png``, index and
digits numeric; it may have gaps, and images that nobody asked for, both of which the evaluator reports.  A flat folder
holds PNG or JPEG files only; sorted by name they are the samples of the first prompt, then of the second, and so on, so
their number must be exact.  Images may differ in size; each is judged at its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vgt.core import files, record

SUFFIXES = (".png", ".jpg", ".jpeg")
JPEG = (".jpg", ".jpeg")


def _shown(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _pngs(folder: Path) -> list[Path]:
    """The PNG files of one prompt in GenEval's layout, sorted by name."""
    return sorted(p for p in (folder / "samples").glob("*.png") if not p.name.startswith("."))


def _numbered_samples(folder: Path, count: int) -> dict[int, Path]:
    """Sample -> file: by the digits of its name where all are below ``count``, so that a gap stays a gap, otherwise
    the first ``count`` in the order of their digits."""
    pngs = sorted((p for p in _pngs(folder) if p.stem.isdigit()), key=lambda p: int(p.stem))
    numbers = [int(p.stem) for p in pngs]
    if len(set(numbers)) == len(numbers) and all(number < count for number in numbers):
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
            f"folder {self.root} holds no images; expected <00000>/samples/<0000>.png or PNG/JPEG files directly"
        )

    @cached_property
    def _numbered(self) -> list[Path]:
        return sorted((p for p in self.root.iterdir() if p.is_dir() and p.name.isdigit()), key=lambda p: int(p.name))

    @cached_property
    def _flat(self) -> list[Path]:
        return sorted(p for p in self.root.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES)

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of every image and its place."""
        paths = self._flat if self.layout == "flat" else sorted(p for folder in self._numbered for p in _pngs(folder))
        return files.digest_json([[p.relative_to(self.root).as_posix(), files.digest_file(p)] for p in paths])

    def samples(
        self, prompts: list[dict], images_per_prompt: int
    ) -> tuple[dict[tuple[int, int], Path], tuple[str, ...]]:
        """(prompt index, sample) -> file, for the files that are there; and the images, relative to the root, that the
        suite does not ask for: more than ``images_per_prompt``, beyond its last prompt, or not named by digits.

        Raises ValueError for JPEG files in GenEval's layout (the official scorer skips them in silence), for prompts
        that are not the suite's, for two folders of one prompt, and for a flat folder of another length."""
        if self.layout == "flat":
            wanted = len(prompts) * images_per_prompt
            if len(self._flat) != wanted:
                raise ValueError(
                    f"flat folder {self.root} holds {len(self._flat)} images; {len(prompts)} prompts x "
                    f"{images_per_prompt} need {wanted}: use GenEval's layout for a partial set"
                )
            return {(i // images_per_prompt, i % images_per_prompt): path for i, path in enumerate(self._flat)}, ()
        found: dict[tuple[int, int], Path] = {}
        everything: list[Path] = []
        seen: dict[int, Path] = {}
        for folder in self._numbered:
            index = int(folder.name)
            if index in seen:
                raise ValueError(f"{seen[index]} and {folder} are both prompt {index}; keep one of them")
            seen[index] = folder
            everything += _pngs(folder)
            if index < len(prompts):
                self._check(folder, index, prompts)
                chosen = _numbered_samples(folder, images_per_prompt)
                found |= {(index, sample): path for sample, path in chosen.items()}
        asked = set(found.values())
        return found, tuple(p.relative_to(self.root).as_posix() for p in everything if p not in asked)

    def _check(self, folder: Path, index: int, prompts: list[dict]) -> None:
        """One numbered folder belongs to this suite and holds no file that GenEval would skip."""
        jpegs = sorted(p.relative_to(self.root).as_posix() for p in folder.rglob("*") if p.suffix.lower() in JPEG)
        if jpegs:
            raise ValueError(f"{_shown(jpegs)}: GenEval's layout scores PNG files only; convert them to PNG")
        try:
            prompt = json.loads((folder / "metadata.jsonl").read_text(encoding="utf-8"))["prompt"]
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
    found = Folder(root, name or f"folder:{root.resolve().name}", origin or record.place(root))
    assert found.layout in ("geneval", "flat")  # looks at the disk: errors come here, not halfway through
    return found
