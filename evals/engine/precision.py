"""What decides the last digits of a network that scores: float32 means float32, on every device.

torch lets convolutions in float32 run in TF32 (ten bits of mantissa) on recent GPUs.  Every network that scores
(judges, feature extractors, LPIPS) runs within ``full_float32``, and its records carry ``PRECISION``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

PRECISION = {"tf32": False}  # in the parameters of what such a network has measured


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """No TF32 within, the process's own settings afterwards; also a decorator, ``@full_float32()``."""
    import torch

    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
