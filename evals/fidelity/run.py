"""How close a set of images comes to a reference set: FID and its relatives (docs/evaluators.md 1.6-1.8, 6, 7.4).

Evidence (moments and features, block by block) lies under ``work/fidelity/``; sets are kept apart, so a reference set
is run through a network once for all subjects.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evals import features
from evals.engine.images import ImageSet
from evals.engine.records import Outcome
from evals.engine.store import WHOLE, Shard
from evals.features import Extractor
from evals.fidelity import images as sets
from evals.fidelity import metrics as metrics_of
from evals.fidelity import references
from evals.fidelity.evidence import MOMENTS, Evidence, Kind, preprocessing
from evals.fidelity.metrics import METRICS, Measured, Pair
from evals.fidelity.references import Reference
from vgt.core import files, record, samples
from vgt.core.record import Record

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
    subject: str,
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
) -> Outcome:
    """Compare the images of ``subject`` ("folder:<dir>", "images:<model>@<accel>x" that GenEval's evaluator drew in
    ``work``, or an npz of samples) with those of ``real`` (a folder, "photos", "scenes", "images:<model>", an npz of
    images or of statistics).

    ``extractors``: ids of features; ``weights``: id -> file or folder; ``size``: side in pixels that both sets are
    brought to by adm-crop (default: that of the subject's images, which must be squares of one size); ``paired``: the
    images are reconstructions of the real ones, matched by name; ``allow_few``: give Frechet distances of fewer images
    than dimensions, labelled; ``partial_ok``: give values where images could not be read; ``export``: write the
    subject's statistics there (for one extractor); ``shard``: only make this part's evidence.

    Raises ValueError, before any image is run through a network, for what is missing or cannot be compared."""
    if real is None and export is None and metrics is None:
        raise ValueError(f"--real is missing; give {sets.REALS}")
    wanted = metrics_of.chosen(list(metrics if metrics is not None else metrics_of.DEFAULT if real else ()))
    protocols = {
        name: features.protocol(name, (weights or {}).get(name), any_weights=any_weights) for name in extractors
    }
    plan = _plan(wanted, tuple(extractors))
    if export is not None and len(protocols) != 1:
        raise ValueError(f"--export writes the statistics of one extractor, not of {', '.join(extractors)}")
    job = _job(subject, real, [m for _, m in plan], n, size, paired, Path(work), batch)
    headings = {(x, m): _heading(job, x, m, protocols[x]) for x, m in plan}
    kept = {key: _reusable(records, heading) for key, heading in headings.items()}
    computed = 0
    for name in protocols:
        missing = [m for x, m in plan if x == name and kept[x, m] is None]
        if not missing and export is None:
            continue
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
            found = _record(pair, headings[name, metric], metric, job, partial_ok, started, records)
            kept[name, metric] = found
            computed += 1
        if export is not None:
            _export(pair.subject, export, partial_ok)
    made = [found for found in kept.values() if found is not None]
    return Outcome(made, computed, len(made) - computed)


def _plan(wanted: Sequence[str], extractors: tuple[str, ...]) -> list[tuple[str, str]]:
    """(extractor, metric) to measure.  Raises ValueError for a metric that none of the extractors can give."""
    found = []
    for metric in wanted:
        able = [x for x in extractors if not METRICS[metric].inception_only or x in features.INCEPTION]
        if not able:
            raise ValueError(
                f"{metric} is defined on the Inception network; add --features {features.INCEPTION[0]} "
                f"(there are {', '.join(extractors) or 'none'})"
            )
        found += [(x, metric) for x in able]
    return sorted(found, key=lambda job: (extractors.index(job[0]), list(METRICS).index(job[1])))


def _job(
    subject: str, real: str | None, metrics: list[str], n: int | None, size: int | None, paired: bool, work: Path, batch
) -> _Job:
    """Both sides, checked against what the metrics need.  Raises ValueError where they do not fit."""
    name, images = sets.subject(subject, n, size, work)
    side = int(images.params["size"])
    found = None if real is None else sets.real(real, n if paired else None, side, work)
    reference, real_images = (found, None) if isinstance(found, Reference) else (None, found)
    single = [m for m in metrics if METRICS[m].reference is False]
    if reference is not None and single and real is not None:
        real_images = sets.reference_images(real, side, work)
    if single and real_images is None:
        raise ValueError(f"{single[0]} needs the reference images themselves, and {real} has none; give their folder")
    if found is None and any(METRICS[m].reference is not None for m in metrics):
        raise ValueError(f"--real is missing; give {sets.REALS}")
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
    references.check(
        pair.reference,
        extractor=extractor.id,
        weights=str(extractor.protocol["weights"]),
        dims={view: extractor.dims[view] for view in views},
        preprocessing=preprocessing(images),
        paired_with=references.names_hash(images.ids) if pair.paired else None,
        count=len(images),
    )


def _collect(pair: Pair, metrics: Sequence[str], export: bool, shard: Shard) -> None:
    views = [view for view in pair.subject.extractor.dims if view in references.KEYS] if export else []
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


def _heading(job: _Job, extractor: str, metric: str, protocol: Mapping) -> dict:
    """The fields of a record that are known before anything is measured, its key among them."""
    name = METRICS[metric].protocol
    if name == "frechet":
        name = "frechet-paired" if job.paired else "frechet-unpaired"
    params = {
        **protocol,
        "preprocessing": preprocessing(job.images),
        "cluster": job.images.params["cluster"],
        "batch": job.batch,
    }
    if METRICS[metric].reference is not None:
        params["real"] = (job.reference.label or "statistics") if job.reference else dict(job.real.params)
    key = record.make_key(
        subject=job.images.fingerprint, suite=job.suite_hash, paired=job.paired, metric=metric, params=params
    )
    model = re.fullmatch(r"(.+)@(\d+)x", job.name)  # images of a generator that carries its acceleration
    return {
        "subject": model[1] if model else job.name,
        "accel": int(model[2]) if model else None,
        "suite": job.suite,
        "metric": metrics_of.record_name(metric, extractor),
        "unit": metrics_of.unit(metric),
        "n_expected": job.images.expected,
        "protocol": name,
        "protocol_params": params,
        "fingerprint": job.images.fingerprint,
        "suite_hash": job.suite_hash,
        "key": key,
    }


def _name(heading: Mapping) -> str:
    speed = "" if heading["accel"] is None else f"@{heading['accel']}x"
    return f"{heading['subject']}{speed}/{heading['suite']}/{heading['metric']}"


def _reusable(records: str | Path, heading: Mapping) -> Record | None:
    found = record.find(records, _name(heading), heading["key"])
    return found if found is not None and found.value is not None and found.n_failed == 0 else None


def _record(
    pair: Pair, heading: Mapping, metric: str, job: _Job, partial_ok: bool, started: float, records: str | Path
) -> Record:
    """Measure, write and return one record with its samples."""
    sides = [pair.subject]
    if pair.real is not None and METRICS[metric].reference is not None:
        sides += [] if METRICS[metric].covariance and pair.reference is not None else [pair.real]
    failed = {f"{side.images.name}/{name}": why for side in sides for name, why in side.errors.items()}
    readable = min(side.count for side in sides)
    fields: dict = {"value": None, "extra": {}}
    notes = [pair.subject.extractor.caution or None]
    if failed:
        notes.append(f"{len(failed)} images could not be read ({next(iter(failed.values()))})")
    measured: Measured | None = None
    if readable < METRICS[metric].least or (failed and not partial_ok):
        notes.append("value withheld")
    else:
        measured = METRICS[metric].compute(pair)
        found = measured.interval
        fields = {"value": found.value, "low": found.low, "high": found.high, "interval": found.method}
        fields["extra"] = measured.extra
        notes.append(measured.note)
    if METRICS[metric].reference is not None:
        fields["extra"] = {"n_real": _real_count(pair, sides), **fields["extra"]}
    made = record.make(
        **heading,
        **fields,
        n=pair.subject.count,
        n_failed=len(failed),
        note="; ".join(filter(None, notes)) or None,
        evidence=pair.subject.folder.relative_to(job.work).as_posix(),
        seconds=round(time.perf_counter() - started, 3),
    )
    record.write(made, records)
    if measured is not None and measured.samples is not None:
        samples.write(measured.samples, records, made)
    return made


def _real_count(pair: Pair, sides: Sequence[Evidence]) -> int | None:
    if len(sides) > 1:
        return sides[1].count
    fingerprint = pair.reference.fingerprint if pair.reference else None
    return fingerprint.count if fingerprint else None


def _export(subject: Evidence, path: str | Path, partial_ok: bool) -> None:
    from evals.metrics import frechet

    if subject.errors and not partial_ok:
        name, why = next(iter(subject.errors.items()))
        raise ValueError(f"{len(subject.errors)} images could not be read, {name} first ({why}); nothing exported")
    gaussians = {
        view: frechet.total(subject.moments(view)).gaussian
        for view in subject.extractor.dims
        if view in references.KEYS
    }
    references.export(path, gaussians, subject.fingerprint)
