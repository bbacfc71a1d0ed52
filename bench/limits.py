"""What a device can do at most: floating-point operations and bytes a second, from a table or measured at hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench import timing

WORKING_SET = 256 * 2**20  # bytes; beyond every processor's cache
_SIDES = {"cpu": (512, 1024), "cuda": (4096, 8192)}  # of the square matrices
_ROUNDS = 15  # a busy machine leaves some of them alone
_SECONDS = 0.02  # least length of a round


@dataclass(frozen=True)
class Limits:
    """``flops``: floating-point operations a second in matrix products; ``bandwidth``: bytes a second; ``source`` of
    both."""

    name: str
    flops: float
    bandwidth: float
    source: str


KNOWN = {
    "h100": Limits("NVIDIA H100", 798e12, 3.0e12, "bf16, both measured (spec decode_engine, floors)"),
    "h200": Limits("NVIDIA H200", 798e12, 4.3e12, "bf16, bandwidth measured, operations assumed as those of an H100"),
}


def measure_limits(device: str, dtype: torch.dtype = torch.float32, working_set: int = WORKING_SET) -> Limits:
    """The limits of the device at hand with the threads in use: the best of square matrix products, and of reading
    ``working_set`` bytes again and again.

    A working set that fits a cache is read from there, as the weights of a small model are at every step.  Takes a
    second or two.  Raises ValueError for a device that cannot be timed."""
    synchronize = timing.instruments(device).synchronize
    kind = device.partition(":")[0]
    flops = 0.0
    for side in _SIDES[kind]:
        a, b = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
        flops = max(flops, 2 * side**3 / _best(lambda a=a, b=b: torch.mm(a, b), synchronize))
    stream = torch.ones(max(1024, working_set // dtype.itemsize), dtype=dtype, device=device)
    bandwidth = stream.nbytes / _best(stream.sum, synchronize)
    what = f"measured: {str(dtype).removeprefix('torch.')} matrix products, reading {stream.nbytes / 2**20:.0f} MiB"
    threads = f", {torch.get_num_threads()} threads" if kind == "cpu" else ""
    return Limits(device, flops, bandwidth, what + threads)


def _best(call: Callable[[], object], synchronize: Callable[[], None]) -> float:
    """Seconds of one call in the fastest of some rounds of many."""

    def round_of(count: int) -> float:
        synchronize()
        start = time.perf_counter()
        for _ in range(count):
            call()
        synchronize()
        return time.perf_counter() - start

    round_of(1)
    count = max(1, round(_SECONDS / round_of(1)))
    return min(round_of(count) for _ in range(_ROUNDS)) / count
