"""What latents tell of labels (docs/evaluators.md 5): pure functions of points X [N, d] and labels [N].

Points are standardized per dimension first.  ``groups`` [N] names what must not be told from itself, for example
the tokens of one image: no point is judged with the help of its own group.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from evals.metrics.latents import directions, standardize

FOLDS, INNER_FOLDS = 5, 3
GRID = (0.01, 0.1, 1.0, 10.0)  # inverse regularization C of the linear probe
_ROWS = 1000  # rows of the similarity matrix that are held at a time


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
