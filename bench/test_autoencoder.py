"""Images to latents and back: every autoencoder.

``pytest bench --benchmark-enable --benchmark-only --benchmark-json=FILE``, then
``bench.records.from_benchmark_json(FILE)``.
"""

from __future__ import annotations

from functools import lru_cache

import pytest

from bench import records
from bench.autoencoder import OPERATIONS
from bench.conditions import PROTOCOL_REPEATS, Conditions
from bench.jobs import plan
from bench.measure import measure, stamp
from bench.subjects import AUTOENCODERS, RANDOM, TINY_AUTOENCODERS, bundled_names, subject

SPECS = bundled_names(*AUTOENCODERS) or [RANDOM + name for name in TINY_AUTOENCODERS]
CONDITIONS = Conditions()
loaded = lru_cache(subject)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("spec", SPECS)
def test_autoencoder(benchmark, spec, operation):
    benchmark.group = operation
    (job,) = plan(loaded(spec), CONDITIONS)
    measured = measure([job], [operation], loop=lambda sweep, rounds: benchmark.pedantic(sweep, rounds=rounds))
    found = measured[job.name][operation]
    assert all(seconds > 0 for seconds in found["seconds"])
    benchmark.extra_info |= records.benchmark_info(job.heading, stamp(), operation, found, PROTOCOL_REPEATS)
