"""Question answering about the embedded world: how well a VLM understands pictures (held-out scenes)."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from evals.api import Outcome
from evals.evidence import Measure, reusable, settle
from vgt.core import captions, files, record, scenes

SUITE = "scenes-vqa"
SCENES, QUESTIONS = 400, 5


class BatchAnswerer(Protocol):
    """An Answerer that takes many pictures at once."""

    name: str
    fingerprint: str

    def answers(self, images: np.ndarray, questions: Sequence[str]) -> list[str]:
        """One answer per image and question."""
        ...


def run(answerer: BatchAnswerer, *, work: str | Path, records: str | Path, n: int = SCENES, size: int = 64) -> Outcome:
    """Share of right answers to ``QUESTIONS`` questions on each of ``n`` test scenes; interval clustered by scene.

    ``accuracy`` over all questions and one record per kind of answer.  Answers are stored."""
    asked = [
        (i, question, answer)
        for i in range(n)
        for question, answer in captions.questions(scenes.scene("test", i), scenes.Draws("vqa", i), QUESTIONS)
    ]
    suite_hash = files.digest_json([scenes.WORLD, size, asked])
    key = record.make_key(fingerprint=answerer.fingerprint, suite=suite_hash, protocol="exact-match")
    keys = {"accuracy": key}
    kept = reusable(records, answerer.name, SUITE, keys)
    if kept:
        return settle(records, keys, kept, {}, {})
    started = time.monotonic()
    replies: list[str] = []
    for begin in tqdm(range(0, len(asked), 50), desc=f"questions to {answerer.name}"):
        part = asked[begin : begin + 50]
        images = np.stack([scenes.item("test", i, size).image for i, _, _ in part])
        replies += answerer.answers(images, [question for _, question, _ in part])
    right = [float(reply == answer) for reply, (_, _, answer) in zip(replies, asked, strict=True)]
    path = Path(work) / "vqa" / f"{answerer.name}.jsonl"
    rows = [
        {"scene": i, "question": q, "expected": a, "answer": reply}
        for (i, q, a), reply in zip(asked, replies, strict=True)
    ]
    files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    by_kind: dict[str, list[float]] = {}
    for (_, question, _), value in zip(asked, right, strict=True):
        by_kind.setdefault(" ".join(question.split()[:2]), []).append(value)
    measure = Measure(
        metric="accuracy",
        values=right,
        clusters=[str(i) for i, _, _ in asked],
        n=len(asked),
        asked=len(asked),
        n_expected=SCENES * QUESTIONS,
        extra={"by_kind": {kind: [float(np.mean(values)), len(values)] for kind, values in sorted(by_kind.items())}},
    )
    common = {
        "subject": answerer.name,
        "suite": SUITE,
        "protocol": "exact-match",
        "protocol_params": {"questions": QUESTIONS, "size": size},
        "fingerprint": answerer.fingerprint,
        "suite_hash": suite_hash,
        "evidence": path.relative_to(work).as_posix(),
        "seconds": round(time.monotonic() - started, 3),
    }
    return settle(records, keys, {}, {"accuracy": measure}, common)
