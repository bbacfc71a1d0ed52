"""Training steps of the tiny generators: forward, backward, optimizer.

``pytest bench/test_training.py --benchmark-enable --benchmark-only``
"""

from __future__ import annotations

import pytest

from bench import training
from bench.subjects import TINY_GENERATORS

ROWS = 8


@pytest.mark.parametrize("preset", TINY_GENERATORS)
def test_training(benchmark, preset):
    benchmark.group = "training step"
    loop = lambda sweep, rounds: benchmark.pedantic(sweep, rounds=rounds)  # noqa: E731
    found = training.steps(preset, ROWS, 5, loop=loop)
    assert len(found.seconds) == 5 and found.rows == ROWS
    benchmark.extra_info |= {"rows": found.rows, "positions": found.positions, "peak MiB": found.peak_mib}
