"""GPU memory of one training step, component by component, from a traced step (arithmetic only).

Weights, gradients, optimizer states and averaged weights are fp32, whatever the autocast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vgt.training.plan.trace import Traced

Strategy = Literal["single", "ddp", "fsdp"]
FP32 = 4  # bytes
COMPONENTS = (
    "weights",
    "gradients",
    "optimizer",
    "ema",
    "frozen networks",
    "buckets",
    "gathered layers",
    "autocast copies",
    "activations",
    "peak buffers",
)


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters: of all trainable_modules, of what trains, of what Muon takes, of what is averaged, of frozen
    networks; of one decoder layer and of all that is in none."""

    weights: int
    trained: int
    muon: int
    averaged: int
    frozen: int
    layer: int
    rest: int


def memory(sizes: Sizes, traced: Traced, strategy: Strategy, processes: int, accumulating: bool) -> dict[str, float]:
    """Bytes per process by component, and ``total``: the highest moment of a step, which is below the sum, since
    gradients come as activations go.

    Two moments compete.  In the backward pass: everything traced, and beside it whole gradients where micro-batches
    are accumulated.  In the optimizer's step: whole gradients and one fp32 copy of them, which the fused AdamW update
    of all tensors at once makes.  DDP keeps its buckets besides, as large as the gradients; FSDP divides what it can
    and gathers the layer in use, the one that comes next, and all that is in no layer."""
    share = processes if strategy == "fsdp" else 1
    gradients = FP32 * sizes.trained / share
    found = dict.fromkeys(COMPONENTS, 0.0) | {
        "weights": FP32 * sizes.weights / share,
        "gradients": gradients,
        "optimizer": FP32 * (2 * sizes.trained - sizes.muon) / share,
        "ema": FP32 * sizes.averaged / share,
        "frozen networks": FP32 * sizes.frozen,
        "autocast copies": traced.autocast,
        "activations": traced.activations,
    }
    if strategy == "ddp":
        found["buckets"] = gradients
    if strategy == "fsdp":
        found["gathered layers"] = FP32 * (sizes.rest + 2 * sizes.layer)
    always = ("weights", "optimizer", "ema", "frozen networks", "buckets", "gathered layers")
    resident = sum(found[name] for name in always)
    backward = traced.peak + (gradients if accumulating else 0)
    update = 2 * gradients
    total = resident + max(backward, update)
    found["peak buffers"] = max(0.0, traced.peak - traced.activations - traced.autocast)
    return found | {"total": total}
