"""The color of a detected object by CLIP, as GenEval asks for it (docs/evaluators.md 2.5)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.transforms import v2

from evals.engine.api import Detection
from evals.judges import weights
from vgt.core.scenes import COLORS

MODEL = "openai/clip-vit-large-patch14"
NEEDED = ("config.json", weights.WEIGHTS, "vocab.json", "merges.txt")
GROUND = (153, 153, 153)
TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def crop(image: np.ndarray, detection: Detection) -> Image.Image:
    """The object's pixels on GROUND, cut to its box: uint8 [H, W, 3] -> an RGB image of the box's size.

    Raises ValueError for a box without area."""
    x1, y1, x2, y2 = (round(v) for v in detection.box)
    if x2 <= x1 or y2 <= y1:
        raise ValueError(f"{detection.label!r} has the box {detection.box}, which holds no pixel to name a color of")
    alone = np.where(detection.mask[..., None], image, np.uint8(GROUND))
    return Image.fromarray(alone).crop((x1, y1, x2, y2))


def _embedding(features) -> Tensor:
    """The projected embedding [N, d], whichever of its forms transformers returns."""
    return normalize(features if isinstance(features, Tensor) else features.pooler_output, dim=-1)


class ClipColors:
    """Nearest of GenEval's ten colors in CLIP's embedding; text classifiers are made once per class."""

    def __init__(self, model: torch.nn.Module, tokenizer, fingerprint: str):
        self.model, self.tokenizer, self.fingerprint = model, tokenizer, fingerprint
        side = model.config.vision_config.image_size
        self._transform = v2.Compose(
            [
                v2.Resize(side, interpolation=v2.InterpolationMode.BICUBIC),
                v2.CenterCrop(side),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )
        self.classifier = lru_cache(maxsize=None)(self._classifier)

    @torch.inference_mode()
    def _classifier(self, name: str) -> Tensor:
        """[10, d] of unit length: per color the mean of the unit embeddings of its TEMPLATES, made unit again."""
        texts = [t.format(color=color, name=name) for color in COLORS for t in TEMPLATES]
        longest = self.model.config.text_config.max_position_embeddings
        ids = self.tokenizer(texts, padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
        each = _embedding(self.model.get_text_features(input_ids=ids.input_ids.to(self.model.device)))
        return normalize(each.view(len(COLORS), len(TEMPLATES), -1).mean(1), dim=-1)

    @torch.inference_mode()
    def similarities(self, image: np.ndarray, detection: Detection) -> Tensor:
        """Cosine of the object with each color, [10], in the order of COLORS."""
        pixels = self._transform(crop(image, detection))[None].to(self.model.device)
        seen = _embedding(self.model.get_image_features(pixel_values=pixels))
        return (seen @ self.classifier(detection.label).T)[0]

    def name(self, image: np.ndarray, detection: Detection) -> str:
        """The color whose text is nearest."""
        return tuple(COLORS)[int(self.similarities(image, detection).argmax())]


def load(folder: Path, device: str) -> ClipColors:
    """From a folder with NEEDED.  Raises ValueError for weights that do not fit."""
    from transformers import CLIPModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    return ClipColors(weights.load(CLIPModel, folder, device), tokenizer, weights.fingerprint(folder, NEEDED))
