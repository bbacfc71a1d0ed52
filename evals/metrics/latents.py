"""What a latent space is like (docs/evaluators.md 5): pure functions of points X [N, d], of latents [N, T, d], of
covariances, and of sums of powers.  What is a function of sums is mergeable, so that a delete-one-block jackknife costs
no second look at the points.

Points are standardized per dimension first, everywhere.  ``groups`` [N] names what must not be told from itself, for
example the tokens of one image: no point is judged with the help of its own group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import (
    adjusted_rand_score,
    completeness_score,
    homogeneity_score,
    normalized_mutual_info_score,
)
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS, INNER_FOLDS = 5, 3
GRID = (0.01, 0.1, 1.0, 10.0)  # inverse regularization C of the linear probe
_ROWS = 1000  # rows of the similarity matrix that are held at a time
MINI_BATCH_ABOVE = 100_000  # points, from which on k-means sees them in mini batches
AGREEMENT = {
    "nmi": normalized_mutual_info_score,
    "ari": adjusted_rand_score,
    "homogeneity": homogeneity_score,
    "completeness": completeness_score,
}


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
    flat = TSNE(
        n_components=2, perplexity=perplexity, init="pca", learning_rate="auto", max_iter=1000, random_state=seed
    ).fit_transform(reduced)
    return flat.astype(np.float64)


def trustworthiness(points: np.ndarray, flat: np.ndarray, k: int = 5) -> np.ndarray:
    """Each point's part of the trustworthiness of a map ``flat`` [N, 2]: float64 [N], whose mean is the usual number.

    1 - 2 / (k (2 N - 3 k - 1)) * sum of (rank - k) over the k neighbours in the map that rank beyond k among the
    standardized points.  Raises ValueError for fewer than 2 k + 1 points."""
    n = len(points)
    if n <= 2 * k:
        raise ValueError(f"{n} points are too few for {k} neighbours; give {2 * k + 1} or more")
    x = standardize(points)
    near = NearestNeighbors(n_neighbors=k).fit(flat).kneighbors(return_distance=False)
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


# ------------------------------------------------------------------------------- spectra: how the variance is spread


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


def mean_correlation(matrix: np.ndarray) -> float:
    """Mean absolute correlation between two different dimensions; 0 for a single dimension."""
    d = len(matrix)
    return float((np.abs(matrix).sum() - np.abs(np.diag(matrix)).sum()) / (d * (d - 1))) if d > 1 else 0.0


@dataclass(frozen=True)
class Powers:
    """``sums`` float64 [5, d]: over some points, of z^0 .. z^4 per dimension, z = (x - centre) / scale [d]."""

    sums: np.ndarray
    centre: np.ndarray
    scale: np.ndarray

    def __add__(self, other: Powers) -> Powers:
        return Powers(self.sums + other.sums, self.centre, self.scale)

    def __sub__(self, other: Powers) -> Powers:
        return Powers(self.sums - other.sums, self.centre, self.scale)

    @property
    def mean(self) -> np.ndarray:
        return self.centre + self.scale * self.sums[1] / self.sums[0]

    @property
    def variance(self) -> np.ndarray:
        """Of the population (divided by N): [d]."""
        return self._central(2) * self.scale**2

    def _central(self, order: int) -> np.ndarray:
        """Central moment of z: [d]."""
        raw = self.sums / self.sums[0]
        m = raw[1]
        if order == 2:
            return np.clip(raw[2] - m**2, 0, None)
        if order == 3:
            return raw[3] - 3 * m * raw[2] + 2 * m**3
        return raw[4] - 4 * m * raw[3] + 6 * m**2 * raw[2] - 3 * m**4


def powers(points: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> Powers:
    """Sums of powers of points [M, d]; ``centre`` and ``scale`` near their mean and deviation keep the digits."""
    z = (np.asarray(points, np.float64) - centre) / scale
    square = z * z
    sums = np.stack([np.full(z.shape[1], float(len(z))), z.sum(0), square.sum(0), (square * z).sum(0)])
    return Powers(np.concatenate([sums, np.square(square).sum(0)[None]]), centre, scale)


def skewness(of: Powers) -> np.ndarray:
    """m_3 / m_2^1.5 per dimension [d]; 0 for a constant dimension."""
    second = of._central(2)
    return np.where(second > 1e-24, of._central(3) / np.maximum(second, 1e-24) ** 1.5, 0.0)


def excess_kurtosis(of: Powers) -> np.ndarray:
    """m_4 / m_2^2 - 3 per dimension [d]; 0 for a constant dimension."""
    second = of._central(2)
    return np.where(second > 1e-24, of._central(4) / np.maximum(second, 1e-24) ** 2 - 3, 0.0)


def kl_to_normal(of: Powers) -> np.ndarray:
    """KL(N(m, s^2) || N(0, 1)) = (s^2 + m^2 - 1 - ln s^2) / 2 in nats per dimension [d], m and s^2 those of the
    points; infinite for a constant dimension."""
    variance = of.variance
    with np.errstate(divide="ignore"):
        return 0.5 * (variance + of.mean**2 - 1 - np.log(variance))


# ------------------------------------------------------------------------------------------------------------ labels


def _nearest(x: np.ndarray, k: int, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices and similarities [N, k] of the most similar rows of another group, ties by index."""
    indices, values = [], []
    for start in range(0, len(x), _ROWS):
        similarity = x[start : start + _ROWS] @ x.T
        similarity[groups[start : start + _ROWS, None] == groups[None, :]] = -np.inf
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        indices.append(order)
        values.append(np.take_along_axis(similarity, order, 1))
    return np.concatenate(indices), np.concatenate(values)


def knn_correct(
    points: np.ndarray,
    labels: np.ndarray,
    k: int = 20,
    temperature: float | None = 0.07,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Leave-one-out (leave-one-group-out) k-nearest-neighbour classification: bool [N], right or wrong.

    Cosine similarity; votes weighted by exp(similarity / temperature), or plain where ``temperature`` is None."""
    groups = np.arange(len(points)) if groups is None else np.asarray(groups)
    nearest, similarity = _nearest(directions(standardize(points)), min(k, len(points) - 1), groups)
    classes, codes = np.unique(labels, return_inverse=True)
    weights = np.isfinite(similarity).astype(float)  # fewer than k points of other groups: the rest has no vote
    if temperature is not None:
        weights = np.exp((similarity - 1) / temperature)
    votes = np.zeros((len(points), len(classes)))
    np.add.at(votes, (np.arange(len(points))[:, None], codes[nearest]), weights)
    return votes.argmax(1) == codes


def silhouettes(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(b - a) / max(a, b) of every point, cosine distances, classes as clusters: float64 [N]; 0 in a class of one.

    The mean cosine distance to a class is one minus the product with its mean direction, so all N^2 distances enter
    at the cost of N x classes."""
    x = directions(standardize(points))
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"all points have the label {classes[0]!r}; a silhouette needs two labels")
    of = np.eye(len(classes))[codes]
    count, products = of.sum(0), x @ (of.T @ x).T
    rows = np.arange(len(x))
    own = products[rows, codes] - np.square(x).sum(1)
    a = 1 - own / np.maximum(count[codes] - 1, 1)
    others = 1 - products / count
    others[rows, codes] = np.inf
    b = others.min(1)
    larger = np.maximum(np.maximum(a, b), 1e-300)
    return np.where(count[codes] > 1, (b - a) / larger, 0.0)


def _probe(c: float):
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))


def smallest_class(labels: np.ndarray, groups: np.ndarray | None = None) -> int:
    """Number of points, or of groups with ``groups``, in the rarest class."""
    if groups is not None:
        labels = np.array([label for label, _ in sorted(set(zip(labels, groups, strict=True)))])
    return int(np.unique(labels, return_counts=True)[1].min())


def linear_correct(
    points: np.ndarray, labels: np.ndarray, tune: bool = True, seed: int = 0, groups: np.ndarray | None = None
) -> np.ndarray:
    """Multinomial logistic regression on frozen features: bool [N], right or wrong when held out (5 folds).

    C comes from GRID by inner validation, or is 1 without ``tune``; a group is held out as a whole.  Raises ValueError
    where a class has too few points (groups) to be split."""
    few = smallest_class(labels, groups)
    if few < FOLDS + 1:
        raise ValueError(f"a class has {few} images; {FOLDS} folds need {FOLDS + 1}: raise n")
    x = np.asarray(points, np.float64)
    if groups is None:
        model = _probe(1.0)
        if tune:
            inner = StratifiedKFold(INNER_FOLDS, shuffle=True, random_state=seed)
            model = GridSearchCV(model, {"logisticregression__C": GRID}, cv=inner)
        outer = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        return cross_val_predict(model, x, labels, cv=outer) == labels
    right = np.zeros(len(x), bool)
    outer = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in outer.split(x, labels, groups):
        model = _probe(1.0)
        if tune:
            inner = StratifiedGroupKFold(INNER_FOLDS, shuffle=True, random_state=seed)
            cuts = list(inner.split(x[train], labels[train], groups[train]))
            model = GridSearchCV(model, {"logisticregression__C": GRID}, cv=cuts)
        right[test] = model.fit(x[train], labels[train]).predict(x[test]) == labels[test]
    return right


# ---------------------------------------------------------------------------------------------------------- clusters


def k_means(points: np.ndarray, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(cluster of each point [N], centres [k, d]), 10 starts; clusters are numbered from the largest.

    Raises ValueError for fewer points than clusters."""
    if len(points) < k:
        raise ValueError(f"{len(points)} points cannot form {k} clusters; give more images")
    method = MiniBatchKMeans if len(points) > MINI_BATCH_ABOVE else KMeans
    fitted = method(n_clusters=k, n_init=10, random_state=seed).fit(points)
    order = np.argsort(-np.bincount(fitted.labels_, minlength=k), kind="stable")
    rank = np.empty(k, int)
    rank[order] = np.arange(k)
    return rank[fitted.labels_], fitted.cluster_centers_[order]


@dataclass(frozen=True)
class ClusterMaps:
    """``labels`` int [N, T]; per image [N] the squared distances of its tokens to their centres (``within``) and to the
    mean of all tokens (``total``)."""

    labels: np.ndarray
    within: np.ndarray
    total: np.ndarray


def cluster_maps(latents: np.ndarray, k: int, seed: int = 0) -> ClusterMaps:
    """k-means over all tokens of latents [N, T, d] together, standardized, then each of length 1."""
    n, tokens, d = latents.shape
    x = directions(standardize(latents.reshape(-1, d)))
    labels, centres = k_means(x, k, seed)
    within = np.square(x - centres[labels]).sum(1).reshape(n, tokens).sum(1)
    total = np.square(x - x.mean(0)).sum(1).reshape(n, tokens).sum(1)
    return ClusterMaps(labels.reshape(n, tokens), within, total)


def object_homogeneity(labels: np.ndarray, covered: np.ndarray) -> float:
    """1 - H(object or background | cluster) / H(object or background) over all tokens of maps [N, T], [N, T]: how much
    of "does this token show the object" its cluster tells."""
    return float(homogeneity_score(covered.reshape(-1), labels.reshape(-1)))


# ------------------------------------------------------------------------------------------------------ two encoders
# Linear centred kernel alignment: 1 where one representation is a rotated and uniformly scaled copy of the other, near
# 0 where they share nothing.  The plain version is biased upwards when there are few images for the dimensions; the
# unbiased estimator of HSIC (Song et al. 2012) is not, and can be slightly below 0.


def _centred(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, np.float64)
    return points - points.mean(0)


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
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


def unbiased_cka(k: np.ndarray, m: np.ndarray) -> float:
    """HSIC(K, M) / sqrt(HSIC(K, K) HSIC(M, M)) of ``gram`` matrices [N, N]; 0 where one of them carries no signal."""
    own = hsic(k, k) * hsic(m, m)
    return hsic(k, m) / own**0.5 if own > 0 else 0.0
