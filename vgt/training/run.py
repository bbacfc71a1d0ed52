"""From a preset to a trained checkpoint: builds the system, feeds the loop, writes the folder and its card."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from vgt.checkpoints import checkpoint
from vgt.core import config as configs
from vgt.core import scenes
from vgt.core.config import Config
from vgt.inference.load import Loaded, expect, load, locate
from vgt.methods import mar, query_ar
from vgt.methods.perceptual import PerceptualLoss
from vgt.methods.pixel_decoder import load_decoder
from vgt.methods.vgt_ae import VGTAE, AELossConfig, VGTAEConfig, VGTAETraining
from vgt.methods.visual_lm import ARTraining, VisualLM, VisualLMConfig
from vgt.training import data as feeds
from vgt.training import grids, history, transforms
from vgt.training.distributed import Team, team
from vgt.training.loop import MODEL, Result, read_log, seconds_spent, train
from vgt.training.optim import TrainConfig, micro_rows
from vgt.training.precision import device_name, native_bf16
from vgt.training.prefetch import Forked, Prefetch
from vgt.training.sources import SkipReport, Source, open_source
from vgt.vlm import tokenizer
from vgt.vlm.backbones import first_layers
from vgt.vlm.training import VLMLossConfig, VLMTraining
from vgt.vlm.vlm import VLM, VLMConfig, plain


class InitConfig(Config):
    """What a run starts from: names of runs or bundled models, folders of ours or of Hugging Face, or hub ids.
    ``vlm``: its encoder (autoencoders) or language model (generators), of which ``layers`` keeps the first;
    ``decoder``: a diffusers AutoencoderDC whose decoder the pixel decoder starts from; ``weights``: a checkpoint of the
    same system to go on from; ``autoencoder``: frozen."""

    vlm: str | None = None
    layers: int | None = None
    decoder: str | None = None
    weights: str | None = None
    autoencoder: str | None = None


class Preset(Config):
    """A preset file.  ``model`` holds the system's own configuration less what follows from ``init``;
    ``repeats``: (noise, time) draws of a generator's flow head per token and step."""

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
class _Place:
    """Where a run takes place: the folder of all runs, this process among its kind, rows of a micro-batch."""

    runs: Path
    team: Team
    rows: int

    @property
    def device(self) -> str:
        return str(self.team.device)


@dataclass(frozen=True)
class _Job:
    """What the loop needs of one system, and how its checkpoint is written.  ``skips`` counts bad samples."""

    system: Any
    batches: feeds.Batches
    config: dict
    tokenizer: Any
    parents: dict[str, str]
    sample: Any = None
    world: str = f"the synthetic scenes (`{scenes.WORLD}`)"
    skips: SkipReport | None = None


def run(
    name: str, settings: list[str], out: Path | None, runs: Path, device: str = "cpu", fresh: bool = False,
    publish: bool = False,
) -> Trained:  # fmt: skip
    """Train a preset (or go on with it), alone or as one of the processes of torchrun or ``accelerate launch``.
    ``out`` defaults to ``runs/<preset name>``; ``publish``: train nothing, write the model of the run's last state."""
    preset = read(name, settings)
    here = team(device)
    place = _Place(runs, here, micro_rows(preset.train, here.size))
    if here.first and preset.train.precision == "bf16" and not native_bf16(here.device):
        print(_slow(here.device), file=sys.stderr)
    out = out or runs / preset.name
    with here.first_alone(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(preset.train.seed)
        job = _JOBS[preset.system](preset, place)
    identity = {"preset": preset.model_dump(mode="json"), "parents": job.parents, "world": scenes.WORLD}
    folder, earlier = out / MODEL, _earlier(preset, runs)

    def save(state, _: int) -> None:
        texts = _texts(name, settings, preset, job, out, earlier, device_name(here.device))
        checkpoint.save(
            folder, preset.system, preset.name, job.config, state, job.tokenizer, texts, preset.train.storage
        )

    sample = (lambda state, step: job.sample(state, step, out)) if job.sample else None
    with _ahead(job, preset, here) as batches:
        result = train(
            job.system, batches, preset.train, out, identity, save, sample, device, fresh, _upgraded, publish
        )
    if job.skips is not None and here.first:
        job.skips.write(out / "skipped.json")
        print(job.skips.summary(), file=sys.stderr)
    return Trained(folder, checkpoint.fingerprint(folder), result)


def _texts(
    name: str, settings: list[str], preset: Preset, job: _Job, out: Path, earlier: list[dict], device: str
) -> dict[str, str]:  # fmt: skip
    """The card and the log that lie beside the weights."""
    command = " ".join(["vgt train", name, *(f"--set {s}" for s in settings)])
    end = {"minutes": round(seconds_spent(out) / 60, 1), "command": command, "batch": preset.train.batch}
    rows = history.joined(earlier, read_log(out), end)
    parameters = sum(p.numel() for p in job.system.trainable_modules()["model"].parameters())
    train = preset.train
    card = history.card(
        preset.name, preset.system, job.world, parameters, train.steps, train.precision, device, job.parents, rows
    )
    return {"README.md": card, history.LOG: history.lines(rows)}


def _earlier(preset: Preset, runs: Path) -> list[dict]:
    """The log of ``init.weights``, where this run is a further round of that model: one of the same name, or any
    generator, which has learnt from the samples of the one before."""
    if not preset.init.weights:
        return []
    folder = locate(preset.init.weights, runs)
    rows = history.read(folder)
    further = preset.system in LOSSES or (rows and checkpoint.read_header(folder)["name"] == preset.name)
    return rows if further else []


def _slow(device: torch.device) -> str:
    """What to say before a run in bf16 on a device that has none."""
    return (
        f"train.precision is bf16, for which this {device.type} ({device_name(device)}) has no instructions: matrix "
        "products are many times slower than in fp32; --set train.precision=fp32 is faster (a run of its own)"
    )


def read(name: str, settings: list[str]) -> Preset:
    """The preset ``name`` with ``key=value`` settings on top.  Raises ValueError naming what does not fit."""
    return configs.validated(Preset, configs.override(configs.read_preset(name), settings), f"preset {name}")


def _upgraded(identity: dict) -> dict:
    """The identity of a run that an earlier version stored, with the defaults of the settings that it did not have and
    without those, unused in it, that are gone."""
    preset = identity["preset"]
    known = Preset.model_validate({key: preset[key] for key in preset if key in Preset.model_fields})
    gone = {key: value for key, value in preset.items() if value and key not in Preset.model_fields}
    return {**identity, "preset": known.model_dump(mode="json") | gone}


@contextlib.contextmanager
def _ahead(job: _Job, preset: Preset, here: Team) -> Iterator[feeds.Batches]:
    """The batches, made ahead: decoded by ``data.workers`` threads where they come from files, drawn by as many
    processes where they are scenes and a GPU would wait for them."""
    drawn = job.skips is None
    workers = _drawers(preset.data, here) if drawn else preset.data.workers
    if not workers:
        yield job.batches
        return
    with (Forked if drawn else Prefetch)(job.batches, workers, here.size) as batches:
        yield batches


def _drawers(data: feeds.DataConfig, here: Team) -> int:
    """Processes that draw scenes ahead; on a CPU they would only take it from the training."""
    return 0 if here.device.type == "cpu" else data.workers


# ------------------------------------------------------------------------------------------------- systems


def _source(preset: Preset, place: _Place, captions: bool) -> tuple[Source, SkipReport]:
    """The images of one's own that a preset names, and what will count the bad ones among them."""
    data = preset.data
    cache = place.runs / "cache"
    source = open_source(data.source, cache, captions, data.image_column, data.caption_column, data.scenes)
    return source, SkipReport(data.skip_limit, **({} if place.team.first else {"tell": None}))


def _vlm_job(preset: Preset, place: _Place) -> _Job:
    if preset.data.source != "scenes":
        raise ValueError(f"data.source {preset.data.source!r}: a VLM is pretrained on scenes here; leave it at scenes")
    config: VLMConfig = configs.validated(VLMConfig, preset.model, "model of the preset")
    words = tokenizer.build(config.hf["model_type"])
    vlm, parents = VLM.build(config, words), {}
    if preset.init.weights:
        start = expect(load(preset.init.weights, place.runs), "vlm")
        parents["weights"] = start.fingerprint
        checkpoint.load_into(vlm, start.model.state_dict(), str(start.folder))
    losses: VLMLossConfig = configs.validated(VLMLossConfig, preset.losses, "losses of the preset")
    batches = feeds.conversation_batches(vlm, preset.data, place.rows)
    system = VLMTraining(vlm, losses, feeds.region_choices(words))
    return _Job(system, batches, config.model_dump(mode="json"), words, parents)


def _ae_job(preset: Preset, place: _Place) -> _Job:
    parents, teacher, start = {}, None, None
    values = dict(preset.model)
    if preset.init.vlm:
        parent = expect(load(preset.init.vlm, place.runs), "vlm")
        parents["vlm"] = parent.fingerprint
        values = {"vlm": plain(parent.model.config), "image_size": parent.model.image_size, **values}
        teacher = parent.model.encoder
    if preset.init.weights:
        start = expect(load(preset.init.weights, place.runs), "vgt_ae")
        parents["weights"] = start.fingerprint
        values = configs.merge(start.model.config.model_dump(mode="json"), values)
    config: VGTAEConfig = configs.validated(VGTAEConfig, {"vlm": None, **values}, "model of the preset")
    ae = VGTAE(config)
    if start is not None:
        checkpoint.load_into(ae, start.model.state_dict(), str(start.folder))
    elif teacher is not None:
        ae.encoder.load_state_dict(teacher.state_dict())
    if preset.init.decoder and start is None:
        parents["decoder"] = load_decoder(ae.decoder, preset.init.decoder)
    losses: AELossConfig = configs.validated(AELossConfig, preset.losses, "losses of the preset")
    if losses.distill > 0 and teacher is None:
        raise ValueError(
            f"losses.distill is {losses.distill} but there is no teacher; set init.vlm, or losses.distill=0"
        )
    perceptual = PerceptualLoss(losses.perceptual_network) if losses.perceptual > 0 else None
    system = VGTAETraining(ae, losses, teacher, perceptual)

    def sample(state, step: int, out: Path) -> None:
        grids.reconstructions(config, state, out / "samples" / f"{step:08d}.png")

    described = config.model_dump(mode="json")
    if preset.data.source == "scenes":
        batches = feeds.image_batches(preset.data, place.rows, config.image_size)
        return _Job(system, batches, described, None, parents, sample)
    source, skips = _source(preset, place, captions=False)
    cut = transforms.autoencoder(config.image_size, preset.data.flip)
    batches = feeds.source_image_batches(source, cut, place.rows, preset.train.seed, skips)
    return _Job(system, batches, described, None, parents | {"source": source.fingerprint}, None, source.name, skips)


LOSSES = {"query_ar": query_ar.loss, "mar": mar.loss}  # of a generator's system: loss(model, batch, rng, repeats)


def _ar_job(preset: Preset, place: _Place) -> _Job:
    if not preset.init.autoencoder or not preset.init.vlm:
        raise ValueError("a generator needs init.autoencoder and init.vlm; name a run, a bundled model or a folder")
    ae = expect(load(preset.init.autoencoder, place.runs, place.device), "vgt_ae")
    vlm = expect(load(preset.init.vlm, place.runs), "vlm")
    feed = _generator_feed(preset, place, ae, vlm)
    config = _generator_config(preset, ae, vlm, feed.statistics)
    model = VisualLM(config)
    parents = {"autoencoder": ae.fingerprint, "vlm": vlm.fingerprint, **feed.parents}
    if preset.init.weights:
        start = expect(load(preset.init.weights, place.runs), "query_ar", "mar")
        parents["weights"] = start.fingerprint
        checkpoint.load_into(model, start.model.state_dict(), str(start.folder))
    else:
        wanted = model.language_model.state_dict().keys()  # the first layers only, where init.layers says so
        state = vlm.model.language.state_dict()
        model.language_model.load_state_dict({key: state[key] for key in wanted})
    system = ARTraining(model, LOSSES[preset.system], preset.repeats, ae.model if feed.skips is not None else None)
    folder = ae.folder

    def sample(state, step: int, out: Path) -> None:
        grids.samples(config, state, vlm.tokenizer, folder, out / "samples" / f"{step:08d}.png")

    described = config.model_dump(mode="json")
    drawn = None if feed.skips is not None else sample
    return _Job(system, feed.batches, described, vlm.tokenizer, parents, drawn, feed.world, feed.skips)


@dataclass(frozen=True)
class _Feed:
    """What a generator learns from.  ``statistics``: mean and deviation of its latents, None where they stay as
    they are."""

    batches: feeds.Batches
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None
    parents: dict[str, str]
    world: str = f"the synthetic scenes (`{scenes.WORLD}`)"
    skips: SkipReport | None = None


def _generator_feed(preset: Preset, place: _Place, ae: Loaded, vlm: Loaded) -> _Feed:
    data, size = preset.data, ae.model.config.image_size
    if data.source == "scenes":
        cache, processes = place.runs / "cache", _drawers(data, place.team)
        latents = feeds.cached_latents(
            ae.model, ae.fingerprint, data.scenes, size, cache, place.device, processes=processes
        )
        told = feeds.cached_captions(data.scenes, cache, processes)
        batches = feeds.caption_batches(latents, told, vlm.tokenizer, data, place.rows)
        return _Feed(batches, feeds.statistics(latents) if data.standardize else None, {})
    source, skips = _source(preset, place, captions=True)
    cut = transforms.generator(size, data.min_side)
    batches = feeds.source_caption_batches(source, cut, vlm.tokenizer, data, place.rows, preset.train.seed, skips)
    statistics = feeds.source_statistics(ae.model, batches, device=place.device) if data.standardize else None
    return _Feed(batches, statistics, {"source": source.fingerprint}, source.name, skips)


def _generator_config(preset: Preset, ae: Loaded, vlm: Loaded, statistics) -> VisualLMConfig:
    side = ae.model.config.image_size // ae.model.stride
    text = plain(vlm.model.config.text_config)
    mean, std = statistics or (None, None)
    values = {
        "method": preset.system,
        "text": first_layers(text, preset.init.layers) if preset.init.layers else text,
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
    return configs.validated(VisualLMConfig, values, "model of the preset")


_JOBS = {"vlm": _vlm_job, "vgt_ae": _ae_job, "query_ar": _ar_job, "mar": _ar_job}
