"""Probes that need no labels: the image, the spectrum, the distribution, the sphere, the grid of tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from evals.metrics import latents as space
from evals.metrics import spectra
from evals.metrics.frechet import moments
from evals.probes.findings import Finding, average, blocks, jackknife, merged
from evals.probes.views import PAIRS, SEED, TOKENS, Latents, Points

Probe = Callable[[Latents, Points], Finding]


def _ids(found: Latents) -> list[str]:
    return [found.images.ids[i] for i in found.kept]


def every_token(found: Latents) -> Points:
    """All tokens as points, without labels."""
    n, tokens, d = found.tokens.shape
    image = np.repeat(np.arange(n), tokens)
    return Points(found.tokens.reshape(-1, d), image, found.clusters[image], {}, tokens=True)


def tsne(found: Latents, seen: Points) -> Finding:
    """The points of the image in ``extra``; the value is their trustworthiness."""
    rng = np.random.default_rng(SEED)
    rows = np.sort(rng.choice(len(seen.points), min(TOKENS, len(seen.points)), replace=False))
    points = seen.points[rows]
    image = space.tsne(points, SEED)
    drawn = replace(seen, points=points, image=seen.image[rows], cluster=seen.cluster[rows])
    extra: dict = {
        "points": np.round(image, 3).tolist(),
        "chance": float(space.trustworthiness(points, rng.permutation(image)).mean()),
    }
    for key, name in zip(("labels", "colors"), seen.labels, strict=False):
        extra[key] = seen.labels[name][rows].tolist()
    note = "value is trustworthiness (5 neighbors); distances between clusters of a t-SNE carry no meaning"
    return average(space.trustworthiness(points, image), drawn, _ids(found), note=note, extra=extra)


def spectral(measure: Callable[[np.ndarray], float], tokens: bool = False, standardized: bool = True) -> Probe:
    """A number of the covariance, with an interval from sums of blocks of images."""

    def of(part) -> float:
        return measure(spectra.correlation(part.covariance) if standardized else part.covariance)

    def probe(found: Latents, seen: Points) -> Finding:
        seen = every_token(found) if tokens else seen
        # Sums of squares lose digits far from the origin; no number here depends on the mean.
        centred = seen.points.astype(np.float64) - seen.points.mean(0, dtype=np.float64)
        parts = [moments(centred[part]) for part in blocks(seen.cluster)]
        return Finding(merged(of, parts, least=0.0), extra={"dimensions": centred.shape[1]})

    return probe


def distribution(per_dimension: Callable[[spectra.Powers], np.ndarray], summary=np.mean, unit: str = "") -> Probe:
    """A summary over dimensions of a number of each one's distribution over all tokens; the numbers in ``extra``."""

    def probe(found: Latents, _: Points) -> Finding:
        seen = every_token(found)
        points = seen.points.astype(np.float64)
        deviation = points.std(0)
        scale = np.where(deviation > 0, deviation, 1.0)
        parts = [spectra.powers(points[part], points.mean(0), scale) for part in blocks(seen.cluster)]
        each = per_dimension(sum(parts[1:], parts[0]))
        if not np.isfinite(each).all():
            where = int(np.argmin(np.isfinite(each)))
            raise ValueError(f"dimension {where} is constant: its divergence from N(0, 1) is infinite")
        interval = merged(lambda part: float(summary(per_dimension(part))), parts, least=0.0)
        extra = {"least": float(each.min()), "median": float(np.median(each)), "largest": float(each.max())}
        extra["channels"] = [float(f"{v:.6g}") for v in each]
        return Finding(interval, extra=extra, unit=unit)

    return probe


def mean_absolute(values: np.ndarray) -> float:
    return float(np.abs(values).mean())


def alignment(view: str) -> Probe:
    """Distance on the sphere between an image and its positive."""

    def probe(found: Latents, seen: Points) -> Finding:
        positives = found.positives[view]
        pairs = len(positives)
        values = space.alignment(seen.points, positives)
        first = replace(seen, points=positives, image=seen.image[:pairs], cluster=seen.cluster[:pairs])
        extra = {"chance": space.strangers(seen.points)}
        asked = min(PAIRS, found.images.expected)
        return replace(average(values, first, _ids(found), extra=extra), n=pairs, asked=asked)

    return probe


def uniformity(_: Latents, seen: Points) -> Finding:
    """How evenly the images cover the sphere."""
    near = space.closeness(seen.points)
    interval = jackknife(lambda keep: space.uniformity(near, keep), seen.cluster)
    drawn = np.random.default_rng(SEED).normal(size=seen.points.shape)
    return Finding(interval, extra={"chance": space.uniformity(space.closeness(drawn))})


def smoothness(found: Latents, seen: Points) -> Finding:
    """Likeness of neighbouring tokens, per image."""
    values = space.spatial_smoothness(found.tokens, np.random.default_rng(SEED))
    images = replace(seen, image=np.arange(len(values)), cluster=found.clusters, tokens=False)
    return average(values, images, _ids(found))
