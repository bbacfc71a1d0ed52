"""From a name or folder to a model: the only table from systems to classes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vgt.core.config import validated
from vgt.models import checkpoint
from vgt.models.vgt_ae import VGTAE, VGTAEConfig
from vgt.models.visual_lm import VisualLM, VisualLMConfig
from vgt.models.vlm import VLMConfig, build


@dataclass(frozen=True)
class Loaded:
    """A model ready to run (eval mode, fp32), with where it came from."""

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
    """The checkpoint folder of ``spec``: a folder, a run of that name below ``runs``, or a bundled model.

    Raises ValueError saying where it was looked for."""
    spec = str(spec)
    candidates = [Path(spec), Path(spec) / "model"]
    if runs is not None:
        candidates.append(runs / spec / "model")
    if "/" not in spec:
        candidates.append(zoo() / spec)
    for folder in candidates:
        if (folder / checkpoint.CONFIG).is_file():
            return folder
    known = ", ".join(bundled()) or "none"
    raise ValueError(f"no checkpoint {spec!r}: neither a folder, nor a trained run, nor a bundled model ({known})")


def read_tokenizer(folder: Path):
    """The Hugging Face tokenizer beside a checkpoint.  Raises ValueError where there is none."""
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} has no tokenizer.json; copy or train the checkpoint again")
    return PreTrainedTokenizerFast.from_pretrained(folder)


def load(spec: str | Path, runs: Path | None = None, device: str = "cpu") -> Loaded:
    """Load a checkpoint.  Raises ValueError for one that is absent, unreadable or does not fit its configuration."""
    folder = locate(spec, runs)
    header = checkpoint.read_header(folder)
    state = checkpoint.read_state(folder)
    system, tokenizer, where = header["system"], None, f"configuration of {folder}"
    with torch.random.fork_rng(devices=[]):
        if system == "vlm":
            tokenizer = read_tokenizer(folder)
            model: nn.Module = build(validated(VLMConfig, header["config"], where), tokenizer)
        elif system == "vgt_ae":
            model = VGTAE(validated(VGTAEConfig, header["config"], where))
        else:
            tokenizer = read_tokenizer(folder)
            model = VisualLM(validated(VisualLMConfig, header["config"], where))
    checkpoint.load_into(model, state, str(folder))
    model.eval().requires_grad_(False).to(device)
    return Loaded(system, header["name"], model, tokenizer, checkpoint.fingerprint(folder), folder)


def expect(loaded: Loaded, *systems: str) -> Loaded:
    """``loaded`` if it is one of ``systems``.  Raises ValueError naming what it is."""
    if loaded.system not in systems:
        raise ValueError(f"{loaded.folder} is a {loaded.system} checkpoint; give a {' or '.join(systems)} one")
    return loaded


def paired_autoencoder(found: Loaded, spec: str | None, runs: Path | None = None, device: str = "cpu") -> Loaded:
    """The autoencoder of a generator, checked by content hash; ``spec`` says where it is if not under its own name.

    Raises ValueError when it is another one than the generator was trained on."""
    config = found.model.config
    decoder = expect(load(spec or config.autoencoder_name, runs, device), "vgt_ae")
    if decoder.fingerprint != config.autoencoder:
        raise ValueError(
            f"{found.name} was trained on autoencoder {config.autoencoder_name} ({config.autoencoder[:12]}), but "
            f"{decoder.folder} is {decoder.fingerprint[:12]}; give the right one with --autoencoder"
        )
    return decoder
