"""Batches made ahead of their use, by threads: decoding and resizing pictures leave Python free meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from types import TracebackType

from torch import Tensor


class Prefetch:
    """``batches`` with the next ones under way.  A batch is a pure function of its number, so what comes out is the
    same as without; only reports that count looks at samples see those that were made and never used.

    ``workers``: threads; ``stride``: from one number to the next, which is the number of processes; ``ahead``: batches
    under way, 2 a worker where it is 0.  ``close`` it, or use it in a ``with``."""

    def __init__(self, batches: Callable[[int], dict[str, Tensor]], workers: int, stride: int = 1, ahead: int = 0):
        if min(workers, stride) < 1 or ahead < 0:
            raise ValueError(f"prefetch of {workers} workers, stride {stride}, {ahead} ahead; give 1, 1, 0 or more")
        self._batches, self._stride, self._ahead = batches, stride, ahead or 2 * workers
        self._pool = ThreadPoolExecutor(workers, "prefetch")
        self._waiting: dict[int, Future] = {}
        self._lock = Lock()

    def __call__(self, index: int) -> dict[str, Tensor]:
        """Batch number ``index``.  Errors of a batch come up when that batch is asked for."""
        with self._lock:
            wanted = range(index, index + self._ahead * self._stride + 1, self._stride)
            for number in [n for n in self._waiting if n not in wanted]:
                self._waiting.pop(number).cancel()
            for number in wanted:
                if number not in self._waiting:
                    self._waiting[number] = self._pool.submit(self._batches, number)
            found = self._waiting.pop(index)
        return found.result()

    def close(self) -> None:
        """Drop what is under way and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def prefetch(batches: Callable[[int], dict[str, Tensor]], workers: int, stride: int = 1):
    """``batches`` prefetched by ``workers`` threads; 0 workers: ``batches`` themselves."""
    return Prefetch(batches, workers, stride) if workers else batches
