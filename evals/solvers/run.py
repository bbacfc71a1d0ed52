"""``vgt eval solvers``: which sampler of the flow head needs the fewest evaluations at equal quality, and which way of
decoding costs nothing? (docs/decode.md)

One generator makes images of the same prompts at several settings: sampler, evaluations a token, time schedule, and how
tokens are decoded (schedule, order, budget of evaluations).  Each is scored by GenEval's rules in the synthetic scenes
and tested against the first one, the baseline: with gain = setting - baseline of the overall score, paired by image and
clustered by prompt text, the hypothesis "gain <= -margin" has p = P(t > (gain + margin) / SE), corrected by Holm's
method over all settings.  Recommended is the fewest evaluations, below the baseline's, among the settings that reject
it; of equals, the one of the best score.

The prompts are made for this purpose in two halves that share no text: one to choose by, one to conclude from.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import special

from evals.compare import contrasts
from evals.engine import options
from evals.engine.api import Detector, Generator
from evals.engine.options import option, positive
from evals.engine.records import Estimate, Outcome, plain, stored, write
from evals.geneval import run as geneval
from vgt.core import files, record, samples, suites, text
from vgt.core.record import Record
from vgt.core.scenes import TASKS
from vgt.core.sides import Stored
from vgt.core.statistics import holm, minimum_detectable
from vgt.core.text import log_rows

SPLITS = ("validation", "test")
PROTOCOL, METRIC, SCORE = "solver-study", "evaluations-needed", "overall"
ALPHA, POWER = 0.05, 0.8
VERSION = 1  # of the rules above; a change makes stored studies stale


# --------------------------------------------------------------------------------------------------- the prompts


def split_of(text: str) -> str:
    """The half that a prompt's text belongs to, by its hash."""
    return SPLITS[hashlib.sha256(f"solver study:{text}".encode()).digest()[0] % 2]


def prompts(split: str, count: int, seed: int = suites.DEFAULT_SEED) -> tuple[str, list[dict]]:
    """Name and records of the study's suite: ``count`` prompts, equally many of each GenEval task, all of one split.

    Few different texts exist of some tasks (of single_object 4 in each half), and come back with other seeds.
    Raises ValueError for an unknown split, and for a count that six tasks cannot share."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
    if count < len(TASKS) or count % len(TASKS):
        near = max(1, round(count / len(TASKS))) * len(TASKS)
        raise ValueError(f"{count} prompts do not divide among {len(TASKS)} tasks; give a multiple, for example {near}")
    each, made = count // len(TASKS), count // len(TASKS)
    found: dict[str, list[dict]] = {}
    while min((len(of) for of in found.values()), default=0) < each:
        made *= 2
        mine = [p for p in suites.geneval_prompts(seed, made) if split_of(p["prompt"]) == split]
        found = {task: [p for p in mine if p["tag"] == task][:each] for task in TASKS}
    named = [{**p, "id": f"{split}-{task}-{k:04d}"} for task in TASKS for k, p in enumerate(found[task])]
    return f"scenes-geneval-{count}-{split}", named


# -------------------------------------------------------------------------------------------------- the settings


FORM = "SAMPLER:EVALUATIONS[:SCHEDULE][+DECODING...]"
# DECODING, as a model's name tells it: of which option each word is a value.
DECODING = {
    "equal": "schedule", "cosine": "schedule", "random": "order", "raster": "order", "spread": "order",
    "constant": "flow_budget", "falling": "flow_budget",
}  # fmt: skip


def parse(text: str) -> dict[str, Any]:
    """Sampling settings of "ab2:8", "ab2:8:power:0.7" or "sde:15+cosine+spread".  Raises ValueError for another form,
    and for words of ``DECODING`` that are unknown or contradict each other."""
    solver, *words = text.strip().split("+")
    sampler, _, rest = solver.partition(":")
    steps, _, schedule = rest.partition(":")
    if not sampler or not steps.isdigit():
        raise ValueError(f"setting {text!r} is not {FORM}, for example ab2:8, ab2:8:power:0.7 or sde:15+spread")
    found = {"sampler": sampler, "flow_steps": int(steps)}
    for word in words:
        if word not in DECODING:
            raise ValueError(f"setting {text!r}: decoding {word!r} is unknown; choose of {', '.join(DECODING)}")
        if found.setdefault(DECODING[word], word) != word:
            raise ValueError(f"setting {text!r}: {word} contradicts {found[DECODING[word]]}; leave one of the two out")
    return found if schedule in ("", "linear") else {**found, "time_schedule": schedule}


class Timed:
    """A generator that notes the images and the seconds of every batch in a file of JSON lines."""

    def __init__(self, subject: Generator, log: Path):
        self.subject, self.log = subject, log

    def __getattr__(self, name: str) -> Any:
        return getattr(self.subject, name)

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        began = time.perf_counter()
        images = self.subject.generate(prompts, seeds)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "a", encoding="utf-8") as lines:
            lines.write(json.dumps({"images": len(images), "seconds": round(time.perf_counter() - began, 4)}) + "\n")
        return images

    @property
    def extra(self) -> dict[str, Any]:
        """What the records of these images tell beside the settings (evals/engine/generation.py)."""
        cost = self.seconds_per_image
        told = {} if cost is None else {"seconds_per_image": round(cost, 4)}
        return {"head_evaluations": dict(self.subject.settings)["flow_steps"], **told}

    @property
    def seconds_per_image(self) -> float | None:
        """The median batch's; None before any."""
        batches = log_rows(self.log)
        return float(np.median([b["seconds"] / b["images"] for b in batches])) if batches else None


# ------------------------------------------------------------------------------------------------------ the test


@dataclass(frozen=True)
class Result:
    """One setting against the baseline.  ``low``: the one-sided lower bound of the gain, uncorrected; ``p`` and
    ``adjusted``: of a loss of the margin or more, alone and after Holm's correction; ``detectable``: the least margin
    that a setting of equal quality would have kept with 80 % power, uncorrected; None for the baseline itself."""

    model: str
    evaluations: int
    score: float
    gain: float | None = None
    low: float | None = None
    p: float | None = None
    adjusted: float | None = None
    detectable: float | None = None
    passed: bool | None = None


def assess(scored: Sequence[Stored], margin: float) -> list[Result]:
    """The results of ``scored``, the overall scores of the settings with the baseline first.

    Raises ValueError where two scores share no images' samples or cover different prompts."""
    baseline, *others = scored
    rows = []
    for other in others:
        made = contrasts.contrast(baseline, other, level=1 - 2 * ALPHA, alternative="less")
        if made.how != contrasts.PAIRED or made.matched.unmatched:
            raise ValueError(
                f"{other.record.model} and {baseline.record.model} do not cover the same images; delete their "
                "records and run again"
            )
        d = made.comparison
        p = float(special.stdtr(d.freedom, -(d.difference.value + margin) / d.error))
        rows.append((other.record, d, p, minimum_detectable(d.error, d.freedom, ALPHA, POWER, sides=1)))
    adjusted = holm([p for _, _, p, _ in rows])
    results = [Result(baseline.record.model, evaluations(baseline.record), baseline.record.value)]
    for (one, d, p, least), corrected in zip(rows, adjusted, strict=True):
        passed = corrected <= ALPHA
        numbers = (d.difference.value, d.difference.low, p, corrected, least)
        results.append(Result(one.model, evaluations(one), one.value, *numbers, passed))
    return results


def evaluations(one: Record) -> int:
    """Evaluations of the flow head per token (each of two rows under guidance), as the record's settings say; a falling
    budget has as many on average."""
    return one.extra["settings"]["flow_steps"]


def recommended(results: Sequence[Result]) -> Result | None:
    """The fewest evaluations, below the baseline's, of a setting that passed; None where there is none."""
    cheaper = [r for r in results if r.passed and r.evaluations < results[0].evaluations]
    return min(cheaper, key=lambda r: (r.evaluations, -r.score), default=None)


def table(results: Sequence[Result], margin: float) -> str:
    """The results for people, with the recommendation in the last line."""
    heading = ["setting", "evaluations", "overall", "gain", "lower bound", "detectable", "p (Holm)", "verdict"]
    lines = [[results[0].model, str(results[0].evaluations), f"{results[0].score:.4f}", *[""] * 4, "baseline"]]
    for r in results[1:]:
        numbers = [f"{r.gain:+.4f}", f"{r.low:+.4f}", f"{r.detectable:.4f}", f"{r.adjusted:.4f}"]
        verdict = "not inferior" if r.passed else "not shown"
        lines.append([r.model, str(r.evaluations), f"{r.score:.4f}", *numbers, verdict])
    best = recommended(results)
    words = (
        f"recommended: {best.model}, {best.evaluations} evaluations a token instead of {results[0].evaluations}"
        if best
        else "recommended: none; no setting with fewer evaluations was shown to be within the margin"
    )
    return "\n".join(
        [
            text.table(lines, align="l" + 6 * "r" + "l", header=heading),
            "",
            f"gain: against {results[0].model}, with its one-sided {100 * (1 - ALPHA):g} % bound, uncorrected",
            f"p: of a loss of {margin:g} or more, adjusted for all settings (Holm)",
            words,
        ]
    )


# ------------------------------------------------------------------------------------------------- the whole study


def _scored(generator: Timed, judge: Detector, records: Path, **options: Any) -> tuple[Record, int, int]:
    """The overall score of one setting, with what it cost in ``extra``; and how many numbers were computed, reused."""
    made = geneval.run(generator, judge, records=records, **options)
    score = next(one for one in made.records if one.metric == SCORE)
    return score.model_copy(update={"extra": {**generator.extra, **score.extra}}), made.computed, made.reused


def run(
    load: Callable[[dict[str, Any]], Generator],
    settings: Sequence[dict[str, Any]],
    judge: Detector,
    *,
    work: str | Path,
    split: str,
    count: int,
    margin: float,
    **options: Any,
) -> tuple[Outcome, list[Result]]:
    """Make, judge and score what is missing of every setting, and test all against the first.

    ``load``: settings -> generator; ``options``: those of ``geneval.run`` (images_per_prompt, seed, batch, accel).
    The outcome holds the overall scores and, last, the study's own record: the evaluations that are needed.
    Raises ValueError for fewer than two settings, equal ones however written, a margin that is none, and prompts as
    ``prompts``."""
    if len(settings) < 2 or any(one in settings[:i] for i, one in enumerate(settings)):
        raise ValueError(f"{len(settings)} settings; give two or more different ones, the baseline first")
    if not 0 < margin < 1:
        raise ValueError(f"margin {margin} is no loss of a share; give a number between 0 and 1, for example 0.02")
    suite, asked = prompts(split, count)
    work, records = Path(work), Path(work) / "records"
    scored: list[Stored] = []
    computed, reused, names = 0, 0, set()
    for one in settings:
        generator = load(one)
        if generator.name in names:
            raise ValueError(f"setting {one} is another way to write one before it ({generator.name}); leave it out")
        names.add(generator.name)
        log = work / "solvers" / f"{generator.name}@{options.get('accel')}x-{suite}.jsonl"
        common = {"work": work, "suite": suite, "prompts": asked, "variant": f"{suite}, not the benchmark suite"}
        score, new, old = _scored(Timed(generator, log), judge, records, **common, **options)
        if score.value is None:
            raise ValueError(f"{score.name} has no value: {score.note}; run the same command again")
        scored.append(Stored(score, samples.path(records, score)))
        computed, reused = computed + new, reused + old
    results = assess(scored, margin)
    found = Outcome([s.record for s in scored], computed, reused)
    return found + _study(results, found.records, asked, margin, records), results


def _study(results: list[Result], scored: list[Record], asked: list[dict], margin: float, records: Path) -> Outcome:
    """The study's own record."""
    first, best = scored[0], recommended(results)
    subject = first.subject.partition("+")[0]
    keys = {METRIC: record.make_key(version=VERSION, scores=[s.key for s in scored], margin=margin, alpha=ALPHA)}
    kept = stored(records, f"{subject}@{first.accel}x", first.suite, keys, undefined_ok=True)
    needed = Estimate(
        metric=METRIC,
        estimate=None if best is None else plain(float(best.evaluations)),
        unit="evaluations a token",
        n=first.n,
        asked=first.n,
        n_expected=first.n_expected,
        note=None if best else "no setting with fewer evaluations was shown to be within the margin",
        extra={
            "recommended": None if best is None else best.model,
            "prompts": len(asked),
            "different_prompts": len({p["prompt"] for p in asked}),
            "results": [asdict(r) for r in results],
        },
    )
    common = {
        "subject": subject,
        "accel": first.accel,
        "suite": first.suite,
        "protocol": PROTOCOL,
        "protocol_params": {"margin": margin, "alpha": ALPHA, "baseline": first.model, "correction": "Holm"},
        "judge": first.judge,
        "seed": first.seed,
        "fingerprint": files.digest(*(s.fingerprint for s in scored)),
        "origin": first.origin,
        "suite_hash": first.suite_hash,
    }
    return write(records, keys, kept, {METRIC: needed}, common)


# ------------------------------------------------------------------------------------------------ the command line

EXAMPLE = (
    "vgt eval solvers --subject vgt:query_ar_internvl --accel 16 --split test "
    "--settings sde:15,ode:8,ab2:8,heun:9,dpmpp:8,ab2:8:power:0.7"
)
SETTINGS = "sde:15,ode:8,heun:9,ab2:8,dpmpp:8"


class Options(options.Common):
    subject: str | None = option(None, "vgt:<checkpoint>, a generator")
    accel: int = option(1, "tokens per decode step (default 1)", type=positive)
    settings: str = option(
        SETTINGS,
        f"{FORM}, the baseline first (default {SETTINGS}); DECODING of {', '.join(DECODING)}",
        metavar="LIST",
    )
    split: Literal["validation", "test"] = option("validation", "to choose by, or to tell")
    count: int = option(1020, "how many, of six tasks (default 1020)", flag="--prompts", type=positive)
    images_per_prompt: int = option(4, type=positive)
    margin: float = option(0.02, "the loss of overall score that is allowed")
    guidance: float | None = option(None, "classifier-free guidance scale; 1 turns it off")
    batch: int = option(32, "images generated at a time", type=positive)


def evaluate(given: Options) -> Outcome:
    from evals.judges.analytic import AnalyticJudge
    from evals.subjects import vgt

    path = options.checkpoint(given.subject, "has no flow head", "vgt:query_ar_internvl")
    settings = [parse(text) for text in given.settings.split(",")]
    shared = {} if given.guidance is None else {"guidance": given.guidance}
    for one in settings:
        vgt.check_sampling(path, {**one, **shared})
    device = given.on()

    def load(one: dict[str, Any]) -> Generator:
        """The generator at these settings, which its name tells."""
        found = vgt.generator(path, device, acceleration=given.accel, **one, **shared)
        base = found.made.loaded.name
        chosen = given.model_copy(update={"name": given.name and given.name + found.name.removeprefix(base)})
        return chosen.named(found, given.accel)

    outcome, results = run(
        load,
        settings,
        AnalyticJudge(),
        **given.passed_to(run),
        images_per_prompt=given.images_per_prompt,
        seed=given.seed,
        batch=given.batch,
        accel=given.accel,
    )
    print(table(results, given.margin))
    return outcome
