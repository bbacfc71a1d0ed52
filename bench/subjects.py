"""What is timed: a bundled or trained checkpoint, or ``random:<preset>``, the preset's network with random weights.

The time of a step depends on shapes, not on weights, so untrained sizes can be timed; their records say "random".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from vgt.core import config as configs
from vgt.core import files
from vgt.inference.load import bundled, expect, load, paired_autoencoder, zoo
from vgt.models import checkpoint, tokenizer
from vgt.models.vgt_ae import VGTAE, VGTAEConfig
from vgt.models.visual_lm import VisualLM, VisualLMConfig
from vgt.models.vlm import VLM, VLMConfig, build

RANDOM = "random:"
GENERATORS, AUTOENCODERS = ("query_ar", "mar"), ("vgt_ae",)
TINY_GENERATORS = ("query_ar_internvl", "mar_internvl")
TINY_AUTOENCODERS = ("vgt_ae_internvl", "vgt_ae_qwen", "pixel_ae")


@dataclass(frozen=True)
class Subject:
    """A model ready to be timed.  ``ae`` is the autoencoder: ``model`` itself, or the one a generator decodes with."""

    name: str
    system: str
    model: nn.Module
    ae: VGTAE
    ae_name: str
    tokenizer: Any
    fingerprint: str
    weights: Literal["checkpoint", "random"]

    @property
    def generates(self) -> bool:
        return self.system in GENERATORS


def subject(spec: str, runs: Path | None = None, device: str = "cpu", autoencoder: str | None = None) -> Subject:
    """The subject that ``spec`` names: a bundled model, a run below ``runs``, a folder, or ``random:<preset>``.
    ``autoencoder``: where a generator's is, if not under its own name.

    Raises ValueError for an unknown name, a checkpoint that is neither autoencoder nor generator, and a generator whose
    autoencoder is not there."""
    if spec.startswith(RANDOM):
        found = _random(spec.removeprefix(RANDOM))
    else:
        loaded = expect(load(spec, runs, device), *GENERATORS, *AUTOENCODERS)
        ae = loaded if loaded.system in AUTOENCODERS else paired_autoencoder(loaded, autoencoder, runs, device)
        found = Subject(
            loaded.name,
            loaded.system,
            loaded.model,
            ae.model,
            ae.name,
            loaded.tokenizer,
            loaded.fingerprint,
            "checkpoint",
        )
    for module in (found.model, found.ae):
        module.eval().requires_grad_(False).to(device)
    return found


def bundled_names(*systems: str) -> list[str]:
    """The bundled models of the given systems."""
    return [name for name in bundled() if checkpoint.read_header(zoo() / name)["system"] in systems]


# ---------------------------------------------------------------------------------------------- random weights


def _random(preset: str) -> Subject:
    values = configs.read_preset(preset)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if values["system"] in AUTOENCODERS:
            config, words = _autoencoder_config(values), None
            model = ae = VGTAE(config)
            ae_name = f"random-{preset}"
        elif values["system"] in GENERATORS:
            ae = VGTAE(_autoencoder_config(configs.read_preset(values["init"]["autoencoder"])))
            vlm = _vlm(values["init"]["vlm"])
            config, words = _generator_config(values, vlm, ae), vlm.tokenizer
            model, ae_name = VisualLM(config), f"random-{values['init']['autoencoder']}"
        else:
            raise ValueError(f"preset {preset!r} is a {values['system']}; time an autoencoder or a generator")
    mark = files.digest_json(["random weights", config.model_dump(mode="json"), ae.config.model_dump(mode="json")])
    return Subject(f"random-{preset}", values["system"], model, ae, ae_name, words, mark, "random")


def _vlm(preset: str) -> VLM:
    config: VLMConfig = configs.validated(VLMConfig, configs.read_preset(preset)["model"], f"preset {preset}")
    return build(config, tokenizer.build(config.hf["model_type"]))


def _autoencoder_config(values: dict) -> VGTAEConfig:
    """The configuration that training an autoencoder's preset would end with."""
    init, model = values.get("init", {}), {}
    if "weights" in init:
        model = _autoencoder_config(configs.read_preset(init["weights"])).model_dump(mode="json")
    if "vlm" in init:
        vlm = _vlm(init["vlm"])
        model |= {"vlm": vlm.config.to_dict(), "image_size": vlm.image_size}
    return configs.validated(
        VGTAEConfig, configs.merge({"vlm": None, **model}, values["model"]), f"preset {values['name']}"
    )


def _generator_config(values: dict, vlm: VLM, ae: VGTAE) -> VisualLMConfig:
    side = ae.config.image_size // ae.stride
    given = {
        "method": values["system"],
        "text": vlm.config.text_config.to_dict(),
        "start_ids": vlm.tokenizer("<img>", add_special_tokens=False).input_ids,
        "latent_grid": (side, side),
        "d_z": ae.config.d_z,
        "latent_norm": ae.config.normalize == "position",
        **values["model"],
    }
    return configs.validated(VisualLMConfig, given, f"preset {values['name']}")
