"""Reconstruction metrics against torchmetrics, scikit-image, lpips, clean-fid and scipy."""

from __future__ import annotations

import warnings
from functools import lru_cache, partial

import numpy as np

from parity import Check
from vgt.core import photos, scenes

_INPUTS = "8 photo crops of 96 px with noise, 4 rendered scenes with noise, and black and white halves"


@lru_cache(maxsize=1)
def _pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """uint8 pairs of natural, flat and extreme images."""
    rng = np.random.default_rng(0)
    found = []
    for images, width in ((photos.images("test", range(8), 96), 9.0), (scenes.images("test", range(4)), 1.5)):
        noisy = np.clip(images + rng.normal(0, width, images.shape), 0, 255).astype(np.uint8)
        found += list(zip(images, noisy, strict=True))
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, 32:] = 255
    striped = halves.copy()
    striped[::2] ^= 3
    return [*found, (halves, striped)]


def _tensors(a: np.ndarray, b: np.ndarray):
    import torch

    return [torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)[None].float() / 255 for x in (a, b)]


def psnr_skimage() -> float:
    import torch
    from skimage.metrics import peak_signal_noise_ratio

    from evals.metrics import pixels

    ours = [pixels.psnr(float(pixels.squared_errors(*(torch.from_numpy(x)[None] for x in pair)))) for pair in _pairs()]
    theirs = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in _pairs()]
    return float(np.abs(np.subtract(ours, theirs)).max())


def ssim_skimage(variant: str) -> float:
    from evals.metrics import pixels

    return max(
        abs(float(pixels.ssim_batch(*_tensors(a, b), [variant])[variant]) - pixels.ssim(a, b, variant))
        for a, b in _pairs()
    )


def psnr_torchmetrics(how: str) -> float:
    """psnr-mean: image by image; psnr-global: of all pixels of equally large images.

    torchmetrics rounds the data range and the logarithm to float32."""
    import torch
    from torchmetrics.functional.image import peak_signal_noise_ratio

    from evals.metrics import pixels

    pairs = [[torch.from_numpy(x)[None] for x in pair] for pair in _pairs()]
    errors = [float(pixels.squared_errors(*pair)) for pair in pairs]
    one_size = {"data_range": 255.0, "dim": (1, 2, 3), "reduction": "none"}
    if how == "psnr-global":
        crops = [pair for pair in pairs if pair[0].shape == pairs[0][0].shape]
        a, b = (torch.cat(side).double() for side in zip(*crops, strict=True))
        ours = [pixels.psnr(float(np.mean(errors[: len(crops)])))]
        theirs = [peak_signal_noise_ratio(b, a, data_range=255.0)]
    else:
        ours = [pixels.psnr(error) for error in errors]
        theirs = [peak_signal_noise_ratio(b.double(), a.double(), **one_size) for a, b in pairs]
    return float(np.abs(np.subtract(ours, [float(x) for x in theirs])).max())


def ssim_torchmetrics(variant: str) -> float:
    """What torchmetrics says from its version 1.4.2 on: the reflected rim belongs to the mean.

    ``ssim-wang`` is the inside of its map."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    from evals.metrics import pixels

    worst = 0.0
    for pair in _pairs():
        a, b = (x.double() for x in _tensors(*pair))
        signed = variant == "ssim-tm-signed"
        given = (2 * b - 1, 2 * a - 1) if signed else (b, a)
        whole, full = structural_similarity_index_measure(
            *given, data_range=(-1.0, 1.0) if signed else 1.0, reduction="none", return_full_image=True
        )
        theirs = full[..., 5:-5, 5:-5].mean() if variant == "ssim-wang" else whole
        ours = pixels.ssim_batch(*_tensors(*pair), [variant])[variant]
        worst = max(worst, abs(float(ours) - float(theirs)))
    return worst


def _random_backbone(net: str):
    import torch
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (models.alexnet if net == "alex" else models.vgg16)(weights=None).eval()


def lpips_torchmetrics(net: str) -> float:
    """torchmetrics' own network, with its copy of the heads and the same random backbone."""
    import torch
    from torchmetrics.functional.image import lpips as theirs

    from evals.metrics import lpips
    from vgt.methods import perceptual

    backbone = _random_backbone(net)
    reference = theirs._LPIPS(pretrained=True, net=net, pnet_rand=True)
    layers = {name: layer for part in reference.net.children() for name, layer in part.named_children()}
    for name, layer in layers.items():
        layer.load_state_dict(backbone.features[int(name)].state_dict())
    ours = lpips.distance(perceptual.lpips_network(net, backbone.state_dict()))
    worst = 0.0
    with torch.inference_mode():
        for pair in _pairs()[:4]:
            wanted = float(reference(*_tensors(*pair), normalize=True))
            worst = max(worst, abs(float(ours(*_tensors(*pair))) / wanted - 1))
    return worst


def resize_clean_fid() -> float:
    """The last step of VFMTok's pipeline, 336 to 256 px, against clean-fid's Pillow resizer."""
    from cleanfid.resize import make_resizer

    from evals.recon import source

    images = np.random.default_rng(4).integers(0, 256, (2, 84, 84, 3)).astype(np.uint8)
    with warnings.catch_warnings():  # the package switches warnings off for all
        theirs = np.stack([make_resizer("PIL", True, "bicubic", (64, 64))(image) for image in images])
    return float(np.abs(source._pillow(images, (64, 64)).astype(int) - theirs).max())


def rfid_direct() -> float:
    """Fréchet distance from stored batches of features against scipy's matrix square root on all at once, relative."""
    import tempfile
    from pathlib import Path

    from scipy import linalg

    from evals.engine.store import Arrays
    from evals.recon import metrics as recon_metrics

    rng = np.random.default_rng(0)
    a = rng.normal(size=(200, 12)).astype(np.float32)
    b = (a + 0.3 * rng.normal(size=a.shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as place:
        for name, x in (("a", a), ("b", b)):
            store = Arrays(Path(place) / name)
            for start in range(0, 200, 32):
                rows = x[start : start + 32]
                store.add(start, positions=np.arange(start, start + len(rows)), values=rows)
        found = recon_metrics.distance(Arrays(Path(place) / "a"), Arrays(Path(place) / "b"), 200)
    sigmas = [np.cov(x.astype(np.float64), rowvar=False) for x in (a, b)]
    shift = a.astype(np.float64).mean(0) - b.astype(np.float64).mean(0)
    wanted = shift @ shift + np.trace(sum(sigmas)) - 2 * np.trace(linalg.sqrtm(sigmas[0] @ sigmas[1])).real
    return float(abs(found.value - wanted) / wanted)


CHECKS: tuple[Check, ...] = (
    Check("psnr-mean", "torchmetrics peak_signal_noise_ratio", _INPUTS, "dB", 1e-5,
          partial(psnr_torchmetrics, "psnr-mean")),
    Check("psnr-mean", "scikit-image peak_signal_noise_ratio", _INPUTS, "dB", 1e-6, psnr_skimage),
    Check("psnr-global", "torchmetrics peak_signal_noise_ratio", "8 photo crops of 96 px with noise", "dB", 1e-5,
          partial(psnr_torchmetrics, "psnr-global")),
    *(
        Check(variant, "torchmetrics structural_similarity_index_measure", _INPUTS, "SSIM", 1e-5,
              partial(ssim_torchmetrics, variant))
        for variant in ("ssim-wang", "ssim-tm", "ssim-tm-signed")
    ),
    *(
        Check(variant, "scikit-image structural_similarity", _INPUTS, "SSIM", 1e-5, partial(ssim_skimage, variant))
        for variant in ("ssim-wang", "ssim-taming", "ssim-sk", "ssim-tm", "ssim-tm-signed", "ssim-y")
    ),
    *(
        Check(f"lpips-{net}-v0.1", "torchmetrics' LPIPS network", "4 photo crops, random backbone", "relative", 1e-5,
              partial(lpips_torchmetrics, net), slow=net == "vgg")
        for net in ("alex", "vgg")
    ),
    Check("vfmtok", "clean-fid make_resizer (PIL, bicubic)", "2 random images of 84 px to 64", "levels", 0.0,
          resize_clean_fid),
    Check("rfid-tf-compat", "scipy.linalg.sqrtm", "200 x 12 features in 7 batches", "relative", 1e-9, rfid_direct),
)  # fmt: skip
