"""Reconstruction scores of an autoencoder (spec evaluators 1).

Every image is encoded and decoded once; per-image measurements and features are kept as evidence under
``work/recon/<subject>/<data>-<key>/``, and every record is made from that evidence alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from evals import data as datasets
from evals import features, recon_evidence
from evals.api import Outcome, Tokenizer
from evals.metrics import frechet, psnr, ssim
from vgt.core import files, record
from vgt.core.record import Record
from vgt.core.statistics import Interval, cluster_interval, wilson

PIXELS = ("psnr-mean", "psnr-global", *ssim.VARIANTS)
LPIPS = {"lpips-alex-v0.1": "alex", "lpips-vgg-v0.1": "vgg"}
FRECHET = "fd-efflite2"
AGREEMENT = "judge-agreement"
METRICS = (*PIXELS, *LPIPS, FRECHET, AGREEMENT)
DEFAULT_SIZE = 64  # side in pixels for a tokenizer that takes any

# (originals, reconstructions), uint8 [N, H, W, 3] each -> bool [N]
Agreement = Callable[[np.ndarray, np.ndarray], np.ndarray]


def image_set(data: str | Path, n: int | None, size: int) -> datasets.ImageSet:
    """The images that ``data`` names: "scenes", "photos" or the path of a folder."""
    if data == "scenes":
        return datasets.scenes("test", n, size)
    if data == "photos":
        return datasets.photos(n, size)
    return datasets.folder(data, n, size)


def chosen_metrics(metrics: Sequence[str] | None, data: str, judged: bool) -> tuple[str, ...]:
    """The metrics to measure: by default all for which there are weights and a judge.

    Raises ValueError for one that is unknown or cannot be measured, before any work starts."""
    if metrics is None:
        possible = [m for m in METRICS if m not in LPIPS or features.lpips_available(LPIPS[m])]
        return tuple(m for m in possible if m != AGREEMENT or (judged and data == "scenes"))
    for metric in metrics:
        if metric not in METRICS:
            raise ValueError(f"reconstruction metric {metric!r} is unknown; choose from {', '.join(METRICS)}")
        if metric in LPIPS:
            features.lpips(LPIPS[metric])
        if metric == AGREEMENT and not (judged and data == "scenes"):
            raise ValueError(f"{AGREEMENT} needs a judge and the data set scenes, not {data!r}")
    return tuple(metrics)


def run(
    tokenizer: Tokenizer,
    *,
    work: str | Path,
    records: str | Path,
    data: str | Path,
    n: int | None = None,
    metrics: Sequence[str] | None = None,
    protocol: str = "default",
    batch: int = 32,
    agreement: Agreement | None = None,
    judge: str | None = None,
) -> Outcome:
    """Score ``tokenizer`` on "scenes" (500 test scenes), "photos" (256 test crops) or a folder of images.

    ``n``: fewer images (the records are then partial).  ``agreement`` with ``judge`` (its name and version) adds
    judge agreement on scenes.  Records that stand are reused; missing ones are made from evidence that stands.
    Protocol "default": evaluated at the model's own size, everything from the same rounded uint8 images."""
    if protocol != "default":
        raise ValueError(f"reconstruction protocol {protocol!r} is unknown; there is: default")
    if agreement is not None and not judge:
        raise ValueError("agreement comes without a judge; name it with its version, for it decides the number")
    images = image_set(data, n, tokenizer.size or DEFAULT_SIZE)
    wanted = chosen_metrics(metrics, images.name, agreement is not None)
    headings = {metric: _heading(tokenizer, images, metric, judge) for metric in wanted}
    kept = {m: record.find(records, f"{tokenizer.name}/{images.name}/{m}", headings[m]["key"]) for m in wanted}
    missing = [m for m in wanted if kept[m] is None]
    if missing:
        started = time.perf_counter()
        inputs = files.digest_json([tokenizer.fingerprint, images.fingerprint])
        folder = Path(work) / "recon" / tokenizer.name.replace("/", "_") / f"{images.name}-{inputs[:12]}"
        kinds = {_kind(m, judge): _measure(m, agreement) for m in missing}
        recon_evidence.collect(tokenizer, images, folder, kinds, batch)
        for metric in missing:
            path = folder / _kind(metric, judge)
            if metric == FRECHET:
                result = _frechet(path, images, Path(work) / "recon" / "originals", batch)
            else:
                result = _from_rows(path, metric)
            evidence = path.relative_to(work).as_posix()
            if metric == "psnr-mean":
                result["extra"]["picture"] = (folder / recon_evidence.PAIRS).relative_to(work).as_posix()
            seconds = round(time.perf_counter() - started, 3)
            kept[metric] = record.make(**headings[metric], **result, evidence=evidence, seconds=seconds)
            record.write(kept[metric], records)
    return Outcome([kept[m] for m in wanted], len(missing), len(wanted) - len(missing))


def _heading(tokenizer: Tokenizer, images: datasets.ImageSet, metric: str, judge: str | None) -> dict:
    """The fields of a record that are known before anything is measured, its key among them."""
    size = tokenizer.size or DEFAULT_SIZE
    params = {"quantize": "round", "model_size": size, "evaluated_at": size, **images.params, **_definition(metric)}
    judge = judge if metric == AGREEMENT else None
    return {
        "subject": tokenizer.name,
        "suite": images.name,
        "metric": metric,
        "unit": _unit(metric),
        "n_expected": images.expected,
        "protocol": metric,
        "protocol_params": params,
        "judge": judge,
        "fingerprint": tokenizer.fingerprint,
        "suite_hash": images.fingerprint,
        "key": record.make_key(
            subject=tokenizer.fingerprint, suite=images.fingerprint, metric=metric, params=params, judge=judge
        ),
    }


def _unit(metric: str) -> str:
    return "dB" if metric.startswith("psnr") else "share" if metric == AGREEMENT else ""


def _definition(metric: str) -> dict:
    """What the metric's id stands for."""
    if metric in ssim.VARIANTS:
        return {"definition": ssim.DESCRIPTIONS[metric]}
    if metric == FRECHET:
        return features.protocol("efflite2")
    if metric == AGREEMENT:
        return {"definition": "share of images whose multiset of (class, color) the judge finds unchanged"}
    return {"cap": psnr.CAP} if metric.startswith("psnr") else {}


def _kind(metric: str, judge: str | None) -> str:
    """The evidence file that a metric is made from."""
    if metric in PIXELS:
        return recon_evidence.PIXELS
    if metric == AGREEMENT:
        return f"{metric}-{files.digest(judge or '')[:8]}.jsonl"
    return f"{metric}.npz" if metric == FRECHET else f"{metric}.jsonl"


def _measure(metric: str, agreement: Agreement | None) -> recon_evidence.Measure:
    if metric in PIXELS:
        return recon_evidence.measure_pixels
    if metric == FRECHET:
        return recon_evidence.measure_features("efflite2")
    if metric == AGREEMENT:
        assert agreement is not None, "chosen_metrics lets agreement through only with a judge"
        return recon_evidence.measure_value(agreement)
    return recon_evidence.measure_value(features.lpips(LPIPS[metric]))


# --------------------------------------------------------------------------------------- from evidence to values


def _frechet(path: Path, images: datasets.ImageSet, folder: Path, batch: int) -> dict:
    name = f"{images.name}-{images.fingerprint[:12]}-efflite2-{features.SIDE}.npz"
    wanted, originals = recon_evidence.original_features("efflite2", images, folder / name, batch)
    ids, rebuilt = recon_evidence.read_features(path)
    if ids != wanted:
        raise ValueError(f"{path.name} and {name} hold other images; delete {path.name} and run again")
    failed = len(images) - len(ids)
    if len(ids) < 2:
        return _result(None, len(ids), failed, note=f"{len(ids)} readable images are too few for a distance")
    return _result(frechet.paired_interval(originals, rebuilt), len(ids), failed)


def _from_rows(path: Path, metric: str) -> dict:
    rows, failed = recon_evidence.read_rows(path)
    if not rows:
        return _result(None, 0, failed, note="no image could be read")
    interval, extra = row_interval(rows, metric)
    return _result(interval, len(rows), failed, extra=extra)


def _result(interval: Interval | None, n: int, failed: int, note: str | None = None, extra: dict | None = None) -> dict:
    measured = {"value": None, "low": None, "high": None, "interval": None}
    if interval is not None:
        measured = {"value": interval.value, "low": interval.low, "high": interval.high, "interval": interval.method}
    return {**measured, "n": n, "n_failed": failed, "note": note, "extra": extra or {}}


def row_interval(rows: list[dict], metric: str) -> tuple[Interval, dict]:
    """A metric's value with its interval, clustered as the rows say, and further facts, from per-image rows."""
    clusters = [row["cluster"] for row in rows]
    if metric == "psnr-global":
        return _global_psnr(rows, clusters), {}
    if metric == AGREEMENT:
        return wilson(sum(row["value"] > 0 for row in rows), len(rows)), {}
    column = {"psnr-mean": "psnr"}.get(metric, metric if metric in ssim.VARIANTS else "value")
    values = np.array([row[column] for row in rows])
    extra = {"std": float(values.std(ddof=1)) if len(values) > 1 else 0.0}
    if metric == "psnr-mean":
        extra["capped"] = int((values >= psnr.CAP).sum())
    return cluster_interval(values, clusters), extra


def _global_psnr(rows: list[dict], clusters: list[str]) -> Interval:
    """PSNR of the error pooled over all pixels; its bounds are those of the error, the other way round."""
    pixels = np.array([row["pixels"] for row in rows], np.float64)
    error = cluster_interval(np.array([row["mse"] for row in rows]) * pixels / pixels.mean(), clusters)
    if error.low is None or error.high is None:
        return Interval(psnr.psnr(error.value), None, None, error.level, error.method)
    return Interval(
        psnr.psnr(error.value), psnr.psnr(error.high), psnr.psnr(max(0.0, error.low)), error.level, error.method
    )


# --------------------------------------------------------------------------------------------- two folders


def pairs(
    real_dir: str | Path, recon_dir: str | Path, *, work: str | Path | None = None, records: str | Path | None = None
) -> Outcome:
    """Compare two folders of images matched by their path without suffix, at their own size: psnr-mean, psnr-global,
    then every SSIM variant.  Nothing is resized.

    ``records``: where to store the records (by default they are only returned); ``work``: where to keep the per-image
    rows.  Raises ValueError naming a file that has no counterpart, another size, or cannot be read."""
    real, rebuilt = datasets.image_files(real_dir), datasets.image_files(recon_dir)
    for there, other, folder in ((real, rebuilt, recon_dir), (rebuilt, real, real_dir)):
        lonely = sorted(set(there) - set(other))
        if lonely:
            raise ValueError(f"{there[lonely[0]].name} has no counterpart in {folder} ({len(lonely)} such files)")
    rows = []
    for name in real:
        a, b = (np.asarray(datasets.read_image(found[name])) for found in (real, rebuilt))
        if a.shape != b.shape:
            sizes = f"{a.shape[1]}x{a.shape[0]} and {b.shape[1]}x{b.shape[0]}"
            raise ValueError(f"{name}: the two images are {sizes} pixels; bring them to one size first")
        try:
            rows.append({"id": name, "cluster": name, **recon_evidence.pixel_row(a, b)})
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    hashes = [files.digest_json([(k, files.digest_file(p)) for k, p in found.items()]) for found in (real, rebuilt)]
    subject = f"pairs-{Path(recon_dir).resolve().name}"
    evidence = None
    if work is not None:
        path = Path(work) / "recon" / subject / f"{files.digest_json(hashes)[:12]}.jsonl"
        recon_evidence.write_rows(path, rows)
        evidence = path.relative_to(work).as_posix()
    made = [_pair_record(metric, rows, subject, hashes, evidence) for metric in PIXELS]
    for one in made if records is not None else ():
        record.write(one, records)
    return Outcome(made, len(made), 0)


def _pair_record(metric: str, rows: list[dict], subject: str, hashes: list[str], evidence: str | None) -> Record:
    interval, extra = row_interval(rows, metric)
    params = {"geometry": "as given", **_definition(metric)}
    return record.make(
        subject=subject,
        suite="pairs",
        metric=metric,
        unit=_unit(metric),
        n_expected=len(rows),
        protocol=metric,
        protocol_params=params,
        fingerprint=hashes[1],
        suite_hash=hashes[0],
        key=record.make_key(real=hashes[0], reconstructed=hashes[1], metric=metric, params=params),
        evidence=evidence,
        **_result(interval, len(rows), 0, extra=extra),
    )
