"""Distances between two sets of images on pluggable features (docs/evaluators.md 1.6-1.8, 6, 7.4).

``EXTRACTORS`` is the one place where the input transform, the layer and the weights of each feature network are
written down; evals/features builds them from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.engine.protocol import Protocol

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
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
_USERS: Mapping[str, tuple[str, ...]] = {
    "tf-compat": ("torch-fidelity", "MAR, JiT and xAR (statistics file)", "closest to ADM's TensorFlow graph"),
    "tf-compat-f64": ("VGT, TiTok: the network itself in float64",),
    "pytorch-fid": ("pytorch-fid", "LightningDiT"),
    "efflite2": ("this project, offline",),
    "efflite0": ("this project, offline",),
    "dinov2": ("FD-DINOv2",),
    "clip": ("CMMD",),
}

_BLOCKS = {"interval": "delete-one-block jackknife, 20 blocks, image i in block i mod 20"}

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        "frechet-unpaired",
        "fidelity",
        "Frechet distance of two sets; fid-<features> on Inception, fd-<features> on any other",
        {"covariance": "N - 1", "precision": "float64 sums", "square root": "symmetric eigenvalues", **_BLOCKS},
        ("gFID of DiT, MAR, VGT", "FID on MJHQ-30K and COCO-30k"),
        "1.6, 7.4",
        "biased upwards by about c/N: compare at equal N only, and use KID below 10,000 images",
    ),
    Protocol(
        "frechet-paired",
        "fidelity",
        "Frechet distance between images and their reconstructions, matched by name (rFID)",
        {"covariance": "N - 1", "precision": "float64 sums", "pairs": "a block leaves both sides at once", **_BLOCKS},
        ("rFID of VGT, LlamaGen, VFMTok",),
        "1.6, 7.4",
        "the reference is the same images with the same crop, never the statistics of a training set",
    ),
    Protocol(
        "frechet-infinity",
        "fidelity",
        "Frechet distance extrapolated to infinitely many generated images",
        {"sizes": "15 subsets from N/10 to N, evenly spaced", "fit": "least squares on 1/N", "seed": 0},
        (),
        "7.4",
        "its own metric, not to be mixed with distances at a fixed N; without an interval",
    ),
    Protocol(
        "sfid",
        "fidelity",
        "Frechet distance on 17 x 17 x 7 spatial features of Inception",
        {"layer": "relu of mixed_6/conv (Mixed_6d.branch1x1), first 7 channels, row, column, channel", **_BLOCKS},
        ("ADM", "DiT", "LlamaGen"),
        "1.7",
    ),
    Protocol(
        "is-10",
        "fidelity",
        "inception score, mean over 10 shuffled splits",
        {"splits": 10, "shuffle": "numpy RandomState(2020)", "logits": "without bias, 1008"},
        ("torch-fidelity",),
        "1.7, 6",
    ),
    Protocol(
        "is-5000",
        "fidelity",
        "inception score, mean over chunks of 5,000 in order",
        {"chunk": 5000, "shuffle": "none: class-sorted images change it", "logits": "without bias, 1008"},
        ("ADM", "LlamaGen", "VFMTok"),
        "1.7",
    ),
    Protocol(
        "is-1",
        "fidelity",
        "inception score over all images at once",
        {"splits": 1, "logits": "without bias, 1008"},
        ("VGT", "TiTok"),
        "1.6",
    ),
    Protocol(
        "kid",
        "fidelity",
        "kernel inception distance, unbiased over all pairs of images",
        {"kernel": "(x.y / d + 1)^3", "estimate": "unbiased", **_BLOCKS},
        ("clean-fid (same kernel)",),
        "6",
        "may be negative when the sets are alike",
    ),
    Protocol(
        "kid-subsets",
        "fidelity",
        "kernel inception distance, mean over random subsets",
        {"kernel": "(x.y / d + 1)^3", "subsets": 100, "size": 1000, "draws": "numpy RandomState(2020)"},
        ("torch-fidelity",),
        "6, 1.8",
        "the spread over subsets is no interval: the subsets overlap",
    ),
    Protocol(
        "precision-recall",
        "fidelity",
        "share of generated images inside a ball of the real ones, and the other way round",
        {"k": 3, "distance": "Euclidean", "radius": "k-th neighbour without self", "edge": "inside"},
        ("ADM (on tf-compat)", "torch-fidelity (VGG16 by default)"),
        "1.7, 6",
        "depends on both numbers of images; the interval takes the other set as given",
    ),
    Protocol(
        "density-coverage",
        "fidelity",
        "real balls around a generated image over k, and share of real balls that hold a generated image",
        {"k": 5, "distance": "Euclidean", "radius": "k-th neighbour without self", "edge": "outside"},
        ("prdc",),
        "6",
        "depends on both numbers of images; the interval takes the other set as given",
    ),
    Protocol(
        "cmmd",
        "fidelity",
        "squared MMD x 1000, Gaussian kernel of width 10, on features scaled to length 1",
        {"kernel": "exp(-|x - y|^2 / 200)", "estimate": "biased (with the diagonal)", "scale": 1000, **_BLOCKS},
        ("CMMD, on CLIP ViT-L/14 at 336 px",),
        "6",
        "CMMD by name only with the features clip; on any other features a distance of its own",
    ),
    *(
        Protocol(f"features-{name}", "fidelity", about["layer"], about, _USERS[name], "1.7", CAUTIONS.get(name, ""))
        for name, about in EXTRACTORS.items()
    ),
)
