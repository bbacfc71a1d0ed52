"""Fidelity metrics against torch-fidelity, scipy, scikit-learn and plain loops."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from parity import Check


def _relative(ours, reference) -> float:
    ours, reference = np.atleast_1d(ours).astype(np.float64), np.atleast_1d(reference).astype(np.float64)
    return float((np.abs(ours - reference) / np.maximum(np.abs(reference), 1e-12)).max())


@lru_cache(maxsize=1)
def _features() -> tuple[np.ndarray, np.ndarray]:
    """Correlated features float64 [1200, 24], [1100, 24]."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(24, 24)) / 5
    return rng.normal(size=(1200, 24)) @ mix, rng.normal(size=(1100, 24)) @ mix * 1.2 + 0.1


def _blocks(x: np.ndarray) -> np.ndarray:
    return np.arange(len(x)) % 20


# ------------------------------------------------------------------------------------------ Frechet distance


def frechet_torch_fidelity() -> float:
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    from evals.metrics import frechet

    a, b = _features()
    sides = [{"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)} for x in (a, b)]
    reference = fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"]
    parts = [[frechet.moments(x[_blocks(x) == k]) for k in range(20)] for x in (a, b)]
    return _relative(frechet.blocks_jackknife(*parts).value, reference)


def frechet_sqrtm() -> float:
    from scipy import linalg

    from evals.metrics import frechet

    a, b = _features()
    sigma_a, sigma_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    shift, root = a.mean(0) - b.mean(0), linalg.sqrtm(sigma_a @ sigma_b)
    reference = shift @ shift + np.trace(sigma_a) + np.trace(sigma_b) - 2 * np.trace(root).real
    return _relative(frechet.from_moments(frechet.moments(a), frechet.moments(b)), reference)


# ------------------------------------------------------------------------- from images, through torch-fidelity


def registered(name: str, network: Callable) -> str:
    """``name`` of an extractor registered with torch-fidelity: uint8 [N, 3, H, W] -> [N, d] by ``network``."""
    from torch_fidelity import register_feature_extractor
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    class Tiny(FeatureExtractorBase):
        def __init__(self, name, features_list, **kwargs):
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list():
            return ("pooled",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "pooled"

        @staticmethod
        def can_be_compiled():
            return False

        @staticmethod
        def get_dummy_input_for_compile():
            return None

        def forward(self, images):
            return (network(images),)

    if name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(name, Tiny)
    return name


def tiny_network(images):
    """uint8 [N, 3, H, W] -> float32 [N, 12]: one random convolution, pooled."""
    import torch

    kernel = torch.randn(12, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.conv2d(images.float() / 255, kernel, stride=2).relu().mean((2, 3)) * 4


def _tiny_extractor() -> str:
    # In float64: torch-fidelity's float32 means would be what differs.
    return registered("vgt-check-tiny", lambda images: tiny_network(images).double())


def _image_sets() -> list[np.ndarray]:
    """uint8 [1040, 8, 8, 3] and [1000, 8, 8, 3]."""
    rng = np.random.default_rng(1)
    tops = (256, 200)
    return [rng.integers(0, top, (n, 8, 8, 3)).astype(np.uint8) for top, n in zip(tops, (1040, 1000), strict=True)]


@lru_cache(maxsize=1)
def _calculated() -> dict:
    """What torch-fidelity's calculate_metrics says of the two sets with the tiny extractor."""
    import torch
    import torch_fidelity

    class Images(torch.utils.data.Dataset):
        def __init__(self, images):
            self.images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

        def __len__(self):
            return len(self.images)

        def __getitem__(self, i):
            return self.images[i]

    first, second = map(Images, _image_sets())
    return torch_fidelity.calculate_metrics(
        input1=first, input2=second, fid=True, isc=True, kid=True, prc=True, kid_subsets=5,
        feature_extractor=_tiny_extractor(), cuda=False, verbose=False, cache=False, save_cpu_ram=True, batch_size=100,
    )  # fmt: skip


@lru_cache(maxsize=1)
def _collected() -> dict:
    """Our moments and features of the same images, streamed to disk block by block."""
    import torch

    from evals.engine.images import ImageSet
    from evals.features import Extractor
    from evals.fidelity.evidence import FEATURES, MOMENTS, Evidence

    def embed(images: np.ndarray) -> dict[str, np.ndarray]:
        return {"pool": tiny_network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()}

    extractor = Extractor("tiny", {"pool": 12}, {"features": "tiny", "weights": "0"}, "", embed)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for side, imgs in zip(("generated", "real"), _image_sets(), strict=True):
            names = tuple(f"{i:04d}" for i in range(len(imgs)))
            images = ImageSet(side, names, names, imgs.__getitem__, len(names), side, {"geometry": "none"})
            evidence = Evidence(images, extractor, Path(folder), 100)
            evidence.collect({(MOMENTS, "pool"), (FEATURES, "pool")})
            found[side] = evidence.moments("pool"), evidence.features("pool"), evidence.block_of
    return found


def images_fid() -> float:
    from evals.metrics import frechet

    found = _collected()
    value = frechet.blocks_jackknife(found["generated"][0], found["real"][0]).value
    return _relative(value, _calculated()["frechet_inception_distance"])


def images_inception_score() -> float:
    from evals.metrics import entropy

    _, logits, blocks = _collected()["generated"]
    value, spread = entropy.inception_score(logits, "is-10", blocks)
    calculated = _calculated()
    return _relative([value.value, spread], [calculated["inception_score_mean"], calculated["inception_score_std"]])


def images_precision_recall() -> float:
    from evals.metrics import manifold

    found = _collected()
    ours = [x.mean() for x in manifold.precision_recall(found["generated"][1], found["real"][1])]
    return float(np.abs(np.subtract(ours, [_calculated()["precision"], _calculated()["recall"]])).max())


# --------------------------------------------------------------------------------------------- on features


def kid_torch_fidelity() -> float:
    import torch
    from torch_fidelity.metric_kid import kid_features_to_metric

    from evals.metrics import kernel

    a, b = _features()
    reference = kid_features_to_metric(torch.from_numpy(a), torch.from_numpy(b), kid_subsets=10, verbose=False)
    found = [reference["kernel_inception_distance_mean"], reference["kernel_inception_distance_std"]]
    return _relative(kernel.kid_subsets(a, b, subsets=10), found)


def kid_scikit_learn() -> float:
    from sklearn.metrics.pairwise import polynomial_kernel

    from evals.metrics import kernel

    a, b = _features()

    def mmd(x, y):
        xx, yy, xy = polynomial_kernel(x), polynomial_kernel(y), polynomial_kernel(x, y)
        within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (xx, yy)]
        return sum(within) - 2 * xy.mean()

    found = kernel.kid(a, b, _blocks(a), _blocks(b))
    reference = [mmd(a, b), *(mmd(a[_blocks(a) != k], b[_blocks(b) != k]) for k in (0, 19))]
    return _relative([found.value, found.replicates[0], found.replicates[19]], reference)


def cmmd_scikit_learn() -> float:
    from sklearn.metrics.pairwise import rbf_kernel
    from sklearn.preprocessing import normalize

    from evals.metrics import kernel

    a, b = (normalize(x) for x in _features())
    xx, yy, xy = (rbf_kernel(*pair, gamma=1 / 200).mean() for pair in ((a, a), (b, b), (a, b)))
    found = kernel.cmmd(*_features(), _blocks(a), _blocks(b)).value
    return _relative(found, 1000 * (xx + yy - 2 * xy))


def inception_score_loops() -> float:
    from evals.metrics import entropy

    logits = np.random.default_rng(2).normal(size=(6001, 7)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    def score(chunk):
        q = chunk.mean(0)
        return np.exp(np.mean([(row * (np.log(row) - np.log(q))).sum() for row in chunk]))

    blocks = _blocks(logits)
    ours = [entropy.inception_score(logits, variant, blocks)[0].value for variant in ("is-1", "is-5000")]
    return _relative(ours, [score(p), np.mean([score(p[:5000]), score(p[5000:])])])


def precision_recall_torch_fidelity() -> float:
    import torch
    from torch_fidelity.metric_prc import prc_features_to_metric

    from evals.metrics import manifold

    a, b = _features()
    reference = prc_features_to_metric(torch.from_numpy(a), torch.from_numpy(b), verbose=False)
    ours = [x.mean() for x in manifold.precision_recall(a, b, tile=500)]
    return float(np.abs(np.subtract(ours, [reference["precision"], reference["recall"]])).max())


def density_coverage_loops() -> float:
    from evals.metrics import manifold

    a, b = (x[:150] for x in _features())
    reach = [sorted(np.linalg.norm(y - x) for y in b)[5] for x in b]  # the nearest is itself
    density = [sum(np.linalg.norm(x - y) < r for y, r in zip(b, reach, strict=True)) / 5 for x in a]
    covered = [any(np.linalg.norm(x - y) < r for x in a) for y, r in zip(b, reach, strict=True)]
    ours = manifold.density_coverage(a, b, tile=64)
    return float(max(np.abs(ours[0] - density).max(), np.abs(ours[1] ^ covered).max()))


def inception_layers() -> float:
    """Our walk through the layers against the class's own forward, with random weights of the real shapes."""
    import torch

    from evals.features import inception

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = random_inception()
    images = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (2, 3, 40, 56)).astype(np.uint8))
    with torch.inference_mode():
        reference = net(images)
        found = inception.views(net, inception.resized(images, "tf-compat"))
    return max(_relative(found[k].numpy(), r.numpy()) for k, r in zip(("pool", "logits"), reference, strict=True))


def random_inception():
    """torch-fidelity's Inception as it is drawn, without a weights file."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Drawn(FeatureExtractorInceptionV3):
        def load_state_dict(self, state, strict=True):
            """Keep the weights as they were drawn."""

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    return Drawn("inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=empty)


_FEATURES = "1,200 and 1,100 correlated features of 24 dimensions"
_IMAGES = "1,040 and 1,000 random images of 8 px, a registered random convolution"
CHECKS: tuple[Check, ...] = (
    Check(
        "frechet-unpaired", "torch-fidelity fid_statistics_to_metric", _FEATURES, "relative", 1e-9,
        frechet_torch_fidelity,
    ),
    Check("frechet-unpaired", "scipy.linalg.sqrtm", _FEATURES, "relative", 1e-9, frechet_sqrtm),
    Check("frechet-unpaired", "torch-fidelity calculate_metrics", _IMAGES, "relative", 1e-6, images_fid),
    Check("is-10", "torch-fidelity calculate_metrics", _IMAGES, "relative", 1e-6, images_inception_score),
    Check("is-1", "plain loops (is-1 and is-5000)", "6,001 logits of 7 classes", "relative", 1e-9,
          inception_score_loops),
    Check("kid", "scikit-learn polynomial_kernel", _FEATURES, "relative", 1e-7, kid_scikit_learn),
    Check("kid-subsets", "torch-fidelity kid_features_to_metric", _FEATURES, "relative", 1e-7, kid_torch_fidelity),
    Check("cmmd", "scikit-learn rbf_kernel", _FEATURES, "relative", 1e-7, cmmd_scikit_learn),
    Check("precision-recall", "torch-fidelity calculate_metrics", _IMAGES, "share", 1e-6, images_precision_recall),
    Check("precision-recall", "torch-fidelity prc_features_to_metric", _FEATURES, "share", 1e-6,
          precision_recall_torch_fidelity),
    Check("density-coverage", "plain loops", "150 and 150 features of 24 dimensions", "per image", 0.0,
          density_coverage_loops),
    Check("features-tf-compat", "torch-fidelity FeatureExtractorInceptionV3", "2 random images, random weights",
          "relative", 1e-5, inception_layers),
)  # fmt: skip
