"""Linear autoencoders on 16-pixel patches: the untrained baseline rows.

``pca``: the leading principal components of training patches.  ``random_projection``: random directions, the chance
anchor of the latent probes (docs/evaluators.md 5).  Both keep 64 numbers per patch, so a 64-pixel image has 16 x 64 =
1024, as many as the learned autoencoders' 64 tokens x 16 dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import linalg

from evals.engine.store import are_whole, read_arrays, write_arrays
from vgt.core import files, photos, scenes

PATCH, DIMS = 16, 64
TRAINING_IMAGES = 1024  # of each kind
VERSION = "patches-v1"


def to_patches(images: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, 3] -> float32 [N, T, 768] in [0, 1], patches in raster order.  Sides must divide by 16."""
    n, height, width, _ = images.shape
    if height % PATCH or width % PATCH:
        raise ValueError(f"images of {width}x{height} pixels do not divide into {PATCH}-pixel patches")
    grid = images.reshape(n, height // PATCH, PATCH, width // PATCH, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(n, -1, PATCH * PATCH * 3).astype(np.float32) / 255


def from_patches(patches: np.ndarray, height: int, width: int) -> np.ndarray:
    """The inverse of ``to_patches``, rounded to uint8 (docs/evaluators.md 1.2, ``round``)."""
    grid = patches.reshape(len(patches), height // PATCH, width // PATCH, PATCH, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    return np.rint(255 * np.clip(grid, 0, 1)).astype(np.uint8).reshape(len(patches), height, width, 3)


@dataclass(frozen=True)
class PatchAutoencoder:
    """``mean`` float32 [768], ``axes`` float32 [768, 64] with orthonormal columns (evals.engine.api.Tokenizer)."""

    name: str
    mean: np.ndarray
    axes: np.ndarray
    size: int | None = 64

    @property
    def fingerprint(self) -> str:
        return files.digest(VERSION, self.mean.tobytes(), self.axes.tobytes())

    def encode(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> float32 [N, T, 64]."""
        return (to_patches(images) - self.mean) @ self.axes

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> uint8 [N, H, W, 3]."""
        return from_patches(self.encode(images) @ self.axes.T + self.mean, *images.shape[1:3])


def training_patches(count: int, size: int) -> np.ndarray:
    """float32 [patches, 768] of the first ``count`` training scenes and as many training crops of photographs."""
    both = np.concatenate([scenes.images("train", range(count), size), photos.images("train", range(count), size)])
    return to_patches(both).reshape(-1, PATCH * PATCH * 3)


def principal_axes(patches: np.ndarray, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """(mean [D], leading eigenvectors of the covariance [D, dims]), float32; the largest entry of each is positive."""
    mean = patches.mean(0, dtype=np.float64)
    centered = patches - mean
    dimension = centered.shape[1]
    _, vectors = linalg.eigh(centered.T @ centered, subset_by_index=[dimension - dims, dimension - 1])
    axes = vectors[:, ::-1]
    signs = np.sign(axes[np.abs(axes).argmax(0), np.arange(dims)])
    return mean.astype(np.float32), (axes * signs).astype(np.float32)


def pca(work: str | Path, count: int = TRAINING_IMAGES, size: int = 64) -> PatchAutoencoder:
    """The PCA autoencoder, fitted on ``count`` training scenes and as many photo crops; kept in ``work/pca``.  Raises
    ValueError for a ``size`` in pixels that is no multiple of PATCH."""
    if size % PATCH:
        raise ValueError(f"pca takes images in patches of {PATCH} px; {size} is no multiple, give --size {PATCH * 2}")
    key = files.digest_json([VERSION, scenes.WORLD, photos.fingerprint("train"), count, size, PATCH, DIMS])
    path = Path(work) / "pca" / f"{key[:12]}.npz"
    if not are_whole(path):
        mean, axes = principal_axes(training_patches(count, size), DIMS)
        write_arrays(path, mean=mean, axes=axes)
    stored = read_arrays(path)
    return PatchAutoencoder("pca", stored["mean"], stored["axes"], size)


def random_projection(seed: int = 0, size: int = 64) -> PatchAutoencoder:
    """Random orthonormal directions around mid-grey: what a representation scores that has learned nothing."""
    gaussian = np.random.default_rng(seed).normal(size=(PATCH * PATCH * 3, DIMS))
    axes = np.linalg.qr(gaussian)[0].astype(np.float32)
    return PatchAutoencoder("random_projection", np.full(PATCH * PATCH * 3, 0.5, np.float32), axes, size)
