"""Pictures to latents and back: every autoencoder.

``pytest bench --benchmark-enable --benchmark-only --benchmark-json=FILE``, then
``bench.run.from_benchmark_json(FILE)``.
"""

from __future__ import annotations

from functools import lru_cache

import pytest

from bench import records, run
from bench.autoencoder import OPERATIONS
from bench.subjects import AUTOENCODERS, RANDOM, TINY_AUTOENCODERS, bundled_names, subject

SPECS = bundled_names(*AUTOENCODERS) or [RANDOM + name for name in TINY_AUTOENCODERS]
CONDITIONS = run.Conditions()
loaded = lru_cache(subject)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("spec", SPECS)
def test_autoencoder(benchmark, spec, operation):
    benchmark.group = operation
    (job,) = run.plan(loaded(spec), CONDITIONS)
    measured = run.measure([job], [operation], loop=lambda sweep, rounds: benchmark.pedantic(sweep, rounds=rounds))
    found = measured[job.model][operation]
    assert all(seconds > 0 for seconds in found["seconds"])
    benchmark.extra_info |= records.benchmark_info(job.heading, run.stamp(), operation, found, run.PROTOCOL_REPEATS)
