"""Judges that answer questions about images: how evaluators ask them, and how ``--judge`` names them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evals.engine.api import Answerer
from evals.judges import canary, vqa_canary, vqa_checkpoint

JUDGES = "analytic, mplug, blip:<folder>, vlm:<folder>, vgt:<checkpoint>, process:<command> or scripted:<file>"
YES_NO = "Answer yes or no."  # what chat models are told beside a yes/no question


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
    on the item alone; so does one with ``answers(images, questions)``; others are asked one by one."""
    if hasattr(answerer, "replies"):
        found = answerer.replies(image, questions)
    elif hasattr(answerer, "answers"):
        found = [Reply(text) for text in answerer.answers(np.stack([image] * len(questions)), list(questions))]
    else:
        found = [Reply(answerer.answer(image, question)) for question in questions]
    if len(found) != len(questions):
        raise ValueError(f"judge {answerer.name!r} gave {len(found)} answers to {len(questions)} questions")
    return found


def label(name: str) -> str:
    """A judge's name as metrics and files carry it: letters, digits, dots, dashes."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-")


@dataclass(frozen=True)
class Judge:
    """An answerer, with the canary that it must pass first."""

    answerer: Any
    check: Callable[[Any], None]

    def close(self) -> None:
        """End what the judge started (a child process)."""
        getattr(self.answerer, "close", lambda: None)()


def load(
    spec: str,
    device: Callable[[], str] = lambda: "cpu",
    python: str | None = None,
    weights: str | None = None,
    instruction: str = YES_NO,
) -> Judge:
    """The judge that ``spec`` names.

    ``device``: called where torch is needed, after files were looked for; ``python``: the interpreter that has
    modelscope, and ``weights``: a local copy of the model, both for ``mplug``; ``instruction``: what a chat model is
    told after each question.
    Raises ValueError for an unknown judge and for one whose files are missing."""
    kind, _, rest = spec.partition(":")
    if spec == "analytic":
        from evals.judges.analytic import AnalyticJudge

        return Judge(AnalyticJudge(), canary.check_answerer)
    if spec == "mplug":
        from evals.judges.mplug import mplug

        return Judge(mplug(python, weights), vqa_canary.check_plain)
    if kind == "process" and rest:
        from evals.judges.process import process

        return Judge(process(rest), vqa_canary.check_plain)
    if kind == "scripted" and rest:
        from evals.judges.scripted import scripted

        return Judge(scripted(rest), vqa_canary.check_table)
    if kind == "vgt" and rest:
        from evals.subjects import vgt

        return Judge(vgt.answerer(rest, device()), vqa_canary.check_world)
    if kind in ("blip", "vlm") and rest:
        vqa_checkpoint.checked(rest, kind)  # before torch and transformers are imported
        from evals.judges import transformers_vqa

        make = transformers_vqa.blip if kind == "blip" else functools.partial(transformers_vqa.vlm, say=instruction)
        return Judge(make(rest, device()), vqa_canary.check_plain)
    raise ValueError(f"judge {spec!r} is unknown; give {JUDGES}")
