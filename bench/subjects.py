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
from vgt.methods.visual_lm import VisualLM
from vgt.training.distributed import team
from vgt.training.job import Job, Place, read
from vgt.vlm import known, tokenizer

RANDOM = "random:"


def no_weights(name: str) -> str:
    """The origin of times in which no trained model has a part."""
    return files.digest("no weights", name)


@dataclass(frozen=True)
class Subject:
    """A model ready to be timed, in eval mode.  ``decoder`` is the autoencoder: ``loaded`` itself, or the one that a
    generator decodes with; ``fingerprint`` is that of ``loaded``, or of the configuration of random ``weights``."""

    loaded: Loaded
    decoder: Loaded
    fingerprint: str
    weights: Literal["checkpoint", "random"]
    name: str

    @property
    def origin(self) -> str:
        """Whose its records are (vgt.core.record.Record)."""
        return self.fingerprint if self.weights == "checkpoint" else no_weights(self.name)

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
        found = Subject(loaded, ae, loaded.fingerprint, "checkpoint", loaded.name)
    for module in (found.model, found.ae):
        place(module.eval().requires_grad_(False), device, dtype)
    return found


def system_named(spec: str, runs: Path | None = None) -> System:
    """The system that ``spec`` is of; nothing large is read.  Raises ValueError for an unknown name."""
    if spec.startswith(RANDOM):
        return registry.get(read(spec.removeprefix(RANDOM), []).system)
    return system_of(locate(spec, runs))


def bundled_names(kind: str) -> list[str]:
    """The bundled models of a kind (vgt/methods/registry.py)."""
    return [name for name in bundled() if system_named(name).kind == kind]


# ---------------------------------------------------------------------------------------------- random weights


def _job(preset: str) -> Job:
    """What training the preset would build, without weights; parents that are not here are as their presets say."""
    return registry.get(read(preset, []).system).part("job")(read(preset, []), Place(Path("."), team(), 1, load=False))


def random_network(preset: str, device: str) -> tuple[nn.Module, Any]:
    """The network that a preset trains with random weights, and its tokenizer.  The published tokenizers are not here:
    prompts are read by the tiny one of the family, whose ids are among theirs."""
    job, values = _job(preset), read(preset, [])
    system, words = registry.get(values.system), job.tokenizer
    if words is None and system.has_tokenizer:
        words = tokenizer.build(known.hf_config_of(values.init.vlm)["model_type"])
    config = configs.validated(system.part("config"), job.config, f"preset {preset}")
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        return system.part("model").build(config, words), words


def _random(preset: str, device: str) -> Subject:
    values = read(preset, [])
    if registry.get(values.system).kind == "vlm":
        raise ValueError(f"preset {preset!r} is a {values.system}; time an autoencoder or a generator")

    def made(name: str) -> Loaded:
        return Loaded(read(name, []).system, f"random-{name}", *random_network(name, device), Path())

    loaded = made(preset)
    decoder = loaded if registry.get(values.system).kind == "tokenizer" else made(values.init.autoencoder)
    described = [each.model.config.model_dump(mode="json") for each in (loaded, decoder)]
    return Subject(loaded, decoder, files.digest_json(["random weights", *described]), "random", loaded.name)


def random_head(model: VisualLM, device: str) -> FlowHead:
    """The flow head of a generator (also one on the meta device) with random weights."""
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        return FlowHead(model.config.head, model.config.d_z, model.image_out_projector.out_features)
