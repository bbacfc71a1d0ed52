"""Images of a prompt suite, a judge that looks at each, its findings on disk, and scores from the findings alone.

What GenEval and DPG-Bench share: images are made or taken from a folder (generation.py), the judge leaves one row an
image in ``<stem>.jsonl``, and ``<stem>.run.json`` beside it says whose images of which prompts these are and who judged
them.  So every score can be computed again, by other rules too, without an image and without a judge.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evals.engine import generation
from evals.engine.api import Answerer, Detector, origin
from evals.engine.generation import Run
from evals.engine.records import EVIDENCE, JUDGING, Measure, Outcome, claim, stored, write
from evals.engine.store import WHOLE, Shard, checked_rows, collect, failures
from vgt.core import files, images, record, text
from vgt.core.text import Fields

Job = tuple[int, int]  # prompt index, sample
Rows = Mapping[Job, dict]  # what the judge found in each image, or {"error": why}


@dataclass(frozen=True)
class Named:
    """A subject or a judge of which only what records tell is at hand; ``settings``: a subject's own, for sampling;
    ``origin``: whose it is (evals/engine/api.py)."""

    name: str
    fingerprint: str
    settings: Mapping[str, Any] | None = None
    origin: str | None = None


@dataclass(frozen=True)
class Judging:
    """Whose images of which prompts were judged by whom.

    ``path``: the rows; ``images``: (prompt index, sample) -> name of each image that was there; ``extra``: images that
    nobody asked for; ``about``: what the evaluator must know besides to score the rows (JSON-able); ``note`` goes into
    every record."""

    run: Run
    judge: Detector | Answerer | Named
    path: Path
    images: Mapping[Job, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True)
class Scoring:
    """One way to score a judging.

    ``protocol``: its id; ``params``: its settings, for the record; ``decides``: what changes a number besides them
    (JSON-able); ``suite`` and ``metrics``: of the records' names; ``measures(judging, rows)`` -> a Measure for each of
    ``metrics``; ``extra``: further results for every record."""

    protocol: str
    params: Mapping[str, Any]
    decides: Any
    suite: str
    metrics: Sequence[str]
    measures: Callable[[Judging, Rows], Mapping[str, Measure]]
    extra: Mapping[str, Any] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------------- on disk


def _beside(rows: Path) -> Path:
    """Where it is said whose images of which prompts the rows are of, and who judged them."""
    return rows.with_suffix(".run.json")


def write_judging(judging: Judging) -> None:
    """``<stem>.run.json`` beside the rows."""
    run, settings = judging.run, getattr(judging.run.subject, "settings", None)
    content = {
        "subject": {
            "name": run.name,
            "fingerprint": run.subject.fingerprint,
            "settings": None if settings is None else dict(settings),
            "origin": origin(run.subject),
        },
        "judge": {"name": judging.judge.name, "fingerprint": judging.judge.fingerprint},
        **{key: getattr(run, key) for key in ("accel", "suite", "prompts", "images_per_prompt", "seed", "batch")},
        "images": {name: list(job) for job, name in sorted(judging.images.items())},
        "extra": list(judging.extra),
        "about": dict(judging.about),
        "note": judging.note,
    }
    files.write_json(_beside(judging.path), content)


def _checked(told: Fields) -> Fields:
    """What ``write_judging`` wrote.  Raises ValueError naming the field that is of another kind."""
    for who in ("subject", "judge"):
        each = told.object(who)
        each.text("name"), each.text("fingerprint")
        if each.get("settings") is not None:
            Fields.of(each["settings"], each.place("settings"))
        if each.get("origin") is not None:
            each.text("origin")
    told.text("suite")
    for name in ("accel", "seed", "batch", "images_per_prompt"):
        value = told.need(name)
        whole = type(value) is int and (value >= 1 or name == "seed")
        if not whole and (value is not None or name == "images_per_prompt"):
            raise ValueError(f"{told.place(name)}: {text.shown(value)} is no such whole number")
    prompts, places = told.need("prompts"), told.object("images")
    if not (isinstance(prompts, list) and prompts and all(isinstance(prompt, dict) for prompt in prompts)):
        raise ValueError(f"{told.place('prompts')}: {text.shown(prompts)} are no prompts")
    limits = (len(prompts), told["images_per_prompt"])
    for name, job in places.items():
        known = isinstance(job, list) and [type(part) for part in job] == [int, int]
        if not (known and all(0 <= part < limit for part, limit in zip(job, limits, strict=True))):
            raise ValueError(f"{places.place(name)}: {text.shown(job)} is none of {limits[0]} x {limits[1]} images")
    told.object("about")
    if not (isinstance(told.need("extra"), list) and isinstance(told.need("note"), (str, type(None)))):
        raise ValueError(f"{told.where}: extra is no list, or note is no text")
    return told


def read_judging(path: str | Path, evaluator: str) -> tuple[Judging, dict[Job, dict]]:
    """A stored judging and its rows, from the path of these.

    Raises ValueError for files that are absent, broken, or not of one finished run."""
    path = Path(path)
    beside = _beside(path)
    remedy = f"name what a finished run of `vgt eval {evaluator}` left"
    for each in (path, beside):
        if not each.is_file():
            raise ValueError(f"{path.parent} holds no finished judging: {each} does not exist; {remedy}")
    try:
        content = _checked(Fields.of(text.read_json(beside), str(beside)))
        subject, judge = Named(**content.pop("subject")), Named(**content.pop("judge"))
        images = {(index, sample): name for name, (index, sample) in content.pop("images").items()}
        extra, about, note = tuple(content.pop("extra")), content.pop("about"), content.pop("note")
        judging = Judging(Run(subject, subject.name, **content), judge, path, images, extra, about, note)
        found = {row["id"]: row for row in checked_rows(path)}
        lost = [name for name in images.values() if name not in found]
        if lost:
            raise ValueError(f"{len(lost)} of {len(images)} images have no row, the first {lost[0]}")
        return judging, {job: found[name] for job, name in images.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} and {beside.name} hold no finished judging ({why}); {remedy}") from error


# -------------------------------------------------------------------------------------------------------- judging


def judge_images(
    judging: Judging,
    work: str | Path,
    evaluator: str,
    look: Callable[[Path, dict], dict],
    asked: Callable[[dict], Any],
    shard: Shard = WHOLE,
    check: Callable[[Fields], object] = dict,
) -> tuple[Judging, dict[Job, dict]]:
    """The judging with its images, and a row for each: what is missing of either is made.

    ``look(file, prompt)`` -> the row of an image; ``asked(prompt)``: what is asked of the judge, which with the image's
    bytes decides the row.  An image that cannot be judged has a row with its error; a judge that is gone ends the run,
    and what it found before is kept; a stored row for which ``check`` raises ValueError is made again.  Raises
    ValueError as ``generation.images`` does."""
    run = judging.run
    shown = generation.images(run, run.folder(work, evaluator), shard)
    jobs = {shown.name(*job): job for job in sorted(shown.paths)}
    stamps = {
        name: files.digest_json(
            [images.digest(shown.paths[job]), judging.judge.fingerprint, asked(run.prompts[job[0]])]
        )
        for name, job in jobs.items()
    }

    def row(name: str) -> dict:
        return look(shown.paths[jobs[name]], run.prompts[jobs[name][0]])

    rows = collect(judging.path, stamps, row, f"{run.model}: {run.suite} judged", shard, check)
    judging = replace(judging, images={job: name for name, job in jobs.items()}, extra=shown.extra)
    if shard.whole:
        write_judging(judging)
    return judging, {jobs[name]: found for name, found in rows.items()}


# -------------------------------------------------------------------------------------------------------- scoring


def _keys(judging: Judging, scoring: Scoring, partial_ok: bool) -> dict[str, str]:
    """Metric -> key of its record."""
    parts = {
        **judging.run.identity,
        "protocol": scoring.protocol,
        "decides": scoring.decides,
        "images_per_prompt": judging.run.images_per_prompt,
        "partial_ok": partial_ok,
        "judge": judging.judge.fingerprint,
    }
    return {metric: record.make_key(**parts, metric=metric) for metric in scoring.metrics}


def score(
    judging: Judging,
    scorings: Sequence[Scoring],
    findings: Callable[[], tuple[Judging, Rows]],
    *,
    work: str | Path,
    records: str | Path,
    partial_ok: bool = False,
    shard: Shard = WHOLE,
) -> Outcome:
    """The records of all ``scorings``: those that still hold, and the others from ``findings()``, the judging with its
    images and its rows, which is called only where a record is missing.  A part of a run records nothing.

    Values are withheld (None) where an image is missing or cannot be judged, or one is too many, unless
    ``partial_ok``."""
    keys = [_keys(judging, scoring, partial_ok) for scoring in scorings]
    for scoring, wanted in zip(scorings, keys, strict=True):
        told = generation.record_fields(judging.run, judging.judge, "", {}, judging.path)
        claimed = {name: told[name] for name in ("subject", "accel", "fingerprint", "origin", "extra")}
        claim(records, wanted, **claimed, suite=scoring.suite)
    given = {EVIDENCE: judging.path, JUDGING: _beside(judging.path)}
    kept = [
        stored(records, judging.run.model, s.suite, wanted, work=work, given=given)
        for s, wanted in zip(scorings, keys, strict=True)
    ]
    folders = (judging.path.parent, judging.path.parent.parent)  # a judge may have a folder below that of the images
    altered = [path for folder in folders for path in generation.replaced(folder)]
    if shard.whole and not altered and all(len(k) == len(wanted) for k, wanted in zip(kept, keys, strict=True)):
        return sum((write(records, wanted, k) for k, wanted in zip(kept, keys, strict=True)), Outcome.none())
    started = time.monotonic()
    judging, rows = findings()
    outcome = Outcome.none()
    for scoring, wanted, k in zip(scorings, keys, kept, strict=True) if shard.whole else ():
        measures = _noted(judging, rows, scoring.measures(judging, rows))
        common = record_fields(judging, scoring.protocol, scoring.params, work)
        common |= {"suite": scoring.suite, "extra": {**common["extra"], **scoring.extra}}
        common["seconds"] = round(time.monotonic() - started, 3)
        outcome += write(records, wanted, k, measures, common, partial_ok, work)
    return outcome


def _noted(judging: Judging, rows: Rows, measures: Mapping[str, Measure]) -> dict[str, Measure]:
    """Measures with what every record of the judging says: its note, what failed, what nobody asked for."""
    notes = (judging.note, failures({judging.images[job]: row for job, row in rows.items()}))
    return {
        name: replace(m, note="; ".join(filter(None, (m.note, *notes))) or None, n_extra=len(judging.extra))
        for name, m in measures.items()
    }


def record_fields(judging: Judging, protocol: str, params: Mapping[str, Any], work: str | Path) -> dict[str, Any]:
    """Fields that all records of a judging share."""
    path = judging.path.relative_to(work) if judging.path.is_relative_to(work) else judging.path
    contents = {EVIDENCE: files.digest_path(judging.path), JUDGING: files.digest_path(_beside(judging.path))}
    hashes = {what: content for what, content in contents.items() if content is not None}
    return {**generation.record_fields(judging.run, judging.judge, protocol, dict(params), path), "hashes": hashes}
