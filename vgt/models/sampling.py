"""What the two decoding loops share: settings, per-image randomness, the cached text prefix."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vgt.core.config import Config
from vgt.equations.order import additive, interleaved_mask, positions
from vgt.models.visual_lm import VisualLM


class Sampling(Config):
    """How images are decoded.  ``acceleration``: tokens per step; ``guidance`` 1 runs conditional rows only;
    ``cfg_schedule`` None takes the method's own (QueryAR falling, MAR rising)."""

    acceleration: int = 1
    guidance: float = 4.5
    cfg_schedule: Literal["falling", "rising", "constant"] | None = None
    flow_steps: int = 30
    sampler: Literal["sde", "ode"] = "sde"
    order: Literal["random", "raster"] = "random"
    mar_schedule: Literal["cosine", "uniform"] = "cosine"


def draws(seeds: list[int], n: int, steps: int, d: int, device, order: str = "random") -> tuple[Tensor, Tensor]:
    """Per-image order [B, n] and noise [B, n, steps, d], each from the image's own generator on the CPU, so an image
    depends neither on its neighbours nor on the device."""
    orders, noises = [], []
    for seed in seeds:
        rng = torch.Generator().manual_seed(seed % 2**63)
        drawn = torch.randperm(n, generator=rng)
        orders.append(drawn if order == "random" else torch.arange(n))
        noises.append(torch.randn(n, steps, d, generator=rng))
    return torch.stack(orders).to(device), torch.stack(noises).to(device)


def start(model: VisualLM, ids: Tensor, mask: Tensor, cache) -> tuple[Tensor, Tensor]:
    """Read the text and start tokens into the cache.  Returns which entries are real [rows, L + s] and the position of
    the first image token [rows, 1]."""
    inputs = model.prefix(ids)
    s = len(model.config.start_ids)
    model.read(inputs, additive(interleaved_mask(mask, s, 0), inputs.dtype), positions(mask, s, 0), cache)
    keys = torch.cat([mask, mask.new_ones(len(mask), s)], 1)
    return keys, keys.sum(1, keepdim=True)
