"""The endless stream over a source: which sample stands at which place of it, and the square that is cut from it.

Every pass over 0 .. n-1 is a permutation of its own that is computed, not stored, so that a hundred million samples
need no table and any place can be asked for at once: a Feistel network on pairs (left, right) with left < a and
right < b, a b just above n, additions modulo a and b for the usual exclusive or; the few values beyond n are walked on
from.  A bad sample gives its place to another one, which follows from the place alone.

A crop (docs/vgt.md 1.11 and 2.6) takes an upright RGB image and ``below(n, what)``, its only source of randomness, and
gives uint8 [size, size, 3]; it raises ImageError for an image that must not be trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import gcd, isqrt
from typing import TypeVar

import numpy as np
from PIL import Image

from vgt.core.images import ImageError
from vgt.core.seeds import image_seed
from vgt.training.sources.sample import Sample, Skipped, SkipReport, Source

Below = Callable[[int, str], int]
Crop = Callable[[Image.Image, Below], np.ndarray]
Ready = TypeVar("Ready")

ROUNDS = 8
ASPECT = 10  # longer by shorter side
_WORD = (1 << 64) - 1


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


# ---------------------------------------------------------------------------------------------------------- crops


def autoencoder_crop(size: int, flip: bool = True, min_crop: float = 1.0) -> Crop:
    """Shorter edge to ``size`` (bicubic, antialiased, the longer one rounded down), random crop, half are mirrored.
    With ``min_crop`` < 1 the shorter edge is uniform in size .. size / min_crop, so that a crop shows as little as that
    share of it (docs/vfmtok.md 10).

    The published code rejects no image here (docs/vgt.md 1.11); those beyond 1:10 are, as in ``generator_crop``."""

    def cut(image: Image.Image, below: Below) -> np.ndarray:
        _check_aspect(image)
        short, edge = min(image.size), size + below(round(size / min_crop) - size + 1, "edge") if min_crop < 1 else size
        width, height = (edge * side // short for side in image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        x, y = below(width - size + 1, "x"), below(height - size + 1, "y")
        pixels = np.asarray(image.crop((x, y, x + size, y + size)))
        mirrored = flip and below(2, "mirror") == 1
        return np.ascontiguousarray(pixels[:, ::-1]) if mirrored else pixels

    return cut


def generator_crop(size: int, min_side: int = 81) -> Crop:
    """A random square along the longer side, resized to ``size`` (bicubic, antialiased), never mirrored: captions know
    left from right.  Rejects images with a side below ``min_side`` pixels and those beyond 1:10."""

    def cut(image: Image.Image, below: Below) -> np.ndarray:
        short = min(image.size)
        if short < min_side:
            raise ImageError(f"a side of {short} px is below data.min_side = {min_side}", f"below {min_side} px")
        _check_aspect(image)
        x, y = (below(side - short + 1, what) for side, what in zip(image.size, "xy", strict=True))
        square = image.crop((x, y, x + short, y + short))
        return np.asarray(square if short == size else square.resize((size, size), Image.Resampling.BICUBIC))

    return cut


def _check_aspect(image: Image.Image) -> None:
    if max(image.size) > ASPECT * min(image.size):
        raise ImageError(f"{image.width} x {image.height} px is beyond 1:{ASPECT}", f"aspect beyond 1:{ASPECT}")
