"""Two ways to compute the same thing, timed in alternation: ours ("call") and a plain or independent one ("plain")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from bench import sources, timing
from bench.measure import stamp
from bench.records import to_record
from vgt.core import files, record
from vgt.core.record import Record
from vgt.training.distributed import device_name

METRICS = ("ms-per-call", "plain-ms-per-call", "speedup-over-plain")
ROUND_SECONDS = 0.05  # least length of a round; a call that is shorter is made several times


@dataclass(frozen=True)
class Pair:
    """``ours`` and ``theirs`` do the same to ``batch`` items; ``what`` says who they are; ``modules`` decide their
    time; ``floor`` milliseconds of a call ("ms"), where one is known, with what stands beside it."""

    name: str
    batch: int
    ours: Callable[[], object]
    theirs: Callable[[], object]
    what: str
    modules: tuple[str, ...]
    params: dict = field(default_factory=dict)
    floor: dict | None = None

    def times(self, how: timing.Instruments, repeats: int, **loop) -> dict[str, timing.Timing]:
        """Seconds of one call of each, over ``repeats`` rounds."""
        calls = {"call": self.ours, "plain": self.theirs}
        single = timing.alternate(calls, repeats=1, warmup=1, synchronize=how.synchronize, peak_memory=_unwatched)
        counts = {name: max(1, round(ROUND_SECONDS / found.median)) for name, found in single.items()}
        many = {name: _repeated(call, counts[name]) for name, call in calls.items()}
        found = timing.alternate(many, repeats=repeats, warmup=0, synchronize=how.synchronize, **loop)
        return {
            name: timing.Timing(
                tuple(s / counts[name] for s in t.seconds), tuple(s / counts[name] for s in t.cpu_seconds), None
            )
            for name, t in found.items()
        }


def _unwatched(call: Callable[[], object]) -> None:
    call()


def _repeated(call: Callable[[], object], count: int) -> Callable[[], None]:
    def many() -> None:
        for _ in range(count):
            call()

    return many


def run(pairs: Sequence[Pair], records: str | Path, device: str, repeats: int) -> list[Record]:
    """Time every pair and write its records."""
    how, made = timing.instruments(device), []
    for pair in pairs:
        found = pair.times(how, repeats)
        operations = {
            name: {"images": 1, "seconds": list(t.seconds), "cpu_seconds": list(t.cpu_seconds), "what": pair.what}
            for name, t in found.items()
        }
        if pair.floor is not None:
            operations["call"]["floor"] = pair.floor
        shared = _shared(pair, device, repeats) | stamp()
        metrics = METRICS + (("floor-ms-per-call",) if pair.floor is not None else ())
        made += [to_record(metric, shared, operations, repeats) for metric in metrics]
    for found in made:
        record.write(found, records)
    return made


def _shared(pair: Pair, device: str, repeats: int) -> dict:
    params = {"batch": pair.batch, "repeats": repeats, "threads": torch.get_num_threads(), "device": device}
    found = {
        "subject": pair.name,
        "suite": f"bench-b{pair.batch}",
        "protocol": "call-against-plain",
        "protocol_params": params | pair.params,
        "fingerprint": sources.code(pair.modules),
        "suite_hash": files.digest_json([pair.name, pair.batch, pair.params]),
        "device": device_name(device),
    }
    return found | {"key": record.make_key(**found)}


def cpu_ratio(found: dict[str, timing.Timing]) -> float:
    """How many times less CPU time ours takes, medians."""
    ours, theirs = (float(np.median(found[name].cpu_seconds)) for name in ("call", "plain"))
    return theirs / ours
