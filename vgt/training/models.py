"""How a module is made ready for training: its attention, activations computed again, compilation.

On a CPU attention is three plain steps: there the backward pass of PyTorch's fused attention takes half of a small
model's step, and transformers' "eager" form goes through fp32 copies of the weights in bf16; the softmax here adds in
fp32 inside and writes what it was given (EXPERIMENTS.md has the times).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
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


def choose_attention(module: nn.Module, kind: str | None) -> None:
    """Plain matrix products for a "cpu", more than 1.8 times as fast over the whole step; torch's fused kernels for
    "cuda"; None: as it is."""
    if kind is not None:
        for part in module.modules():
            if isinstance(part, PreTrainedModel):
                part.set_attn_implementation(PLAIN if kind == "cpu" else "sdpa")


def checkpointable(module: nn.Module) -> list[PreTrainedModel]:
    """The language models and vision towers whose blocks can be computed twice, outermost ones."""
    parts = [m for m in module.modules() if isinstance(m, PreTrainedModel) and m.supports_gradient_checkpointing]
    within = {id(inner) for part in parts for inner in part.modules() if inner is not part}
    return [part for part in parts if id(part) not in within]


def checkpoint_activations(module: nn.Module, **options) -> None:
    """The blocks of language models and vision towers keep their inputs only and are computed again for the backward
    pass; the gradients are the same.  ``options`` of ``torch.utils.checkpoint.checkpoint``.

    Raises ValueError where there are no such blocks."""
    parts = checkpointable(module)
    if not parts:
        raise ValueError(
            f"train.activation_checkpointing is for models with transformer blocks and {type(module).__name__} has "
            "none here; set it to false"
        )
    for part in parts:
        enable: Callable = getattr(part, "activation_checkpointing_enable", None) or part.gradient_checkpointing_enable
        enable({"use_reentrant": False, **options})


def compile_transformers(module: nn.Module, device: torch.device, **options) -> None:
    """torch.compile, in place, on the language models and vision towers, for any number of rows and tokens.

    Raises ValueError on a CPU without a C++ compiler."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # the one that torch calls
    if device.type == "cpu" and not shutil.which(compiler):
        raise ValueError(
            f"train.compile needs a C++ compiler on a CPU and {compiler} is not found; install g++, or set it to false"
        )
    for part in module.modules():
        inner = (m for m in part.modules() if m is not part)
        if isinstance(part, PreTrainedModel) and not any(isinstance(m, PreTrainedModel) for m in inner):
            part.compile(dynamic=True, **options)
