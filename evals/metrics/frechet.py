"""Fréchet distance between two sets of features (spec evaluators 1.6, 7.4).

||mu_1 - mu_2||^2 + Tr S_1 + Tr S_2 - 2 Tr (S_1 S_2)^(1/2), covariances with N - 1, everything in float64.
A distance goes by the name of its features; only the Inception network's is called FID.

Two exact routes: moments (count, sum, sum of outer products: mergeable, of a fixed size) for many images, and the
features themselves where there are fewer images than dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import linalg

from vgt.core import files
from vgt.core.statistics import Interval, jackknife_interval

BLOCKS = 20


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


def moments(features: np.ndarray) -> Moments:
    """Moments of features [N, d]."""
    features = _checked(features)
    return Moments(len(features), features.sum(0), features.T @ features)


def save(path: str | Path, blocks: list[Moments]) -> Path:
    """Write the moments of some blocks of images as one npz, atomically."""
    with files.atomic(path) as part:
        np.savez(
            part,
            count=np.array([b.count for b in blocks]),
            total=np.stack([b.total for b in blocks]),
            outer=np.stack([b.outer for b in blocks]),
        )
    return Path(path)


def load(path: str | Path) -> list[Moments]:
    """What ``save`` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return [
            Moments(int(n), t, o) for n, t, o in zip(stored["count"], stored["total"], stored["outer"], strict=True)
        ]


def _root(symmetric: np.ndarray) -> np.ndarray:
    values, vectors = linalg.eigh(symmetric)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def from_moments(a: Moments, b: Moments) -> float:
    """Distance of two Gaussians.  The trace is the sum of the roots of the eigenvalues of S_1^(1/2) S_2 S_1^(1/2): two
    symmetric eigendecompositions, never an imaginary part (spec evaluators 1.6)."""
    if a.total.shape != b.total.shape:
        raise ValueError(f"features of {a.total.size} and {b.total.size} dimensions cannot be compared")
    sigma_a, sigma_b = a.covariance, b.covariance
    root = _root(sigma_a)
    eigenvalues = linalg.eigvalsh(root @ sigma_b @ root)
    trace = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    return _assemble(a.mean - b.mean, np.trace(sigma_a), np.trace(sigma_b), trace)


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


def paired_interval(originals: np.ndarray, reconstructions: np.ndarray, blocks: int = BLOCKS) -> Interval:
    """Distance between the features [N, d] of the same N images before and after, with a delete-one-block jackknife
    interval that removes the same images from both sides (spec evaluators 7.4).  Image i is in block i mod blocks.
    The lower bound is cut at 0."""
    if originals.shape != reconstructions.shape:
        raise ValueError(f"features {originals.shape} and {reconstructions.shape} do not belong to the same images")
    n = len(originals)
    blocks = min(blocks, n // 2)
    block_of = np.arange(n) % max(blocks, 1)
    if n <= originals.shape[1]:
        value = from_features(originals, reconstructions)
        keep = (block_of != b for b in range(blocks))
        replicates = [from_features(originals[k], reconstructions[k]) for k in keep]
    else:
        value, replicates = _by_blocks(originals, reconstructions, block_of, blocks)
    if blocks < 2:
        return Interval(value, None, None, 0.95, f"none: {n} images are too few for a jackknife")
    interval = jackknife_interval(value, replicates)
    return Interval(value, max(0.0, interval.low), interval.high, interval.level, interval.method)


def _by_blocks(a: np.ndarray, b: np.ndarray, block_of: np.ndarray, blocks: int) -> tuple[float, list[float]]:
    """The distance, and the distance without each block, from block moments that are made once."""
    parts: list[list[Moments]] = [[moments(x[block_of == k]) for k in range(blocks)] for x in (a, b)]
    whole_a, whole_b = (sum(p[1:], p[0]) for p in parts)
    replicates = [from_moments(whole_a - p, whole_b - q) for p, q in zip(*parts, strict=True)]
    return from_moments(whole_a, whole_b), replicates
