"""DPG-Bench (docs/evaluators.md 3): a dense prompt as a graph of yes/no questions, asked of every image.

The rules stand in rules.py, the numbers in measures.py, the stored answers in evidence.py, the benchmark's
own files in data.py and grids.py.  All protocols are computed from the same answers; ``rescore`` does so
without images and without a judge.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evals.dpg import data as dpg_data
from evals.dpg import grids as dpg_grids
from evals.dpg import rules as dpg_rules
from evals.dpg.evidence import (
    OFFICIAL,
    Judging,
    ask_all,
    evidence_path,
    judging,
    own_judge,
    read_judging,
    write_judging,
)
from evals.dpg.measures import measures, metrics
from evals.dpg.rules import Rules
from evals.engine import generation
from evals.engine.api import Answerer, Generator
from evals.engine.generation import IMAGES_PER_PROMPT, Run
from evals.engine.records import Outcome, stored, write
from evals.engine.store import WHOLE, Shard, failures
from evals.judges import answering, canary
from evals.subjects.folder import Folder
from vgt.core import record
from vgt.core.record import Record

VERSION = 2  # of the rules: raise it when a change to them can change a score


def metric_name(metric: str, rules: Rules, judge: str, suite: str) -> str:
    """A metric as its record names it: "dpg", "entity-ella", "dpg-vgt[blip-base]"; bare names for the suite's own judge
    alone, mPLUG on the benchmark itself (docs/evaluators.md 3.4)."""
    marked = "" if judge == own_judge(suite) else f"[{answering.label(judge)}]"
    return f"{metric}{rules.suffix}{marked}"


def headline(judge: str) -> str:
    """What the score may be called (docs/evaluators.md 3.4)."""
    return "DPG-Bench" if judge == OFFICIAL else f"DPG[{answering.label(judge)}]"


def full_items(suite: str) -> int | None:
    """Items that the whole suite has, where that is known."""
    if suite == dpg_data.SUITE:
        return dpg_data.ITEMS
    whole = generation.full_suite(suite)
    return len(whole) if whole else None


def _keys(
    rules: Rules,
    identity: Mapping[str, Any],
    prompts: list[dict],
    images: int,
    judge: tuple[str, str],
    partial_ok: bool,
) -> dict[str, str]:
    """Record name -> key, in the order of the metrics; ``judge``: its name and fingerprint."""
    parts = {
        **identity,
        "protocol": rules.id,
        "rules": [VERSION, rules.params],
        "images_per_prompt": images,
        "partial_ok": partial_ok,
        "judge": judge[1],
    }
    return {
        metric_name(m, rules, judge[0], identity["suite"]): record.make_key(**parts, metric=m)
        for m in metrics(prompts, rules)
    }


def _score(
    rules: Rules,
    made: Judging,
    evidence: Mapping[tuple[int, int], dict],
    records: str | Path,
    kept: Mapping[str, Record],
    partial_ok: bool,
) -> Outcome:
    """The records of one protocol, from stored answers alone."""
    judge = (made.judge, made.judge_fingerprint)
    keys = _keys(rules, made.identity, made.prompts, made.images_per_prompt, judge, partial_ok)
    note = failures({generation.place(*place): entry for place, entry in evidence.items()})
    counts = (full_items(made.suite), rules, len(made.extra), note)
    found = measures(made.prompts, made.images_per_prompt, evidence, *counts)
    named = {metric_name(m, rules, made.judge, made.suite): each for m, each in found.items()}
    fields = {
        **made.common,
        "protocol": rules.id,
        "protocol_params": {**rules.params, **made.common["protocol_params"]},
        "extra": {**made.common.get("extra", {}), "headline": headline(made.judge)},
    }
    return write(records, keys, kept, named, fields, partial_ok)


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """Several outcomes as one."""
    both = [r for outcome in outcomes for r in outcome.records]
    return Outcome(both, sum(o.computed for o in outcomes), sum(o.reused for o in outcomes))


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
    ``partial_ok``.  ``check_judge`` raises where the judge fails its canary.  ``shard``: draw and ask this part only,
    and record nothing.  Raises ValueError for an unknown protocol, for question graphs that ``dpg-fixed`` cannot read,
    and for images that are not this suite's."""
    job = Run(generator, subject or generator.name, accel, suite, prompts, images_per_prompt, seed, batch)
    generation.check(job)
    chosen = dpg_rules.chosen(protocols, prompts)
    judge = (answerer.name, answerer.fingerprint)
    keys = [_keys(rules, job.identity, prompts, images_per_prompt, judge, partial_ok) for rules in chosen]
    kept = [stored(records, job.model, suite, wanted) for wanted in keys]
    if shard.whole and all(len(k) == len(wanted) for k, wanted in zip(kept, keys, strict=True)):
        return joined([write(records, wanted, k, {}, {}) for k, wanted in zip(kept, keys, strict=True)])

    start = time.monotonic()
    out = job.folder(work, "dpg")
    shown = generation.images(job, out, shard)
    check_judge(answerer)
    path = evidence_path(out, answerer.name, suite)
    evidence = ask_all(job, answerer, shown, path, shard)
    if not shard.whole:
        return Outcome([], 0, 0)
    made = judging(job, answerer, shown, path, work)
    write_judging(path, made)
    made = replace(made, common={**made.common, "seconds": round(time.monotonic() - start, 3)})
    return joined(
        [_score(rules, made, evidence, records, k, partial_ok) for rules, k in zip(chosen, kept, strict=True)]
    )


def rescore(
    answers: str | Path, *, records: str | Path, protocols: Sequence[str] = ("dpg-fixed",), partial_ok: bool = False
) -> Outcome:
    """Records of any protocols from a stored ``answers.jsonl`` alone: no judge, no image, no torch.

    Raises ValueError as ``read_judging`` does and for an unknown protocol."""
    made, evidence = read_judging(answers)
    outcomes = []
    for rules in dpg_rules.chosen(protocols, made.prompts):
        judge = (made.judge, made.judge_fingerprint)
        keys = _keys(rules, made.identity, made.prompts, made.images_per_prompt, judge, partial_ok)
        outcomes.append(
            _score(rules, made, evidence, records, stored(records, made.model, made.suite, keys), partial_ok)
        )
    return joined(outcomes)


def export_grids(
    generator: Generator | Folder, out: str | Path, *, work: str | Path, suite: str, prompts: list[dict], **settings
) -> list[Path]:
    """The images of a run as 2x2 grids ``<out>/<item_id>.png`` for the official script; they are drawn where they are
    missing.  ``settings``: images_per_prompt, seed, batch and accel of the run.  Raises ValueError as
    ``dpg_grids.export`` does."""
    asked = {"images_per_prompt": IMAGES_PER_PROMPT, "seed": 0, "batch": 32, "accel": None, **settings}
    job = Run(generator, generator.name, suite=suite, prompts=prompts, **asked)
    return dpg_grids.export(generation.images(job, job.folder(work, "dpg")), prompts, out)
