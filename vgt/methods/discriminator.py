"""The autoencoder's discriminator (docs/vgt.md 1.9): images in [0, 1] -> a map of logits."""

from __future__ import annotations

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vgt.core.config import Config, Count


class DiscriminatorConfig(Config):
    """``widths`` of the stages (each halves the resolution); ``grid`` side of the logit map."""

    widths: tuple[Count, ...] = (128, 128, 256, 512)
    grid: Count = 16

    @model_validator(mode="after")
    def _groups(self) -> DiscriminatorConfig:
        if not self.widths or any(width % min(32, width) for width in self.widths[1:]):
            raise ValueError(
                f"a discriminator of widths {self.widths} is impossible; those after the first are normalised in 32 "
                "groups, so choose multiples of 32, or less than 32"
            )
        return self


class BlurDown(nn.Module):
    """Fixed depth-wise 4x4 kernel, outer product of (1, 3, 3, 1) normalised to sum 1, stride 2, "same" padding."""

    def __init__(self):
        super().__init__()
        tap = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", (tap[:, None] * tap / tap.sum() ** 2)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 1, 1))
        return F.conv2d(x, self.kernel.to(x).expand(x.shape[1], 1, 4, 4), stride=2, groups=x.shape[1])


class Discriminator(nn.Module):
    """conv5x5, stages of (conv3x3, blur-down, GroupNorm, LeakyReLU 0.1), max pool to the grid, conv1x1, conv5x5."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        first, *stages = config.widths
        act = nn.LeakyReLU(0.1)
        layers: list[nn.Module] = [nn.Conv2d(3, first, 5, padding=2), act]
        for a, b in zip(config.widths[:-1], stages, strict=True):
            layers += [nn.Conv2d(a, b, 3, padding=1), BlurDown(), nn.GroupNorm(min(32, b), b), act]
        last = config.widths[-1]
        layers += [nn.AdaptiveMaxPool2d(config.grid), nn.Conv2d(last, last, 1), act, nn.Conv2d(last, 1, 5, padding=2)]
        self.layers = nn.Sequential(*layers)
        self.register_buffer("mean_real", torch.zeros(()))  # LeCam's running means of the logits
        self.register_buffer("mean_fake", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)

    @torch.no_grad()
    def track(self, real: Tensor, fake: Tensor, decay: float = 0.999) -> None:
        """Update LeCam's running means."""
        self.mean_real.lerp_(real.mean().to(self.mean_real), 1 - decay)
        self.mean_fake.lerp_(fake.mean().to(self.mean_fake), 1 - decay)
