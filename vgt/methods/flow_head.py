"""The flow head: a per-token MLP with adaptive layer norm that predicts velocities (docs/vgt.md 2.7 - 2.9).

Shapes: N tokens, d latent channels, C condition width, W head width, K network evaluations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vgt.core.config import Config, Whole
from vgt.equations import flow, solvers

FREQUENCIES = 256
REPA_WIDTH = 2048  # of the projector between the head and the features that it is aligned with


class FlowHeadConfig(Config):
    """``repa``: channels of the features that its middle is aligned with in training (docs/vgt.md 2.5), 0 for none."""

    width: int = 1536
    depth: int = 12
    repa: Whole = 0


def time_features(t: Tensor) -> Tensor:
    """Sinusoid of t itself (not x1000): [N] -> [N, 256], 128 cosines then 128 sines (docs/vgt.md 2.7)."""
    half = FREQUENCIES // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], 1)


class TimeEmbed(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(time_features(t).to(self.mlp[0].weight.dtype))


class ResBlock(nn.Module):
    """x + gate MLP(LN(x) (1 + scale) + shift)."""

    def __init__(self, width: int):
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        shift, scale, gate = self.adaLN_modulation(y).chunk(3, -1)
        return x + gate * self.mlp(self.in_ln(x) * (1 + scale) + shift)


class FinalLayer(nn.Module):
    def __init__(self, width: int, d_z: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.linear = nn.Linear(width, d_z)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(y).chunk(2, -1)
        return self.linear(self.norm(x) * (1 + scale) + shift)


class FlowHead(nn.Module):
    """(x [N, d], t [N], c [N, C]) -> velocity [N, d]; exactly 0 at initialisation."""

    def __init__(self, config: FlowHeadConfig, d_z: int, condition: int):
        super().__init__()
        width = config.width
        self.time_embed = TimeEmbed(width)
        self.cond_embed = nn.Linear(condition, width)
        self.input_proj = nn.Linear(d_z, width)
        self.res_blocks = nn.ModuleList(ResBlock(width) for _ in range(config.depth))
        self.final_layer = FinalLayer(width, d_z)
        if config.repa:
            layers = (nn.Linear(width, REPA_WIDTH), nn.SiLU(), nn.Linear(REPA_WIDTH, REPA_WIDTH), nn.SiLU())
            self.repa_projector = nn.Sequential(*layers, nn.Linear(REPA_WIDTH, config.repa))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for linear in (self.time_embed.mlp[0], self.time_embed.mlp[2]):
            nn.init.normal_(linear.weight, std=0.02)
        for module in (*(b.adaLN_modulation[1] for b in self.res_blocks), self.final_layer.adaLN_modulation[1]):
            nn.init.zeros_(module.weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    def forward(self, x: Tensor, t: Tensor, c: Tensor, middle: list[Tensor] | None = None) -> Tensor:
        """``middle`` takes the output [N, W] of the block in the middle."""
        y = self.time_embed(t) + self.cond_embed(c)
        x = self.input_proj(x.to(self.input_proj.weight.dtype))
        depth = len(self.res_blocks)
        for place, block in enumerate(self.res_blocks, 1):
            x = block(x, y)
            if middle is not None and place == min(depth, max(2, depth // 2)):
                middle.append(x)
        return self.final_layer(x, y).float()

    def loss(
        self, target: Tensor, c: Tensor, shift: float, repeats: int, rng: torch.Generator,
        features: Tensor | None = None, repa: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """Flow-matching MSE per token [N] (repeats averaged): target latents [N, d], conditions [N, C].  With
        ``features`` [N, F] of the image, less ``repa`` times the cosine between them and the projected output of the
        middle block (REPA, docs/vgt.md 2.5)."""
        n = len(target)
        x1 = target.float().repeat(repeats, 1)
        t = flow.logit_normal_time(n * repeats, shift, rng, target.device)
        x0 = torch.randn(x1.shape, generator=rng, device=rng.device).to(x1)
        middle: list[Tensor] | None = None if features is None else []
        v = self(flow.interpolate(x1, x0, t[:, None]), t, c.repeat(repeats, 1), middle)
        found = (v - flow.velocity(x1, x0)).square().mean(1).view(repeats, n).mean(0)
        if middle is None:
            return found
        aligned = self.repa_projector(middle[0]).float().view(repeats, n, -1)
        return found - repa * nn.functional.cosine_similarity(aligned, features.float(), dim=-1).mean(0)

    @torch.no_grad()
    def sample(self, c: Tensor, guidance: float, noise: Tensor, table: solvers.Scheme) -> Tensor:
        """Latents [N, d], nothing computed ahead: the reference implementation.  ``c``: [N, C], or [2 N, C] with the
        unconditional rows second when ``guidance`` is not 1; ``noise`` [N, table.draws or more, d]: the start, and one
        draw per further evaluation of a stochastic sampler (docs/vgt.md 2.9)."""
        n = len(noise)
        x = noise[:, 0].float()
        x_before = v_before = None
        for k, time in enumerate(table.times):
            t = torch.full((len(c),), time, device=c.device)
            v = self(x.repeat(len(c) // n, 1), t, c)
            if len(c) > n:
                v = flow.guide(v[:n], v[n:], guidance)
            x, x_before, v_before = table.advance(k, x, v, x_before, v_before, noise), x, v
        return x
