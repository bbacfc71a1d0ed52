"""GenEval (docs/evaluators.md 2): does an image show the objects, counts, colors and places that its prompt names?

``run`` makes the missing images, judges them, and writes, below ``<work>/geneval/<model>/<suite>-<hash>-s<seed>/``, the
evidence (evidence.py) and ``results.jsonl`` (the official interchange format).  ``rescore`` takes stored
evidence alone, with the official rules (rules.py) or with other thresholds: a labelled variant.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evals.engine import generation
from evals.engine.api import Detector, Generator
from evals.engine.generation import IMAGES_PER_PROMPT, Run, prompt_id
from evals.engine.records import Measure, Outcome, stored, write
from evals.engine.store import WHOLE, Shard, failures
from evals.geneval.evidence import (
    Job,
    Judging,
    detections_entry,
    from_entry,
    judge_all,
    official_lines,
    prompt_variant,
    read_judging,
    result,
    write_judging,
)
from evals.geneval.rules import (
    OFFICIAL,
    VERSION,
    Thresholds,
    check_prompts,
    colored_classes,
    judge_image,
    overlap,
    select,
)
from evals.judges import canary
from evals.subjects.folder import Folder, folder
from vgt.core import files, record
from vgt.core.scenes import TASKS

__all__ = [
    "IMAGES_PER_PROMPT", "OFFICIAL", "VERSION", "Judging", "Thresholds", "colored_classes", "detections_entry",
    "from_entry", "judge_image", "measures", "metrics", "overlap", "rescore", "result", "run", "score", "score_folder",
    "select",
]  # fmt: skip

# ---------------------------------------------------------------------------------------------------- the measures


def metrics(prompts: list[dict]) -> list[str]:
    """Names of the numbers that a suite gives; "overall" only where all six tasks are there."""
    tasks = [task for task in TASKS if any(p["tag"] == task for p in prompts)]
    overall = ["overall"] if len(tasks) == len(TASKS) else []
    held_out = ["held_out"] if any(p.get("held_out") for p in prompts) else []
    return [*overall, *tasks, *held_out, "images-correct", "prompts-any"]


def _covers(metric: str, prompt: dict) -> bool:
    """Whether a prompt's images enter a metric."""
    if metric in TASKS:
        return prompt["tag"] == metric
    return bool(prompt.get("held_out")) if metric == "held_out" else True


def measures(
    prompts: list[dict],
    images_per_prompt: int,
    correct: dict[Job, bool],
    failed: Collection[Job] = (),
    full: list[dict] | None = None,
) -> dict[str, Measure]:
    """Metric -> Measure (docs/evaluators.md 2.7, 7.2); ``correct`` and ``failed`` images by (prompt index, sample).

    Intervals are clustered by prompt text.  ``full``: the suite as the protocol has it, where ``prompts`` may be a
    part; the protocol takes four images a prompt."""
    found = {}
    for metric in metrics(prompts):
        covered = {i for i, p in enumerate(prompts) if _covers(metric, p)}
        jobs = [job for job in sorted(correct) if job[0] in covered]
        suite_size = max(len(covered), sum(_covers(metric, p) for p in full or prompts))
        values, names = [float(correct[job]) for job in jobs], [i for i, _ in jobs]
        ids = [f"{prompt_id(prompts, i)}/{sample:04d}" for i, sample in jobs]
        if metric == "prompts-any":
            names = sorted(set(names))
            values = [float(any(correct.get((i, s)) for s in range(images_per_prompt))) for i in names]
            ids = [prompt_id(prompts, i) for i in names]
        found[metric] = Measure(
            metric=metric,
            values=values,
            clusters=[prompts[i]["prompt"] for i in names],
            groups=[prompts[i]["tag"] for i in names] if metric == "overall" else None,
            n=len(jobs),
            asked=len(covered) * images_per_prompt,
            n_expected=suite_size * max(IMAGES_PER_PROMPT, images_per_prompt),
            n_failed=sum(job[0] in covered for job in failed),
            note=f"any of {images_per_prompt} images" if metric == "prompts-any" else None,
            ids=ids,
        )
    return found


# -------------------------------------------------------------------------------------------------------- scoring


def _keys(judging: Judging, rules: Thresholds, partial_ok: bool) -> dict[str, str]:
    """Metric -> key of its record."""
    job = judging.job
    parts = {
        **job.identity,
        "protocol": judging.protocol(rules),
        "rules": [VERSION, asdict(rules)],
        "images_per_prompt": job.images_per_prompt,
        "partial_ok": partial_ok,
        "prompt_variant": judging.variant,
        "judge": judging.judge.fingerprint,
    }
    return {metric: record.make_key(**parts, metric=metric) for metric in metrics(job.prompts)}


def _suite(judging: Judging, rules: Thresholds) -> str:
    """The suite's name in records; other thresholds never stand under the official name."""
    return judging.job.suite + (f"+{rules.variant}" if rules.variant else "")


def results_name(rules: Thresholds) -> str:
    """The results file of these rules."""
    return f"results+{rules.variant}.jsonl" if rules.variant else "results.jsonl"


def kept_records(judging: Judging, rules: Thresholds, records: str | Path, partial_ok: bool) -> tuple[dict, dict]:
    """Keys of the records, and those that still hold.  Raises ValueError where evidence does not reach ``rules``."""
    _check_floor(rules, judging.floor)
    keys = _keys(judging, rules, partial_ok)
    return keys, stored(records, judging.job.model, _suite(judging, rules), keys)


def score(
    judging: Judging,
    entries: dict[str, dict],
    place: dict[Job, str],
    out: Path,
    *,
    work: str | Path,
    records: str | Path,
    rules: Thresholds = OFFICIAL,
    partial_ok: bool = False,
    started: float | None = None,
) -> Outcome:
    """Records of stored evidence, and the official results file beside it.

    ``entries``: evidence by image name; ``place``: (prompt index, sample) -> image name; ``started``: the monotonic
    time at which the measurement began."""
    started = time.monotonic() if started is None else started
    job = judging.job
    keys, kept = kept_records(judging, rules, records, partial_ok)
    judged = {where: entries[name] for where, name in sorted(place.items())}
    results = {
        where: result(place[where], job.prompts[where[0]], entry, rules)
        for where, entry in judged.items()
        if "error" not in entry
    }
    files.write_text(out / results_name(rules), official_lines(list(results.values())))
    evidence = out / "detections.jsonl"
    evidence = evidence.relative_to(work) if evidence.is_relative_to(work) else evidence
    params = {**asdict(rules), "prompt_variant": judging.variant}
    common = generation.record_fields(job, judging.judge, judging.protocol(rules), params, evidence)
    common |= {"suite": _suite(judging, rules), "seconds": round(time.monotonic() - started, 3)}
    correct = {where: line["correct"] for where, line in results.items()}
    full = generation.full_suite(job.suite)
    found = measures(job.prompts, job.images_per_prompt, correct, set(judged) - set(results), full)
    notes = (judging.note, failures({place[where]: entry for where, entry in judged.items()}))
    for metric, measure in found.items():
        note = "; ".join(filter(None, (measure.note, *notes))) or None
        found[metric] = replace(measure, note=note, n_extra=len(judging.extra))
    return write(records, keys, kept, found, common, partial_ok)


def _check_floor(rules: Thresholds, floor: Thresholds) -> None:
    """Raises ValueError for rules that would count detections that were not stored."""
    for name in ("threshold", "counting_threshold", "position_threshold"):
        if getattr(rules, name) < getattr(floor, name):
            raise ValueError(
                f"{name} {getattr(rules, name)} is below {getattr(floor, name)}, the least that was stored"
            )
    for name in ("max_objects", "max_overlap"):
        if getattr(rules, name) > getattr(floor, name):
            raise ValueError(f"{name} {getattr(rules, name)} is above {getattr(floor, name)}, the most stored")


def rescore(
    stored: str | Path,
    *,
    work: str | Path,
    records: str | Path,
    rules: Thresholds = OFFICIAL,
    partial_ok: bool = False,
) -> Outcome:
    """Score stored evidence again, without images or a judge; ``stored``: the folder of its ``run.json``.

    Official rules give the very records of ``run``; other thresholds give those of suite ``<suite>+<what differs>``.
    Raises ValueError for a folder without a finished judging."""
    judging, place, entries = read_judging(stored)
    keys, kept = kept_records(judging, rules, records, partial_ok)
    if len(kept) == len(keys):
        return write(records, keys, kept, {}, {})
    return score(judging, entries, place, Path(stored), work=work, records=records, rules=rules, partial_ok=partial_ok)


# ------------------------------------------------------------------------------------------------------ whole runs


def _check_classes(detector: Detector, prompts: list[dict]) -> None:
    """Raises ValueError for prompts whose classes the detector does not know."""
    asked = {c["class"] for p in prompts for c in (*p["include"], *p.get("exclude", []))}
    unknown = sorted(asked - set(detector.classes))
    if unknown:
        raise ValueError(
            f"judge {detector.name!r} does not know {', '.join(unknown[:5])}; it knows "
            f"{', '.join(detector.classes[:8])}{', ...' if len(detector.classes) > 8 else ''}"
        )


def run(
    generator: Generator | Folder,
    detector: Detector,
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
    partial_ok: bool = False,
    rules: Thresholds = OFFICIAL,
    variant: str | None = None,
    check_judge: Callable[[Any], None] = canary.check_detector,
    shard: Shard = WHOLE,
) -> Outcome:
    """Score a generator, or a folder of images, on a suite; make, judge and count only what is missing.

    A missing or unreadable image makes every number that needs it partial, one too many makes all so, and the value is
    withheld (None) unless ``partial_ok``.  ``variant`` names a prompt set that is not the benchmark's own (default: the
    suite's name).  ``check_judge`` raises where the judge fails its canary.  ``shard``: draw and judge this part only,
    and record nothing.  Raises ValueError for prompts that cannot be scored or whose classes the detector does not
    know, and for images that are not this suite's."""
    job = Run(generator, subject or generator.name, accel, suite, prompts, images_per_prompt, seed, batch)
    if prompts:
        check_prompts(suite, prompts)
    generation.check(job)
    _check_classes(detector, prompts)
    judging = Judging(job, detector, prompt_variant(suite, prompts, variant))
    keys, kept = kept_records(judging, rules, records, partial_ok)
    if shard.whole and len(kept) == len(keys):
        return write(records, keys, kept, {}, {})

    started = time.monotonic()
    check_judge(detector)
    shown = generation.images(job, job.folder(work, "geneval"), shard)
    judging = replace(judging, extra=shown.extra)
    out = judging.folder(work)
    entries = judge_all(job, detector, shown, out, shard)
    if not shard.whole:
        return Outcome([], 0, 0)
    place = {where: shown.name(*where) for where in sorted(shown.paths)}
    write_judging(judging, place, out)
    options = {"work": work, "records": records, "rules": rules, "partial_ok": partial_ok}
    return score(judging, entries, place, out, started=started, **options)


def score_folder(path: str | Path, detector: Detector, *, subject: str | None = None, **options: Any) -> Outcome:
    """``run`` on a folder of images made elsewhere; ``options`` are those of ``run``."""
    return run(folder(path, subject), detector, **options)
