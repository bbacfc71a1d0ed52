"""What a device can do at most: floating-point operations and bytes a second, from a table or measured at hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from bench import timing

WORKING_SET = 256 * 2**20  # bytes; beyond every processor's cache
_SIDE = {"cpu": 1024, "cuda": 8192}  # of the square matrices
_ROUND = 0.02  # seconds, at least


@dataclass(frozen=True)
class Limits:
    """``flops``: floating-point operations a second in matrix products; ``bandwidth``: bytes a second; ``source`` of
    both."""

    name: str
    flops: float
    bandwidth: float
    source: str


KNOWN = {
    "h100": Limits("NVIDIA H100", 798e12, 3.0e12, "bf16, both measured (docs/decode.md, floors)"),
    "h200": Limits("NVIDIA H200", 798e12, 4.3e12, "bf16, bandwidth measured, operations assumed as those of an H100"),
}


def measure_limits(
    device: str, dtype: torch.dtype = torch.float32, working_set: int = WORKING_SET, seconds: float = 0.3
) -> Limits:
    """The limits of the device at hand with the threads in use: the fastest round of matrix products (as they are, and
    with a transposed weight) and convolutions, and of reading ``working_set`` bytes again and again.  Each of the four
    goes on for ``seconds``; on a busy machine longer ones find more.

    A working set that fits a cache is read from there, as the weights of a small model are at every step.
    Raises ValueError for a device that cannot be timed."""
    synchronize = timing.instruments(device).synchronize
    kind = device.partition(":")[0]
    side = _SIDE[kind]
    a, b = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    image, kernel = (torch.ones(*shape, dtype=dtype, device=device) for shape in ((4, 128, 32, 32), (128, 128, 3, 3)))
    convolution = 2 * 9 * 128 * image.numel()
    stream = torch.ones(max(1024, working_set // dtype.itemsize), dtype=dtype, device=device)
    with torch.no_grad():
        products = (
            (2 * side**3, lambda: torch.mm(a, b)),
            (2 * side**3, lambda: F.linear(a, b)),
            (convolution, lambda: F.conv2d(image, kernel, padding=1)),
        )
        flops = max(operations / _best(call, synchronize, seconds) for operations, call in products)
        bandwidth = stream.nbytes / _best(stream.sum, synchronize, seconds)
    what = f"measured: {str(dtype).removeprefix('torch.')} products, reading {stream.nbytes / 2**20:.0f} MiB"
    threads = f", {torch.get_num_threads()} threads" if kind == "cpu" else ""
    return Limits(device, flops, bandwidth, what + threads)


def better(a: Limits, b: Limits) -> Limits:
    """The higher of two measurements of one device, each for itself."""
    return replace(a, flops=max(a.flops, b.flops), bandwidth=max(a.bandwidth, b.bandwidth))


def _best(call: Callable[[], object], synchronize: Callable[[], None], seconds: float) -> float:
    """Seconds of one call in the fastest of some rounds of many."""

    def round_of(count: int) -> float:
        synchronize()
        start = time.perf_counter()
        for _ in range(count):
            call()
        synchronize()
        return time.perf_counter() - start

    round_of(1)
    count = max(1, round(_ROUND / round_of(1)))
    fastest, until = round_of(count), time.perf_counter() + seconds
    while time.perf_counter() < until:
        fastest = min(fastest, round_of(count))
    return fastest / count
