"""Subjects without a model: what a perfect, a blind and a random generator score.

``oracle`` draws the right scene (the judge's own ceiling), ``shuffled`` the right scene of another prompt (the
shuffled-prompt baseline: good images of the wrong thing), ``noise`` nothing at all.  ``through`` passes a generator's
images through an autoencoder: ``oracle`` through one is the ceiling of every generator on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evals.engine.api import Generator, Tokenizer, origin
from vgt.core import files
from vgt.core.captions import scene_from_text
from vgt.core.scenes import WORLD, render


@dataclass(frozen=True)
class Oracle:
    """Draws a scene that fulfils the prompt.  Raises ValueError for prompts outside the world's grammar."""

    size: int = 64
    name: str = "oracle"

    @property
    def fingerprint(self) -> str:
        return files.digest("oracle", WORLD, str(self.size))

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """uint8 [N, size, size, 3]."""
        return np.stack([render(scene_from_text(p, s), self.size).image for p, s in zip(prompts, seeds, strict=True)])


@dataclass(frozen=True)
class Noise:
    """Uniform noise, whatever the prompt."""

    size: int = 64
    name: str = "noise"

    @property
    def fingerprint(self) -> str:
        return files.digest("noise", str(self.size))

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """uint8 [N, size, size, 3]."""
        shape = (self.size, self.size, 3)
        return np.stack([np.random.default_rng(s).integers(0, 256, shape, np.uint8) for s in seeds])


@dataclass(frozen=True)
class Shuffled:
    """Draws the scene of another prompt of the suite: a fixed cycle through all of its different prompts."""

    other: dict[str, str] = field(repr=False)
    size: int = 64
    name: str = "shuffled"

    @property
    def fingerprint(self) -> str:
        return files.digest_json(["shuffled", WORLD, self.size, self.other])

    @property
    def origin(self) -> str:
        """Of all suites."""
        return files.digest("shuffled", WORLD, str(self.size))

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """uint8 [N, size, size, 3].  Raises ValueError for prompts that are not of the suite."""
        unknown = [p for p in prompts if p not in self.other]
        if unknown:
            raise ValueError(f"prompt {unknown[0]!r} is not in the suite that `shuffled` was made for")
        return Oracle(self.size).generate([self.other[p] for p in prompts], seeds)


def shuffled(prompts: Sequence[str], seed: int = 0, size: int = 64) -> Shuffled:
    """The ``shuffled`` subject of a suite's prompts; no prompt keeps its own image.

    Raises ValueError for fewer than two different prompts."""
    texts = sorted(set(prompts))
    if len(texts) < 2:
        raise ValueError(f"`shuffled` needs two different prompts or more, the suite has {len(texts)}")
    order = np.random.default_rng(seed).permutation(len(texts))
    return Shuffled({texts[a]: texts[b] for a, b in zip(order, np.roll(order, -1), strict=True)}, size)


def generator(kind: str, prompts: Sequence[str] = (), size: int = 64) -> Generator | None:
    """The fake of that kind, None for an unknown one; ``prompts``: the suite's."""
    made = {"oracle": Oracle, "noise": Noise, "shuffled": lambda size: shuffled(prompts, size=size)}
    return made[kind](size) if kind in made else None


@dataclass(frozen=True)
class Identity:
    """A tokenizer that changes nothing."""

    name: str = "identity"
    fingerprint: str = "identity"
    size: int | None = None

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        return images.copy()

    def encode(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, T, 48]: 4 x 4 patches in raster order, values in 0..1."""
        n, h, w, c = images.shape
        if h % 4 or w % 4:
            raise ValueError(f"images are {h} x {w} pixels; sides must be multiples of 4")
        patches = images.reshape(n, h // 4, 4, w // 4, 4, c).transpose(0, 1, 3, 2, 4, 5)
        return patches.reshape(n, -1, 16 * c).astype(np.float32) / 255


@dataclass(frozen=True)
class Through:
    """A generator's images after an autoencoder."""

    tokenizer: Tokenizer
    generator: Generator
    name: str

    @property
    def origin(self) -> str:
        return files.digest("through", self.tokenizer.fingerprint, origin(self.generator))

    @property
    def fingerprint(self) -> str:
        return files.digest("through", self.tokenizer.fingerprint, self.generator.fingerprint)

    @property
    def batch_matters(self) -> bool:
        """Whether the neighbours in a batch decide an image (evals/engine/generation.py)."""
        return getattr(self.generator, "batch_matters", False)

    @property
    def full_batches(self) -> bool:
        """Whether the last batch is filled (same place)."""
        return getattr(self.generator, "full_batches", False)

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """uint8 [N, H, W, 3]."""
        return self.tokenizer.reconstruct(self.generator.generate(prompts, seeds))


def through(tokenizer: Tokenizer, generator: Generator) -> Through:
    """``generator`` seen through ``tokenizer``, for example ``oracle+vgt_ae_internvl``."""
    return Through(tokenizer, generator, f"{generator.name}+{tokenizer.name}")
