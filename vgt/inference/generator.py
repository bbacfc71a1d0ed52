"""Text to pictures with a VisualLM and its autoencoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vgt.inference.pictures import to_uint8
from vgt.models import mar, query_ar
from vgt.models.sampling import Sampling
from vgt.models.visual_lm import tokenize

METHODS = {"query_ar": query_ar.generate, "mar": mar.generate}


@torch.no_grad()
def generate(
    model, ae, tokenizer, prompts: Sequence[str], seeds: Sequence[int], settings: Sampling, on_step=None
) -> np.ndarray:
    """One picture per prompt and seed: uint8 [N, H, W, 3].  Rows are one batch."""
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds; give one seed per prompt")
    device = next(model.parameters()).device
    rows: list[str | None] = list(prompts) + ([None] * len(prompts) if settings.guidance != 1 else [])
    ids, mask = tokenize(tokenizer, rows, device)
    latents = METHODS[model.config.method](model, ids, mask, list(seeds), settings, on_step)
    h, w = model.config.latent_grid
    return to_uint8(ae.decode(latents.mT.reshape(len(seeds), -1, h, w)))
