"""This project's own checkpoints as subjects: the only place where evaluators meet ``vgt.inference``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evals.engine.api import LABELS, PROMPTS
from evals.engine.precision import PRECISION, full_float32
from evals.judges.answering import Reply
from vgt.core import files, text
from vgt.inference.generator import ImageGenerator, check_settings, open_generator
from vgt.inference.images import to_float
from vgt.inference.load import expect, load
from vgt.inference.pipeline import VGTPipeline
from vgt.inference.tokenizer import encode, indices, probe_features, reconstruct, reconstruct_float
from vgt.methods import registry

RUNS = Path("runs")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
OUR_PIPELINES = {"VGTPipeline": VGTPipeline}  # classes with diffusers' manners, by the name in their model_index.json


@dataclass(frozen=True)
class AutoencoderSubject:
    """A tokenizer's checkpoint as a Tokenizer; ``params``: what records tell of it, its precision where unusual."""

    name: str
    fingerprint: str
    size: int | None
    model: Any
    params: Mapping[str, Any] = field(default_factory=dict)
    takes_floats = True

    def reconstruct_float(self, images: np.ndarray) -> np.ndarray:
        """uint8, or float32 in [0, 1], [N, H, W, 3] -> float32 [N, H, W, 3] as decoded (evals/recon/source.py)."""
        return reconstruct_float(self.model, images)

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        return reconstruct(self.model, images)

    def encode(self, images: np.ndarray) -> np.ndarray:
        return encode(self.model, images)


@dataclass(frozen=True)
class DiscreteSubject(AutoencoderSubject):
    """A tokenizer with a codebook: it also tells the indices (evals/recon, codebook use)."""

    @property
    def codebook_size(self) -> int:
        return self.model.config.codebook_size

    def indices(self, images: np.ndarray) -> np.ndarray:
        return indices(self.model, images)


@dataclass(frozen=True)
class ProbedSubject(DiscreteSubject):
    """A tokenizer with a codebook that has features of its own for probes (``probe_features``): they stand as its class
    token beside the codes' vectors (evals/probes)."""

    def encode_with_class(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [N, H, W, 3] -> float32 (tokens [N, T, d], features [N, d'])."""
        return encode(self.model, images), probe_features(self.model, images)


@dataclass(frozen=True)
class GeneratorSubject:
    """A generator's checkpoint, with the autoencoder that it was trained on, as a Generator.  The fingerprint covers
    the generator, the autoencoder, the precision and the sampling settings; the name says where mode, sampler or
    precision (``params``) are unusual."""

    name: str
    fingerprint: str
    made: ImageGenerator
    params: Mapping[str, Any] = field(default_factory=dict)
    full_batches = True

    @property
    def origin(self) -> str:
        """The generator alone, which names its autoencoder by content hash."""
        return self.made.loaded.fingerprint

    @property
    def autoencoder(self) -> str:
        """The name of its autoencoder."""
        return self.made.loaded.model.config.autoencoder_name

    @property
    def conditions(self) -> str:
        """What it is asked with."""
        by_label = registry.get(self.made.loaded.system).condition == "label"
        return LABELS if by_label else PROMPTS

    @property
    def classes(self) -> int:
        """How many classes there are, where it is asked with their numbers."""
        return len(self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of its classes, by their numbers."""
        return tuple(self.made.loaded.model.config.classes)

    @property
    def settings(self) -> dict[str, Any]:
        """The sampling settings, as records carry them."""
        return {**self.made.settings.model_dump(), **self.params}

    @property
    def batch_matters(self) -> bool:
        """Whether the neighbours in a batch decide an image."""
        return self.made.settings.batch_matters

    def generate(self, asked: Sequence[str] | Sequence[int], seeds: Sequence[int]) -> np.ndarray:
        return self.made.generate(asked, seeds)


@dataclass(frozen=True)
class VLMSubject:
    """A VLM checkpoint as an Answerer."""

    name: str
    fingerprint: str
    model: Any
    params: Mapping[str, Any] = field(default_factory=lambda: PRECISION)

    @property
    def size(self) -> int:
        """The side in pixels of the images that it was trained on."""
        return self.model.image_size

    def answer(self, image: np.ndarray, question: str) -> str:
        return self.replies(image, [question])[0].text

    @full_float32()
    def replies(self, image: np.ndarray, questions: Sequence[str]) -> list[Reply]:
        """Answers to all questions about one image, which is encoded once."""
        device = next(self.model.parameters()).device
        return [Reply(text) for text in self.model.answer(to_float(image[None], device), list(questions))]


def _precision(dtype: str | None) -> tuple[dict[str, str], str, tuple[str, ...]]:
    """What records tell of a precision, what a name gets behind it, what a fingerprint covers: nothing for fp32, so
    that stored records stay valid.  Raises ValueError for an unknown one."""
    if dtype not in (None, *DTYPES):
        raise ValueError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    return ({}, "", ()) if dtype in (None, "fp32") else ({"dtype": dtype}, f"+{dtype}", (dtype,))


def tokenizer(path: str, device: str = "cpu", dtype: str | None = None) -> AutoencoderSubject:
    """The autoencoder at ``path`` (folder, run or bundled name), in ``dtype`` (fp32, bf16 or fp16)."""
    params, suffix, decides = _precision(dtype)
    found = expect(load(path, RUNS, device, DTYPES[dtype or "fp32"]), *registry.names("tokenizer"))
    discrete = registry.get(found.system).latents == "discrete"
    probed = ProbedSubject if hasattr(found.model, "probe_features") else DiscreteSubject
    kind = probed if discrete else AutoencoderSubject
    content = files.digest(found.fingerprint, *decides) if decides else found.fingerprint
    return kind(found.name + suffix, content, found.model.config.image_size, found.model, params)


def answerer(path: str, device: str = "cpu", dtype: str | None = None) -> VLMSubject:
    """The VLM at ``path``, in ``dtype`` (fp32, bf16 or fp16)."""
    params, suffix, decides = _precision(dtype)
    found = expect(load(path, RUNS, device, DTYPES[dtype or "fp32"]), *registry.names("vlm"))
    content = files.digest(found.fingerprint, *decides) if decides else found.fingerprint
    return VLMSubject(found.name + suffix, content, found.model, {**PRECISION, **params})


def check_sampling(path: str, settings: dict[str, Any]) -> None:
    """Raises ValueError for sampling settings that the system at ``path`` has not, before its weights are read."""
    check_settings(path, settings, RUNS)


def generator(
    path: str, device: str = "cpu", autoencoder: str | None = None, dtype: str | None = None, **settings
) -> GeneratorSubject:
    """The generator at ``path`` in ``dtype`` (fp32, bf16 or fp16), with sampling ``settings`` (fields of its sampling
    options).

    ``autoencoder``: where its autoencoder is; default the run or bundled model of the name that it was trained on.
    Raises ValueError when that autoencoder is another one than the generator was trained on, or when the
    acceleration or another setting is impossible."""
    params, suffix, decides = _precision(dtype)
    made = open_generator(path, settings, RUNS, device, autoencoder, DTYPES[dtype or "fp32"])
    own = made.loaded
    content = files.digest(own.fingerprint, made.decoder.fingerprint, made.settings.hashed, *decides)
    return GeneratorSubject(own.name + made.settings.suffix(own.model.tokens) + suffix, content, made, params)


def training_log(path: str) -> tuple[str, str, list[dict], int, str | None]:
    """Name, fingerprint, log rows (step, samples, loss, ...), number of parameters and training device (None where its
    model card does not say) of the checkpoint at ``path``.

    Raises ValueError where the checkpoint came without its log, and for rows without numbers."""
    found = load(path, RUNS)
    log = found.folder / "training.jsonl"
    if not log.is_file():
        raise ValueError(f"{found.name} has no training.jsonl beside its weights; it was not trained by `vgt train`")
    rows = text.log_rows(log)
    for row in rows:
        for name in ("step", "samples", "loss"):
            row.number(name)
    card = found.folder / "README.md"
    told = card.read_text(encoding="utf-8") if card.is_file() else ""
    on = re.search(r"^\* time: .* minutes on (.+) \(", told, re.M)
    parameters = sum(p.numel() for p in found.model.parameters())
    return found.name, found.fingerprint, rows, parameters, on and on.group(1)
