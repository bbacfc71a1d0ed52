"""Precision, recall, density and coverage: who lies in whose nearest-neighbour balls (docs/evaluators.md 1.7, 6).

The ball of an image reaches to its k-th neighbour in its own set, itself not counted.  Distances are computed in
float64 tiles, so memory is the features and a few tiles; time is N M d.

Shapes: N generated, M real images, d dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

TILE = 2048
NEAREST_PR, NEAREST_DC = 3, 5


def _squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances of float64 [n, d], [m, d] -> [n, m]."""
    return np.clip(np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T, 0, None)


def _tiles(x: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(x), size):
        yield start, np.asarray(x[start : start + size], np.float64)


def radii(x: np.ndarray, k: int, tile: int = TILE) -> np.ndarray:
    """Squared distance of each of [N, d] to its k-th neighbour in the same set -> float64 [N].

    Raises ValueError where there are not more than k images."""
    if len(x) <= k:
        raise ValueError(f"{len(x)} images have no {k}-th neighbours; give more than {k}")
    found = np.empty(len(x))
    for row, some in _tiles(x, tile):
        nearest = np.full((len(some), k), np.inf)
        for column, others in _tiles(x, tile):
            squares = _squared(some, others)
            i = np.arange(max(row, column), min(row + len(some), column + len(others)))
            squares[i - row, i - column] = np.inf  # not its own neighbour
            nearest = np.partition(np.concatenate([nearest, squares], 1), k - 1, axis=1)[:, :k]
        found[row : row + len(some)] = nearest.max(1)
    return found


def _inside(points: np.ndarray, centres: np.ndarray, reach: np.ndarray, tile: int) -> np.ndarray:
    """Whether each point lies in the ball of any centre, its edge included -> bool [N]."""
    found = np.zeros(len(points), bool)
    for row, some in _tiles(points, tile):
        for column, others in _tiles(centres, tile):
            squares = _squared(some, others)
            found[row : row + len(some)] |= (squares <= reach[column : column + len(others)]).any(1)
    return found


def precision_recall(
    generated: np.ndarray, real: np.ndarray, k: int = NEAREST_PR, tile: int = TILE
) -> tuple[np.ndarray, np.ndarray]:
    """Of features [N, d], [M, d]: (generated inside a real ball, bool [N]; real inside a generated ball, bool [M]).
    Precision and recall are the means (Kynkäänniemi et al. 2019; the edge belongs to the ball)."""
    precise = _inside(generated, real, radii(real, k, tile), tile)
    return precise, _inside(real, generated, radii(generated, k, tile), tile)


def density_coverage(
    generated: np.ndarray, real: np.ndarray, k: int = NEAREST_DC, tile: int = TILE
) -> tuple[np.ndarray, np.ndarray]:
    """Of features [N, d], [M, d]: (number of real balls around each generated image over k, float64 [N]; whether each
    real ball holds a generated image, bool [M]).  Density and coverage are the means (Naeem et al. 2020; the edge does
    not belong to the ball)."""
    reach = radii(real, k, tile)
    density, covered = np.zeros(len(generated)), np.zeros(len(real), bool)
    for row, some in _tiles(generated, tile):
        for column, others in _tiles(real, tile):
            held = _squared(some, others) < reach[column : column + len(others)]
            density[row : row + len(some)] += held.sum(1)
            covered[column : column + len(others)] |= held.any(0)
    return density / k, covered
