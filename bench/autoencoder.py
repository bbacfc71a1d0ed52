"""Timing of the autoencoders: uint8 images to latents, and latents to uint8 images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from bench.subjects import Subject
from vgt.core import files, scenes
from vgt.inference.images import to_float, to_uint8
from vgt.inference.tokenizer import encode

OPERATIONS = ("encode", "decode")
BATCHES = 4  # a round: one batch of a small autoencoder is over too soon to be timed well


def workload_hash(subject: Subject, batch: int) -> str:
    return files.digest_json([scenes.WORLD, "test", batch, BATCHES, subject.ae.config.image_size])


def test_images(count: int, size: int) -> np.ndarray:
    """Test scenes uint8 [count, size, size, 3]; where scenes are not drawn at that size, the largest, repeated."""
    if size in scenes.SIZES:
        return scenes.images("test", range(count), size)
    drawn = scenes.images("test", range(count), max(scenes.SIZES))
    times = -(-size // drawn.shape[1])
    return np.tile(drawn, (1, times, times, 1))[:, :size, :size]


def calls(subject: Subject, batch: int) -> dict[str, Callable[[], object]]:
    """The two timed calls over ``BATCHES * batch`` images."""
    ae = subject.ae
    device = next(ae.parameters()).device
    images = test_images(BATCHES * batch, ae.config.image_size)
    with torch.no_grad():
        latents = [ae.encode(to_float(part, device)) for part in np.split(images, BATCHES)]

    @torch.no_grad()
    def decode() -> list[np.ndarray]:
        return [to_uint8(ae.decode(z)) for z in latents]

    return {"encode": lambda: encode(ae, images, batch), "decode": decode}
