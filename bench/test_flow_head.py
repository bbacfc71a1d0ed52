"""The flow head of one decode step at 1, 4 and 16 tokens: hoisted against plain, in alternation.

``pytest bench/test_flow_head.py --benchmark-enable --benchmark-only``
"""

from __future__ import annotations

import pytest
import torch

from bench import flow_head, timing
from bench.limits import KNOWN


@pytest.mark.parametrize("rows", flow_head.ROWS)
@pytest.mark.parametrize("size, preset", [("tiny", "query_ar_internvl"), ("0.6b", "query_ar_internvl3_1b")])
def test_flow_head(benchmark, size, preset, rows):
    benchmark.group = f"flow head {size}"
    pair = flow_head.pair(preset, size, rows, "cpu", torch.float32, KNOWN["h100"], {})
    difference = pair.ours() - pair.theirs()
    assert difference.shape == (rows // 2, 32) and difference.abs().max() < 1e-4
    found = pair.times(timing.CPU, 5, loop=lambda sweep, rounds: benchmark.pedantic(sweep, rounds=rounds))
    benchmark.extra_info |= {"rows": rows, "ratio": found["plain"].median / found["call"].median}
