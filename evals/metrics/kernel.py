"""Squared maximum mean discrepancies of two feature sets: KID and CMMD (docs/evaluators.md 6).

Kernel sums are kept per pair of blocks, so that the jackknife without any block costs nothing more.
Time is N M d; memory one tile of kernel values besides the features.

Shapes: N generated, M real images, d dimensions, A and B blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evals.metrics.frechet import Jackknife, common_blocks

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]  # float64 [n, d], [m, d] -> [n, m]

SUBSETS, SUBSET_SIZE, SUBSET_SEED = 100, 1000, 2020  # torch-fidelity's defaults
SIGMA, SCALE = 10.0, 1000.0


def polynomial(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """KID's kernel (x.y / d + 1)^3 -> [n, m]."""
    base = x @ y.T / x.shape[1] + 1
    return base * base * base  # ** 3 is ten times as slow


def gaussian(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """CMMD's kernel exp(-|x - y|^2 / (2 sigma^2)), sigma = 10 -> [n, m]."""
    squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T
    return np.exp(-np.clip(squares, 0, None) / (2 * SIGMA**2))


def unit(features: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1.  Raises ValueError for a row of zeros."""
    length = np.linalg.norm(np.asarray(features, np.float64), axis=1, keepdims=True)
    if not length.all():
        raise ValueError(f"the features of image {int(np.argmin(length))} are all zero and have no direction")
    return features / length


@dataclass(frozen=True)
class _Sums:
    """Kernel sums per pair of blocks: ``xx`` [A, A], ``xy`` [A, B], ``yy`` [B, B]; their diagonals' sums ``dx`` [A],
    ``dy`` [B]; images per block ``n`` [A], ``m`` [B]."""

    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray
    dx: np.ndarray
    dy: np.ndarray
    n: np.ndarray
    m: np.ndarray

    def without(self, k: int) -> _Sums:
        """Block ``k`` left out of both sides."""
        keep = np.arange(len(self.n)) != k
        square = np.ix_(keep, keep)
        return _Sums(
            self.xx[square], self.xy[square], self.yy[square], self.dx[keep], self.dy[keep], self.n[keep], self.m[keep]
        )

    def unbiased(self) -> float:
        n, m = self.n.sum(), self.m.sum()
        within = (self.xx.sum() - self.dx.sum()) / (n * (n - 1)) + (self.yy.sum() - self.dy.sum()) / (m * (m - 1))
        return float(within - 2 * self.xy.sum() / (n * m))

    def biased(self) -> float:
        n, m = self.n.sum(), self.m.sum()
        return float(self.xx.sum() / n**2 + self.yy.sum() / m**2 - 2 * self.xy.sum() / (n * m))


def _sums(x: np.ndarray, y: np.ndarray, blocks_x: np.ndarray, blocks_y: np.ndarray, kernel: Kernel) -> _Sums:
    count = common_blocks(blocks_x, blocks_y)
    parts_x = [np.asarray(x[blocks_x % count == k], np.float64) for k in range(count)]
    parts_y = [np.asarray(y[blocks_y % count == k], np.float64) for k in range(count)]
    xx, xy, yy = (np.zeros((count, count)) for _ in range(3))
    dx, dy = np.zeros(count), np.zeros(count)
    for i in range(count):
        for j in range(count):
            xy[i, j] = kernel(parts_x[i], parts_y[j]).sum()
        for table, diagonal, parts in ((xx, dx, parts_x), (yy, dy, parts_y)):
            for j in range(i, count):
                tile = kernel(parts[i], parts[j])
                table[i, j] = table[j, i] = tile.sum()
                if i == j:
                    diagonal[i] = np.trace(tile)
    return _Sums(xx, xy, yy, dx, dy, np.array([len(p) for p in parts_x]), np.array([len(p) for p in parts_y]))


def _jackknife(sums: _Sums, estimate: Callable[[_Sums], float], scale: float) -> Jackknife:
    value, n, m = scale * estimate(sums), sums.n.sum(), sums.m.sum()
    enough = len(sums.n) > 1 and min(n - sums.n.max(), m - sums.m.max()) > 1
    replicates = (scale * estimate(sums.without(k)) for k in range(len(sums.n))) if enough else ()
    return Jackknife(value, tuple(replicates), int(n))


def kid(x: np.ndarray, y: np.ndarray, blocks_x: np.ndarray, blocks_y: np.ndarray) -> Jackknife:
    """KID of features [N, d], [M, d], unbiased over all pairs, and without each block;
    ``blocks_*``: the block of each image.  Slightly negative values are right where the sets are alike."""
    if min(len(x), len(y)) < 2:
        raise ValueError(f"KID of {len(x)} and {len(y)} images; give 2 or more on each side")
    return _jackknife(_sums(x, y, blocks_x, blocks_y, polynomial), _Sums.unbiased, 1.0)


def kid_subsets(x: np.ndarray, y: np.ndarray, subsets: int = SUBSETS) -> tuple[float, float]:
    """torch-fidelity's KID: mean and standard deviation of the unbiased estimate over random subsets of 1,000.

    Raises ValueError for fewer images."""
    if min(len(x), len(y)) < SUBSET_SIZE:
        raise ValueError(f"kid-subsets of {len(x)} and {len(y)} images; give {SUBSET_SIZE} or more, or use kid")
    rng = np.random.RandomState(SUBSET_SEED)
    one = np.zeros(SUBSET_SIZE, int)
    found = []
    for _ in range(subsets):
        some_x = x[rng.choice(len(x), SUBSET_SIZE, replace=False)]
        some_y = y[rng.choice(len(y), SUBSET_SIZE, replace=False)]
        found.append(_sums(some_x, some_y, one, one, polynomial).unbiased())
    return float(np.mean(found)), float(np.std(found))


def cmmd(x: np.ndarray, y: np.ndarray, blocks_x: np.ndarray, blocks_y: np.ndarray) -> Jackknife:
    """CMMD's distance of features [N, d], [M, d] (scaled to length 1 first): biased estimate x 1000."""
    return _jackknife(_sums(unit(x), unit(y), blocks_x, blocks_y, gaussian), _Sums.biased, SCALE)
