"""What is timed: a bundled or trained checkpoint, or ``random:<preset>``, the preset's network with random weights.

The time of a step depends on shapes, not on weights, so untrained sizes can be timed; their records say "random".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from vgt.checkpoints.pretrained import Loaded, place
from vgt.core import config as configs
from vgt.core import files
from vgt.inference.engine import Engine
from vgt.inference.load import bundled, expect, load, locate, paired_autoencoder, system_of
from vgt.methods import registry
from vgt.methods.flow_head import FlowHead
from vgt.methods.registry import System
from vgt.methods.vgt_ae import VGTAE, VGTAEConfig
from vgt.methods.visual_lm import VisualLM, VisualLMConfig
from vgt.vlm import known, tokenizer
from vgt.vlm.backbones import first_layers
from vgt.vlm.vlm import VLM, VLMConfig, hf_config

RANDOM = "random:"
FULL_SIZE = 448  # pixels, of the published backbones


@dataclass(frozen=True)
class Subject:
    """A model ready to be timed, in eval mode.  ``decoder`` is the autoencoder: ``loaded`` itself, or the one that a
    generator decodes with; ``fingerprint`` is that of ``loaded``, or of the configuration of random ``weights``."""

    loaded: Loaded
    decoder: Loaded
    fingerprint: str
    weights: Literal["checkpoint", "random"]

    @property
    def name(self) -> str:
        return self.loaded.name

    @property
    def system(self) -> System:
        return registry.get(self.loaded.system)

    @property
    def model(self) -> nn.Module:
        return self.loaded.model

    @property
    def tokenizer(self) -> Any:
        return self.loaded.tokenizer

    @property
    def ae(self) -> nn.Module:
        return self.decoder.model

    @property
    def ae_name(self) -> str:
        return self.decoder.name

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @cached_property
    def engine(self) -> Engine:
        """One for all timings of a generator, as its packed weights are many."""
        return Engine(self.model)


def subject(
    spec: str,
    runs: Path | None = None,
    device: str = "cpu",
    autoencoder: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Subject:
    """The subject that ``spec`` names: a bundled model, a run below ``runs``, a folder, or ``random:<preset>``.
    ``autoencoder``: where a generator's is, if not under its own name.

    Raises ValueError for an unknown name, a checkpoint that is neither autoencoder nor generator, and a generator whose
    autoencoder is not there."""
    if spec.startswith(RANDOM):
        found = _random(spec.removeprefix(RANDOM), device)
    else:
        loaded = expect(load(spec, runs, device), *registry.names("generator"), *registry.names("tokenizer"))
        tokenizes = registry.get(loaded.system).kind == "tokenizer"
        ae = loaded if tokenizes else paired_autoencoder(loaded, autoencoder, runs, device)
        found = Subject(loaded, ae, loaded.fingerprint, "checkpoint")
    for module in (found.model, found.ae):
        place(module.eval().requires_grad_(False), device, dtype)
    return found


def system_named(spec: str, runs: Path | None = None) -> System:
    """The system that ``spec`` is of; nothing large is read.  Raises ValueError for an unknown name."""
    if spec.startswith(RANDOM):
        return registry.get(configs.read_preset(spec.removeprefix(RANDOM))["system"])
    return system_of(locate(spec, runs))


def bundled_names(kind: str) -> list[str]:
    """The bundled models of a kind (vgt/methods/registry.py)."""
    return [name for name in bundled() if system_named(name).kind == kind]


# ---------------------------------------------------------------------------------------------- random weights


def _random(preset: str, device: str) -> Subject:
    values = configs.read_preset(preset)
    system, parent = registry.get(values["system"]), values.get("init", {}).get("autoencoder")
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        if system.kind == "tokenizer":
            model, words = VGTAE(_autoencoder_config(values)), None
        elif system.kind == "generator":
            ae = VGTAE(_autoencoder_config(configs.read_preset(parent)))
            found = _backbone(values["init"]["vlm"])
            model, words = VisualLM(generator_config(values, found, ae)), found.tokenizer
        else:
            raise ValueError(f"preset {preset!r} is a {system.name}; time an autoencoder or a generator")
    loaded = Loaded(system.name, f"random-{preset}", model, words, Path())
    decoder = loaded if system.kind == "tokenizer" else Loaded("", f"random-{parent}", ae, None, Path())
    described = [each.model.config.model_dump(mode="json") for each in (loaded, decoder)]
    return Subject(loaded, decoder, files.digest_json(["random weights", *described]), "random")


def random_generator(preset: str, device: str) -> VisualLM:
    """The network of a generator's preset with random weights, ready to train."""
    values = configs.read_preset(preset)
    with torch.device("meta"):
        ae = VGTAE(_autoencoder_config(configs.read_preset(values["init"]["autoencoder"])))
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        return VisualLM(generator_config(values, _backbone(values["init"]["vlm"]), ae))


def random_head(model: VisualLM, device: str) -> FlowHead:
    """The flow head of a generator (also one on the meta device) with random weights."""
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        return FlowHead(model.config.head, model.config.d_z, model.image_out_projector.out_features)


@dataclass(frozen=True)
class Backbone:
    """What a preset's backbone decides: its transformers configuration, image size, a tokenizer whose ids it can
    embed, and the ids of its start tokens."""

    config: dict[str, Any]
    image_size: int
    tokenizer: Any
    start_ids: tuple[int, ...]


def _backbone(spec: str) -> Backbone:
    """``spec``: a preset of a tiny VLM, or the hub id of a published one, known without its files.  The published
    tokenizers are not here: prompts are read by the tiny one of the family, whose ids are among theirs."""
    values = known.hf_config_of(spec)
    if values is not None:
        words = tokenizer.build(values["model_type"])
        return Backbone(hf_config(values).to_dict(), FULL_SIZE, words, known.START_IDS[spec])
    config: VLMConfig = configs.validated(VLMConfig, configs.read_preset(spec)["model"], f"preset {spec}")
    words = tokenizer.build(config.hf["model_type"])
    start = tuple(words("<img>", add_special_tokens=False).input_ids)
    return Backbone(VLM.build(config, words).config.to_dict(), config.image_size, words, start)


def _autoencoder_config(values: dict) -> VGTAEConfig:
    """The configuration that training an autoencoder's preset would end with."""
    init, model = values.get("init", {}), {}
    if "weights" in init:
        model = _autoencoder_config(configs.read_preset(init["weights"])).model_dump(mode="json")
    if "vlm" in init:
        found = _backbone(init["vlm"])
        model |= {"vlm": found.config, "image_size": found.image_size}
    return configs.validated(
        VGTAEConfig, configs.merge({"vlm": None, **model}, values.get("model", {})), f"preset {values['name']}"
    )


def generator_config(values: dict, backbone: Backbone, ae: VGTAE) -> VisualLMConfig:
    """The configuration that training a generator's preset would end with, less the statistics of its latents."""
    side = ae.config.image_size // ae.stride
    layers = values["init"].get("layers")
    given = {
        "method": values["system"],
        "text": first_layers(backbone.config["text_config"], layers) if layers else backbone.config["text_config"],
        "start_ids": backbone.start_ids,
        "latent_grid": (side, side),
        "d_z": ae.config.d_z,
        "latent_norm": ae.config.normalize == "position",
        **values.get("model", {}),
    }
    return configs.validated(VisualLMConfig, given, f"preset {values['name']}")
