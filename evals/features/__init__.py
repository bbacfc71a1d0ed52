"""Features of images for Fréchet distances and LPIPS: the one place where evaluators touch a network.

``extract("efflite2", images)``: pooled EfficientNet-Lite2 features, under their own name (``fd-efflite2``, never FID).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional

from vgt.core import files
from vgt.models import perceptual

# The network saw 260 px in training.  Here every image is brought to 128 px: four times as fast, and enough for the
# 64 px images of the embedded world.  The size is part of the protocol: distances at other sizes do not compare.
SIDE = 128
NAMES = ("efflite2",)


def protocol(name: str) -> dict:
    """What decides the features besides the images; part of a record's protocol."""
    _check(name)
    return {
        "features": name,
        "weights": _weights_hash(name)[:16],
        "side": SIDE,
        "resize": "bilinear, antialiased, float",
        "layer": "pooled, 1280",
        "input": "(255 x - 127) / 128",
    }


def _check(name: str) -> None:
    if name not in NAMES:
        raise ValueError(f"features {name!r} are unknown; choose one of {', '.join(NAMES)}")


@lru_cache
def _weights_hash(name: str) -> str:
    return files.digest_file(perceptual.weights_path(name))


@lru_cache
def _network(name: str) -> perceptual.FeatureNetwork:
    return perceptual.feature_network(name)


def _tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, H, W] in [0, 1]."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images are {images.dtype} {images.shape}; give uint8 [N, H, W, 3]")
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


@torch.inference_mode()
def extract(name: str, images: np.ndarray, batch: int = 32) -> np.ndarray:
    """uint8 [N, H, W, 3] -> float64 [N, d].  Raises ValueError for an unknown name or missing weights."""
    _check(name)
    network, found = _network(name), []
    for start in range(0, len(images), batch):
        x = _tensor(images[start : start + batch])
        if x.shape[-2:] != (SIDE, SIDE):
            x = functional.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
        found.append(network(x)[1].double().numpy())
    return np.concatenate(found) if found else np.zeros((0, 1280))


def lpips(net: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """LPIPS v0.1 with the backbone "alex" or "vgg" as a function of two uint8 batches -> float64 [N].

    Raises ValueError saying which file is missing and where to put it (spec evaluators 0.7)."""
    distance = perceptual.lpips_distance(net)
    return lambda a, b: distance(_tensor(a), _tensor(b)).double().numpy()


def lpips_available(net: str) -> bool:
    """Whether the backbone file of "alex" or "vgg" is where ``lpips`` looks."""
    return perceptual.find_lpips_backbone(net) is not None
