"""A discrete tokenizer: an image is a grid of patches, each the nearest of K in a codebook, as in k-means.

Shapes: B images, h x w patches of p x p pixels, K entries, d = 3 p p numbers each."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vgt.checkpoints.pretrained import Pretrained
from vgt.core import scenes
from vgt.core.config import Config, validated
from vgt.inference.images import to_float
from vgt.training.job import Job


class CodebookConfig(Config):
    image_size: int = 32
    patch: int = 8
    codebook_size: int = 16


class Codebook(Pretrained, nn.Module):
    def __init__(self, config: CodebookConfig):
        super().__init__()
        self.config, self.stride = config, config.patch
        self.entries = nn.Parameter(torch.randn(config.codebook_size, 3 * config.patch**2) * 0.3)

    def patches(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, h, w, d]."""
        return F.unfold(images, self.stride, stride=self.stride).mT.unflatten(1, (images.shape[-2] // self.stride, -1))

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> int64 [B, h, w]."""
        return torch.cdist(self.patches(images).float(), self.entries.float()).argmin(-1)

    def vectors(self, indices: Tensor) -> Tensor:
        """[B, h, w] -> [B, d, h, w]."""
        return self.entries[indices].permute(0, 3, 1, 2)

    def decode(self, indices: Tensor) -> Tensor:
        """[B, h, w] -> [B, 3, H, W]."""
        size = (indices.shape[1] * self.stride, indices.shape[2] * self.stride)
        return F.fold(self.vectors(indices).flatten(2), size, self.stride, stride=self.stride)

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))


class CodebookTraining:
    def __init__(self, model: Codebook):
        self.model = model

    def trainable_modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def lr_scale(self, name: str) -> float:
        return 1.0

    def loss(self, name: str, batch: dict[str, Tensor], step: int, rng: torch.Generator):
        """Squared distance of every patch from its entry."""
        loss = F.mse_loss(self.model(batch["images"]), batch["images"])
        return loss, {"loss": loss.detach()}


def job(preset, place) -> Job:
    config = validated(CodebookConfig, preset.model, "model of the preset")
    with place.building():
        model = Codebook(config)

    def batches(k: int) -> dict[str, Tensor]:
        rows = range(k * place.rows, (k + 1) * place.rows)
        return {"images": to_float(scenes.images("train", rows, config.image_size))}

    return Job(CodebookTraining(model), batches, config.model_dump(mode="json"))
