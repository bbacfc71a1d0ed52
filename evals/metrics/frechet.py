"""Fréchet distance between two sets of features (docs/evaluators.md 1.6, 7.4).

||mu_1 - mu_2||^2 + Tr S_1 + Tr S_2 - 2 Tr (S_1 S_2)^(1/2), covariances with N - 1, everything in float64.
A distance goes by the name of its features; only the Inception network's is called FID.

Two exact routes: moments (count, sum, sum of outer products: mergeable, of a fixed size) for many images, and the
features themselves where there are fewer images than dimensions.

Memory of a set's moments: 8 d^2 bytes (34 MB at d = 2048) a block; a distance needs four more matrices of that size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from vgt.core.statistics import Interval, jackknife_interval

BLOCKS = 20
# What an interval of a Fréchet distance is about: its bias of about c/N (docs/evaluators.md 7.4) is no part of it.
FINITE = (
    "the interval is about the distance at this number of images; that of infinitely many is smaller, often below it"
)


def block_count(images: int) -> int:
    """20, or fewer where a block would hold less than two images."""
    return max(1, min(BLOCKS, images // 2))


@dataclass(frozen=True)
class Jackknife:
    """``value`` on all ``n`` images, and ``replicates``: the value without block 1, 2, ... B, or () where there are too
    few images.  Kept in a record, replicates let two records of the same images be compared on common blocks."""

    value: float
    replicates: tuple[float, ...]
    n: int

    def interval(self, floor: float = -math.inf) -> Interval:
        """95 % interval; the lower bound is cut at ``floor``."""
        if len(self.replicates) < 2:
            return Interval(self.value, None, None, 0.95, f"none: {self.n} images are too few for a jackknife")
        found = jackknife_interval(self.value, self.replicates)
        assert found.low is not None
        return Interval(self.value, max(floor, found.low), found.high, found.level, found.method)


@dataclass(frozen=True)
class Gaussian:
    """``mean`` [d] and ``covariance`` [d, d], float64."""

    mean: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True)
class Moments:
    """float64 moments of a block of images: ``count``, ``total`` [d], ``outer`` [d, d] (sum of x x^T)."""

    count: int
    total: np.ndarray
    outer: np.ndarray

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    def __sub__(self, other: Moments) -> Moments:
        return Moments(self.count - other.count, self.total - other.total, self.outer - other.outer)

    @property
    def mean(self) -> np.ndarray:
        return self.total / self.count

    @property
    def covariance(self) -> np.ndarray:
        """Sample covariance (N - 1)."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 images, not {self.count}")
        return (self.outer - np.outer(self.total, self.mean)) / (self.count - 1)

    @property
    def gaussian(self) -> Gaussian:
        return Gaussian(self.mean, self.covariance)


def moments(features: np.ndarray) -> Moments:
    """Moments of features [N, d]."""
    features = _checked(features)
    return Moments(len(features), features.sum(0), features.T @ features)


def total(blocks: Sequence[Moments]) -> Moments:
    """The moments of all blocks together, added in their order, whatever order they were made in."""
    whole = blocks[0]
    for block in blocks[1:]:
        whole = whole + block
    return whole


# ----------------------------------------------------------------------------------------------- the distance


def factor(covariance: np.ndarray) -> np.ndarray:
    """F [d, d] with F F^T = S: the Cholesky factor, or eigenvectors times roots where S is singular."""
    try:
        return linalg.cholesky(covariance, lower=True)
    except linalg.LinAlgError:
        values, vectors = linalg.eigh(covariance)
        return vectors * np.sqrt(np.clip(values, 0, None))


def trace_root(factor_a: np.ndarray, sigma_b: np.ndarray) -> float:
    """Tr (S_1 S_2)^(1/2) with S_1 = F F^T: S_1 S_2 has the eigenvalues of the symmetric F^T S_2 F, so the trace is the
    sum of their roots and never has an imaginary part (docs/evaluators.md 1.6)."""
    eigenvalues = linalg.eigvalsh(factor_a.T @ sigma_b @ factor_a, overwrite_a=True, check_finite=False)
    return float(np.sqrt(np.clip(eigenvalues, 0, None)).sum())


def distance(a: Gaussian, b: Gaussian, factor_b: np.ndarray | None = None) -> float:
    """Distance of two Gaussians; ``factor_b``: ``factor(b.covariance)`` where many are compared with the same b."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {a.mean.size} and {b.mean.size} dimensions cannot be compared")
    root = trace_root(factor(b.covariance) if factor_b is None else factor_b, a.covariance)
    return _assemble(a.mean - b.mean, np.trace(a.covariance), np.trace(b.covariance), root)


def from_moments(a: Moments, b: Moments) -> float:
    """Distance of two sets from their moments."""
    return distance(a.gaussian, b.gaussian)


def from_features(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of two feature sets [N, d], [M, d].

    With S_1 = A^T A and S_2 = B^T B (centred features over sqrt(N - 1)), the eigenvalues of S_1 S_2 are the squared
    singular values of A B^T, so the trace is their sum: an N x M problem, cheaper than d x d for few images."""
    a, b = _checked(a), _checked(b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of {a.shape[1]} and {b.shape[1]} dimensions cannot be compared")
    if min(len(a), len(b)) > a.shape[1]:
        return from_moments(moments(a), moments(b))
    centred_a = (a - a.mean(0)) / np.sqrt(len(a) - 1)
    centred_b = (b - b.mean(0)) / np.sqrt(len(b) - 1)
    trace = linalg.svdvals(centred_a @ centred_b.T).sum()
    return _assemble(a.mean(0) - b.mean(0), np.square(centred_a).sum(), np.square(centred_b).sum(), trace)


def _assemble(shift: np.ndarray, trace_a: float, trace_b: float, trace_root: float) -> float:
    # Rounding can leave a tiny negative number for equal sets.
    return max(0.0, float(shift @ shift + trace_a + trace_b - 2 * trace_root))


def _checked(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features have shape {features.shape}; give [N, d] with at least 2 images")
    return features


# -------------------------------------------------------------------------------------------------- intervals


def blocks_jackknife(a: Sequence[Moments], b: Sequence[Moments] | Gaussian) -> Jackknife:
    """Distance from block moments, and without each block (docs/evaluators.md 7.4).

    Block k leaves both sides at once: for paired sets these are the same images; for independent ones the two
    variances add all the same.  A fixed ``b`` (published statistics) loses nothing and adds no variance.  FID must
    not be bootstrapped: repeated images bias it."""
    if isinstance(b, Gaussian):
        whole, root = total(a), factor(b.covariance)
        value = distance(whole.gaussian, b, root)
        left = [whole - block for block in a]
        enough = len(a) > 1 and min(m.count for m in left) > 1
        replicates = [distance(m.gaussian, b, root) for m in left] if enough else []
        return Jackknife(value, tuple(replicates), whole.count)
    count = min(len(a), len(b))
    a, b = merged(a, count), merged(b, count)
    whole_a, whole_b = total(a), total(b)
    pairs = [(whole_a - p, whole_b - q) for p, q in zip(a, b, strict=True)]
    enough = count > 1 and min(m.count for pair in pairs for m in pair) > 1
    replicates = [from_moments(p, q) for p, q in pairs] if enough else []
    return Jackknife(from_moments(whole_a, whole_b), tuple(replicates), whole_a.count)


def merged(blocks: Sequence[Moments], count: int) -> list[Moments]:
    """``count`` blocks out of more: block i goes to i mod count."""
    return list(blocks) if len(blocks) == count else [total(blocks[i::count]) for i in range(count)]


def features_jackknife(a: np.ndarray, b: np.ndarray, blocks_a: np.ndarray, blocks_b: np.ndarray) -> Jackknife:
    """``blocks_jackknife`` from features [N, d], [M, d] and the block of each image: for fewer images than
    dimensions."""
    value, count = from_features(a, b), common_blocks(blocks_a, blocks_b)
    keep = [(a[blocks_a % count != k], b[blocks_b % count != k]) for k in range(count)] if count > 1 else []
    enough = all(len(x) > 1 for pair in keep for x in pair)
    return Jackknife(value, tuple(from_features(p, q) for p, q in keep) if enough else (), len(a))


def common_blocks(blocks_a: np.ndarray, blocks_b: np.ndarray) -> int:
    """How many blocks both sides can be divided into, given the block of each image."""
    return int(min(blocks_a.max(), blocks_b.max())) + 1


def paired_jackknife(
    originals: np.ndarray, reconstructions: np.ndarray, block_of: np.ndarray | None = None
) -> Jackknife:
    """Distance between the features [N, d] of the same N images before and after, and without each block of images on
    both sides.  ``block_of`` [N]: the block of each image, by default i mod BLOCKS."""
    if originals.shape != reconstructions.shape:
        raise ValueError(f"features {originals.shape} and {reconstructions.shape} do not belong to the same images")
    n = len(originals)
    if block_of is None:
        block_of = np.arange(n) % max(1, min(BLOCKS, n // 2))
    if n <= originals.shape[1]:
        return features_jackknife(originals, reconstructions, block_of, block_of)
    names = np.unique(block_of)
    return blocks_jackknife(*([moments(x[block_of == k]) for k in names] for x in (originals, reconstructions)))


# ------------------------------------------------------------------------------------- infinitely many images

POINTS, SMALLEST = 15, 10  # subsets; the smallest is a tenth of the images


def infinite(features: np.ndarray, reference: Gaussian, rng: np.random.Generator) -> tuple[float, list[list[float]]]:
    """Distance extrapolated to infinitely many generated images (docs/evaluators.md 7.4): least squares of the distance
    of random subsets on 1/N, evenly spaced sizes from N/10 to N.  -> (intercept, [[size, distance], ...])

    Raises ValueError where the smallest subset would not fill the dimensions."""
    features = _checked(features)
    n, d = features.shape
    if n < SMALLEST * (d + 1):
        raise ValueError(f"{n} images of {d} dimensions are too few to extrapolate; give {SMALLEST * (d + 1)} or more")
    root = factor(reference.covariance)
    sizes = np.linspace(n // SMALLEST, n, POINTS).astype(int)
    found = [distance(moments(features[rng.permutation(n)[:size]]).gaussian, reference, root) for size in sizes]
    slope, intercept = np.polyfit(1 / sizes, found, 1)
    return float(intercept), [[int(size), value] for size, value in zip(sizes, found, strict=True)]
