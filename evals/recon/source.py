"""What a reconstruction is scored on: a tokenizer with a set of images, or two folders of images made elsewhere; and
what a pipeline makes of the two, up to the images that are compared (docs/evaluators.md 1.1, 1.2).

Both sources give, batch by batch, originals and reconstructions of one shape, and name what could not be read.

Shapes: N images, H x W pixels of the model, h x w of the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from evals.engine.api import Tokenizer
from evals.engine.images import EXTENSIONS, ImageSet, image_files, padded
from evals.recon.protocol import Pipeline
from vgt.core import files
from vgt.core.images import ImageError, convert, image_size

QUANTIZERS = ("round", "half-up", "trunc255", "float")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_BFLOAT16, _PILLOW = "bfloat16 tensor", "uint8, Pillow"


@runtime_checkable
class Quantized(Protocol):
    """A tokenizer with a codebook of ``codebook_size`` entries."""

    codebook_size: int

    def indices(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> integers [N, T], the codes of each image."""
        ...


@runtime_checkable
class Continuous(Protocol):
    """A tokenizer that can give its pixels before they are rounded, for protocols that round in another way."""

    def reconstruct_float(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> float32 [N, H, W, 3] in [0, 1]."""
        ...


@dataclass(frozen=True)
class Group:
    """Images of one shape: ``positions`` in the source, uint8 ``originals`` and uint8 or float ``rebuilt``
    [N, H, W, 3]; ``codes``: integers [N, T] of a quantised tokenizer, made when called."""

    positions: list[int]
    originals: np.ndarray
    rebuilt: np.ndarray
    codes: Callable[[], np.ndarray] | None = None


@dataclass
class Batch:
    """``groups`` of images that were read; ``errors`` and ``converted`` by position."""

    groups: list[Group] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    converted: dict[int, str] = field(default_factory=dict)


class Source(Protocol):
    """``fingerprint``: of what was reconstructed and of what reconstructed it; ``originals``: of the first alone;
    ``identity``: the fingerprint of the subject by itself."""

    name: str
    suite: str
    ids: Sequence[str]
    clusters: Sequence[str]
    expected: int
    identity: str
    originals: str
    params: dict[str, Any]
    size: int | None
    given: bool

    def batch(self, positions: range, size: int) -> Batch: ...


@dataclass(frozen=True)
class Reconstructed:
    """A tokenizer's reconstructions of a set of images; ``float_pixels``: before they are rounded, where it can."""

    tokenizer: Tokenizer
    images: ImageSet
    float_pixels: bool = False
    given: bool = False

    @property
    def name(self) -> str:
        return self.tokenizer.name

    @property
    def suite(self) -> str:
        return self.images.name

    @property
    def ids(self) -> Sequence[str]:
        return self.images.ids

    @property
    def clusters(self) -> Sequence[str]:
        return self.images.clusters

    @property
    def expected(self) -> int:
        return self.images.expected

    @property
    def identity(self) -> str:
        return self.tokenizer.fingerprint

    @property
    def originals(self) -> str:
        return self.images.fingerprint

    @property
    def params(self) -> dict[str, Any]:
        return {**self.images.params, "reconstruction": "float" if self._floats else "uint8"}

    @property
    def size(self) -> int | None:
        return self.tokenizer.size

    @property
    def _floats(self) -> bool:
        return self.float_pixels and isinstance(self.tokenizer, Continuous)

    def batch(self, positions: range, size: int) -> Batch:
        """Raises ValueError for a tokenizer that changes shapes."""
        found, loaded = Batch(), {}
        for i in positions:
            try:
                loaded[i] = self.images.load(i)
            except ValueError as error:
                found.errors[i] = str(error)
            kind = self.images.converted(i) if i in loaded else None
            if kind:
                found.converted[i] = kind
        if loaded:
            originals = np.stack(list(loaded.values()))
            fed = padded(originals, size)
            make = self.tokenizer.reconstruct_float if self._floats else self.tokenizer.reconstruct
            rebuilt = make(fed)[: len(originals)]
            wanted = np.float32 if self._floats else np.uint8
            if rebuilt.shape != originals.shape or rebuilt.dtype != wanted:
                raise ValueError(
                    f"{self.name} turned uint8 {originals.shape} into {rebuilt.dtype} {rebuilt.shape}; "
                    f"a tokenizer gives back {np.dtype(wanted).name} images of the same shape"
                )
            codes = (
                partial(_codes, self.tokenizer, fed, len(originals)) if isinstance(self.tokenizer, Quantized) else None
            )
            found.groups.append(Group(list(loaded), originals, rebuilt, codes))
        return found


def _codes(tokenizer: Quantized, fed: np.ndarray, n: int) -> np.ndarray:
    codes = np.asarray(tokenizer.indices(fed))[:n]
    return codes.reshape(n, -1)


@dataclass(frozen=True)
class Folders:
    """Two folders of images matched by their path without suffix, at their own size."""

    name: str
    real: dict[str, Path]
    rebuilt: dict[str, Path]
    places: tuple[str, str]
    originals: str
    identity: str
    size: int | None
    suite: str = "pairs"
    given: bool = True

    @cached_property
    def ids(self) -> Sequence[str]:
        return sorted({*self.real, *self.rebuilt})

    @property
    def clusters(self) -> Sequence[str]:
        return self.ids

    @property
    def expected(self) -> int:
        return len(self.ids)

    @property
    def params(self) -> dict[str, Any]:
        return {"size": self.size or "several", "cluster": "image", "reconstruction": "uint8"}

    def batch(self, positions: range, size: int) -> Batch:
        found = Batch()
        shapes: dict[tuple[int, ...], list[tuple[int, np.ndarray, np.ndarray]]] = {}
        for i in positions:
            try:
                a, b, kinds = self._pair(self.ids[i])
            except ValueError as error:
                found.errors[i] = str(error)
                continue
            shapes.setdefault(a.shape, []).append((i, a, b))
            if kinds:
                found.converted[i] = kinds
        for members in shapes.values():
            where, originals, rebuilt = zip(*members, strict=True)
            found.groups.append(Group(list(where), np.stack(originals), np.stack(rebuilt)))
        return found

    def _pair(self, name: str) -> tuple[np.ndarray, np.ndarray, str]:
        for here, there, folder in (
            (self.real, self.rebuilt, self.places[1]),
            (self.rebuilt, self.real, self.places[0]),
        ):
            if name not in there:
                raise ValueError(f"{here[name].name} has no counterpart in {folder}")
        read = [convert(side[name].read_bytes(), side[name].name) for side in (self.real, self.rebuilt)]
        a, b = (np.asarray(image) for image, _ in read)
        if a.shape != b.shape:
            sizes = f"{a.shape[1]}x{a.shape[0]} and {b.shape[1]}x{b.shape[0]}"
            raise ValueError(f"{name}: the two images are {sizes} pixels; resize them to one size first")
        return a, b, " and ".join(dict.fromkeys(kind for _, kind in read if kind))


def folders(real_dir: str | Path, recon_dir: str | Path) -> Folders:
    """Two folders of images.  Raises ValueError where one is missing or empty, or where no name is in both."""
    real, rebuilt = image_files(real_dir), image_files(recon_dir)
    if not set(real) & set(rebuilt):
        raise ValueError(
            f"no image of {real_dir} has a counterpart in {recon_dir}: {next(iter(real))}, {next(iter(rebuilt))}, ...; "
            f"the two folders need files of the same names ({', '.join(EXTENSIONS)})"
        )
    hashes = [files.digest_json([(k, files.digest_file(p)) for k, p in found.items()]) for found in (real, rebuilt)]
    name = f"pairs-{Path(recon_dir).resolve().name}"
    return Folders(name, real, rebuilt, (str(real_dir), str(recon_dir)), *hashes, _common_side(real))


def _common_side(real: dict[str, Path]) -> int | None:
    """The side of all readable images where they are squares of one size."""
    sizes = set()
    for path in real.values():
        try:
            sizes.add(image_size(path))
        except ImageError:
            continue
    width, height = sizes.pop() if len(sizes) == 1 else (0, 1)
    return width if width == height else None


# -------------------------------------------------------------------------------------------------- what is compared


@dataclass(frozen=True)
class Compared:
    """Original ``a`` and reconstruction ``b`` as PSNR, SSIM and LPIPS see them (float32 [N, 3, h, w] in [0, 1]), and
    as feature networks and judges see them (uint8 [N, h, w, 3]); ``same``: whether these are the same pixels."""

    a: Tensor
    b: Tensor
    images_a: np.ndarray
    images_b: np.ndarray
    same: bool


def compare(pipeline: Pipeline, originals: np.ndarray, rebuilt: np.ndarray) -> Compared:
    """uint8 originals and uint8 (or float in [0, 1]) reconstructions, [N, H, W, 3] both."""
    s = pipeline.settings
    images = [_original(_unit(originals), s["original"]), _unit(rebuilt)]
    height, width = originals.shape[1:3]
    size = (round(height * pipeline.ratio), round(width * pipeline.ratio))
    if pipeline.resizes and s["resampled"] == _PILLOW:
        imgs = [_pillow(to_uint8(quantize(x, s["quantize"])), size) for x in images]
        seen = [_unit(p) for p in imgs]
        return Compared(*seen, *imgs, same=True)
    if pipeline.resizes:
        images = [resample(x, size, s["resampler"], s["resampled"] == _BFLOAT16) for x in images]
    images = [x.float() for x in images]
    seen = [quantize(x, s["quantize"]) for x in images]
    same = s["features"] == s["quantize"]
    shown = seen if same else [quantize(x, s["features"]) for x in images]
    return Compared(*seen, *(to_uint8(x) for x in shown), same=same)


def _unit(images: np.ndarray) -> Tensor:
    """[N, H, W, 3], uint8 or float in [0, 1] -> float32 [N, 3, H, W] in [0, 1]."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return x.float() / 255 if images.dtype == np.uint8 else x.float().clamp(0, 1)


def _original(x: Tensor, how: str) -> Tensor:
    return x if how == "uint8" else normalized_and_back(x)


def normalized_and_back(x: Tensor) -> Tensor:
    """VGT's originals: ImageNet's mean and std taken off, bfloat16, put on again.  That alone caps PSNR at 67 dB."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _STD))
    return (((x - mean) / std).bfloat16() * std + mean).clamp(0, 1)


def resample(x: Tensor, size: tuple[int, int], kernel: str, bfloat16: bool = False) -> Tensor:
    """[N, 3, H, W] -> [N, 3, h, w] without antialiasing, corners not aligned, within [0, 1].

    ``bfloat16``: of bfloat16 numbers, rounded to bfloat16 once, as GPUs do.  Summed in float64: torch's kernels for
    CPUs give other last bits with one thread than with two, and in bfloat16 these are 0.004 of the range."""
    x = (x.bfloat16() if bfloat16 else x).double()
    x = functional.interpolate(x, size, mode=kernel, align_corners=False, antialias=False)
    return (x.bfloat16() if bfloat16 else x).float().clamp(0, 1)


def _pillow(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [N, H, W, 3] -> uint8 [N, h, w, 3] by Pillow's antialiased bicubic filter."""
    resized = [Image.fromarray(p).resize(size[::-1], Image.Resampling.BICUBIC) for p in images]
    return np.stack([np.asarray(p) for p in resized])


def quantize(x: Tensor, how: str) -> Tensor:
    """float32 in [0, 1] -> levels / 255 by one of QUANTIZERS (docs/evaluators.md 1.2), written as their users do, on
    [-1, 1]: float noise is what makes ``trunc255`` lose a level."""
    if how == "float":
        return x
    signed = (2 * x - 1).clamp(-1, 1)
    if how == "round":
        levels = (255 * (signed + 1) / 2).round()
    elif how == "half-up":
        levels = (127.5 * signed + 128).clamp(0, 255).floor()
    elif how == "trunc255":
        levels = ((signed + 1) / 2 * 255).floor()
    else:
        raise ValueError(f"quantisation {how!r} is unknown; choose one of {', '.join(QUANTIZERS)}")
    return levels / 255


def to_uint8(x: Tensor) -> np.ndarray:
    """Levels / 255 [N, 3, h, w] -> uint8 [N, h, w, 3]."""
    return (x * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
