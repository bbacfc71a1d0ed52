"""One integer seed per image, from names alone: never from a batch index, a process rank or a clock."""

from __future__ import annotations

import hashlib


def image_seed(base: int, *names: str | int) -> int:
    """A seed in 0 .. 2**63-1 for one image, for example ``image_seed(0, prompt_id, sample_index)``."""
    text = "\x1f".join(map(str, (base, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
