"""Delete-one-block jackknife of numbers that are no mean over images (docs/evaluators.md 7.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vgt.core.statistics import Interval, jackknife_interval


@dataclass(frozen=True)
class Jackknife:
    """``value`` on all ``n`` images, and ``replicates``: the value without block 1, 2, ... B, or () where there are too
    few images.  Kept in a record, replicates let two records of the same images be compared on common blocks."""

    value: float
    replicates: tuple[float, ...]
    n: int

    def interval(self, floor: float = -math.inf) -> Interval:
        """95 % interval; the lower bound is cut at ``floor``."""
        if len(self.replicates) < 2:
            return Interval(self.value, None, None, 0.95, f"none: {self.n} images are too few for a jackknife")
        found = jackknife_interval(self.value, self.replicates)
        assert found.low is not None
        return Interval(self.value, max(floor, found.low), found.high, found.level, found.method)
