"""Geometry of a latent space (docs/evaluators.md 5): pure functions of points X [N, d] or latents [N, T, d].

Points are standardized per dimension first, everywhere.
"""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors


def standardize(points: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """Zero mean and unit standard deviation per dimension, float64; a constant dimension becomes 0.

    ``like``: points whose mean and deviation are used instead of the points' own."""
    points = np.asarray(points, np.float64)
    reference = points if like is None else np.asarray(like, np.float64)
    spread = reference.std(0)
    return (points - reference.mean(0)) / np.where(spread > 1e-12, spread, 1.0)


def directions(points: np.ndarray) -> np.ndarray:
    """Each row divided by its length; a row of zeros stays."""
    return points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)


def square_side(tokens: int) -> int:
    """Side of a square grid.  Raises ValueError where ``tokens`` is no square number."""
    side = round(tokens**0.5)
    if side * side != tokens:
        raise ValueError(f"{tokens} tokens are no square grid")
    return side


# ---------------------------------------------------------------------------------------------------- t-SNE


def tsne(points: np.ndarray, seed: int = 0) -> np.ndarray:
    """float64 [N, 2].  PCA to 50 dimensions first where there are more."""
    x = standardize(points)
    reduced = PCA(50, random_state=seed).fit_transform(x) if min(x.shape) > 50 else x
    perplexity = min(30.0, (len(x) - 1) / 3)
    image = TSNE(
        n_components=2, perplexity=perplexity, init="pca", learning_rate="auto", max_iter=1000, random_state=seed
    ).fit_transform(reduced)
    return image.astype(np.float64)


def trustworthiness(points: np.ndarray, image: np.ndarray, k: int = 5) -> np.ndarray:
    """Each point's part of the trustworthiness of a ``image`` [N, 2]: float64 [N], whose mean is the usual number.

    1 - 2 / (k (2 N - 3 k - 1)) * sum of (rank - k) over the k neighbours in the image that rank beyond k among the
    standardized points.  Raises ValueError for fewer than 2 k + 1 points."""
    n = len(points)
    if n <= 2 * k:
        raise ValueError(f"{n} points are too few for {k} neighbours; give {2 * k + 1} or more")
    x = standardize(points)
    near = NearestNeighbors(n_neighbors=k).fit(image).kneighbors(return_distance=False)
    ranked = NearestNeighbors(n_neighbors=n - 1, algorithm="brute").fit(x).kneighbors(return_distance=False)
    rank = np.zeros((n, n), np.int32)
    np.put_along_axis(rank, ranked, np.arange(1, n, dtype=np.int32)[None, :], 1)
    beyond = np.clip(np.take_along_axis(rank, near, 1) - k, 0, None)
    return 1 - beyond.sum(1) * (2 / (k * (2 * n - 3 * k - 1)))


# ------------------------------------------------------------------------------------------- on the sphere


def alignment(points: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """|f(x) - f(x+)|^2 on the unit sphere, per pair: float64 [M].  ``positives`` [M, d] belong to the first M points;
    both are standardized with the statistics of all ``points`` [N, d]."""
    a = directions(standardize(points)[: len(positives)])
    b = directions(standardize(positives, like=points))
    return np.square(a - b).sum(1)


def strangers(points: np.ndarray) -> float:
    """Mean |f(x) - f(y)|^2 over all pairs of different points: what alignment is without any invariance."""
    x = directions(standardize(points))
    n, norms = len(x), np.square(x).sum()
    return float(2 * (n * norms - np.square(x.sum(0)).sum()) / (n * (n - 1)))


def closeness(points: np.ndarray) -> np.ndarray:
    """exp(-2 |f(x) - f(y)|^2) on the unit sphere for all pairs: float64 [N, N], zeros on the diagonal."""
    x = directions(standardize(points))
    norms = np.square(x).sum(1)
    near = np.exp(-2 * np.clip(norms[:, None] + norms[None, :] - 2 * x @ x.T, 0, None))
    np.fill_diagonal(near, 0)
    return near


def uniformity(near: np.ndarray, keep: np.ndarray | None = None) -> float:
    """log of the mean of ``closeness`` over pairs of different points (of those in ``keep``, bool [N])."""
    total, n = near.sum(), len(near)
    if keep is not None:
        left = ~keep
        n = int(keep.sum())
        total = total - 2 * near[left].sum() + near[np.ix_(left, left)].sum()
    return float(np.log(total / (n * (n - 1))))


def spatial_smoothness(latents: np.ndarray, rng: np.random.Generator, pairs: int = 20_000) -> np.ndarray:
    """Per image of latents [N, T, d] on a square grid of T tokens: mean cosine between 4-neighbours, minus the mean
    cosine between random pairs of tokens of all images.  float64 [N]."""
    n, tokens, d = latents.shape
    side = square_side(tokens)
    x = directions(standardize(latents.reshape(-1, d)))
    a, b = rng.integers(len(x), size=(2, pairs))
    chance = (x[a] * x[b]).sum(1).mean()
    grid = x.reshape(n, side, side, d)
    across = (grid[:, :, 1:] * grid[:, :, :-1]).sum(-1).reshape(n, -1)
    down = (grid[:, 1:] * grid[:, :-1]).sum(-1).reshape(n, -1)
    return np.concatenate([across, down], 1).mean(1) - chance
