"""A feature network before and after its weights are known, and the checks in between (docs/evaluators.md 0.7, 1.8)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from evals.fidelity.protocol import CAUTIONS, EXTRACTORS
from vgt.core import files

# uint8 [N, H, W, 3] -> {view: float [N, d]}
Embed = Callable[[np.ndarray], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Extractor:
    """A feature network that is ready to run.

    ``dims``: view -> dimensions ("pool" always; Inception also "spatial" and "logits"); ``protocol``: what decides the
    features besides the images; ``caution``: what a reader of such a number must know, "" where nothing;
    ``embed``: uint8 [N, H, W, 3] -> {view: float [N, d]}, one batch at a time."""

    id: str
    dims: Mapping[str, int]
    protocol: Mapping[str, object]
    caution: str
    embed: Embed


@dataclass(frozen=True)
class Source:
    """A feature network by name.

    ``names``: file or folder names that are looked for; ``sha256``: of the file, None where none is published;
    ``build(path, device, strict)`` -> (embed, dims), ``strict``: refuse another architecture;
    ``locate``: finds the weights where a package brings them along."""

    id: str
    build: Callable[[Path, str, bool], tuple[Embed, Mapping[str, int]]]
    names: tuple[str, ...] = ()
    sha256: str | None = None
    locate: Callable[[], Path] | None = None

    def find(self, given: str | Path | None = None) -> Path:
        """The weights: ``given``, else a package's, else by name in $VGT_WEIGHTS or torch.hub's folder.

        Raises ValueError saying which file is missing, its checksum and where to put it."""
        if given is not None:
            if not Path(given).exists():
                raise ValueError(f"features {self.id}: there is no {given}; it {self._wanted()}")
            return Path(given)
        if self.locate is not None:
            return self.locate()
        places = [Path(os.environ["VGT_WEIGHTS"])] if "VGT_WEIGHTS" in os.environ else []
        for place in (*places, Path(torch.hub.get_dir()) / "checkpoints"):
            for name in self.names:
                if (place / name).exists():
                    return place / name
        raise ValueError(
            f"features {self.id} lack their weights: the file {self._wanted()}; "
            f"give it as --weights {self.id}=PATH or put it in a folder and set VGT_WEIGHTS to that"
        )

    def _wanted(self) -> str:
        checksum = f"sha256 {self.sha256}" if self.sha256 else "no published checksum"
        return f"should be {' or '.join(self.names)} ({checksum})"

    def checksum(self, path: Path, any_weights: bool = False) -> str:
        """sha256 of the weights.  Raises ValueError where they are not the published ones, unless ``any_weights``."""
        found = digest(path)
        if self.sha256 and found != self.sha256 and not any_weights:
            raise ValueError(
                f"features {self.id}: {path.name} has sha256 {found[:16]}..., not {self.sha256[:16]}...; get "
                f"{self.names[0]} again, or pass --any-weights to use it under a label"
            )
        return found

    def protocol(self, checksum: str, any_weights: bool = False) -> dict:
        """What decides the features besides the images; part of a record's protocol."""
        about = {k: v for k, v in EXTRACTORS[self.id].items() if k not in ("file", "sha256")}
        label = {"weights_label": "not verified: given with --any-weights"} if any_weights and self.names else {}
        return {"features": self.id, "weights": checksum[:16], **about, **label}

    def load(self, given: str | Path | None = None, any_weights: bool = False, device: str = "cpu") -> Extractor:
        """The network with its weights checked first.  Raises ValueError as ``find`` and ``checksum`` do."""
        path = self.find(given)
        checksum = self.checksum(path, any_weights)
        embed, dims = self.build(path, device, not any_weights)
        protocol = self.protocol(checksum, any_weights)
        cautions = (CAUTIONS.get(self.id), protocol.get("weights_label"))
        return Extractor(self.id, dims, protocol, "; ".join(c for c in cautions if c), embed)


def canary(extractor: Extractor) -> None:
    """Run the network on three synthetic images, the first twice: features must be finite and of the stated sizes,
    equal for equal images and different for different ones.  Raises ValueError where they are not."""
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None] * 4, (64, 64, 3))
    images = np.stack([ramp, ramp.transpose(1, 0, 2), np.full_like(ramp, 128), ramp])
    for view, values in extractor.embed(images).items():
        wrong = values.shape != (4, extractor.dims[view]) or not np.isfinite(values).all()
        scale = np.abs(values).max() + 1e-12
        if wrong or np.abs(values[0] - values[3]).max() > 1e-3 * scale or np.ptp(values[:3], axis=0).max() == 0:
            raise ValueError(
                f"features {extractor.id} fail their canaries (shape {values.shape}, view {view}): the weights are "
                "damaged or belong to another network; get them again"
            )


def digest(path: Path) -> str:
    """sha256 of a file; of a folder, that of the names and hashes of its configuration and safetensors files."""
    if path.is_file():
        return _digest_file(path, path.stat().st_mtime_ns)
    parts = sorted([*path.glob("config.json"), *path.glob("*.safetensors")])
    return files.digest_json([[p.name, _digest_file(p, p.stat().st_mtime_ns)] for p in parts])


@lru_cache(maxsize=32)
def _digest_file(path: Path, changed: int) -> str:
    del changed  # part of the cache's key
    return files.digest_file(path)


def tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, H, W] in [0, 1]."""
    return _channels_first(images).float() / 255


def _channels_first(images: np.ndarray) -> torch.Tensor:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images are {images.dtype} {images.shape}; give uint8 [N, H, W, 3]")
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


def levels(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> uint8 [N, 3, H, W]."""
    return _channels_first(images)
