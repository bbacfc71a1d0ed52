"""Linear centred kernel alignment of two representations of the same images (docs/evaluators.md 5): pure functions.

1 where one is a rotated and uniformly scaled copy of the other, near 0 where they share nothing.  The plain version is
biased upwards when there are few images for the dimensions; the unbiased estimator of HSIC (Song et al. 2012) is not,
and can be slightly below 0.
"""

from __future__ import annotations

import numpy as np


def _centred(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, np.float64)
    return points - points.mean(0)


def linear(x: np.ndarray, y: np.ndarray) -> float:
    """|Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F) of column-centred X [N, d], Y [N, e]; 0 where one of them is constant."""
    x, y = _centred(x), _centred(y)
    both = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.square(y.T @ x).sum() / both) if both > 0 else 0.0


def gram(points: np.ndarray) -> np.ndarray:
    """X X^T of the centred points, diagonal set to 0: float64 [N, N]."""
    x = _centred(points)
    products = x @ x.T
    np.fill_diagonal(products, 0)
    return products


def hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Unbiased HSIC of two Gram matrices [N, N] with zero diagonals (Song et al. 2012, equation 5), N >= 4."""
    n = len(k)
    if n < 4:
        raise ValueError(f"{n} images; the unbiased estimator needs 4 or more")
    rows_k, rows_m = k.sum(0), m.sum(0)
    cross = rows_k.sum() * rows_m.sum() / ((n - 1) * (n - 2)) - 2 * (rows_k @ rows_m) / (n - 2)
    return float(((k * m).sum() + cross) / (n * (n - 3)))


def unbiased(k: np.ndarray, m: np.ndarray) -> float:
    """HSIC(K, M) / sqrt(HSIC(K, K) HSIC(M, M)) of ``gram`` matrices [N, N]; 0 where one of them carries no signal."""
    own = hsic(k, k) * hsic(m, m)
    return hsic(k, m) / own**0.5 if own > 0 else 0.0
