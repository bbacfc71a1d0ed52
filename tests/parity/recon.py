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


def published_vgt(originals: np.ndarray, rebuilt: np.ndarray, side: int):
    """VGT's reconstruction script from the decoder's output on, step by step with the libraries that it uses: originals
    and reconstructions uint8 [N, H, W, 3] -> both as PSNR and SSIM see them, and as the feature network does."""
    import torch
    from torch.nn.functional import interpolate
    from torchvision.transforms.functional import normalize

    x, y = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 for images in (originals, rebuilt))
    half, mean, std = [0.5] * 3, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    real = interpolate(normalize(x, half, half).bfloat16(), (side, side), mode="bilinear").float()
    real = normalize((real + 1) / 2, mean, std)
    real = real * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    made = (interpolate(normalize(y, half, half), (side, side), mode="bilinear").clamp(-1, 1) + 1) / 2
    return real, made, tuple((255 * z).to(torch.uint8).permute(0, 2, 3, 1).numpy() for z in (real, made))


def _at_448() -> tuple[np.ndarray, np.ndarray]:
    originals = photos.images("test", range(4), 448)
    noise = np.random.default_rng(5).normal(0, 9, originals.shape)
    return originals, np.clip(originals + noise, 0, 255).astype(np.uint8)


def vgt_published(metric: str) -> float:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    from evals.metrics import pixels
    from evals.recon.protocol import resolve
    from evals.recon.source import compare

    pair = _at_448()
    seen, (real, made, levels) = compare(resolve("vgt", 448), *pair), published_vgt(*pair, 256)
    if metric == "levels":
        sides = zip((seen.images_a, seen.images_b), levels, strict=True)
        return float(max((ours != theirs).mean() for ours, theirs in sides))
    theirs = [[x.permute(1, 2, 0).numpy() for x in two] for two in zip(made, real, strict=True)]
    if metric == "psnr":
        ours = [pixels.psnr(float(error)) for error in pixels.squared_errors(seen.a, seen.b)]
        wanted = [peak_signal_noise_ratio(*two) for two in theirs]
    else:
        ours = pixels.ssim_batch(seen.a, seen.b, ["ssim-taming"])["ssim-taming"].tolist()
        wanted = [structural_similarity(*two, data_range=2.0, channel_axis=-1) for two in theirs]
    return float(np.abs(np.subtract(ours, wanted)).max())


def lightningdit_torchmetrics() -> float:
    """SSIM of floats on [-1, 1] that overshoot, which torchmetrics clamps."""
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    from evals.metrics import pixels
    from evals.recon.protocol import resolve
    from evals.recon.source import compare

    a = photos.images("test", range(4), 96).astype(np.float32) / 255
    b = (a + np.random.default_rng(6).normal(0, 0.1, a.shape)).astype(np.float32)
    seen = compare(resolve("lightningdit", 96), a, b)
    x, y = (torch.from_numpy(2 * z - 1).permute(0, 3, 1, 2) for z in (a, b))
    theirs = structural_similarity_index_measure(y, x, data_range=(-1.0, 1.0), reduction="none")
    return float((pixels.ssim_batch(seen.a, seen.b, ["ssim-tm-signed"])["ssim-tm-signed"] - theirs).abs().max())


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
    *(
        Check("vgt", f"the published steps with torchvision, torch and scikit-image: {metric}",
              "4 photo crops of 448 px with noise", unit, limit, partial(vgt_published, metric))
        for metric, unit, limit in (("psnr", "dB", 1e-4), ("ssim", "SSIM", 1e-5), ("levels", "share", 2e-3))
    ),
    Check("lightningdit", "torchmetrics structural_similarity_index_measure", "4 photo crops with noise, as floats",
          "SSIM", 1e-5, lightningdit_torchmetrics),
    Check("vfmtok", "clean-fid make_resizer (PIL, bicubic)", "2 random images of 84 px to 64", "levels", 0.0,
          resize_clean_fid),
    Check("rfid-tf-compat", "scipy.linalg.sqrtm", "200 x 12 features in 7 batches", "relative", 1e-9, rfid_direct),
)  # fmt: skip
