"""Numbers about a latent space (spec evaluators 5): pure functions of points X [N, d] and labels [N].

Points are standardized per dimension first, everywhere.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS, INNER_FOLDS = 5, 3
GRID = (0.01, 0.1, 1.0, 10.0)  # inverse regularization C of the linear probe


def standardize(points: np.ndarray) -> np.ndarray:
    """Zero mean and unit standard deviation per dimension, float64; a constant dimension becomes 0."""
    points = np.asarray(points, np.float64)
    spread = points.std(0)
    return (points - points.mean(0)) / np.where(spread > 1e-12, spread, 1.0)


def correlation(covariance: np.ndarray) -> np.ndarray:
    """Correlation matrix, which is the covariance of standardized points; constant dimensions get zeros."""
    spread = np.sqrt(np.clip(np.diag(covariance), 0, None))
    scale = np.where(spread > 1e-12, 1 / np.maximum(spread, 1e-12), 0.0)
    return covariance * scale[:, None] * scale[None, :]


def _spectrum(matrix: np.ndarray) -> np.ndarray:
    return np.clip(linalg.eigvalsh(matrix), 0, None)


def effective_rank(matrix: np.ndarray) -> float:
    """exp(entropy of s_i / sum s), s = singular values of the centred points = roots of their scatter's eigenvalues."""
    s = np.sqrt(_spectrum(matrix))
    if s.sum() == 0:
        return 0.0
    p = s[s > 0] / s.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def participation_ratio(matrix: np.ndarray) -> float:
    """(sum l)^2 / sum l^2, l = eigenvalues of the covariance."""
    values = _spectrum(matrix)
    return float(values.sum() ** 2 / np.square(values).sum()) if values.any() else 0.0


def first_component_share(matrix: np.ndarray) -> float:
    """Share of the variance in the first principal component."""
    values = _spectrum(matrix)
    return float(values[-1] / values.sum()) if values.any() else 0.0


def collapsed_share(covariance: np.ndarray) -> float:
    """Share of dimensions whose standard deviation is under 1 % of the median one (before standardizing)."""
    spread = np.sqrt(np.clip(np.diag(covariance), 0, None))
    return float((spread < 0.01 * np.median(spread)).mean()) if spread.any() else 1.0


def _cosines(points: np.ndarray) -> np.ndarray:
    x = standardize(points)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return x @ x.T


def knn_correct(points: np.ndarray, labels: np.ndarray, k: int = 20, temperature: float | None = 0.07) -> np.ndarray:
    """Leave-one-out k-nearest-neighbour classification: bool [N], right or wrong.

    Cosine similarity; votes weighted by exp(similarity / temperature), or plain where ``temperature`` is None."""
    similarity = _cosines(points)
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : min(k, len(points) - 1)]
    classes, codes = np.unique(labels, return_inverse=True)
    near = np.take_along_axis(similarity, nearest, 1)
    weights = np.ones_like(near) if temperature is None else np.exp((near - 1) / temperature)
    votes = np.zeros((len(points), len(classes)))
    np.add.at(votes, (np.arange(len(points))[:, None], codes[nearest]), weights)
    return votes.argmax(1) == codes


def silhouette(points: np.ndarray, labels: np.ndarray) -> float:
    """Mean of (b - a) / max(a, b) over the points, cosine distances, classes as clusters."""
    return float(silhouette_score(standardize(points), labels, metric="cosine", sample_size=None))


def _probe(c: float):
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))


def smallest_class(labels: np.ndarray) -> int:
    return int(np.unique(labels, return_counts=True)[1].min())


def linear_correct(points: np.ndarray, labels: np.ndarray, tune: bool = True, seed: int = 0) -> np.ndarray:
    """Multinomial logistic regression on frozen features: bool [N], right or wrong when held out (5 folds).

    C comes from GRID by inner validation, or is 1 without ``tune``.  Raises ValueError where a class has too few
    points to be split."""
    if smallest_class(labels) < FOLDS + 1:
        raise ValueError(f"a class has {smallest_class(labels)} images; {FOLDS} folds need {FOLDS + 1}: raise n")
    outer = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    model = _probe(1.0)
    if tune:
        inner = StratifiedKFold(INNER_FOLDS, shuffle=True, random_state=seed)
        model = GridSearchCV(model, {"logisticregression__C": GRID}, cv=inner)
    return cross_val_predict(model, np.asarray(points, np.float64), labels, cv=outer) == labels


def tsne(points: np.ndarray, seed: int = 0) -> tuple[np.ndarray, float]:
    """(float64 [N, 2], trustworthiness with 5 neighbours).  PCA to 50 dimensions first where there are more."""
    x = standardize(points)
    reduced = PCA(50, random_state=seed).fit_transform(x) if min(x.shape) > 50 else x
    perplexity = min(30.0, (len(x) - 1) / 3)
    picture = TSNE(
        n_components=2, perplexity=perplexity, init="pca", learning_rate="auto", max_iter=1000, random_state=seed
    ).fit_transform(reduced)
    return picture.astype(np.float64), float(trustworthiness(x, picture, n_neighbors=5))


def spatial_smoothness(latents: np.ndarray, rng: np.random.Generator, pairs: int = 20_000) -> np.ndarray:
    """Per image of latents [N, T, d] on a square grid of T tokens: mean cosine between 4-neighbours, minus the mean
    cosine between random pairs of tokens of all images.  float64 [N]."""
    n, tokens, d = latents.shape
    side = round(tokens**0.5)
    if side * side != tokens:
        raise ValueError(f"{tokens} tokens are no square grid")
    x = standardize(latents.reshape(-1, d))
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    a, b = rng.integers(len(x), size=(2, pairs))
    chance = (x[a] * x[b]).sum(1).mean()
    grid = x.reshape(n, side, side, d)
    across = (grid[:, :, 1:] * grid[:, :, :-1]).sum(-1).reshape(n, -1)
    down = (grid[:, 1:] * grid[:, :-1]).sum(-1).reshape(n, -1)
    return np.concatenate([across, down], 1).mean(1) - chance
