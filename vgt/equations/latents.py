"""Latents of VGT-AE: normalisation, noise, pixel shuffle, grids (docs/vgt.md 1.2 - 1.6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def position_norm(z: Tensor, eps: float = 1e-6) -> Tensor:
    """Layer norm without affine over the last axis: each token gets mean 0, variance 1 over its channels
    (docs/vgt.md 1.5, the rule of the released checkpoints)."""
    return torch.nn.functional.layer_norm(z, z.shape[-1:], eps=eps)


def batch_norm(z: Tensor, eps: float = 1e-6) -> Tensor:
    """VGT Eq. 5 as printed: mean and std per channel over the batch and all positions (ablation)."""
    axes = tuple(range(z.ndim - 1))
    return (z - z.mean(axes, keepdim=True)) / (z.var(axes, unbiased=False, keepdim=True) + eps).sqrt()


NOISE_MODES = ("fixed", "uniform_max")


def add_noise(z: Tensor, gamma: float, mode: str, rng: torch.Generator) -> Tensor:
    """z + a eps.  "fixed": a = gamma (VGT Eq. 6); "uniform_max": a ~ U(0, gamma) once per image (reference);
    docs/vgt.md 1.6."""
    if mode not in NOISE_MODES:
        raise ValueError(f"noise_mode {mode!r} is unknown; choose one of {', '.join(NOISE_MODES)}")
    eps = torch.randn(z.shape, generator=rng, device=rng.device).to(z)
    if mode == "fixed":
        return z + gamma * eps
    a = gamma * torch.rand(z.shape[0], generator=rng, device=rng.device).to(z)
    return z + a.view(-1, *[1] * (z.ndim - 1)) * eps


def pixel_shuffle(x: Tensor, factor: int = 2) -> Tensor:
    """Fold each factor x factor neighbourhood into channels in InternVL's "v2" order: [n, h, w, c] ->
    [n, h/f, w/f, f f c], channel layout (dh, dw, c) (docs/vgt.md 1.2)."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // factor, factor, w // factor, factor, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(n, h // factor, w // factor, factor * factor * c)


def merge_patches(x: Tensor, patch: int, merge: int, frames: int) -> Tensor:
    """Qwen2.5-VL's patch layout: images [n, 3, H, W] -> [n gh gw, 3 frames patch patch], the merge group innermost,
    loops (gh/m, gw/m, m, m), each patch flattened (channel, frame, row, col); the still image repeated over frames
    (docs/vgt.md 1.3)."""
    n, c, height, width = x.shape
    gh, gw = height // patch, width // patch
    x = x.reshape(n, c, gh // merge, merge, patch, gw // merge, merge, patch)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)  # n, gh/m, gw/m, m, m, c, row, col
    x = x.unsqueeze(-3).expand(*x.shape[:-2], frames, *x.shape[-2:])
    return x.reshape(n * gh * gw, c * frames * patch * patch)


def crop_grid(grid: Tensor, height: int, width: int) -> Tensor:
    """Centre crop of a learned grid [1, D, H, W] to [height width, D] in raster order (docs/vgt.md 2.1)."""
    _, d, big_h, big_w = grid.shape
    if height > big_h or width > big_w:
        raise ValueError(f"a {height} x {width} latent grid does not fit the query grid of {big_h} x {big_w}")
    top, left = (big_h - height) // 2, (big_w - width) // 2
    return grid[0, :, top : top + height, left : left + width].reshape(d, height * width).T


def sinusoid_grid(width: int, side: int, amplitude: float) -> Tensor:
    """[1, width, side, side]: a quarter of the channels each for sin and cos of row and column, frequencies falling
    from pi/2 a cell to pi/200.  A start for learned grids in which neighbours look alike (not in docs/vgt.md 2.1, whose
    grids start as noise).  Raises ValueError for a width that is no multiple of 4."""
    if width % 4:
        raise ValueError(f"a grid of sinusoids needs a width that is a multiple of 4, not {width}")
    frequency = math.pi / 2 * 100.0 ** -(torch.arange(width // 4) / (width // 4))
    angle = frequency[:, None] * torch.arange(side)  # [width / 4, side]
    rows, columns = angle[:, :, None].expand(-1, -1, side), angle[:, None, :].expand(-1, side, -1)
    return amplitude * torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()])[None]
