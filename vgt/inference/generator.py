"""Text to images with a VisualLM and its autoencoder, and the generators of every system by one name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vgt.checkpoints import reference
from vgt.checkpoints.pretrained import Loaded
from vgt.core.config import validated
from vgt.inference.engine import Engine
from vgt.inference.images import to_uint8
from vgt.inference.load import check_system, load, locate, paired_autoencoder, system_of
from vgt.methods import registry
from vgt.methods.registry import System
from vgt.methods.sampling import Sampling, SamplingOptions
from vgt.methods.visual_lm import VisualLM
from vgt.vlm.prompts import prompt_list, tokenize, within_budget
from vgt.vlm.tokenizer import unknown_words

Decode = Callable[..., Tensor]  # (ids, mask, seeds, settings, on_step) -> latents [B, N, d]
OnStep = Callable[[int, int, Tensor], object]  # (tokens done, tokens in all, what there is so far)


class ImageGenerator(Protocol):
    """What the registry's ``generator`` makes of a checkpoint, its autoencoder and sampling options."""

    loaded: Loaded
    decoder: Loaded
    settings: SamplingOptions

    def read(self, text: str) -> str | int:
        """What was asked for on the command line as ``generate`` takes it: a prompt, or the number of a class.

        Raises ValueError for what the model cannot be asked for."""
        ...

    def generate(self, asked: Sequence[Any], seeds: Sequence[int], on_step: OnStep | None = None) -> np.ndarray:
        """One image per prompt or class and seed: uint8 [N, H, W, 3].  Rows are one batch."""
        ...


def open_generator(
    spec: str | Path,
    settings: Mapping[str, Any] | None = None,
    runs: Path | None = None,
    device: str = "cpu",
    autoencoder: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> ImageGenerator:
    """The generator at ``spec`` (folder, run below ``runs``, bundled name or hub id) with the autoencoder that it was
    trained on (at ``autoencoder``, default beside it or under its own name), both in ``dtype``, and sampling
    ``settings``.  Says on stderr where an acceleration results in steps of another size.

    Raises ValueError for what is no generator, another autoencoder, and settings that are impossible."""
    system = check_settings(spec, settings or {}, runs)
    found = load(spec, runs, device, dtype)
    chosen = system.part("sampling").of(found.model, settings or {})
    if note := chosen.note(found.model):
        print(f"note: {note}", file=sys.stderr)
    decoder = paired_autoencoder(found, autoencoder, runs, device, dtype)
    return system.part("generator")(found, decoder, chosen)


def check_settings(spec: str | Path, settings: Mapping[str, Any], runs: Path | None = None) -> System:
    """The system of the generator at ``spec``.  Raises ValueError for another kind, and for settings that are
    impossible whatever the model; nothing large is read."""
    folder = locate(spec, runs)
    system = system_of(folder)
    check_system(system.name, folder, registry.names("generator"))
    validated(system.part("sampling"), dict(settings), "sampling settings")
    return system


@dataclass(frozen=True)
class TextToImage:
    """A VisualLM with its autoencoder; what the engine keeps stays from batch to batch."""

    loaded: Loaded
    decoder: Loaded
    settings: Sampling

    @cached_property
    def engine(self) -> Engine:
        return Engine(self.loaded.model)

    def read(self, text: str) -> str:
        """The prompt, within the budget; says on stderr which of its words the model does not know."""
        prompt_list(text)
        within_budget(self.loaded.tokenizer, text)
        strange = unknown_words(self.loaded.tokenizer, text)
        if strange:
            words = ", ".join(map(repr, strange))
            print(f"warning: {self.loaded.name} does not know {words} and reads them as blanks", file=sys.stderr)
        return text

    def generate(self, asked: Sequence[str], seeds: Sequence[int], on_step: OnStep | None = None) -> np.ndarray:
        own = self.loaded
        seeds = [seed % 2**63 for seed in seeds]
        return generate(own.model, self.decoder.model, own.tokenizer, asked, seeds, self.settings, on_step, self.engine)


def eager(model: VisualLM) -> Decode:
    """The reference implementation of a model's method, which the engine is compared with."""
    return partial(registry.get(model.config.method).part("reference"), model)


@torch.no_grad()
def generate(
    model: VisualLM,
    ae,
    tokenizer,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: Sampling,
    on_step: OnStep | None = None,
    decode: Decode | None = None,
) -> np.ndarray:
    """One image per prompt and seed: uint8 [N, H, W, 3].  Rows are one batch.  ``decode`` as for ``latents``."""
    x = pixels(ae, latents(model, tokenizer, prompts, seeds, settings, on_step, decode))
    return to_uint8(x) if settings.compat == "none" else reference.pixels(x).cpu().numpy()


def pixels(ae, z: Tensor) -> Tensor:
    """``ae.decode(z)``, in halves where a GPU's memory is too small: [N, 3, H, W]."""
    try:
        return ae.decode(z)
    except torch.OutOfMemoryError:
        if len(z) == 1:
            raise
    half = len(z) // 2
    return torch.cat([pixels(ae, z[:half]), pixels(ae, z[half:])])


@torch.no_grad()
def latents(
    model: VisualLM,
    tokenizer,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: Sampling,
    on_step: OnStep | None = None,
    decode: Decode | None = None,
) -> Tensor:
    """What the autoencoder is to decode: fp32 [N, d_z, h, w], one per prompt and seed.

    ``decode``: an ``Engine`` of this model, kept from call to call, or ``eager(model)``; by default a new engine.  With
    ``compat`` the published loop decodes.  Raises ValueError for settings that the model does not allow."""
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds; give one seed per prompt")
    settings.check(model)
    if settings.compat != "none":
        decode = partial(reference.generate, model)
    device = next(model.parameters()).device
    rows: list[str | None] = list(prompts) + ([None] * len(prompts) if settings.guidance != 1 else [])
    ids, mask = tokenize(tokenizer, rows, device)
    z = (decode or Engine(model))(ids, mask, list(seeds), settings, on_step)
    return z.mT.reshape(len(seeds), -1, *model.config.latent_grid)
