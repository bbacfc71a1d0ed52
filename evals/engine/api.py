"""What an evaluator knows of a model or a judge: a few methods over numpy uint8 images, one seed per image."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

T = TypeVar("T")


@runtime_checkable
class Tokenizer(Protocol):
    """An autoencoder.  ``fingerprint``: content hash of what it is made of; ``size``: its image side, None for any."""

    name: str
    fingerprint: str
    size: int | None

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> uint8 [N, H, W, 3]."""
        ...

    def encode(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> float32 latents [N, T, d], T tokens in raster order."""
        ...


@runtime_checkable
class Generator(Protocol):
    """Prompts, or class labels, to images.

    Attributes that one may have: ``conditions = "labels"`` where it is asked with the numbers of classes, 0 ..
    ``classes`` - 1, in the place of prompts; ``batch_matters = True`` where an image depends on the others of its
    batch; ``full_batches = True`` where the last batch is to be filled up to the size of the others; ``settings``, how
    it samples, ``origin`` (see below), and ``extra``, what else its records tell."""

    name: str
    fingerprint: str

    def generate(self, asked: Sequence[str] | Sequence[int], seeds: Sequence[int]) -> np.ndarray:
        """One image per prompt (or label) and seed: uint8 [N, H, W, 3], which depends on these two only."""
        ...


def origin(subject: object) -> str:
    """Whose a subject is: its attribute ``origin``, where its fingerprint tells more than the model (settings, prompts,
    images made elsewhere), else the fingerprint (vgt.core.record.Record)."""
    return getattr(subject, "origin", None) or subject.fingerprint


def named(subject: T, name: str) -> T:
    """The same subject under another name."""
    if subject.name == name:
        return subject
    found = copy.copy(subject)
    try:
        object.__setattr__(found, "name", name)
    except AttributeError:  # its name is a property
        found.__class__ = type(type(found).__name__, (type(found),), {"name": name})
    return found


PROMPTS, LABELS = "prompts", "labels"


def conditions(generator: object) -> str:
    """What a generator (or a folder of images) is asked with: PROMPTS or LABELS."""
    return getattr(generator, "conditions", PROMPTS)


@dataclass(frozen=True)
class Detection:
    """One detected object: class name, score in 0..1, box (x1, y1, x2, y2; pixels, far edges exclusive), mask [H, W]"""

    label: str
    score: float
    box: tuple[float, float, float, float]
    mask: np.ndarray


@runtime_checkable
class Detector(Protocol):
    """Finds objects and names their colour.  ``classes`` are the labels that it can give."""

    name: str
    fingerprint: str
    classes: tuple[str, ...]

    def detect(self, image: np.ndarray) -> list[Detection]:
        """uint8 [H, W, 3] -> detections, best score first."""
        ...

    def color(self, image: np.ndarray, detection: Detection) -> str:
        """The colour name of one detection, among GenEval's ten."""
        ...


@runtime_checkable
class Answerer(Protocol):
    """Answers questions about an image."""

    name: str
    fingerprint: str

    def answer(self, image: np.ndarray, question: str) -> str:
        """uint8 [H, W, 3] and a question -> the raw answer, e.g. "yes"."""
        ...
