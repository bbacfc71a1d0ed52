"""Keys of the published checkpoints and where each tensor belongs in our models (docs/vgt.md 4.2, 4.3, 4.5).

Every key is kept, renamed, dropped with a reason, or left over; what is left over is an error.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vgt.vlm import layouts

INTERNVL, QWEN = "internvl", "qwen2_5_vl"  # transformers' model types of the two families
AE = "vgt_ae."
TWICE = "second registration of the language model, equal to the first"
DROPPED: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(vgt_ae\.)?teacher\w*\."), "frozen copy of the original encoder, for distillation"),
    (re.compile(r"dinov3_extractor\."), "DINOv3 network of a training loss"),
    (re.compile(r"(.*\.)?repa_projector\."), "projector of a training loss"),
    (re.compile(r"steps$"), "counter of the averaging"),
    (re.compile(r"lmm\.(vision_model|mlp1|visual|model\.visual)\."), "vision part of the VLM; the autoencoder has one"),
    (re.compile(r"lmm\.(language_model\.)?lm_head\."), "output layer for text, which generation does not use"),
)
# Prefixes of the language model, the first copy of Qwen's first.
LANGUAGE = {INTERNVL: ("lmm.language_model.model.",), QWEN: ("lmm.model.language_model.", "lmm.language_model.")}
GENERATOR = {
    "adaptive_metaquery.max_metaquery": "max_metaquery",
    "adaptive_metaquery.pos_encoding.grid_embed": "grid_embed",
    "image_in_projector.": "image_in_projector.",
    "image_out_projector.": "image_out_projector.",
    "image_head.net.": "image_head.",
}
SAME = ("down_blocks.", "down_mlp.", "decoder.")


@dataclass(frozen=True)
class ConversionReport:
    """What became of every key of one file: ``kept`` under its name, ``renamed`` (one to several names), ``dropped``
    (key -> reason), ``left_over``; ``weights``: which table was read; ``notes``: what else is worth knowing."""

    source: str
    weights: str
    kept: list[str] = field(default_factory=list)
    renamed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    left_over: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def taken(self) -> int:
        """Number of tensors that our models use."""
        return len(self.kept) + len(self.renamed)

    def lines(self) -> list[str]:
        """The report for people, keys of one kind in one line."""
        moves = Counter(_move(old, new) for old, new in self.renamed.items())
        reasons = Counter(self.dropped.values())
        return [
            f"{self.source}: {self.weights}",
            f"  kept {len(self.kept)}",
            f"  renamed {len(self.renamed)}",
            *(f"    {count:5}  {move}" for move, count in moves.items()),
            f"  dropped {len(self.dropped)}",
            *(f"    {count:5}  {reason}" for reason, count in reasons.items()),
            f"  left over {len(self.left_over)}",
            *(f"  note: {note}" for note in self.notes),
        ]


def _move(old: str, new: tuple[str, ...]) -> str:
    """What changes in a name, numbers blotted out: "lmm.language_model.model -> language_model"."""
    if len(new) > 1:
        return " -> ".join(re.sub(r"\d+", "*", name) for name in (old, ", ".join(part.split(".")[-2] for part in new)))
    a, b = old.split("."), new[0].split(".")
    while a and b and a[-1] == b[-1] and len(a) > 1 and len(b) > 1:
        a, b = a[:-1], b[:-1]
    return " -> ".join(re.sub(r"\d+", "*", ".".join(part)) for part in (a, b))


@dataclass(frozen=True)
class Sorted:
    """Tensors of one file under our names; an empty table where the file has no such part.  ``language`` and ``tower``:
    families of the generator and of the autoencoder."""

    generator: dict[str, Tensor]
    autoencoder: dict[str, Tensor]
    language: str | None
    tower: str | None
    report: ConversionReport


def strip(found: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The table without DistributedDataParallel's prefix.  Raises ValueError where a key then stands twice."""
    bare: dict[str, Any] = {}
    for key, value in found.items():
        name = key.removeprefix("module.")
        if name in bare:
            raise ValueError(f"{where} has {name!r} both with and without the prefix 'module.'; give one training file")
        bare[name] = value
    return bare


def language_family(keys: list[str]) -> str | None:
    """The family of a generator's language model by its keys; None without one."""
    if any(key.startswith(LANGUAGE[INTERNVL]) for key in keys):
        return INTERNVL
    return QWEN if any(key.startswith(LANGUAGE[QWEN]) for key in keys) else None


def tower_family(keys: list[str]) -> str | None:
    """The family of an autoencoder's vision tower by its keys (without ``vgt_ae.``); None without one."""
    if any(key.startswith(("encoder.embeddings.", "mlp1.")) for key in keys):
        return INTERNVL
    return QWEN if any(key.startswith(("encoder.patch_embed.", "encoder.merger.")) for key in keys) else None


def generator_names(key: str, family: str | None) -> tuple[str, ...] | None:
    """Our name of a generator's key; None for an unknown one."""
    for prefix in LANGUAGE.get(family, ()):
        if key.startswith(prefix):
            return (f"language_model.{key.removeprefix(prefix)}",)
    for prefix, new in GENERATOR.items():
        if key == prefix or (prefix.endswith(".") and key.startswith(prefix)):
            return (new + key.removeprefix(prefix),)
    return None


def autoencoder_names(key: str, family: str | None) -> tuple[str, ...] | None:
    """Our names of an autoencoder's key, three for a fused attention matrix; None for an unknown one."""
    if key.startswith(SAME):
        return (key,)
    if family == QWEN and key.startswith("encoder."):
        return (f"encoder.tower.{key.removeprefix('encoder.')}",)
    if family == INTERNVL and key.startswith("encoder."):
        names = layouts.vision_names(key.removeprefix("encoder."))
        return names and tuple(f"encoder.tower.{name}" for name in names)
    if family == INTERNVL and key.startswith("mlp1."):
        name = layouts.projector_name(key.removeprefix("mlp1."))
        return name and (f"encoder.projector.{name}",)
    return None


def sort(found: Mapping[str, Any], source: str, weights: str) -> Sorted:
    """Every tensor of a table to its place.

    Raises ValueError for a file without a released model, for keys that are left over (the first are named), and where
    Qwen's two copies of the language model differ."""
    table = strip(found, source)
    reasons = {key: reason for key in table if (reason := _reason(key)) is not None}
    rest = [key for key in table if key not in reasons]
    language = language_family(rest)
    whole = language is not None or "image_in_projector.weight" in rest
    prefix = AE if whole else ""
    tower = tower_family([key.removeprefix(prefix) for key in rest if key.startswith(prefix)])
    report = ConversionReport(source, weights, dropped=dict(reasons))
    made: dict[str, dict[str, Tensor]] = {"generator": {}, "autoencoder": {}}
    for key in _first_copies_first(rest):
        ours = key.startswith(prefix) if whole else True
        part = "autoencoder" if ours else "generator"
        names = autoencoder_names(key.removeprefix(prefix), tower) if ours else generator_names(key, language)
        if names is None or not isinstance(table[key], Tensor):
            report.left_over.append(key)
        else:
            _place(key, names, table[key], made[part], report)
    if not whole and tower is None:
        raise ValueError(
            f"{source} is no released generator or autoencoder: it has neither image_in_projector.weight nor a vision "
            "tower under 'encoder.'; give a file of hustvl/VGT"
        )
    if report.left_over:
        shown = ", ".join(sorted(report.left_over)[:3])
        raise ValueError(f"{source} has {len(report.left_over)} entries of no known place: {shown}; nothing was taken")
    return Sorted(made["generator"], made["autoencoder"], language, tower, report)


def _reason(key: str) -> str | None:
    return next((reason for pattern, reason in DROPPED if pattern.match(key)), None)


def _first_copies_first(keys: list[str]) -> list[str]:
    second = LANGUAGE[QWEN][1]
    return sorted(keys, key=lambda key: key.startswith(second))


def _place(
    key: str, names: tuple[str, ...], tensor: Tensor, state: dict[str, Tensor], report: ConversionReport
) -> None:
    """Put one tensor, or its equal parts, under its names.  Raises ValueError for a second, different one."""
    if names[0] in state:
        if not same(state[names[0]], tensor):
            raise ValueError(
                f"{report.source} holds {key!r} twice with different values; give a file saved at one step"
            )
        report.dropped[key] = TWICE
        return
    if len(names) == 1:
        state[names[0]] = tensor
    else:
        state |= dict(layouts.native_tensors([(key, tensor)], lambda _: names))
    if names == (key,):
        report.kept.append(key)
    else:
        report.renamed[key] = names


def same(a: Tensor, b: Tensor) -> bool:
    """Equal to the bit; two views of one memory without reading it."""
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    if a.data_ptr() == b.data_ptr() and a.stride() == b.stride():
        return True
    return torch.equal(_bytes(a), _bytes(b))


def _bytes(x: Tensor) -> Tensor:
    return x.contiguous().reshape(-1).view(torch.uint8)
