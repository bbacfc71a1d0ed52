"""Weights in six bits: 6.125 bits a number in groups of 128 that share an fp16 scale, four numbers in three bytes.

Of five candidate scales each group takes the one with the least squared error.  A matrix whose inputs are nearly equal
says what it says in small differences of large weights, which do not outlive that: those (``EXACT``) stay in fp16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

GROUP = 128
TOP = 31  # numbers are -31 .. 31 times their scale
EXACT = ("time_embed.mlp.0.weight",)  # the features of a time (EXPERIMENTS.md)
SHRINK = (1.0, 0.9, 0.8, 0.7, 0.6)  # candidate scales, as shares of the one that reaches the largest number


def pack(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Any shape with M numbers -> (uint8 [G * 96], fp16 [G]), G = ceil(M / 128) groups in the tensor's own order."""
    flat = tensor.detach().float().flatten()
    groups = F.pad(flat, (0, -len(flat) % GROUP)).view(-1, GROUP)
    reach = groups.abs().amax(1, keepdim=True) / TOP
    best, scale, error = None, None, None
    for share in SHRINK:
        tried = (reach * share).clamp(min=1e-7).half().float()
        levels = (groups / tried).round().clamp(-TOP, TOP)
        lost = (levels * tried - groups).square().sum(1, keepdim=True)
        if best is None:
            best, scale, error = levels, tried, lost
        else:
            better = lost < error
            best, scale, error = (torch.where(better, a, b) for a, b in ((levels, best), (tried, scale), (lost, error)))
    a, b, c, d = (best + 32).to(torch.int32).view(-1, 4).unbind(1)
    words = a | b << 6 | c << 12 | d << 18  # 24 bits
    octets = torch.stack([words & 255, words >> 8 & 255, words >> 16], 1)
    return octets.to(torch.uint8).flatten(), scale.half().flatten()


def unpack(packed: Tensor, scale: Tensor, shape: Sequence[int]) -> Tensor:
    """The fp32 tensor of ``shape`` from what ``pack`` gave.  Raises RuntimeError where the sizes do not fit."""
    low, middle, high = packed.to(torch.int32).view(-1, 3).unbind(1)
    words = low | middle << 8 | high << 16
    levels = torch.stack([words >> shift & 63 for shift in (0, 6, 12, 18)], 1).view(-1, GROUP) - 32
    return (levels * scale.float()[:, None]).flatten()[: math.prod(shape)].view(*shape)
