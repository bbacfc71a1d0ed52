"""From a preset to a trained checkpoint: has the system's job built, trains it, writes the folder and its card."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from vgt.checkpoints import checkpoint
from vgt.core import scenes
from vgt.inference.load import locate
from vgt.methods import registry
from vgt.training import data as batching
from vgt.training import log
from vgt.training.distributed import Team, device_name, native_bf16, team
from vgt.training.job import Job, Place, Preset, read
from vgt.training.loop import MODEL, SNAPSHOTS, Result, train
from vgt.training.optim import micro_rows
from vgt.training.state import seconds_spent


@dataclass(frozen=True)
class Trained:
    """A finished run: its checkpoint folder and fingerprint, steps, last loss, steps trained now."""

    folder: Path
    fingerprint: str
    result: Result


def run(
    name: str, settings: list[str], out: Path | None, runs: Path, device: str = "cpu", fresh: bool = False,
    publish: bool = False,
) -> Trained:  # fmt: skip
    """Train a preset (or go on with it), alone or as one of the processes of torchrun or ``accelerate launch``.
    ``out`` defaults to ``runs/<preset name>``; ``publish``: train nothing, write the model of the run's last state."""
    preset = read(name, settings)
    here = team(device)
    place = Place(runs, here, micro_rows(preset.train, here.size))
    if here.first and preset.train.precision == "bf16" and not native_bf16(here.device):
        print(_slow(here.device), file=sys.stderr)
    out = out or runs / preset.name
    with here.first_alone(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(preset.train.seed)
        job: Job = registry.get(preset.system).part("job")(preset, place)
    identity = {"preset": preset.model_dump(mode="json"), "parents": dict(job.parents), "world": scenes.WORLD}
    folder, earlier = out / MODEL, _earlier(preset, runs)

    def save(state, _: int, place: Path = folder) -> None:
        texts = _texts(name, settings, preset, job, out, earlier, device_name(here.device))
        checkpoint.save(
            place, preset.system, preset.name, job.config, state, job.tokenizer, texts, preset.train.storage
        )

    def snapshot(state, step: int) -> None:
        save(state, step, out / SNAPSHOTS / str(step))

    sample = (lambda state, step: job.sample(state, step, out)) if job.sample else None
    with _ahead(job, preset, here) as batches:
        result = train(
            job.system, batches, preset.train, out, identity, save, sample, device, fresh, _upgraded, publish, snapshot
        )
    if job.skips is not None and here.first:
        job.skips.write(out / "skipped.json")
        print(job.skips.summary(), file=sys.stderr)
    return Trained(folder, checkpoint.fingerprint(folder), result)


def _texts(
    name: str, settings: list[str], preset: Preset, job: Job, out: Path, earlier: list[dict], device: str
) -> dict[str, str]:  # fmt: skip
    """The card and the log that lie beside the weights."""
    command = " ".join(["vgt train", name, *(f"--set {s}" for s in settings)])
    end = {"minutes": round(seconds_spent(out) / 60, 1), "command": command, "batch": preset.train.batch}
    rows = log.joined(earlier, log.read_metrics(out), end)
    parameters = sum(p.numel() for p in job.system.trainable_modules()["model"].parameters())
    train = preset.train
    card = log.card(
        preset.name, preset.system, job.data, parameters, train.steps, train.precision, device, job.parents, rows
    )
    return {"README.md": card, log.LOG: log.lines(rows)}


def _earlier(preset: Preset, runs: Path) -> list[dict]:
    """The log of ``init.weights``, where this run is a further round of that model: one of the same name, or any
    generator, which has learnt from the samples of the one before."""
    if not preset.init.weights:
        return []
    folder = locate(preset.init.weights, runs)
    rows = log.read(folder)
    generator = registry.get(preset.system).kind == "generator"
    further = generator or (rows and checkpoint.read_header(folder)["name"] == preset.name)
    return rows if further else []


def _slow(device: torch.device) -> str:
    """What to say before a run in bf16 on a device that has none."""
    return (
        f"train.precision is bf16, for which this {device.type} ({device_name(device)}) has no instructions: matrix "
        "products are many times slower than in fp32; --set train.precision=fp32 is faster (a run of its own)"
    )


def _upgraded(identity: dict) -> dict:
    """The identity of a run that an earlier version stored, with the defaults of the settings that it did not have and
    without those, unused in it, that are gone."""
    preset = identity["preset"]
    known = Preset.model_validate({key: preset[key] for key in preset if key in Preset.model_fields})
    gone = {key: value for key, value in preset.items() if value and key not in Preset.model_fields}
    return {**identity, "preset": known.model_dump(mode="json") | gone}


@contextlib.contextmanager
def _ahead(job: Job, preset: Preset, here: Team) -> Iterator[batching.Batches]:
    """The batches, made ahead: by threads where they are decoded or encoded, by processes where they are scenes and a
    GPU would wait for them."""
    rows = micro_rows(preset.train, here.size)
    end = preset.train.steps * (preset.train.batch // rows)
    with contextlib.ExitStack() as stack:
        stack.callback(getattr(job.batches, "close", lambda: None))
        if job.threads:
            yield stack.enter_context(batching.Prefetch(job.batches, job.threads, here.size, job.ahead, end))
        elif processes := batching.scene_processes(preset.data, here):
            yield stack.enter_context(batching.Forked(job.batches, processes, here.size))
        else:
            yield job.batches
