"""From a preset to a trained checkpoint: builds the system, feeds the loop, writes the folder and its card."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from vgt.core import config as configs
from vgt.core import env, scenes
from vgt.core.config import Config
from vgt.inference.load import expect, load
from vgt.models import checkpoint, mar, query_ar, tokenizer
from vgt.models.perceptual import PerceptualLoss
from vgt.models.vgt_ae import VGTAE, AELossConfig, VGTAEConfig, VGTAETraining
from vgt.models.visual_lm import ARTraining, VisualLM, VisualLMConfig
from vgt.models.vlm import VLMConfig, build
from vgt.training import data as feeds
from vgt.training.loop import MODEL, Result, read_log, seconds_spent, train
from vgt.training.optim import TrainConfig


class InitConfig(Config):
    """What a run starts from: names of runs or bundled models, or folders.  ``vlm``: its encoder (autoencoders) or
    language model (generators); ``weights``: a checkpoint of the same system to go on from; ``autoencoder``: frozen."""

    vlm: str | None = None
    weights: str | None = None
    autoencoder: str | None = None


class Preset(Config):
    """A preset file.  ``model`` holds the system's own configuration less what follows from ``init``."""

    system: Literal["vlm", "vgt_ae", "query_ar", "mar"]
    name: str
    init: InitConfig = InitConfig()
    model: dict[str, Any] = {}
    losses: dict[str, Any] = {}
    data: feeds.DataConfig = feeds.DataConfig()
    train: TrainConfig
    repeats: int = 1


@dataclass(frozen=True)
class Trained:
    """A finished run: its checkpoint folder and fingerprint, steps, last loss, steps trained now."""

    folder: Path
    fingerprint: str
    result: Result


@dataclass(frozen=True)
class _Job:
    """What the loop needs of one system, and how its checkpoint is written."""

    system: Any
    batches: feeds.Batches
    config: dict
    tokenizer: Any
    parents: dict[str, str]
    sample: Any = None


def run(
    name: str, settings: list[str], out: Path | None, runs: Path, device: str = "cpu", fresh: bool = False
) -> Trained:
    """Train a preset (or go on with it).  ``out`` defaults to ``runs/<preset name>``."""
    values = configs.override(configs.read_preset(name), settings)
    preset: Preset = configs.validated(Preset, values, f"preset {name}")
    out = out or runs / preset.name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(preset.train.seed)
        job = _JOBS[preset.system](preset, runs, device)
    identity = {"preset": preset.model_dump(mode="json"), "parents": job.parents, "world": scenes.WORLD}
    folder = out / MODEL

    def save(state, step: int) -> None:
        texts = {"README.md": _card(name, settings, preset, job, out, step), "training.jsonl": _curve(out)}
        checkpoint.save(
            folder, preset.system, preset.name, job.config, state, job.tokenizer, texts, preset.train.storage
        )

    sample = (lambda state, step: job.sample(state, step, out)) if job.sample else None
    result = train(job.system, job.batches, preset.train, out, identity, save, sample, device, fresh)
    return Trained(folder, checkpoint.fingerprint(folder), result)


# ------------------------------------------------------------------------------------------------- systems


def _vlm_job(preset: Preset, runs: Path, device: str) -> _Job:
    config: VLMConfig = configs.validated(VLMConfig, preset.model, "model of the preset")
    words = tokenizer.build(config.hf["model_type"])
    vlm = build(config, words)
    batches = feeds.conversation_batches(vlm, preset.data, preset.train.batch)
    return _Job(vlm, batches, config.model_dump(mode="json"), words, {})


def _ae_job(preset: Preset, runs: Path, device: str) -> _Job:
    parents, teacher, start = {}, None, None
    values = dict(preset.model)
    if preset.init.vlm:
        parent = expect(load(preset.init.vlm, runs), "vlm")
        parents["vlm"] = parent.fingerprint
        values |= {"vlm": parent.model.config.to_dict(), "image_size": parent.model.image_size}
        teacher = parent.model.encoder
    if preset.init.weights:
        start = expect(load(preset.init.weights, runs), "vgt_ae")
        parents["weights"] = start.fingerprint
        values = configs.merge(start.model.config.model_dump(mode="json"), values)
    config: VGTAEConfig = configs.validated(VGTAEConfig, {"vlm": None, **values}, "model of the preset")
    ae = VGTAE(config)
    if start is not None:
        checkpoint.load_into(ae, start.model.state_dict(), str(start.folder))
    elif teacher is not None:
        ae.encoder.load_state_dict(teacher.state_dict())
    losses: AELossConfig = configs.validated(AELossConfig, preset.losses, "losses of the preset")
    if losses.distill > 0 and teacher is None:
        raise ValueError(
            f"losses.distill is {losses.distill} but there is no teacher; set init.vlm, or losses.distill=0"
        )
    perceptual = PerceptualLoss(losses.perceptual_network) if losses.perceptual > 0 else None
    system = VGTAETraining(ae, losses, teacher, perceptual)
    batches = feeds.picture_batches(preset.data, preset.train.batch, config.image_size)

    def sample(state, step: int, out: Path) -> None:
        _reconstruction_grid(config, state, out / "samples" / f"{step:08d}.png")

    return _Job(system, batches, config.model_dump(mode="json"), None, parents, sample)


def _ar_job(preset: Preset, runs: Path, device: str) -> _Job:
    if not preset.init.autoencoder or not preset.init.vlm:
        raise ValueError("a generator needs init.autoencoder and init.vlm; name a run, a bundled model or a folder")
    ae = expect(load(preset.init.autoencoder, runs, device), "vgt_ae")
    vlm = expect(load(preset.init.vlm, runs), "vlm")
    parents = {"autoencoder": ae.fingerprint, "vlm": vlm.fingerprint}
    size = ae.model.config.image_size
    latents = feeds.cached_latents(ae.model, ae.fingerprint, preset.data.scenes, size, runs / "cache", device)
    mean, std = feeds.statistics(latents)
    side = size // ae.model.stride
    values = {
        "method": preset.system,
        "text": vlm.model.config.text_config.to_dict(),
        "start_ids": vlm.tokenizer("<img>", add_special_tokens=False).input_ids,
        "latent_grid": (side, side),
        "d_z": ae.model.config.d_z,
        "latent_norm": ae.model.config.normalize == "position",
        "latent_mean": mean,
        "latent_std": std,
        "autoencoder": ae.fingerprint,
        "autoencoder_name": ae.name,
        **preset.model,
    }
    config: VisualLMConfig = configs.validated(VisualLMConfig, values, "model of the preset")
    model = VisualLM(config)
    if preset.init.weights:
        start = expect(load(preset.init.weights, runs), "query_ar", "mar")
        parents["weights"] = start.fingerprint
        checkpoint.load_into(model, start.model.state_dict(), str(start.folder))
    else:
        model.language_model.load_state_dict(vlm.model.language.state_dict())
    system = ARTraining(model, {"query_ar": query_ar.loss, "mar": mar.loss}[preset.system], preset.repeats)
    batches = feeds.caption_batches(latents, vlm.tokenizer, preset.data, preset.train.batch)
    folder = ae.folder

    def sample(state, step: int, out: Path) -> None:
        _sample_grid(config, state, vlm.tokenizer, folder, out / "samples" / f"{step:08d}.png")

    return _Job(system, batches, config.model_dump(mode="json"), vlm.tokenizer, parents, sample)


_JOBS = {"vlm": _vlm_job, "vgt_ae": _ae_job, "query_ar": _ar_job, "mar": _ar_job}


# ----------------------------------------------------------------------------------------- pictures and card


def _reconstruction_grid(config: VGTAEConfig, state, path: Path) -> None:
    """Originals above reconstructions: eight validation scenes, four training photo crops."""
    from vgt.core import photos
    from vgt.inference.pictures import grid, write_png
    from vgt.inference.tokenizer import reconstruct

    with torch.random.fork_rng(devices=[]):
        ae = VGTAE(config)
    checkpoint.load_into(ae, state, "the running model")
    size = config.image_size
    originals = np.concatenate([scenes.images("val", range(8), size), photos.images("train", range(4), size)])
    write_png(path, grid([*originals, *reconstruct(ae.eval(), originals)], 12))


def _sample_grid(config: VisualLMConfig, state, words, autoencoder: Path, path: Path) -> None:
    """Twelve fixed prompts, one image each, at 1x (first row) and 4x."""
    from vgt.core import suites
    from vgt.inference.generator import generate
    from vgt.inference.pictures import grid, write_png
    from vgt.models.sampling import Sampling

    with torch.random.fork_rng(devices=[]):
        model = VisualLM(config)
    checkpoint.load_into(model, state, "the running model")
    ae = load(autoencoder)
    prompts = [r["prompt"] for r in suites.geneval_prompts(seed=7, per_task=2)]
    rows = []
    for acceleration in (1, 4):
        settings = Sampling(acceleration=acceleration, guidance=3.0, flow_steps=15)
        rows += list(generate(model.eval(), ae.model, words, prompts, list(range(len(prompts))), settings))
    write_png(path, grid(rows, len(prompts)))


def _curve(out: Path, points: int = 150) -> str:
    """The run's log, thinned to about ``points`` lines of JSON; the last line also says the minutes spent."""
    rows = read_log(out)
    kept = rows[:: max(1, len(rows) // points)]
    kept += rows[-1:] if rows and kept[-1] != rows[-1] else []
    if kept:
        kept[-1] = {**kept[-1], "minutes": round(seconds_spent(out) / 60, 1)}
    return "".join(json.dumps(row) + "\n" for row in kept)


def _card(name: str, settings: list[str], preset: Preset, job: _Job, out: Path, step: int) -> str:
    """The model card: how this checkpoint was made, from its own log."""
    rows = read_log(out)
    curve = "\n".join(
        f"| {r['step']} | {r['samples']} | {r['loss']:.4f} |" for r in rows[:: max(1, len(rows) // 12)] + rows[-1:]
    )
    parameters = sum(p.numel() for p in job.system.players()["model"].parameters())
    parents = "".join(f"* {what}: `{mark[:16]}`\n" for what, mark in job.parents.items())
    overrides = "".join(f" --set {s}" for s in settings)
    minutes = seconds_spent(out) / 60
    version = env.versions().get("vgt", "(source tree)")
    return f"""---
library_name: vgt
tags: [vgt, {preset.system}]
---
# {preset.name}

A {preset.system} checkpoint of {parameters:,} parameters, trained on the embedded world (`{scenes.WORLD}`).

* command: `vgt train {name}{overrides}`
* steps {step}, batch {preset.train.batch}, samples seen {step * preset.train.batch:,}
* time: about {minutes:.0f} minutes on {env.processor()} ({platform.system()}, {preset.train.precision})
* written {time.strftime("%Y-%m-%d", time.gmtime())} by vgt {version}, torch {torch.__version__}
{parents}
| step | samples | loss |
|---|---|---|
{curve}
"""
