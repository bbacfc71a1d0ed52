"""Reconstruction (docs/evaluators.md 1): whole pipelines (``PIPELINES``) and the metrics that they report.

A pipeline says how an image comes to the model's size, how original and reconstruction come from there to the size at
which they are compared, and what of their 8 bits is kept.  ``own``: what its papers report; every other metric is
measured after the same pipeline and marked as not theirs.  Numbers of two pipelines never compare.
"""

from __future__ import annotations

from typing import Any

from evals.engine.protocol import Protocol

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

_CLOSEST = "the same images with the same crop, before and after; never statistics of a training set"

PROTOCOLS: tuple[Protocol, ...] = (
    *(
        Protocol(name, "recon", _SUMMARIES[name], settings, _USERS.get(name, ()), "1.1, 1.2", _CAUTIONS.get(name, ""))
        for name, settings in PIPELINES.items()
    ),
    Protocol(
        "ssim-wang",
        "recon",
        "SSIM, 11x11 Gaussian window sigma 1.5, data range 1 (Wang et al. 2004)",
        {"window": "11x11 Gaussian, sigma 1.5", "covariance": "population", "range": 1.0, "rim": "5 pixels dropped"},
        ("image processing",),
        "1.4",
    ),
    Protocol(
        "ssim-sk",
        "recon",
        "SSIM, 7x7 uniform window, sample covariance, data range 1",
        {"window": "7x7 uniform", "covariance": "sample", "range": 1.0, "rim": "3 pixels dropped"},
        ("scikit-image's defaults with the right range",),
        "1.4",
    ),
    Protocol(
        "ssim-taming",
        "recon",
        "SSIM, 7x7 uniform window, data range 2 on [0, 1] images: inflated",
        {"window": "7x7 uniform", "covariance": "sample", "range": 2.0, "rim": "3 pixels dropped"},
        ("VGT", "LlamaGen", "VFMTok"),
        "1.4",
        "0.05 to 0.23 above ssim-sk: compare within this lineage only",
    ),
    Protocol(
        "ssim-tm",
        "recon",
        "SSIM, 11x11 Gaussian window, all channels, reflect padding (torchmetrics)",
        {"window": "11x11 Gaussian, sigma 1.5", "covariance": "population", "range": 1.0, "rim": "reflected, kept"},
        ("RAE",),
        "1.4",
    ),
    Protocol(
        "ssim-tm-signed",
        "recon",
        "ssim-tm of images in [-1, 1] with data range 2",
        {
            "window": "11x11 Gaussian, sigma 1.5",
            "covariance": "population",
            "range": "(-1, 1)",
            "rim": "reflected, kept",
        },
        ("LightningDiT",),
        "1.4",
        "not ssim-tm: the luminance term is not that of [0, 1] images",
    ),
    Protocol(
        "ssim-y",
        "recon",
        "SSIM, 11x11 Gaussian window, luma only",
        {"window": "11x11 Gaussian, sigma 1.5", "covariance": "population", "range": 1.0, "channels": "BT.601 luma"},
        ("image restoration",),
        "1.4",
    ),
    Protocol(
        "psnr-mean",
        "recon",
        "mean of per-image PSNR, capped at 100 dB",
        {"range": 1.0, "cap": 100.0},
        ("VGT", "LlamaGen", "VFMTok", "RAE", "LightningDiT"),
        "1.3",
    ),
    Protocol(
        "psnr-global",
        "recon",
        "PSNR of the pooled mean squared error",
        {"range": 1.0, "cap": 100.0},
        ("torchmetrics' default",),
        "1.3",
        "never above psnr-mean",
    ),
    *(
        Protocol(
            f"lpips-{net}-v0.1",
            "recon",
            f"LPIPS v0.1 with the {backbone} backbone",
            {"net": net, "version": "0.1", "input": "[-1, 1]", "average": "spatial, then over images"},
            section="1.5",
            caution="alex and vgg differ by a factor of 1.5 to 2",
        )
        for net, backbone in (("alex", "AlexNet"), ("vgg", "VGG16"))
    ),
    Protocol(
        "rfid-tf-compat",
        "recon",
        "rFID on torch-fidelity's port of the 2015 Inception graph",
        {"features": "tf-compat", "reference": _CLOSEST},
        ("VGT", "TiTok", "closest to LlamaGen's and VFMTok's TensorFlow graph"),
        "1.6, 1.7",
    ),
    Protocol(
        "rfid-pytorch-fid",
        "recon",
        "rFID with pytorch-fid's input resampling",
        {"features": "pytorch-fid", "reference": _CLOSEST},
        ("LightningDiT",),
        "1.6, 1.7",
    ),
    Protocol(
        "fd-efflite2",
        "recon",
        "Frechet distance of EfficientNet-Lite2 features; not FID",
        {"features": "efflite2", "reference": _CLOSEST},
        section="1.6",
    ),
    Protocol(
        "fd-efflite0",
        "recon",
        "Frechet distance of EfficientNet-Lite0 features, which a training loss also uses; not FID",
        {"features": "efflite0", "reference": _CLOSEST},
        section="1.6",
        caution="a model trained on these features is flattered",
    ),
    Protocol(
        "codebook",
        "recon",
        "usage, entropy and perplexity of a quantised tokenizer's indices over the whole set",
        {"usage": "distinct indices / codebook size", "entropy": "-sum p log2(p + 1e-8)", "perplexity": "2^entropy"},
        ("VFMTok (usage)", "LlamaGen (usage)"),
        "1.6",
    ),
)
