"""Region-adaptive tokens: anchor queries that look where they choose (docs/vfmtok.md 4).

Shapes: B images, N = n x n anchors, D width, H heads of D / H, L levels of h_l x w_l cells, P points a head and level.
Places are (x, y) in [0, 1] of the image, row by row from the top left.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Sizes = Sequence[tuple[int, int]]


def anchor_points(n: int) -> Tensor:
    """[N, 2]: the middles of the cells of an n x n grid."""
    middles = (torch.arange(n) + 0.5) / n
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)


def deformable_attention(levels: Sequence[Tensor], places: Tensor, weights: Tensor) -> Tensor:
    """sum over l, p of weight x value at a place (Zhu et al., Deformable DETR, 2021, Eq. 3), fp32: values
    [B, H, d, h_l, w_l], ``places`` [B, N, H, L, P, 2], ``weights`` [B, N, H, L, P] -> [B, N, H d].  Between cells
    bilinear, zero outside; the first cell's middle is half a cell from the rim."""
    b, n, heads = weights.shape[:3]
    total = 0
    for place, values in enumerate(levels):
        grid = 2 * places[:, :, :, place].float().transpose(1, 2).flatten(0, 1) - 1  # [B H, N, P, 2]
        flat = values.flatten(0, 1).float()
        seen = F.grid_sample(flat, grid, "bilinear", "zeros", align_corners=False)  # [B H, d, N, P]
        share = weights[:, :, :, place].transpose(1, 2).flatten(0, 1)[:, None]  # [B H, 1, N, P]
        total = total + (seen * share).sum(-1)
    return total.unflatten(0, (b, heads)).flatten(1, 2).mT.reshape(b, n, -1)


def ring(heads: int, levels: int, points: int) -> Tensor:
    """[H, L, P, 2] offsets in cells at the start: head h looks in the direction 2 pi h / H, its largest component 1, 2,
    ..., P cells away."""
    angle = torch.arange(heads) * (2 * math.pi / heads)
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    steps = torch.arange(1, points + 1, dtype=torch.float32)
    return (direction[:, None, None] * steps[:, None]).expand(heads, levels, points, 2).contiguous()


@dataclass(frozen=True)
class Look:
    """Where an image's tokens looked in one layer, in all heads, levels and points together: ``places`` [B, N, S, 2],
    ``weights`` [B, N, S], which sum to the number of heads."""

    places: Tensor
    weights: Tensor


class DeformableAttention(nn.Module):
    """Queries [B, N, D] over level maps [B, D, h_l, w_l] (4.4): offsets and weights come from the query."""

    def __init__(self, width: int, heads: int, levels: int, points: int):
        super().__init__()
        self.shape = (heads, levels, points)
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj, self.output_proj = nn.Linear(width, width), nn.Linear(width, width)
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(ring(*self.shape).flatten())
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def look(self, query: Tensor, points: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
        """Places [B, N, H, L, P, 2] and weights [B, N, H, L, P] for anchors at ``points`` [N, 2]."""
        heads, levels, count = self.shape
        offsets = self.sampling_offsets(query).unflatten(-1, (heads, levels, count, 2))
        cells = torch.tensor([(w, h) for h, w in sizes], dtype=offsets.dtype, device=offsets.device)  # [L, 2]
        places = points[None, :, None, None, None] + offsets / cells[:, None]
        weights = self.attention_weights(query).unflatten(-1, (heads, levels * count)).softmax(-1)
        return places, weights.unflatten(-1, (levels, count))

    def forward(self, query: Tensor, points: Tensor, levels: Sequence[Tensor]) -> Tensor:
        heads = self.shape[0]
        # One product for the cells of all levels; each is a map of its own again for the sampling.
        sizes = [tuple(level.shape[-2:]) for level in levels]
        values = self.value_proj(torch.cat([level.flatten(2).mT for level in levels], 1))
        parts = values.split([h * w for h, w in sizes], 1)
        maps = [part.mT.unflatten(2, size).unflatten(1, (heads, -1)) for part, size in zip(parts, sizes, strict=True)]
        return self.output_proj(deformable_attention(maps, *self.look(query, points, sizes)).to(query.dtype))


class WindowAttention(nn.Module):
    """Plain cross-attention of every anchor to the cells in its own window of the image, on all levels together: the
    alternative that deformable attention is compared with (docs/vfmtok.md 15.4)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.heads = heads

    @staticmethod
    @functools.lru_cache(maxsize=16)
    def outside(n: int, sizes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
        """bool [N, cells of all levels]: not in the anchor's window; a window without a middle of a cell has the cell
        that its own middle is in."""
        masks = []
        for h, w in sizes:
            near = []
            for side in (h, w):
                cells = (torch.arange(side) + 0.5) * n / side  # in windows
                inside = cells.long()[None] == torch.arange(n)[:, None]
                own = ((torch.arange(n) + 0.5) * side / n).long()
                near.append(inside | (~inside.any(1, keepdim=True) & (torch.arange(side)[None] == own[:, None])))
            masks.append((near[0][:, None, :, None] & near[1][None, :, None, :]).flatten(2).flatten(0, 1))
        return ~torch.cat(masks, 1).to(device)

    def forward(self, query: Tensor, points: Tensor, levels: Sequence[Tensor]) -> Tensor:
        values = torch.cat([level.flatten(2).mT for level in levels], 1)
        sizes = tuple(tuple(level.shape[-2:]) for level in levels)
        mask = self.outside(math.isqrt(len(points)), sizes, query.device)
        return self.attention(query, values, values, attn_mask=mask, need_weights=False)[0]


class CausalAttention(nn.Module):
    """Self-attention in which a token sees itself and those before it; ``dropout`` of the probabilities in training."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        made = (project(x) for project in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in made)
        dropout = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.out_proj(found.transpose(1, 2).flatten(2))


class RegionLayer(nn.Module):
    """Norms after the residuals (4.4): cross-attention, causal self-attention over the anchors, MLP with ReLU."""

    def __init__(self, width: int, heads: int, hidden: int, cross: nn.Module):
        super().__init__()
        self.cross_attn, self.self_attn = cross, CausalAttention(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, positions: Tensor, points: Tensor, levels: Sequence[Tensor]) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # both attentions in fp32
            x = self.norm1(x + self.cross_attn(x + positions, points, levels))
            x = self.norm3(x + self.self_attn(x + positions))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x)))).to(x.dtype)  # autocast's is another


class Projector(nn.Module):
    """Cells [B, P, C] -> [B, P, D] (4.1)."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        first, second = nn.Linear(channels, width, bias=False), nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(first, nn.LayerNorm(width), nn.ReLU(), second, nn.LayerNorm(width))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.mlp(x))


class RegionEncoder(nn.Module):
    """Level maps [B, C_l, h_l, w_l] -> tokens [B, N, D] of n x n anchors.  ``attention``: "deformable" or "windows"."""

    def __init__(
        self, channels: Sequence[int], n: int, width: int, heads: int, layers: int, points: int, hidden: int,
        attention: str = "deformable",
    ):  # fmt: skip
        super().__init__()
        self.projectors = nn.ModuleList(Projector(c, width) for c in channels)
        self.tokens = nn.Parameter(torch.randn(1, n * n, width) * width**-0.5)
        self.positions = nn.Parameter(torch.randn(1, n * n, width) * width**-0.5)
        self.norm = nn.LayerNorm(width)
        self.register_buffer("points", anchor_points(n), persistent=False)

        def cross() -> nn.Module:
            if attention == "windows":
                return WindowAttention(width, heads)
            return DeformableAttention(width, heads, len(channels), points)

        self.layers = nn.ModuleList(RegionLayer(width, heads, hidden, cross()) for _ in range(layers))

    def maps(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """[B, D, h_l, w_l]: what the anchors look at."""
        made = []
        for project, level in zip(self.projectors, levels, strict=True):
            cells = project(level.flatten(2).mT).to(self.tokens.dtype)
            made.append(cells.mT.unflatten(2, level.shape[-2:]))
        return made

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        return self._run(self.maps(levels), len(self.layers))

    def _run(self, maps: Sequence[Tensor], count: int) -> Tensor:
        x = self.norm(self.tokens).expand(len(maps[0]), -1, -1)
        for layer in self.layers[:count]:
            x = layer(x, self.positions, self.points, maps)
        return x

    def look(self, levels: Sequence[Tensor]) -> Look:
        """Where the last layer looks.  Raises ValueError for attention that does not choose."""
        last = self.layers[-1].cross_attn
        if not isinstance(last, DeformableAttention):
            raise ValueError("attention in windows chooses no places; use a model with model.attention deformable")
        maps = self.maps(levels)
        query = self._run(maps, len(self.layers) - 1) + self.positions
        places, weights = last.look(query, self.points, [m.shape[-2:] for m in maps])
        return Look(places.flatten(2, 4), weights.flatten(2))
