"""One evaluation under ``accelerate launch`` or torchrun: every process does its part, the first one then the rest.

The processes meet in the key-value store that the launcher keeps for them (torch.distributed); the work itself goes
through files, so a process that dies loses nothing.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from evals.engine.store import WHOLE, Shard

BEAT = 5.0  # seconds between two signs of life of a process
PATIENCE = 300.0  # seconds without one after which it counts as dead
KEPT = "what was made is kept, run the same command again to go on"

_rounds = itertools.count()  # evaluations in this process: the same number in all processes of a launch

T = TypeVar("T")


def place() -> Shard:
    """This process among those of the launcher (RANK of WORLD_SIZE); WHOLE where there is no launcher."""
    return Shard(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


@functools.cache
def _launcher_store() -> Any:
    """The store that all processes of the launcher see.  Raises ValueError where it cannot be reached."""
    from torch.distributed import rendezvous

    try:
        return next(rendezvous("env://"))[0]
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"RANK and WORLD_SIZE are set but the processes cannot meet ({str(error).splitlines()[0]}); "
            f"start them with accelerate launch or torchrun, or give each its part with --shards k/n"
        ) from error


def _next_store() -> Any:
    """The launcher's store, with names of its own for every evaluation."""
    from torch.distributed import PrefixStore

    return PrefixStore(f"vgt/{next(_rounds)}", _launcher_store())


def together(
    here: Shard,
    work: Callable[[Shard], T],
    *,
    store: Any = None,
    patience: float = PATIENCE,
    beat: float = BEAT,
) -> T | None:
    """``work(WHOLE)`` after every process has done ``work`` of its part; None in all processes but the first.

    ``here``: the process's ``place``.  ``store``: a torch.distributed store, by default the launcher's.
    Raises ValueError in the first process where another one failed, or gave no sign of life for ``patience`` seconds;
    in the others only what their own work raises."""
    if here.whole:
        return work(WHOLE)
    store = _next_store() if store is None else store
    if here.index == 0:
        work(here)
        for index in range(1, here.count):
            _wait(store, Shard(index, here.count), patience, beat)
        return work(WHOLE)
    end = "failed"
    with _signs_of_life(store, f"beat/{here.index}", beat):
        try:
            work(here)
            end = "done"
        except BaseException as error:
            end = " ".join(f"{type(error).__name__}: {error}".split())
            raise
        finally:
            with contextlib.suppress(RuntimeError):  # the first process has gone, and the store with it
                store.set(f"end/{here.index}", end)
    return None


@contextlib.contextmanager
def _signs_of_life(store: Any, key: str, beat: float) -> Iterator[None]:
    """Count ``key`` up every ``beat`` seconds, from a thread, until the block ends."""
    over = threading.Event()

    def count() -> None:
        with contextlib.suppress(RuntimeError):
            store.add(key, 1)
            while not over.wait(beat):
                store.add(key, 1)

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _wait(store: Any, other: Shard, patience: float, beat: float) -> None:
    """Return when ``other`` has done its part.  Raises ValueError where it failed or fell silent."""
    end, life = f"end/{other.index}", f"beat/{other.index}"
    beats, heard = 0, time.monotonic()
    while not store.check([end]):
        found = store.add(life, 0)
        if found != beats:
            beats, heard = found, time.monotonic()
        if time.monotonic() - heard > patience:
            raise ValueError(f"process {other} gave no sign of life for {patience:g} s and has probably died; {KEPT}")
        time.sleep(min(beat, 0.2))
    said = store.get(end).decode()
    if said != "done":
        raise ValueError(f"process {other} failed ({said}); {KEPT}")
