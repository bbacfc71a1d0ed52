"""The autoencoder's discriminator (docs/vgt.md 1.9): images in [0, 1] -> a map of logits."""

from __future__ import annotations

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vgt.core.config import Config, Count, Whole


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


# ------------------------------------------------------------------------------- on the features of a frozen network


class FeatureDiscriminatorConfig(Config):
    """``size``: side in pixels of what the frozen vision transformer sees;
    ``taps``: after which blocks, 0 the embedding; ``kernel`` of the heads' second convolution.  By default DINO's
    ViT-S/16, with ``taps`` counted from 1 (docs/vfmtok.md 9)."""

    size: Count = 224
    taps: tuple[Whole, ...] = (0, 3, 6, 9, 12)
    kernel: Count = 9


class GroupBatchNorm(nn.Module):
    """Batch norm over groups of about ``group`` images, without running statistics: [B, C, L] -> the same.  Raises
    ValueError for a batch that the groups do not divide."""

    def __init__(self, width: int, group: int = 8):
        super().__init__()
        self.group = group
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        groups = -(-len(x) // self.group)
        if len(x) % groups:
            raise ValueError(f"{len(x)} images make no {groups} equal groups; use a multiple of {self.group} a batch")
        y = x.float().unflatten(0, (groups, -1))
        mean, var = y.mean((1, 3), keepdim=True), y.var((1, 3), keepdim=True, unbiased=False)
        y = ((y - mean) * torch.rsqrt(var + 1e-5)).flatten(0, 1)
        return (y * self.weight[:, None] + self.bias[:, None]).to(x.dtype)


class FeatureHead(nn.Module):
    """[B, C, L] -> logits [B, L]: a convolution, a residual one along the tokens, one to a single channel."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.first = nn.Sequential(norm(nn.Conv1d(width, width, 1)), GroupBatchNorm(width), nn.LeakyReLU(0.2))
        along = nn.Conv1d(width, width, kernel, padding=kernel // 2, padding_mode="circular")
        self.second = nn.Sequential(norm(along), GroupBatchNorm(width), nn.LeakyReLU(0.2))
        self.last = norm(nn.Conv1d(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last((x + self.second(x)) / 2**0.5).squeeze(1)


class FeatureDiscriminator(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] -> logits [B, taps x patches] of heads on a frozen transformer's states, patches
    plus the class token (docs/vfmtok.md 9).

    Images larger than ``size`` on both sides are cropped at random, one crop a batch, or shrunk by area, each with
    probability 1/2; smaller ones are enlarged."""

    def __init__(self, config: FeatureDiscriminatorConfig, network: nn.Module, mean, std):
        super().__init__()
        self.config = config
        self.network = network.eval().requires_grad_(False)
        width = network.config.hidden_size
        if max(config.taps) > network.config.num_hidden_layers:
            raise ValueError(f"taps {config.taps} are impossible with {network.config.num_hidden_layers} blocks")
        self.heads = nn.ModuleList(FeatureHead(width, config.kernel) for _ in config.taps)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> FeatureDiscriminator:
        """The network stays in eval mode."""
        super().train(mode).network.eval()
        return self

    def shown(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """What the network sees: [B, 3, size, size]."""
        size, (h, w) = self.config.size, images.shape[-2:]
        if (h, w) == (size, size):
            return images
        if min(h, w) <= size:
            return F.interpolate(images, (size, size), mode="bicubic", align_corners=False).clamp(-1, 1)
        draw = torch.rand(3, generator=rng, device=rng.device)
        if draw[0] < 0.5:
            return F.interpolate(images, (size, size), mode="area")
        top, left = (int(d * (side - size + 1)) for d, side in zip(draw[1:], (h, w), strict=True))
        return images[..., top : top + size, left : left + size]

    def forward(self, images: Tensor, rng: torch.Generator) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            x = ((self.shown(images.float(), rng) + 1) / 2 - self.mean) / self.std
            states = self.network(pixel_values=x, output_hidden_states=True).hidden_states
        patches = (self.config.size // _patch(self.network.config)) ** 2
        logits = []
        for head, tap in zip(self.heads, self.config.taps, strict=True):
            state = states[tap]
            seen = state[:, -patches:]
            logits.append(head((seen + state[:, :1] if state.shape[1] > patches else seen).mT))
        return torch.cat(logits, 1)


def _patch(config) -> int:
    return config.patch_size if isinstance(config.patch_size, int) else config.patch_size[0]
