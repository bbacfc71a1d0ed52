"""DPG (spec evaluators 3): a dense prompt as a graph of yes/no questions, asked of every image.

Protocol ``dpg-fixed``: all images, answers normalized, questions zeroed below a "no" in topological order, categories
raw and adjusted over all images, a missing image is never left out in silence.  Answers are kept in ``answers.jsonl``
below ``<work>/dpg/<model>/<suite>-<hash>-s<seed>/``, so scores can be recomputed without a judge.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np

from evals import generation
from evals.api import Answerer, Generator, Outcome
from evals.evidence import Measure, gather, reusable, settle
from evals.generation import IMAGES_PER_PROMPT, Pictures, Run, prompt_id
from evals.judges import canary
from evals.subjects.folder import Folder, read_image
from vgt.core import files, record

PROTOCOLS = ("dpg-fixed",)
VERSION = 1  # of the rules below: raise it when a change to them can change a score
CATEGORIES = ("entity", "attribute", "relation", "global", "other")

# ---------------------------------------------------------------------------------------------------- the rules


def category(question: dict) -> str:
    """L1 category: the text before the first "-" of what stands before the first "(" (spec evaluators 3.1)."""
    return question["tuple"].split("(")[0].split("-")[0].strip()


def order(questions: list[dict]) -> list[int]:
    """Question ids with parents before children; 0 among the dependencies means none.

    Raises ValueError for ids that come twice, parents that are missing, and cycles."""
    ids = [q["proposition_id"] for q in questions]
    parents = {q["proposition_id"]: [p for p in q["dependency"] if p != 0] for q in questions}
    if len(parents) < len(ids):
        raise ValueError(f"question ids {ids} are not all different")
    for child, above in parents.items():
        lost = [p for p in above if p not in parents]
        if lost:
            raise ValueError(f"question {child} depends on question {lost[0]}, which the item does not have")
    try:
        return list(
            TopologicalSorter({child: sorted(above) for child, above in sorted(parents.items())}).static_order()
        )
    except CycleError as error:
        raise ValueError(f"questions depend on each other in a cycle: {error.args[1]}") from error


def verdict(answer: str) -> bool | None:
    """True for yes, False for no, None for anything else (spec evaluators 3.4): stripped, lower case, without trailing
    punctuation."""
    return {"yes": True, "no": False}.get(answer.strip().lower().rstrip(".,;:!?").rstrip())


def score_tile(answers: Mapping[int, str], questions: list[dict]) -> tuple[dict[int, float], dict[int, float]]:
    """(raw, zeroed) scores by question id of one image (spec evaluators 3.3).

    Raw is 1 for "yes", otherwise 0; zeroed is also 0 wherever a parent's zeroed score is 0.  ``answers``: question id
    -> the judge's words.  Raises ValueError for a missing answer and as ``order`` does."""
    lost = [q["proposition_id"] for q in questions if q["proposition_id"] not in answers]
    if lost:
        raise ValueError(f"question {lost[0]} has no answer; ask the judge every question of an item")
    above = {q["proposition_id"]: [p for p in q["dependency"] if p != 0] for q in questions}
    raw = {number: float(verdict(answers[number]) is True) for number in above}
    zeroed: dict[int, float] = {}
    for number in order(questions):
        zeroed[number] = raw[number] if all(zeroed[parent] for parent in above[number]) else 0.0
    return raw, zeroed


# ------------------------------------------------------------------------------------------------ stored evidence


def answers_entry(answerer: Answerer, path: Path, questions: list[dict]) -> dict:
    """JSON-able evidence of one image: every answer by question id, and how many were neither yes nor no; or
    {"error": why} for a file that is not an image."""
    try:
        image = read_image(path)
    except (OSError, ValueError) as error:
        return {"error": f"{type(error).__name__}: unreadable image"}
    answers = {str(q["proposition_id"]): answerer.answer(image, q["question"]) for q in questions}
    return {"answers": answers, "unparsed": sum(verdict(a) is None for a in answers.values())}


def ask_all(run: Run, answerer: Answerer, shown: Pictures, out: Path) -> dict[tuple[int, int], dict]:
    """(prompt index, sample) -> evidence of every image there is, from ``answers.jsonl`` where it still holds."""
    jobs = {shown.name(*job): job for job in sorted(shown.paths)}
    asked = [[[q["proposition_id"], q["question"]] for q in prompt["questions"]] for prompt in run.prompts]
    stamps = {
        name: files.digest_json([files.digest_file(shown.paths[job]), answerer.fingerprint, asked[job[0]]])
        for name, job in jobs.items()
    }

    def ask(name: str) -> dict:
        return answers_entry(answerer, shown.paths[jobs[name]], run.prompts[jobs[name][0]]["questions"])

    title = f"{run.model}: {run.suite} asked"
    return {jobs[name]: entry for name, entry in gather(out / "answers.jsonl", stamps, ask, title).items()}


# ---------------------------------------------------------------------------------------------------- the measures


def metrics(prompts: list[dict]) -> list[str]:
    """Names of the numbers that a suite gives."""
    present = {category(q) for p in prompts for q in p["questions"]}
    known = [c for c in CATEGORIES if c in present]
    if present - set(known):
        raise ValueError(f"category {sorted(present - set(known))[0]!r} is not one of {', '.join(CATEGORIES)}")
    return ["dpg", *known, *(f"{c}-adjusted" for c in known)]


def measures(
    prompts: list[dict],
    images_per_prompt: int,
    evidence: dict[tuple[int, int], dict],
    full: list[dict] | None = None,
) -> dict[str, Measure]:
    """Metric -> Measure, 0..100, intervals clustered by item (spec evaluators 3.3, 7.2).

    ``dpg`` is the mean over items of the mean over their images; a category is the mean over all of its questions.
    ``full``: the suite as the protocol has it, where ``prompts`` may be a part; it takes four images an item."""
    judged = {job: entry for job, entry in sorted(evidence.items()) if "error" not in entry}
    tiles: dict[int, list[float]] = {}
    cells: dict[str, list[tuple[float, str]]] = {name: [] for name in metrics(prompts)[1:]}
    for (index, _), entry in judged.items():
        questions = prompts[index]["questions"]
        answers = {int(number): words for number, words in entry["answers"].items()}
        raw, zeroed = score_tile(answers, questions)
        tiles.setdefault(index, []).append(float(np.mean(list(zeroed.values()))))
        for q in questions:
            name, number, item = category(q), q["proposition_id"], prompt_id(prompts, index)
            cells[name].append((raw[number], item))
            cells[f"{name}-adjusted"].append((zeroed[number], item))
    shared = {
        "n": len(judged),
        "asked": len(prompts) * images_per_prompt,
        "n_expected": max(len(prompts), len(full or prompts)) * max(IMAGES_PER_PROMPT, images_per_prompt),
        "n_failed": len(evidence) - len(judged),
        "scale": 100.0,
        "unit": "of 100",
        "extra": {"unparsed": sum(entry["unparsed"] for entry in judged.values())},
    }
    items = [prompt_id(prompts, index) for index in tiles]
    found = {"dpg": Measure(metric="dpg", values=[float(np.mean(t)) for t in tiles.values()], clusters=items, **shared)}
    for name, pairs in cells.items():
        values, clusters = [value for value, _ in pairs], [item for _, item in pairs]
        found[name] = Measure(metric=name, values=values, clusters=clusters, **shared)
    return found


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
    protocol: str = "dpg-fixed",
    partial_ok: bool = False,
    check_judge: Callable[[Any], None] = canary.check_answerer,
) -> Outcome:
    """Score a generator, or a folder of images, on a suite with questions; make, ask and count only what is missing.

    A missing or unreadable image makes the numbers partial, and their value is withheld (None) unless ``partial_ok``.
    ``check_judge`` raises where the judge fails its canary.  Raises ValueError for an unknown protocol, for question
    graphs that are not graphs, and for images that are not this suite's."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r} is unknown; choose one of {', '.join(PROTOCOLS)}")
    job = Run(generator, subject or generator.name, accel, suite, prompts, images_per_prompt, seed, batch)
    generation.check(job)
    for prompt in prompts:
        order(prompt["questions"])
    parts = {
        **job.identity,
        "protocol": protocol,
        "rules": VERSION,
        "images_per_prompt": images_per_prompt,
        "partial_ok": partial_ok,
        "judge": answerer.fingerprint,
    }
    keys = {metric: record.make_key(**parts, metric=metric) for metric in metrics(prompts)}
    kept = reusable(records, job.model, suite, keys)
    if len(kept) == len(keys):
        return settle(records, keys, kept, {}, {})

    start = time.monotonic()
    out = job.folder(work, "dpg")
    shown = generation.pictures(job, out)
    check_judge(answerer)
    evidence = ask_all(job, answerer, shown, out)
    common = generation.record_fields(job, answerer, protocol, {}, (out / "answers.jsonl").relative_to(work))
    common["seconds"] = round(time.monotonic() - start, 3)
    found = measures(prompts, images_per_prompt, evidence, generation.full_suite(suite))
    return settle(records, keys, kept, found, common, partial_ok)
