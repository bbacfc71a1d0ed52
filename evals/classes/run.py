"""``vgt eval classes``: does a generator by class show what it was asked for, in the synthetic scenes?

Its classes are named "colour shape" (or by a shape alone).  The analytic judge looks at each image; right is one with
exactly one object, of the asked shape and colour.  The images are those of ``vgt eval fidelity`` with the same labels
and seed, in the same folder.  Classes that training never shows stand apart: zero-shot composition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from evals.engine import generation, options
from evals.engine.api import LABELS, Detector, Generator, conditions
from evals.engine.generation import BALANCED, Run, prompt_id
from evals.engine.judging import Job, Judging, Rows, Scoring, judge_images, score
from evals.engine.options import option, positive
from evals.engine.records import Measure, Outcome
from evals.engine.store import WHOLE, Shard
from evals.fidelity.images import CLASSES
from evals.judges import canary
from vgt.core.images import read_image
from vgt.core.scenes import COLORS, HELD_OUT, SHAPES
from vgt.core.statistics import wilson
from vgt.core.text import Fields

PROTOCOL, EACH = "class-accuracy", 25  # images of a class
VERSION = 1  # of the rules below: raise it when a change to them can change a score
# What an image can be right in: all of it, or its object's shape or colour alone.
CLASS, SHAPE, COLOR = "accuracy", "accuracy-shape", "accuracy-color"
SEEN, HELD = "accuracy-seen", "accuracy-held-out"  # of the classes that training shows, and of the others


def wanted(name: str) -> tuple[str | None, str]:
    """(colour or None, shape) of a class by its name.  Raises ValueError for a name of another kind."""
    *color, shape = name.split() or [""]
    if shape not in SHAPES or len(color) > 1 or not set(color) <= set(COLORS):
        raise ValueError(
            f"class {name!r} is no [colour] shape of the synthetic scenes, for example 'red circle': the judge cannot "
            "tell whether an image shows it; compare the images with `vgt eval fidelity`"
        )
    return (color[0] if color else None), shape


def is_held_out(name: str) -> bool:
    """Whether no training scene shows the class."""
    return wanted(name) in HELD_OUT


def right(objects: Sequence[Mapping[str, Any]], name: str) -> dict[str, bool]:
    """What of the class ``name`` the objects of an image show: CLASS, SHAPE and COLOR, none where there is not
    exactly one object.  A class without a colour has every one."""
    color, shape = wanted(name)
    if len(objects) != 1:
        return dict.fromkeys((CLASS, SHAPE, COLOR), False)
    found = {SHAPE: objects[0]["class"] == shape, COLOR: color is None or objects[0]["color"] == color}
    return {CLASS: all(found.values()), **found}


def metrics(names: Sequence[str]) -> list[str]:
    """Of a generator with these classes."""
    colored = any(wanted(name)[0] for name in names)
    apart = {is_held_out(name) for name in names} == {True, False}
    return [CLASS, *((SEEN, HELD) if apart else ()), *((SHAPE, COLOR) if colored else ())]


def by_class(values: Mapping[str, Sequence[bool]]) -> dict[str, dict[str, float]]:
    """{class: its share, Wilson's interval and number of images}."""
    found = {}
    for name, of in values.items():
        interval = wilson(sum(of), len(of))
        found[name] = {"value": interval.value, "low": interval.low, "high": interval.high, "n": len(of)}
    return found


def measures(run: Run, names: Sequence[str], rows: Rows) -> dict[str, Measure]:
    """Metric -> Measure of judged images.  Intervals are clustered by class."""
    class_of = [names[prompt["label"]] for prompt in run.prompts]
    judged = {job: right(row["objects"], class_of[job[0]]) for job, row in sorted(rows.items()) if "error" not in row}
    found = {}
    for metric in metrics(names):
        covered = {name for name in names if metric not in (SEEN, HELD) or is_held_out(name) == (metric == HELD)}
        jobs: list[Job] = [job for job in judged if class_of[job[0]] in covered]
        part = metric if metric in (SHAPE, COLOR) else CLASS
        values: dict[str, list[bool]] = {name: [] for name in names if name in covered}
        for job in jobs:
            values[class_of[job[0]]].append(judged[job][part])
        asked = sum(name in covered for name in class_of) * run.images_per_prompt
        found[metric] = Measure(
            metric=metric,
            values=[float(judged[job][part]) for job in jobs],
            clusters=[class_of[job[0]] for job in jobs],
            ids=[f"{prompt_id(run.prompts, job[0])}/{job[1]:04d}" for job in jobs],
            n=len(jobs),
            asked=asked,
            n_expected=max(asked, len(covered) * EACH),
            n_failed=asked - len(jobs),
            extra={"by_class": by_class({name: of for name, of in values.items() if of})},
        )
    return found


def look(judge: Detector, path: Path, _: dict) -> dict:
    """The row of one image: the objects that the judge finds present.  Raises ImageError for a file that is none."""
    image = read_image(path)
    present = [d for d in judge.detect(image) if d.score > canary.PRESENT]
    return {"objects": [{"class": d.label, "color": judge.color(image, d), "score": float(d.score)} for d in present]}


def check(row: Fields) -> None:
    """Raises ValueError for a row that ``look`` did not make."""
    objects = row.need("objects")
    for each in objects if isinstance(objects, list) else [objects]:
        told = Fields.of(each, row.where)
        told.text("class"), told.text("color")


def run(
    generator: Generator,
    judge: Detector,
    *,
    work: str | Path,
    records: str | Path,
    n: int | None = None,
    labels: str = BALANCED,
    seed: int = 0,
    batch: int = 32,
    partial_ok: bool = False,
    shard: Shard = WHOLE,
) -> Outcome:
    """Score a generator by class with ``n`` images (default EACH of every class); what is missing is made and judged.

    ``generator``: has ``class_names`` beside what ``generation.of_classes`` takes; ``labels``: see there; ``shard``:
    make and judge this part only, and record nothing.  Raises ValueError for classes that the judge cannot tell, and
    where the judge fails its canary."""
    if conditions(generator) != LABELS:
        raise ValueError(f"generator {generator.name!r} is asked with prompts; score it with `vgt eval geneval`")
    names = list(generator.class_names)
    kinds = metrics(names)
    job = generation.of_classes(generator, n or len(names) * EACH, seed, batch, labels)
    generation.check(job)
    folder = job.folder(work, CLASSES)
    judging = Judging(job, judge, folder / "judged.jsonl", about={"classes": names})

    def findings() -> tuple[Judging, Rows]:
        canary.check_detector(judge)
        return judge_images(judging, work, CLASSES, partial(look, judge), lambda _: VERSION, shard, check)

    params = {"labels": generation.labels_of(job.suite, seed), "classes": len(names)}
    scoring = Scoring(
        protocol=PROTOCOL,
        params=params,
        decides=[VERSION, names],
        suite=job.suite,
        metrics=kinds,
        measures=lambda judging, rows: measures(judging.run, names, rows),
    )
    return score(judging, [scoring], findings, work=work, records=records, partial_ok=partial_ok, shard=shard)


# ------------------------------------------------------------------------------------------------ the command line

EXAMPLE = "vgt eval classes --subject vgt:code_gpt"


class Options(options.Count, options.Coverage, options.Sampling, options.Common):
    subject: str | None = option(None, "vgt:<checkpoint> of a generator whose classes are named '[colour] shape'")
    labels: Literal["balanced", "uniform"] = option(
        BALANCED, "equally many of each class (default), or each drawn from all with --seed"
    )
    batch: int = option(32, "images generated at a time; it decides their last bits", type=positive)


def evaluate(given: Options) -> Outcome:
    from evals.judges.analytic import AnalyticJudge
    from evals.subjects import vgt

    path = options.checkpoint(given.subject, "is no generator by class", "vgt:code_gpt")
    made = vgt.generator(path, given.on(), **given.ours)
    return run(given.named(made), AnalyticJudge(), **given.passed_to(run))
