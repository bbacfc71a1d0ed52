"""Masks as run lengths, COCO's forms: column by column, alternately zeros and ones, zeros first.

Evidence keeps them compressed, as one string that pycocotools reads too, so that scoring from boxes passes over them.
"""

from __future__ import annotations

import numpy as np


def runs(mask: np.ndarray) -> list[int]:
    """bool [H, W] -> lengths of its runs."""
    flat = mask.astype(bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return [0, *counts] if flat.size and flat[0] else counts


def compress(counts: list[int]) -> str:
    """Run lengths as COCO's string: from the fourth on the difference to the last but one, five bits a character from
    the lowest up, sign in the last one, 32 added while more follow, 48 to all."""
    text = []
    for i, count in enumerate(counts):
        rest = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            bits = rest & 31
            rest >>= 5
            more = rest != (-1 if bits & 16 else 0)
            text.append(chr(48 + bits + (32 if more else 0)))
    return "".join(text)


def expand(text: str) -> list[int]:
    """The inverse of ``compress``."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts


def encode(mask: np.ndarray) -> dict:
    """bool [H, W] -> ``{"size": [H, W], "counts": "..."}``."""
    return {"size": list(mask.shape), "counts": compress(runs(mask))}


def decode(code: dict) -> np.ndarray:
    """The inverse of ``encode``; ``counts`` may also be a list.  Raises ValueError where they do not fill the size."""
    height, width = code["size"]
    counts = expand(code["counts"]) if isinstance(code["counts"], str) else code["counts"]
    if sum(counts) != height * width:
        raise ValueError(f"run lengths sum to {sum(counts)}, a mask of {height} x {width} has {height * width} pixels")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape((height, width), order="F")
