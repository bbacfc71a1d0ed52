"""Judges by name, as ``--judge`` gives them: ``load``.

analytic.py judges the synthetic scenes by rules, mask2former.py finds and colours COCO's objects, answering.py says how
judges that answer questions are asked; canary.py tests a judge before it is trusted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

JUDGES = "analytic, mplug, blip:<folder>, vlm:<folder>, vgt:<checkpoint>, process:<command> or scripted:<file>"
YES_NO = "Answer yes or no."  # what chat models are told beside a yes/no question


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
    trusted: bool = False,
    dtype: str | None = None,
) -> Judge:
    """The judge that ``spec`` names.

    ``device``: called where torch is needed, after files were looked for; ``python``: the interpreter that has
    modelscope, ``weights``: a local copy of the model, and ``trusted``: whether foreign code may run, all for
    ``mplug``; ``instruction``: what a chat model is told after each question; ``dtype``: of ``vgt:`` alone.

    Raises ValueError for an unknown judge and for one whose files are missing."""
    from evals.judges import answering, canary, checkpoints

    kind, _, rest = spec.partition(":")
    if spec == "analytic":
        from evals.judges.analytic import AnalyticJudge

        return Judge(AnalyticJudge(), canary.check_answerer)
    if spec == "mplug":
        from evals.judges.mplug import mplug

        return Judge(mplug(python, weights, trusted), canary.check_plain)
    if kind == "process" and rest:
        return Judge(answering.process(rest), canary.check_plain)
    if kind == "scripted" and rest:
        return Judge(answering.scripted(rest), canary.check_table)
    if kind == "vgt" and rest:
        from evals.subjects import vgt

        return Judge(vgt.answerer(rest, device(), dtype), canary.check_world)
    if kind in ("blip", "vlm") and rest:
        checkpoints.checked(rest, kind)  # before torch and transformers are imported
        from evals.judges import transformers_vqa

        make = transformers_vqa.blip if kind == "blip" else functools.partial(transformers_vqa.vlm, say=instruction)
        return Judge(make(rest, device()), canary.check_plain)
    raise ValueError(f"judge {spec!r} is unknown; give {JUDGES}")
