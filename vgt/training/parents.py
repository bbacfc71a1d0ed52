"""What a job starts from: parents with their weights, or for a plan as their configurations describe them.

In a plan a parent that is not here (a run not yet trained, a hub id not yet fetched) is a problem of the plan and no
error: what it will be follows from its preset or from ``vgt.vlm.known``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, DINOv3ViTConfig, PreTrainedConfig

from vgt.checkpoints import checkpoint, shards
from vgt.checkpoints.pretrained import Loaded, is_backbone, is_hub_id, read_tokenizer
from vgt.core import config as configs
from vgt.inference.load import check_system, expect, load, locate
from vgt.methods import registry
from vgt.methods.vgt_ae import VGTAE, VGTAEConfig
from vgt.methods.visual_lm import ImageFeatures
from vgt.training.job import Place, Preset
from vgt.vlm import backbones, known
from vgt.vlm.tokenizer import build as build_tokenizer
from vgt.vlm.vlm import VLM, VisionEncoder, VLMConfig, hf_config, plain

TOWERS = ("internvl", "llava", "smolvlm", "idefics3")  # families whose tower takes pixels [B, 3, H, W]


@dataclass(frozen=True)
class Backbone:
    """A VLM's transformers configuration, image size in pixels, what its tokenizer makes of "<img>", and the tokenizer;
    ``text``: configuration of the language model.  ``model``: with its weights, None in a plan."""

    hf: dict[str, Any]
    text: dict[str, Any]
    image_size: int
    start_ids: tuple[int, ...]
    tokenizer: Any = None
    model: VLM | None = None
    fingerprint: str = ""

    def encoder(self) -> VisionEncoder:
        """Its vision encoder."""
        return VisionEncoder(hf_config(self.hf)) if self.model is None else self.model.encoder


class _Planned(Loaded):
    """A parent without its weights: what a plan has of it."""

    fingerprint = ""


def weights(spec: str | None, place: Place, *systems: str) -> Loaded | None:
    """The checkpoint of one of ``systems`` that ``init.weights`` names; None for none, and in a plan."""
    if not spec:
        return None
    if place.load:
        return expect(load(spec, place.runs), *systems)
    if _present(spec, place.runs) is None:
        place.problems.append(absent("init.weights", spec))
    return None


def backbone(spec: str, place: Place) -> Backbone:
    """The VLM that ``init.vlm`` names.  Raises ValueError for another system, and in a plan for a name that nothing is
    known of."""
    if not place.load:
        return _planned_backbone(spec, place)
    found = expect(load(spec, place.runs), registry.VLM.name)
    config, start = found.model.config, found.tokenizer("<img>", add_special_tokens=False).input_ids
    return Backbone(
        plain(config), plain(config.text_config), found.model.image_size, tuple(start), found.tokenizer, found.model,
        found.fingerprint,
    )  # fmt: skip


def autoencoder(setting: str, spec: str, place: Place, device: str = "cpu") -> Loaded:
    """The autoencoder that ``setting`` names; in a plan without weights, fingerprint and folder.  Raises ValueError for
    another system, and in a plan for a name that nothing is known of."""
    if place.load:
        return expect(load(spec, place.runs, device), registry.VGT_AE.name)
    config = _planned_autoencoder(setting, spec, place)
    with place.building():
        ae = VGTAE(config).requires_grad_(False)
    return _Planned(registry.VGT_AE.name, spec, ae, None, place.runs)


def tokenizer(spec: str, place: Place) -> Loaded:
    """The discrete tokenizer that ``init.autoencoder`` names; in a plan without weights, fingerprint and folder, as its
    own job would build it.  Raises ValueError for another system, and in a plan for a name that nothing is known of."""
    what, systems = "init.autoencoder", registry.names("tokenizer", latents="discrete")
    if place.load:
        return expect(load(spec, place.runs, place.device), *systems)
    folder = _present(spec, place.runs)
    if folder is not None:
        header = checkpoint.read_header(folder)
        check_system(header["system"], folder, systems)
        name, values = header["system"], header["config"]
    elif spec in configs.preset_names():
        place.problems.append(absent(what, spec))
        preset = configs.validated(Preset, configs.read_preset(spec), f"preset {spec}")
        if preset.system not in systems:
            raise ValueError(f"{what} {spec} is a preset of a {preset.system}; give one of a {' or '.join(systems)}")
        name = preset.system
        values = registry.get(name).part("job")(preset, Place(place.runs, place.team, place.rows, load=False)).config
    else:
        raise ValueError(absent(what, spec))
    system = registry.get(name)
    config = configs.validated(system.part("config"), values, f"configuration of {spec}")
    with place.building():
        model = system.part("model").build(config, None).requires_grad_(False).eval()
    return _Planned(name, spec, model, None, place.runs)


def autoencoder_config(preset: Preset, place: Place) -> tuple[VGTAEConfig, Backbone | None, Loaded | None]:
    """The configuration of a preset's autoencoder, and the parents that it comes from: ``init.vlm`` and
    ``init.weights``."""
    vlm = start = None
    values: dict[str, Any] = dict(preset.model)
    if preset.init.vlm:
        vlm = backbone(preset.init.vlm, place)
        values = {"vlm": vlm.hf, "image_size": vlm.image_size, **values}
    if preset.init.weights:
        start = autoencoder("init.weights", preset.init.weights, place)
        values = configs.merge(start.model.config.model_dump(mode="json"), values)
    return configs.validated(VGTAEConfig, {"vlm": None, **values}, "model of the preset"), vlm, start


# ------------------------------------------------------------------------------------------------- without weights


def _present(spec: str, runs: Path) -> Path | None:
    """The folder of a checkpoint or backbone that is here; a hub id counts where its snapshot is in the cache."""
    if is_hub_id(spec):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(spec, checkpoint.CONFIG)
        return Path(cached).parent if isinstance(cached, str) else None
    try:
        return locate(spec, runs)
    except ValueError:
        return None


def is_checkpoint(spec: str, place: Place) -> bool:
    """Whether ``spec`` names a checkpoint of ours that is here."""
    folder = None if is_hub_id(spec) else _present(spec, place.runs)
    if folder is None:
        return False
    try:
        return bool(checkpoint.read_header(folder))
    except ValueError:
        return False


def absent(what: str, spec: str) -> str:
    """The sentence for weights that are not here."""
    if is_hub_id(spec):
        return f"{what}: {spec} is not in the hub's cache; run `hf download {spec}`, or name a folder that holds it"
    if spec in configs.preset_names():
        return f"{what}: {spec} is not trained yet; run `vgt train {spec}` first"
    return f"{what}: there is no {spec}; name a run, a bundled model, a folder or a hub id"


def image_features(spec: str, grid: tuple[int, int], place: Place) -> ImageFeatures:
    """The vision transformer that ``init.repa`` names, see ``vision_network``."""
    usual = DINOv3ViTConfig(hidden_size=768, num_attention_heads=12, intermediate_size=3072, num_register_tokens=4)
    return ImageFeatures(vision_network("init.repa", spec, place, usual), grid)


def vision_network(what: str, spec: str, place: Place, usual: PreTrainedConfig) -> nn.Module:
    """The vision transformer that the setting ``what`` names: a folder or hub id of transformers, or the tower of a VLM
    of this project.  In a plan without weights, and where it is not here of the configuration ``usual``.  Raises
    ValueError where it cannot be had."""
    folder = _present(spec, place.runs)
    planned = folder is None and spec in configs.preset_names()
    if is_checkpoint(spec, place) or (planned and not place.load):
        return _tower(what, backbone(spec, place), place)
    if folder is None and not place.load:
        place.problems.append(absent(what, spec))
        config = usual
    elif folder is None:
        raise ValueError(absent(what, spec))
    else:
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{what} {spec} cannot be read: {str(error).splitlines()[0]}") from error
        config = getattr(config, "vision_config", config)
    if not getattr(config, "patch_size", None) or not hasattr(config, "hidden_size"):
        raise ValueError(f"{what} {spec} is no vision transformer; name a DINOv2, CLIP or SigLIP of transformers")
    if not place.load:
        with place.building():
            return AutoModel.from_config(config, trust_remote_code=False)
    try:
        network = AutoModel.from_pretrained(folder, trust_remote_code=False, use_safetensors=True, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} {spec} cannot be read: {str(error).splitlines()[0]}") from error
    return getattr(network, "vision_model", network)


def _tower(what: str, found: Backbone, place: Place) -> nn.Module:
    """The vision tower of a VLM of this project.  Raises ValueError for one that takes patches in place of images."""
    if found.hf["model_type"] not in TOWERS:
        raise ValueError(
            f"{what}: the tower of a {found.hf['model_type']} is none that reads whole images; use one of "
            f"{', '.join(TOWERS)}"
        )
    with place.building():
        return found.encoder().tower


def check_decoder(spec: str, place: Place) -> None:
    """Note in a plan that ``init.decoder`` is not here."""
    if not Path(spec).is_dir() and _present(spec, place.runs) is None:
        place.problems.append(absent("init.decoder", spec))


def _header(what: str, spec: str, folder: Path, system: str) -> dict:
    header = checkpoint.read_header(folder)
    if header["system"] != system:
        raise ValueError(f"{what} {spec} is a {header['system']} checkpoint; give a {system} one")
    return header


def _planned_backbone(spec: str, place: Place) -> Backbone:
    folder = _present(spec, place.runs)
    if folder is not None and is_backbone(folder):
        return _hugging_face(spec, folder, place)
    if folder is not None:
        header = _header("init.vlm", spec, folder, registry.VLM.name)
        config = configs.validated(VLMConfig, header["config"], f"configuration of {folder}")
        return _own_backbone(config, read_tokenizer(folder))
    values = known.hf_config_of(spec)
    place.problems.append(absent("init.vlm", spec))
    if values is not None:
        return Backbone(values, values["text_config"], _native_size(values), known.START_IDS[spec])
    if spec in configs.preset_names():
        config = configs.validated(VLMConfig, configs.read_preset(spec)["model"], f"model of preset {spec}")
        return _own_backbone(config, build_tokenizer(config.hf["model_type"]))
    raise ValueError(
        f"{place.problems.pop()}; without its files only these can be planned for: {', '.join(sorted(known.KNOWN))}"
    )


def _hugging_face(spec: str, folder: Path, place: Place) -> Backbone:
    values = backbones.read_config(folder).to_dict()
    try:
        shards.checked_files(folder)
    except ValueError as error:
        place.problems.append(f"init.vlm: {error}")
    start, tokenizer = known.START_IDS.get(spec, (0,)), None
    try:
        tokenizer = backbones.read_tokenizer(folder)
        start = tuple(tokenizer("<img>", add_special_tokens=False).input_ids)
    except ValueError as error:
        place.problems.append(f"init.vlm: {error}")
    return Backbone(values, values["text_config"], _native_size(values), start, tokenizer)


def _native_size(hf: dict[str, Any]) -> int:
    """Pixels of the vision tower's images; one that takes any size is used as the published models are."""
    size = hf["vision_config"].get("image_size")
    return backbones.FREE_SIZE if size is None else size if isinstance(size, int) else size[0]


def _own_backbone(config: VLMConfig, tokenizer) -> Backbone:
    """A VLM of this project: its vocabulary is that of its tokenizer."""
    text = {**config.hf["text_config"], "vocab_size": len(tokenizer)}
    start = tuple(tokenizer("<img>", add_special_tokens=False).input_ids)
    return Backbone({**config.hf, "text_config": text}, text, config.image_size, start, tokenizer)


def _planned_autoencoder(what: str, spec: str, place: Place) -> VGTAEConfig:
    folder = _present(spec, place.runs)
    if folder is not None:
        header = _header(what, spec, folder, registry.VGT_AE.name)
        return configs.validated(VGTAEConfig, header["config"], f"configuration of {folder}")
    if spec not in configs.preset_names():
        raise ValueError(absent(what, spec))
    place.problems.append(absent(what, spec))
    preset = configs.validated(Preset, configs.read_preset(spec), f"preset {spec}")
    if preset.system != registry.VGT_AE.name:
        raise ValueError(f"{what} {spec} is a preset of a {preset.system}; give one of a vgt_ae")
    return autoencoder_config(preset, Place(place.runs, place.team, place.rows, load=False))[0]
