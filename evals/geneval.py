"""GenEval (spec evaluators 2): does an image show the objects, counts, colors and places that its prompt names?

The rules are pure functions of stored detections, so thresholds and aggregation can be recomputed without a judge.
``run`` makes the missing images, judges them, and writes, below ``<work>/geneval/<model>/<suite>-<hash>-s<seed>/``,
``detections.jsonl`` (the evidence) and ``results.jsonl`` (the official interchange format).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evals import generation, masks
from evals.api import Detection, Detector, Generator, Outcome
from evals.evidence import Measure, gather, reusable, settle
from evals.generation import IMAGES_PER_PROMPT, Pictures, Run
from evals.judges import canary
from evals.subjects.folder import Folder, folder, read_image
from vgt.core import files, record
from vgt.core.scenes import COLORS, TASKS, relations

PROTOCOL = "geneval"
VERSION = 1  # of the rules below: raise it when a change to them can change a score
KEPT = 0.05  # detections with less are not even stored (spec evaluators 2.7)


@dataclass(frozen=True)
class Thresholds:
    """The official settings (spec evaluators 2.3).  ``max_overlap`` 1 switches suppression off."""

    threshold: float = 0.3
    counting_threshold: float = 0.9
    max_objects: int = 16
    max_overlap: float = 1.0
    position_threshold: float = 0.1


OFFICIAL = Thresholds()

# ---------------------------------------------------------------------------------------------------- the rules


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """IoU of two boxes with inclusive coordinates (spec evaluators 2.3)."""

    def area(x1: float, y1: float, x2: float, y2: float) -> float:
        return max(x2 - x1 + 1, 0) * max(y2 - y1 + 1, 0)

    both = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a[:4]) + area(*b[:4]) - both
    return both / union if union else 0.0


def select(detections: Sequence[Detection], tag: str, rules: Thresholds = OFFICIAL) -> dict[str, list[int]]:
    """Class -> indices of the detections that count, best first (spec evaluators 2.3): score above the task's
    threshold, at most ``max_objects``, then greedy suppression."""
    least = rules.counting_threshold if tag == "counting" else rules.threshold
    chosen: dict[str, list[int]] = {}
    for i in sorted(range(len(detections)), key=lambda i: -detections[i].score):
        if detections[i].score > least:
            chosen.setdefault(detections[i].label, []).append(i)
    for label, indices in chosen.items():
        kept: list[int] = []
        for i in indices[: rules.max_objects]:
            if rules.max_overlap == 1 or all(
                overlap(detections[i].box, detections[k].box) < rules.max_overlap for k in kept
            ):
                kept.append(i)
        chosen[label] = kept
    return chosen


def _misplaced(boxes: Sequence, targets: Sequence, relation: str, rules: Thresholds) -> str | None:
    """What was found instead of ``relation`` for the first pair that does not hold it, None if all do."""
    for box in boxes:
        for target in targets:
            true = relations(box, target, rules.position_threshold)
            if relation not in true:
                return " and ".join(true)
    return None


def judge_image(
    detections: Sequence[Detection], prompt: dict, colors: Sequence[str | None], rules: Thresholds = OFFICIAL
) -> tuple[bool, str]:
    """Whether an image holds its prompt's record, and the reasons why not (spec evaluators 2.4, 2.7).

    ``colors``: one name per detection; needed only for classes that the record gives a color."""
    found = select(detections, prompt["tag"], rules)
    reasons: list[str] = []
    groups: list[list[int] | None] = []
    for clause in prompt["include"]:
        name, count = clause["class"], clause["count"]
        chosen = found.get(name, [])[:count]
        matched = len(chosen) >= count
        if not matched:
            reasons.append(f"expected {name}>={count}, found {len(chosen)}")
        elif "color" in clause:
            named = [colors[i] for i in chosen]
            right = named.count(clause["color"])
            if right < count:
                matched = False
                seen = ", ".join(f"{named.count(c)} {c}" for c in COLORS if c in named)
                reasons.append(
                    f"expected {clause['color']} {name}>={count}, found {right} {clause['color']}; and {seen}"
                )
        if matched and "position" in clause:
            relation, target = clause["position"]
            if groups[target] is None:
                matched = False
                reasons.append(f"no target for {name} to be {relation}")
            else:
                boxes, targets = ([detections[i].box for i in g] for g in (chosen, groups[target]))
                instead = _misplaced(boxes, targets, relation, rules)
                if instead is not None:
                    matched = False
                    reasons.append(f"expected {name} {relation} target, found {instead} target")
        groups.append(chosen if matched else None)
    for clause in prompt.get("exclude", []):
        number = len(found.get(clause["class"], []))
        if number >= clause["count"]:
            reasons.append(f"expected {clause['class']}<{clause['count']}, found {number}")
    return not reasons, "\n".join(reasons)


# ------------------------------------------------------------------------------------------------ stored evidence


def colored_classes(prompt: dict) -> tuple[str, ...]:
    """Classes whose color the record asks for."""
    return tuple(sorted({clause["class"] for clause in prompt["include"] if "color" in clause}))


def detections_entry(detector: Detector, path: Path, prompt: dict) -> dict:
    """JSON-able evidence of one image: its detections above KEPT with box, run-length mask and, where the prompt asks
    for one, color; or {"error": why} for a file that is not an image."""
    try:
        image = read_image(path)
    except (OSError, ValueError) as error:
        return {"error": f"{type(error).__name__}: unreadable image"}
    wanted = colored_classes(prompt)
    return {
        "size": list(image.shape[:2]),
        "detections": [
            {
                "class": d.label,
                "score": round(float(d.score), 6),
                "box": [float(v) for v in d.box],
                "color": detector.color(image, d) if d.label in wanted else None,
                "mask": masks.encode(d.mask),
            }
            for d in detector.detect(image)
            if d.score >= KEPT
        ],
    }


def from_entry(entry: dict) -> tuple[list[Detection], list[str | None]]:
    """Detections and their colors from stored evidence."""
    stored = entry["detections"]
    found = [Detection(d["class"], d["score"], tuple(d["box"]), masks.decode(d["mask"])) for d in stored]
    return found, [d["color"] for d in stored]


def result(name: str, prompt: dict, entry: dict, rules: Thresholds = OFFICIAL) -> dict:
    """One line of the official results file (spec evaluators 2.7)."""
    detections, colors = from_entry(entry)
    correct, reason = judge_image(detections, prompt, colors, rules)
    details = {
        label: [[*detections[i].box, detections[i].score] for i in indices]
        for label, indices in select(detections, prompt["tag"], rules).items()
    }
    return {
        "filename": name,
        "tag": prompt["tag"],
        "prompt": prompt["prompt"],
        "correct": correct,
        "reason": reason,
        "metadata": json.dumps(prompt),
        "details": json.dumps(details),
    }


def judge_all(run: Run, detector: Detector, shown: Pictures, out: Path) -> dict[tuple[int, int], dict]:
    """(prompt index, sample) -> evidence of every image there is, from ``detections.jsonl`` where it still holds."""
    jobs = {shown.name(*job): job for job in sorted(shown.paths)}
    stamps = {
        name: files.digest_json(
            [files.digest_file(shown.paths[job]), detector.fingerprint, colored_classes(run.prompts[job[0]])]
        )
        for name, job in jobs.items()
    }

    def look(name: str) -> dict:
        return detections_entry(detector, shown.paths[jobs[name]], run.prompts[jobs[name][0]])

    title = f"{run.model}: {run.suite} judged"
    return {jobs[name]: entry for name, entry in gather(out / "detections.jsonl", stamps, look, title).items()}


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
    correct: dict[tuple[int, int], bool],
    failed: Collection[tuple[int, int]] = (),
    full: list[dict] | None = None,
) -> dict[str, Measure]:
    """Metric -> Measure (spec evaluators 2.7, 7.2); ``correct`` and ``failed`` images by (prompt index, sample).

    Intervals are clustered by prompt text.  ``full``: the suite as the protocol has it, where ``prompts`` may be a
    part; the protocol takes four images a prompt."""
    found = {}
    for metric in metrics(prompts):
        covered = {i for i, p in enumerate(prompts) if _covers(metric, p)}
        jobs = [job for job in sorted(correct) if job[0] in covered]
        suite_size = max(len(covered), sum(_covers(metric, p) for p in full or prompts))
        values, names = [float(correct[job]) for job in jobs], [i for i, _ in jobs]
        if metric == "prompts-any":
            names = sorted(set(names))
            values = [float(any(correct[job] for job in jobs if job[0] == i)) for i in names]
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
        )
    return found


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
    check_judge: Callable[[Any], None] = canary.check_detector,
) -> Outcome:
    """Score a generator, or a folder of images, on a suite; make, judge and count only what is missing.

    A missing or unreadable image makes every number that needs it partial, and its value is withheld (None) unless
    ``partial_ok``.  ``check_judge`` raises where the judge fails its canary.  Raises ValueError for prompts whose
    classes the detector does not know and for images that are not this suite's."""
    job = Run(generator, subject or generator.name, accel, suite, prompts, images_per_prompt, seed, batch)
    generation.check(job)
    unknown = {c["class"] for p in prompts for c in p["include"]} - set(detector.classes)
    if unknown:
        raise ValueError(
            f"judge {detector.name!r} does not know {', '.join(sorted(unknown))}; it knows {detector.classes}"
        )
    parts = {
        **job.identity,
        "protocol": PROTOCOL,
        "rules": [VERSION, asdict(OFFICIAL)],
        "images_per_prompt": images_per_prompt,
        "partial_ok": partial_ok,
        "judge": detector.fingerprint,
    }
    keys = {metric: record.make_key(**parts, metric=metric) for metric in metrics(prompts)}
    kept = reusable(records, job.model, suite, keys)
    if len(kept) == len(keys):
        return settle(records, keys, kept, {}, {})

    start = time.monotonic()
    out = job.folder(work, "geneval")
    shown = generation.pictures(job, out)
    check_judge(detector)
    evidence = judge_all(job, detector, shown, out)
    results = {
        where: result(shown.name(*where), prompts[where[0]], entry)
        for where, entry in evidence.items()
        if "error" not in entry
    }
    files.write_text(out / "results.jsonl", "".join(json.dumps(results[where]) + "\n" for where in sorted(results)))
    common = generation.record_fields(
        job, detector, PROTOCOL, asdict(OFFICIAL), (out / "detections.jsonl").relative_to(work)
    )
    common["seconds"] = round(time.monotonic() - start, 3)
    correct = {where: line["correct"] for where, line in results.items()}
    found = measures(prompts, images_per_prompt, correct, set(evidence) - set(results), generation.full_suite(suite))
    return settle(records, keys, kept, found, common, partial_ok)


def score_folder(path: str | Path, detector: Detector, *, subject: str | None = None, **options: Any) -> Outcome:
    """``run`` on a folder of images made elsewhere; ``options`` are those of ``run``."""
    return run(folder(path, subject), detector, **options)
