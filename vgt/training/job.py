"""A preset, and the job that a system makes of it: all that the loop and the plan know of a system.

A system names its ``job(preset, place)`` in ``vgt.methods.registry``; ``vgt.training.jobs`` has ours.  The object
``Job.system`` has

* ``trainable_modules()``: name -> module with an optimizer of its own; the one called "model" is saved, averaged and
  checkpointed, further ones (a discriminator) take their turn after it in every step;
* ``loss(name, batch, step, rng)`` of that module: a scalar to minimise, and what is logged by name ("loss" among it for
  the model), scalars too.  ``rng``: this micro-batch's own generator on the training device, the only randomness;
* ``lr_scale(parameter name)``: factor of the learning rate;
* where wanted, ``skips(name, step)``: whether that module rests in that step; ``to(device)``: moves what is frozen;
  ``encode(batch)``: what frozen networks make of a batch before the loss, which calls it itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import field_validator
from torch import Tensor, nn

from vgt.core import config as configs
from vgt.core import scenes
from vgt.core.config import Config, Count
from vgt.methods import registry
from vgt.training.data import Batches, DataConfig
from vgt.training.distributed import Team
from vgt.training.optim import TrainConfig
from vgt.training.sources import SkipReport

SCENES = f"the synthetic scenes (`{scenes.WORLD}`)"


class InitConfig(Config):
    """What a run starts from: names of runs or bundled models, folders of ours or of Hugging Face, or hub ids.
    ``vlm``: its encoder (autoencoders) or language model (generators), of which ``layers`` keeps the first;
    ``decoder``: an autoencoder, ours or a diffusers AutoencoderDC, whose decoder the pixel decoder starts from;
    ``weights``: a checkpoint of the same system to go on from; ``autoencoder``: frozen; ``repa``: a vision transformer
    for the loss of that name; ``vision``: the vision model that a tokenizer reads, ``discriminator``: the one that its
    discriminator reads."""

    later: ClassVar[frozenset[str]] = frozenset({"vision", "discriminator"})

    vlm: str | None = None
    layers: Count | None = None
    decoder: str | None = None
    weights: str | None = None
    autoencoder: str | None = None
    repa: str | None = None
    vision: str | None = None
    discriminator: str | None = None

    @field_validator("*")
    @classmethod
    def _none(cls, spec: str | int | None) -> str | int | None:
        return spec or None  # a preset takes back what its base names by ""


class Preset(Config):
    """A preset file.  ``model`` holds the system's own configuration less what follows from ``init``;
    ``repeats``: (noise, time) draws of a generator's flow head per token and step."""

    system: str
    name: str
    init: InitConfig = InitConfig()
    model: dict[str, Any] = {}
    losses: dict[str, Any] = {}
    data: DataConfig = DataConfig()
    train: TrainConfig
    repeats: Count = 1

    @field_validator("system")
    @classmethod
    def _known(cls, name: str) -> str:
        return registry.get(name).name


def read(name: str, settings: list[str]) -> Preset:
    """The preset ``name`` with ``key=value`` settings on top.  Raises ValueError naming what does not fit, or changes
    nothing."""
    preset = configs.validated(Preset, configs.override(configs.read_preset(name), settings), f"preset {name}")
    if preset.repeats != 1 and registry.get(preset.system).loss is None:
        raise ValueError(
            f"repeats {preset.repeats} has no effect on a {preset.system}, which has no flow head; leave it out"
        )
    return preset


def takes(preset: Preset, *roles: str) -> None:
    """Raises ValueError for a field of ``init`` that is set and is none of ``roles``, those that a system reads."""
    for role, spec in preset.init.model_dump().items():
        if spec is not None and role not in roles:
            raise ValueError(
                f"init.{role} {spec} has no effect on a {preset.system}, which starts from {', '.join(roles)}; "
                "leave it out"
            )


@dataclass(frozen=True)
class Place:
    """Where a job is built: the folder of all runs, this process among its kind, rows of a micro-batch.

    ``load`` False is for a plan: modules on the meta device, no weights read and no data opened; a parent that is not
    here is named in ``problems``, and what it will be follows from its preset or from ``vgt.vlm.known``."""

    runs: Path
    team: Team
    rows: int
    load: bool = True
    problems: list[str] = field(default_factory=list)

    @property
    def device(self) -> str:
        return str(self.team.device)

    @property
    def cache(self) -> Path:
        return self.runs / "cache"

    def building(self) -> contextlib.AbstractContextManager:
        """Around the making of modules: real ones, or in a plan ones without memory."""
        return contextlib.nullcontext() if self.load else torch.device("meta")


@dataclass(frozen=True)
class Job:
    """``batches(k)``: micro-batch number k, tensors of ``Place.rows`` rows each, a pure function of k (in a plan
    floating-point ones may be on the meta device); ``config``: what config.json says of the model; ``parents``: what
    the run starts from and with, name -> hash.  ``sample(state, step, out)`` draws images with the model's weights;
    ``data``: what it learns from, for the card; ``skips`` counts bad samples of data that are read from files;
    ``threads`` make ``ahead`` batches ahead of their use (0: 2 a thread); where there are no threads and a GPU would
    wait, processes do.  A ``close()`` of ``batches`` is called at the end.

    For the plan: ``parts``: the saved model's components by name (all of it where there are none); ``frozen``: networks
    in memory that never train; ``positions(batch)``: of a row's sequence (latents, for an autoencoder)."""

    system: Any
    batches: Batches
    config: dict
    tokenizer: Any = None
    parents: Mapping[str, str] = field(default_factory=dict)
    sample: Callable[[dict[str, Tensor], int, Path], None] | None = None
    data: str = SCENES
    skips: SkipReport | None = None
    threads: int = 0
    ahead: int = 0
    parts: Mapping[str, Sequence[nn.Module | nn.Parameter | None]] = field(default_factory=dict)
    frozen: Mapping[str, nn.Module] = field(default_factory=dict)
    positions: Callable[[dict[str, Tensor]], int] = lambda batch: 1
