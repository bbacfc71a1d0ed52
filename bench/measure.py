"""Measuring: jobs of the same conditions in alternation, with what stands beside their times."""

from __future__ import annotations

import datetime
import gc
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch

from bench import energy, generation, limits, roofline, timing
from bench.jobs import Job
from vgt.core import env

ENERGY_SECONDS = 1.0  # of work under the energy counter, at least


def stamp() -> dict:
    """Where and when a measurement was made, as fields of its records."""
    commit, dirty = env.commit()
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"commit": commit, "dirty": dirty, "versions": env.versions(), "created": now, "command": env.command()}


def _load_average() -> float | None:
    """Processes that wanted the machine in the last minute, this one among them."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


@dataclass
class Measuring:
    """Jobs of the same conditions while they are timed: their calls by (job, operation), what became of them, and which
    of them have no room in memory."""

    instruments: timing.Instruments
    calls: dict[tuple[str, str], Callable[[], object]] = field(default_factory=dict)
    splits: dict[tuple[str, str], dict] = field(default_factory=dict)
    lost: dict[tuple[str, str], dict] = field(default_factory=dict)

    def add(self, job: Job, operations: Sequence[str] | None) -> None:
        """Take a job's calls after trying them, or note which have no room."""
        wanted = [name for name in job.operations if operations is None or name in operations]
        if job.settings is None:
            lost = dict.fromkeys(wanted, _trial_of_images(job))
        else:
            lost = {name: _trial(job, name) for name in wanted}
        self.lost |= {(job.name, name): found for name, found in lost.items() if found is not None}
        fitting = [name for name in wanted if lost[name] is None]
        calls = job.calls() if fitting else {}
        self.calls |= {(job.name, name): calls[name] for name in fitting}

    def watched(self, job: Job, operation: str) -> Callable[[], None]:
        """A call that leaves the split of its time."""
        call = self.calls[job.name, operation]

        def watch() -> None:
            self.splits[job.name, operation] = generation.split(
                job.subject, call, job.images, self.instruments.synchronize, job.loops()[operation]
            )

        return watch


def _halved(batch: int, attempt: Callable[[int], bool]) -> dict | None:
    """None if ``attempt(batch)`` finds room, else which batch does of those that halving leaves."""
    fits = batch
    while fits and not attempt(fits):
        fits //= 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return None if fits == batch else {"batch": batch, "fits": fits}


def _trial(job: Job, operation: str) -> dict | None:
    """Make one decode step, on a GPU the whole call of a generator; None if memory suffices, else which batch fits."""
    how, settings, loop = job.conditions, job.settings, job.loops()[operation]
    assert settings is not None

    def attempt(batch: int) -> bool:
        part = replace(how, batch=batch)
        if loop is not None and operation == "generate":
            loop.limit = None
        try:
            generation.prime(job.subject, settings, part, loop)
            if how.device.startswith("cuda"):
                generation.call(job.subject, settings, part, loop)()
        except torch.OutOfMemoryError:
            return False
        return getattr(loop, "limit", None) is None  # an engine makes smaller batches of one that does not fit

    return _halved(how.batch, attempt)


def _trial_of_images(job: Job) -> dict | None:
    """The same for an autoencoder, both ways."""

    def attempt(batch: int) -> bool:
        try:
            for call in replace(job, conditions=replace(job.conditions, batch=batch)).calls().values():
                call()
        except torch.OutOfMemoryError:
            return False
        return True

    return _halved(job.conditions.batch, attempt) if job.conditions.device.startswith("cuda") else None


def measure(
    jobs: Sequence[Job],
    operations: Sequence[str] | None = None,
    on_call: Callable[[], object] = lambda: None,
    loop: Callable[[Callable[[], None], int], object] = timing.plain,
) -> dict[str, dict[str, dict]]:
    """Time jobs of the same conditions in alternation: {job's name: {operation: measurement}}.

    ``operations`` leaves the others out; ``loop`` lets another harness drive the timed rounds (timing.alternate)."""
    how = jobs[0].conditions
    assert all(job.conditions == how for job in jobs)
    device = timing.instruments(how.device)
    at = Measuring(device)
    for job in jobs:
        at.add(job, operations)
    split = {
        (job.name, name): at.watched(job, name)
        for job in jobs
        for name in job.loops()
        if (job.name, name) in at.calls and how.flights == 1
    }
    on_gpu = how.device.startswith("cuda")
    before = _load_average()
    timings = timing.alternate(
        at.calls,
        repeats=how.repeats,
        warmup=how.warmup,
        synchronize=device.synchronize,
        peak_memory=device.peak_memory,
        watched={} if on_gpu else split,
        loop=loop,
        on_call=on_call,
    )
    for watch in split.values() if on_gpu else ():  # its clocks change what the engine does, and its memory
        watch()
    made: dict[str, dict[str, dict]] = {}
    for job in jobs:
        facts, used = job.facts(), _beside(job, at)
        for name, operation in (place for place in (*at.calls, *at.lost) if place[0] == job.name):
            if (name, operation) in at.lost:
                made.setdefault(name, {})[operation] = {"out_of_memory": at.lost[name, operation], **facts}
                continue
            found = timings[name, operation]
            made.setdefault(name, {})[operation] = {
                "images": job.images,
                "seconds": list(found.seconds),
                "cpu_seconds": list(found.cpu_seconds),
                "peak_mib": found.peak_mib,
                "memory": device.memory,
                "load_average": [before, _load_average()],
                **facts,
                **({"split_ms_per_image": at.splits[name, operation]} if (name, operation) in at.splits else {}),
                **(used if operation == "generate" else {}),
            }
    return made


def _beside(job: Job, at: Measuring) -> dict:
    """What stands beside an engine's times: its notes, the floor, the energy."""
    if (job.name, "generate") not in at.calls:
        return {}
    notes = list(getattr(job.loops()["generate"], "notes", []))
    used = _energy(at.calls[job.name, "generate"], job, at.instruments.synchronize)
    return {"notes": notes, "floor": _floor(job), "energy": used}


def _energy(call: Callable[[], object], job: Job, synchronize: Callable[[], None]) -> dict:
    """Millijoules an image over calls of a second or more; no number where none is reported."""
    read, how = energy.counter(job.conditions.device)
    if read is None:
        return {"mj_per_image": None, "how": how}
    calls, start, until = 0, read(), time.monotonic() + ENERGY_SECONDS
    while time.monotonic() < until:
        call()
        synchronize()
        calls += 1
    return {"mj_per_image": 1000 * (read() - start) / (calls * job.images), "how": f"{how}, {calls} calls"}


def _limits(device: str, dtype: torch.dtype, working_set: int) -> limits.Limits:
    """The best that this process has measured so far: well at first, a little beside every measurement after that."""
    key, seen = (device, dtype, working_set, torch.get_num_threads()), _SEEN
    found = limits.measure_limits(device, dtype, working_set, 0.05 if key in seen else 0.3)
    seen[key] = limits.better(seen.get(key, found), found)
    return seen[key]


_SEEN: dict[tuple, limits.Limits] = {}


def _floor(job: Job) -> dict:
    """The floor of a generator's image by this device's own limits."""
    assert job.settings is not None
    dtype = next(job.subject.model.parameters()).dtype
    weights = roofline.step_bytes(roofline.sizes(job.subject.model), dtype.itemsize)
    known = _limits(job.conditions.device, dtype, weights)
    found = generation.floor(job.subject, job.settings, job.conditions, known)
    return {"ms": found.total, "split": found.ms, "gigabytes": found.bytes / 1e9,
            "teraflops": found.operations / 1e12, "limits": asdict(known)}  # fmt: skip
