"""DPG-Bench's rules against other formulations of the same mathematics (docs/evaluators.md 3.3, 3.4)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evals.agreement.dpg import kappa
from evals.dpg.rules import RULES, score_tile
from parity import Check

GRAPHS, LIMIT = 400, 1e-12


def random_items(seed: int, forwards: bool) -> Iterator[tuple[list[dict], np.ndarray, np.ndarray]]:
    """(questions in a random file order, adjacency [n, n] of child to parent in that order, raw scores [n]) of random
    graphs without cycles.  ``forwards``: parents stand before their children in the file."""
    rng = np.random.default_rng(seed)
    for _ in range(GRAPHS):
        n = int(rng.integers(1, 16))
        edges = np.tril(rng.random((n, n)) < 0.3, -1)
        order = np.arange(n) if forwards else rng.permutation(n)
        edges = edges[np.ix_(order, order)]
        raw = (rng.random(n) < 0.7).astype(float)
        questions = [
            {
                "proposition_id": i + 1,
                "dependency": [int(p) + 1 for p in np.flatnonzero(row)],
                "tuple": "",
                "question": "",
            }
            for i, row in enumerate(edges)
        ]
        yield questions, edges, raw


def reached(edges: np.ndarray) -> np.ndarray:
    """Reflexive transitive closure, bool [n, n]: the powers of (I + edges)."""
    closure = np.eye(len(edges), dtype=bool) | edges
    for _ in range(len(edges).bit_length()):
        closure = (closure.astype(int) @ closure.astype(int)) > 0
    return closure


def _difference(name: str, forwards: bool) -> float:
    """Largest difference of a tile's score: a question counts where every question that it reaches is a yes.

    The walk in file order follows chains of parents that stand earlier, and then looks at one later parent's raw
    score; the graph follows all."""
    rules, worst = RULES[name], 0.0
    for questions, edges, raw in random_items(0, forwards):
        words = {i + 1: "yes" if score else "no" for i, score in enumerate(raw)}
        ours = np.mean(list(score_tile(words, questions, rules)[1].values()))
        if rules.zeroing == "graph":
            seen = reached(edges)
        else:
            earlier, later = np.tril(edges, -1), np.triu(edges, 1)
            seen = (reached(earlier).astype(int) @ (np.eye(len(raw), dtype=int) + later)) > 0
        theirs = np.mean([raw[row].all() for row in seen])
        worst = max(worst, abs(float(ours - theirs)))
    return worst


def _kappa_difference() -> float:
    from sklearn.metrics import cohen_kappa_score

    rng, worst = np.random.default_rng(1), 0.0
    for _ in range(100):
        a = rng.random(50) < 0.6
        b = np.where(rng.random(50) < 0.3, rng.random(50) < 0.5, a)
        counts = np.array([[np.sum(~a & ~b), np.sum(~a & b)], [np.sum(a & ~b), np.sum(a & b)]], float)
        worst = max(worst, abs(kappa(counts) - cohen_kappa_score(a, b)))
    return worst


def _zeroing(protocol: str, formulation: str, what: str, forwards: bool) -> Check:
    return Check(protocol, formulation, f"{GRAPHS} random {what}", "", LIMIT, lambda: _difference(protocol, forwards))


CHECKS: tuple[Check, ...] = (
    _zeroing("dpg-fixed", "transitive closure by matrix powers", "question graphs in random file order", False),
    _zeroing("dpg-ella", "closure over earlier parents, then one later", "question graphs in random file order", False),
    _zeroing("dpg-vgt", "transitive closure by matrix powers", "question graphs with parents first", True),
    Check("dpg-agreement", "scikit-learn cohen_kappa_score", "100 pairs of 50 answers", "", LIMIT, _kappa_difference),
)
