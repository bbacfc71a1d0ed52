"""Text to images with a VisualLM and its autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from vgt.checkpoints import reference
from vgt.inference.engine import Engine
from vgt.inference.images import to_uint8
from vgt.methods import mar, query_ar
from vgt.methods.sampling import Sampling, usual
from vgt.methods.visual_lm import VisualLM, tokenize

__all__ = ["Engine", "Sampling", "eager", "generate", "latents", "usual"]

EAGER = {"query_ar": query_ar.generate, "mar": mar.generate}
Decode = Callable[..., Tensor]  # (ids, mask, seeds, settings, on_step) -> latents [B, N, d]


def eager(model: VisualLM) -> Decode:
    """The reference implementation of a model's method, which the engine is compared with."""
    return partial(EAGER[model.config.method], model)


@torch.no_grad()
def generate(
    model: VisualLM,
    ae,
    tokenizer,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: Sampling,
    on_step=None,
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
    on_step=None,
    decode: Decode | None = None,
) -> Tensor:
    """What the autoencoder is to decode: fp32 [N, d_z, h, w], one per prompt and seed.

    ``decode``: an ``Engine`` of this model, kept from call to call, or ``eager(model)``; by default a new engine.  With
    ``compat`` the published loop decodes.  Raises ValueError for ``compat`` where nothing was published."""
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds; give one seed per prompt")
    settings.check_method(model.config.method)
    if settings.compat != "none":
        decode = partial(reference.generate, model)
    device = next(model.parameters()).device
    rows: list[str | None] = list(prompts) + ([None] * len(prompts) if settings.guidance != 1 else [])
    ids, mask = tokenize(tokenizer, rows, device)
    z = (decode or Engine(model))(ids, mask, list(seeds), settings, on_step)
    return z.mT.reshape(len(seeds), -1, *model.config.latent_grid)
