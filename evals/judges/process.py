"""Judge ``process:<command>``: a program in an environment of its own, spoken to in JSON lines.

We write ``{"image": <path of a PNG>, "question": ...}`` to its standard input, one line a question; it writes
``{"answer": ...}`` to its standard output, one line an answer, in order and flushed.  What it writes to standard error
is shown where it fails.  ``{"error": ...}`` in place of an answer marks that image as failed and the run goes on; a
program that ends or writes anything else ends the run."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from evals.engine.store import SampleError
from evals.judges.answering import JudgeLost
from vgt.core import files


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
            row = json.loads(line)
            said = row.get("error")
            words = None if said is not None else row["answer"]
        except (ValueError, KeyError, AttributeError):
            raise self._failure(f"wrote {line.strip()[:200]!r}, which is not {{'answer': ...}},") from None
        if said is not None:
            raise SampleError(f"judge {self.name!r} reports: {said}")
        self._answered += 1
        return str(words)

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
