"""The one timing function, under the command line and under the pytest-benchmark suites.

A round is one call between two synchronised readings of a monotonic clock.  Several calls are measured in
alternation, A B C A B C ..., so that a drift of the machine hits them all.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

Call = Callable[[], object]
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESIDENT = "growth of the process's resident set during one untimed call (Linux high-water mark), weights excluded"
ALLOCATED = "torch.cuda.max_memory_allocated during one untimed call, weights included"


@dataclass(frozen=True)
class Timing:
    """Rounds of one call in their order: wall seconds, and CPU seconds of the process, which a busy machine changes
    less.  ``peak_mib``: memory of one untimed call, None where it was not or cannot be measured."""

    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    peak_mib: float | None

    @property
    def median(self) -> float:
        return quartiles(self.seconds)[1]

    @property
    def spread(self) -> tuple[float, float]:
        """First and third quartile, seconds."""
        low, _, high = quartiles(self.seconds)
        return low, high


class Instruments(NamedTuple):
    """How one kind of device is measured: ``synchronize`` waits for its work; ``peak_memory`` makes a call and returns
    its MiB or None; ``memory`` says what that number is."""

    synchronize: Callable[[], None]
    peak_memory: Callable[[Call], float | None]
    memory: str


def quartiles(values) -> tuple[float, float, float]:
    """(first quartile, median, third quartile), linear between the order statistics."""
    low, middle, high = np.percentile(np.asarray(values, np.float64), (25, 50, 75))
    return float(low), float(middle), float(high)


# ---------------------------------------------------------------------------------------------------- memory


def _status_mib(field: str) -> float:
    for line in STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise OSError(f"{STATUS} has no {field}")


def resident_peak(call: Call) -> float | None:
    """MiB by which the resident set grew at its highest during ``call``; None where the system does not tell (only
    Linux lets a process reset its high-water mark).  The call is made in any case.

    Pages that the allocator keeps for later are handed back first; else a second call would seem to need none."""
    gc.collect()
    try:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim is not None:
            trim(0)
        RESET.write_text("5")
        before = _status_mib("VmRSS")
    except (OSError, TypeError):
        call()
        return None
    call()
    return max(0.0, _status_mib("VmHWM") - before)


def _nothing() -> None:
    """A CPU has finished when the call returns."""


def _cuda(device) -> Instruments:
    import torch

    def peak(call: Call) -> float:
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) / 2**20

    return Instruments(lambda: torch.cuda.synchronize(device), peak, ALLOCATED)


CPU = Instruments(_nothing, resident_peak, RESIDENT)


def instruments(device: str) -> Instruments:
    """Those of a torch device by name.  Raises ValueError for a kind that is not measured here."""
    kind = device.partition(":")[0]
    if kind == "cpu":
        return CPU
    if kind == "cuda":
        return _cuda(device)
    raise ValueError(f"device {device!r} cannot be timed; choose cpu or cuda")


# ---------------------------------------------------------------------------------------------------- rounds


def plain(sweep: Call, rounds: int) -> None:
    """One sweep after the other."""
    for _ in range(rounds):
        sweep()


def alternate(
    calls: Mapping[str, Call],
    *,
    repeats: int,
    warmup: int,
    synchronize: Callable[[], None] = _nothing,
    peak_memory: Callable[[Call], float | None] = resident_peak,
    watched: Mapping[str, Call] | None = None,
    loop: Callable[[Call, int], object] = plain,
    on_call: Callable[[], object] = _nothing,
) -> dict[str, Timing]:
    """``repeats`` timed rounds of every call, in alternation, after ``warmup`` untimed ones.

    The last untimed round gives the peak memory (none without a warm-up); ``watched`` calls take the place of their
    namesakes there, for example the same work with hooks.  ``loop(sweep, repeats)`` runs the timed sweeps, so that
    another harness can drive them; ``on_call`` runs between calls, outside of the timed stretch."""
    if repeats < 1 or warmup < 0:
        raise ValueError(f"{repeats} repeats after {warmup} warm-ups; give at least 1 repeat and no negative warm-up")
    for _ in range(warmup - 1):
        for call in calls.values():
            call()
            on_call()
    peaks: dict[str, float | None] = dict.fromkeys(calls)
    if warmup:
        for name, call in calls.items():
            peaks[name] = peak_memory((watched or {}).get(name, call))
            on_call()
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}

    def sweep() -> None:
        for name, call in calls.items():
            rounds[name].append(_timed(call, synchronize))
            on_call()

    loop(sweep, repeats)
    return {
        name: Timing(tuple(wall for wall, _ in found), tuple(cpu for _, cpu in found), peaks[name])
        for name, found in rounds.items()
    }


def _timed(call: Call, synchronize: Callable[[], None]) -> tuple[float, float]:
    """(wall seconds, CPU seconds) of one call."""
    synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(call: Call, *, repeats: int, warmup: int, synchronize: Callable[[], None] = _nothing, **how) -> Timing:
    """``alternate`` for a single call; ``how``: its further arguments."""
    return alternate({"": call}, repeats=repeats, warmup=warmup, synchronize=synchronize, **how)[""]
