"""The jobs of our systems, for a run (``Place.load``) and, on the meta device, for its plan: one build, so that they
cannot disagree.  ``vgt.methods.registry`` names these functions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Dinov2WithRegistersConfig, ViTConfig

from vgt.checkpoints import checkpoint
from vgt.checkpoints.pretrained import Loaded, state_hash
from vgt.core import captions, photos, scenes, suites
from vgt.core import config as configs
from vgt.inference.generator import generate
from vgt.inference.images import grid, write_png
from vgt.inference.load import load
from vgt.inference.tokenizer import reconstruct
from vgt.methods import registry
from vgt.methods.discriminator import Discriminator, FeatureDiscriminator
from vgt.methods.perceptual import LPIPS_BACKBONES, LogitLoss, PerceptualLoss, convnext_state, lpips_network
from vgt.methods.pixel_decoder import load_decoder
from vgt.methods.sampling import Sampling
from vgt.methods.vfmtok import VFMTok, VFMTokConfig, VFMTokLossConfig, VFMTokTraining
from vgt.methods.vfmtok import parts_of as vfmtok_parts
from vgt.methods.vgt_ae import VGTAE, AELossConfig, VGTAETraining
from vgt.methods.vision_features import VisionFeatures
from vgt.methods.visual_lm import ARLossConfig, ARTraining, ImageFeatures, VisualLM, VisualLMConfig
from vgt.training import data as batching
from vgt.training import parents
from vgt.training.job import SCENES, Job, Place, Preset, takes
from vgt.training.sources import SkipReport, Source, open_source, stream
from vgt.vlm.backbones import first_layers
from vgt.vlm.families import IMAGENET, TOWER_PIXELS
from vgt.vlm.prompts import tokenize
from vgt.vlm.tokenizer import build as build_tokenizer
from vgt.vlm.training import VLMLossConfig, VLMTraining
from vgt.vlm.vlm import VLM, VLMConfig, hf_config, plain


def open_data(preset: Preset, place: Place, captions: bool = False, labels: bool = False) -> tuple[Source, SkipReport]:
    """The images of one's own that a preset names, and what will count the bad ones among them."""
    data = preset.data
    source = open_source(
        data.source, place.cache, captions, data.image_column, data.caption_column, data.scenes, labels,
        data.label_column,
    )  # fmt: skip
    return source, SkipReport(data.skip_limit, **({} if place.team.first else {"tell": None}))


def _check_heads(what: str, sizes: dict[str, Any]) -> None:
    """Raises ValueError for a transformer of a transformers configuration whose heads do not divide its width, and
    whose shared keys do not divide its heads."""
    width, heads = sizes.get("hidden_size"), sizes.get("num_attention_heads", sizes.get("num_heads"))
    if width is None or heads is None:
        return
    if min(width, heads) < 1 or (not sizes.get("head_dim") and width % heads):
        raise ValueError(f"{what} of width {width} cannot have {heads} heads; choose a divisor of the width")
    shared = sizes.get("num_key_value_heads") or heads
    if shared < 1 or heads % shared:
        raise ValueError(f"{what}: {heads} heads cannot share {shared} keys; choose a divisor of the heads")


@contextlib.contextmanager
def _possible(what: str) -> Iterator[None]:
    """Around the making and the first use of a network whose sizes transformers does not check itself: its errors as a
    ValueError in one line."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{what} is impossible: {reason:.300}") from error


def start_from(model: nn.Module, preset: Preset, place: Place, *systems: str) -> dict[str, str]:
    """Fill ``model`` from ``init.weights``; returns the fingerprint under "weights", nothing where there is no such."""
    start = parents.weights(preset.init.weights, place, *systems)
    if start is None:
        return {}
    checkpoint.load_into(model, start.model.state_dict(), str(start.folder))
    return {"weights": start.fingerprint}


# ------------------------------------------------------------------------------------------------------------- VLMs


def vlm(preset: Preset, place: Place) -> Job:
    """A tiny VLM, on questions about scenes."""
    takes(preset, "weights")
    if preset.data.source != "scenes":
        raise ValueError(f"data.source {preset.data.source!r}: a VLM is pretrained on scenes here; leave it at scenes")
    config: VLMConfig = configs.validated(VLMConfig, preset.model, "model of the preset")
    for part in ("vision_config", "text_config"):
        _check_heads(f"model.hf.{part}", config.hf.get(part, {}))
    with _possible("model of the preset"), place.building():
        tokenizer = build_tokenizer(config.hf["model_type"])
        model = VLM.build(config, tokenizer)
        model.encoder.check(config.image_size, config.image_size)
    hashes = start_from(model, preset, place, registry.VLM.name)
    losses: VLMLossConfig = configs.validated(VLMLossConfig, preset.losses, "losses of the preset")
    encoder, language = model.encoder, model.language
    inside = {id(p) for part in (encoder, language) for p in part.parameters()}
    system = VLMTraining(model, losses, batching.region_choices(tokenizer))
    batches = batching.conversation_batches(model, preset.data, place.rows)
    if place.load:
        with _possible("model of the preset"), torch.no_grad():
            system.loss("model", {key: part[:1] for key, part in batches(0).items()}, 0, torch.Generator())
    return Job(
        system=system,
        batches=batches,
        config=config.model_dump(mode="json"),
        tokenizer=tokenizer,
        parents=hashes,
        parts={
            "tower": [encoder.tower],
            "projector": [encoder.projector],
            "language_model": [language],
            "lm_head": [p for p in model.parameters() if id(p) not in inside],  # none where the embeddings are tied
        },
        positions=lambda batch: batch["ids"].shape[1],
    )


# ----------------------------------------------------------------------------------------------------- autoencoders


def autoencoder(preset: Preset, place: Place) -> Job:
    """VGT-AE or the pixel-only arm: images in, with teacher, perceptual network and discriminator as the losses say."""
    takes(preset, "vlm", "decoder", "weights")
    config, vlm, start = parents.autoencoder_config(preset, place)
    losses: AELossConfig = configs.validated(AELossConfig, preset.losses, "losses of the preset")
    if losses.distill > 0 and vlm is None:
        raise ValueError(
            f"losses.distill is {losses.distill} but there is no teacher; set init.vlm, or losses.distill=0"
        )
    with place.building():
        ae = VGTAE(config)
        teacher = vlm.encoder() if vlm is not None else None
    _check_image(ae)
    hashes = {} if vlm is None else {"vlm": vlm.fingerprint}
    if start is not None:
        hashes["weights"] = start.fingerprint
    if place.load and start is not None:
        checkpoint.load_into(ae, start.model.state_dict(), str(start.folder))
    elif place.load and teacher is not None:
        ae.encoder.load_state_dict(teacher.state_dict())
    if preset.init.decoder and start is None:
        if config.decoder.kind != "dc":
            raise ValueError(f'init.decoder is for model.decoder.kind dc, not {config.decoder.kind}; set it to ""')
        if place.load:
            hashes["decoder"] = _load_decoder(ae, preset.init.decoder, place)
        else:
            parents.check_decoder(preset.init.decoder, place)
    perceptual = _perceptual(losses.perceptual_network, place) if losses.perceptual > 0 else None
    logits = _logits(place) if losses.logits > 0 else None
    with place.building():
        system = VGTAETraining(ae, losses, teacher, perceptual, logits)
    data = _images(preset, place, config.image_size)

    def sample(state: dict[str, Tensor], step: int, out: Path) -> None:
        _write_reconstructions(VGTAE, config, state, out / "samples" / f"{step:08d}.png")

    frozen = {"teacher": system.teacher, "perceptual": perceptual, "logits": logits}
    return Job(
        system=system,
        batches=data.batches,
        config=config.model_dump(mode="json"),
        parents=hashes | data.parents,
        sample=sample if data.skips is None else None,
        data=data.name,
        skips=data.skips,
        threads=data.threads,
        parts=_autoencoder_parts(ae),
        frozen={name: module for name, module in frozen.items() if module is not None},
        positions=lambda batch: (batch["images"].shape[-1] // ae.stride) ** 2,
    )


def _load_decoder(ae: VGTAE, spec: str, place: Place) -> str:
    """Fill the pixel decoder from an autoencoder of ours or diffusers' AutoencoderDC; returns a hash."""
    if parents.is_checkpoint(spec, place):
        start = parents.autoencoder("init.decoder", spec, place)
        checkpoint.load_into(ae.decoder, start.model.decoder.state_dict(), str(start.folder))
        return start.fingerprint
    return load_decoder(ae.decoder, spec)


def vfmtok(preset: Preset, place: Place) -> Job:
    """VFMTok, or the same codebook and decoder on a grid of features: images in, with perceptual network and
    discriminator as the losses say."""
    takes(preset, "vlm", "vision", "discriminator", "weights")
    config, network, hashes = _vision(preset, place)
    losses: VFMTokLossConfig = configs.validated(VFMTokLossConfig, preset.losses, "losses of the preset")
    _check_vfmtok_losses(preset, config, losses)
    start = parents.weights(preset.init.weights, place, registry.VFMTOK.name)
    with _possible("model of the preset"), place.building():
        model = VFMTok(config)
        teacher = VisionFeatures(config.vision) if config.vision_trained and losses.features > 0 else None
    if network is not None and place.load:
        for vision in (teacher, None if config.vision_trained else model.vision):
            if vision is not None:
                vision.network.load_state_dict(network.state_dict())
    if start is not None:
        hashes["weights"] = start.fingerprint
        checkpoint.load_into(model, start.model.state_dict(), str(start.folder))
    perceptual = _perceptual(losses.perceptual_network, place) if losses.perceptual > 0 else None
    discriminator = _discriminator(preset, losses, place, hashes) if losses.adversarial > 0 else None
    data = _images(preset, place, config.image_size)
    around = config.registers + 1 + config.anchors**2 if config.tokens == "regions" else 0

    def sample(state: dict[str, Tensor], step: int, out: Path) -> None:
        _write_reconstructions(VFMTok, config, state, out / "samples" / f"{step:08d}.png")

    return Job(
        system=VFMTokTraining(model, losses, perceptual, teacher, discriminator),
        batches=data.batches,
        config=config.model_dump(mode="json"),
        parents=hashes | data.parents,
        sample=sample if data.skips is None else None,
        data=data.name,
        skips=data.skips,
        threads=data.threads,
        parts=vfmtok_parts(model),
        frozen={k: v for k, v in {"perceptual": perceptual, "teacher": teacher}.items() if v is not None},
        positions=lambda batch: (batch["images"].shape[-1] // model.stride) ** 2 + around,
    )


def _vision(preset: Preset, place: Place) -> tuple[VFMTokConfig, nn.Module | None, dict[str, str]]:
    """The tokenizer's configuration, the vision transformer that it reads (None where it needs none), and the hash of
    its weights.  Raises ValueError where none or two are named."""
    values = dict(preset.model)
    stated = dict(values.get("vision", {}))
    spec, what = preset.init.vision or preset.init.vlm, "init.vision" if preset.init.vision else "init.vlm"
    if preset.init.vision and preset.init.vlm:
        raise ValueError("init.vision and init.vlm both name a vision model; leave one out")
    if stated.get("kind", "transformer") != "transformer":
        if spec:
            raise ValueError(f"{what} has no effect with model.vision.kind {stated['kind']}; leave it out")
        return configs.validated(VFMTokConfig, values, "model of the preset"), None, {}
    if not spec:
        raise ValueError("a tokenizer on a vision transformer needs init.vision (a folder, hub id or VLM) or init.vlm")
    usual = hf_config(stated["hf"]) if stated.get("hf") else Dinov2WithRegistersConfig()
    network = parents.vision_network(what, spec, place, usual)
    own = network.config
    side = own.image_size if isinstance(own.image_size, int) else own.image_size[0]
    vision = {"size": side, **stated, "hf": plain(own)}
    values = {"image_size": vision["size"], **values, "vision": vision}
    hashes = {"vision": state_hash(network.state_dict())} if place.load else {}
    return configs.validated(VFMTokConfig, values, "model of the preset"), network, hashes


def _check_vfmtok_losses(preset: Preset, config: VFMTokConfig, losses: VFMTokLossConfig) -> None:
    """Raises ValueError for losses that have nothing to work on."""
    if losses.features > 0 and config.tokens == "grid":
        raise ValueError("losses.features needs tokens of regions, whose transformer gives features back; set it to 0")
    if losses.adversarial > 0 and losses.discriminator == "features" and not preset.init.discriminator:
        raise ValueError(
            "losses.discriminator features reads a vision transformer; set init.discriminator (facebook/dino-vits16 in "
            "the published code), losses.discriminator=conv, or losses.adversarial=0"
        )
    if config.tokens == "regions" and losses.features == 0:
        for name in ("shared", "share_mask"):
            if not getattr(config, name):
                raise ValueError(f"model.{name} false has no effect with losses.features 0; leave it out")
    if preset.init.discriminator and (losses.adversarial == 0 or losses.discriminator == "conv"):
        raise ValueError("init.discriminator has no effect with these losses; leave it out")


def _discriminator(preset: Preset, losses: VFMTokLossConfig, place: Place, hashes: dict[str, str]) -> nn.Module:
    """The discriminator of a VFMTok."""
    if losses.discriminator == "conv":
        with place.building():
            return Discriminator(losses.conv)
    usual = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    network = parents.vision_network("init.discriminator", preset.init.discriminator, place, usual)
    if place.load:
        hashes["discriminator"] = state_hash(network.state_dict())
    mean, std = TOWER_PIXELS.get(network.config.model_type, IMAGENET)
    with place.building():
        return FeatureDiscriminator(losses.of_features, network, mean, std)


@dataclass(frozen=True)
class _Data:
    """What a model learns from.  ``statistics``: mean and deviation of a generator's latents, None where they stay as
    they are."""

    batches: batching.Batches
    statistics: tuple[tuple[float, ...], ...] | None = None
    parents: dict[str, str] = field(default_factory=dict)
    name: str = SCENES
    skips: SkipReport | None = None
    threads: int = 0
    ahead: int = 0


def _images(preset: Preset, place: Place, size: int) -> _Data:
    if preset.data.source == "scenes" and preset.data.min_crop != 1:
        raise ValueError(f"data.min_crop {preset.data.min_crop} has no effect on scenes; leave it at 1")
    if not place.load:
        return _Data(lambda index: {"images": torch.empty(place.rows, 3, size, size, device="meta")})
    if preset.data.source == "scenes":
        return _Data(batching.image_batches(preset.data, place.rows, size))
    source, skips = open_data(preset, place)
    cut = stream.autoencoder_crop(size, preset.data.flip, preset.data.min_crop)
    batches = batching.source_image_batches(source, cut, place.rows, preset.train.seed, skips)
    return _Data(batches, None, {"source": source.fingerprint}, source.name, skips, preset.data.workers)


def _autoencoder_parts(ae: VGTAE) -> dict[str, Sequence[nn.Module]]:
    own = ae.config.vlm is None
    encoder = {"encoder": [ae.encoder]} if own else {"tower": [ae.encoder.tower], "projector": [ae.encoder.projector]}
    return {**encoder, "residual_projection": [ae.down_blocks, ae.down_mlp], "decoder": [ae.decoder]}


def _check_image(ae: VGTAE) -> None:
    """Raises ValueError for an image size that the encoder cannot take."""
    size, stride = ae.config.image_size, ae.stride
    if size % stride:
        raise ValueError(
            f"model.image_size {size} is not a multiple of the encoder's stride {stride}; "
            f"choose {size // stride * stride or stride}"
        )
    if ae.config.vlm is not None:
        ae.encoder.check(size, size)


class _LPIPS(nn.Module):
    """LPIPS in the sizes of its backbone, for a plan that has no file of it."""

    def __init__(self, net: str):
        super().__init__()
        from torchvision import models

        with torch.device("meta"):
            whole = models.vgg16() if net == "vgg" else models.alexnet()
            self.network = lpips_network(net, whole.state_dict())

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.network(images.float(), target.detach().float(), normalize=True).mean()


def _perceptual(name: str, place: Place) -> nn.Module:
    """The network of the perceptual loss.  Raises ValueError for an unknown name."""
    try:
        return PerceptualLoss(name)
    except ValueError as error:
        net = name.removeprefix("lpips-")
        if place.load or not name.startswith("lpips-") or net not in LPIPS_BACKBONES:
            raise
        place.problems.append(f"losses.perceptual_network: {error}")
    return _LPIPS(net)


def _logits(place: Place) -> LogitLoss:
    """The network of the logits' term; in a plan without weights, and a problem where they are not here."""
    try:
        return LogitLoss(convnext_state())
    except ValueError as error:
        if place.load:
            raise
        place.problems.append(str(error))
    return LogitLoss(None)


def _write_reconstructions(kind: type[nn.Module], config, state: dict[str, Tensor], path: Path) -> None:
    """Originals above reconstructions by a tokenizer of this ``kind``: eight validation scenes, four training photo
    crops."""
    with torch.random.fork_rng(devices=[]):
        model = kind(config)
    checkpoint.load_into(model, state, "the running model")
    size = config.image_size
    originals = np.concatenate([scenes.images("val", range(8), size), photos.images("train", range(4), size)])
    write_png(path, grid([*originals, *reconstruct(model.eval(), originals)], 12))


# ------------------------------------------------------------------------------------------------------- generators


def visual_lm(preset: Preset, place: Place) -> Job:
    """A generator inside a VLM, by the loss of its method."""
    takes(preset, "vlm", "layers", "autoencoder", "weights", "repa")
    if not preset.init.autoencoder or not preset.init.vlm:
        raise ValueError("a generator needs init.autoencoder and init.vlm; name a run, a bundled model or a folder")
    method = registry.get(preset.system)
    ae = parents.autoencoder("init.autoencoder", preset.init.autoencoder, place, place.device)
    vlm = parents.backbone(preset.init.vlm, place)
    _check_image(ae.model)
    features, repa = _features(preset, ae.model, place)
    data = _captioned(preset, place, ae, vlm)
    config = _generator_config(preset, ae, vlm, data.statistics, 0 if features is None else features.channels)
    with _possible("model.text of the preset"), place.building():
        model = VisualLM(config)
    hashes = {"autoencoder": ae.fingerprint, "vlm": vlm.fingerprint, **data.parents}
    started = start_from(model, preset, place, *registry.sharing(method.model))
    if not started and vlm.model is not None:
        wanted = model.language_model.state_dict().keys()  # the first layers only, where init.layers says so
        state = vlm.model.language.state_dict()
        model.language_model.load_state_dict({key: state[key] for key in wanted})
    if features is not None and place.load:
        hashes["repa"] = state_hash(features.network.state_dict())
    encodes = preset.data.source != "scenes"  # else latents are encoded ahead of the steps, once
    around = len(config.start_ids) + method.part("sequence")(model.tokens)

    def sample(state: dict[str, Tensor], step: int, out: Path) -> None:
        _write_samples(config, state, vlm.tokenizer, ae.folder, out / "samples" / f"{step:08d}.png")

    return Job(
        system=ARTraining(model, method.part("loss"), preset.repeats, ae.model if encodes else None, repa, features),
        batches=data.batches,
        config=config.model_dump(mode="json"),
        tokenizer=vlm.tokenizer,
        parents=hashes | started,
        sample=None if encodes else sample,
        data=data.name,
        skips=data.skips,
        threads=data.threads,
        ahead=data.ahead,
        parts={
            "language_model": [model.language_model],
            "queries": [model.max_metaquery, model.grid_embed],
            "projectors": [model.image_in_projector, model.image_out_projector],
            "flow_head": [model.image_head],
        },
        frozen={"autoencoder": ae.model, **({} if features is None else {"features": features})},
        positions=lambda batch: batch["ids"].shape[1] + around,
    )


def _features(preset: Preset, ae: VGTAE, place: Place) -> tuple[ImageFeatures | None, float]:
    """The network of the REPA loss and the loss's weight.  Raises ValueError where one is set without the other."""
    losses: ARLossConfig = configs.validated(ARLossConfig, preset.losses, "losses of the preset")
    if not losses.repa and not preset.init.repa:
        return None, 0.0
    if not losses.repa or not preset.init.repa:
        raise ValueError(
            f"losses.repa {losses.repa} and init.repa {preset.init.repa} belong together; name a vision transformer "
            "and a weight (0.5 in the published code), or neither"
        )
    if preset.data.source == "scenes":
        raise ValueError("losses.repa needs the images, and of scenes the latents are kept; set data.source")
    side = ae.config.image_size // ae.stride
    return parents.image_features(preset.init.repa, (side, side), place), losses.repa


def _captioned(preset: Preset, place: Place, ae: Loaded, vlm: parents.Backbone) -> _Data:
    """Captions with latents of scenes, or with images of one's own."""
    data, size = preset.data, ae.model.config.image_size
    if not place.load:
        return _Data(_blank(preset, place.rows, ae.model, vlm))
    train = preset.train
    count = train.steps * train.batch // place.rows  # micro-batches of the run
    sample = batching.statistics_sample(train.steps * train.batch)
    if data.source == "scenes":
        processes = batching.scene_processes(data, place.team)
        latents = batching.SceneLatents(
            ae.model, ae.fingerprint, data.scenes, size, place.cache, place.device, processes=processes
        )
        batches = batching.CaptionBatches(latents, vlm.tokenizer, data, place.rows, count, place.team.size, processes)
        first = range(min(sample, data.scenes))
        found = batching.statistics(latents.take(first)) if data.standardize else None
        return _Data(batches, found, threads=1, ahead=max(2, latents.piece // place.rows))
    source, skips = open_data(preset, place, captions=True)
    cut = stream.generator_crop(size, data.min_side)
    batches = batching.source_caption_batches(source, cut, vlm.tokenizer, data, place.rows, preset.train.seed, skips)
    statistics = batching.source_statistics(ae.model, batches, sample, place.device) if data.standardize else None
    return _Data(batches, statistics, {"source": source.fingerprint}, source.name, skips, preset.data.workers)


def _blank(preset: Preset, rows: int, ae: VGTAE, vlm: parents.Backbone) -> batching.Batches:
    """A plan's batches: prompts of the budget, or as long as the longest dense caption of a few scenes."""
    size, cached = ae.config.image_size, preset.data.source == "scenes"
    length = preset.data.caption_tokens
    if cached and vlm.tokenizer is not None:
        few = [captions.dense_caption(scenes.scene("train", i)) for i in range(64)]
        length = tokenize(vlm.tokenizer, few)[0].shape[1]
    ids = torch.zeros(rows, length, dtype=torch.long)
    if cached:
        shown = {"latents": torch.empty(rows, (size // ae.stride) ** 2, ae.config.d_z, device="meta")}
    else:
        shown = {"images": torch.empty(rows, 3, size, size, device="meta")}
    return lambda index: {"ids": ids, "mask": ids == 0, **shown}


def _generator_config(preset: Preset, ae: Loaded, vlm: parents.Backbone, statistics, repa: int) -> VisualLMConfig:
    """Raises ValueError where the generator does not fit its autoencoder or itself."""
    own = ae.model.config
    side = own.image_size // ae.model.stride
    mean, std = statistics or (None, None)
    values = {
        "method": preset.system,
        "text": first_layers(vlm.text, preset.init.layers) if preset.init.layers else vlm.text,
        "start_ids": vlm.start_ids,
        "latent_grid": (side, side),
        "d_z": own.d_z,
        "latent_norm": own.normalize == "position",
        "latent_mean": mean,
        "latent_std": std,
        "autoencoder": ae.fingerprint,
        "autoencoder_name": ae.name,
        **preset.model,
    }
    if repa:
        values["head"] = {**values.get("head", {}), "repa": repa}
    config: VisualLMConfig = configs.validated(VisualLMConfig, values, "model of the preset")
    if tuple(config.latent_grid) != (side, side) or config.d_z != own.d_z:
        raise ValueError(
            f"model.latent_grid {tuple(config.latent_grid)} and d_z {config.d_z} are not the autoencoder's "
            f"{(side, side)} and {own.d_z}; leave them out of the preset"
        )
    if side > config.query_grid:
        raise ValueError(
            f"the latent grid {side} x {side} does not fit the query grid of side {config.query_grid}; "
            f"set model.query_grid to {side} or more"
        )
    if config.head.width < 1 or config.head.depth < 1:
        raise ValueError(
            f"model.head of width {config.head.width} and depth {config.head.depth} is none; use 1 or more"
        )
    _check_heads("model.text", config.text)
    return config


def _write_samples(config: VisualLMConfig, state: dict[str, Tensor], tokenizer, autoencoder: Path, path: Path) -> None:
    """Twelve fixed prompts, one image each, at 1x (first row) and 4x."""
    with torch.random.fork_rng(devices=[]):
        model = VisualLM(config)
    checkpoint.load_into(model, state, "the running model")
    ae = load(autoencoder)
    prompts = [r["prompt"] for r in suites.geneval_prompts(seed=7, per_task=2)]
    rows = []
    for acceleration in (1, 4):
        settings = Sampling(acceleration=acceleration, **Sampling.usual(model.tokens))
        rows += list(generate(model.eval(), ae.model, tokenizer, prompts, list(range(len(prompts))), settings))
    write_png(path, grid(rows, len(prompts)))
