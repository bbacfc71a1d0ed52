"""Decoding orders and attention layouts of QueryAR and MAR-in-VLM (docs/vgt.md 2.4, 2.11, 2.12; docs/mar.md 3.1;
docs/decode.md 6).

Masks are bool, True = may attend.  L padded text length, s start tokens, N image tokens.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor


def random_orders(n: int, rows: int, rng: torch.Generator) -> Tensor:
    """int64 [rows, n]: an independent uniform permutation per row."""
    return torch.rand(rows, n, generator=rng, device=rng.device).argsort(1)


def group_sizes(n: int, acceleration: int) -> list[int]:
    """Sizes of the G = n // acceleration groups, the first n % G one larger (docs/vgt.md 2.11).

    Raises ValueError where the acceleration does not lie in 1 .. n."""
    if not 1 <= acceleration <= n:
        raise ValueError(f"acceleration {acceleration} is impossible with {n} image tokens; choose 1 .. {n}")
    groups = n // acceleration
    return [n // groups + (g < n % groups) for g in range(groups)]


def cosine_sizes(n: int, steps: int) -> list[int]:
    """Tokens that MAR reveals per step: after step k, floor(n cos(pi/2 (k+1)/S)) stay masked, at least one is revealed
    each time, the last step reveals the rest (docs/mar.md 1.3)."""
    if not 1 <= steps <= n:
        raise ValueError(f"{steps} steps are impossible with {n} image tokens; choose 1 .. {n}")
    masked, sizes = n, []
    for k in range(steps):
        target = math.floor(n * math.cos(math.pi / 2 * (k + 1) / steps)) if k + 1 < steps else 0
        target = max(1, min(masked - 1, target)) if k + 1 < steps else 0
        sizes.append(masked - target)
        masked = target
    return sizes


def step_sizes(n: int, acceleration: int, schedule: str) -> list[int]:
    """Tokens of each decode step: "equal" groups (``group_sizes``), or as many steps on MAR's "cosine"
    (``cosine_sizes``).  Raises ValueError as they do."""
    equal = group_sizes(n, acceleration)
    return cosine_sizes(n, len(equal)) if schedule == "cosine" else equal


def decode_orders(kind: str, random: Tensor, sizes: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """int64 [rows, n]: the places of a ``grid`` (height, width) as each row decodes them in groups of ``sizes``:
    "random" as they are, "raster", or "spread" (``spread_orders``)."""
    if kind == "raster":
        return torch.arange(random.shape[1]).expand(len(random), -1)
    return spread_orders(random, sizes, grid) if kind == "spread" else random


def spread_orders(random: Tensor, sizes: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """int64 [rows, n]: orders whose groups, of ``sizes``, lie near what is decoded and far from each other, so that the
    tokens of a step have context and depend little on one another: the idea of locality-aware parallel decoding
    (arXiv 2507.01957), without its training and its thresholds (docs/decode.md 6).

    The m places of a group are chosen one by one, each the one with the least

        distance to what is decoded / 2 - min(distance to those chosen of its group, sqrt(n / m)),

    Euclidean distances between centres of cells on a ``grid`` (height, width); sqrt(n / m) apart, m places would cover
    the grid evenly, and farther is no better.  Ties go to the place that ``random`` [rows, n], a permutation per row,
    has first; so a group of one is any place beside what is decoded.  Raises ValueError where sizes, grid and
    permutations are not of one n."""
    rows, n = random.shape
    if sum(sizes) != n or grid[0] * grid[1] != n:
        raise ValueError(f"groups of {sum(sizes)} in all, a grid of {grid[0]} x {grid[1]}, and orders of {n} differ")
    distance, row = _distances(*grid), torch.arange(rows)
    tie = random.argsort(1) * 1e-9  # far below the least difference of two distances
    decoded, made = distance.new_full((rows, n), sum(grid)), []  # equally far from everywhere before the first group
    for m in sizes:
        apart, mates = math.sqrt(n / m), distance.new_full((rows, n), math.inf)
        for _ in range(m):
            place = (decoded / 2 - mates.clamp(max=apart) + tie).argmin(1)
            tie[row, place] = math.inf  # taken
            mates = torch.minimum(mates, distance[place])
            made.append(place)
        decoded = torch.minimum(decoded, mates)
    return torch.stack(made, 1)


@functools.lru_cache(maxsize=16)
def _distances(height: int, width: int) -> Tensor:
    """float64 [n, n] between all places of a grid in raster order."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    where = torch.stack([y, x], 2).flatten(0, 1).double()
    return torch.cdist(where, where, compute_mode="donot_use_mm_for_euclid_dist")


def mask_counts(rows: int, n: int, rng: torch.Generator, std: float = 0.25, low: float = 0.7) -> Tensor:
    """int64 [rows]: masked tokens per sample, ceil(n r), r ~ normal (1, std) truncated to [low, 1] (docs/mar.md
    3.2)."""
    # Half of a normal: with z uniform between Phi((low-1)/std) and Phi(0), r = 1 + std Phi^-1(z).
    normal = torch.distributions.Normal(0.0, 1.0)
    floor = normal.cdf(torch.tensor((low - 1) / std, dtype=torch.float64))
    z = floor + (0.5 - floor) * torch.rand(rows, generator=rng, device=rng.device, dtype=torch.float64)
    ratio = (1 + std * normal.icdf(z.clamp(1e-12, 0.5))).clamp(low, 1.0)
    return torch.ceil(n * ratio - 1e-9).long()


def interleaved_mask(text_mask: Tensor, start: int, tokens: int) -> Tensor:
    """[B, L + start + tokens, same]: causal over everything, text pads never attended (docs/vgt.md 2.4).
    ``text_mask`` bool [B, L]."""
    real = torch.cat([text_mask, text_mask.new_ones(len(text_mask), start + tokens)], 1)
    size = real.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=real.device).tril()
    diagonal = torch.eye(size, dtype=torch.bool, device=real.device)
    return (causal & real[:, None, :]) | diagonal  # a pad sees itself, so that no row of the softmax is empty


def prefix_mask(text_mask: Tensor, start: int, tokens: int) -> Tensor:
    """As above, but image rows see all image slots: text and start causal, image block bidirectional (docs/mar.md
    3.1)."""
    mask = interleaved_mask(text_mask, start, tokens)
    mask[:, -tokens:, -tokens:] = True
    return mask


def group_mask(keys: Tensor, pairs: int, queries: int) -> Tensor:
    """Mask of one exact parallel decode step: [B, pairs + queries, cache + pairs + queries].  ``keys`` bool [B, cache]
    says which cache entries are real; pair tokens are causal; a query sees cache, pairs and itself, not its siblings
    (docs/vgt.md 2.12)."""
    rows, size = len(keys), pairs + queries
    new = torch.ones(size, size, dtype=torch.bool, device=keys.device).tril()
    new[pairs:, pairs:] = torch.eye(queries, dtype=torch.bool, device=keys.device)
    return torch.cat([keys[:, None, :].expand(rows, size, -1), new.expand(rows, size, size)], 2)


def positions(text_mask: Tensor, start: int, tokens: int) -> Tensor:
    """int64 [B, L + start + tokens]: running count of real tokens minus one, so pads repeat T - 1 (docs/vgt.md 2.4)."""
    real = torch.cat([text_mask, text_mask.new_ones(len(text_mask), start + tokens)], 1)
    return (real.long().cumsum(1) - 1).clamp(min=0)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """bool [B, q, k] -> additive [B, 1, q, k] with 0 / lowest value."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)[:, None]


def turns_mask(turns: Tensor) -> Tensor:
    """bool [B, L, L]: a token sees the image (turn 0) and its own turn, causally.  ``turns`` int64 [B, L]."""
    size = turns.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=turns.device).tril()
    return causal & ((turns[:, None, :] == 0) | (turns[:, None, :] == turns[:, :, None]))


def turns_positions(turns: Tensor) -> Tensor:
    """int64 [B, L]: running positions in which every turn follows directly on the image, as if it were the first."""
    place = torch.arange(turns.shape[1], device=turns.device).expand_as(turns)
    begins = torch.cat([torch.ones_like(turns[:, :1], dtype=torch.bool), turns[:, 1:] != turns[:, :-1]], 1)
    begin = torch.where(begins, place, 0).cummax(1).values  # where the token's own turn begins
    image = (turns == 0).sum(1, keepdim=True)
    return torch.where(turns == 0, place, place - begin + image)
