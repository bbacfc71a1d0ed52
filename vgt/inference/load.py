"""From a name, folder or hub id to a model with its fingerprint."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vgt.checkpoints import checkpoint, pretrained
from vgt.vlm import backbones

# The parts of a pipeline folder.
GENERATOR, AUTOENCODER = "generator", "autoencoder"


@dataclass(frozen=True)
class Loaded:
    """A model ready to run (eval mode), with where it came from."""

    system: str
    name: str
    model: nn.Module
    tokenizer: Any
    fingerprint: str
    folder: Path


def zoo() -> Path:
    """The bundled models."""
    return Path(str(resources.files("vgt") / "zoo"))


def bundled() -> list[str]:
    """Names of the bundled models."""
    return sorted(p.parent.name for p in zoo().glob("*/config.json"))


def locate(spec: str | Path, runs: Path | None = None) -> Path:
    """The checkpoint folder of ``spec``: a folder, the generator of a pipeline folder, a run of that name below
    ``runs``, a bundled model, or the snapshot of a hub id.

    Raises ValueError saying where it was looked for."""
    spec = str(spec)
    candidates = [Path(spec), Path(spec) / "model", Path(spec) / GENERATOR]
    if runs is not None:
        candidates += [runs / spec / "model", runs / spec / GENERATOR]
    if "/" not in spec:
        candidates.append(zoo() / spec)
    for folder in candidates:
        if (folder / checkpoint.CONFIG).is_file():
            return folder
    if backbones.is_hub_id(spec):
        return backbones.locate(spec)
    known = ", ".join(bundled()) or "none"
    raise ValueError(f"no checkpoint {spec!r}: neither a folder, nor a trained run, nor a bundled model ({known})")


def load(spec: str | Path, runs: Path | None = None, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Loaded:
    """Load a checkpoint, or a VLM from Hugging Face as it is.

    Raises ValueError for one that is absent, unreadable or does not fit its configuration."""
    found = pretrained.read(locate(spec, runs), dtype, device)
    foreign = backbones.is_backbone(found.folder)
    name = _name(spec, found.folder) if foreign else found.name
    mark = (backbones if foreign else checkpoint).fingerprint(found.folder)
    return Loaded(found.system, name, found.model, found.tokenizer, mark, found.folder)


def _name(spec: str | Path, folder: Path) -> str:
    """What a backbone is called: the model's name in a hub id, else its folder's."""
    return str(spec).split("/")[-1] if backbones.is_hub_id(spec) else folder.resolve().name


def expect(loaded: Loaded, *systems: str) -> Loaded:
    """``loaded`` if it is one of ``systems``.  Raises ValueError naming what it is."""
    if loaded.system not in systems:
        raise ValueError(f"{loaded.folder} is a {loaded.system} checkpoint; give a {' or '.join(systems)} one")
    return loaded


def paired_autoencoder(
    found: Loaded,
    spec: str | None,
    runs: Path | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Loaded:
    """The autoencoder of a generator, checked by content hash; ``spec`` says where it is.  Default: beside
    the generator in a pipeline folder, else under its own name.

    Raises ValueError when it is another one than the generator was trained on."""
    config = found.model.config
    beside = found.folder.parent / AUTOENCODER
    own = beside if (beside / checkpoint.CONFIG).is_file() else config.autoencoder_name
    decoder = expect(load(spec or own, runs, device, dtype), "vgt_ae")
    if decoder.fingerprint != config.autoencoder:
        raise ValueError(
            f"{found.name} was trained on autoencoder {config.autoencoder_name} ({config.autoencoder[:12]}), but "
            f"{decoder.folder} is {decoder.fingerprint[:12]}; give the right one with --autoencoder"
        )
    return decoder
