"""Batches made ahead of their use: by threads where images are decoded and resized, which leaves Python free; by
processes where scenes are drawn, which is Python's own work."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader


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


def each(made: Callable[[int], Any], indices: Iterable[int], processes: int) -> Iterator[Any]:
    """``made(i)`` for every index, in order, ahead of its use by so many processes (0: none, one after the other).

    The processes are forked, so ``made`` may be a closure; where a system cannot fork, there are none.  Tensors come
    through pipes, which need no shared memory: containers often have little."""
    if not processes or "fork" not in multiprocessing.get_all_start_methods():
        return map(made, indices)
    loader = DataLoader(
        _Indexed(made), batch_size=None, sampler=indices, num_workers=processes, multiprocessing_context="fork",
        collate_fn=_packed, generator=torch.Generator(),
    )  # fmt: skip
    return map(_unpacked, loader)


class _Indexed:
    """A function as a data set."""

    def __init__(self, made: Callable[[int], Any]):
        self.made = made

    def __getitem__(self, index: int) -> Any:
        return self.made(index)


def _packed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: part.numpy() if isinstance(part, Tensor) else part for key, part in value.items()}
    return value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: torch.from_numpy(part) if isinstance(part, np.ndarray) else part for key, part in value.items()}
    return value


class Forked:
    """``batches`` made ahead by processes (see ``each``).  Every ``stride``-th is expected to be asked for; another
    number starts the processes anew."""

    def __init__(self, batches: Callable[[int], dict[str, Tensor]], processes: int, stride: int = 1):
        self._batches, self._processes, self._stride = batches, processes, stride
        self._next, self._made = -1, iter(())

    def __call__(self, index: int) -> dict[str, Tensor]:
        """Batch number ``index``."""
        if index != self._next:
            self._made = each(self._batches, range(index, sys.maxsize, self._stride), self._processes)
        self._next = index + self._stride
        return next(self._made)

    def close(self) -> None:
        """End the processes."""
        self._next, self._made = -1, iter(())

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
