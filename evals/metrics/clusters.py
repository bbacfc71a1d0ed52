"""Clusters of latents (docs/evaluators.md 5): against labels, and as maps over images; pure functions of numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.metrics import (
    adjusted_rand_score,
    completeness_score,
    homogeneity_score,
    normalized_mutual_info_score,
)

from evals.metrics.latents import directions, standardize

MINI_BATCH_ABOVE = 100_000  # points, from which on k-means sees them in mini batches
AGREEMENT = {
    "nmi": normalized_mutual_info_score,
    "ari": adjusted_rand_score,
    "homogeneity": homogeneity_score,
    "completeness": completeness_score,
}


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
