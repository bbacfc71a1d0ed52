"""DINOv2 and CLIP features through transformers, from a local folder (docs/evaluators.md 6)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from evals.features.source import Embed, Source, levels, tensor
from evals.fidelity.protocol import EXTRACTORS

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

# What makes a folder the published model; another one needs --any-weights.
DINOV2_LARGE = {"model_type": "dinov2", "hidden_size": 1024, "num_hidden_layers": 24, "patch_size": 14}
CLIP_336 = {"hidden_size": 1024, "num_hidden_layers": 24, "patch_size": 14, "image_size": 336, "projection_dim": 768}


def _configuration(folder: Path, expected: Mapping[str, Any], strict: bool) -> dict:
    """The vision part of config.json.  Raises ValueError where there is none or where it is another architecture."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is no folder of a transformers model: config.json cannot be read") from error
    if not list(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} holds no .safetensors file; put model.safetensors beside config.json")
    vision = {**config, **config.get("vision_config", {})}
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


def _dinov2(folder: Path, device: str, strict: bool) -> tuple[Embed, Mapping[str, int]]:
    from transformers import Dinov2Model

    _configuration(folder, DINOV2_LARGE, strict)
    model = Dinov2Model.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    model = model.eval().requires_grad_(False).to(device)
    side = EXTRACTORS["dinov2"]["side"]

    @torch.inference_mode()
    def embed(images: np.ndarray) -> dict[str, np.ndarray]:
        x = _normalised(tensor(_pillow(images, side)).to(device), IMAGENET)
        return {"pool": model(pixel_values=x).last_hidden_state[:, 0].cpu().numpy()}

    return embed, {"pool": model.config.hidden_size}


def _clip(folder: Path, device: str, strict: bool) -> tuple[Embed, Mapping[str, int]]:
    from transformers import CLIPVisionModelWithProjection

    _configuration(folder, CLIP_336, strict)
    model = CLIPVisionModelWithProjection.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    model = model.eval().requires_grad_(False).to(device)
    side = model.config.image_size

    @torch.inference_mode()
    def embed(images: np.ndarray) -> dict[str, np.ndarray]:
        x = functional.interpolate(tensor(images).to(device), (side, side), mode="bicubic", align_corners=False)
        found = model(pixel_values=_normalised(x, CLIP)).image_embeds
        return {"pool": (found / found.norm(dim=-1, keepdim=True)).cpu().numpy()}

    return embed, {"pool": model.config.projection_dim}


SOURCES = (
    Source("dinov2", _dinov2, ("dinov2-large",)),
    Source("clip", _clip, ("clip-vit-large-patch14-336",)),
)
