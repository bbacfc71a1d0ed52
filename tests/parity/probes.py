"""Latent probes and CKA against scikit-learn, scipy and slower formulations (docs/evaluators.md 5)."""

from __future__ import annotations

import itertools

import numpy as np
from scipy import linalg, stats
from scipy.spatial.distance import pdist
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_samples
from sklearn.metrics.pairwise import cosine_distances
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler, normalize

from evals.metrics import latents
from parity import Check


def _points(n: int = 150, d: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """(points [n, d] of five classes that overlap, labels [n])."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, n)
    return rng.gamma(2.0, size=(n, d)) @ rng.normal(size=(d, d)) + 3 * rng.normal(size=(5, d))[labels], labels


def _knn(k: int, temperature: float | None):
    """Share of points on which leave-one-out k-NN differs from a classifier fitted without the point."""

    def measure() -> float:
        points, labels = _points()
        x = StandardScaler().fit_transform(points)
        weights = "uniform" if temperature is None else lambda distance: np.exp(-distance / temperature)
        theirs = []
        for i in range(len(x)):
            rest = np.arange(len(x)) != i
            model = KNeighborsClassifier(k, metric="cosine", weights=weights).fit(x[rest], labels[rest])
            theirs.append(model.predict(x[i : i + 1])[0] == labels[i])
        return float((latents.knn_correct(points, labels, k, temperature) != np.array(theirs)).mean())

    return measure


def _silhouette() -> float:
    points, labels = _points()
    theirs = silhouette_samples(cosine_distances(StandardScaler().fit_transform(points)), labels, metric="precomputed")
    return float(np.abs(latents.silhouettes(points, labels) - theirs).max())


def _trustworthiness() -> float:
    points, _ = _points()
    image = points[:, :2]
    theirs = trustworthiness(StandardScaler().fit_transform(points), image, n_neighbors=5)
    return abs(float(latents.trustworthiness(points, image).mean()) - theirs)


def _rank() -> float:
    points, _ = _points()
    s = linalg.svdvals(StandardScaler().fit_transform(points))
    theirs = np.exp(stats.entropy(s / s.sum()))
    return abs(latents.effective_rank(latents.correlation(np.cov(points, rowvar=False))) / theirs - 1)


def _participation() -> float:
    points, _ = _points()
    matrix = np.corrcoef(points, rowvar=False)
    theirs = np.trace(matrix) ** 2 / np.trace(matrix @ matrix)
    return abs(latents.participation_ratio(latents.correlation(np.cov(points, rowvar=False))) / theirs - 1)


def _correlation() -> float:
    points, _ = _points()
    theirs = np.abs(np.corrcoef(points, rowvar=False)[np.triu_indices(points.shape[1], 1)]).mean()
    return abs(latents.mean_correlation(latents.correlation(np.cov(points, rowvar=False))) - float(theirs))


def _powers(points: np.ndarray) -> latents.Powers:
    """Of two halves that are summed, as the probes do with their blocks."""
    centre, scale = points.mean(0), points.std(0)
    return latents.powers(points[::2], centre, scale) + latents.powers(points[1::2], centre, scale)


def _skew() -> float:
    points, _ = _points()
    return float(np.abs(latents.skewness(_powers(points)) - stats.skew(points)).max())


def _kurtosis() -> float:
    points, _ = _points()
    return float(np.abs(latents.excess_kurtosis(_powers(points)) - stats.kurtosis(points)).max())


def _variance() -> float:
    points, _ = _points()
    return float(np.abs(_powers(points).variance / points.var(0) - 1).max())


def _kl() -> float:
    """Against the integral of p log (p / q) on a fine grid."""
    points, _ = _points()
    z = points / 8
    grid = np.linspace(-40, 40, 400_001)
    theirs = []
    for mean, deviation in zip(z.mean(0), z.std(0), strict=True):
        p = stats.norm.logpdf(grid, mean, deviation)
        theirs.append(np.trapezoid(np.exp(p) * (p - stats.norm.logpdf(grid)), grid))
    return float(np.abs(latents.kl_to_normal(_powers(z)) - theirs).max())


def _uniformity() -> float:
    points, _ = _points()
    x = normalize(StandardScaler().fit_transform(points))
    theirs = np.log(np.exp(-2 * pdist(x, "sqeuclidean")).mean())
    return abs(latents.uniformity(latents.closeness(points)) - float(theirs))


def _alignment() -> float:
    points, _ = _points()
    scaler = StandardScaler().fit(points)
    a, b = (normalize(scaler.transform(x)) for x in (points, points[::-1]))
    theirs = 2 - 2 * (a * b).sum(1)
    return float(np.abs(latents.alignment(points, points[::-1]) - theirs).max())


def _nmi() -> float:
    """Against 2 I / (H + H) with scipy's entropies."""
    _, labels = _points()
    found = np.random.default_rng(1).integers(0, 4, len(labels)) + (labels == 2)
    table = np.zeros((5, 5))
    np.add.at(table, (labels, found), 1 / len(labels))
    own = stats.entropy(table.sum(0)) + stats.entropy(table.sum(1))
    theirs = 2 * (own - stats.entropy(table.reshape(-1))) / own
    return abs(float(latents.AGREEMENT["nmi"](labels, found)) - theirs)


def _cka() -> float:
    """Against the definition through centred Gram matrices."""
    points, _ = _points()
    other = np.tanh(points[:, :7])
    centre = np.eye(len(points)) - 1 / len(points)
    k, m = (centre @ (x @ x.T) @ centre for x in (points, other))
    theirs = (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())
    return abs(latents.linear_cka(points, other) - float(theirs))


def _quadruples(k: np.ndarray, m: np.ndarray) -> float:
    """HSIC as the mean over all ordered quadruples of different images of k_ij (m_ij + m_qr - 2 m_iq)."""
    index = np.array(list(itertools.permutations(range(len(k)), 4)))
    i, j, q, r = index.T
    return float((k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])).mean())


def _unbiased() -> float:
    points, _ = _points(9)
    other = np.tanh(points[:, :7])
    k, m = (x @ x.T for x in (points, other))
    theirs = _quadruples(k, m) / np.sqrt(_quadruples(k, k) * _quadruples(m, m))
    return abs(latents.unbiased_cka(latents.gram(points), latents.gram(other)) - theirs)


_SET = "150 points, 12 correlated dimensions, 5 classes"

CHECKS: tuple[Check, ...] = (
    Check(
        "probe-knn", "scikit-learn KNeighborsClassifier, k = 20 weighted", _SET, "share of points", 0.0, _knn(20, 0.07)
    ),
    Check("probe-knn", "scikit-learn KNeighborsClassifier, plain k = 5", _SET, "share of points", 0.02, _knn(5, None)),
    Check("probe-silhouette", "scikit-learn silhouette_samples", _SET, "per point", 1e-12, _silhouette),
    Check("probe-tsne", "scikit-learn trustworthiness", _SET, "trustworthiness", 1e-12, _trustworthiness),
    Check("probe-effective-rank", "scipy svdvals of the points", _SET, "relative", 1e-10, _rank),
    Check("probe-participation-ratio", "traces of the correlation matrix", _SET, "relative", 1e-10, _participation),
    Check("probe-correlation", "numpy corrcoef", _SET, "correlation", 1e-12, _correlation),
    Check("probe-channel-variance", "numpy var", _SET, "relative", 1e-12, _variance),
    Check("probe-skew", "scipy skew", _SET, "per dimension", 1e-10, _skew),
    Check("probe-kurtosis", "scipy kurtosis", _SET, "per dimension", 1e-10, _kurtosis),
    Check("probe-kl-normal", "numerical integral of p log (p / q)", _SET, "nats", 1e-8, _kl),
    Check("probe-uniformity", "scipy pdist", _SET, "log of the mean", 1e-10, _uniformity),
    Check("probe-alignment", "2 - 2 cos of scikit-learn's normalize", _SET, "per pair", 1e-12, _alignment),
    Check("probe-nmi", "2 I / (H + H) from scipy entropies", _SET, "NMI", 1e-12, _nmi),
    Check("cka-linear", "centred Gram matrices", _SET, "CKA", 1e-12, _cka),
    Check("cka-linear-unbiased", "HSIC over all quadruples of images", "9 points of the same", "CKA", 1e-10, _unbiased),
)
