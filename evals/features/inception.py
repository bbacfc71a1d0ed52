"""The FID Inception network of 2015-12-05, in torch-fidelity's class, from a local weights file (spec 1.7, 1.8).

The variants differ in how an image comes to 299 x 299 and in the network's precision, not in the weights.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from evals.features.source import Embed, Source, levels
from evals.fidelity.protocol import EXTRACTORS, INCEPTION_SHA256

NAMES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")
DIMS = {"pool": 2048, "spatial": 2023, "logits": 1008}
SIDE = (299, 299)
SPATIAL, CHANNELS = "Mixed_6d", 7  # TensorFlow's mixed_6; its first branch is mixed_6/conv


def network(path: str | Path) -> nn.Module:
    """torch-fidelity's network with the weights of ``path``, frozen, float32.

    The file is unpickled as weights only, then handed over in memory: the class itself would run any code in it.
    Raises ValueError for a file that does not fill the network."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        copy = io.BytesIO()
        torch.save(state, copy)
        copy.seek(0)
        with torch.random.fork_rng(devices=[]):
            return FeatureExtractorInceptionV3(
                "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=copy
            )
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"{Path(path).name} does not fill the FID Inception network: {reason[0]}; expected {NAMES[0]}"
        ) from error


def views(net: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Normalised images [N, 3, 299, 299] -> pool [N, 2048], spatial [N, 2023] (row, column, channel as in ADM's
    files), logits without bias [N, 1008].  The class registers its layers in the order of the forward pass."""
    spatial = None
    for name, layer in net.named_children():
        if name == "fc":
            break
        x = layer(x)
        if name == SPATIAL:
            spatial = x[:, :CHANNELS].permute(0, 2, 3, 1).flatten(1)
    assert spatial is not None
    pool = x.flatten(1)
    return {"pool": pool, "spatial": spatial, "logits": pool @ net.fc.weight.T}


def resized(images: torch.Tensor, variant: str) -> torch.Tensor:
    """uint8 [N, 3, H, W] -> the network's input [N, 3, 299, 299] as the variant's protocol says, float32 or float64."""
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    x = images.to(torch.float64 if EXTRACTORS[variant]["dtype"] == "float64" else torch.float32)
    if variant == "pytorch-fid":
        x = functional.interpolate(x / 255, SIDE, mode="bilinear", align_corners=False)
        return 2 * x - 1
    return (interpolate_bilinear_2d_like_tensorflow1x(x, size=SIDE, align_corners=False) - 128) / 128


def _build(variant: str, path: Path, device: str, strict: bool) -> tuple[Embed, Mapping[str, int]]:
    del strict  # loading is strict in any case
    net = network(path).to(device)
    if EXTRACTORS[variant]["dtype"] == "float64":
        net = net.double()

    @torch.inference_mode()
    def embed(images: np.ndarray) -> dict[str, np.ndarray]:
        found = views(net, resized(levels(images).to(device), variant))
        return {name: x.cpu().numpy() for name, x in found.items()}

    return embed, DIMS


SOURCES = tuple(
    Source(name, partial(_build, name), NAMES, INCEPTION_SHA256)
    for name in ("tf-compat", "tf-compat-f64", "pytorch-fid")
)
