"""What a reconstruction is scored on: a tokenizer with a set of images, or two folders of images made elsewhere; and
what a pipeline makes of the two, up to the images that are compared (docs/evaluators.md 1.1, 1.2).

Both sources give, batch by batch, originals and reconstructions of one shape, and name what could not be read.

Shapes: N images, H x W pixels of the model, h x w of the comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from evals.engine.api import Tokenizer, origin
from evals.engine.images import ImageSet, padded, shrink
from evals.features import Extractor, embed
from evals.recon.protocol import BFLOAT16, FLOAT, IMAGES, OWN_CROP, PILLOW, UNCLAMPED, Pipeline
from vgt.core import files, record
from vgt.core import images as reader
from vgt.core.images import SUFFIXES, ImageError, convert, image_size
from vgt.core.listing import folder_name, image_files
from vgt.core.text import printable

QUANTIZERS = ("round", "half-up", "trunc255", FLOAT)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
GROUP_PIXELS = 2**23  # of one shape that are worked on at a time: 32 images of 512 x 512


@runtime_checkable
class Quantized(Protocol):
    """A tokenizer with a codebook of ``codebook_size`` entries."""

    codebook_size: int

    def indices(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> integers [N, T], the codes of each image."""
        ...


@runtime_checkable
class Continuous(Protocol):
    """A tokenizer that can give its pixels before they are clamped and rounded, for protocols that resample them first
    or round in another way.  One with ``takes_floats = True`` is also asked with float32 images in [0, 1], where a
    protocol does not round what the model sees."""

    def reconstruct_float(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> float32 [N, H, W, 3], black 0 and white 1, as the decoder gives them: not clamped."""
        ...


@dataclass(frozen=True)
class Group:
    """Images of one shape: ``positions`` in the source, ``originals`` and ``rebuilt`` [N, H, W, 3], and ``references``,
    all three as ``Compared`` takes them; ``codes``: integers [N, T] of a quantised tokenizer, made when called."""

    positions: list[int]
    originals: np.ndarray
    rebuilt: np.ndarray
    codes: Callable[[], np.ndarray] | None = None
    references: np.ndarray | None = None


@dataclass
class Batch:
    """``groups`` of images, read when it is their turn; ``errors`` and ``converted`` by position, complete when all
    groups were read."""

    groups: Iterator[Group] = field(default_factory=lambda: iter(()))
    errors: dict[int, str] = field(default_factory=dict)
    converted: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Originals and their reconstructions, batch by batch.

    ``identity``: fingerprint of what reconstructed, and ``origin`` whose it is, where that is not the same
    (evals/engine/api.py); ``originals``: of what was reconstructed; ``size``: the side of the images, None where they
    have several; ``largest``: which image has most pixels, and how many; ``given``: they are taken as they are;
    ``batch(positions, size)`` reads the images at ``positions``, ``size`` at a time through a tokenizer."""

    name: str
    suite: str
    ids: Sequence[str]
    clusters: Sequence[str]
    expected: int
    identity: str
    originals: str
    params: Mapping[str, Any]
    size: int | None
    largest: tuple[str, int]
    given: bool
    batch: Callable[[range, int], Batch]
    origin: str | None = None

    @property
    def fingerprint(self) -> str:
        return self.identity


def reconstructed(
    tokenizer: Tokenizer, images: ImageSet, settings: Mapping[str, Any], references: ImageSet | None = None
) -> Source:
    """A tokenizer's reconstructions of a set of images, as the ``settings`` of a pipeline want them: before they are
    clamped and rounded, where it can give them so.  ``references``: the same images at the size of the comparison, for
    a protocol that crops them anew for the feature networks."""
    floats = settings["quantize"] != "round" and isinstance(tokenizer, Continuous)
    make = tokenizer.reconstruct_float if floats else tokenizer.reconstruct
    wanted = np.dtype(np.float32 if floats else np.uint8)
    given = settings["input"] if floats and getattr(tokenizer, "takes_floats", False) else "uint8"
    unrounded = images.floats if settings["original"] == FLOAT else None

    def groups(found: Batch, positions: range, size: int) -> Iterator[Group]:
        """Raises ValueError for a tokenizer that changes shapes."""
        loaded: dict[int, np.ndarray] = {}
        apart: list[np.ndarray] = []
        for i in positions:
            try:
                image = unrounded(i) if unrounded else images.load(i)
                apart += [references.load(i)] if references is not None else []
                loaded[i] = image
            except ValueError as error:
                found.errors[i] = str(error)
                continue
            if kind := images.converted(i):
                found.converted[i] = kind
        if not loaded:
            return
        originals = np.stack(list(loaded.values()))
        fed = padded(_fed(originals, given), size)
        rebuilt = make(fed)[: len(originals)]
        if rebuilt.shape != originals.shape or rebuilt.dtype != wanted:
            raise ValueError(
                f"{tokenizer.name} turned {fed.dtype} {originals.shape} into {rebuilt.dtype} {rebuilt.shape}; "
                f"a tokenizer gives back {wanted.name} images of the same shape"
            )

        def codes() -> np.ndarray:
            return np.asarray(tokenizer.indices(padded(levels(originals, "half-up"), size)))[: len(originals)].reshape(
                len(originals), -1
            )

        of = codes if isinstance(tokenizer, Quantized) else None
        yield Group(list(loaded), originals, rebuilt, of, np.stack(apart) if apart else None)

    def batch(positions: range, size: int) -> Batch:
        found = Batch()
        found.groups = groups(found, positions, size)
        return found

    own = getattr(tokenizer, "params", {})  # its precision, where unusual
    params = {**images.params, **own, "reconstruction": "float" if floats else "uint8"}
    return Source(
        name=tokenizer.name,
        suite=images.name,
        ids=images.ids,
        clusters=images.clusters,
        expected=images.expected,
        identity=tokenizer.fingerprint,
        origin=origin(tokenizer),
        originals=images.fingerprint,
        params=params if given == "uint8" else {**params, "input": given},
        size=tokenizer.size,
        largest=("an image", images.params["size"] ** 2),
        given=False,
        batch=batch,
    )


def _fed(originals: np.ndarray, how: str) -> np.ndarray:
    """Originals as the model is given them: uint8, or float32 in [0, 1], rounded to bfloat16 on [-1, 1] where the
    published model is fed so."""
    if how == "uint8":
        return levels(originals, "half-up")
    x = signed(originals)
    x = ((x.bfloat16().float() if how == BFLOAT16 else x) + 1) / 2
    return x.permute(0, 2, 3, 1).contiguous().numpy()


def folders(real_dir: str | Path, recon_dir: str | Path, named: bool = False) -> Source:
    """Two folders of images matched by their path without suffix, at their own size.  ``named``: they have another name
    than their place gives them (vgt.core.record.place).

    Raises ValueError where one is missing or empty, or where no name is in both."""
    real, rebuilt = image_files(real_dir), image_files(recon_dir)
    if not set(real) & set(rebuilt):
        raise ValueError(
            f"no image of {real_dir} has a counterpart in {recon_dir}: {next(iter(real))}, {next(iter(rebuilt))}, ...; "
            f"the two folders need files of the same names ({', '.join(SUFFIXES)})"
        )
    ids = sorted({*real, *rebuilt})

    def pair(name: str) -> tuple[np.ndarray, np.ndarray, str]:
        for here, there, folder in ((real, rebuilt, recon_dir), (rebuilt, real, real_dir)):
            if name not in there:
                raise ValueError(f"{printable(here[name].name)} has no counterpart in {folder}")
        read = [convert(reader.content(side[name]), side[name].name) for side in (real, rebuilt)]
        a, b = (np.array(image) for image, _ in read)
        if a.shape != b.shape:
            sizes = f"{a.shape[1]}x{a.shape[0]} and {b.shape[1]}x{b.shape[0]}"
            raise ValueError(f"{name}: the two images are {sizes} pixels; resize them to one size first")
        return a, b, " and ".join(dict.fromkeys(kind for _, kind in read if kind))

    def groups(found: Batch, positions: range) -> Iterator[Group]:
        waiting: dict[tuple[int, ...], list[tuple[int, np.ndarray, np.ndarray]]] = {}
        for i in positions:
            try:
                a, b, kinds = pair(ids[i])
            except ValueError as error:
                found.errors[i] = str(error)
                continue
            waiting.setdefault(a.shape, []).append((i, a, b))
            if kinds:
                found.converted[i] = kinds
            if len(waiting[a.shape]) * a.shape[0] * a.shape[1] >= GROUP_PIXELS:
                yield _stacked(waiting.pop(a.shape))
        for members in waiting.values():
            yield _stacked(members)

    def batch(positions: range, size: int) -> Batch:
        found = Batch()
        found.groups = groups(found, positions)
        return found

    hashes = [files.digest_json([(k, reader.digest(p)) for k, p in found.items()]) for found in (real, rebuilt)]
    sizes = _sizes(real)
    sides = {side for size in sizes.values() for side in size}
    side = sides.pop() if len(sides) == 1 else None
    return Source(
        name=f"pairs-{folder_name(recon_dir)}",
        suite="pairs",
        ids=ids,
        clusters=ids,
        expected=len(ids),
        identity=hashes[1],
        originals=hashes[0],
        params={"size": side or "several", "cluster": "image", "reconstruction": "uint8"},
        size=side,
        largest=max(((name, math.prod(size)) for name, size in sizes.items()), key=lambda x: x[1], default=("", 0)),
        given=True,
        batch=batch,
        origin=record.place(recon_dir, named=named),
    )


def _stacked(members: Sequence[tuple[int, np.ndarray, np.ndarray]]) -> Group:
    where, originals, remade = zip(*members, strict=True)
    if len(where) == 1:  # a view: large images are not copied
        return Group(list(where), originals[0][None], remade[0][None])
    return Group(list(where), np.stack(originals), np.stack(remade))


def _sizes(paths: Mapping[str, Path]) -> dict[str, tuple[int, int]]:
    """Width and height of all readable images, from their headers."""
    found = {}
    for name, path in paths.items():
        try:
            found[name] = image_size(path)
        except ImageError:
            continue
    return found


# -------------------------------------------------------------------------------------------------- what is compared


@dataclass(frozen=True)
class Compared:
    """A group as metrics see it, each form made when a metric asks for it.

    ``originals``: uint8, or float32 in [0, 1] before any rounding; ``rebuilt``: uint8, or float32 that may lie outside
    [0, 1]; [N, H, W, 3] both.  ``references``: uint8 [N, h, w, 3], the originals of the feature networks where the
    protocol makes them in another way than the others."""

    pipeline: Pipeline
    originals: np.ndarray
    rebuilt: np.ndarray
    references: np.ndarray | None = None
    _seen: dict[tuple[str, str], dict[str, np.ndarray]] = field(default_factory=dict, repr=False)

    def features(self, network: Extractor, side: str, batch: int) -> dict[str, np.ndarray]:
        """All views of a network on ``side`` ("images_a" or "images_b"), once for the metrics that share them."""
        key = (network.id, side)
        if key not in self._seen:
            self._seen[key] = embed(network, getattr(self, side), batch)
        return self._seen[key]

    @property
    def size(self) -> tuple[int, int]:
        """h and w of the comparison."""
        return self.pipeline.size(*self.originals.shape[1:3])

    @property
    def whole(self) -> bool:
        """Whether PSNR is that of the 8-bit images."""
        return self.pipeline.settings["psnr"] == IMAGES

    @cached_property
    def a(self) -> Tensor:
        """Originals of PSNR, SSIM and LPIPS: float32 [N, 3, h, w], in [0, 1] but for what resampling overshoots."""
        return self._original if self._original_stays_float else _unit(self.images_a)

    @cached_property
    def b(self) -> Tensor:
        """Reconstructions of PSNR and SSIM: float32 [N, 3, h, w] in [0, 1]."""
        same = self._s["quantize"] == self._s["features"]
        return _unit(self.images_b) if same else quantize(self._rebuilt, self._s["quantize"])

    @property
    def b_of_lpips(self) -> Tensor:
        """Reconstructions of LPIPS; LightningDiT's script clamps them for no metric but those of 8 bits."""
        return self._rebuilt if self._s["lpips"] == UNCLAMPED else self.b

    @cached_property
    def images_a(self) -> np.ndarray:
        """Originals of feature networks and judges: uint8 [N, h, w, 3]."""
        if self._pillow:
            return _pillow(levels(self.originals, self._s["features"]), self.size)
        if self.pipeline.resizes and self._s["reference"] == OWN_CROP:
            return self.references if self.references is not None else _shrunk(self.originals, self.size)
        if self.pipeline.resizes or self._s["original"] == BFLOAT16:
            return to_uint8(quantize(self._original, self._s["features"]))
        return levels(self.originals, self._s["features"])

    @cached_property
    def images_b(self) -> np.ndarray:
        """Reconstructions of feature networks and judges: uint8 [N, h, w, 3]."""
        if self._pillow:
            return _pillow(levels(self.rebuilt, self._s["features"]), self.size)
        if self.pipeline.resizes:
            return to_uint8(quantize(self._rebuilt, self._s["features"]))
        return levels(self.rebuilt, self._s["features"])

    @property
    def _s(self) -> Mapping[str, Any]:
        return self.pipeline.settings

    @property
    def _pillow(self) -> bool:
        return self.pipeline.resizes and self._s["resampled"] == PILLOW

    @property
    def _original_stays_float(self) -> bool:
        return self._s["original"] in (FLOAT, BFLOAT16)

    @cached_property
    def _original(self) -> Tensor:
        """At the size of the comparison, before rounding."""
        if self._s["original"] == BFLOAT16:
            return vgt_original(signed(self.originals), self.size)
        return self._to_size(self.originals)

    @cached_property
    def _rebuilt(self) -> Tensor:
        """At the size of the comparison, before clamping and rounding."""
        return self._to_size(self.rebuilt)

    def _to_size(self, images: np.ndarray) -> Tensor:
        if not self.pipeline.resizes:
            return _unit(images)
        return (resample(signed(images), self.size, self._s["resampler"]) + 1) / 2


def compare(
    pipeline: Pipeline, originals: np.ndarray, rebuilt: np.ndarray, references: np.ndarray | None = None
) -> Compared:
    """What the metrics of ``pipeline`` see of originals and reconstructions (see ``Compared``)."""
    return Compared(pipeline, originals, rebuilt, references)


def _unit(images: np.ndarray) -> Tensor:
    """[N, H, W, 3], levels or floats -> float32 [N, 3, H, W], black 0 and white 1."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return x.float().div_(255) if images.dtype == np.uint8 else x.float()


def signed(images: np.ndarray) -> Tensor:
    """The same on [-1, 1], as torchvision's ToTensor and Normalize with 0.5 and 0.5 give it."""
    return (_unit(images) - 0.5).div_(0.5)


def vgt_original(x: Tensor, size: tuple[int, int]) -> Tensor:
    """VGT's originals (docs/evaluators.md 1.1): float32 [N, 3, H, W] on [-1, 1] -> [N, 3, h, w] on [0, 1].

    To bfloat16, bilinear to ``size`` in bfloat16, then in float32 to [0, 1], ImageNet's statistics taken off and put on
    again.  The first alone caps PSNR near 67 dB; the last moves white to 254 where the rounded number falls below 1."""
    x = x.bfloat16() if tuple(x.shape[-2:]) == size else resample(x.bfloat16(), size, "bilinear")
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _STD))
    return ((x.float() + 1) / 2 - mean) / std * std + mean


def resample(x: Tensor, size: tuple[int, int], kernel: str) -> Tensor:
    """[N, 3, H, W] -> [N, 3, h, w] of the same dtype, without antialiasing, corners not aligned; not clamped: a cubic
    kernel overshoots.

    Summed in float64 and rounded once, as GPUs round sums in bfloat16: torch's kernels for CPUs give other last bits
    with one thread than with two.  Plane by plane, which keeps the float64 copies small."""
    planes = x.flatten(0, 1)[:, None, None]
    made = [
        functional.interpolate(p.double(), size, mode=kernel, align_corners=False, antialias=False).to(x.dtype)
        for p in planes
    ]
    return torch.stack(made).view(*x.shape[:2], *size)


def _pillow(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [N, H, W, 3] -> uint8 [N, h, w, 3] by Pillow's antialiased bicubic filter."""
    resized = [Image.fromarray(x).resize(size[::-1], Image.Resampling.BICUBIC) for x in images]
    return np.stack([np.asarray(x) for x in resized])


def _shrunk(originals: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [N, H, W, 3] -> [N, h, w, 3] as ADM's crop shrinks an image of that shape."""
    return np.stack([np.asarray(shrink(Image.fromarray(image), size[::-1])) for image in originals])


def quantize(x: Tensor, how: str) -> Tensor:
    """float32, [0, 1] and what lies beyond -> levels / 255 within [0, 1] by one of QUANTIZERS (docs/evaluators.md 1.2),
    written as their users do, on [-1, 1]: float noise is what makes ``trunc255`` lose a level."""
    if how == FLOAT:
        return x.clamp(0, 1)
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


def levels(images: np.ndarray, how: str) -> np.ndarray:
    """[N, H, W, 3], levels or floats -> uint8.  Levels stay what they are but for ``trunc255``."""
    if images.dtype == np.uint8 and how in ("round", "half-up"):
        return images
    return to_uint8(quantize(_unit(images), how))


def to_uint8(x: Tensor) -> np.ndarray:
    """Levels / 255 [N, 3, h, w] -> uint8 [N, h, w, 3]."""
    return (x * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
