"""Made-up records with samples for the tests of `vgt compare` and `vgt gate`; they are no results."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vgt.core import files, record, samples
from vgt.core.record import Record
from vgt.core.samples import Samples
from vgt.core.statistics import cluster_interval

TASKS, PROMPTS, IMAGES = 6, 20, 4


def names() -> tuple[list[str], list[str], list[str]]:
    """ids, clusters and groups of a suite of TASKS x PROMPTS x IMAGES."""
    jobs = [(t, p, i) for t in range(TASKS) for p in range(PROMPTS) for i in range(IMAGES)]
    return (
        [f"{t}-{p:03d}/{i}" for t, p, i in jobs],
        [f"{t}-{p:03d}" for t, p, _ in jobs],
        [f"task{t}" for t, _, _ in jobs],
    )


def shares(rng: np.random.Generator, mean: float = 0.6, rho: float = 0.5) -> np.ndarray:
    """How often a model gets each prompt right [TASKS * PROMPTS]: beta, so that images of a prompt correlate by rho."""
    strength = 1 / rho - 1
    return rng.beta(mean * strength, (1 - mean) * strength, TASKS * PROMPTS)


def draw(rng: np.random.Generator, of: np.ndarray) -> np.ndarray:
    """Right or wrong of every image, float [TASKS * PROMPTS * IMAGES]."""
    return (rng.random((len(of), IMAGES)) < of[:, None]).astype(float).ravel()


def make(
    subject: str = "model", metric: str = "overall", suite: str = "scenes-geneval", value: float | None = 0.5, **fields
) -> Record:
    given = {
        "n": TASKS * PROMPTS * IMAGES,
        "n_expected": TASKS * PROMPTS * IMAGES,
        "unit": "share",
        "protocol": "geneval",
        "protocol_params": {"threshold": 0.3, "evaluated_at": 64},
        "judge": "judge-analytic 3f606fd819a0",
        "fingerprint": "f",
        "suite_hash": "s" * 16,
        "key": files.digest(subject, metric, str(value), str(sorted(fields.items(), key=str))),
        "versions": {"torch": "2.11", "numpy": "2.4"},
    }
    return Record(subject=subject, suite=suite, metric=metric, value=value, **{**given, **fields})


def put(root: Path, values: np.ndarray | None, one: Record, with_samples: bool = True) -> Record:
    """Write ``one`` below ``root`` with value and interval of ``values``, and these beside it."""
    if values is None:
        record.write(one, root)
        return one
    ids, clusters, groups = (part[: len(values)] for part in names())
    found = cluster_interval(values, clusters, groups, draws=500)
    count = {"n": len(values), "n_expected": len(values)} if one.n != len(values) else {}
    key = files.digest(one.key, repr(values.tolist()))
    full = {"value": found.value, "low": found.low, "high": found.high, "interval": found.method, "key": key, **count}
    one = one.model_copy(update=full)
    record.write(one, root)
    if with_samples:
        samples.write(Samples(ids, values.tolist(), clusters, groups), root, one)
    return one
