"""Subject ``folder:<dir>``: images made elsewhere, in GenEval's layout or flat.

GenEval's layout (spec evaluators 2.2) is ``<index>/metadata.jsonl`` and ``<index>/samples/<digits>.png``, index and
digits numeric; it may have gaps, which the evaluator reports.  A flat folder holds PNG or JPEG files only; sorted by
name they are the samples of the first prompt, then of the second, and so on, so their number must be exact.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vgt.core import files

SUFFIXES = (".png", ".jpg", ".jpeg")
JPEG = (".jpg", ".jpeg")


def read_image(path: str | Path) -> np.ndarray:
    """uint8 [H, W, 3], turned upright as its EXIF says.  Raises OSError or ValueError for what is not a whole image."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _shown(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@dataclass(frozen=True)
class Folder:
    """A folder of images.  Raises ValueError where there is none or where it holds no images."""

    root: Path
    name: str

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
        if self.layout == "flat":
            paths = self._flat
        else:
            paths = sorted(p for folder in self._numbered for p in (folder / "samples").glob("*.png"))
        return files.digest_json([[p.relative_to(self.root).as_posix(), files.digest_file(p)] for p in paths])

    def samples(self, prompts: list[dict], images_per_prompt: int) -> dict[tuple[int, int], Path]:
        """(prompt index, sample) -> file, for the files that are there.

        Raises ValueError for JPEG files in GenEval's layout (the official scorer skips them in silence), for prompts
        that are not the suite's, for too many images, and for a flat folder of another length."""
        if self.layout == "flat":
            wanted = len(prompts) * images_per_prompt
            if len(self._flat) != wanted:
                raise ValueError(
                    f"flat folder {self.root} holds {len(self._flat)} images; {len(prompts)} prompts x "
                    f"{images_per_prompt} need {wanted}: use GenEval's layout for a partial set"
                )
            return {(i // images_per_prompt, i % images_per_prompt): path for i, path in enumerate(self._flat)}
        found = {}
        for folder in self._numbered:
            index = int(folder.name)
            self._check(folder, index, prompts)
            pngs = [p for p in (folder / "samples").glob("*.png") if p.stem.isdigit()]
            if len(pngs) > images_per_prompt:
                raise ValueError(
                    f"{folder}/samples holds {len(pngs)} images, the run scores {images_per_prompt} a prompt: "
                    f"ask for {len(pngs)} images a prompt or remove some"
                )
            ordered = sorted(pngs, key=lambda p: int(p.stem))
            found |= {(index, sample): path for sample, path in enumerate(ordered)}
        return found

    def _check(self, folder: Path, index: int, prompts: list[dict]) -> None:
        """One numbered folder belongs to this suite and holds no file that GenEval would skip."""
        jpegs = sorted(p.relative_to(self.root).as_posix() for p in folder.rglob("*") if p.suffix.lower() in JPEG)
        if jpegs:
            raise ValueError(f"{_shown(jpegs)}: GenEval's layout scores PNG files only; convert them to PNG")
        if index >= len(prompts):
            raise ValueError(f"folder {folder} is beyond the suite's {len(prompts)} prompts; is this another suite's?")
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


def folder(path: str | Path, name: str | None = None) -> Folder:
    """The subject of a folder; ``name`` defaults to ``folder:<its own name>``.  Raises ValueError as Folder does."""
    root = Path(path)
    found = Folder(root, name or f"folder:{root.resolve().name}")
    assert found.layout in ("geneval", "flat")  # looks at the disk: errors come here, not halfway through
    return found
