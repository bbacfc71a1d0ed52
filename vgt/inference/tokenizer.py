"""Image tokenizers (autoencoders) at work: uint8 images in, uint8 images, latents or indices out."""

from __future__ import annotations

import numpy as np
import torch

from vgt.inference.images import to_float, to_uint8


def _device(module) -> torch.device:
    return next(module.parameters()).device


@torch.no_grad()
def token_grid(ae) -> tuple[int, int]:
    """Rows and columns of the indices that a discrete tokenizer makes of an image of its own size."""
    size = ae.config.image_size
    h, w = ae.encode(torch.zeros(1, 3, size, size, device=_device(ae))).shape[1:]
    return h, w


@torch.no_grad()
def reconstruct(ae, images: np.ndarray, batch: int = 32) -> np.ndarray:
    """uint8 [N, H, W, 3] -> uint8 [N, H, W, 3], sides multiples of the autoencoder's stride."""
    parts = [to_uint8(ae(to_float(images[i : i + batch], _device(ae)))) for i in range(0, len(images), batch)]
    return np.concatenate(parts)


@torch.no_grad()
def reconstruct_float(ae, images: np.ndarray, batch: int = 32) -> np.ndarray:
    """uint8, or float32 in [0, 1], [N, H, W, 3] -> float32 [N, H, W, 3], black 0 and white 1, as the decoder gives
    them: neither clamped nor rounded."""
    parts = []
    for i in range(0, len(images), batch):
        x = to_float(images[i : i + batch] if images.dtype == np.uint8 else images[i : i + batch] * 255, _device(ae))
        parts.append(((ae(x).float() + 1) / 2).permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(parts)


@torch.no_grad()
def encode(ae, images: np.ndarray, batch: int = 32) -> np.ndarray:
    """uint8 [N, H, W, 3] -> float32 latents [N, T, d], raster order; of a discrete tokenizer its codebook's vectors."""
    parts = []
    for i in range(0, len(images), batch):
        z = ae.encode(to_float(images[i : i + batch], _device(ae)))
        parts.append((z if z.is_floating_point() else ae.vectors(z)).flatten(2).mT)
    return torch.cat(parts).float().cpu().numpy()


@torch.no_grad()
def indices(ae, images: np.ndarray, batch: int = 32) -> np.ndarray:
    """uint8 [N, H, W, 3] -> int64 [N, T], the indices that a discrete tokenizer gives, raster order."""
    parts = [ae.encode(to_float(images[i : i + batch], _device(ae))).flatten(1) for i in range(0, len(images), batch)]
    return torch.cat(parts).cpu().numpy()


@torch.no_grad()
def probe_features(ae, images: np.ndarray, batch: int = 32) -> np.ndarray:
    """uint8 [N, H, W, 3] -> float32 [N, d], what a tokenizer with ``probe_features`` gives for a linear probe."""
    parts = [ae.probe_features(to_float(images[i : i + batch], _device(ae))) for i in range(0, len(images), batch)]
    return torch.cat(parts).float().cpu().numpy()


def tile(image: np.ndarray, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Cut an image of any shape into square tiles, the rim mirrored: uint8 [n, size, size, 3] and (rows, columns)."""
    h, w, _ = image.shape
    rows, cols = -(-h // size), -(-w // size)
    padded = np.pad(image, ((0, rows * size - h), (0, cols * size - w), (0, 0)), mode="symmetric")
    tiles = padded.reshape(rows, size, cols, size, 3).swapaxes(1, 2).reshape(-1, size, size, 3)
    return tiles, (rows, cols)


def untile(tiles: np.ndarray, layout: tuple[int, int], height: int, width: int) -> np.ndarray:
    """The inverse of ``tile``."""
    rows, cols = layout
    size = tiles.shape[1]
    whole = tiles.reshape(rows, cols, size, size, 3).swapaxes(1, 2).reshape(rows * size, cols * size, 3)
    return whole[:height, :width]
