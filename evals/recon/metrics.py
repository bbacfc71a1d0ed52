"""The metrics of a reconstruction: what each needs, the evidence it is made from, and its value from that evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evals import features
from evals.fidelity.evidence import block_count
from evals.fidelity.protocol import CAUTIONS
from evals.metrics import codebook, frechet, lpips, psnr, ssim
from evals.metrics.frechet import Moments
from evals.metrics.jackknife import Jackknife
from evals.recon import evidence as recon_evidence
from evals.recon.evidence import Measure
from vgt.core import files
from vgt.core.samples import REPLICATES, Samples
from vgt.core.statistics import Interval, cluster_interval, wilson

PIXELS = ("psnr-mean", "psnr-global", *ssim.VARIANTS)
LPIPS = lpips.METRICS
FRECHET = {  # metric -> features
    "rfid-tf-compat": "tf-compat",
    "rfid-pytorch-fid": "pytorch-fid",
    "fd-efflite2": "efflite2",
    "fd-efflite0": "efflite0",
}
AGREEMENT = "judge-agreement"
METRICS = (*PIXELS, *LPIPS, *FRECHET, AGREEMENT, *codebook.METRICS)

# (originals, reconstructions), uint8 [N, H, W, 3] each -> bool [N]
Agreement = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Tools:
    """What metrics are measured with.  ``weights``: features or "lpips-alex" / "lpips-vgg" -> file; ``any_weights``:
    accept Inception weights of another checksum; ``judge``: name and version of what ``agreement`` asks."""

    weights: Mapping[str, Path] = field(default_factory=dict)
    any_weights: bool = False
    device: str = "cpu"
    agreement: Agreement | None = None
    judge: str | None = None
    codebook_size: int | None = None
    scenes: bool = False

    def definition(self, metric: str) -> dict[str, Any]:
        """What the metric's id stands for, with its weights.  Raises ValueError where it cannot be measured."""
        if metric not in METRICS:
            raise ValueError(f"reconstruction metric {metric!r} is unknown; choose from {', '.join(METRICS)}")
        if metric in ssim.VARIANTS:
            return {"definition": ssim.DESCRIPTIONS[metric]}
        if metric in LPIPS:
            return lpips.protocol(LPIPS[metric], self.weights.get(f"lpips-{LPIPS[metric]}"))
        if metric in FRECHET:
            name = FRECHET[metric]
            about = features.protocol(name, self.weights.get(name), any_weights=self.any_weights)
            return about | ({"caution": CAUTIONS[name]} if name in CAUTIONS else {})
        if metric == AGREEMENT:
            if self.agreement is None or not self.scenes:
                raise ValueError(f"{AGREEMENT} needs a judge and the data set scenes")
            return {"definition": "share of images whose multiset of (class, color) the judge finds unchanged"}
        if metric in codebook.METRICS:
            if self.codebook_size is None:
                raise ValueError(f"{metric} needs a quantised tokenizer: one with codebook_size and indices()")
            return {"codebook_size": self.codebook_size}
        return {"cap": psnr.CAP}

    def measures(self, metric: str, folder: Path, originals: Path, batch: int) -> dict[Path, Measure]:
        """Evidence path -> how to make it: below ``folder``, and below ``originals`` what all tokenizers share."""
        if metric in PIXELS:
            return {folder / recon_evidence.PIXELS: recon_evidence.measure_pixels}
        path = self.evidence(metric, folder)
        if metric in LPIPS:
            net = LPIPS[metric]
            distance = lpips.load(net, self.weights.get(f"lpips-{net}"), self.device)
            return {path: recon_evidence.measure_distance(distance, batch)}
        if metric in FRECHET:
            name = FRECHET[metric]
            network = features.load(name, self.weights.get(name), any_weights=self.any_weights, device=self.device)
            return {
                path: recon_evidence.measure_features(network, batch, True),
                self.evidence(metric, originals): recon_evidence.measure_features(network, batch, False),
            }
        if metric == AGREEMENT:
            assert self.agreement is not None, "definition() lets agreement through only with a judge"
            return {path: recon_evidence.measure_agreement(self.agreement)}
        return {path: recon_evidence.measure_codes}

    def evidence(self, metric: str, folder: Path) -> Path:
        """The file or folder that a metric is made from; its name holds a hash of what else decides its content."""
        if metric in PIXELS:
            return folder / recon_evidence.PIXELS
        if metric in codebook.METRICS:
            return folder / "codes"
        about = files.digest_json([self.definition(metric), self.judge if metric == AGREEMENT else None])[:8]
        return folder / (f"{FRECHET[metric]}-{about}" if metric in FRECHET else f"{metric}-{about}.jsonl")


def unit(metric: str) -> str:
    if metric.startswith("psnr"):
        return "dB"
    return "share" if metric == AGREEMENT else codebook.UNITS.get(metric, "")


# --------------------------------------------------------------------------------------- from evidence to values


@dataclass(frozen=True)
class Found:
    """``interval``: None where nothing can be said, and ``note`` then says why; ``n`` images entered the value."""

    interval: Interval | None
    n: int
    note: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    samples: Samples | None = None


def from_rows(path: Path, metric: str) -> Found:
    """A metric of PIXELS, LPIPS, or judge agreement, from its rows."""
    rows, _ = recon_evidence.read_rows(path)
    if not rows:
        return Found(None, 0, "no image could be read")
    interval, extra = row_interval(rows, metric)
    if metric == "psnr-global":
        return Found(interval, len(rows), extra=extra)
    ids, clusters = [r["id"] for r in rows], [r["cluster"] for r in rows]
    return Found(interval, len(rows), extra=extra, samples=Samples(ids, _values(rows, metric), clusters))


def _values(rows: list[dict], metric: str) -> list[float]:
    column = {"psnr-mean": "psnr"}.get(metric, metric if metric in ssim.VARIANTS else "value")
    return [row[column] for row in rows]


def row_interval(rows: list[dict], metric: str) -> tuple[Interval, dict]:
    """A metric's value with its interval, clustered as the rows say, and further facts, from per-image rows."""
    clusters = [row["cluster"] for row in rows]
    if metric == "psnr-global":
        return _global_psnr(rows, clusters), {}
    values = np.array(_values(rows, metric))
    if metric == AGREEMENT:
        return wilson(int((values > 0).sum()), len(rows)), {}
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


def from_codes(folder: Path, metric: str, size: int) -> Found:
    """Usage, entropy or perplexity of a codebook of ``size`` entries over the whole set."""
    n = 0

    def parts():
        nonlocal n
        for positions, codes in recon_evidence.read_arrays(folder):
            n += len(positions)
            yield codes.astype(np.int64)

    counted = codebook.counts(parts(), size)
    if not counted.sum():
        return Found(None, n, "no image could be read")
    value = codebook.statistics(counted)[metric]
    method = "none: a property of the whole set, which grows with it"
    return Found(Interval(value, None, None, 0.95, method), n, extra={"indices": int(counted.sum())})


def from_features(originals: Path, rebuilt: Path, images: int) -> Found:
    """Fréchet distance of the same ``images`` before and after (docs/evaluators.md 1.6, 7.4), with a delete-one-block
    jackknife: image i is in block i mod 20 and leaves both sides at once.

    Features are read batch by batch: memory is that of 2 x 20 block moments, or of the features themselves where there
    are fewer images than dimensions.  Raises ValueError where the two sides are not of the same images."""
    shapes = [(len(positions), values.shape[1]) for positions, values in recon_evidence.read_arrays(rebuilt)]
    n = sum(count for count, _ in shapes)
    if n < 2:
        return Found(None, n, f"{n} readable images are too few for a distance")
    few = n <= max(d for _, d in shapes)
    found = (_by_features if few else _by_moments)(originals, rebuilt, block_count(images))
    extra = {REPLICATES: list(found.replicates)} if found.replicates else {}
    return Found(found.interval(floor=0.0), n, extra=extra)


def _both(originals: Path, rebuilt: Path):
    """(positions, original features, features of the reconstructions) batch by batch, float64."""
    for (i, a), (j, b) in zip(recon_evidence.read_arrays(originals), recon_evidence.read_arrays(rebuilt), strict=True):
        if not np.array_equal(i, j):
            raise ValueError(f"{originals} and {rebuilt} hold other images; delete both and run again")
        if len(i):
            yield i, a.astype(np.float64), b.astype(np.float64)


def _by_features(originals: Path, rebuilt: Path, blocks: int) -> Jackknife:
    positions, a, b = (np.concatenate(x) for x in zip(*_both(originals, rebuilt), strict=True))
    return frechet.paired_jackknife(a, b, positions % blocks)


def _by_moments(originals: Path, rebuilt: Path, blocks: int) -> Jackknife:
    sums: list[list[Moments | None]] = [[None] * blocks, [None] * blocks]
    for positions, *sides in _both(originals, rebuilt):
        for k in np.unique(positions % blocks):
            mine = positions % blocks == k
            for of, values in zip(sums, sides, strict=True):
                part = Moments(int(mine.sum()), values[mine].sum(0), values[mine].T @ values[mine])
                of[k] = part if of[k] is None else of[k] + part
    return frechet.blocks_jackknife(*([part for part in of if part is not None] for of in sums))


def reference(path: Path) -> dict[str, Any]:
    """What the originals of a distance were: their number and a hash of their pixels (docs/evaluators.md 1.6)."""
    rows, _ = recon_evidence.read_rows(path)
    return {"count": len(rows), "pixels": files.digest_json(sorted(r["pixels"] for r in rows))[:16]}


def coverage_note(path: Path) -> str | None:
    """One line on the images that failed and those that were converted, None where all were 8-bit RGB."""
    rows, errors = recon_evidence.read_rows(path)
    parts = [f"{len(errors)} failed, the first {next(iter(errors.values()))}"] if errors else []
    kinds = Counter(row["converted"] for row in rows if "converted" in row)
    parts += [f"{count} converted from {kind}" for kind, count in sorted(kinds.items())]
    return "; ".join(parts) or None


def chosen(metrics: Sequence[str] | None, tools: Tools) -> tuple[dict[str, dict], dict[str, str]]:
    """({metric: definition} to measure, {metric: why not}): by default all for which there are weights, a judge and a
    codebook; with ``metrics`` exactly those.  Raises ValueError for one that cannot be measured, before any work."""
    if metrics is not None:
        return {metric: tools.definition(metric) for metric in metrics}, {}
    wanted, absent = {}, {}
    for metric in METRICS:
        try:
            wanted[metric] = tools.definition(metric)
        except ValueError as error:
            absent[metric] = str(error)
    return wanted, absent
