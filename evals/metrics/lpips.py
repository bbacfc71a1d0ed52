"""LPIPS v0.1 as a metric (docs/evaluators.md 1.5); the network and its backbone files: vgt/methods/perceptual.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from evals.engine.precision import PRECISION, full_float32
from vgt.methods.perceptual import LPIPS_BACKBONES, load_lpips, lpips_checksum, lpips_file

METRICS = {f"lpips-{net}-v0.1": net for net in LPIPS_BACKBONES}


def protocol(net: str, given: str | Path | None = None) -> dict:
    """What decides the metric besides the images; part of a record's protocol.  Reads the file, builds nothing."""
    return {
        "net": net,
        "version": "0.1",
        "backbone": lpips_checksum(net, lpips_file(net, given))[:16],
        "input": "[-1, 1]",
        "average": "spatial, then over images",
        **PRECISION,
    }


def load(net: str, given: str | Path | None = None, device: str = "cpu") -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS as a function of two float batches [N, 3, H, W] in [0, 1] -> float64 [N].

    Raises ValueError where the backbone file is missing or is not torchvision's."""
    return distance(load_lpips(net, given), device)


def distance(model: nn.Module, device: str = "cpu") -> Callable[[Tensor, Tensor], Tensor]:
    """The function that ``load`` gives, of a network."""
    model = model.to(device)

    @full_float32()
    @torch.inference_mode()
    def between(a: Tensor, b: Tensor) -> Tensor:
        return model(a.float().to(device), b.float().to(device), normalize=True).double().flatten().cpu()

    return between
