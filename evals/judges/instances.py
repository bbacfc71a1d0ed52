"""From Mask2Former's queries to instances, as mmdet does it (docs/evaluators.md 2.8): pure functions of tensors.

Q queries, C classes, (h, w) the mask logits' grid, (H, W) sides of an image in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SHORT, LONG, DIVISOR = 800, 1333, 32
MOST = 100  # (query, class) pairs kept of an image
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def input_size(height: int, width: int, short: int = SHORT, long: int = LONG) -> tuple[int, int]:
    """Sides after scaling to a short side of ``short``, or less where the long one would exceed ``long``; rounded."""
    scale = min(long / max(height, width), short / min(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


def prepare(image: Tensor, short: int = SHORT, long: int = LONG) -> tuple[Tensor, tuple[int, int]]:
    """uint8 [H, W, 3] -> normalised float32 [1, 3, H', W'], and the sides of what is image in it.

    Bilinear without antialiasing to whole grey levels, ImageNet normalisation, then zeros at the right and below up
    to multiples of DIVISOR."""
    size = input_size(*image.shape[:2], short, long)
    pixels = image.permute(2, 0, 1)[None].float()
    pixels = functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=False)
    mean, std = (torch.tensor(v, device=image.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    pixels = (pixels.round().clamp(0, 255) / 255 - mean) / std
    return functional.pad(pixels, (0, -size[1] % DIVISOR, 0, -size[0] % DIVISOR)), size


def best_pairs(class_logits: Tensor, most: int = MOST) -> tuple[Tensor, Tensor, Tensor]:
    """[Q, C + 1] -> (p, query, class), each [min(most, Q C)], best first.

    Softmax over all C + 1, the last (no object) dropped: a query can give several classes."""
    p = class_logits.softmax(-1)[:, :-1]
    best = p.flatten().topk(min(most, p.numel()))
    return best.values, best.indices // p.shape[1], best.indices % p.shape[1]


def full_masks(logits: Tensor, padded: tuple[int, int], size: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Mask logits [N, h, w] -> [N, H, W]: bilinear to the ``padded`` input, padding cut off, bilinear to the
    ``original`` sides; corners not aligned."""
    how = {"mode": "bilinear", "align_corners": False}
    wide = functional.interpolate(logits[None], size=padded, **how)[:, :, : size[0], : size[1]]
    return functional.interpolate(wide, size=original, **how)[0]


def mask_confidence(logits: Tensor) -> Tensor:
    """[N, H, W] -> [N]: mean of sigmoid(logit) over the foreground (logit > 0), 1e-6 added to its pixel count."""
    inside = logits > 0
    return (logits.sigmoid() * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)


def tight_box(mask: Tensor) -> tuple[float, float, float, float]:
    """bool [H, W] -> (x1, y1, x2, y2) around its true pixels, far edges exclusive; all zero for an empty mask."""
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
