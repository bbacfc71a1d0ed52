"""Text to pictures with a VisualLM and its autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vgt.inference.pictures import to_uint8
from vgt.models import mar, query_ar, reference
from vgt.models.sampling import Sampling, usual
from vgt.models.visual_lm import tokenize

__all__ = ["METHODS", "Sampling", "generate", "latents", "method", "usual"]

METHODS = {"query_ar": query_ar.generate, "mar": mar.generate}


def method(name: str, settings: Sampling) -> Callable[..., Tensor]:
    """The decoding loop of a generator's method.  Raises ValueError for ``compat`` where nothing was published."""
    settings.check_method(name)
    return METHODS[name] if settings.compat == "none" else reference.generate


@torch.no_grad()
def generate(
    model, ae, tokenizer, prompts: Sequence[str], seeds: Sequence[int], settings: Sampling, on_step=None
) -> np.ndarray:
    """One picture per prompt and seed: uint8 [N, H, W, 3].  Rows are one batch."""
    x = ae.decode(latents(model, tokenizer, prompts, seeds, settings, on_step))
    return to_uint8(x) if settings.compat == "none" else reference.pixels(x).cpu().numpy()


@torch.no_grad()
def latents(model, tokenizer, prompts: Sequence[str], seeds: Sequence[int], settings: Sampling, on_step=None) -> Tensor:
    """What the autoencoder is to decode: fp32 [N, d_z, h, w], one per prompt and seed."""
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds; give one seed per prompt")
    decode = method(model.config.method, settings)
    device = next(model.parameters()).device
    rows: list[str | None] = list(prompts) + ([None] * len(prompts) if settings.guidance != 1 else [])
    ids, mask = tokenize(tokenizer, rows, device)
    z = decode(model, ids, mask, list(seeds), settings, on_step)
    return z.mT.reshape(len(seeds), -1, *model.config.latent_grid)
