"""What DPG-Bench keeps of a run: every raw answer, and beside it all that scoring needs, so that no judge and no
image is needed again.

``answers.jsonl``, or ``answers-<judge>.jsonl`` for a judge other than the suite's own, holds a line an image;
``<the same>.run.json`` says whose images, which questions and which judge these are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evals.dpg import data as dpg_data
from evals.dpg.rules import verdict
from evals.engine import generation
from evals.engine.api import Answerer
from evals.engine.generation import Images, Run
from evals.engine.store import WHOLE, Shard, collect
from evals.judges import answering
from vgt.core import files
from vgt.core.images import read_image

OFFICIAL = "mplug"  # the judge that the bare name DPG-Bench means


def own_judge(suite: str) -> str:
    """The judge whose records and files carry the bare names on a suite."""
    return OFFICIAL if suite == dpg_data.SUITE else "judge-analytic"


@dataclass(frozen=True)
class Judging:
    """Whose images of which prompts were asked about by which judge.  ``identity``: what decides the pixels;
    ``common``: fields of the records; ``places``: id in the answers -> [prompt index, sample]; ``extra``: images that
    nobody asked for."""

    model: str
    suite: str
    prompts: list[dict]
    images_per_prompt: int
    judge: str
    judge_fingerprint: str
    identity: dict[str, Any]
    common: dict[str, Any]
    places: dict[str, list[int]]
    extra: list[str]


def evidence_path(folder: Path, judge: str, suite: str) -> Path:
    mark = "" if judge == own_judge(suite) else f"-{answering.label(judge)}"
    return folder / f"answers{mark}.jsonl"


def judging(run: Run, answerer: Answerer, shown: Images, path: Path, work: str | Path) -> Judging:
    """What is kept beside the answers in ``path``."""
    common = generation.record_fields(run, answerer, "", {}, path.relative_to(work))
    return Judging(
        run.model,
        run.suite,
        run.prompts,
        run.images_per_prompt,
        answerer.name,
        answerer.fingerprint,
        run.identity,
        common,
        {shown.name(*job): list(job) for job in sorted(shown.paths)},
        list(shown.extra),
    )


def write_judging(path: Path, made: Judging) -> None:
    files.write_json(path.with_suffix(".run.json"), asdict(made))


def read_judging(path: str | Path) -> tuple[Judging, dict[tuple[int, int], dict]]:
    """What ``write_judging`` and ``ask_all`` left: (judging, (prompt index, sample) -> entry).

    Raises ValueError for files that are absent, broken, or of two runs."""
    path = Path(path)
    beside = path.with_suffix(".run.json")
    for each in (path, beside):
        if not each.is_file():
            raise ValueError(f"{each} does not exist; name the answers.jsonl of a finished run of `vgt eval dpg`")
    try:
        made = Judging(**json.loads(beside.read_text(encoding="utf-8")))
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found = {tuple(made.places[entry["id"]]): entry for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} and {beside.name} do not hold the answers of one run: {error!r}") from error
    return made, found


def answers_entry(answerer: Answerer, path: Path, questions: list[dict]) -> dict:
    """JSON-able evidence of one image: every raw answer by question id, how many were neither yes nor no, and P(yes)
    where the judge tells it.  Raises ValueError for a file that is not an image, and as the judge does."""
    found = answering.replies(answerer, read_image(path), [q["question"] for q in questions])
    numbers = [str(q["proposition_id"]) for q in questions]
    entry: dict[str, Any] = {"answers": {number: reply.text for number, reply in zip(numbers, found, strict=True)}}
    entry["unparsed"] = sum(verdict(reply.text) is None for reply in found)
    shares = {n: round(r.yes_share, 6) for n, r in zip(numbers, found, strict=True) if r.yes_share is not None}
    return {**entry, "yes_share": shares} if shares else entry


def ask_all(
    run: Run, answerer: Answerer, shown: Images, path: Path, shard: Shard = WHOLE
) -> Mapping[tuple[int, int], dict]:
    """(prompt index, sample) -> evidence of every image there is, from ``path`` where it still holds.

    An image that cannot be judged gets an entry with its error.  Raises JudgeLost where the judge itself is gone;
    what it answered before is kept."""
    jobs = {shown.name(*job): job for job in sorted(shown.paths)}
    asked = [[[q["proposition_id"], q["question"]] for q in prompt["questions"]] for prompt in run.prompts]
    stamps = {
        name: files.digest_json([files.digest_file(shown.paths[job]), answerer.fingerprint, asked[job[0]]])
        for name, job in jobs.items()
    }
    lost: list[answering.JudgeLost] = []

    def ask(name: str) -> dict:
        if lost:
            raise lost[0]
        try:
            return answers_entry(answerer, shown.paths[jobs[name]], run.prompts[jobs[name][0]]["questions"])
        except answering.JudgeLost as error:
            lost.append(error)
            raise

    found = collect(path, stamps, ask, f"{run.model}: {run.suite} asked", shard)
    if lost:
        raise lost[0]
    return {jobs[name]: entry for name, entry in found.items()}
