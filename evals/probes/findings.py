"""What a probe found, and how its interval comes about: images that vary together are resampled together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from evals.probes.views import Points
from vgt.core.samples import Samples
from vgt.core.statistics import Interval, cluster_interval, jackknife_interval, wilson

BLOCKS = 20


@dataclass(frozen=True)
class Finding:
    """One number.  ``n`` of ``asked`` images entered it, None for all; ``samples`` where it is a mean over them."""

    interval: Interval | None
    note: str | None = None
    unit: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    n: int | None = None
    asked: int | None = None
    samples: Samples | None = None

    def fields(self, n: int, expected: int) -> dict[str, Any]:
        """Value, bounds and coverage of a record over ``n`` images of ``expected``."""
        n = n if self.n is None else self.n
        expected = expected if self.asked is None else self.asked
        found = {"value": None, "note": self.note, "unit": self.unit, "extra": self.extra}
        if self.interval is not None:
            i = self.interval
            found |= {"value": i.value, "low": i.low, "high": i.high, "interval": i.method}
        return found | {"n": n, "n_expected": max(expected, n)}


def blocks(cluster: np.ndarray) -> list[np.ndarray]:
    """Masks bool [M] of at most BLOCKS blocks of whole clusters; no two share a point, together they have all."""
    number = np.unique(cluster, return_inverse=True)[1]
    count = min(BLOCKS, int(number.max()) + 1)
    return [number % count == b for b in range(count)]


def left_out(value: float, replicates: Sequence[float], least: float | None = None) -> Interval:
    """Jackknife interval from the estimates without each block; ``least`` cuts the lower bound."""
    if len(replicates) < 2:
        return Interval(value, None, None, 0.95, "none: images of one cluster cannot show a spread")
    found = jackknife_interval(value, replicates)
    return found if least is None else replace(found, low=max(least, found.low))


def jackknife(measure: Callable[[np.ndarray], float], cluster: np.ndarray, least: float | None = None) -> Interval:
    """``measure(keep)`` over the points in ``keep``, bool [M], with its delete-one-block interval."""
    parts = blocks(cluster)
    whole = measure(np.ones(len(cluster), bool))
    return left_out(whole, [measure(~part) for part in parts] if len(parts) > 1 else [], least)


def merged(measure: Callable[[Any], float], parts: Sequence[Any], least: float | None = None) -> Interval:
    """The same where the ``parts`` are sums of blocks that can be added and taken away."""
    whole = sum(parts[1:], parts[0])
    return left_out(measure(whole), [measure(whole - p) for p in parts] if len(parts) > 1 else [], least)


def average(values: np.ndarray, seen: Points, ids: Sequence[str], **about) -> Finding:
    """Mean over points [M], with its samples: Wilson's interval for right and wrong of images that vary on their own,
    else a bootstrap over clusters of images.  ``ids``: of all images."""
    values = np.asarray(values, np.float64)
    binary = set(values.tolist()) <= {0.0, 1.0}
    alone = len(set(seen.cluster.tolist())) == len(values)
    if binary and alone:
        interval = wilson(int(values.sum()), len(values))
    else:
        interval = cluster_interval(values, seen.cluster.tolist())
    names = [ids[i] for i in seen.image]
    if seen.tokens:
        names = [f"{name}#{row}" for row, name in enumerate(names)]
    samples = Samples(names, values.tolist(), [str(c) for c in seen.cluster])
    return Finding(interval, samples=samples, **about)
