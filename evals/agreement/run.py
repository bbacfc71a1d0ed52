"""How far two judges agree on the same images (docs/evaluators.md 2.8, 3.4): Cohen's kappa, and the difference of the
scores with a paired interval.  Publish it before comparing numbers of different judges.

``of_results`` takes two results files of GenEval, ``of_answers`` two files of stored answers of DPG-Bench.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from evals.dpg.rules import CATEGORIES, answers_of, by_item, category, score_tile
from evals.dpg.run import read_answers
from evals.engine import options
from evals.engine.generation import IMAGES_PER_PROMPT, prompt_id
from evals.engine.judging import Judging, Named, Rows, record_fields
from evals.engine.options import option
from evals.engine.records import Estimate, Measure, Outcome, settled, stored, write
from evals.engine.store import read_rows
from evals.geneval.official import place_of
from evals.geneval.run import ROWS
from evals.judges.answering import label
from vgt.core import files, geneval_prompts, record, text
from vgt.core.samples import Samples
from vgt.core.scenes import TASKS
from vgt.core.statistics import Interval, cluster_interval, compare_pairs, jackknife_interval
from vgt.core.text import Fields

VERSION = 1
DRAWS, LEVEL = 2000, 0.95
UNDEFINED = "both judges give every image one verdict: kappa is not defined"

# ---------------------------------------------------------------------------------------------------------- kappa


def table(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Counts of two judges' verdicts, bool [N] twice -> float64 [2, 2]: A in rows, B in columns, yes before no."""
    return np.array([[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]], np.float64)


def kappa(counts: np.ndarray) -> np.ndarray:
    """Cohen's kappa (p_o - p_e) / (1 - p_e) of tables [..., 2, 2]; NaN where both judges say the same of everything, so
    that chance alone agrees fully."""
    share = counts / counts.sum((-2, -1), keepdims=True)
    observed = share[..., 0, 0] + share[..., 1, 1]
    chance = (share.sum(-1) * share.sum(-2)).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)


def bootstrapped_kappa(tables: np.ndarray, groups: Sequence[str], seed: int = 0) -> Interval | None:
    """Kappa of all clusters [C, 2, 2] together, with a bootstrap of clusters within groups; None where it is not
    defined."""
    value = float(kappa(tables.sum(0)))
    if np.isnan(value):
        return None
    rng, resampled = np.random.default_rng(seed), 0
    for group in sorted(set(groups)):
        mine = tables[[i for i, each in enumerate(groups) if each == group]].reshape(-1, 4)
        resampled = resampled + rng.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), DRAWS) @ mine
    values = kappa(resampled.reshape(-1, 2, 2))
    if len(tables) < 2 or np.isnan(values).all():
        return Interval(value, None, None, LEVEL, f"none: {len(tables)} prompts show no spread")
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    method = f"cluster bootstrap over {len(tables)} prompts within tasks, {DRAWS} draws, percentiles"
    return Interval(value, min(float(low), value), max(float(high), value), LEVEL, method)


def jackknifed_kappa(tables: np.ndarray) -> tuple[Interval | None, str | None]:
    """Kappa of all items [C, 2, 2] together, items deleted one at a time; and what there is to say about it."""
    value = float(kappa(tables.sum(0))) if len(tables) else np.nan
    if np.isnan(value):
        return None, "both judges gave one and the same answer to everything: kappa is not defined"
    left_out = kappa(tables.sum(0) - tables) if len(tables) > 1 else np.array([np.nan])
    if np.isnan(left_out).any():
        note = "no interval: too few items, or one of them alone shows a difference"
        return Interval(round(value, 12), None, None, LEVEL, ""), note
    found = jackknife_interval(value, left_out.tolist())
    low, high = round(max(-1.0, found.low), 12), round(min(1.0, found.high), 12)
    method = found.method.replace("blocks", "items")
    return replace(found, value=round(value, 12), low=low, high=high, method=method), None


# ------------------------------------------------------------------------------------------------ results of GenEval


@dataclass(frozen=True)
class Verdicts:
    """One judge's results file: image -> line of the official format; image -> content hash where the evidence beside
    it tells that."""

    name: str
    path: Path
    lines: dict[str, dict]
    images: dict[str, str]


@dataclass(frozen=True)
class Pairs:
    """Verdicts on the same images, one entry each: image ids, tasks, prompts, bool verdicts of A and B; ``asked``: how
    many images either judge saw; ``checked``: whether the images themselves were compared."""

    ids: list[str]
    tags: list[str]
    prompts: list[str]
    a: np.ndarray
    b: np.ndarray
    asked: int
    checked: bool

    def part(self, tag: str) -> Pairs:
        """Those of one task."""
        at = [i for i, t in enumerate(self.tags) if t == tag]
        ids, tags, prompts = ([told[i] for i in at] for told in (self.ids, self.tags, self.prompts))
        return Pairs(ids, tags, prompts, self.a[at], self.b[at], self.asked, self.checked)

    def kappa(self, seed: int = 0) -> Interval | None:
        """Kappa over all images, with a bootstrap over prompts within tasks."""
        clusters = list(zip(self.tags, self.prompts, strict=True))
        names = sorted(set(clusters))
        at = np.array([names.index(cluster) for cluster in clusters])
        tables = np.array([table(self.a[at == i], self.b[at == i]) for i in range(len(names))])
        return bootstrapped_kappa(tables, [tag for tag, _ in names], seed)


def _key(filename: str) -> str:
    where = place_of(filename)
    return f"{where[0]:05d}/{where[1]:04d}" if where else filename


def read_results(path: str | Path, name: str | None = None) -> Verdicts:
    """A results file of either scorer; ``name`` of the judge: by default what the evidence beside it says, or the
    file's stem.  Raises ValueError for lines that are no results and images that come twice."""
    path = text.present(path, "results", "give a results.jsonl of `vgt eval geneval` or the official scorer")
    lines: dict[str, dict] = {}
    for line in text.objects(path):
        key, _ = _key(line.text("filename")), (line.text("tag"), line.text("prompt"), line.flag("correct"))
        if key in lines:
            raise ValueError(f"{line.where}: image {key} comes twice; each image counts once")
        lines[key] = line
    rows = path.with_name(ROWS)
    images = {_key(row["id"]): row["image"] for row in read_rows(rows, said=True) if "image" in row}
    if name is None and (beside := rows.with_suffix(".run.json")).is_file():
        name = Fields.of(text.read_json(beside), str(beside)).object("judge").text("name")
    return Verdicts(name or path.stem, path, lines, images)


def pair(a: Verdicts, b: Verdicts) -> Pairs:
    """Verdicts on the images that both saw.

    Raises ValueError where they share none, or where prompts or images of one id differ."""
    common = sorted(a.lines.keys() & b.lines.keys())
    if not common:
        raise ValueError(f"{a.path} and {b.path} have no image in common; judge one set of images twice")
    for key in common:
        if a.lines[key]["prompt"] != b.lines[key]["prompt"]:
            one, other = a.lines[key]["prompt"], b.lines[key]["prompt"]
            raise ValueError(f"image {key} shows {one!r} for {a.name} and {other!r} for {b.name}: other prompt sets")
        if key in a.images and key in b.images and a.images[key] != b.images[key]:
            raise ValueError(f"image {key} of {a.name} is another image than that of {b.name}: judge the same images")
    tags, prompts = ([a.lines[key][field] for key in common] for field in ("tag", "prompt"))
    right = [np.array([bool(v.lines[key]["correct"]) for key in common]) for v in (a, b)]
    checked = all(key in a.images and key in b.images for key in common)
    return Pairs(common, tags, prompts, *right, len(a.lines.keys() | b.lines.keys()), checked)


def _expected(pairs: Pairs, task: str | None) -> int:
    """How many images the whole set has: all of GenEval's, where these are its prompts, else all that were judged."""
    official = [p for p in geneval_prompts.prompts() if task is None or p["tag"] == task]
    if set(pairs.prompts) <= {p["prompt"] for p in official}:
        return IMAGES_PER_PROMPT * len(official)
    return len(pairs.ids) if task else pairs.asked


def _estimates(pairs: Pairs, partial_ok: bool) -> dict[str, Estimate]:
    """Metric -> its Estimate; the value is withheld where an image was judged by one judge only."""
    lost = pairs.asked - len(pairs.ids)
    shown = partial_ok or not lost

    def estimate(metric: str, part: Pairs, task: str | None, found: Interval | None, **more) -> Estimate:
        notes = (
            None if found is not None else UNDEFINED,
            f"{lost} images were judged by one judge only" if lost else None,
            None if part.checked else "no evidence beside the results tells whether both judged the same images",
        )
        n = len(part.ids)
        counts = {"n": n, "asked": n, "n_expected": max(_expected(part, task), n), "n_failed": lost}
        note = "; ".join(filter(None, notes)) or None
        return Estimate(metric=metric, estimate=found if shown else None, note=note, **counts, **more)

    tasks = [task for task in TASKS if task in pairs.tags]
    groups = pairs.tags if len(tasks) == len(TASKS) else None
    counts = zip(("both", "only_a", "only_b", "neither"), table(pairs.a, pairs.b).ravel().tolist(), strict=True)
    same, a, b = (pairs.a == pairs.b).astype(float), pairs.a.astype(float), pairs.b.astype(float)
    compared = compare_pairs(a, b, pairs.prompts, groups, span=1.0)
    test = {"p_value": compared.p_value, "prompts": compared.clusters}
    kept = [Samples(pairs.ids, v.tolist(), pairs.prompts, g) for v, g in ((same, None), (a - b, groups))]
    found = [
        estimate("kappa", pairs, None, pairs.kappa(), extra=dict(counts)),
        estimate("agreement", pairs, None, cluster_interval(same, pairs.prompts), unit="share", kept=kept[0]),
        estimate("difference", pairs, None, compared.difference, extra=test, kept=kept[1]),
        *(estimate(f"kappa-{t}", part, t, part.kappa()) for t in tasks for part in [pairs.part(t)]),
    ]
    return {each.metric: each for each in found}


def of_results(
    a: str | Path,
    b: str | Path,
    *,
    records: str | Path,
    names: Sequence[str | None] = (None, None),
    partial_ok: bool = False,
    name: str | None = None,
) -> Outcome:
    """Records ``<A>~<B>/agreement/<metric>``: kappa, kappa-<task>, agreement (share of equal verdicts) and difference
    (score of A minus that of B, the mean of the six tasks where all are there).

    Images that only one judge saw withhold the values unless ``partial_ok``; ``name``: of the records in the place of
    ``<A>~<B>``.  Raises ValueError as ``pair`` does."""
    verdicts = [read_results(path, name) for path, name in zip((a, b), names, strict=True)]
    pairs = pair(*verdicts)
    hashes = [files.digest_file(v.path) for v in verdicts]
    both = "~".join(v.name for v in verdicts)
    told = Named(both, files.digest(*hashes), origin=record.place(a, b, named=name is not None))
    subject = settled(records, told, name)
    metrics = ["kappa", "agreement", "difference", *(f"kappa-{t}" for t in TASKS if t in pairs.tags)]
    keys = {m: record.make_key(hashes=hashes, version=VERSION, partial_ok=partial_ok, metric=m) for m in metrics}
    kept = stored(records, subject, "agreement", keys, undefined_ok=True)
    if len(kept) == len(keys):
        return write(records, keys, kept)
    common = {
        "subject": subject,
        "suite": "agreement",
        "protocol": "judge-agreement",
        "protocol_params": {"a": verdicts[0].name, "b": verdicts[1].name},
        "judge": both,
        "fingerprint": told.fingerprint,
        "origin": told.origin,
        "suite_hash": files.digest_json(sorted(set(pairs.prompts))),
    }
    return write(records, keys, {}, _estimates(pairs, partial_ok), common)


# -------------------------------------------------------------------------------------------- answers of DPG-Bench


def paired_scores(prompts: list[dict], a: Rows, b: Rows) -> dict[str, list[tuple[str, str, float, float]]]:
    """(id, item, A's score, B's score) of everything that both judged: "dpg" by image, a category by question."""
    rows: dict[str, list[tuple[str, str, float, float]]] = {}
    for index, sample in sorted(a.keys() & b.keys()):
        both = {"a": a[index, sample], "b": b[index, sample]}
        if any("error" in row for row in both.values()):
            continue
        questions, item = prompts[index]["questions"], prompt_id(prompts, index)
        (raw_a, zero_a), (raw_b, zero_b) = (score_tile(words, questions) for words in answers_of(both).values())
        means = (float(np.mean(list(zeroed.values()))) for zeroed in (zero_a, zero_b))
        rows.setdefault("dpg", []).append((f"{item}:{sample}", item, *means))
        for q in questions:
            number = q["proposition_id"]
            row = (f"{item}:{sample}:{number}", item, raw_a[number], raw_b[number])
            rows.setdefault(category(q), []).append(row)
    return rows


def _tables(rows: Mapping[str, list[tuple[str, str, float, float]]]) -> np.ndarray:
    """Tables [items, 2, 2] of the answers to all questions."""
    said: dict[str, list[tuple[bool, bool]]] = {}
    for name, found in rows.items():
        for _, item, a, b in found if name != "dpg" else ():
            said.setdefault(item, []).append((a == 1, b == 1))
    return np.array([table(*np.array(said[item]).T) for item in sorted(said)]).reshape(-1, 2, 2)


def _check_same_questions(a: Judging, b: Judging) -> None:
    """Raises ValueError unless two judges were asked the same about the same images."""
    one, other = a.judge.name, b.judge.name
    for what, left, right in (
        ("images", a.run.identity, b.run.identity),
        ("questions", a.run.prompts, b.run.prompts),
    ):
        if left != right:
            raise ValueError(f"judges {one} and {other} were not asked about the same {what}; run both again")
    if a.judge.fingerprint == b.judge.fingerprint:
        raise ValueError(f"{one} and {other} are one and the same judge; name two with --judge and --against")


def of_answers(
    first: str | Path, second: str | Path, *, work: str | Path, records: str | Path, partial_ok: bool = False
) -> Outcome:
    """Records from two stored ``answers.jsonl``: ``kappa[a,b]`` over all questions, and the differences second minus
    first: ``bias[a,b]`` of the score and ``bias-<category>[a,b]``, in points of 100, clustered by item.  Where an image
    lacks the answers of a judge, all of them are withheld unless ``partial_ok``.

    Raises ValueError for answers about different images or questions."""
    (a, rows_a), (b, rows_b) = read_answers(first), read_answers(second)
    _check_same_questions(a, b)
    rows = paired_scores(a.run.prompts, rows_a, rows_b)
    judges = f"[{label(a.judge.name)},{label(b.judge.name)}]"
    n, asked = len(rows.get("dpg", [])), len(a.run.prompts) * a.run.images_per_prompt
    agreed, note = jackknifed_kappa(_tables(rows))
    found: dict[str, Measure | Estimate] = {
        f"kappa{judges}": Estimate(metric="kappa", estimate=agreed, note=note, n=n, asked=asked, n_expected=asked)
    }
    for name in ("dpg", *(c for c in CATEGORIES if c in rows)):
        metric = ("bias" if name == "dpg" else f"bias-{name}") + judges
        cells = [(each, item, y - x) for each, item, x, y in rows.get(name, [])]
        counts = {"n": n, "asked": asked, "n_expected": asked}
        found[metric] = by_item(metric, cells, scale=100.0, unit="points of 100", **counts)
    answers = [files.digest_file(first), files.digest_file(second)]
    parts = {"protocol": "dpg-agreement", "answers": answers, "partial_ok": partial_ok}
    common = record_fields(a, "dpg-agreement", {}, work)
    common["judge"] = ", ".join(f"{each.judge.name} {each.judge.fingerprint[:12]}" for each in (a, b))
    return write(records, {m: record.make_key(**parts, metric=m) for m in found}, {}, found, common, partial_ok)


# ---------------------------------------------------------------------------------------------------- command line

EXAMPLE = "vgt eval agreement --a ours/results.jsonl --b official/results.jsonl --names m2f-hf m2f-mmdet"


class Options(options.Common):
    a: Path = option(..., "results.jsonl of one judge", flag="--a", metavar="RESULTS")
    b: Path = option(..., "results.jsonl of the other", flag="--b", metavar="RESULTS")
    names: tuple[str, str] | None = option(
        None, "the judges (default: as the evidence says)", nargs=2, type=str, metavar=("A", "B")
    )
    partial_ok: bool = option(False, "give values where only one judge saw some images")


def evaluate(given: Options) -> Outcome:
    given.refuse("two files are compared as they are", "seed", "device")
    return of_results(given.a, given.b, **given.passed_to(of_results))
