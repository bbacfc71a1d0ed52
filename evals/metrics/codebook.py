"""How a quantised tokenizer uses its codebook over a whole set of images (docs/evaluators.md 1.6)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

METRICS = ("codebook-usage", "codebook-entropy", "codebook-perplexity")
UNITS = {"codebook-usage": "share", "codebook-entropy": "bit", "codebook-perplexity": ""}


def counts(indices: Iterable[np.ndarray], size: int) -> np.ndarray:
    """How often each of ``size`` codes occurs: int64 [size].  Raises ValueError for an index outside the codebook."""
    found = np.zeros(size, np.int64)
    for part in indices:
        flat = np.asarray(part).ravel()
        if len(flat) and (flat.min() < 0 or flat.max() >= size):
            wrong = flat.max() if flat.max() >= size else flat.min()
            raise ValueError(f"index {wrong} is outside the codebook of {size} entries")
        found += np.bincount(flat, minlength=size)
    return found


def statistics(found: np.ndarray) -> dict[str, float]:
    """From counts [size] with at least one index: usage = distinct indices / size, entropy = -sum p log2(p + 1e-8) in
    bits, perplexity = 2^entropy."""
    p = found / found.sum()
    entropy = float(-(p * np.log2(p + 1e-8)).sum())
    return {
        "codebook-usage": float((found > 0).mean()),
        "codebook-entropy": entropy,
        "codebook-perplexity": float(2**entropy),
    }
