"""Two judges on the same images (docs/evaluators.md 2.8): Cohen's kappa per task, and the difference of the scores
with a paired interval. Publish it before comparing numbers of different judges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evals.engine.generation import IMAGES_PER_PROMPT
from evals.engine.records import Outcome
from evals.geneval.official import place_of
from vgt.core import files, geneval_prompts, record, samples
from vgt.core.record import Record
from vgt.core.scenes import TASKS
from vgt.core.statistics import Interval, cluster_interval, compare_pairs

PROTOCOL = "judge-agreement"
VERSION = 1
DRAWS, LEVEL = 2000, 0.95


@dataclass(frozen=True)
class Verdicts:
    """One judge's file: image -> line of the official format; image -> content hash where the evidence tells it."""

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


# ---------------------------------------------------------------------------------------------------------- kappa


def table(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Numbers of (both right, A only, B only, neither), float64 [4], of bool [N] and [N]."""
    return np.array([(a & b).sum(), (a & ~b).sum(), (~a & b).sum(), (~a & ~b).sum()], np.float64)


def kappa(counts: np.ndarray) -> np.ndarray:
    """Cohen's kappa (p_o - p_e) / (1 - p_e) of tables [..., 4]; NaN where both judges say the same of every image, so
    that chance alone agrees fully."""
    share = counts / counts.sum(-1, keepdims=True)
    both, only_a, only_b, neither = np.moveaxis(share, -1, 0)
    chance = (both + only_a) * (both + only_b) + (only_b + neither) * (only_a + neither)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1, (both + neither - chance) / (1 - chance), np.nan)


def kappa_interval(pairs: Pairs, seed: int = 0) -> Interval | None:
    """Kappa over all images with a bootstrap over prompts within tasks; None where kappa is not defined."""
    value = float(kappa(table(pairs.a, pairs.b)))
    if np.isnan(value):
        return None
    clusters = sorted(set(zip(pairs.tags, pairs.prompts, strict=True)))
    where = {cluster: i for i, cluster in enumerate(clusters)}
    counts = np.zeros((len(clusters), 4))
    for i, cluster in enumerate(zip(pairs.tags, pairs.prompts, strict=True)):
        counts[where[cluster]] += table(pairs.a[i : i + 1], pairs.b[i : i + 1])
    rng, drawn = np.random.default_rng(seed), 0
    for tag in sorted(set(pairs.tags)):
        mine = counts[[i for i, cluster in enumerate(clusters) if cluster[0] == tag]]
        drawn = drawn + rng.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), DRAWS) @ mine
    values = kappa(drawn)
    if len(clusters) < 2 or np.isnan(values).all():
        return Interval(value, None, None, LEVEL, f"none: {len(clusters)} prompts show no spread")
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    method = f"cluster bootstrap over {len(clusters)} prompts within tasks, {DRAWS} draws, percentiles"
    return Interval(value, min(float(low), value), max(float(high), value), LEVEL, method)


# -------------------------------------------------------------------------------------------------------- reading


def _told(path: Path) -> tuple[str, dict[str, str]]:
    """Judge's name and image hashes from the evidence beside a results file, as far as there is any."""
    name, images = path.stem, {}
    if (path.parent / "run.json").is_file():
        name = json.loads((path.parent / "run.json").read_text(encoding="utf-8"))["judge"]["name"]
    if (path.parent / "detections.jsonl").is_file():
        entries = map(json.loads, (path.parent / "detections.jsonl").read_text(encoding="utf-8").splitlines())
        images = {_key(e["id"]): e["image"] for e in entries if "image" in e}
    return name, images


def _key(filename: str) -> str:
    where = place_of(filename)
    return f"{where[0]:05d}/{where[1]:04d}" if where else filename


def read(path: str | Path, name: str | None = None) -> Verdicts:
    """A results file of either scorer; ``name`` of the judge: by default what the evidence beside it says, or the
    file's stem.  Raises ValueError for lines that are no results and images that come twice."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"results {path} do not exist; give a results.jsonl of `vgt eval geneval` or the official scorer"
        )
    lines: dict[str, dict] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
            key, _ = _key(line["filename"]), (line["tag"], line["prompt"], line["correct"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: not a result of GenEval ({type(error).__name__}: {error})"
            ) from error
        if key in lines:
            raise ValueError(f"{path}, line {number}: image {key} comes twice; each image counts once")
        lines[key] = line
    told, images = _told(path)
    return Verdicts(name or told, path, lines, images)


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


# -------------------------------------------------------------------------------------------------------- records


def _expected(pairs: Pairs, task: str | None) -> int:
    """How many images the whole set has: all of GenEval's, where these are its prompts, else all that were judged."""
    official = [p for p in geneval_prompts.prompts() if task is None or p["tag"] == task]
    if set(pairs.prompts) <= {p["prompt"] for p in official}:
        return IMAGES_PER_PROMPT * len(official)
    return len(pairs.ids) if task else pairs.asked


def measured(pairs: Pairs) -> dict[str, tuple[Interval | None, int, dict]]:
    """Metric -> (interval, images that the whole set has, further results)."""
    tasks = [task for task in TASKS if task in pairs.tags]
    whole = _expected(pairs, None)
    same = (pairs.a == pairs.b).astype(float)
    weighed = pairs.tags if len(tasks) == len(TASKS) else None
    compared = compare_pairs(pairs.a.astype(float), pairs.b.astype(float), pairs.prompts, weighed, span=1.0)
    counts = dict(zip(("both", "only_a", "only_b", "neither"), table(pairs.a, pairs.b).tolist(), strict=True))
    found = {
        "kappa": (kappa_interval(pairs), whole, counts),
        "agreement": (cluster_interval(same, pairs.prompts), whole, {}),
        "difference": (compared.difference, whole, {"p_value": compared.p_value, "prompts": compared.clusters}),
    }
    for task in tasks:
        part = pairs.part(task)
        found[f"kappa-{task}"] = (kappa_interval(part), _expected(part, task), {})
    return found


def run(
    a: str | Path,
    b: str | Path,
    *,
    records: str | Path,
    names: Sequence[str | None] = (None, None),
    partial_ok: bool = False,
) -> Outcome:
    """Records ``<A>~<B>/agreement/<metric>``: kappa, kappa-<task>, agreement (share of equal verdicts) and difference
    (score of A minus that of B, the mean of the six tasks where all are there).

    Images that only one judge saw withhold the values unless ``partial_ok``.  Raises ValueError as ``pair`` does."""
    verdicts = [read(path, name) for path, name in zip((a, b), names, strict=True)]
    pairs = pair(*verdicts)
    hashes = [files.digest_file(v.path) for v in verdicts]
    subject = "~".join(v.name for v in verdicts)
    metrics = ["kappa", "agreement", "difference", *(f"kappa-{t}" for t in TASKS if t in pairs.tags)]
    keys = {m: record.make_key(hashes=hashes, version=VERSION, partial_ok=partial_ok, metric=m) for m in metrics}
    kept = {m: record.find(records, f"{subject}/agreement/{m}", key) for m, key in keys.items()}
    if all(kept.values()):
        return Outcome(list(kept.values()), 0, len(kept))
    about = {
        "subject": subject,
        "suite": "agreement",
        "protocol": PROTOCOL,
        "protocol_params": {"a": verdicts[0].name, "b": verdicts[1].name},
        "judge": subject,
        "fingerprint": files.digest(*hashes),
        "suite_hash": files.digest_json(sorted(set(pairs.prompts))),
    }
    made = [
        record.make(**about, **_fields(metric, pairs, *told, partial_ok), metric=metric, key=keys[metric])
        for metric, told in measured(pairs).items()
    ]
    for each in made:
        _write(each, pairs, records)
    return Outcome(made, len(made), 0)


def _fields(metric: str, pairs: Pairs, interval: Interval | None, expected: int, extra: dict, partial_ok: bool) -> dict:
    """A record's value, counts and remarks; the value is withheld where an image was judged by one judge only."""
    lost = pairs.asked - len(pairs.ids)
    shown = interval if partial_ok or not lost else None
    notes = [
        None if interval is not None else "both judges give every image one verdict: kappa is not defined",
        f"{lost} images were judged by one judge only" if lost else None,
        None if pairs.checked else "no evidence beside the results tells whether both judged the same images",
    ]
    n = len(pairs.part(metric.removeprefix("kappa-")).ids) if metric.startswith("kappa-") else len(pairs.ids)
    return {
        "value": shown and shown.value,
        "low": shown and shown.low,
        "high": shown and shown.high,
        "interval": shown and shown.method,
        "unit": "share" if metric == "agreement" else "",
        "n": n,
        "n_expected": max(expected, n),
        "n_failed": lost,
        "note": "; ".join(filter(None, notes)) or None,
        "extra": extra,
    }


def _write(made: Record, pairs: Pairs, records: str | Path) -> None:
    """A record, after its samples where it is a mean over images."""
    values = {"agreement": pairs.a == pairs.b, "difference": pairs.a.astype(float) - pairs.b.astype(float)}
    if made.value is not None and made.metric in values:
        groups = pairs.tags if made.metric == "difference" and set(pairs.tags) == set(TASKS) else None
        samples.write(samples.Samples(pairs.ids, values[made.metric].tolist(), pairs.prompts, groups), records, made)
    else:
        samples.path(records, made).unlink(missing_ok=True)
    record.write(made, records)
