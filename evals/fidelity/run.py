"""How close a set of images comes to a reference set: FID and its relatives (docs/evaluators.md 1.6-1.8, 6, 7.4).

Features are kept as evidence under ``work/fidelity/``: moments, and single features where a metric needs them.  Sets
are kept apart, so a reference set is run through a network once for all subjects.

Image i is in block i mod B, and one block is worked on at a time, so memory is one block's sums whatever the number of
images.  A block's files are whole or absent: a killed run repeats one block at most, shards take whole blocks, and
blocks are added in their order whoever made them.

    <folder>/index-07.json            ids, positions and pixel hashes of block 7, and what could not be read
    <folder>/moments-<view>-07.npz    float64 count, sum, sum of outer products
    <folder>/features-<view>-07.npz   float32 [n, d] in the order of the index
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evals import features
from evals.engine import records as engine
from evals.engine.generation import BALANCED, UNIFORM, Run
from evals.engine.images import ImageSet
from evals.engine.records import Estimate, Outcome
from evals.engine.store import WHOLE, Arrays, Shard, check_finite, exclusive
from evals.features import Extractor
from evals.fidelity import images as sets
from evals.fidelity import metrics as metrics_of
from evals.fidelity.images import Fingerprint, Reference, names_hash
from evals.fidelity.metrics import FEATURES, METRICS, MOMENTS, Kind, Measured, Pair
from evals.metrics import frechet
from evals.metrics.frechet import Moments, block_count
from vgt.core import files, record
from vgt.core.text import read_json
from vgt.core.weights import say_once

EFFLITE = ("efflite2",)


@dataclass(frozen=True)
class _Job:
    """One comparison: what is compared, how, and where evidence goes."""

    name: str
    images: ImageSet
    real: ImageSet | None
    reference: Reference | None
    paired: bool
    work: Path
    batch: int
    origin: str | None = None

    @property
    def fingerprint(self) -> str:
        return self.images.fingerprint

    @property
    def subject(self) -> str:
        """``name`` without the acceleration that the images of a generator carry."""
        return re.sub(r"(?<=.)@\d+x$", "", self.name)

    @property
    def accel(self) -> int | None:
        found = re.search(r".@(\d+)x$", self.name)
        return int(found[1]) if found else None

    @property
    def suite(self) -> str:
        side = self.reference or self.real
        return (side.name if side else "no-reference") + ("-paired" if self.paired else "")

    @property
    def suite_hash(self) -> str:
        return files.digest_json(
            [self.reference.digest if self.reference else None, self.real.fingerprint if self.real else None]
        )

    def pair(self, extractor: Extractor) -> Pair:
        root = self.work / "fidelity"
        real = Evidence(self.real, extractor, root, self.batch) if self.real else None
        return Pair(Evidence(self.images, extractor, root, self.batch), real, self.reference, self.paired)


def run(
    subject: str | Run,
    *,
    work: str | Path,
    records: str | Path,
    real: str | None = None,
    extractors: Sequence[str] = EFFLITE,
    metrics: Sequence[str] | None = None,
    weights: Mapping[str, str | Path] | None = None,
    any_weights: bool = False,
    n: int | None = None,
    size: int | None = None,
    paired: bool = False,
    allow_few: bool = False,
    partial_ok: bool = False,
    export: str | Path | None = None,
    batch: int = 32,
    device: str = "cpu",
    shard: Shard = WHOLE,
    name: str | None = None,
) -> Outcome:
    """Compare the images of ``subject`` ("folder:<dir>", "images:<model>@<accel>x" that GenEval's evaluator made in
    ``work``, or an npz of samples) with those of ``real`` (a folder, "photos", "scenes", "images:<model>", an npz of
    images or of statistics).

    ``extractors``: ids of features; ``weights``: id -> file or folder; ``size``: side in pixels that both sets are
    resized to by adm-crop (default: that of the subject's images, which must be squares of one size); ``paired``: the
    images are reconstructions of the real ones, matched by name; ``allow_few``: give Frechet distances of fewer images
    than dimensions, labelled; ``partial_ok``: give values where images could not be read; ``export``: write the
    subject's statistics there (for one extractor); ``shard``: only make this part's evidence; ``name``: that the
    records carry, by default the subject's own.

    Raises ValueError, before any image is run through a network, for what is missing or cannot be compared."""
    protocols, plan = asked(
        real=real, extractors=extractors, metrics=metrics, weights=weights, any_weights=any_weights, export=export
    )
    job = _job(subject, real, [m for _, m in plan], n, size, paired, Path(work), batch)
    job = replace(job, origin=sets.origin(subject, job.work, named=name is not None))
    job = replace(
        job,
        name=engine.settled(records, replace(job, name=job.subject), name, job.accel)
        + job.name.removeprefix(job.subject),
    )
    outcome = Outcome.none()
    for name in protocols:
        mine = [metric for x, metric in plan if x == name]
        headings = {metrics_of.record_name(m, name): _heading(job, m, protocols[name]) for m in mine}
        keys = {metric: heading.pop("key") for metric, heading in headings.items()}
        common = {"subject": job.subject, "accel": job.accel, "suite": job.suite, "origin": job.origin}
        engine.claim(records, keys, **common, fingerprint=job.fingerprint)
        kept = engine.stored(records, job.name, job.suite, keys, work=work)
        missing = [m for m in mine if metrics_of.record_name(m, name) not in kept]
        measures = {}
        if missing or export is not None:
            started = time.perf_counter()
            extractor = features.load(name, (weights or {}).get(name), any_weights=any_weights, device=device)
            pair = job.pair(extractor)
            _check(pair, missing, allow_few)
            features.canary(extractor)
            _collect(pair, missing, export is not None, shard)
            if not shard.whole:
                continue
            _check_pairs(pair)
            for metric in missing:
                found = _estimate(pair, metric, job, partial_ok)
                seconds = round(time.perf_counter() - started, 3)
                fields = {**found.fields, **headings[found.metric], "seconds": seconds}
                measures[found.metric] = replace(found, fields=fields)
            if export is not None:
                _export(pair.subject, export, partial_ok)
        common |= {"seed": subject.seed} if isinstance(subject, Run) else {}
        sampled = sets.settings(subject, job.work)
        common |= {"extra": {"settings": sampled}} if sampled is not None else {}
        outcome += engine.write(records, keys, kept, measures, common, partial_ok, work)
    return outcome


def asked(
    *,
    real: str | None = None,
    extractors: Sequence[str] = EFFLITE,
    metrics: Sequence[str] | None = None,
    weights: Mapping[str, str | Path] | None = None,
    any_weights: bool = False,
    export: str | Path | None = None,
) -> tuple[dict[str, dict], list[tuple[str, str]]]:
    """({extractor: its protocol}, [(extractor, metric) to measure]) of the arguments of ``run``.

    Raises ValueError for what can be told without the subject's images: nothing to compare with, metrics that are
    unknown or not defined on these features, weights that are absent, a reference file that cannot be read."""
    if real is None and export is None and metrics is None:
        raise ValueError(f"--real is missing; give {sets.REALS}")
    named = list(metrics if metrics is not None else metrics_of.DEFAULT if real else ())
    wanted = metrics_of.chosen(named)
    protocols = {
        name: features.protocol(name, (weights or {}).get(name), any_weights=any_weights) for name in extractors
    }
    optional = set(wanted) - set(metrics_of.chosen([name for name in named if name not in metrics_of.TABLES]))
    plan = _plan(wanted, tuple(extractors), optional)
    if export is not None and len(protocols) != 1:
        raise ValueError(f"--export writes the statistics of one extractor, not of {', '.join(extractors)}")
    if real is None and any(METRICS[metric].reference is not None for _, metric in plan):
        raise ValueError(f"--real is missing; give {sets.REALS}")
    if real is not None:
        sets.check_real(real)
    return protocols, plan


def _plan(wanted: Sequence[str], extractors: tuple[str, ...], optional: set[str]) -> list[tuple[str, str]]:
    """(extractor, metric) to measure.  Raises ValueError for a metric that none of the extractors can give; of the
    ``optional`` ones stderr says that they stay without a value."""
    found = []
    for metric in wanted:
        able = [x for x in extractors if not METRICS[metric].inception_only or x in features.INCEPTION]
        if not able and metric in optional:
            say_once(f"not measured: {metric}: it is defined on the Inception network, not on {', '.join(extractors)}")
        elif not able:
            raise ValueError(
                f"{metric} is defined on the Inception network; add --features {features.INCEPTION[0]} "
                f"(there are {', '.join(extractors) or 'none'})"
            )
        found += [(x, metric) for x in able]
    return sorted(found, key=lambda job: (extractors.index(job[0]), list(METRICS).index(job[1])))


def _job(
    subject: str | Run,
    real: str | None,
    metrics: list[str],
    n: int | None,
    size: int | None,
    paired: bool,
    work: Path,
    batch: int,
) -> _Job:
    """Both sides, checked against what the metrics need.  Raises ValueError where they do not fit."""
    name, images = sets.subject(subject, n, size, work)
    side = int(images.params["size"])
    found = (
        None
        if real is None
        else sets.real(real, n if paired else None, side, work, subject if isinstance(subject, str) else "")
    )
    reference, real_images = (found, None) if isinstance(found, Reference) else (None, found)
    single = [m for m in metrics if METRICS[m].reference is False]
    if reference is not None and single and real is not None:
        real_images = sets.reference_images(real, side, work)
    if single and real_images is None:
        raise ValueError(f"{single[0]} needs the reference images themselves, and {real} has none; give their folder")
    for metric in metrics:
        for each in (images, real_images):
            if each is not None and len(each) < METRICS[metric].least:
                raise ValueError(f"{metric} needs {METRICS[metric].least} images, {each.name} has {len(each)}")
    if paired and real_images is not None and images.ids != real_images.ids:
        lonely = sorted(set(images.ids) ^ set(real_images.ids))
        raise ValueError(
            f"{lonely[0] if lonely else images.ids[0]} is not on both sides ({len(lonely)} such images); "
            "paired images have the same names"
        )
    return _Job(name, images, real_images, reference, paired, work, batch)


def _check(pair: Pair, metrics: Sequence[str], allow_few: bool) -> None:
    """What must hold before images are run through the network."""
    extractor, images = pair.subject.extractor, pair.subject.images
    views = {METRICS[m].needs[1] for m in metrics if METRICS[m].covariance}
    for view in sorted(views):
        if pair.few(view) and not allow_few:
            counts = [len(images)] + ([len(pair.real.images)] if pair.real and not pair.reference else [])
            raise ValueError(
                f"{min(counts)} images are too few for a Frechet distance of {extractor.dims[view]} dimensions "
                f"({extractor.id}): give more than {extractor.dims[view]}, use kid, or label it with --allow-few"
            )
    if pair.reference is None:
        return
    for view in sorted(views - set(pair.reference.gaussians)):
        raise ValueError(f"{pair.reference.name} has no statistics of {view} features (mu_s, sigma_s)")
    sets.check_statistics(
        pair.reference,
        extractor=extractor.id,
        weights=str(extractor.protocol["weights"]),
        dims={view: extractor.dims[view] for view in views},
        preprocessing=preprocessing(images),
        paired_with=names_hash(images.ids) if pair.paired else None,
        count=len(images),
    )


def _collect(pair: Pair, metrics: Sequence[str], export: bool, shard: Shard) -> None:
    views = [view for view in pair.subject.extractor.dims if view in sets.KEYS] if export else []
    subject: set[Kind] = {(MOMENTS, view) for view in views}
    real: set[Kind] = set()
    for metric in metrics:
        of_subject, of_real = metrics_of.needs(metric, pair)
        subject |= of_subject
        statistics = METRICS[metric].reference is None or (METRICS[metric].covariance and pair.reference is not None)
        real |= set() if statistics else of_real
    pair.subject.collect(subject, shard)
    if pair.real is not None and real:
        pair.real.collect(real, shard)


def _check_pairs(pair: Pair) -> None:
    """Paired sets must have lost the same images."""
    if pair.paired and pair.real is not None and pair.subject.ids != pair.real.ids:
        lonely = sorted(set(pair.subject.ids) ^ set(pair.real.ids))[0]
        raise ValueError(f"{lonely} can be read on one side alone; repair it, or remove it from both")


# ---------------------------------------------------------------------------------------------------- records


def _heading(job: _Job, metric: str, protocol: Mapping) -> dict:
    """The fields of a record that are known before anything is measured, its key among them."""
    name = METRICS[metric].protocol
    if name == "frechet":
        name = "frechet-paired" if job.paired else "frechet-unpaired"
    params = {
        **protocol,
        "preprocessing": preprocessing(job.images),
        "cluster": job.images.params["cluster"],
        **{key: job.images.params[key] for key in ("labels",) if key in job.images.params},
        "batch": job.batch,
    }
    if METRICS[metric].reference is not None:
        params["real"] = (job.reference.label or "statistics") if job.reference else dict(job.real.params)
    key = record.make_key(
        subject=job.images.fingerprint, suite=job.suite_hash, paired=job.paired, metric=metric, params=params
    )
    return {
        "protocol": name,
        "protocol_params": params,
        "fingerprint": job.images.fingerprint,
        "suite_hash": job.suite_hash,
        "key": key,
    }


def _estimate(pair: Pair, metric: str, job: _Job, partial_ok: bool) -> Estimate:
    """One metric from the evidence.  Withheld where images of either side could not be read, unless ``partial_ok``."""
    about = METRICS[metric]
    sides = [pair.subject]
    if pair.real is not None and about.reference is not None:
        sides += [] if about.covariance and pair.reference is not None else [pair.real]
    failed = {f"{side.images.name}/{name}": why for side in sides for name, why in side.errors.items()}
    notes = [pair.subject.extractor.caution or None]
    if failed:
        notes.append(f"{len(failed)} images could not be read ({next(iter(failed.values()))})")
    if metric == "is-5000" and job.images.params.get("labels") == BALANCED:
        notes.append(f"the images lie class by class: chunks hold few classes, ADM's many (--labels {UNIFORM})")
    measured = Measured(None)
    if min(side.count for side in sides) >= about.least and (partial_ok or not failed):
        measured = about.compute(pair)
    elif not pair.subject.errors or partial_ok:  # else the records say it
        notes.append("value withheld")
    real: dict[str, int | None] = {} if about.reference is None else {"n_real": _real_count(pair, sides)}
    for side in sides[1:]:
        if side.count < side.images.expected:  # what such a number covers less than it seems
            real["n_real_expected"] = side.images.expected
            notes.append(f"{side.count} of {side.images.expected} real images")
    return Estimate(
        metric=metrics_of.record_name(metric, pair.subject.extractor.id),
        unit=about.unit,
        n=pair.subject.count,
        asked=len(job.images),
        n_expected=job.images.expected,
        n_failed=len(failed),
        note="; ".join(filter(None, [*notes, measured.note])) or None,
        extra={**real, **measured.extra},
        estimate=measured.interval,
        kept=measured.samples,
        fields={"evidence": pair.subject.folder.relative_to(job.work).as_posix()},
    )


def _real_count(pair: Pair, sides: Sequence[Evidence]) -> int | None:
    if len(sides) > 1:
        return sides[1].count
    fingerprint = pair.reference.fingerprint if pair.reference else None
    return fingerprint.count if fingerprint else None


def _export(subject: Evidence, path: str | Path, partial_ok: bool) -> None:
    if subject.errors and not partial_ok:
        name, why = next(iter(subject.errors.items()))
        raise ValueError(f"{len(subject.errors)} images could not be read, {name} first ({why}); nothing exported")
    gaussians = {
        view: frechet.total(subject.moments(view)).gaussian for view in subject.extractor.dims if view in sets.KEYS
    }
    sets.export_statistics(path, gaussians, subject.fingerprint)


# ---------------------------------------------------------------------------------------------------------- evidence


@dataclass(frozen=True)
class Evidence:
    """The evidence of one set of images with one extractor; ``batch`` images run through the network at a time, the
    last ones padded, so that no feature depends on how many images there are."""

    images: ImageSet
    extractor: Extractor
    root: Path
    batch: int

    @cached_property
    def folder(self) -> Path:
        about = files.digest_json([self.images.fingerprint, dict(self.extractor.protocol), self.batch])
        return self.root / f"{self.images.name}-{self.extractor.id}-{about[:12]}"

    @property
    def blocks(self) -> int:
        return block_count(len(self.images))

    def _arrays(self, kind: Kind) -> Arrays:
        return Arrays(self.folder, f"{kind[0]}-{kind[1]}-", digits=2)

    def _index_path(self, block: int) -> Path:
        return self.folder / f"index-{block:02d}.json"

    def collect(self, kinds: set[Kind], shard: Shard = WHOLE) -> None:
        """Make what is missing of ``kinds`` in this shard's blocks.

        Raises ValueError naming an image whose features are not finite; finished blocks stay."""
        mine = shard.take(range(self.blocks))
        missing = {b: sorted(k for k in kinds if self._arrays(k).lacks(b)) for b in mine}
        indexed = {b: self._index(b) is not None for b in mine}
        missing |= {b: sorted(kinds) for b in mine if not indexed[b]}  # made of the images that the index names
        todo = [b for b in mine if missing[b] or not indexed[b]]
        members = [(b, i) for b in todo for i in range(b, len(self.images), self.blocks)]
        if not members:
            return
        title = f"{self.extractor.id} of {self.images.name}"
        working: dict[int, _Block] = {}  # a batch may end one block and begin the next
        with exclusive(self.folder, shard), tqdm(total=len(members), desc=title, unit="image", disable=None) as bar:
            step = self._step
            for start in range(0, len(members), step):
                chosen = members[start : start + step]
                for b in dict.fromkeys(b for b, _ in chosen):
                    working.setdefault(b, _Block(missing[b], self.extractor.dims))
                self._run(chosen, working)
                following = members[start + step][0] if start + step < len(members) else None
                for b in [b for b in working if b != following]:
                    self._finish(b, working.pop(b))
                bar.update(len(chosen))

    @property
    def _step(self) -> int:
        """How many images are in memory at a time: a batch, of large ones one (they pass the network so anyway)."""
        return 1 if self.batch * self.images.params.get("size", 0) ** 2 > features.LARGE else self.batch

    def _run(self, chosen: list[tuple[int, int]], working: dict[int, _Block]) -> None:
        """One batch through the network, and its features to their blocks."""
        loaded: list[tuple[int, int, np.ndarray]] = []
        for block, i in chosen:
            try:
                loaded.append((block, i, self.images.load(i)))
            except ValueError as error:
                working[block].errors[self.images.ids[i]] = str(error)
        if not loaded:
            return
        found = features.embed(self.extractor, np.stack([image for _, _, image in loaded]), self.batch)
        ids = [self.images.ids[i] for _, i, _ in loaded]
        for view, values in found.items():
            check_finite(values[: len(ids)], ids, f"{self.extractor.id} features ({view})")
        for row, (block, i, image) in enumerate(loaded):
            working[block].add(i, ids[row], image, {view: values[row] for view, values in found.items()})

    def _finish(self, block: int, found: _Block) -> None:
        for view, total in found.sums.items():
            m = total.moments
            self._arrays((MOMENTS, view)).add(block, count=np.array(m.count), total=m.total, outer=m.outer)
        for view, rows in found.rows.items():
            values = np.array(rows, np.float32).reshape(len(rows), self.extractor.dims[view])
            self._arrays((FEATURES, view)).add(block, values=values)
        files.write_json(self._index_path(block), files.sealed(found.index))

    # ------------------------------------------------------------------------------------------ reading

    def _index(self, block: int) -> dict | None:
        """The index of a block, None where there is none that is whole and as it was written."""
        try:
            return files.unsealed(read_json(self._index_path(block)))
        except (ValueError, AttributeError):
            return None

    @cached_property
    def _indices(self) -> list[dict]:
        found = [self._index(b) for b in range(self.blocks)]
        if None in found:
            raise ValueError(
                f"{self._index_path(found.index(None))} is gone or was changed; run the same command again"
            )
        return found

    @property
    def errors(self) -> dict[str, str]:
        """{id: reason} of the images that could not be read."""
        return {name: reason for index in self._indices for name, reason in index["errors"].items()}

    @property
    def count(self) -> int:
        """Images that were read."""
        return sum(len(index["ids"]) for index in self._indices)

    @cached_property
    def order(self) -> np.ndarray:
        """Positions of the read images, block after block, and so the order that sorts them back."""
        return np.argsort([i for index in self._indices for i in index["positions"]])

    @property
    def ids(self) -> list[str]:
        """Names of the read images in the set's order."""
        names = [name for index in self._indices for name in index["ids"]]
        return [names[i] for i in self.order]

    @property
    def clusters(self) -> list[str]:
        """What each read image varies together with, in the set's order."""
        positions = sorted(i for index in self._indices for i in index["positions"])
        return [self.images.clusters[i] for i in positions]

    @property
    def block_of(self) -> np.ndarray:
        """The block of each read image, in the set's order."""
        found = np.repeat(np.arange(self.blocks), [len(index["ids"]) for index in self._indices])
        return found[self.order]

    def moments(self, view: str) -> list[Moments]:
        """One entry a block: 8 d^2 bytes each."""
        parts = [self._arrays((MOMENTS, view)).read(b) for b in range(self.blocks)]
        return [Moments(int(part["count"]), part["total"], part["outer"]) for part in parts]

    def features(self, view: str) -> np.ndarray:
        """float32 [N, d] in the set's order: 4 N d bytes."""
        stored = self._arrays((FEATURES, view))
        return np.concatenate([stored.read(b)["values"] for b in range(self.blocks)])[self.order]

    @property
    def fingerprint(self) -> Fingerprint:
        """What the statistics of the read images are of."""
        pixels: Sequence[str] = sorted(p for index in self._indices for p in index["pixels"])
        return Fingerprint(
            count=self.count,
            preprocessing=preprocessing(self.images),
            extractor=self.extractor.id,
            weights=str(self.extractor.protocol["weights"]),
            names=names_hash(self.ids),
            pixels=files.digest_json(pixels),
        )


def preprocessing(images: ImageSet) -> str:
    """How the images came to their size, e.g. "adm-crop 256"."""
    return f"{images.params.get('geometry') or images.params.get('crops') or images.params.get('world')} " + str(
        images.params.get("size")
    )


class _Block:
    """What a block under work holds so far."""

    def __init__(self, kinds: list[Kind], dims: Mapping[str, int]):
        self.sums = {view: _Sum(dims[view]) for kind, view in kinds if kind == MOMENTS}
        self.rows: dict[str, list[np.ndarray]] = {view: [] for kind, view in kinds if kind == FEATURES}
        self.errors: dict[str, str] = {}
        self._read: list[tuple[int, str, str]] = []

    def add(self, position: int, name: str, image: np.ndarray, found: Mapping[str, np.ndarray]) -> None:
        for view, total in self.sums.items():
            total.add(found[view])
        for view, rows in self.rows.items():
            rows.append(found[view].astype(np.float32))
        self._read.append((position, name, hashlib.sha256(image.tobytes()).hexdigest()))

    @property
    def index(self) -> dict:
        columns = {key: [row[k] for row in self._read] for k, key in enumerate(("positions", "ids", "pixels"))}
        return {**columns, "errors": self.errors}


class _Sum:
    """Moments of one block in float64, added in groups of a fixed size: the sums have the same bits wherever a batch
    ended."""

    GROUP = 256

    def __init__(self, d: int):
        self._total, self._outer, self._count = np.zeros(d), np.zeros((d, d)), 0
        self._waiting: list[np.ndarray] = []

    def add(self, row: np.ndarray) -> None:
        self._waiting.append(row)
        if len(self._waiting) == self.GROUP:
            self._flush()

    def _flush(self) -> None:
        rows = np.array(self._waiting, np.float64).reshape(len(self._waiting), len(self._total))
        self._count += len(rows)
        self._total += rows.sum(0)
        self._outer += rows.T @ rows
        self._waiting = []

    @property
    def moments(self) -> Moments:
        self._flush()
        return Moments(self._count, self._total, self._outer)
