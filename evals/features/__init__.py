"""Features of images for Fréchet distances and the like: the one place where evaluators touch a network.

``load("tf-compat", weights=PATH)`` -> Extractor; ``extract("efflite2", images)``: pooled features at once.  A distance
goes by the name of its features (``fd-efflite2``); only Inception's is called FID.

``EXTRACTORS`` is the one place where the input transform, the layer and the weights of each feature network are
written down; ``evals.features.networks`` builds them from it, and nothing imports torch before it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from evals.engine.images import padded
from evals.engine.precision import PRECISION, full_float32
from vgt.core import files, weights

INCEPTION_SHA256 = weights.PUBLISHED["inception"].sha256
_INCEPTION: dict[str, Any] = {
    "side": 299,
    "layer": "pool, 2048; spatial, first 7 channels of mixed_6/conv, 17 x 17 x 7 = 2023; logits without bias, 1008",
    "file": "weights-inception-2015-12-05-6726825d.pth or pt_inception-2015-12-05-6726825d.pth",
    "sha256": INCEPTION_SHA256,
}
_EFFLITE: dict[str, Any] = {
    "side": 128,
    "resize": "bilinear, antialiased, float",
    "layer": "pooled, 1280",
    "input": "(255 x - 127) / 128",
}
_TF1 = "bilinear on the asymmetric grid of TensorFlow 1, no antialias, float"

EXTRACTORS: dict[str, dict[str, Any]] = {
    "tf-compat": {**_INCEPTION, "resize": _TF1, "input": "(x - 128) / 128 of 0..255", "dtype": "float32"},
    "tf-compat-f64": {**_INCEPTION, "resize": _TF1, "input": "(x - 128) / 128 of 0..255", "dtype": "float64"},
    "pytorch-fid": {
        **_INCEPTION,
        "resize": "bilinear with half-pixel centres, no antialias, float",
        "input": "2 x - 1 of 0..1",
        "dtype": "float32",
    },
    "clean": {
        **_INCEPTION,
        "resize": "Pillow bicubic (antialiased) channel by channel in float32, clipped to 0..255, not rounded",
        "input": "(x - 128) / 128 of 0..255",
        "dtype": "float32",
    },
    "efflite2": {**_EFFLITE},
    "efflite0": {**_EFFLITE},
    "dinov2": {
        "side": 224,
        "resize": "Pillow bicubic (antialiased) to a square, uint8",
        "layer": "class token after the last layer norm, 1024",
        "input": "ImageNet mean and standard deviation",
        "file": "folder dinov2-large of transformers (config.json, model.safetensors)",
        "sha256": None,
    },
    "clip": {
        "side": 336,
        "resize": "bicubic with half-pixel centres, no antialias, float, to a square",
        "layer": "projected image embedding scaled to length 1, 768",
        "input": "CLIP mean and standard deviation",
        "file": "folder clip-vit-large-patch14-336 of transformers (config.json, model.safetensors)",
        "sha256": None,
    },
}

CAUTIONS: Mapping[str, str] = {
    "efflite0": "features that a training loss also uses: a model trained on them is flattered",
}
USERS: Mapping[str, tuple[str, ...]] = {
    "tf-compat": ("torch-fidelity", "MAR, JiT and xAR (statistics file)", "closest to ADM's TensorFlow graph"),
    "tf-compat-f64": ("VGT, TiTok: the network itself in float64",),
    "pytorch-fid": ("pytorch-fid", "LightningDiT"),
    "clean": ("clean-fid's default", "VGT on MJHQ-30K"),
    "efflite2": ("this project, offline",),
    "efflite0": ("this project, offline",),
    "dinov2": ("FD-DINOv2",),
    "clip": ("CMMD",),
}

LARGE = 2**23  # pixels of a batch (32 images of 512 x 512); images of larger ones pass a network one at a time

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
    ``locate``: finds the weights where a package has them."""

    id: str
    build: Callable[[Path, str, bool], tuple[Embed, Mapping[str, int]]]
    names: tuple[str, ...] = ()
    sha256: str | None = None
    locate: Callable[[], Path] | None = None

    def find(self, given: str | Path | None = None) -> Path:
        """The weights: ``given``, else a package's, else by name in $VGT_WEIGHTS or torch.hub's folder.

        Raises ValueError saying which file is missing, its checksum and where to put it."""
        if given is not None:
            if self.locate is not None:
                raise ValueError(f"features {self.id} come with a package; leave the weights {given} out")
            if not Path(given).exists():
                raise ValueError(f"features {self.id}: there is no {given}; it {self._wanted()}")
            return Path(given)
        if self.locate is not None:
            return self.locate()
        import torch.hub

        places = [Path(os.environ["VGT_WEIGHTS"])] if "VGT_WEIGHTS" in os.environ else []
        for place in (*places, Path(torch.hub.get_dir()) / "checkpoints"):
            for name in self.names:
                if (place / name).exists():
                    return place / name
        raise ValueError(
            f"features {self.id} lack their weights: the file {self._wanted()}; "
            f"give it as --weights {self.id}=PATH or put it in a folder and set VGT_WEIGHTS to that; "
            f"{weights.PUBLISHED['inception' if self.sha256 else self.id].text}"
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
        return {"features": self.id, "weights": checksum[:16], **about, **PRECISION, **label}

    def load(self, given: str | Path | None = None, any_weights: bool = False, device: str = "cpu") -> Extractor:
        """The network with its weights checked first.  Raises ValueError as ``find`` and ``checksum`` do."""
        path = self.find(given)
        checksum = self.checksum(path, any_weights)
        embed, dims = self.build(path, device, not any_weights)
        protocol = self.protocol(checksum, any_weights)
        cautions = (CAUTIONS.get(self.id), protocol.get("weights_label"))
        return Extractor(self.id, dims, protocol, "; ".join(c for c in cautions if c), full_float32()(embed))


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
    parts = files.visible(path, "config.json", "*.safetensors")
    return files.digest_json([[p.name, _digest_file(p, p.stat().st_mtime_ns)] for p in parts])


@lru_cache(maxsize=32)
def _digest_file(path: Path, changed: int) -> str:
    del changed  # part of the cache's key
    return files.digest_file(path)


def _build(network: str, name: str) -> Callable[[Path, str, bool], tuple[Embed, Mapping[str, int]]]:
    """The function of evals.features.networks that builds the features ``name``, imported when it is called."""

    def build(path: Path, device: str, strict: bool) -> tuple[Embed, Mapping[str, int]]:
        from evals.features import networks

        return getattr(networks, network)(name, path, device, strict)

    return build


def _packaged(name: str) -> Callable[[], Path]:
    def locate() -> Path:
        from vgt.methods import perceptual

        return perceptual.weights_path(name)

    return locate


INCEPTION = ("tf-compat", "tf-compat-f64", "pytorch-fid", "clean")
INCEPTION_FILES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")
SOURCES: dict[str, Source] = {
    **{name: Source(name, _build("inception", name), INCEPTION_FILES, INCEPTION_SHA256) for name in INCEPTION},
    **{name: Source(name, _build("efficientnet", name), locate=_packaged(name)) for name in ("efflite2", "efflite0")},
    "dinov2": Source("dinov2", _build("dinov2", "dinov2"), ("dinov2-large",)),
    "clip": Source("clip", _build("clip", "clip"), ("clip-vit-large-patch14-336",)),
}
NAMES = tuple(SOURCES)


def _source(name: str) -> Source:
    """The feature network of that name.  Raises ValueError for an unknown one."""
    if name not in SOURCES:
        raise ValueError(f"features {name!r} are unknown; choose one of {', '.join(NAMES)}")
    return SOURCES[name]


def load(name: str, weights: str | Path | None = None, *, any_weights: bool = False, device: str = "cpu") -> Extractor:
    """A feature network by name.  ``weights``: its file or folder (default: see Source.find; of those that come with a
    package none can be given); ``any_weights``: accept
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


def embed(extractor: Extractor, images: np.ndarray, batch: int) -> dict[str, np.ndarray]:
    """At most ``batch`` images of one size, uint8 [N, H, W, 3], through the network in one padded shape, so that no
    feature depends on how many there are; large ones one at a time, which keeps memory small."""
    if batch * images.shape[1] * images.shape[2] <= LARGE:
        return {view: found[: len(images)] for view, found in extractor.embed(padded(images, batch)).items()}
    parts = [extractor.embed(image[None]) for image in images]
    return {view: np.concatenate([part[view] for part in parts]) for view in parts[0]}


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
