"""Two numbers made of entropies: the inception score (of an image's classes against those of its split) and how a
quantised tokenizer uses its codebook (docs/evaluators.md 1.6, 1.7).

How images are split changes the inception score, so its variants have names: ``is-10``, ``is-5000``, ``is-1``.

Shapes: N images, K classes, S splits, B blocks.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.special import log_softmax

from evals.metrics.frechet import Jackknife

VARIANTS = ("is-10", "is-5000", "is-1")
SPLITS, CHUNK, SEED = 10, 5000, 2020


def splits(n: int, variant: str) -> np.ndarray:
    """The split of each of n images in their order, int [N].  Raises ValueError for fewer images than splits."""
    if variant == "is-5000":
        return np.arange(n) // CHUNK
    if variant == "is-1":
        return np.zeros(n, int)
    if n < SPLITS:
        raise ValueError(f"{variant} of {n} images; give {SPLITS} or more")
    found = np.empty(n, int)
    edges = np.arange(SPLITS + 1) * n // SPLITS
    shuffled = np.random.RandomState(SEED).permutation(n)
    for i in range(SPLITS):
        found[shuffled[edges[i] : edges[i + 1]]] = i
    return found


def _tables(logits: np.ndarray, parts: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per block and split: number of images [B, S], sum of sum_k p log p [B, S], sum of p [B, S, K]."""
    shape = (int(blocks.max()) + 1, int(parts.max()) + 1)
    count, entropy, classes = np.zeros(shape), np.zeros(shape), np.zeros((*shape, logits.shape[1]))
    for block in range(shape[0]):
        for part in range(shape[1]):
            log_p = log_softmax(np.asarray(logits[(blocks == block) & (parts == part)], np.float64), axis=1)
            p = np.exp(log_p)
            count[block, part], entropy[block, part] = len(p), (p * log_p).sum()
            classes[block, part] = p.sum(0)
    return count, entropy, classes


def _score(count: np.ndarray, entropy: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Per split, from sums over blocks: exp((sum p log p) / n - sum_k q log q), q the mean of p -> [S]."""
    count, entropy, classes = count.sum(0), entropy.sum(0), classes.sum(0)
    kept = count > 0
    q = classes[kept] / count[kept, None]
    log_q = np.log(q, where=q > 0, out=np.zeros_like(q))
    return np.exp(entropy[kept] / count[kept] - (q * log_q).sum(1))


def inception_score(logits: np.ndarray, variant: str, blocks: np.ndarray) -> tuple[Jackknife, float]:
    """(mean over splits, also without each block of images; standard deviation over splits) of logits [N, K].

    An image keeps its split while a block is left out."""
    if len(logits) == 0:
        raise ValueError(f"{variant} of no image; give at least one")
    tables = _tables(logits, splits(len(logits), variant), blocks)
    per_split = _score(*tables)
    count = len(tables[0])
    keep = [np.arange(count) != k for k in range(count)] if count > 1 else []
    replicates = tuple(float(_score(*(t[k] for t in tables)).mean()) for k in keep)
    return Jackknife(float(per_split.mean()), replicates, len(logits)), float(per_split.std())


# ----------------------------------------------------------------------------------------------------------- codebook


def codebook_counts(indices: Iterable[np.ndarray], size: int) -> np.ndarray:
    """How often each of ``size`` codes occurs: int64 [size].  Raises ValueError for an index outside the codebook."""
    found = np.zeros(size, np.int64)
    for part in indices:
        flat = np.asarray(part).ravel()
        if len(flat) and (flat.min() < 0 or flat.max() >= size):
            wrong = flat.max() if flat.max() >= size else flat.min()
            raise ValueError(f"index {wrong} is outside the codebook of {size} entries")
        found += np.bincount(flat, minlength=size)
    return found


def codebook_use(found: np.ndarray) -> dict[str, float]:
    """From counts [size] with at least one index: usage = distinct indices / size, dead = codes without one, entropy =
    -sum p log2(p + 1e-8) in bits, perplexity = 2^entropy."""
    p = found / found.sum()
    entropy = float(-(p * np.log2(p + 1e-8)).sum())
    return {
        "codebook-usage": float((found > 0).mean()),
        "codebook-dead": float((found == 0).sum()),
        "codebook-entropy": entropy,
        "codebook-perplexity": float(2**entropy),
    }
