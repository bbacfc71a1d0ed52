"""Judge ``scripted:<file>``: answers looked up in a table, for tests and for answers gathered elsewhere.

JSON lines ``{"question": ..., "answer": ...}``; with ``"image"``, the mark of a image's pixels, the answer is for
that image only and goes before one without."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evals.engine.store import SampleError
from vgt.core import files


def mark(image: np.ndarray) -> str:
    """Content hash of a image, uint8 [H, W, 3]."""
    return files.digest(str(image.shape), np.ascontiguousarray(image).tobytes())


@dataclass(frozen=True)
class Scripted:
    """An Answerer; ``table``: (mark of the image or "", question) -> answer."""

    name: str
    table: dict[tuple[str, str], str] = field(repr=False)

    @property
    def fingerprint(self) -> str:
        return files.digest_json(sorted([*key, answer] for key, answer in self.table.items()))

    def answer(self, image: np.ndarray, question: str) -> str:
        """Raises SampleError for a question that is not in the table."""
        for key in ((mark(image), question), ("", question)):
            if key in self.table:
                return self.table[key]
        raise SampleError(f"judge {self.name!r} has no answer to {question!r} about image {mark(image)[:12]}")


def scripted(path: str | Path) -> Scripted:
    """The table in ``path``.  Raises ValueError for a file that is absent or broken, and for a question asked twice."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"table {path} does not exist; give JSON lines with question, answer and perhaps image")
    table: dict[tuple[str, str], str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key, words = (str(row.get("image") or ""), row["question"]), str(row["answer"])
        except (ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}: not JSON with question and answer ({error!r})") from error
        if table.setdefault(key, words) != words:
            raise ValueError(f"{path}, line {number}: {key[1]!r} has two different answers; keep one")
    return Scripted(path.stem, table)
