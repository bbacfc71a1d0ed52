"""Distances between two sets of images on pluggable features (docs/evaluators.md 1.6-1.8, 6, 7.4)."""

from __future__ import annotations

from evals.engine.protocol import Protocol
from evals.features import CAUTIONS, EXTRACTORS, USERS

_BLOCKS = {"interval": "delete-one-block jackknife, 20 blocks, image i in block i mod 20"}

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        "frechet-unpaired",
        "fidelity",
        "Frechet distance of two sets; fid-<features> on Inception, fd-<features> on any other",
        {"covariance": "N - 1", "precision": "float64 sums", "square root": "symmetric eigenvalues", **_BLOCKS},
        ("gFID of DiT, MAR, VGT", "FID on MJHQ-30K and COCO-30k"),
        "1.6, 7.4",
        "biased upwards by about c/N: compare at equal N only, and use KID below 10,000 images; the interval is about "
        "the distance at this N (that of infinitely many images lay in 78 % of them at N = 400)",
    ),
    Protocol(
        "frechet-paired",
        "fidelity",
        "Frechet distance between images and their reconstructions, matched by name (rFID)",
        {"covariance": "N - 1", "precision": "float64 sums", "pairs": "a block leaves both sides at once", **_BLOCKS},
        ("rFID of VGT, LlamaGen, VFMTok",),
        "1.6, 7.4",
        "the reference is the same images with the same crop, never the statistics of a training set; the interval is "
        "about the distance at this N",
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
        Protocol(f"features-{name}", "fidelity", about["layer"], about, USERS[name], "1.7", CAUTIONS.get(name, ""))
        for name, about in EXTRACTORS.items()
    ),
)
