"""GenEval (docs/evaluators.md 2): does an image show the objects, counts, colors and places that its prompt names?

``run`` makes the missing images and judges them; below ``<work>/geneval/<model>/<suite>-<hash>-s<seed>/`` it leaves
``detections.jsonl`` (a row an image: every detection above KEPT with box, mask and, where the prompt asks for one,
color) and ``results.jsonl`` (the official interchange format).  ``rescore`` takes stored detections alone, with the
official rules or with other thresholds: a labelled variant.  ``import_results`` takes an official results file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from evals.engine import generation
from evals.engine.api import Detector, Generator
from evals.engine.generation import IMAGES_PER_PROMPT, Run, prompt_id
from evals.engine.judging import Job, Judging, Named, Rows, Scoring, judge_images, read_judging, score, write_judging
from evals.engine.records import Measure, Outcome, settled
from evals.engine.store import WHOLE, Shard, row_line
from evals.geneval import official
from evals.geneval.rules import OFFICIAL, VERSION, Thresholds, check_prompts, colored_classes
from evals.judges import canary
from evals.subjects.folder import Folder
from vgt.core import files, geneval_prompts, record, suites
from vgt.core.images import read_image
from vgt.core.scenes import TASKS
from vgt.core.text import Fields

KEPT = 0.05  # detections with less are not even stored (docs/evaluators.md 2.7)
SUITE = "geneval"  # the benchmark's own prompts
SCENES_JUDGE = "judge-analytic"  # its rows lie beside the images; another judge's in a folder of its own
ROWS = "detections.jsonl"
ROWS_VERSION = 2  # of these rows: raise it when what is stored of an image changes
DIFFER = 0.001  # of the verdicts of an imported file, which may differ from ours by the rounding of scores
STORED_DOWN_TO = Thresholds(KEPT, KEPT, 10**6, 1.0, 0.0)  # the loosest settings that these rows can be scored with

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
    correct: Mapping[Job, bool],
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


def results_name(rules: Thresholds) -> str:
    """The results file of these rules."""
    return f"results+{rules.variant}.jsonl" if rules.variant else "results.jsonl"


def _measured(judging: Judging, rows: Rows, rules: Thresholds) -> dict[str, Measure]:
    """The measures of stored detections; the official results file is written beside these."""
    run = judging.run
    results = {
        job: official.result(judging.images[job], run.prompts[job[0]], row, rules)
        for job, row in sorted(rows.items())
        if "error" not in row
    }
    files.write_text(judging.path.with_name(results_name(rules)), official.to_lines(list(results.values())))
    correct = {job: line["correct"] for job, line in results.items()}
    failed = set(rows) - set(results)
    return measures(run.prompts, run.images_per_prompt, correct, failed, generation.full_suite(run.suite))


def scoring(judging: Judging, rules: Thresholds) -> Scoring:
    """GenEval by these rules.  The judge is part of the protocol's id wherever it is not the synthetic scenes' own, and
    other thresholds never stand under the official name.

    Raises ValueError for rules that would count detections that were not stored."""
    stored = Thresholds(**judging.about["stored_down_to"])
    for name in ("threshold", "counting_threshold", "position_threshold"):
        if (asked := getattr(rules, name)) < (least := getattr(stored, name)):
            raise ValueError(f"{name} {asked} is below {least}, the least that was stored")
    for name in ("max_objects", "max_overlap"):
        if (asked := getattr(rules, name)) > (most := getattr(stored, name)):
            raise ValueError(f"{name} {asked} is above {most}, the most stored")
    variant, judge = judging.about["prompt_variant"], judging.judge.name
    own = SUITE if judge == SCENES_JUDGE else f"{SUITE}[{judge.removeprefix('official:')}]"
    return Scoring(
        protocol="geneval-variant" if rules.variant else own,
        params={**asdict(rules), "prompt_variant": variant},
        decides=[VERSION, asdict(rules), variant],
        suite=judging.run.suite + (f"+{rules.variant}" if rules.variant else ""),
        metrics=metrics(judging.run.prompts),
        measures=lambda judging, rows: _measured(judging, rows, rules),
    )


def prompt_variant(suite: str, prompts: list[dict], name: str | None = None) -> str:
    """ "official" for GenEval's own prompts (all, or some of them in order), else ``name``, by default the suite's,
    with the hash of the prompts (docs/evaluators.md 2.8).

    Raises ValueError for other prompts under the benchmark's name, and for its own under another variant's."""
    own = geneval_prompts.is_official(prompts)
    if own and name not in (None, "official"):
        raise ValueError(f"--prompt-variant {name!r} names GenEval's own prompts; leave it out")
    if not own and (name == "official" or suite == SUITE):
        raise ValueError(
            f"these {len(prompts)} prompts of suite {suite!r} are not GenEval's own; give the file another name, and "
            f"name the set with --prompt-variant"
        )
    return "official" if own else f"{name or suite}:{files.digest(suites.lines(prompts))[:12]}"


def judging_of(
    run: Run,
    judge: Detector | Named,
    work: str | Path,
    variant: str | None = None,
    stored_down_to: Thresholds = STORED_DOWN_TO,
    note: str | None = None,
) -> Judging:
    """A judging by GenEval.  ``variant``: a name for prompts that are not the benchmark's own."""
    images = run.folder(work, "geneval")
    folder = images if judge.name == SCENES_JUDGE else images / judge.name.replace(":", "-")
    about = {
        "prompt_variant": prompt_variant(run.suite, run.prompts, variant),
        "stored_down_to": asdict(stored_down_to),
    }
    return Judging(run, judge, folder / ROWS, about=about, note=note)


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


def detections(detector: Detector, path: Path, prompt: dict) -> dict:
    """The row of one image: its content hash, size and detections.  Raises ImageError for a file that is none."""
    image, wanted = read_image(path), colored_classes(prompt)
    return {
        "image": files.digest_file(path),
        "size": list(image.shape[:2]),
        "detections": [
            {
                "class": d.label,
                "score": float(d.score),  # as it is: rounded, one just above a threshold would be lost
                "box": [float(v) for v in d.box],
                "color": detector.color(image, d) if d.label in wanted else None,
                "mask": official.encode_mask(d.mask),
            }
            for d in detector.detect(image)
            if d.score >= KEPT
        ],
    }


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
    suite's name).  ``check_judge`` raises where the judge fails its canary.  ``shard``: make and judge this part only,
    and record nothing.  Raises ValueError for prompts that cannot be scored or whose classes the detector does not
    know, and for images that are not this suite's."""
    job = Run(generator, subject or generator.name, accel, suite, prompts, images_per_prompt, seed, batch)
    if prompts:
        check_prompts(suite, prompts)
    generation.check(job)
    _check_classes(detector, prompts)
    judging = judging_of(job, detector, work, variant)

    def asked(prompt: dict) -> list:
        return [ROWS_VERSION, *colored_classes(prompt)]

    def findings() -> tuple[Judging, Rows]:
        check_judge(detector)
        return judge_images(judging, work, "geneval", partial(detections, detector), asked, shard, official.check_row)

    shared = {"work": work, "records": records, "partial_ok": partial_ok, "shard": shard}
    return score(judging, [scoring(judging, rules)], findings, **shared)


def rescore(
    stored: str | Path,
    *,
    work: str | Path,
    records: str | Path,
    rules: Thresholds = OFFICIAL,
    partial_ok: bool = False,
) -> Outcome:
    """Score stored detections again, without images or a judge; ``stored``: the folder that holds them.

    Official rules give the very records of ``run``; other thresholds give those of suite ``<suite>+<what differs>``.
    Raises ValueError for a folder without a finished judging."""
    judging, rows = read_judging(Path(stored) / ROWS, "geneval")
    check_prompts(judging.run.suite, judging.run.prompts)
    about = Fields(judging.about, str(judging.path.with_suffix(".run.json")))
    about.text("prompt_variant")
    for name in asdict(OFFICIAL):
        about.object("stored_down_to").number(name, 0)
    for row in rows.values():
        if "error" not in row:
            official.check_row(row)
    shared = {"work": work, "records": records, "partial_ok": partial_ok}
    return score(judging, [scoring(judging, rules)], lambda: (judging, rows), **shared)


def _overall(lines: Iterable[Mapping[str, Any]]) -> float:
    """Mean over tasks of the share of right images (docs/evaluators.md 2.7)."""
    tasks: dict[str, list[bool]] = {}
    for line in lines:
        tasks.setdefault(line["tag"], []).append(line["correct"])
    return sum(sum(verdicts) / len(verdicts) for verdicts in tasks.values()) / len(tasks)


def _bracketed(reason: str) -> str:
    return f" ({reason.splitlines()[0]})" if reason else ""


def _check_verdicts(path: str | Path, prompts: list[dict], lines: Mapping[Job, Fields], rows: Rows) -> tuple[int, str]:
    """How many verdicts of an imported file differ from those of its boxes by the official rules, and the doubt that
    they raise ("" where rounding explains them).

    A rule of another setting (say the distance of "left of") contradicts within one task: that is doubted.  Raises
    ValueError, with both scores, for verdicts that differ in several tasks or stand without any box."""
    ours = {job: official.result(line["filename"], prompts[job[0]], rows[job]) for job, line in lines.items()}
    differ = [job for job, line in lines.items() if line["correct"] != ours[job]["correct"]]
    if len(differ) <= DIFFER * len(lines):
        return len(differ), ""
    scores = (
        f"its own verdicts give {_overall(lines.values()):.4f} overall, its boxes {_overall(ours.values()):.4f}; "
        f"{len(differ)} of {len(lines)} verdicts differ"
    )
    tasks = {lines[job]["tag"] for job in differ}
    empty = sum(lines[job]["correct"] and not any(lines[job]["details"].values()) for job in differ)
    if len(tasks) == 1 and not empty:
        return len(differ), f"{scores}, all in {tasks.pop()}, as with another setting of its rule"
    theirs, first = lines[differ[0]], ours[differ[0]]
    verdicts = ["right" if line["correct"] else "wrong" for line in (theirs, first)]
    seen = [f"{empty} images are called right without a box in details"] if empty else []
    raise ValueError(
        f"{path}: {scores}, the first at {theirs.where}: {verdicts[0]} there, {verdicts[1]} by the boxes"
        f"{_bracketed(first['reason'])}; {'; '.join([*seen, *official.doubts(lines.values()), official.REMEDY])}, "
        "judged with its own settings"
    )


def import_results(
    path: str | Path,
    *,
    work: str | Path,
    records: str | Path,
    suite: str,
    prompts: list[dict],
    images_per_prompt: int = IMAGES_PER_PROMPT,
    subject: str | None = None,
    judge: str = official.JUDGE,
    rules: Thresholds = OFFICIAL,
    variant: str | None = None,
    partial_ok: bool = False,
) -> Outcome:
    """Records of an official results file, under the judge's id ``official:<judge>``, and its rows below ``work``.

    ``subject``: whose images they are (default ``import:<file's name>``).  Coverage counts as for our own judging.
    Raises ValueError as ``official.read`` does, for a file whose own verdicts are not those of its boxes, and for
    thresholds looser than the official ones."""
    check_prompts(suite, prompts)
    lines = official.read(path, suite, prompts, images_per_prompt)
    content = files.digest_file(path)
    by = Named(f"import:{Path(path).stem}", content, origin=record.place(path, named=subject is not None))
    name = settled(records, by, subject)
    rows = {job: official.row_of(prompts[job[0]], line) for job, line in sorted(lines.items())}
    differ, doubt = _check_verdicts(path, prompts, lines, rows)
    doubts = [*official.doubts(lines.values()), *([doubt] if doubt else [])]
    note = "; ".join(
        [
            f"judged elsewhere, colors as its reasons tell; {differ} of {len(lines)} verdicts differ when scored here",
            *(f"doubtful: {doubt}" for doubt in doubts),
        ]
    )
    for doubt in doubts:
        print(f"warning: {path} was probably not judged with the official settings: {doubt}", file=sys.stderr)
    # Seed and batch of images made elsewhere are not known.
    made = Run(replace(by, name=name), name, None, suite, prompts, images_per_prompt, None, None)
    by = Named(f"official:{judge}", content)
    judging = judging_of(made, by, work, variant, Thresholds(position_threshold=0.0), note)
    judging = replace(judging, images={job: lines[job]["filename"] for job in rows})

    def findings() -> tuple[Judging, Rows]:
        stored = ({"id": judging.images[job], **row} for job, row in rows.items())
        files.write_text(judging.path, "".join(map(row_line, stored)))
        write_judging(judging)
        return judging, rows

    return score(judging, [scoring(judging, rules)], findings, work=work, records=records, partial_ok=partial_ok)
