"""Which sample stands at which place of an endless stream over a source.

Every pass over 0 .. n-1 is a permutation of its own that is computed, not stored, so that a hundred million samples
need no table and any place can be asked for at once: a Feistel network on pairs (left, right) with left < a and
right < b, a b just above n, additions modulo a and b for the usual exclusive or; the few images beyond n are walked
on from.  A bad sample gives its place to another one, which follows from the place alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import gcd, isqrt
from typing import TypeVar

from vgt.core.seeds import image_seed
from vgt.training.sources.sample import Sample, Skipped, Source
from vgt.training.sources.skips import SkipReport
from vgt.training.transforms import Below

ROUNDS = 8
_WORD = (1 << 64) - 1

Ready = TypeVar("Ready")


def shuffled(place: int, count: int, seed: int, turn: int) -> int:
    """The sample at ``place`` (0 .. count-1) of pass number ``turn``: a bijection of 0 .. count-1."""
    a = isqrt(count - 1) + 1
    b = -(-count // a)
    while True:
        left, right = divmod(place, b)
        for key in _keys(seed, turn):
            left, right = (left + _mixed(right, key[0])) % a, right
            right = (right + _mixed(left, key[1])) % b
        place = left * b + right
        if place < count:
            return place


@lru_cache(maxsize=16)
def _keys(seed: int, turn: int) -> tuple[tuple[int, int], ...]:
    keys = [image_seed(seed, "order", turn, k) for k in range(ROUNDS)]
    return tuple(zip(keys[::2], keys[1::2], strict=True))


def _mixed(value: int, key: int) -> int:
    """64 well mixed bits of both (the finaliser of SplitMix64)."""
    value = (value * 0x9E3779B97F4A7C15 + key) & _WORD
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _WORD
    return value ^ (value >> 31)


def substitute(place: int, attempt: int, count: int) -> int:
    """The place that is asked when ``place`` holds a bad sample; attempts 0 .. count-1 ask every place once.

    Far away instead of the next one, which stands in the same batch."""
    stride = max(1, round(count * 0.618))
    while gcd(stride, count) != 1:
        stride += 1
    return (place + attempt * stride) % count


def draws(seed: int, turn: int, index: int) -> Below:
    """``below(n, what)``: a uniform integer in 0 .. n-1 for one choice about sample ``index`` in one pass."""
    return lambda n, what: image_seed(seed, "choice", turn, index, what) % n


def sample_at(
    source: Source,
    position: int,
    seed: int,
    prepare: Callable[[Sample, Below], Ready | Skipped],
    report: SkipReport,
) -> Ready:
    """What ``prepare`` makes of the sample at ``position`` (0, 1, ...) of the stream, or of its substitute.

    Raises ValueError where no sample of the source can be used, or too many were skipped."""
    count = len(source)
    turn, place = divmod(position, count)
    for attempt in range(count):
        index = shuffled(substitute(place, attempt, count), count, seed, turn)
        found = source.item(index)
        ready = found if isinstance(found, Skipped) else prepare(found, draws(seed, turn, index))
        if not isinstance(ready, Skipped):
            report.used()
            return ready
        report.skipped(ready)
    raise ValueError(f"none of the {count:,} samples of {source.name} can be used: {report.summary()}")
