"""Judges that answer questions about images: how they are asked, and those that need no model here.

``process:<command>`` is a program in an environment of its own, spoken to in JSON lines.  We write ``{"image": <path of
a PNG>, "question": ...}`` to its standard input, one line a question; it writes ``{"answer": ...}`` to its standard
output, one line an answer, in order and flushed.  What it writes to standard error is shown where it fails.
``{"error": ...}`` in place of an answer marks that image as failed and the run goes on; a program that ends or writes
anything else ends the run.

``scripted:<file>`` looks answers up in a table, for tests and for answers collected elsewhere: JSON lines
``{"question": ..., "answer": ...}``; with ``"image"``, the hash of an image's pixels, the answer is for that image only
and goes before one without.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from evals.engine.api import Answerer
from evals.engine.store import SampleError
from vgt.core import files
from vgt.core.text import Fields, objects, parse_json, present


class JudgeLost(ValueError):
    """The judge itself is gone (its process ended): asking it on is of no use, unlike after one bad image."""


@dataclass(frozen=True)
class Reply:
    """A raw answer; ``yes_share``: P(yes) / (P(yes) + P(no)) of its first token, where the judge can tell."""

    text: str
    yes_share: float | None = None


def replies(answerer: Answerer, image: np.ndarray, questions: Sequence[str]) -> list[Reply]:
    """Answers to all questions about one image, uint8 [H, W, 3].

    A judge with ``replies(image, questions)`` sees them in one call, so the batch that an answer is computed in depends
    on the item alone; others are asked one by one."""
    if hasattr(answerer, "replies"):
        found = answerer.replies(image, questions)
    else:
        found = [Reply(answerer.answer(image, question)) for question in questions]
    if len(found) != len(questions):
        raise ValueError(f"judge {answerer.name!r} gave {len(found)} answers to {len(questions)} questions")
    return found


def label(name: str) -> str:
    """A judge's name as metrics and files carry it: letters, digits, dots, dashes."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-")


# ------------------------------------------------------------------------------------------- a program of its own


def _end(child: subprocess.Popen, folder: tempfile.TemporaryDirectory) -> None:
    """Close the child's input, which asks it to leave, and make sure that it does."""
    for pipe in (child.stdin, child.stdout):
        with contextlib.suppress(OSError):
            pipe.close()
    try:
        child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    folder.cleanup()


class ProcessAnswerer:
    """An Answerer in a child process, started with the first question.  ``fingerprint``: hash of what decides its
    answers."""

    def __init__(self, name: str, command: Sequence[str], fingerprint: str):
        self.name, self.command, self.fingerprint = name, list(command), fingerprint
        self._child: subprocess.Popen | None = None
        self._answered = 0
        self._shown: tuple[bytes, Path] | None = None  # the image asked about last, and its file

    def _start(self) -> subprocess.Popen:
        """The running child.  Raises ValueError for a command that cannot be started."""
        if self._child is None:
            self._folder = tempfile.TemporaryDirectory(prefix="vgt-judge-")
            self._words = Path(self._folder.name) / "stderr.txt"
            with open(self._words, "w", encoding="utf-8") as words:
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": words}
                try:
                    self._child = subprocess.Popen(self.command, **pipes, text=True, encoding="utf-8")
                except OSError as error:
                    self._folder.cleanup()
                    raise ValueError(f"judge {self.name!r} cannot be started: {error}") from error
            self._stop = weakref.finalize(self, _end, self._child, self._folder)
        return self._child

    def _file(self, image: np.ndarray) -> Path:
        """The image as a PNG; questions about one image come one after another, so one file is kept."""
        content = str(image.shape).encode() + image.tobytes()
        if self._shown is None or self._shown[0] != content:
            path = Path(self._folder.name) / f"{files.digest(content)[:16]}.png"
            Image.fromarray(image).save(path)
            if self._shown is not None and self._shown[1] != path:
                self._shown[1].unlink(missing_ok=True)
            self._shown = (content, path)
        return self._shown[1]

    def _failure(self, what: str) -> JudgeLost:
        """An error with the child's last words; what it answered before stays stored."""
        last = self._words.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        words = f" (its last words: {last[0][:300]})" if last else ""
        answered = self._answered
        self.close()
        return JudgeLost(
            f"judge process {shlex.join(self.command)!r} {what} after {answered} answers{words}; images answered so "
            f"far are kept: mend it and run again"
        )

    def answer(self, image: np.ndarray, question: str) -> str:
        """uint8 [H, W, 3] and a question -> the raw answer.

        Raises JudgeLost where the child ends or writes what is no answer, SampleError where it reports an error."""
        child = self._start()
        request = json.dumps({"image": str(self._file(image)), "question": question})
        try:
            child.stdin.write(request + "\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except OSError:
            line = ""
        if not line:
            try:
                status = f"ended with status {child.wait(timeout=5)}"
            except subprocess.TimeoutExpired:
                status = "closed its output"
            raise self._failure(status)
        try:
            row = Fields.of(parse_json(line, "answer"), "answer")
            said = row.get("error")
            words = None if said is not None else row.text("answer")
        except ValueError:
            raise self._failure(f"wrote {line.strip()[:200]!r}, which is not {{'answer': ...}},") from None
        if said is not None:
            raise SampleError(f"judge {self.name!r} reports: {said}")
        self._answered += 1
        return words

    def close(self) -> None:
        """End the child, if one was started."""
        if self._child is not None:
            self._stop()
            self._child, self._shown, self._answered = None, None, 0


def process(command: str) -> ProcessAnswerer:
    """The judge behind a command line.  Raises ValueError for a program that is not there."""
    words = shlex.split(command)
    if not words or shutil.which(words[0]) is None:
        raise ValueError(f"judge command {command!r}: program {(words or [''])[0]!r} is not found; give its full path")
    sources = [files.digest_file(word) for word in words if Path(word).is_file() and Path(word).suffix == ".py"]
    program = next((Path(w).stem for w in words if Path(w).suffix == ".py"), Path(words[0]).name)
    return ProcessAnswerer(f"process-{program}", words, files.digest("process", *words, *sources))


# --------------------------------------------------------------------------------------------- a table of answers


def image_hash(image: np.ndarray) -> str:
    """Content hash of an image, uint8 [H, W, 3]."""
    return files.digest(str(image.shape), np.ascontiguousarray(image).tobytes())


@dataclass(frozen=True)
class Scripted:
    """An Answerer; ``table``: (hash of the image or "", question) -> answer."""

    name: str
    table: dict[tuple[str, str], str] = field(repr=False)

    @property
    def fingerprint(self) -> str:
        return files.digest_json(sorted([*key, answer] for key, answer in self.table.items()))

    def answer(self, image: np.ndarray, question: str) -> str:
        """Raises SampleError for a question that is not in the table."""
        for key in ((image_hash(image), question), ("", question)):
            if key in self.table:
                return self.table[key]
        raise SampleError(f"judge {self.name!r} has no answer to {question!r} about image {image_hash(image)[:12]}")


def scripted(path: str | Path) -> Scripted:
    """The table in ``path``.  Raises ValueError for a file that is absent or broken, and for a question asked twice."""
    path = present(path, "table", "give JSON lines with question, answer and perhaps image")
    table: dict[tuple[str, str], str] = {}
    for row in objects(path):
        image = "" if row.get("image") is None else row.text("image")
        key, words = (image, row.text("question")), row.text("answer")
        if table.setdefault(key, words) != words:
            raise ValueError(f"{row.where}: {key[1]!r} has two different answers; keep one")
    return Scripted(path.stem, table)
