"""Definitions of understanding benchmarks against closed forms (docs/evaluators.md 4, 8)."""

from __future__ import annotations

import numpy as np

from evals.understanding import rules
from parity import Check

LIMIT = 1e-9


def _textvqa_difference() -> float:
    """k of 10 answers agree: (k min(1, (k-1)/3) + (10-k) min(1, k/3)) / 10."""
    worst = 0.0
    for k in range(11):
        closed = (k * min(1, (k - 1) / 3) + (10 - k) * min(1, k / 3)) / 10
        worst = max(worst, abs(rules.soft_accuracy("x", ["x"] * k + ["y"] * (10 - k)) - closed))
    return worst


def _mme_difference() -> float:
    """Table form: right [images, 2] of every sub-task -> 100 (mean of all + mean of the products of a row)."""
    rng, worst = np.random.default_rng(0), 0.0
    for _ in range(20):
        tables = {subtask: rng.random((int(rng.integers(2, 30)), 2)) < 0.7 for subtask in rules.PERCEPTION}
        closed = sum(100 * (table.mean() + table.prod(1).mean()) for table in tables.values())
        answers = [
            (name, str(i), float(right))
            for name, table in tables.items()
            for i, row in enumerate(table)
            for right in row
        ]
        worst = max(worst, abs(rules.mme_total(rules.mme_images(answers)) - closed))
    return worst


CHECKS: tuple[Check, ...] = (
    Check(
        "lmms-eval",
        "closed form of TextVQA's soft accuracy",
        "0 to 10 of 10 answers agree",
        "",
        LIMIT,
        _textvqa_difference,
    ),
    Check("lmms-eval", "table form of MME's score", "20 random answer sheets", "of 2000", LIMIT, _mme_difference),
)
