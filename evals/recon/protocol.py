"""Reconstruction (docs/evaluators.md 1): whole pipelines (``PIPELINES``) and the metrics that they report.

A pipeline says how an image comes to the model's size, how original and reconstruction come from there to the size at
which they are compared, and what of their 8 bits is kept.  ``own``: what its papers report; every other metric is
measured after the same pipeline and marked as not theirs.  Numbers of two pipelines never compare.  Where the model has
another size than the paper's, the size of the comparison keeps the paper's ratio, and the record says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evals.engine.protocol import Protocol
from evals.recon.metrics import METRICS

DEFAULT = "default"

# side in pixels for a tokenizer that takes any; the synthetic scenes'
DEFAULT_SIZE = 64

# model: sides that the papers feed; eval: the side of the comparison (None: the model's); quantize: of the images that
# PSNR, SSIM and LPIPS see; features: of those that feature networks see.
PIPELINES: dict[str, dict[str, Any]] = {
    DEFAULT: {
        "geometry": "adm-crop", "model": (), "eval": None,
        "resampler": "none", "antialias": None, "resampled": None,
        "quantize": "round", "features": "round", "original": "uint8",
        "own": ("psnr-mean", "psnr-global", "ssim-wang", "lpips-alex-v0.1", "rfid-tf-compat"),
    },
    "vgt": {
        "geometry": "squash", "model": (448,), "eval": 256,
        "resampler": "bilinear", "antialias": False, "resampled": "bfloat16 tensor",
        "quantize": "float", "features": "trunc255",
        "original": "ImageNet mean and std taken off, bfloat16, put on again",
        "own": ("psnr-mean", "ssim-taming", "rfid-tf-compat"),
    },
    "llamagen": {
        "geometry": "adm-crop", "model": (256, 384, 512), "eval": 256,
        "resampler": "bicubic", "antialias": False, "resampled": "float32 tensor",
        "quantize": "half-up", "features": "half-up", "original": "uint8",
        "own": ("psnr-mean", "ssim-taming", "rfid-tf-compat"),
    },
    "vfmtok": {
        "geometry": "adm-crop", "model": (336,), "eval": 256,
        "resampler": "bicubic", "antialias": True, "resampled": "uint8, Pillow",
        "quantize": "half-up", "features": "half-up", "original": "uint8",
        "own": ("psnr-mean", "ssim-taming", "rfid-tf-compat", "codebook-usage"),
    },
    "lightningdit": {
        "geometry": "resize-crop", "model": (256,), "eval": 256,
        "resampler": "none", "antialias": None, "resampled": None,
        "quantize": "half-up", "features": "half-up", "original": "uint8",
        "own": ("psnr-mean", "ssim-tm-signed", "rfid-pytorch-fid"),
    },
}  # fmt: skip

_SUMMARIES = {
    DEFAULT: "at the model's own size, all metrics from the same rounded uint8 images",
    "vgt": "squashed to 448 px, both images shrunk to 256 (bilinear, bfloat16), floats; SSIM with range 2",
    "llamagen": "ADM crop, both images shrunk to 256 where the model is larger (bicubic tensor); SSIM with range 2",
    "vfmtok": "ADM crop at 336 px, both uint8 images to 256 by Pillow's bicubic; SSIM with range 2",
    "lightningdit": "bilinear resize and crop at 256 px; torchmetrics' SSIM; pytorch-fid's Inception",
}
_USERS = {
    "vgt": ("VGT",),
    "llamagen": ("LlamaGen",),
    "vfmtok": ("VFMTok",),
    "lightningdit": ("LightningDiT",),
}
_LOW_PASS = "compared after a low-pass filter on both sides: higher than at the model's own size"
_CAUTIONS = {
    "vgt": f"{_LOW_PASS}; trunc255 lowers a fifth of all levels by one; SSIM inflated by range 2",
    "llamagen": f"{_LOW_PASS} (models above 256 px); SSIM inflated by range 2; ADM's TensorFlow graph is not here",
    "vfmtok": f"{_LOW_PASS}; SSIM inflated by range 2; ADM's TensorFlow graph is not here",
}

PROTOCOLS: tuple[Protocol, ...] = (
    *(
        Protocol(name, "recon", _SUMMARIES[name], settings, _USERS.get(name, ()), "1.1, 1.2", _CAUTIONS.get(name, ""))
        for name, settings in PIPELINES.items()
    ),
    *{metric.protocol.id: metric.protocol for metric in METRICS.values()}.values(),
)


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
    from evals.metrics.pixels import SMALLEST

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
