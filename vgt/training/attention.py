"""Attention as three plain steps, for training on a CPU (EXPERIMENTS.md has the times).

There the backward pass of PyTorch's fused attention takes half of a small model's step, and transformers' "eager" form
goes through fp32 copies of the weights in bf16; the softmax here adds in fp32 inside and writes what it was given.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

PLAIN = "plain"


def plain(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options):
    """softmax(q k^T scaling + mask) v: queries [B, H, q, d], keys and values [B, H / groups, k, d], additive mask
    [B or 1, 1, q, k] -> ([B, q, H, d], None), in the dtype of autocast where it is on.

    Raises ValueError for dropout."""
    if options.get("dropout"):
        raise ValueError(f"attention dropout {options['dropout']} is not in the plain form; set it to 0")
    b, heads, length, d = query.shape
    kind, device = query.dtype, query.device.type
    if torch.is_autocast_enabled(device):
        kind = torch.get_autocast_dtype(device)
    scaling = options.get("scaling")
    with torch.autocast(device, enabled=False):
        query = (query * (d**-0.5 if scaling is None else scaling)).to(kind)
        key, value = key.to(kind), value.to(kind)
        grouped = query.reshape(b, key.shape[1], -1, d)  # the heads that share a key, as further queries
        scores = (grouped @ key.mT).view(b, heads, length, -1)
        if attention_mask is not None:
            scores = scores + attention_mask[..., : key.shape[2]].to(kind)
        mixed = scores.softmax(-1).view(b, key.shape[1], -1, key.shape[2]) @ value
    return mixed.view(b, heads, length, d).transpose(1, 2).contiguous(), None


AttentionInterface.register(PLAIN, plain)
AttentionMaskInterface.register(PLAIN, eager_mask)
