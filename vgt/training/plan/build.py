"""A preset's system without weights: every module on the meta device, every parent from its configuration alone.

A parent that is not here (a run not yet trained, a hub id not yet fetched) is a problem of the plan, no error: what it
will be follows from its preset or from ``vgt.vlm.known``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vgt.checkpoints import checkpoint, shards
from vgt.checkpoints.pretrained import read_tokenizer
from vgt.core import captions, scenes
from vgt.core import config as configs
from vgt.inference.load import locate
from vgt.methods import lpips
from vgt.methods.perceptual import PerceptualLoss
from vgt.methods.vgt_ae import VGTAE, AELossConfig, VGTAEConfig, VGTAETraining
from vgt.methods.visual_lm import ARTraining, VisualLM, VisualLMConfig
from vgt.training import data as feeds
from vgt.training.plan.trace import Fakes
from vgt.training.run import LOSSES, Preset
from vgt.vlm import backbones, known, tokenizer
from vgt.vlm.prompts import tokenize
from vgt.vlm.training import VLMLossConfig, VLMTraining
from vgt.vlm.vlm import VLM, VisionEncoder, VLMConfig, hf_config


@dataclass(frozen=True)
class Planned:
    """A system to plan for.  ``parts``: parameters of the saved model; ``beside``: of what its training needs besides;
    ``frozen``: networks that never train; ``encoder``: the frozen autoencoder that runs within the step, if one does;
    ``batch(fakes, rows)``: one micro-batch; ``positions``: of the trunk's sequence per row (latents, for an
    autoencoder); ``windowed``: whether a vision tower calls its attention once per image and window; ``moment``: the
    step at which everything is on."""

    system: Any
    model: nn.Module
    parts: dict[str, int]
    beside: dict[str, int]
    frozen: list[nn.Module]
    encoder: VGTAE | None
    batch: Callable[[Fakes, int], dict[str, Tensor]]
    image_size: int
    positions: int
    windowed: bool = False
    moment: int = 0
    problems: list[str] = field(default_factory=list)


def build_planned(preset: Preset, runs: Path) -> Planned:
    """The system of a preset.  Raises ValueError for one that cannot be built, whatever were fetched or trained."""
    return _BUILDERS[preset.system](preset, runs)


def count(*modules: nn.Module | nn.Parameter | None) -> int:
    """Parameters of modules, shared ones once."""
    found: dict[int, int] = {}
    for module in modules:
        own = [module] if isinstance(module, nn.Parameter) else module.parameters() if module is not None else []
        found |= {id(p): p.numel() for p in own}
    return sum(found.values())


# ------------------------------------------------------------------------------------------------------- parents


@dataclass(frozen=True)
class _Backbone:
    """A VLM's configuration, its image size in pixels, what its tokenizer makes of "<img>", and the tokenizer where
    there is one."""

    hf: dict[str, Any]
    image_size: int
    start_ids: tuple[int, ...]
    words: Any = None


def _present(spec: str, runs: Path) -> Path | None:
    """The folder of a checkpoint or backbone that is here; a hub id counts where its snapshot is in the cache."""
    if backbones.is_hub_id(spec):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(spec, backbones.CONFIG)
        return Path(cached).parent if isinstance(cached, str) else None
    try:
        return locate(spec, runs)
    except ValueError:
        return None


def absent(what: str, spec: str) -> str:
    """The sentence for weights that are not here."""
    if backbones.is_hub_id(spec):
        return f"{what}: {spec} is not in the hub's cache; run `hf download {spec}`, or name a folder that holds it"
    if spec in configs.preset_names():
        return f"{what}: {spec} is not trained yet; run `vgt train {spec}` first"
    return f"{what}: there is no {spec}; name a run, a bundled model, a folder or a hub id"


def _backbone(spec: str, runs: Path, problems: list[str]) -> _Backbone:
    """Raises ValueError for a name that nothing is known of."""
    folder = _present(spec, runs)
    if folder is not None and backbones.is_backbone(folder):
        return _hugging_face(spec, folder, problems)
    if folder is not None:
        header = checkpoint.read_header(folder)
        if header["system"] != "vlm":
            raise ValueError(f"init.vlm {spec} is a {header['system']} checkpoint; give a vlm one")
        words = read_tokenizer(folder)
        return _own_backbone(configs.validated(VLMConfig, header["config"], f"configuration of {folder}"), words)
    values = known.hf_config_of(spec)
    problems.append(absent("init.vlm", spec))
    if values is not None:
        return _Backbone(values, _native_size(values), known.START_IDS[spec])
    if spec in configs.preset_names():
        config = configs.validated(VLMConfig, configs.read_preset(spec)["model"], f"model of preset {spec}")
        return _own_backbone(config, tokenizer.build(config.hf["model_type"]))
    raise ValueError(
        f"{problems.pop()}; without its files only these can be planned for: {', '.join(sorted(known.KNOWN))}"
    )


def _hugging_face(spec: str, folder: Path, problems: list[str]) -> _Backbone:
    config = backbones.read_config(folder)
    try:
        shards.checked_files(folder)
    except ValueError as error:
        problems.append(f"init.vlm: {error}")
    start: tuple[int, ...] = known.START_IDS.get(spec, (0,))
    words = None
    try:
        words = backbones.read_tokenizer(folder)
        start = tuple(words("<img>", add_special_tokens=False).input_ids)
    except ValueError as error:
        problems.append(f"init.vlm: {error}")
    return _Backbone(config.to_dict(), _native_size(config.to_dict()), start, words)


def _native_size(hf: dict[str, Any]) -> int:
    """Pixels of the vision tower's images; one that takes any size is used as the published models are."""
    size = hf["vision_config"].get("image_size")
    return backbones.FREE_SIZE if size is None else size if isinstance(size, int) else size[0]


def _own_backbone(config: VLMConfig, words) -> _Backbone:
    """A VLM of this project: its vocabulary is that of its tokenizer."""
    hf = {**config.hf, "text_config": {**config.hf["text_config"], "vocab_size": len(words)}}
    return _Backbone(hf, config.image_size, tuple(words("<img>", add_special_tokens=False).input_ids), words)


def _autoencoder(what: str, spec: str, runs: Path, problems: list[str]) -> VGTAEConfig:
    folder = _present(spec, runs)
    if folder is not None:
        header = checkpoint.read_header(folder)
        if header["system"] != "vgt_ae":
            raise ValueError(f"{what} {spec} is a {header['system']} checkpoint; give a vgt_ae one")
        return configs.validated(VGTAEConfig, header["config"], f"configuration of {folder}")
    problems.append(absent(what, spec))
    if spec not in configs.preset_names():
        raise ValueError(problems.pop())
    preset = configs.validated(Preset, configs.read_preset(spec), f"preset {spec}")
    if preset.system != "vgt_ae":
        raise ValueError(f"{what} {spec} is a preset of a {preset.system}; give one of a vgt_ae")
    return _autoencoder_config(preset, runs, [])


def _autoencoder_config(preset: Preset, runs: Path, problems: list[str]) -> VGTAEConfig:
    values: dict[str, Any] = dict(preset.model)
    if preset.init.vlm:
        parent = _backbone(preset.init.vlm, runs, problems)
        values = {"vlm": parent.hf, "image_size": parent.image_size, **values}
    if preset.init.weights:
        start = _autoencoder("init.weights", preset.init.weights, runs, problems)
        values = configs.merge(start.model_dump(mode="json"), values)
    return configs.validated(VGTAEConfig, {"vlm": None, **values}, "model of the preset")


def _missing_weights(preset: Preset, runs: Path) -> list[str]:
    start = preset.init.weights
    return [absent("init.weights", start)] if start and _present(start, runs) is None else []


# ------------------------------------------------------------------------------------------------------- systems


def _plan_vlm(preset: Preset, runs: Path) -> Planned:
    config: VLMConfig = configs.validated(VLMConfig, preset.model, "model of the preset")
    words = tokenizer.build(config.hf["model_type"])
    with torch.device("meta"):
        vlm = VLM.build(config, words)
    losses: VLMLossConfig = configs.validated(VLMLossConfig, preset.losses, "losses of the preset")
    system = VLMTraining(vlm, losses, feeds.region_choices(words))
    size, language = config.image_size, vlm.language
    found = {"tower": count(vlm.encoder.tower), "projector": count(vlm.encoder.projector)}
    found |= {"language_model": count(language)}
    found["lm_head"] = count(vlm) - sum(found.values())  # nothing where the embeddings are tied
    length = feeds.conversation_batches(vlm, preset.data, 2)(0)["ids"].shape[1]

    def batch(fakes: Fakes, rows: int) -> dict[str, Tensor]:
        real = feeds.conversation_batches(vlm, preset.data, rows)(0)
        return {**real, "images": fakes.tensor(rows, 3, size, size)}

    parts = {name: n for name, n in found.items() if n}
    return Planned(system, vlm, parts, {}, [], None, batch, size, length, problems=_missing_weights(preset, runs))


def _plan_autoencoder(preset: Preset, runs: Path) -> Planned:
    problems: list[str] = []
    config = _autoencoder_config(preset, runs, problems)
    losses: AELossConfig = configs.validated(AELossConfig, preset.losses, "losses of the preset")
    if losses.distill > 0 and not preset.init.vlm:
        raise ValueError(
            f"losses.distill is {losses.distill} but there is no teacher; set init.vlm, or losses.distill=0"
        )
    decoder = preset.init.decoder
    if decoder and not Path(decoder).is_dir() and _present(decoder, runs) is None:
        problems.append(absent("init.decoder", decoder))
    perceptual = _perceptual(losses.perceptual_network, problems) if losses.perceptual > 0 else None
    with torch.device("meta"):
        ae = VGTAE(config)
        teacher = VisionEncoder(hf_config(config.vlm)) if losses.distill > 0 else None
        system = VGTAETraining(ae, losses, teacher, perceptual)
    _check_image(config, ae)
    parts = _autoencoder_parts(ae)
    beside = {"teacher": count(teacher), "discriminator": count(system.discriminator), "perceptual": count(perceptual)}
    frozen = [module for module in (teacher, perceptual) if module is not None]
    size = config.image_size

    def batch(fakes: Fakes, rows: int) -> dict[str, Tensor]:
        return {"images": fakes.tensor(rows, 3, size, size)}

    moment = losses.adversarial_start if losses.adversarial > 0 else 0
    side = size // ae.stride
    beside = {name: n for name, n in beside.items() if n}
    return Planned(
        system, ae, parts, beside, frozen, None, batch, size, side * side, _windowed(config), moment, problems
    )


def _autoencoder_parts(ae: VGTAE) -> dict[str, int]:
    if ae.config.vlm is None:
        parts = {"encoder": count(ae.encoder)}
    else:
        parts = {"tower": count(ae.encoder.tower), "projector": count(ae.encoder.projector)}
    parts |= {"residual_projection": count(ae.down_blocks, ae.down_mlp), "decoder": count(ae.decoder)}
    return {name: n for name, n in parts.items() if n}


def _check_image(config: VGTAEConfig, ae: VGTAE) -> None:
    if config.image_size % ae.stride:
        raise ValueError(
            f"model.image_size {config.image_size} is not a multiple of the encoder's stride {ae.stride}; "
            f"choose {config.image_size // ae.stride * ae.stride or ae.stride}"
        )
    if config.vlm is not None:
        ae.encoder.check(config.image_size, config.image_size)


def _windowed(config: VGTAEConfig) -> bool:
    return config.vlm is not None and config.vlm["model_type"] == "qwen2_5_vl"


class _Lpips(nn.Module):
    """LPIPS in the sizes of its backbone, for a plan that has no file of it."""

    def __init__(self, net: str):
        super().__init__()
        from torchvision import models

        with torch.device("meta"):
            whole = models.vgg16() if net == "vgg" else models.alexnet()
            self.network = lpips.network(net, whole.state_dict())

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.network(images.float(), target.detach().float(), normalize=True).mean()


def _perceptual(name: str, problems: list[str]) -> nn.Module:
    """The network of the perceptual loss.  Raises ValueError for an unknown name."""
    try:
        return PerceptualLoss(name)
    except ValueError as error:
        net = name.removeprefix("lpips-")
        if not name.startswith("lpips-") or net not in lpips.BACKBONES:
            raise
        problems.append(f"losses.perceptual_network: {error}")
    return _Lpips(net)


def _plan_generator(preset: Preset, runs: Path) -> Planned:
    if not preset.init.autoencoder or not preset.init.vlm:
        raise ValueError("a generator needs init.autoencoder and init.vlm; name a run, a bundled model or a folder")
    problems: list[str] = []
    ae_config = _autoencoder("init.autoencoder", preset.init.autoencoder, runs, problems)
    backbone = _backbone(preset.init.vlm, runs, problems)
    problems += _missing_weights(preset, runs)
    with torch.device("meta"):
        ae = VGTAE(ae_config).requires_grad_(False)
    _check_image(ae_config, ae)
    side = ae_config.image_size // ae.stride
    text = backbone.hf["text_config"]
    values = {
        "method": preset.system,
        "text": backbones.first_layers(text, preset.init.layers) if preset.init.layers else text,
        "start_ids": backbone.start_ids,
        "latent_grid": (side, side),
        "d_z": ae_config.d_z,
        "latent_norm": ae_config.normalize == "position",
        **preset.model,
    }
    config: VisualLMConfig = configs.validated(VisualLMConfig, values, "model of the preset")
    _check_generator(config, (side, side), ae_config.d_z)
    with torch.device("meta"):
        model = VisualLM(config)
    system = ARTraining(model, LOSSES[preset.system], preset.repeats)
    length, tokens = _text_length(preset, backbone), model.tokens
    positions = length + len(config.start_ids) + (2 * tokens - 1 if preset.system == "query_ar" else tokens)
    cached = preset.data.source == "scenes"  # their latents are encoded once, before the first step

    def batch(fakes: Fakes, rows: int) -> dict[str, Tensor]:
        ids = torch.zeros(rows, length, dtype=torch.long)
        return {"ids": ids, "mask": ids == 0, "latents": fakes.tensor(rows, tokens, config.d_z)}

    return Planned(
        system, model, _generator_parts(model), {"autoencoder": count(ae)}, [] if cached else [ae],
        None if cached else ae, batch, ae_config.image_size, positions, _windowed(ae_config), 0, problems,
    )  # fmt: skip


def _generator_parts(model: VisualLM) -> dict[str, int]:
    return {
        "language_model": count(model.language_model),
        "queries": count(model.max_metaquery, model.grid_embed),
        "projectors": count(model.image_in_projector, model.image_out_projector),
        "flow_head": count(model.image_head),
    }


def _check_generator(config: VisualLMConfig, latent_grid: tuple[int, int], d_z: int) -> None:
    """Raises ValueError where the generator does not fit its autoencoder or itself."""
    if tuple(config.latent_grid) != latent_grid or config.d_z != d_z:
        raise ValueError(
            f"model.latent_grid {tuple(config.latent_grid)} and d_z {config.d_z} are not the autoencoder's "
            f"{latent_grid} and {d_z}; leave them out of the preset"
        )
    if max(latent_grid) > config.query_grid:
        raise ValueError(
            f"the latent grid {latent_grid[0]} x {latent_grid[1]} does not fit the query grid of side "
            f"{config.query_grid}; set model.query_grid to {max(latent_grid)} or more"
        )
    if config.head.width < 1 or config.head.depth < 1:
        raise ValueError(
            f"model.head of width {config.head.width} and depth {config.head.depth} is none; use 1 or more"
        )
    text = config.text
    if text["hidden_size"] % text["num_attention_heads"]:
        raise ValueError(
            f"a language model of width {text['hidden_size']} cannot have {text['num_attention_heads']} heads; "
            "choose a divisor of the width"
        )


def _text_length(preset: Preset, backbone: _Backbone) -> int:
    """Tokens of the longest prompt that is planned for: the budget, or the longest dense caption of a few scenes."""
    if preset.data.source != "scenes" or backbone.words is None:
        return preset.data.caption_tokens
    few = [captions.dense_caption(scenes.scene("train", i)) for i in range(64)]
    return tokenize(backbone.words, few)[0].shape[1]


_BUILDERS: dict[str, Callable[[Preset, Path], Planned]] = {
    "vlm": _plan_vlm,
    "vgt_ae": _plan_autoencoder,
    "query_ar": _plan_generator,
    "mar": _plan_generator,
}
