"""Every system that can be trained, evaluated and timed: the only place that knows their names (ADDING_A_SYSTEM.md).

An entry says what a system is and where its parts are, as "module:name" texts that are imported when they are used, so
that this file imports nothing heavy and nothing imports in a circle.  Systems from outside are in modules that the
environment variable VGT_SYSTEMS names (separated by commas); each calls ``register`` when it is imported.
"""

from __future__ import annotations

import functools
import importlib
import os
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["vlm", "tokenizer", "generator"]


@dataclass(frozen=True)
class System:
    """``name``: as in presets, checkpoints and records; ``label``: for people; ``kind``: what it is; ``about``: its
    model card's words.

    Parts, each "module:name":

    * ``model``: the network's class, a ``Pretrained`` (vgt/checkpoints/pretrained.py), built by ``model.build(config,
      tokenizer)`` from the class ``config``; several systems may share one, whose configuration then has the system's
      name as ``method``;
    * ``job(preset, place)``: what its training needs, a ``Job`` (vgt/training/job.py): trainable modules, loss,
      batches;
    * ``foreign(folder, dtype=)``: the model in a Hugging Face folder that is none of ours, ``None`` where there is
      none.

    ``latents`` of a tokenizer: "continuous", ``encode``: images [B, 3, H, W] -> [B, d, h, w], or "discrete", -> int64
    [B, h, w]; ``decode`` goes back; a discrete one also has ``vectors``, indices -> [B, d, h, w].  ``condition`` of a
    generator: "text" or "label" (then its configuration has the names of the ``classes``).  The configuration of a
    generator holds the content hash and the name of its tokenizer, ``autoencoder`` and ``autoencoder_name``.  Parts of
    a generator:

    * ``sampling``: the class of its sampling options, a ``SamplingOptions`` (vgt/methods/sampling.py);
    * ``generator(loaded, decoder, settings)``: what makes images, an ``ImageGenerator`` (vgt/inference/generator.py);
    * where it decodes step by step, ``reference``: the loop that decodes as the paper has it, and ``loop``: the same in
      a decode engine, of a generator by label the engine itself (vgt/inference/code_engine.py).

    Parts of a method of VisualLM: ``loss`` (model, batch, rng, repeats), ``reference``: the loop that decodes as the
    paper has it, ``loop``: the same in the decode engine (vgt/inference/engine.py), ``sequence(n)``: image positions in
    the training sequence of n image tokens."""

    name: str
    label: str
    kind: Kind
    about: str
    model: str
    config: str
    job: str
    foreign: str | None = None
    latents: Literal["continuous", "discrete"] | None = None
    condition: Literal["text", "label"] | None = None
    sampling: str | None = None
    generator: str | None = None
    loss: str | None = None
    reference: str | None = None
    loop: str | None = None
    sequence: str | None = None

    @property
    def has_tokenizer(self) -> bool:
        """Whether its checkpoints hold a text tokenizer."""
        return self.kind == "vlm" or self.condition == "text"

    def part(self, name: str) -> Any:
        """One of its parts, imported.  Raises ValueError where the system has none of that name."""
        place = getattr(self, name)
        if place is None:
            raise ValueError(f"{self.name} has no {name}; see vgt/methods/registry.py")
        return resolve(place)


def resolve(place: str) -> Any:
    """What stands at "module:name"."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


VLM = System(
    name="vlm",
    label="VLM",
    kind="vlm",
    about="A vision-language model",
    model="vgt.vlm.vlm:VLM",
    config="vgt.vlm.vlm:VLMConfig",
    job="vgt.training.jobs:vlm",
    foreign="vgt.vlm.backbones:load_backbone",
)

VGT_AE = System(
    name="vgt_ae",
    label="VGT-AE",
    kind="tokenizer",
    about="An autoencoder on a vision encoder (VGT-AE)",
    latents="continuous",
    model="vgt.methods.vgt_ae:VGTAE",
    config="vgt.methods.vgt_ae:VGTAEConfig",
    job="vgt.training.jobs:autoencoder",
)

VFMTOK = System(
    name="vfmtok",
    label="VFMTok",
    kind="tokenizer",
    about="A discrete image tokenizer on a vision model (VFMTok)",
    latents="discrete",
    model="vgt.methods.vfmtok:VFMTok",
    config="vgt.methods.vfmtok:VFMTokConfig",
    job="vgt.training.jobs:vfmtok",
)

QUERY_AR = System(
    name="query_ar",
    label="QueryAR",
    kind="generator",
    about="A text-to-image generator (QueryAR)",
    condition="text",
    model="vgt.methods.visual_lm:VisualLM",
    config="vgt.methods.visual_lm:VisualLMConfig",
    job="vgt.training.jobs:visual_lm",
    sampling="vgt.methods.sampling:Sampling",
    generator="vgt.inference.generator:TextToImage",
    loss="vgt.methods.query_ar:loss",
    reference="vgt.methods.query_ar:generate",
    loop="vgt.inference.engine:QueryARLoop",
    sequence="vgt.methods.query_ar:sequence",
)

MAR = replace(
    QUERY_AR,
    name="mar",
    label="MAR",
    about="A text-to-image generator (MAR)",
    loss="vgt.methods.mar:loss",
    reference="vgt.methods.mar:generate",
    loop="vgt.inference.engine:MARLoop",
    sequence="vgt.methods.mar:sequence",
)

CODE_GPT = System(
    name="code_gpt",
    label="GPT",
    kind="generator",
    about="A class-to-image generator (GPT over the indices of a discrete tokenizer)",
    condition="label",
    model="vgt.methods.code_gpt:CodeGPT",
    config="vgt.methods.code_gpt:CodeGPTConfig",
    job="vgt.training.codes:code_gpt",
    sampling="vgt.methods.code_gpt:CodeSampling",
    generator="vgt.inference.code_engine:LabelToImage",
    reference="vgt.methods.code_gpt:generate",
    loop="vgt.inference.code_engine:CodeEngine",
)

_SYSTEMS: dict[str, System] = {system.name: system for system in (VLM, VGT_AE, VFMTOK, QUERY_AR, MAR, CODE_GPT)}
PLUGINS = "VGT_SYSTEMS"


def register(system: System) -> System:
    """Add a system.  Raises ValueError for a name that another one has."""
    if _SYSTEMS.setdefault(system.name, system) != system:
        raise ValueError(f"there is a system {system.name!r} already; give yours another name")
    return system


@functools.cache
def _load(modules: str) -> None:
    for name in filter(None, modules.split(",")):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(f"{PLUGINS} names {name}, which cannot be imported: {error}") from error


def systems(kind: Kind | None = None, **wanted: str) -> tuple[System, ...]:
    """All systems, those of one ``kind``, or those with certain fields: ``systems("tokenizer",
    latents="discrete")``."""
    _load(os.environ.get(PLUGINS, ""))
    found = (s for s in _SYSTEMS.values() if kind in (None, s.kind))
    return tuple(s for s in found if all(getattr(s, key) == value for key, value in wanted.items()))


def names(kind: Kind | None = None, **wanted: str) -> tuple[str, ...]:
    """The names of ``systems(...)``."""
    return tuple(system.name for system in systems(kind, **wanted))


def get(name: str) -> System:
    """The system of that name.  Raises ValueError listing those that there are."""
    found = {system.name: system for system in systems()}
    if name not in found:
        raise ValueError(f"system {name!r} is unknown; choose one of {', '.join(found)}")
    return found[name]


def of(model: Any) -> System:
    """The system that a model is of.  Raises ValueError for an object of none of their classes."""
    places = [f"{cls.__module__}:{cls.__qualname__}" for cls in type(model).__mro__]
    found = [system for system in systems() if system.model in places]
    if len(found) > 1:
        found = [system for system in found if system.name == model.config.method]
    if not found:
        classes = dict.fromkeys(system.model.partition(":")[2] for system in systems())
        raise ValueError(f"a {type(model).__name__} is no system of this project; save one of {', '.join(classes)}")
    return found[0]


def sharing(model: str) -> tuple[str, ...]:
    """The names of the systems with the network class at ``model``."""
    return tuple(system.name for system in systems() if system.model == model)
