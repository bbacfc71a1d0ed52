"""Fréchet distance at d = 2,048 from stored moments, against the matrix square root; memory of streaming.

``pytest bench/test_frechet.py --benchmark-enable --benchmark-only``
"""

from __future__ import annotations

from functools import lru_cache

import pytest

from bench import frechet as work
from evals.metrics import frechet

sides = lru_cache(lambda: (work.stored(0), work.stored(1)))


@pytest.mark.parametrize("route", ["moments", "sqrtm"])
def test_distance(benchmark, route):
    benchmark.group = "Frechet distance, d = 2048"
    function = {"moments": frechet.from_moments, "sqrtm": work.by_square_root}[route]
    value = benchmark.pedantic(function, args=sides(), rounds=1)
    assert value == pytest.approx(frechet.from_moments(*sides()), rel=1e-6)
    benchmark.extra_info["value"] = value


@pytest.mark.parametrize("images", [1_000, 10_000])
def test_streaming(benchmark, images):
    benchmark.group = "moments of a stream, d = 2048"
    found = benchmark.pedantic(work.stream_elsewhere, args=(images,), rounds=1)
    assert found["read"] == images
    benchmark.extra_info |= found
