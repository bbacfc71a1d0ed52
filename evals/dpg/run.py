"""DPG-Bench (docs/evaluators.md 3): a dense prompt as a graph of yes/no questions, asked of every image.

``run`` makes the missing images and asks the judge; it leaves every raw answer, a row an image, in ``answers.jsonl``,
or ``answers-<judge>.jsonl`` for a judge other than the suite's own.  All protocols are computed from the same answers;
``rescore`` does so without images and without a judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from evals.dpg import data
from evals.dpg import rules as dpg_rules
from evals.dpg.rules import Rules, measures, metrics, verdict
from evals.engine import generation
from evals.engine.api import Answerer, Generator
from evals.engine.generation import IMAGES_PER_PROMPT, Run
from evals.engine.judging import Judging, Rows, Scoring, judge_images, read_judging, score
from evals.engine.records import Measure, Outcome
from evals.engine.store import WHOLE, Shard
from evals.judges import answering, canary
from evals.subjects.folder import Folder
from vgt.core.images import read_image

VERSION = 2  # of the rules: raise it when a change to them can change a score
OFFICIAL = "mplug"  # the judge that the bare name DPG-Bench means


def own_judge(suite: str) -> str:
    """The judge whose records and files carry the bare names on a suite."""
    return OFFICIAL if suite == data.SUITE else "judge-analytic"


def metric_name(metric: str, rules: Rules, judge: str, suite: str) -> str:
    """A metric as its record names it: "dpg", "entity-ella", "dpg-vgt[blip-base]"; bare names for the suite's own judge
    alone, mPLUG on the benchmark itself (docs/evaluators.md 3.4)."""
    return metric + rules.suffix + ("" if judge == own_judge(suite) else f"[{answering.label(judge)}]")


def headline(judge: str) -> str:
    """What the score may be called (docs/evaluators.md 3.4)."""
    return "DPG-Bench" if judge == OFFICIAL else f"DPG[{answering.label(judge)}]"


def full_items(suite: str) -> int | None:
    """Items that the whole suite has, where that is known."""
    if suite == data.SUITE:
        return data.ITEMS
    whole = generation.full_suite(suite)
    return len(whole) if whole else None


def scoring(judging: Judging, rules: Rules) -> Scoring:
    """DPG-Bench by the rules of one protocol."""
    run, judge = judging.run, judging.judge.name
    names = {metric: metric_name(metric, rules, judge, run.suite) for metric in metrics(run.prompts, rules)}

    def measured(judging: Judging, rows: Rows) -> dict[str, Measure]:
        found = measures(run.prompts, run.images_per_prompt, rows, full_items(run.suite), rules)
        return {names[metric]: measure for metric, measure in found.items()}

    return Scoring(
        protocol=rules.id,
        params=rules.params,
        decides=[VERSION, rules.params],
        suite=run.suite,
        metrics=list(names.values()),
        measures=measured,
        extra={"headline": headline(judge)},
    )


def answers(answerer: Answerer, path: Path, prompt: dict) -> dict:
    """The row of one image: every raw answer by question id, how many were neither yes nor no, and P(yes) where the
    judge tells it.  Raises ImageError for a file that is not an image, and as the judge does."""
    questions = prompt["questions"]
    found = answering.replies(answerer, read_image(path), [q["question"] for q in questions])
    numbers = [str(q["proposition_id"]) for q in questions]
    row: dict[str, Any] = {"answers": {number: reply.text for number, reply in zip(numbers, found, strict=True)}}
    row["unparsed"] = sum(verdict(reply.text) is None for reply in found)
    shares = {n: round(r.yes_share, 6) for n, r in zip(numbers, found, strict=True) if r.yes_share is not None}
    return {**row, "yes_share": shares} if shares else row


def run(
    generator: Generator | Folder,
    answerer: Answerer,
    *,
    work: str | Path,
    records: str | Path,
    suite: str,
    prompts: list[dict],
    images_per_prompt: int = IMAGES_PER_PROMPT,
    seed: int = 0,
    batch: int = 32,
    accel: int | None = None,
    subject: str | None = None,
    protocols: Sequence[str] = ("dpg-fixed",),
    partial_ok: bool = False,
    check_judge: Callable[[Any], None] = canary.check_answerer,
    shard: Shard = WHOLE,
) -> Outcome:
    """Score a generator, or a folder of images, on a suite with questions; make, ask and count only what is missing.

    A missing or unreadable image, or one too many, makes the numbers partial, and their value is withheld (None) unless
    ``partial_ok``.  ``check_judge`` raises where the judge fails its canary.  ``shard``: make and ask this part only,
    and record nothing.  Raises ValueError for an unknown protocol, for question graphs that ``dpg-fixed`` cannot read,
    and for images that are not this suite's."""
    job = Run(generator, subject or generator.name, accel, suite, prompts, images_per_prompt, seed, batch)
    dpg_rules.check_prompts(suite, prompts)
    generation.check(job)
    chosen = dpg_rules.chosen(protocols, prompts)
    name = "answers" if answerer.name == own_judge(suite) else f"answers-{answering.label(answerer.name)}"
    judging = Judging(job, answerer, job.folder(work, "dpg") / f"{name}.jsonl")

    def asked(prompt: dict) -> list:
        return [[q["proposition_id"], q["question"]] for q in prompt["questions"]]

    def findings() -> tuple[Judging, Rows]:
        check_judge(answerer)
        return judge_images(judging, work, "dpg", partial(answers, answerer), asked, shard, dpg_rules.check_row)

    shared = {"work": work, "records": records, "partial_ok": partial_ok, "shard": shard}
    return score(judging, [scoring(judging, rules) for rules in chosen], findings, **shared)


def read_answers(stored: str | Path) -> tuple[Judging, Rows]:
    """A finished judging and its answers, from the path of these.

    Raises ValueError where there is none, and naming file and line for a row that cannot be scored."""
    judging, rows = read_judging(stored, "dpg")
    dpg_rules.check_prompts(judging.run.suite, judging.run.prompts)
    for row in rows.values():
        if "error" not in row:
            dpg_rules.check_row(row)
    return judging, rows


def rescore(
    stored: str | Path,
    *,
    work: str | Path,
    records: str | Path,
    protocols: Sequence[str] = ("dpg-fixed",),
    partial_ok: bool = False,
) -> Outcome:
    """Records of any protocols from a stored ``answers.jsonl`` alone: no judge, no image, no torch.

    Raises ValueError for answers without a finished judging and for an unknown protocol."""
    judging, rows = read_answers(stored)
    scorings = [scoring(judging, rules) for rules in dpg_rules.chosen(protocols, judging.run.prompts)]
    return score(judging, scorings, lambda: (judging, rows), work=work, records=records, partial_ok=partial_ok)


def export_grids(
    generator: Generator | Folder,
    out: str | Path,
    *,
    work: str | Path,
    suite: str,
    prompts: list[dict],
    images_per_prompt: int = IMAGES_PER_PROMPT,
    seed: int = 0,
    batch: int = 32,
    accel: int | None = None,
) -> list[Path]:
    """The images of a run as 2x2 grids ``<out>/<item_id>.png`` for the official script; they are made where they are
    missing.  Raises ValueError as ``data.export_grids`` does."""
    job = Run(generator, generator.name, accel, suite, prompts, images_per_prompt, seed, batch)
    return data.export_grids(generation.images(job, job.folder(work, "dpg")), prompts, out)
