"""From an original and its reconstruction to the two images that are compared (docs/evaluators.md 1.1, 1.2).

A pipeline of evals.recon.protocol, resolved for a model's size.  Where the model has another size than the paper's,
the size of the comparison keeps the paper's ratio, and the record says so.

Shapes: N images, H x W pixels of the model, h x w of the comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from evals.metrics.ssim import SMALLEST
from evals.recon.protocol import DEFAULT_SIZE, PIPELINES

QUANTIZERS = ("round", "half-up", "trunc255", "float")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
_BFLOAT16, _PILLOW = "bfloat16 tensor", "uint8, Pillow"


@dataclass(frozen=True)
class Pipeline:
    """``model_res`` and ``eval_res``: sides in pixels, None where the images given have several; ``ratio``: of eval to
    model; ``nominal``: the paper's sides, where these are others; ``given``: images are taken as they are."""

    id: str
    model_res: int | None
    eval_res: int | None
    ratio: float
    nominal: str | None
    given: bool
    settings: Mapping[str, Any]

    @property
    def resizes(self) -> bool:
        return self.ratio != 1

    def params(self) -> dict[str, Any]:
        """Everything that the pipeline decides, resolved; part of a record's protocol."""
        s = self.settings
        resampling = (s["resampler"], s["antialias"], s["resampled"]) if self.resizes else ("none", None, None)
        several = "several" + (f", times {self.ratio:.4g}" if self.resizes else "")
        return {
            "pipeline": self.id,
            "geometry": "as given" if self.given else s["geometry"],
            "model_res": self.model_res or "several",
            "eval_res": self.eval_res or several,
            "resampler": resampling[0],
            "antialias": resampling[1],
            "resampled": resampling[2],
            "quantize": s["quantize"],
            "quantize_features": s["features"],
            "original": s["original"],
            **({"nominal": self.nominal} if self.nominal else {}),
        }


def resolve(name: str, size: int | None, given: bool = False) -> Pipeline:
    """The pipeline ``name`` for a model of side ``size`` (None: any, so the paper's own), or for two folders of images
    that are taken as they are (``given``; ``size``: their side, None where they have several).

    Raises ValueError for an unknown name and for a comparison below 11 pixels."""
    if name not in PIPELINES:
        raise ValueError(f"reconstruction protocol {name!r} is unknown; choose from {', '.join(PIPELINES)}")
    settings = PIPELINES[name]
    sides, target = settings["model"], settings["eval"]
    if given and not size:
        ratio = target / sides[0] if target else 1.0
        return Pipeline(name, None, None, ratio, f"{sides[0]} -> {target}" if target else None, True, settings)
    model = size or (sides[0] if sides else DEFAULT_SIZE)
    below = max((s for s in sides if s <= model), default=sides[0] if sides else model)
    side = round(model * (target or below) / below)
    if side < SMALLEST:
        raise ValueError(f"protocol {name} compares {model} px images at {side} px; {SMALLEST} or more are needed")
    nominal = f"{below} -> {target}" if sides and model not in sides else None
    return Pipeline(name, model, side, side / model, nominal, given, settings)


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
