"""Images from prompts: QueryAR and MAR at 1x, 4x and 16x.

``pytest bench --benchmark-enable --benchmark-only --benchmark-json=FILE``, then
``bench.records.from_benchmark_json(FILE)``.
pytest-benchmark runs one benchmark after the other; for ratios between methods ``vgt bench`` measures in alternation.
"""

from __future__ import annotations

from functools import lru_cache

import pytest

from bench import records
from bench.conditions import PROTOCOL_REPEATS, Conditions
from bench.jobs import plan
from bench.measure import measure, stamp
from bench.subjects import GENERATORS, RANDOM, TINY_GENERATORS, bundled_names, subject

SPECS = bundled_names(*GENERATORS) or [RANDOM + name for name in TINY_GENERATORS]
CONDITIONS = Conditions()
loaded = lru_cache(subject)


@pytest.mark.parametrize("acceleration", [1, 4, 16])
@pytest.mark.parametrize("spec", SPECS)
def test_generate(benchmark, spec, acceleration):
    benchmark.group = f"generate {acceleration}x"
    (job,) = plan(loaded(spec), CONDITIONS, [acceleration])
    measured = measure([job], loop=lambda sweep, rounds: benchmark.pedantic(sweep, rounds=rounds))
    found = measured[job.name]["generate"]
    assert found["counts"]["decode_steps"] == 64 // acceleration
    benchmark.extra_info |= records.benchmark_info(job.heading, stamp(), "generate", found, PROTOCOL_REPEATS)
