"""The one timing function and its instruments: clocks, memory, energy, and whether the machine was busy meanwhile.

A round is one call between two synchronised readings of a monotonic clock.  Several calls are measured in
alternation, A B C A B C ..., so that a drift of the machine hits them all.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

Call = Callable[[], object]
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESIDENT = "growth of the process's resident set during one untimed call (Linux high-water mark), weights excluded"
ALLOCATED = "torch.cuda.max_memory_allocated during one untimed call, weights included"
SPREAD = 0.25  # of the quartiles around the median, above which rounds are no measurement of one thing
CPU_SHARE = 0.8  # of a CPU that a call has where nothing else runs; one thread is always at work


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


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """(first quartile, median, third quartile), linear between the order statistics."""
    low, middle, high = np.percentile(np.asarray(values, np.float64), (25, 50, 75))
    return float(low), float(middle), float(high)


def busy(seconds: Sequence[float], cpu_seconds: Sequence[float], on_cpu: bool) -> str | None:
    """What says that other work took the machine during these rounds; None where nothing does.

    Rounds of one call differ little where it runs alone, and on a CPU its process is at work all the time."""
    low, middle, high = quartiles(seconds)
    found = []
    if high - low > SPREAD * middle:
        found.append(f"rounds spread by {100 * (high - low) / middle:.0f} % of their median")
    share = sum(cpu_seconds) / sum(seconds)
    if on_cpu and share < CPU_SHARE:
        found.append(f"the process had a CPU for {100 * share:.0f} % of the time")
    return ", ".join(found) or None


# ------------------------------------------------------------------------------------------------- instruments


class Instruments(NamedTuple):
    """How one kind of device is measured: ``synchronize`` waits for its work; ``peak_memory`` makes a call and returns
    its MiB or None; ``memory`` says what that number is; ``energy`` reads the joules used so far, None where nobody
    counts them, and ``energy_source`` says how, or why not."""

    synchronize: Callable[[], None]
    peak_memory: Callable[[Call], float | None]
    memory: str
    energy: Callable[[], float] | None = None
    energy_source: str = "no energy counter: not an NVIDIA GPU"


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


def free_memory() -> None:
    """Give back what nothing refers to any more, of a GPU too."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _nothing() -> None:
    """A CPU has finished when the call returns."""


def _cuda(device: str) -> Instruments:
    import torch

    def synchronize() -> None:
        torch.cuda.synchronize(device)

    def peak(call: Call) -> float:
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) / 2**20

    return Instruments(synchronize, peak, ALLOCATED, *_energy_counter(device))


NVML = "libnvidia-ml.so.1"
_NVML_ERRORS = {3: "this GPU does not report it", 4: "no permission", 9: "the driver is not loaded"}


def _energy_counter(device: str) -> tuple[Callable[[], float] | None, str]:
    """A function that reads the joules which an NVIDIA GPU has used since its driver was loaded (nvidia-ml), or None;
    and how, or why not.  The counter moves some ten times a second: measure over a second or more."""
    import torch

    def check(status: int) -> None:
        if status:
            raise OSError(f"nvidia-ml: {_NVML_ERRORS.get(status, f'error {status}')}")

    try:
        lib = ctypes.CDLL(NVML)
        check(lib.nvmlInit_v2())
        handle = ctypes.c_void_p()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        check(lib.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)))

        def read() -> float:
            millijoules = ctypes.c_ulonglong()
            check(lib.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)))
            return millijoules.value / 1000

        read()
    except (OSError, AttributeError) as error:
        return None, f"no energy counter: {error}"
    return read, "nvmlDeviceGetTotalEnergyConsumption"


CPU = Instruments(_nothing, resident_peak, RESIDENT)


def instruments(device: str) -> Instruments:
    """Those of a torch device by name.  Raises ValueError for a kind that is not measured here."""
    kind = device.partition(":")[0]
    if kind == "cpu":
        return CPU
    if kind == "cuda":
        return _cuda(device)
    raise ValueError(f"device {device!r} cannot be timed; choose cpu or cuda")


# ------------------------------------------------------------------------------------------------------ rounds


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
