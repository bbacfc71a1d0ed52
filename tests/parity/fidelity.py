"""Fidelity metrics against torchmetrics, pytorch-fid, clean-fid, prdc, torch-fidelity, scikit-learn and plain loops."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable
from functools import lru_cache, partial
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


def _frechet(theirs: Callable[..., float]) -> float:
    """Against ``theirs(mu_1, sigma_1, mu_2, sigma_2)``; ours from blocks that are summed."""
    from evals.metrics import frechet

    a, b = _features()
    parts = [[frechet.moments(x[_blocks(x) == k]) for k in range(20)] for x in (a, b)]
    gaussians = [part for x in (a, b) for part in (x.mean(0), np.cov(x, rowvar=False))]
    return _relative(frechet.blocks_jackknife(*parts).value, theirs(*gaussians))


def frechet_torch_fidelity() -> float:
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    def theirs(*gaussians):
        sides = [dict(zip(("mu", "sigma"), gaussians[i : i + 2], strict=True)) for i in (0, 2)]
        return fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"]

    return _frechet(theirs)


def frechet_pytorch_fid() -> float:
    from pytorch_fid.fid_score import calculate_frechet_distance

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an argument of scipy that is going away
        return _frechet(calculate_frechet_distance)


def frechet_clean_fid() -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cleanfid.fid import frechet_distance

        return _frechet(frechet_distance)


def _torchmetrics(metric: str, **settings):
    """A torchmetrics metric in float64 that takes features instead of images."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it keeps all features
        from torchmetrics import image

        given = torch.nn.Identity()
        given.num_features = 24
        return getattr(image, metric)(feature=given, **settings).set_dtype(torch.float64)


def frechet_torchmetrics() -> float:
    import torch

    from evals.metrics import frechet

    a, b = _features()
    theirs = _torchmetrics("FrechetInceptionDistance")
    for x, real in ((a, False), (b, True)):
        theirs.update(torch.from_numpy(x), real=real)
    return _relative(frechet.from_moments(frechet.moments(a), frechet.moments(b)), float(theirs.compute()))


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
    from evals.fidelity.metrics import FEATURES, MOMENTS
    from evals.fidelity.run import Evidence

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


def kid_torchmetrics() -> float:
    import torch

    from evals.metrics import kernel

    a, b = (x[:1000] for x in _features())
    theirs = _torchmetrics("KernelInceptionDistance", subsets=1, subset_size=1000)
    for x, real in ((a, False), (b, True)):
        theirs.update(torch.from_numpy(x), real=real)
    return _relative(kernel.kid(a, b, _blocks(a), _blocks(b)).value, float(theirs.compute()[0]))


def kid_clean_fid() -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cleanfid.fid import kernel_distance

    from evals.metrics import kernel

    a, b = (x[:1000] for x in _features())
    found = kernel.kid(a, b, _blocks(a), _blocks(b)).value
    return _relative(found, kernel_distance(a, b, num_subsets=1, max_subset_size=1000))


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


def inception_score_torchmetrics() -> float:
    import torch

    from evals.metrics import entropy

    logits = np.random.default_rng(2).normal(size=(6001, 7)) * 2
    theirs = _torchmetrics("InceptionScore", splits=1)
    theirs.update(torch.from_numpy(logits))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the spread of one split
        value = float(theirs.compute()[0])
    return _relative(entropy.inception_score(logits, "is-1", _blocks(logits))[0].value, value)


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


def _prdc(k: int) -> dict[str, float]:
    from prdc import compute_prdc

    a, b = _features()
    with contextlib.redirect_stdout(io.StringIO()):
        return compute_prdc(real_features=b, fake_features=a, nearest_k=k)


def precision_recall_prdc() -> float:
    from evals.metrics import manifold

    theirs = _prdc(manifold.NEAREST_PR)
    ours = [x.mean() for x in manifold.precision_recall(*_features(), tile=500)]
    return float(np.abs(np.subtract(ours, [theirs["precision"], theirs["recall"]])).max())


def density_coverage_prdc() -> float:
    from evals.metrics import manifold

    theirs = _prdc(manifold.NEAREST_DC)
    ours = [x.mean() for x in manifold.density_coverage(*_features(), tile=500)]
    return float(np.abs(np.subtract(ours, [theirs["density"], theirs["coverage"]])).max())


def inception_layers() -> float:
    """Our walk through the layers against the class's own forward, with random weights of the real shapes."""
    import torch

    from evals.features import networks

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = random_inception()
    images = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (2, 3, 40, 56)).astype(np.uint8))
    with torch.inference_mode():
        reference = net(images)
        found = networks.inception_views(net, networks.inception_input(images, "tf-compat"))
    return max(_relative(found[k].numpy(), r.numpy()) for k, r in zip(("pool", "logits"), reference, strict=True))


def inception_pytorch_fid() -> float:
    """pytorch-fid's network, resizing included, filled with the same random weights (both read one file)."""
    import torch
    from pytorch_fid import inception as theirs

    from evals.features import networks

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        net = random_inception()
        given, theirs.load_state_dict_from_url = theirs.load_state_dict_from_url, lambda *_, **__: net.state_dict()
        try:
            reference = theirs.InceptionV3([3]).eval()
        finally:
            theirs.load_state_dict_from_url = given
    images = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (2, 3, 40, 56)).astype(np.uint8))
    with torch.inference_mode():
        found = networks.inception_views(net, networks.inception_input(images, "pytorch-fid"))["pool"]
        return _relative(found.numpy(), reference(images.float() / 255)[0].flatten(1).numpy())


def features_clean_fid() -> float:
    """clean-fid's own way from PNG files to features, in its mode ``clean``, with torch-fidelity's random network in
    the place of the TorchScript file of the same graph."""
    import torch
    from cleanfid import fid
    from PIL import Image

    from evals.features import networks
    from vgt.core import photos

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = random_inception()
    images = photos.images("test", range(4), 96)

    def network(x):
        return networks.inception_views(net, (x - 128) / 128)["pool"]

    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i, image in enumerate(images):
            Image.fromarray(image).save(Path(folder) / f"{i}.png")
        theirs = fid.get_folder_features(
            folder, network, num_workers=0, batch_size=4, device=torch.device("cpu"), mode="clean", verbose=False
        )
        tensors = torch.from_numpy(images).permute(0, 3, 1, 2)
        ours = networks.inception_views(net, networks.inception_input(tensors, "clean"))["pool"].numpy()
    return _relative(ours, theirs)


def resize_clean_fid(source: str) -> float:
    """How images come to a network's size: Pillow's bicubic (DINOv2) and plain tensors (pytorch-fid, CLIP)."""
    import torch
    from cleanfid.resize import make_resizer

    from evals.features import networks

    images = np.random.default_rng(4).integers(0, 256, (3, 40, 56, 3)).astype(np.uint8)
    if source == "dinov2":
        ours, side, how = networks._pillow(images, 224).astype(np.float64), (224, 224), ("PIL", True, "bicubic")
    elif source == "clean":
        tensors = torch.from_numpy(images).permute(0, 3, 1, 2)
        ours = networks.inception_input(tensors, "clean").permute(0, 2, 3, 1).numpy() * 128 + 128
        side, how = (299, 299), ("PIL", False, "bicubic")
    else:
        tensors = torch.from_numpy(images).permute(0, 3, 1, 2)
        ours = (networks.inception_input(tensors, "pytorch-fid").permute(0, 2, 3, 1).numpy() + 1) * 127.5
        side, how = (299, 299), ("PyTorch", False, "bilinear")
    with warnings.catch_warnings():  # the package switches warnings off for all
        theirs = np.stack([make_resizer(*how, side)(image) for image in images])
    return float(np.abs(ours - theirs).max())


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
_THOUSAND = "1,000 and 1,000 correlated features of 24 dimensions"
_LOGITS = "6,001 logits of 7 classes"
_IMAGES = "1,040 and 1,000 random images of 8 px, a registered random convolution"
_RANDOM = "2 random images, random weights"
_RESIZED = "3 random images of 56 x 40 px"

CHECKS: tuple[Check, ...] = (
    Check(
        "frechet-unpaired", "torch-fidelity fid_statistics_to_metric", _FEATURES, "relative", 1e-9,
        frechet_torch_fidelity,
    ),
    Check("frechet-unpaired", "pytorch-fid calculate_frechet_distance", _FEATURES, "relative", 1e-9,
          frechet_pytorch_fid),
    Check("frechet-unpaired", "clean-fid frechet_distance", _FEATURES, "relative", 1e-9, frechet_clean_fid),
    Check("frechet-unpaired", "torchmetrics FrechetInceptionDistance", _FEATURES, "relative", 1e-9,
          frechet_torchmetrics),
    Check("frechet-unpaired", "torch-fidelity calculate_metrics", _IMAGES, "relative", 1e-6, images_fid),
    Check("is-10", "torch-fidelity calculate_metrics", _IMAGES, "relative", 1e-6, images_inception_score),
    Check("is-1", "torchmetrics InceptionScore", _LOGITS, "relative", 1e-9, inception_score_torchmetrics),
    Check("is-5000", "plain loops (is-1 too)", _LOGITS, "relative", 1e-9, inception_score_loops),
    Check("kid", "torchmetrics KernelInceptionDistance", _THOUSAND, "relative", 1e-7, kid_torchmetrics),
    Check("kid", "clean-fid kernel_distance", _THOUSAND, "relative", 1e-7, kid_clean_fid),
    Check("kid", "scikit-learn polynomial_kernel, blocks left out too", _FEATURES, "relative", 1e-7,
          kid_scikit_learn),
    Check("kid-subsets", "torch-fidelity kid_features_to_metric", _FEATURES, "relative", 1e-7, kid_torch_fidelity),
    Check("cmmd", "scikit-learn rbf_kernel", _FEATURES, "relative", 1e-7, cmmd_scikit_learn),
    Check("precision-recall", "torch-fidelity calculate_metrics", _IMAGES, "share", 1e-6, images_precision_recall),
    Check("precision-recall", "torch-fidelity prc_features_to_metric", _FEATURES, "share", 1e-6,
          precision_recall_torch_fidelity),
    Check("precision-recall", "prdc compute_prdc", _FEATURES, "share", 1e-12, precision_recall_prdc),
    Check("density-coverage", "prdc compute_prdc", _FEATURES, "share", 1e-12, density_coverage_prdc),
    Check("features-tf-compat", "torch-fidelity FeatureExtractorInceptionV3", _RANDOM, "relative", 1e-5,
          inception_layers),
    Check("features-pytorch-fid", "pytorch-fid InceptionV3, resizing included", _RANDOM, "relative", 1e-5,
          inception_pytorch_fid),
    Check("features-pytorch-fid", "clean-fid make_resizer (PyTorch, bilinear)", _RESIZED, "of 255", 1e-4,
          partial(resize_clean_fid, "pytorch-fid")),
    Check("features-clean", "clean-fid make_resizer (PIL, bicubic, not quantised)", _RESIZED, "of 255", 1e-4,
          partial(resize_clean_fid, "clean")),
    Check("features-clean", "clean-fid get_folder_features, file to features, both with random weights",
          "4 photo crops of 96 px as PNG", "relative", 1e-5, features_clean_fid),
    Check("features-dinov2", "clean-fid make_resizer (PIL, bicubic)", _RESIZED, "of 255", 0.0,
          partial(resize_clean_fid, "dinov2")),
)  # fmt: skip
