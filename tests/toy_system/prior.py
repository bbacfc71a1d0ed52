"""A generator conditioned on a class label: for every class and place a categorical distribution over the codebook.

Shapes: B images, C classes, N = h w tokens, K entries."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vgt.checkpoints.pretrained import Loaded, Pretrained
from vgt.core import scenes
from vgt.core.config import Config, validated
from vgt.inference.images import to_float, to_uint8
from vgt.inference.load import expect, load
from vgt.methods import registry
from vgt.methods.sampling import SamplingOptions
from vgt.training.job import Job


class PriorConfig(Config):
    classes: tuple[str, ...]
    grid: tuple[int, int]
    codebook_size: int
    autoencoder: str  # content hash and name of the tokenizer, as of every generator
    autoencoder_name: str


class PriorSampling(SamplingOptions):
    temperature: float = Field(1.0, gt=0, description="of a class-conditional prior over tokens (default 1)")


class Prior(Pretrained, nn.Module):
    def __init__(self, config: PriorConfig):
        super().__init__()
        self.config = config
        self.table = nn.Embedding(len(config.classes), self.tokens * config.codebook_size)

    @property
    def tokens(self) -> int:
        return self.config.grid[0] * self.config.grid[1]

    def forward(self, labels: Tensor) -> Tensor:
        """int64 [B] -> logits [B, N, K]."""
        return self.table(labels).unflatten(1, (self.tokens, -1))


@dataclass(frozen=True)
class LabelToImage:
    """What `vgt generate`, evaluators and benchmarks run."""

    loaded: Loaded
    decoder: Loaded
    settings: PriorSampling

    def read(self, text: str) -> int:
        names = self.loaded.model.config.classes
        if text not in names:
            raise ValueError(f"class {text!r} is unknown; choose one of {', '.join(names)}")
        return names.index(text)

    @torch.no_grad()
    def generate(self, asked: Sequence[int], seeds: Sequence[int], on_step=None) -> np.ndarray:
        model = self.loaded.model
        logits = model(torch.tensor(asked, device=model.table.weight.device)).float()
        drawn = [torch.rand(logits.shape[1:], generator=torch.Generator().manual_seed(s % 2**63)) for s in seeds]
        gumbel = -(-torch.stack(drawn).clamp(1e-9).log()).log().to(logits.device)
        codes = (logits / self.settings.temperature + gumbel).argmax(-1)
        if on_step is not None:
            on_step(model.tokens, model.tokens, codes)
        return to_uint8(self.decoder.model.decode(codes.unflatten(1, model.config.grid)))


class PriorTraining:
    def __init__(self, model: Prior, tokenizer: nn.Module):
        self.model, self.tokenizer = model, tokenizer

    def trainable_modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def to(self, device) -> None:
        self.tokenizer.to(device)

    def lr_scale(self, name: str) -> float:
        return 1.0

    def loss(self, name: str, batch: dict[str, Tensor], step: int, rng: torch.Generator):
        codes = self.tokenizer.encode(batch["images"]).flatten(1)
        loss = F.cross_entropy(self.model(batch["labels"]).flatten(0, 1), codes.flatten())
        return loss, {"loss": loss.detach()}


def job(preset, place) -> Job:
    found = expect(load(preset.init.autoencoder, place.runs), *registry.names("tokenizer", latents="discrete"))
    own = found.model.config
    side = own.image_size // own.patch
    values = {"classes": scenes.SHAPES, "grid": (side, side), "codebook_size": own.codebook_size}
    values |= {"autoencoder": found.fingerprint, "autoencoder_name": found.name}
    config = validated(PriorConfig, values | preset.model, "model of the preset")
    with place.building():
        model = Prior(config)

    def batches(k: int) -> dict[str, Tensor]:
        """Scenes of one object, whose shape is the class."""
        made = [scenes.scene("train", i, "single_object") for i in range(k * place.rows, (k + 1) * place.rows)]
        images = np.stack([scenes.render(scene, own.image_size).image for scene in made])
        labels = torch.tensor([config.classes.index(scene.objects[0].shape) for scene in made])
        return {"images": to_float(images), "labels": labels}

    parents = {"autoencoder": found.fingerprint}
    return Job(PriorTraining(model, found.model), batches, config.model_dump(mode="json"), parents=parents)
