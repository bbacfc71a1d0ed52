"""Speed records: which models under which conditions, measured once and kept as evidence, reused while nothing changed.

Evidence (every round of a model) lies in ``work/bench/<protocol>/<model>.json``; records are made from it alone.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from bench import autoencoder as autoencoders
from bench import generation, timing
from bench.records import METRICS, compare, from_benchmark_json, metrics_of, to_record
from bench.subjects import Subject, subject
from vgt.core import env, files, record
from vgt.core.record import Record
from vgt.models.sampling import Sampling

__all__ = ["Conditions", "Job", "Outcome", "compare", "from_benchmark_json", "measure", "plan", "rows", "run", "stamp"]

PROTOCOL_REPEATS = 3  # fewer are recorded as partial
# Sources that decide how long the work takes: a change makes the records of that kind stale.
TIMED_CODE = {
    "vgt": (
        *(f"models/{name}.py" for name in ("vgt_ae", "pixel_decoder", "vlm")),
        *(f"inference/{name}.py" for name in ("pictures", "tokenizer")),
        "equations/latents.py",
    ),
    "bench": ("timing.py", "autoencoder.py"),
}
TIMED_GENERATION_CODE = {
    "vgt": (
        *(f"models/{name}.py" for name in ("query_ar", "mar", "reference", "sampling", "visual_lm", "flow_head")),
        *(f"equations/{name}.py" for name in ("flow", "order")),
        "inference/generator.py",
    ),
    "bench": ("generation.py",),
}


@dataclass(frozen=True)
class Outcome:
    """All records of a run, and how many were made now or found unchanged on disk."""

    records: list[Record]
    computed: int
    reused: int


@dataclass(frozen=True)
class Conditions:
    """Under which a model is timed.  ``warmup``: untimed rounds, the last one watched for memory and time split."""

    batch: int = 8
    repeats: int = PROTOCOL_REPEATS
    warmup: int = 1
    device: str = "cpu"
    settings: Sampling = generation.SETTINGS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.repeats < 1 or self.warmup < 1:
            found = f"batch {self.batch}, {self.repeats} repeats, {self.warmup} warm-ups"
            raise ValueError(f"{found}: all three must be 1 or more")


@dataclass(frozen=True)
class Job:
    """One model to time: an autoencoder, or a generator at one acceleration.  ``heading``: the fields that all its
    records share, the key among them."""

    subject: Subject
    conditions: Conditions
    settings: Sampling | None
    heading: dict

    @property
    def model(self) -> str:
        accel = self.heading["accel"]
        return self.heading["subject"] + (f"@{accel}x" if accel is not None else "")

    @property
    def evidence(self) -> Path:
        """Relative to the work folder."""
        name = self.model.replace(":", "-").replace("/", "_")
        return Path("bench") / self.heading["protocol"] / f"{name}.json"

    @property
    def images(self) -> int:
        """How many a round makes."""
        return self.conditions.batch * (autoencoders.BATCHES if self.settings is None else 1)

    def calls(self) -> dict[str, Callable[[], object]]:
        """The timed calls, by operation."""
        how = self.conditions
        if self.settings is None:
            return autoencoders.calls(self.subject, how.batch)
        return {"generate": generation.call(self.subject, self.settings, how.batch, how.seed)}

    def facts(self) -> dict:
        """What is known of the work without measuring."""
        if self.settings is None:
            return {}
        model = self.subject.model
        prefix = generation.prefix_length(self.subject, self.settings, self.conditions.batch, self.conditions.seed)
        counts = generation.counts(self.subject.system, model.tokens, prefix, self.settings)
        return {"autoencoder": self.subject.ae_name, "counts": counts}


# ------------------------------------------------------------------------------------------------------ planning


def device_name(device: str) -> str:
    """The processor's name, as records carry it."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else env.processor()


def _code(*tables: dict[str, tuple[str, ...]]) -> str:
    """Content hash of the timed sources."""
    import bench
    import vgt

    roots = {"vgt": Path(vgt.__file__).parent, "bench": Path(bench.__file__).parent}
    return files.digest(*((roots[k] / name).read_bytes() for table in tables for k in table for name in table[k]))


def _job(found: Subject, conditions: Conditions, accel: int | None) -> Job:
    how = conditions
    settings = how.settings.model_copy(update={"acceleration": accel}) if accel is not None else None
    params = {
        "batch": how.batch,
        **(settings.model_dump() if settings else {}),
        "repeats": how.repeats,
        "warmup": how.warmup,
        "threads": torch.get_num_threads(),
        "dtype": str(next(found.model.parameters()).dtype).removeprefix("torch."),
        "device": how.device,
        "weights": found.weights,
    }
    if settings is not None:
        protocol = f"throughput-b{how.batch}-k{settings.flow_steps}"
        suite = generation.workload_hash(how.batch, how.seed)
        code = _code(TIMED_CODE, TIMED_GENERATION_CODE)
    else:
        protocol = f"throughput-b{how.batch}"
        suite = autoencoders.workload_hash(found, how.batch)
        code = _code(TIMED_CODE)
    heading = {
        "subject": found.name + (settings.label if settings else ""),
        "accel": accel,
        "suite": "bench",
        "protocol": protocol,
        "protocol_params": params,
        "fingerprint": found.fingerprint,
        "suite_hash": suite,
        "seed": how.seed if settings is not None else None,
        "device": device_name(how.device),
        "note": "random weights: the time does not depend on their values" if found.weights == "random" else None,
    }
    heading["key"] = record.make_key(
        **{k: heading[k] for k in ("fingerprint", "suite_hash", "protocol", "protocol_params", "device", "seed")},
        versions={name: env.versions().get(name) for name in ("torch", "transformers", "diffusers")},
        code=code,
    )
    return Job(found, conditions, settings, heading)


def plan(found: Subject, conditions: Conditions, accelerations: Sequence[int] = (1, 4, 16)) -> list[Job]:
    """One job for an autoencoder, one an acceleration for a generator.

    Raises ValueError for an acceleration that the generator's tokens do not allow."""
    if not found.generates:
        return [_job(found, conditions, None)]
    for accel in accelerations:
        found.model.check_acceleration(accel)
    return [_job(found, conditions, accel) for accel in accelerations]


# ------------------------------------------------------------------------------------------------------ measuring


def stamp() -> dict:
    """Where and when a measurement was made, as fields of its records."""
    commit, dirty = env.commit()
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"commit": commit, "dirty": dirty, "versions": env.versions(), "created": now, "command": env.command()}


def _load_average() -> float | None:
    """Processes that wanted the machine in the last minute, this one among them."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def measure(
    jobs: Sequence[Job],
    operations: Sequence[str] | None = None,
    on_call: Callable[[], object] = lambda: None,
    loop: Callable[[Callable[[], None], int], object] = timing.plain,
) -> dict[str, dict[str, dict]]:
    """Time jobs of the same conditions in alternation: {model: {operation: measurement}}.

    ``operations`` leaves the others out; ``loop`` lets another harness drive the timed rounds (timing.alternate)."""
    conditions = jobs[0].conditions
    assert all(job.conditions == conditions for job in jobs)
    device = timing.instruments(conditions.device)
    calls, watched, splits = {}, {}, {}
    for job in jobs:
        for operation, call in job.calls().items():
            if operations is None or operation in operations:
                calls[job.model, operation] = call
        if job.settings is not None:
            generation.prime(job.subject, job.settings, conditions.batch)
            watched[job.model, "generate"] = _splitting(job, calls[job.model, "generate"], device.synchronize, splits)
    before = _load_average()
    timings = timing.alternate(
        calls,
        repeats=conditions.repeats,
        warmup=conditions.warmup,
        synchronize=device.synchronize,
        peak_memory=device.peak_memory,
        watched=watched,
        loop=loop,
        on_call=on_call,
    )
    facts = {job.model: job.facts() for job in jobs}
    images = {job.model: job.images for job in jobs}
    made: dict[str, dict[str, dict]] = {}
    for (model, operation), found in timings.items():
        made.setdefault(model, {})[operation] = {
            "images": images[model],
            "seconds": list(found.seconds),
            "cpu_seconds": list(found.cpu_seconds),
            "peak_mib": found.peak_mib,
            "memory": device.memory,
            "load_average": [before, _load_average()],
            **facts[model],
            **({"split_ms_per_image": splits[model]} if model in splits else {}),
        }
    return made


def _splitting(
    job: Job, call: Callable[[], object], synchronize: Callable[[], None], splits: dict
) -> Callable[[], None]:
    """The same call, leaving the split of its time in ``splits``."""

    def watched() -> None:
        splits[job.model] = generation.split(job.subject, call, job.conditions.batch, synchronize)

    return watched


def _groups(jobs: Iterable[Job]) -> list[list[Job]]:
    """What is measured in alternation: the generators of one acceleration; the autoencoders."""
    groups: dict[int | None, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.heading["accel"], []).append(job)
    return list(groups.values())


def _stored(path: Path, key: str) -> dict | None:
    """Evidence on disk if it was gathered under that key."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if found["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _gather(jobs: list[Job], work: Path, fresh: bool) -> dict[str, dict]:
    """Evidence of all jobs by model, measured where it does not stand."""
    kept = {job.model: None if fresh else _stored(work / job.evidence, job.heading["key"]) for job in jobs}
    todo = [job for job in jobs if kept[job.model] is None]
    rounds = sum((j.conditions.warmup + j.conditions.repeats) * (1 if j.settings else 2) for j in todo)
    with tqdm(total=rounds, desc="bench", unit="round", disable=not todo) as bar:
        for group in _groups(todo):
            bar.set_postfix_str(", ".join(job.model for job in group)[:60])
            measured = measure(group, on_call=bar.update)
            for job in group:
                kept[job.model] = {"key": job.heading["key"], "stamp": stamp(), "operations": measured[job.model]}
                files.write_json(work / job.evidence, kept[job.model])
    return kept


def run(
    subjects: Sequence[str],
    *,
    work: str | Path,
    records: str | Path,
    accelerations: Sequence[int] = (1, 4, 16),
    batch: int = 8,
    repeats: int = PROTOCOL_REPEATS,
    warmup: int | None = None,
    device: str = "cpu",
    settings: Sampling = generation.SETTINGS,
    seed: int = 0,
    runs: Path | None = None,
    autoencoder: str | None = None,
    fresh: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Outcome:
    """Time generators at every acceleration and autoencoders (``bench.subjects.subject``: bundled models, runs below
    ``runs``, folders, ``random:<preset>``).  ``autoencoder``: that of the generators, if not under its own name.

    Generators of one acceleration are measured in alternation.  Records that stand are reused and missing ones made
    from evidence that stands; ``fresh`` measures all again.  ``warmup`` defaults to 1 on a CPU and 2 on a GPU.
    Raises ValueError before any work for unknown subjects and impossible conditions."""
    default = 1 if device.startswith("cpu") else 2
    conditions = Conditions(batch, repeats, default if warmup is None else warmup, device, settings, seed)
    timing.instruments(device)
    jobs = [
        job
        for spec in dict.fromkeys(subjects)
        for job in plan(subject(spec, runs, device, autoencoder, dtype), conditions, accelerations)
    ]
    models = [job.model for job in jobs]
    twice = sorted({m for m in models if models.count(m) > 1})
    if twice:
        raise ValueError(f"{twice[0]} is asked for twice; give each model and acceleration once")
    wanted = {
        f"{job.model}/bench/{metric}": (job, metric) for job in jobs for metric in metrics_of(job.heading["accel"])
    }
    keys = {name: job.heading["key"] for name, (job, _) in wanted.items()}
    kept = {name: None if fresh else record.find(records, name, key) for name, key in keys.items()}
    missing = [name for name in wanted if kept[name] is None]
    evidence = _gather(list({wanted[name][0].model: wanted[name][0] for name in missing}.values()), Path(work), fresh)
    for name in missing:
        job, metric = wanted[name]
        found = evidence[job.model]
        shared = {**job.heading, **found["stamp"], "evidence": job.evidence.as_posix()}
        kept[name] = to_record(metric, shared, found["operations"], PROTOCOL_REPEATS)
        record.write(kept[name], records)
    return Outcome([kept[name] for name in wanted], len(missing), len(wanted) - len(missing))


def rows(records: Iterable[Record]) -> list[dict]:
    """One row a model for people and programs: its name and what was measured, e.g. ``images_per_second``."""
    table: dict[str, dict] = {}
    for found in records:
        if found.suite == "bench" and found.metric in METRICS:
            row = table.setdefault(found.model, {"model": found.model, "weights": found.protocol_params.get("weights")})
            row[found.metric.replace("-", "_")] = found.value
    return list(table.values())
