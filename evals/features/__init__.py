"""Features of images for Fréchet distances and the like: the one place where evaluators touch a network.

``load("tf-compat", weights=PATH)`` -> Extractor; ``extract("efflite2", images)``: pooled features at once.  A distance
goes by the name of its features (``fd-efflite2``); only Inception's is called FID.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from evals.features import efficientnet, inception, vit
from evals.features.efficientnet import SIDE
from evals.features.source import Extractor, Source, canary

SOURCES: dict[str, Source] = {s.id: s for s in (*inception.SOURCES, *efficientnet.SOURCES, *vit.SOURCES)}
NAMES = tuple(SOURCES)
INCEPTION = tuple(s.id for s in inception.SOURCES)

__all__ = [
    "INCEPTION", "NAMES", "SIDE", "SOURCES", "Extractor",
    "canary", "extract", "load", "protocol",
]  # fmt: skip


def _source(name: str) -> Source:
    """The feature network of that name.  Raises ValueError for an unknown one."""
    if name not in SOURCES:
        raise ValueError(f"features {name!r} are unknown; choose one of {', '.join(NAMES)}")
    return SOURCES[name]


def load(name: str, weights: str | Path | None = None, *, any_weights: bool = False, device: str = "cpu") -> Extractor:
    """A feature network by name.  ``weights``: its file or folder (default: see Source.find); ``any_weights``: accept
    another checksum or architecture, which the protocol then says.

    Raises ValueError for an unknown name, and for weights that are missing, wrong or unreadable, with the remedy."""
    _source(name)
    return _loaded(name, None if weights is None else str(weights), any_weights, device)


@lru_cache(maxsize=4)
def _loaded(name: str, weights: str | None, any_weights: bool, device: str) -> Extractor:
    return SOURCES[name].load(weights, any_weights, device)


def protocol(name: str, weights: str | Path | None = None, *, any_weights: bool = False) -> dict:
    """What decides the features besides the images; part of a record's protocol.  Reads the weights, builds nothing."""
    found = _source(name)
    return found.protocol(found.checksum(found.find(weights), any_weights), any_weights)


def extract(name: str | Extractor, images: np.ndarray, batch: int = 32) -> np.ndarray:
    """uint8 [N, H, W, 3] -> pooled features, float64 [N, d], by name or from a loaded extractor.

    Raises ValueError as ``load`` does, and naming the first image whose features are not finite."""
    extractor = load(name) if isinstance(name, str) else name
    if len(images) == 0:
        return np.zeros((0, extractor.dims["pool"]))
    found = [extractor.embed(images[start : start + batch])["pool"] for start in range(0, len(images), batch)]
    features = np.concatenate(found).astype(np.float64)
    if not np.isfinite(features).all():
        where = int(np.argmin(np.isfinite(features).all(1)))
        raise ValueError(f"the {extractor.id} features of image {where} are not finite; check the weights file")
    return features
