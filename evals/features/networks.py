"""The feature networks (docs/evaluators.md 1.7, 1.8, 6): the FID Inception network of 2015-12-05 in torch-fidelity's
class, EfficientNet-Lite, and DINOv2 and CLIP through transformers.  All from local weights.

The Inception variants differ in how an image comes to 299 x 299 and in the network's precision, not in the weights.
EfficientNet's weights come with packages, so they work offline; its distances are never called FID.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from evals.features import EXTRACTORS, INCEPTION_FILES, Embed
from evals.judges import checkpoints
from vgt.core import files
from vgt.core.text import read_json
from vgt.methods import perceptual


def tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, H, W] in [0, 1]."""
    return levels(images).float() / 255


def levels(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> uint8 [N, 3, H, W].  Raises ValueError for other arrays."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images are {images.dtype} {images.shape}; give uint8 [N, H, W, 3]")
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


# --------------------------------------------------------------------------------------------------------- Inception


INCEPTION_DIMS = {"pool": 2048, "spatial": 2023, "logits": 1008}
INCEPTION_SIDE = (299, 299)
SPATIAL, CHANNELS = "Mixed_6d", 7  # TensorFlow's mixed_6; its first branch is mixed_6/conv


def inception_network(path: str | Path) -> nn.Module:
    """torch-fidelity's network with the weights of ``path``, frozen, float32.

    The file is unpickled as weights only, then handed over in memory: the class itself would run any code in it.
    Raises ValueError for a file that does not fill the network."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        copy = io.BytesIO()
        torch.save(state, copy)
        copy.seek(0)
        with torch.random.fork_rng(devices=[]):
            return FeatureExtractorInceptionV3(
                "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=copy
            )
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"{Path(path).name} does not fill the FID Inception network: {reason[0]}; expected {INCEPTION_FILES[0]}"
        ) from error


def inception_views(net: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Normalised images [N, 3, 299, 299] -> pool [N, 2048], spatial [N, 2023] (row, column, channel as in ADM's
    files), logits without bias [N, 1008].  The class registers its layers in the order of the forward pass."""
    spatial = None
    for name, layer in net.named_children():
        if name == "fc":
            break
        x = layer(x)
        if name == SPATIAL:
            spatial = x[:, :CHANNELS].permute(0, 2, 3, 1).flatten(1)
    assert spatial is not None
    pool = x.flatten(1)
    return {"pool": pool, "spatial": spatial, "logits": pool @ net.fc.weight.T}


def inception_input(images: torch.Tensor, variant: str) -> torch.Tensor:
    """uint8 [N, 3, H, W] -> the network's input [N, 3, 299, 299] as the variant's protocol says, float32 or float64."""
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    if variant == "clean":
        return (_clean(images) - 128) / 128
    x = images.to(torch.float64 if EXTRACTORS[variant]["dtype"] == "float64" else torch.float32)
    if variant == "pytorch-fid":
        x = functional.interpolate(x / 255, INCEPTION_SIDE, mode="bilinear", align_corners=False)
        return 2 * x - 1
    return (interpolate_bilinear_2d_like_tensorflow1x(x, size=INCEPTION_SIDE, align_corners=False) - 128) / 128


def _clean(images: torch.Tensor) -> torch.Tensor:
    """clean-fid's resizing: uint8 [N, 3, H, W] -> float32 [N, 3, 299, 299] of 0..255."""
    planes = images.flatten(0, 1).cpu().numpy().astype(np.float32)
    made = [
        np.asarray(Image.fromarray(p).resize(INCEPTION_SIDE, Image.Resampling.BICUBIC)).clip(0, 255) for p in planes
    ]
    return torch.from_numpy(np.stack(made)).view(len(images), 3, *INCEPTION_SIDE).to(images.device)


def inception(variant: str, path: Path, device: str, strict: bool) -> tuple[Embed, Mapping[str, int]]:
    del strict  # loading is strict in any case
    net = inception_network(path).to(device)
    if EXTRACTORS[variant]["dtype"] == "float64":
        net = net.double()

    @torch.inference_mode()
    def embed(images: np.ndarray) -> dict[str, np.ndarray]:
        found = inception_views(net, inception_input(levels(images).to(device), variant))
        return {name: x.cpu().numpy() for name, x in found.items()}

    return embed, INCEPTION_DIMS


# ------------------------------------------------------------------------------------------------------ EfficientNet


def efficientnet(name: str, path: Path, device: str, strict: bool) -> tuple[Embed, Mapping[str, int]]:
    del path, strict  # the loader takes the package's file
    # The network saw 260 px in training.  Here every image is resized to 128 px: four times as fast, and enough for the
    # 64 px images of the synthetic scenes.  The size is part of the protocol: distances at other sizes do not compare.
    side = EXTRACTORS[name]["side"]
    network = perceptual.feature_network(name).to(device)

    @torch.inference_mode()
    def embed(images: np.ndarray) -> dict[str, np.ndarray]:
        x = tensor(images).to(device)
        if x.shape[-2:] != (side, side):
            x = functional.interpolate(x, (side, side), mode="bilinear", align_corners=False, antialias=True)
        return {"pool": network(x)[1].cpu().numpy()}

    return embed, {"pool": 1280}


# ------------------------------------------------------------------------------------------------------ DINOv2, CLIP


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

# What makes a folder the published model; another one needs --any-weights.
DINOV2_LARGE = {"model_type": "dinov2", "hidden_size": 1024, "num_hidden_layers": 24, "patch_size": 14}
CLIP_336 = {"hidden_size": 1024, "num_hidden_layers": 24, "patch_size": 14, "image_size": 336, "projection_dim": 768}


def _configuration(folder: Path, expected: Mapping[str, Any], strict: bool) -> dict:
    """The vision part of config.json.  Raises ValueError where there is none or where it is another architecture."""
    try:
        config = read_json(folder / "config.json")
        vision = {**config, **config.get("vision_config", {})}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} is no folder of a transformers model: config.json cannot be read") from error
    if not files.visible(folder, "*.safetensors"):
        raise ValueError(f"{folder} holds no .safetensors file; put model.safetensors beside config.json")
    wrong = {key: vision.get(key) for key, value in expected.items() if vision.get(key) != value}
    if strict and wrong:
        key = next(iter(wrong))
        raise ValueError(
            f"{folder.name} has {key} {wrong[key]}, not {expected[key]}: it is another model; "
            "pass --any-weights to use it under a label"
        )
    return vision


def _normalised(x: torch.Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> torch.Tensor:
    mean, std = (torch.tensor(values, device=x.device).view(1, 3, 1, 1) for values in statistics)
    return (x - mean) / std


def _pillow(images: np.ndarray, side: int) -> np.ndarray:
    """uint8 [N, H, W, 3] -> uint8 [N, side, side, 3], Pillow's bicubic."""
    levels(images)  # the same complaint about other types
    if images.shape[1:3] == (side, side):
        return images
    return np.stack([np.asarray(Image.fromarray(i).resize((side, side), Image.Resampling.BICUBIC)) for i in images])


def dinov2(name: str, folder: Path, device: str, strict: bool) -> tuple[Embed, Mapping[str, int]]:
    from transformers import Dinov2Model

    _configuration(folder, DINOV2_LARGE, strict)
    model = checkpoints.load(Dinov2Model, folder, device, part=True)
    side = EXTRACTORS[name]["side"]

    @torch.inference_mode()
    def embed(images: np.ndarray) -> dict[str, np.ndarray]:
        x = _normalised(tensor(_pillow(images, side)).to(device), IMAGENET)
        return {"pool": model(pixel_values=x).last_hidden_state[:, 0].cpu().numpy()}

    return embed, {"pool": model.config.hidden_size}


def clip(name: str, folder: Path, device: str, strict: bool) -> tuple[Embed, Mapping[str, int]]:
    from transformers import CLIPVisionModelWithProjection

    _configuration(folder, CLIP_336, strict)
    model = checkpoints.load(CLIPVisionModelWithProjection, folder, device, part=True)
    side = model.config.image_size

    @torch.inference_mode()
    def embed(images: np.ndarray) -> dict[str, np.ndarray]:
        x = functional.interpolate(tensor(images).to(device), (side, side), mode="bicubic", align_corners=False)
        found = model(pixel_values=_normalised(x, CLIP)).image_embeds
        return {"pool": (found / found.norm(dim=-1, keepdim=True)).cpu().numpy()}

    return embed, {"pool": model.config.projection_dim}
