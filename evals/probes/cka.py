"""``vgt eval cka``: how alike encoders see the same images, by linear CKA (docs/evaluators.md 5), a record per pair."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from evals.engine import records as engine
from evals.engine.api import Tokenizer
from evals.engine.options import listed, option
from evals.engine.records import Estimate, Outcome
from evals.engine.registry import protocols
from evals.metrics import latents as space
from evals.probes.catalogue import jackknife
from evals.probes.cli import ANCHOR
from evals.probes.cli import Latents as Encoders
from evals.probes.data import SEED, Latents, ProbeSet, encoded, evidence_path
from evals.probes.run import chosen
from vgt.core import files, record
from vgt.core.statistics import Interval

EXAMPLE = "vgt eval cka --subjects vgt:vgt_ae_internvl,vgt:pixel_ae,pca"
VIEWS = {"mean": "mean over tokens", "max": "largest over tokens", "grid": "all tokens of an image side by side"}
FEW = 5  # images a dimension, below which the plain estimator is too biased


@dataclass(frozen=True)
class _Side:
    """One encoder of a pair: its images standardized per dimension [N, d]."""

    tokenizer: Tokenizer
    found: Latents
    points: np.ndarray


def run(
    tokenizers: Sequence[Tokenizer],
    *,
    work: str | Path,
    records: str | Path,
    n: int | None = None,
    images: Sequence[ProbeSet] | None = None,
    through: str = "mean",
    partial_ok: bool = False,
) -> Outcome:
    """CKA of every two of ``tokenizers`` on the same images, each at its encoder's size (``images``: one set per
    tokenizer; default ``n`` test scenes).  Latents stored by the probes are used again.

    Raises ValueError for fewer than two tokenizers, two of one name, sets that differ, or an unknown view."""
    names = [t.name for t in tokenizers]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"subjects {', '.join(names)}: a comparison needs two or more with names of their own")
    if through not in VIEWS:
        raise ValueError(f"view {through!r} is unknown; choose one of {', '.join(VIEWS)}")
    sets = [chosen(t, n, s) for t, s in zip(tokenizers, images or [None] * len(names), strict=True)]
    if any(s.ids != sets[0].ids or s.name != sets[0].name for s in sets):
        raise ValueError("the encoders were given different images; compare them on the same ones")
    pairs = [sorted(pair, key=lambda i: names[i]) for pair in itertools.combinations(range(len(names)), 2)]
    sides: dict[int, _Side] = {}
    outcome = Outcome.none()
    for a, b in pairs:
        asked = _Pair(tokenizers[a], tokenizers[b], sets[a], sets[b], through)
        keys, measures = {asked.metric: asked.key}, {}
        kept = engine.stored(records, asked.first.name, asked.suite, keys, undefined_ok=True, work=work)
        if not kept:
            for i in {a, b} - set(sides):
                sides[i] = _side(tokenizers[i], sets[i], through, work)
            measures = {asked.metric: _measure(asked, sides[a], sides[b], partial_ok)}
        common = {"subject": asked.first.name, "suite": asked.suite, "seed": SEED}
        outcome += engine.write(records, keys, kept, measures, common, partial_ok)
    return outcome


@dataclass(frozen=True)
class _Pair:
    """What decides a record: both encoders in the order of their names, their images, the view."""

    first: Tokenizer
    second: Tokenizer
    images: ProbeSet
    others: ProbeSet
    through: str

    @property
    def suite(self) -> str:
        return f"{self.images.name}-cka" + (f"-{self.through}" if self.through != "mean" else "")

    @property
    def metric(self) -> str:
        return f"cka-{record.folder_name(self.second.name)}"

    @property
    def about(self) -> dict:
        sizes = {"size": self.images.params.get("size"), "other_size": self.others.params.get("size")}
        return self.images.params | sizes | {"view": VIEWS[self.through], "other": self.second.name, "few": FEW}

    @property
    def key(self) -> str:
        prints = [self.first.fingerprint, self.second.fingerprint, self.images.fingerprint, self.others.fingerprint]
        return record.make_key(cka=prints, params=self.about, seed=SEED)


def _side(tokenizer: Tokenizer, images: ProbeSet, through: str, work: str | Path) -> _Side:
    found = encoded(tokenizer, images, evidence_path(work, tokenizer, images))
    tokens = found.tokens
    views = {"mean": tokens.mean(1), "max": tokens.max(1), "grid": tokens.reshape(len(tokens), -1)}
    return _Side(tokenizer, found, space.standardize(views[through]))


def _measure(asked: _Pair, a: _Side, b: _Side, partial_ok: bool) -> Estimate:
    started = time.perf_counter()
    failed = max(len(a.found.failed), len(b.found.failed))
    protocol = "cka-linear-unbiased" if _few(a.points, b.points) else "cka-linear"
    interval, extra, note = None, {}, None
    if failed and not (partial_ok and np.array_equal(a.found.kept, b.found.kept)):
        note = f"{failed} images cannot be read" + (", others on the two sides" if partial_ok else "")
    else:
        interval, chance = compare(a.points, b.points, a.found.clusters)
        extra = {"other": b.tokenizer.name, "chance": chance, "dimensions": [a.points.shape[1], b.points.shape[1]]}
    images, n = a.found.images, len(a.found.kept)
    return Estimate(
        metric=asked.metric,
        n=n,
        asked=n + failed,
        n_expected=max(images.expected, n),
        n_failed=failed,
        note=note,
        extra=extra,
        estimate=interval,
        fields={
            "protocol": protocol,
            "protocol_params": dict(protocols()[protocol].settings) | asked.about,
            "fingerprint": files.digest(a.tokenizer.fingerprint, b.tokenizer.fingerprint),
            "suite_hash": files.digest(images.fingerprint, b.found.images.fingerprint),
            "seconds": round(time.perf_counter() - started, 3),
        },
    )


def _few(x: np.ndarray, y: np.ndarray) -> bool:
    return len(x) < FEW * max(x.shape[1], y.shape[1])


def compare(x: np.ndarray, y: np.ndarray, cluster: np.ndarray) -> tuple[Interval, float]:
    """CKA of X [N, d] and Y [N, e] with a jackknife over blocks of images, and after the images of Y were shuffled.
    Unbiased where there are fewer than 5 images a dimension; the unbiased estimate is cut at neither end."""
    mixed = np.random.default_rng(SEED).permutation(len(y))
    if not _few(x, y):
        interval = jackknife(lambda keep: space.linear_cka(x[keep], y[keep]), cluster, least=0.0)
        return interval, space.linear_cka(x, y[mixed])
    k, m = space.gram(x), space.gram(y)
    interval = jackknife(lambda keep: space.unbiased_cka(k[np.ix_(keep, keep)], m[np.ix_(keep, keep)]), cluster)
    return interval, space.unbiased_cka(k, m[np.ix_(mixed, mixed)])


# --------------------------------------------------------------------------------------------------- the command line


class Options(Encoders):
    subjects: str | None = option(None, "encoders: vgt:<checkpoint> or pca", metavar="A,B,...")
    name: str | None = option(None, "names that the records carry, one a subject", metavar="A,B,...")
    through: Literal["mean", "max", "grid"] = option("mean", "how an image's tokens become one point", flag="--view")


def evaluate(given: Options) -> Outcome:
    named = listed(given.subjects) if given.subjects else None
    if named is None:
        example = EXAMPLE.removeprefix("vgt eval cka ")
        raise ValueError(f"--subjects is missing; name two or more, for example {example}")
    tokenizers = [given.encoder(name) for name in dict.fromkeys([*named, ANCHOR])]
    names = listed(given.name) if given.name is not None else [None] * len(tokenizers)
    if given.name is not None and len(names) != len(named):
        raise ValueError(f"--name {given.name!r} gives {len(names)} names to {len(named)} subjects; give one each")
    tokenizers = [
        given.model_copy(update={"name": name}).named(each) for each, name in itertools.zip_longest(tokenizers, names)
    ]
    return run(tokenizers, **given.passed_to(run, n=None, images=[given.images(t.size) for t in tokenizers]))
