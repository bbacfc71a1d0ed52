"""The claims of a paper judged with seeds: reproduced, contradicted, not detectable, not testable or not run.

A claim is data (``[[claims]]`` of ``papers/<paper>.toml``): comparisons of arms of the recipe in one metric each, with
the paper's own numbers.  Every comparison is a weighted sum of arms; its interval and p-value hold over seeds and
prompts (docs/evaluators.md 7.6).  A claim holds where all its comparisons do, and is contradicted where one is
reversed; p-values are corrected for all claims that were tested (Holm).  ``reports/claims.py`` judges records without
seeds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from reports import published, recipe
from reports.measured import Measured, basis, chosen, unlike
from reports.published import PublishedTable
from reports.recipe import Recipe
from reports.table import EMPTY, Cell, Column, Filled, Row
from vgt.core.record import Record
from vgt.core.samples import REPLICATES, Lookup, Samples
from vgt.core.statistics import Effect, Part, effect, holm, holm_level, images_to_reach, jackknifed, pooled, speedup
from vgt.core.text import parse_toml, read
from vgt.core.trainings import between, p_value

ALPHA = 0.05
LEVELS = (0.5, 0.75, 0.9)  # of the lowest final score, at which images needed are compared
NAMES = {
    "scenes-geneval/overall": "GenEval",
    "scenes-dpg/dpg": "DPG",
    "scenes-vqa/accuracy": "VQA",
    "scenes/psnr-mean": "PSNR on scenes",
    "photos/psnr-mean": "PSNR on photos",
    "scenes/fd-efflite2": "FD on scenes",
    "photos/fd-efflite2": "FD on photos",
}
AT_LEAST = " at least"  # ends the label of a lower bound
DIGITS = {"share": 3, "dB": 2, "of 100": 1}  # by unit
Kind = Literal["difference", "sweep", "curve", "images"]
REPRODUCED, CONTRADICTED = "reproduced", "contradicted"
UNDETECTED, UNTESTABLE, NOT_RUN = "not detectable here", "not testable here", "not run"
ORDER = (REPRODUCED, CONTRADICTED, UNDETECTED, UNTESTABLE, NOT_RUN)


# ------------------------------------------------------------------------------------------------------- claims


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Paper(_Strict):
    """The paper's own numbers: rows of one column of its table, as the sides of a comparison; ``rows``: of a sweep."""

    table: str
    column: str = ""
    left: list[str] = []
    right: list[str] = []
    left_from: str = ""
    right_from: str = ""
    rows: list[str] = []


class Comparison(_Strict):
    """One comparison.  A term is an arm, ``arm@4x`` at an acceleration, ``vlm+autoencoder`` for answers through an
    encoder, or a subject that is not trained (``shuffled``).

    difference: the mean of ``left`` less ``share`` times the mean of ``right``; with ``left_from`` and ``right_from``
    the change from these.  sweep: how the metric changes over ``sweep``, pairs of a term and its place on the axis (or,
    with ``by``, the term whose value of that metric is its place).  curve: left less right at every snapshot of their
    trainings.  images: log of images that right needs over those of left, at LEVELS, less log ``against``.

    ``paired``: seed s of both sides has one parent, and what it adds drops out."""

    metric: str
    kind: Kind = "difference"
    text: str = ""
    left: list[str] = []
    right: list[str] = []
    left_from: str = ""
    right_from: str = ""
    share: float = 1.0
    sweep: list[tuple[str, float | str]] = []
    by: str = ""
    against: float = 1.0
    direction: Literal["higher", "lower"] = "higher"
    paired: bool = False
    paper: Paper | None = None

    @model_validator(mode="after")
    def _complete(self) -> Comparison:
        if self.kind == "sweep":
            if len(self.sweep) < 3 or self.left or self.right:
                raise ValueError(f"a sweep of {self.metric} needs three terms or more in sweep, and no left or right")
        elif not self.left or not self.right or self.sweep:
            raise ValueError(f"a comparison of {self.metric} needs left and right, and no sweep")
        if (self.share != 1 or self.left_from or self.right_from) and self.kind != "difference":
            raise ValueError(f"share, left_from and right_from are of a difference, not of a {self.kind}")
        if bool(self.left_from) != bool(self.right_from):
            raise ValueError(f"a comparison of {self.metric} has left_from or right_from alone; give both")
        if self.against != 1 and self.kind != "images":
            raise ValueError(f"against is a ratio of images, not of a {self.kind}")
        if self.kind in ("curve", "images") and len(self.left) + len(self.right) != 2:
            raise ValueError(f"a {self.kind} of {self.metric} is of one arm on each side")
        return self

    @property
    def sign(self) -> int:
        return 1 if self.direction == "higher" else -1

    @property
    def terms(self) -> list[str]:
        """All terms, once each."""
        swept = [name for name, _ in self.sweep]
        given = [*self.left, self.left_from, *self.right, self.right_from, *swept]
        return list(dict.fromkeys(name for name in given if name))


class Claim(_Strict):
    """``need``: whether all comparisons must hold or any; ``equal``: arms must have seen equally many images; ``free``:
    settings that belong to the methods and may differ; ``why``: what keeps every scale from testing it."""

    number: str
    text: str
    need: Literal["all", "any"] = "all"
    equal: bool = True
    free: list[str] = []
    parts: list[Comparison] = []
    why: str = ""

    @model_validator(mode="after")
    def _testable(self) -> Claim:
        if bool(self.parts) == bool(self.why):
            raise ValueError(f"claim {self.number} needs parts, or why there are none")
        return self


class _Claims(_Strict):
    model_config = ConfigDict(frozen=True, extra="ignore")

    claims: list[Claim] = Field(default=[])


def check(claims: Sequence[Claim], arms: Recipe, paper: published.Paper) -> None:
    """Raises ValueError for a claim that stands twice, an unknown arm, and a table, column or row the paper lacks."""
    twice = [number for number, times in Counter(claim.number for claim in claims).items() if times > 1]
    if twice:
        raise ValueError(f"claim {twice[0]} stands twice")
    for claim in claims:
        for part in claim.parts:
            others = [at for _, at in part.sweep if isinstance(at, str)] if part.by else []
            if part.sweep and not part.by and any(isinstance(at, str) for _, at in part.sweep):
                raise ValueError(f"claim {claim.number}: a sweep without by needs numbers for places")
            for name in [*part.terms, *others]:
                for piece in _pieces(name):
                    if piece not in UNTRAINED:
                        arms[piece]
            if part.paper:
                _check_paper(claim.number, part.paper, paper)


def _check_paper(number: str, told: Paper, paper: published.Paper) -> None:
    if told.table not in {t.id for t in paper.tables}:
        raise ValueError(f"claim {number}: the paper has no {told.table!r} among its tables")
    there = paper[told.table]
    if told.column and told.column not in {c.key for c in there.columns}:
        raise ValueError(f"claim {number}: {told.table} has no column {told.column!r}")
    labels = {row["label"] for row in there.rows}
    for row in (*told.left, *told.right, told.left_from, told.right_from, *told.rows):
        if row and row not in labels:
            raise ValueError(f"claim {number}: {told.table} has no row {row!r}")


@lru_cache
def load(paper: str) -> list[Claim]:
    """The claims of one paper.  Raises ValueError for an unknown or malformed file."""
    arms, numbers = recipe.load(paper), published.load(paper)
    path = published.PAPERS / f"{paper}.toml"
    try:
        found = _Claims.model_validate(parse_toml(read(path), path.name)).claims
        check(found, arms, numbers)
    except ValueError as error:
        raise ValueError(f"papers/{path.name} is malformed: {error}") from error
    return found


# ------------------------------------------------------------------------------------------- terms and records

UNTRAINED = ("shuffled", "oracle")


def _pieces(term: str) -> list[str]:
    return re.sub(r"(-\w+)?(@\d+x)?$", "", term).split("+")


def _variant(term: str) -> str:
    """What stands behind the model's name, e.g. "-free"; "" for the model as it decodes by default."""
    found = re.search(r"-\w+(?=$|@)", term)
    return found[0] if found else ""


def _accel(arms: Recipe, term: str) -> int | None:
    """The acceleration of a term's records: as it says, 1x for generators."""
    if told := re.search(r"@(\d+)x$", term):
        return int(told.group(1))
    pieces = _pieces(term)
    return arms.accel(pieces[0]) if len(pieces) == 1 and pieces[0] not in UNTRAINED else None


def _trained(arms: Recipe, term: str) -> str:
    """The arm whose seeds a term varies with; "" for one that is trained once or not at all."""
    return next((p for p in reversed(_pieces(term)) if p not in UNTRAINED and arms[p].seeds), "")


def _label(arms: Recipe, term: str) -> str:
    """What readers see for a term."""
    names = {"shuffled": "shuffled prompts", "oracle": "oracle"}
    told = re.search(r"@\d+x$", term)
    words = " with the encoder of ".join(names.get(p) or arms[p].label for p in _pieces(term))
    variant = _variant(term).removeprefix("-")
    words += f" {arms.variants.get(variant, variant)}" if variant else ""
    return words + (f" at {told.group().lstrip('@')}" if told else "")


@dataclass(frozen=True)
class Evidence:
    """What a scale's records hold, by term, seed and metric."""

    arms: Recipe
    scale: str
    seeds: tuple[int, ...]
    measured: Measured
    samples: Lookup
    terms: tuple[str, ...] = ()  # of all claims
    kept: dict = field(default_factory=dict)

    def varying(self, metric: str, step: int | None = None) -> Part:
        """What trainings vary by in a metric: of every arm with all seeds scored, as it decodes by default."""
        if (metric, step) not in self.kept:
            plain = [t for t in self.terms if "@" not in t and not _variant(t)]
            arms = {_trained(self.arms, t): t for t in (*plain, *(arm.id for arm in self.arms.arms if arm.seeds))}
            found = [[self.record(t, seed, metric, step) for seed in self.seeds] for name, t in arms.items() if name]
            # Encoders are scored behind their VLM: the same arms under another name.
            answers = [[self.record(t, s, metric, step) for s in self.seeds] for t in plain if "+" in t]
            rows = {tuple(r.name for r in row): [r.value for r in row] for row in found + answers if all(row)}
            self.kept[metric, step] = pooled(list(rows.values()))
        return self.kept[metric, step]

    def subject(self, term: str, seed: int) -> str:
        named = (p if p in UNTRAINED else recipe.model(self.scale, self.arms[p], seed) for p in _pieces(term))
        return "+".join(named) + _variant(term)

    def record(self, term: str, seed: int, metric: str, step: int | None = None) -> Record | None:
        """The complete record, of the model or of its snapshot at a step; None where there is none or it covers less
        than its protocol, or this scale, asks for."""
        suite, name = metric.split("/", 1)
        whole = step is None or step == self.last(term, seed)
        subject = self.subject(term, seed) + ("" if whole else f"-step{step}")
        found = self.measured.get(subject, suite, name, _accel(self.arms, term))
        if found is None or found.value is None:
            return None
        enough = self.arms.scale(self.scale).enough.get(metric)
        whole = found if enough is None else found.model_copy(update={"n_expected": min(enough, found.n_expected)})
        return None if whole.partial else found

    def of(self, term: str) -> tuple[int, ...]:
        """The seeds of a term; one for all where it is trained once."""
        return self.seeds if _trained(self.arms, term) else self.seeds[:1]

    def steps(self, term: str, seed: int, metric: str) -> list[int]:
        """The training steps at which a term was scored: of its snapshots, and the last one, of the model itself."""
        suite, name = metric.split("/", 1)
        pattern = re.compile(re.escape(self.subject(term, seed)) + r"-step(\d+)")
        found = {m.group(1) for r in self.measured.where(suite, name) if (m := pattern.fullmatch(r.subject))}
        last = self.last(term, seed)
        return sorted({*map(int, found), *([] if last is None else [last])})

    def last(self, term: str, seed: int) -> int | None:
        told = self.trained(term, seed)
        return None if told is None else told.extra.get("steps")

    def trained(self, term: str, seed: int) -> Record | None:
        """The record of a term's training, which knows its steps and the images it saw."""
        arm = _trained(self.arms, term)
        return self.measured.get(recipe.model(self.scale, self.arms[arm], seed), "training", "loss") if arm else None


class _Why(Exception):
    """Records that do not test a comparison; the message says why."""


# ----------------------------------------------------------------------------------------------------- effects


@dataclass(frozen=True)
class Outcome:
    """What was found of one comparison: an effect, or one for every snapshot or score (``labels``).  ``null``: what an
    effect is tested against.  ``missing``: models without a record, of ``needed``."""

    part: Comparison
    effects: tuple[Effect, ...] = ()
    labels: tuple[str, ...] = ()
    null: float = 0.0
    ours: str = ""
    unit: str = ""
    clusters: int = 0
    needed: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()
    why: str = ""
    note: str = ""

    def p_values(self, claimed: bool) -> list[float]:
        """p-values of the effects in the claimed direction, or in the other; 1 for an effect that points elsewhere."""
        toward = self.part.sign if claimed else -self.part.sign
        return [e.p_value if toward * (e.value - self.null) > 0 else 1.0 for e in self.effects]

    @property
    def least(self) -> int:
        """Which effect speaks least for the claim."""
        toward = [self.part.sign * (e.value - self.null) for e in self.effects]
        return max(range(len(toward)), key=lambda i: (self.p_values(True)[i], -toward[i]))


@dataclass(frozen=True)
class _Weighted:
    """A term's share of an effect, with its records by seed."""

    term: str
    weight: float
    records: tuple[Record, ...]


def _sides(evidence: Evidence, part: Comparison, given: Sequence[_Weighted]) -> list[list[_Weighted]]:
    """The terms by what trained them: one training's terms are one side, whatever the acceleration."""
    found: dict[str, list[_Weighted]] = {}
    for one in given:
        trained = _trained(evidence.arms, one.term)
        key = "pair" if part.paired and trained else trained or f"untrained {one.term}"
        found.setdefault(key, []).append(one)
    return list(found.values())


def _alike(claim: Claim, records: Sequence[Record]) -> None:
    """Raises _Why where records of one comparison were measured differently."""
    first = records[0]
    for other in records[1:]:
        if basis(first) != basis(other):
            raise _Why(
                f"{first.subject} and {other.subject} were measured on other data, or by another protocol or judge"
            )
        told = [{k: v for k, v in chosen(r).items() if k not in claim.free} for r in (first, other)]
        if differ := unlike(*told):
            raise _Why(f"{first.subject} and {other.subject}: {', '.join(differ)}")


def _common(evidence: Evidence, part: Comparison, side: Sequence[_Weighted], step: int | None) -> Part | None:
    """What trainings of all arms vary by in the metric, in the units of a side; None for a side of several terms, whose
    seeds drop out in part."""
    if len(side) > 1 or not _trained(evidence.arms, side[0].term):
        return None
    known = evidence.varying(part.metric, step)
    return Part(side[0].weight ** 2 * known.variance, known.freedom)


def _combined(
    evidence: Evidence, claim: Claim, part: Comparison, given: Sequence[_Weighted], step: int | None = None
) -> tuple[Effect, int, str]:
    """The weighted sum of terms as an effect, with the number of prompts (or blocks), and how prompts entered."""
    records = [record for one in given for record in one.records]
    _alike(claim, records)
    sides = _sides(evidence, part, given)
    found = {r.name: evidence.samples(r) for r in records}
    common = [_common(evidence, part, side, step) for side in sides]
    if all(found.values()):
        first = next(iter(found.values()))
        matrices = [sum(one.weight * _matrix(one, found, first) for one in side) for side in sides]
        return (
            effect(matrices, first.clusters, first.groups, common=common),
            len(set(zip(*_places(first), strict=True))),
            "",
        )
    values = [sum(one.weight * np.array([r.value for r in one.records]) for one in side) for side in sides]
    left_out = [[r.extra.get(REPLICATES) for r in one.records] for one in given]
    if (
        all(isinstance(each, list) for of in left_out for each in of)
        and len({len(e) for of in left_out for e in of}) == 1
    ):
        means = [one.weight * np.mean(of, axis=0) for one, of in zip(given, left_out, strict=True)]
        return between(values, jackknifed(means), common=common), len(means[0]), "items in common blocks"
    if any(None in (r.low, r.high) for r in records):
        raise _Why(f"{next(r for r in records if None in (r.low, r.high)).name} has neither samples nor an interval")
    # Prompts are shared, so that what is common to both sides would drop out: leaving it in errs on the safe side.
    spread = [np.mean([((r.high - r.low) / 2 / 1.959964) ** 2 for r in one.records]) for one in given]
    variance = float(sum(one.weight**2 * v for one, v in zip(given, spread, strict=True)))
    return between(values, Part(variance, np.inf), common=common), 0, "prompts not paired: no samples"


def _places(samples: Samples) -> tuple[Sequence[str], Sequence[str]]:
    return samples.groups or [""] * len(samples.ids), samples.clusters


def _matrix(one: _Weighted, found: dict[str, Samples], first: Samples) -> np.ndarray:
    """The values of a term, [seeds, samples] in the order of ``first``.  Raises _Why for other samples."""
    rows = []
    for record in one.records:
        samples = found[record.name]
        if list(samples.ids) == list(first.ids):
            rows.append(samples.values)
            continue
        place = {name: i for i, name in enumerate(samples.ids)}
        if place.keys() != set(first.ids):
            raise _Why(f"{record.name} is of other samples than the rest")
        rows.append([samples.values[place[name]] for name in first.ids])
    return np.asarray(rows, np.float64)


def _needed(evidence: Evidence, part: Comparison) -> tuple[frozenset[str], frozenset[str]]:
    """(subjects that a comparison is about, those of them without a complete record)."""
    wanted = [(t, s, part.metric) for t in part.terms for s in evidence.of(t)]
    if part.by:
        wanted += [(at, s, part.by) for _, at in part.sweep for s in evidence.of(at)]
    needed, missing = set(), set()
    for term, seed, metric in wanted:
        name = evidence.subject(term, seed)
        needed.add(name)
        there = evidence.record(term, seed, metric)
        if part.kind in ("curve", "images"):
            there = there and evidence.last(term, seed) and len(evidence.steps(term, seed, metric)) > 1
        if not there:
            missing.add(name)
    return frozenset(needed), frozenset(missing)


def _equal_training(evidence: Evidence, part: Comparison) -> None:
    """Raises _Why where the arms are known to have seen unequal numbers of images."""
    seen: dict[int, str] = {}
    for term in part.terms:
        for seed in evidence.of(term):
            told = evidence.trained(term, seed)
            if told is not None and told.extra.get("samples"):
                seen.setdefault(told.extra["samples"], told.subject)
    if len(seen) > 1:
        raise _Why("; ".join(f"{name} saw {count:,} images" for count, name in seen.items()))


def _weights(evidence: Evidence, part: Comparison) -> dict[str, float]:
    """What each term weighs in the effect."""
    if part.kind == "sweep":
        places = np.array([_place(evidence, part, at) for _, at in part.sweep])
        centered = places - places.mean()
        if not centered.any():
            raise _Why("all places of the sweep are the same")
        fitted = centered / np.square(centered).sum() * np.ptp(places)
        return {term: float(w) for (term, _), w in zip(part.sweep, fitted, strict=True)}
    weights: dict[str, float] = {}
    for terms, start, factor in ((part.left, part.left_from, 1.0), (part.right, part.right_from, -part.share)):
        for term in terms:
            weights[term] = weights.get(term, 0.0) + factor / len(terms)
        if start:
            weights[start] = weights.get(start, 0.0) - factor
    return weights


def _place(evidence: Evidence, part: Comparison, at: float | str) -> float:
    if not part.by:
        return float(at)
    return float(np.mean([evidence.record(at, seed, part.by).value for seed in evidence.of(at)]))


def _terms(evidence: Evidence, part: Comparison, weights: dict[str, float], step: int | None = None) -> list[_Weighted]:
    return [
        _Weighted(term, w, tuple(evidence.record(term, s, part.metric, step) for s in evidence.of(term)))
        for term, w in weights.items()
    ]


def _mean(given: Sequence[_Weighted], term: str) -> float:
    return float(np.mean([r.value for r in next(one for one in given if one.term == term).records]))


def _digits(unit: str) -> int:
    return DIGITS.get(unit, 1)


def _difference(evidence: Evidence, claim: Claim, part: Comparison) -> Outcome:
    given = _terms(evidence, part, _weights(evidence, part))
    found, clusters, note = _combined(evidence, claim, part, given)
    unit = given[0].records[0].unit
    form = f".{_digits(unit)}f"
    if part.kind == "sweep":
        ours = ", ".join(f"{_mean(given, term):{form}}" for term, _ in part.sweep)
    else:
        sides = []
        for terms, start in ((part.left, part.left_from), (part.right, part.right_from)):
            mean = np.mean([_mean(given, t) for t in terms]) if all(_there(given, t) for t in terms) else None
            if mean is not None and start and _there(given, start):
                sides.append(f"{mean - _mean(given, start):+{form}}")
            elif mean is not None and not start:
                sides.append(f"{mean:{form}}")
        ours = (" vs " if part.share == 1 else f" vs {part.share:g} of ").join(sides) if len(sides) == 2 else ""
        if part.share != 1:
            ours += _shares(evidence, claim, part)
    return Outcome(part, (found,), ours=ours, unit=unit, clusters=clusters, note=note)


def _shares(evidence: Evidence, claim: Claim, part: Comparison) -> str:
    """The share of right's score that left has, with its interval: the shares whose difference the test does not tell
    from 0 (Fieller 1954)."""

    def at(share: float) -> Effect:
        weights = _weights(evidence, part.model_copy(update={"share": share}))
        return _combined(evidence, claim, part, _terms(evidence, part, weights))[0]

    zero, one = at(0.0).value, at(1.0).value
    if not zero > one:  # the score on the right is not above 0
        return ""
    middle, bounds = zero / (zero - one), []
    for far in (0.0, 2 * middle + 1):
        inside, outside = middle, far
        if at(outside).p_value > ALPHA:
            return f" ({middle:.0%})"
        for _ in range(12):
            probe = (inside + outside) / 2
            inside, outside = (inside, probe) if at(probe).p_value <= ALPHA else (probe, outside)
        bounds.append(inside)
    return f" ({middle:.0%} [{bounds[0]:.0%}, {bounds[1]:.0%}])"


def _there(given: Sequence[_Weighted], term: str) -> bool:
    return any(one.term == term for one in given)


def _snapshots(evidence: Evidence, part: Comparison) -> list[int]:
    """The steps of the snapshots, the same for every training.  Raises _Why where they are not."""
    steps = {tuple(evidence.steps(t, s, part.metric)) for t in part.terms for s in evidence.of(t)}
    if len(steps) > 1:
        raise _Why("the trainings have snapshots at different steps: " + "; ".join(map(str, map(list, sorted(steps)))))
    return list(steps.pop())


def _curve(evidence: Evidence, claim: Claim, part: Comparison) -> Outcome:
    steps, weights = _snapshots(evidence, part), {part.left[0]: 1.0, part.right[0]: -1.0}
    _complete(evidence, part, steps)
    made = [_combined(evidence, claim, part, _terms(evidence, part, weights, step), step) for step in steps]
    labels = tuple(f"step {step:,}" for step in steps)
    above = sum(part.sign * found.value > 0 for found, _, _ in made)
    unit = evidence.record(part.left[0], evidence.of(part.left[0])[0], part.metric, steps[0]).unit
    ours = f"{'above' if part.sign > 0 else 'below'} at {above} of {len(steps)} snapshots"
    return Outcome(part, tuple(m[0] for m in made), labels, ours=ours, unit=unit, clusters=made[0][1], note=made[0][2])


def _complete(evidence: Evidence, part: Comparison, steps: Sequence[int]) -> None:
    for term in part.terms:
        for seed in evidence.of(term):
            for step in steps:
                if evidence.record(term, seed, part.metric, step) is None:
                    raise _Why(
                        f"the record of {evidence.subject(term, seed)} at step {step} is partial or has no value"
                    )


def _images(evidence: Evidence, claim: Claim, part: Comparison) -> Outcome:
    """Ratio of images needed at LEVELS of the lowest final score of all trainings."""
    steps = _snapshots(evidence, part)
    _complete(evidence, part, steps)
    sizes = [{evidence.record(t, s, part.metric, k).n for t in part.terms for s in evidence.of(t)} for k in steps]
    if sizes[-1] != sizes[0]:  # the whole model on more images than its snapshots
        steps = steps[:-1]
    told = [evidence.trained(t, s) for t in part.terms for s in evidence.of(t)]
    per_step = {r.extra["samples"] / r.extra["steps"] for r in told}
    if len(per_step) > 1:
        raise _Why(f"trainings see {' and '.join(f'{n:g}' for n in sorted(per_step))} images a step")
    images = np.array(steps) * per_step.pop()
    grids, every = [], []
    for term in (part.left[0], part.right[0]):
        grids.append([[evidence.record(term, s, part.metric, step) for step in steps] for s in evidence.of(term)])
        every += [record for row in grids[-1] for record in row]
    _alike(claim, every)
    found = {r.name: evidence.samples(r) for r in every}
    if not all(found.values()):
        raise _Why("a ratio of images needs the samples of every snapshot")
    first = found[every[0].name]
    curves = [np.array([_matrix(_Weighted("", 1, tuple(row)), found, first) for row in grid]) for grid in grids]
    final = min(max(r.value for r in row) for grid in grids for row in grid)
    null, effects, labels = float(np.log(part.against)), [], []
    for share in LEVELS:
        # A left curve that starts above bounds the ratio from below: enough to show that it is above 1, not below 20.
        made = speedup(images, *curves, share * final, first.clusters, first.groups, at_least=null == 0)
        if made is not None:
            starts = any(row[0].value >= share * final for row in grids[0])
            effects.append(replace(made, p_value=p_value(made.value - null, made.parts)))
            labels.append(f"to {share * final:.3f}" + (AT_LEAST if starts else ""))
    if not effects:
        raise _Why(
            "no score lies between the first and the last snapshot of all trainings, the lowest of which ends at "
            f"{final:.3f}"
        )
    count = len(set(zip(*_places(first), strict=True)))
    return Outcome(part, tuple(effects), tuple(labels), null, unit="ratio", clusters=count)


KINDS = {"difference": _difference, "sweep": _difference, "curve": _curve, "images": _images}


def _outcome(evidence: Evidence, claim: Claim, part: Comparison) -> Outcome:
    needed, missing = _needed(evidence, part)
    if missing:
        return Outcome(part, needed=needed, missing=missing)
    try:
        if claim.equal:
            _equal_training(evidence, part)
        return replace(KINDS[part.kind](evidence, claim, part), needed=needed)
    except _Why as why:
        return Outcome(part, needed=needed, why=str(why))


# ---------------------------------------------------------------------------------------------------- verdicts


@dataclass(frozen=True)
class Judged:
    """``p``: the claim's p-value, ``adjusted`` for all tested claims; None for one that was not tested.  ``said``: the
    verdict with its reason; ``level``: what a p-value would have had to reach."""

    claim: Claim
    outcomes: tuple[Outcome, ...]
    verdict: str
    said: str
    p: float | None = None
    adjusted: float | None = None
    level: float = ALPHA


def p_values(claim: Claim, outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """p-values for "it is as claimed" and for "it is reversed", of K effects in all.

    All must hold: the largest of the claimed direction, and K times the smallest of the other; any: the reverse."""
    up = [p for one in outcomes for p in one.p_values(True)]
    down = [p for one in outcomes for p in one.p_values(False)]
    if claim.need == "all":
        return max(up), min(1.0, len(down) * min(down))
    return min(1.0, len(up) * min(up)), max(down)


def judge(
    paper: str,
    scale: str,
    measured: Measured,
    samples: Lookup = lambda record: None,
    seeds: Sequence[int] | None = None,
    claims: Sequence[Claim] | None = None,
) -> list[Judged]:
    """Every claim of a paper judged from the records of one scale.

    ``samples``: the per-sample values of a record (``vgt.core.samples.lookup``); without them prompts count as
    unpaired.  ``seeds``: by default the scale's.  A claim is tested where all its models have complete records.  Raises
    ValueError for an unknown paper or scale and for fewer than two seeds."""
    arms = recipe.load(paper)
    seeds = tuple(dict.fromkeys(arms.scale(scale).seeds if seeds is None else seeds))
    if len(seeds) < 2:
        raise ValueError(
            f"claims need two seeds or more to know how trainings vary, not {list(seeds)}; add --seeds 0,1,2"
        )
    claims = load(paper) if claims is None else claims
    terms = dict.fromkeys(term for claim in claims for part in claim.parts for term in part.terms)
    evidence = Evidence(arms, scale, seeds, measured, samples, tuple(terms))
    found = [(claim, tuple(_outcome(evidence, claim, part) for part in claim.parts)) for claim in claims]
    tested = [i for i, (_, outcomes) in enumerate(found) if outcomes and all(one.effects for one in outcomes)]
    pairs = {i: p_values(*found[i]) for i in tested}
    raw = [min(pairs[i]) for i in tested]
    level, adjusted = holm_level(raw, ALPHA), dict(zip(tested, holm(raw), strict=True))
    made = []
    for i, (claim, outcomes) in enumerate(found):
        if i not in pairs:
            made.append(_untested(claim, outcomes, paper, scale))
            continue
        held, p = pairs[i][0] <= pairs[i][1], adjusted[i]
        verdict = UNDETECTED if p > ALPHA else REPRODUCED if held else CONTRADICTED
        said = _seen(arms, outcomes, level) if verdict == UNDETECTED else verdict
        made.append(Judged(claim, outcomes, verdict, said, min(pairs[i]), p, level))
    return made


def _untested(claim: Claim, outcomes: tuple[Outcome, ...], paper: str, scale: str) -> Judged:
    why = claim.why or "; ".join(dict.fromkeys(one.why for one in outcomes if one.why))
    missing = frozenset().union(*(one.missing for one in outcomes))
    if missing:
        needed = frozenset().union(*(one.needed for one in outcomes))
        command = _command(claim.number, outcomes, paper, scale)
        said = f"{NOT_RUN} ({len(needed - missing)} of {len(needed)} models; `{command}`)"
        return Judged(claim, outcomes, NOT_RUN, said)
    return Judged(claim, outcomes, UNTESTABLE, f"{UNTESTABLE} ({why})")


def _command(number: str, outcomes: Sequence[Outcome], paper: str, scale: str) -> str:
    """What runs the arms that lack records; for baselines alone, what scores them."""
    lacking = {name for one in outcomes for name in one.missing}
    if lacking <= set(UNTRAINED):
        size = recipe.load(paper).scale(scale).size
        suites = dict.fromkeys(one.part.metric.split("/")[0] for one in outcomes if one.missing)
        return " and ".join(
            f"vgt eval {suite.removeprefix('scenes-')} --subject fake:{name} --set size={size} --images-per-prompt 4"
            for suite in suites
            for name in sorted(lacking)
        )
    return recipe.command(paper, scale, number)


def needed(paper: str) -> dict[str, list[str]]:
    """The arms of each claim that can be tested, by its number."""
    return {claim.number: [arm for arm in _arms(claim) if arm not in UNTRAINED] for claim in load(paper) if claim.parts}


def _arms(claim: Claim) -> list[str]:
    terms = [term for part in claim.parts for term in part.terms]
    terms += [at for part in claim.parts for _, at in part.sweep if isinstance(at, str)]
    return list(dict.fromkeys(piece for term in terms for piece in _pieces(term)))


def _name(arms: Recipe, metric: str) -> str:
    return (NAMES | arms.names).get(metric, metric)


def _in_words(name: str, unit: str, least: float) -> str:
    """The smallest effect that would have been seen."""
    if unit == "ratio":
        ratio = np.exp(least)
        return f"{ratio:.1f} times the images" if ratio < 1000 else "no ratio below 1,000"
    return f"{least:.{_digits(unit)}f}{' dB' if unit == 'dB' else ''} in {name}"


def _seen(arms: Recipe, outcomes: Sequence[Outcome], level: float) -> str:
    """What would have had to be there: by metric, the most that one of its undecided comparisons asks for."""
    unclear = [one for one in outcomes if one.effects[one.least].p_value > level]
    least: dict[tuple[str, str], float] = {}
    for one in unclear or outcomes:  # none: as claimed in some, reversed in others, beyond no correction
        key = _name(arms, one.part.metric), one.unit
        least[key] = max(least.get(key, 0.0), one.effects[one.least].detectable(level))
    words = [_in_words(*key, value) for key, value in least.items()]
    return f"{UNDETECTED} ({'effects' if len(words) > 1 else 'an effect'} of {', '.join(words)} would have been seen)"


# ------------------------------------------------------------------------------------------------------- table


def _number(value: float, digits: int, sign: str = "+") -> str:
    shown = f"{value:{sign}.{digits}f}"
    return shown.lstrip("+-") if float(shown) == 0 else shown


def shown(one: Outcome, i: int) -> str:
    """An effect with its interval, e.g. "+0.203 [0.150, 0.256]", a ratio "3.4x [2.1, 5.6]"."""
    found = one.effects[i]
    if one.unit == "ratio":
        value, low, high = np.exp([found.value, found.low, found.high])
        return f"{value:.3g}x [{low:.3g}, {high:.3g}]"
    digits = _digits(one.unit)
    bounds = "" if found.low is None else f" [{_number(found.low, digits, '')}, {_number(found.high, digits, '')}]"
    return _number(found.value, digits) + bounds


def _here(one: Outcome) -> str:
    """The scores of both sides and the effect; of several effects each, or the one that speaks least for the claim."""
    if not one.effects:
        return EMPTY
    if one.unit == "ratio":
        bound = {True: "at least ", False: ""}
        told = [(bound[label.endswith(AT_LEAST)], label.removesuffix(AT_LEAST)) for label in one.labels]
        return "; ".join(f"{least}{shown(one, i)} {label}" for i, (least, label) in enumerate(told))
    effect_ = shown(one, one.least) + (f" at {one.labels[one.least]}" if one.labels else "")
    return ": ".join(part for part in (one.ours, effect_) if part)


def _theirs(paper: published.Paper, part: Comparison) -> str:
    """The paper's own numbers of a comparison."""
    told = part.paper
    if told is None:
        return EMPTY
    table = paper[told.table]
    if part.kind == "images":
        return _their_ratio(table, told)
    if not told.column:
        keys = [c.key for c in table.columns]
        above = sum(part.sign * (table.value(told.left[0], k) - table.value(told.right[0], k)) > 0 for k in keys)
        return f"{'above' if part.sign > 0 else 'below'} at {above} of {len(keys)} points"
    digits = next(c.digits for c in table.columns if c.key == told.column)
    if told.rows:
        return ", ".join(f"{table.value(row, told.column):.{digits}f}" for row in told.rows)
    sides = []
    for rows, start in ((told.left, told.left_from), (told.right, told.right_from)):
        mean = float(np.mean([table.value(row, told.column) for row in rows]))
        sides.append(f"{mean - table.value(start, told.column):+.{digits}f}" if start else f"{mean:.{digits}f}")
    return " vs ".join(sides)


def their_images(table: PublishedTable, row: str) -> tuple[np.ndarray, np.ndarray]:
    """(thousands of steps, scores) of one learning curve of the paper, whose columns are keyed k5, k12, ..."""
    steps = np.array([float(c.key.removeprefix("k")) for c in table.columns])
    return steps, np.array([table.value(row, c.key) for c in table.columns])


def their_ratio(table: PublishedTable, faster: str, slower: str) -> tuple[float, bool]:
    """(steps that the slower curve needs for its last score over those of the faster, whether it is only a lower bound:
    the faster one starts above)."""
    steps, scores = their_images(table, slower)
    final = float(scores.max())
    reached = images_to_reach(*their_images(table, faster), final)
    if reached is None:
        raise ValueError(f"{table.id}: {faster} never reaches the {final} of {slower}")
    return images_to_reach(steps, scores, final) / reached, reached <= steps[0]


def _their_ratio(table: PublishedTable, told: Paper) -> str:
    ratio, bound = their_ratio(table, told.left[0], told.right[0])
    return f"{'at least ' if bound else ''}{ratio:.0f}x to its last score"


def _words(arms: Recipe, part: Comparison) -> str:
    """A comparison in words, from the labels of its arms where it has none of its own."""
    name = _name(arms, part.metric)
    if part.text:
        return f"{name}: {part.text}"
    sides = (" and ".join(_label(arms, t) for t in terms) for terms in (part.left, part.right))
    if part.kind == "images":
        return f"{name}: fewer images for {next(sides)} than for {next(sides)}"
    return f"{name}: {next(sides)} {'above' if part.sign > 0 else 'below'} {next(sides)}"


def _part_said(one: Outcome, judged: Judged) -> str:
    if one.missing:
        return f"{NOT_RUN} ({len(one.needed - one.missing)} of {len(one.needed)} models)"
    if one.why:
        return f"{UNTESTABLE} ({one.why})"
    tests = sum(len(other.effects) for other in judged.outcomes)
    up, down = max(one.p_values(True)), min(1.0, tests * min(one.p_values(False)))
    return "as claimed" if up <= judged.level else "reversed" if down <= judged.level else "undecided"


def _count(judged: Judged, seeds: int) -> str:
    counts = sorted({one.clusters for one in judged.outcomes if one.effects})
    if not counts:
        return EMPTY
    items = "-".join(str(n) for n in dict.fromkeys((counts[0], counts[-1])) if n)
    return f"{seeds} \N{MULTIPLICATION SIGN} {items}" if items else str(seeds)


def _p(value: float | None) -> str:
    return EMPTY if value is None else "<0.0001" if value < 0.0001 else f"{value:.2g}"


COLUMNS = [
    Column("claim", "Claim", text=True),
    Column("verdict", "Verdict", text=True),
    Column("paper", "Paper", text=True),
    Column("here", "Here", text=True),
    Column("p", "p", text=True),
    Column("count", "Seeds \N{MULTIPLICATION SIGN} prompts", text=True),
]


def _row(number: str, claim: str, paper: str, here: str, p: str, count: str, verdict: str) -> Row:
    words = {"claim": claim, "verdict": verdict, "paper": paper, "here": here, "p": p, "count": count}
    return Row(number, {key: Cell(word) for key, word in words.items()})


def _rows(paper: published.Paper, arms: Recipe, judged: Judged, seeds: int) -> Iterator[Row]:
    claim, outcomes = judged.claim, judged.outcomes
    if len(outcomes) == 1:
        one = outcomes[0]
        words = f"{claim.text}. {_words(arms, one.part)}"
        yield _row(
            claim.number,
            words,
            _theirs(paper, one.part),
            _here(one),
            _p(judged.adjusted),
            _count(judged, seeds),
            judged.said,
        )
        return
    tested = judged.p is not None
    held = sum(_part_said(one, judged) == "as claimed" for one in outcomes)
    reversed_ = sum(_part_said(one, judged) == "reversed" for one in outcomes)
    here = f"{held} of {len(outcomes)} as claimed, {reversed_} reversed" if tested else EMPTY
    yield _row(claim.number, claim.text, EMPTY, here, _p(judged.adjusted), _count(judged, seeds), judged.said)
    for i, one in enumerate(outcomes, 1):
        p = _p(min(max(one.p_values(True)), min(one.p_values(False)))) if one.effects else EMPTY
        count = _count(replace(judged, outcomes=(one,)), seeds)
        yield _row(
            f"{claim.number}.{i}", _words(arms, one.part), _theirs(paper, one.part), _here(one), p, count,
            _part_said(one, judged),
        )  # fmt: skip


def summary(judged: Sequence[Judged]) -> str:
    """How many claims met which verdict, e.g. "2 reproduced (C1, C3), 1 contradicted (C9), ..."."""
    parts = []
    for verdict in ORDER:
        numbers = [one.claim.number for one in judged if one.verdict == verdict]
        if numbers:
            parts.append(f"{len(numbers)} {verdict} ({', '.join(numbers)})")
    return ", ".join(parts)


def table(paper: str, scale: str, judged: Sequence[Judged], seeds: Sequence[int] | None = None) -> Filled:
    """The claims table: a row for every claim, below it one for each comparison where it has several."""
    arms, numbers = recipe.load(paper), published.load(paper)
    seeds = arms.scale(scale).seeds if seeds is None else seeds
    rows = [row for one in judged for row in _rows(numbers, arms, one, len(seeds))]
    tested = [one for one in judged if one.p is not None]
    notes = [
        f"Claims numbered as in {numbers.paper['claims']}; the paper's numbers are its own, at its scale. A claim "
        "holds where all its comparisons do and is contradicted where one is reversed.",
        "Here: scores left vs right, their difference (or change over a sweep, or ratio of images) and its 95 % "
        "interval over seeds and prompts (docs/evaluators.md 7.6). Of several snapshots the one that speaks least for "
        "the claim.",
        f"p of a claim: corrected by Holm for the {len(tested)} tested claims; of a comparison: as it is, decided at "
        f"{tested[0].level:.2g}." if tested else "No claim was tested.",
    ]  # fmt: skip
    notes += list(dict.fromkeys(f"{one.claim.number}: {o.note}." for one in judged for o in one.outcomes if o.note))
    title = f"The paper's claims: {arms.scale(scale).title}"
    return Filled(f"{paper}_claims_{scale}", title, COLUMNS, rows, notes, summary(judged), row_head="No.")
