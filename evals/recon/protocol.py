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
from evals.recon.metrics import METRICS, SMALLEST

DEFAULT = "default"

# side in pixels for a tokenizer that takes any; the synthetic scenes'
DEFAULT_SIZE = 64

FLOAT, BFLOAT16, UNCLAMPED = "float", "bfloat16", "unclamped"
PILLOW, IMAGES, OWN_CROP = "uint8, Pillow", "8-bit images", "cropped at the size of the comparison"

# model: sides that the papers feed, the usual one first; eval: the side of the comparison (None: the model's);
# resampled: what is resampled, clamped only afterwards; original: as what PSNR, SSIM and LPIPS see it ("uint8": rounded
# as the reconstruction is); quantize: the reconstruction of these metrics; psnr: IMAGES where PSNR is that of the 8-bit
# images of the feature networks; lpips: UNCLAMPED where LPIPS sees what the decoder gives; features: rounding of what
# feature networks see; reference: how their originals come to the size of the comparison (None: as the others); input:
# what the model is given.
PIPELINES: dict[str, dict[str, Any]] = {
    DEFAULT: {
        "geometry": "adm-crop", "model": (), "eval": None,
        "resampler": "none", "antialias": None, "resampled": None,
        "quantize": "round", "features": "round", "original": "uint8",
        "psnr": IMAGES, "lpips": None, "reference": None, "input": "uint8",
        "own": ("psnr-mean", "psnr-global", "ssim-wang", "lpips-alex-v0.1", "rfid-tf-compat"),
    },
    "vgt": {
        "geometry": "squash", "model": (448,), "eval": 256,
        "resampler": "bilinear", "antialias": False,
        "resampled": "the original in bfloat16, the reconstruction in float32, both on [-1, 1]",
        "quantize": FLOAT, "features": "trunc255", "original": BFLOAT16,
        "psnr": None, "lpips": None, "reference": None, "input": BFLOAT16,
        "own": ("psnr-mean", "ssim-taming", "rfid-tf-compat"),
    },
    "llamagen": {
        "geometry": "adm-crop", "model": (256, 384, 512), "eval": 256,
        "resampler": "bicubic", "antialias": False, "resampled": "float32 on [-1, 1]",
        "quantize": "half-up", "features": "half-up", "original": FLOAT,
        "psnr": None, "lpips": None, "reference": OWN_CROP, "input": "uint8",
        "own": ("psnr-mean", "ssim-taming", "rfid-tf-compat"),
    },
    "vfmtok": {
        "geometry": "adm-crop", "model": (336, 256), "eval": 256,
        "resampler": "bicubic", "antialias": True, "resampled": PILLOW,
        "quantize": "half-up", "features": "half-up", "original": "uint8",
        "psnr": IMAGES, "lpips": None, "reference": None, "input": "uint8",
        "own": ("psnr-mean", "ssim-taming", "rfid-tf-compat", "ris-5000-tf-compat", "codebook-usage"),
    },
    "vfmtok-samples": {
        "geometry": "adm-crop", "model": (336, 256), "eval": 256,
        "resampler": "bicubic", "antialias": False, "resampled": "float32 on [-1, 1]",
        "quantize": "half-up", "features": "half-up", "original": "uint8",
        "psnr": IMAGES, "lpips": None, "reference": None, "input": "uint8",
        "own": (),
    },
    "lightningdit": {
        "geometry": "resize-crop", "model": (256,), "eval": 256,
        "resampler": "none", "antialias": None, "resampled": None,
        "quantize": FLOAT, "features": "half-up", "original": FLOAT,
        "psnr": IMAGES, "lpips": UNCLAMPED, "reference": None, "input": FLOAT,
        "own": ("psnr-mean", "ssim-tm-signed", "lpips-vgg-v0.1", "rfid-pytorch-fid"),
    },
}  # fmt: skip

_SUMMARIES = {
    DEFAULT: "at the model's own size, all metrics from the same rounded uint8 images",
    "vgt": "squashed to 448 px, shrunk to 256 (bilinear; the original in bfloat16), floats; SSIM with range 2",
    "llamagen": "ADM crop, shrunk to 256 where the model is larger (bicubic, clamped afterwards), compared with the "
    "float original; SSIM with range 2",
    "vfmtok": "ADM crop at 336 px, both uint8 images to 256 by Pillow's bicubic; SSIM with range 2",
    "vfmtok-samples": "as vfmtok, but both as VFMTok's samples come to 256 px: bicubic of floats without antialiasing, "
    "then 127.5 x + 128, clamped, rounded down",
    "lightningdit": "bilinear resize and crop at 256 px; torchmetrics' SSIM and VGG LPIPS of floats, PSNR and "
    "pytorch-fid's Inception of 8-bit images",
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
    "vfmtok-samples": "of no paper: tells how far VFMTok's two ways of resizing are apart on the same images",
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

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The size at which images of ``height`` x ``width`` are compared."""
        return round(height * self.ratio), round(width * self.ratio)

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
            **{key: s[key] for key in ("psnr", "lpips") if self.id != DEFAULT and s[key]},
            **({"reference": s["reference"]} if self.resizes and s["reference"] else {}),
            **({"nominal": self.nominal} if self.nominal else {}),
        }


def resolve(name: str, size: int | None, given: bool = False, smallest: int = SMALLEST) -> Pipeline:
    """The pipeline ``name`` for a model of side ``size`` (None: any, so the paper's own), or for two folders of images
    that are taken as they are (``given``; ``size``: their side, None where they have several).

    ``smallest``: the side that the metrics need.  Raises ValueError for an unknown name and for a model whose
    comparison is smaller; of given images, those that are too small count as failed."""
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
    if side < smallest and not given:
        raise ValueError(f"protocol {name} compares {model} px images at {side} px; {smallest} or more are needed")
    nominal = f"{below} -> {target}" if sides and model not in sides else None
    return Pipeline(name, model, side, side / model, nominal, given, settings)
