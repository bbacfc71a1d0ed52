"""Folders of transformers checkpoints that judges are made of: looked at before torch is imported, loaded strictly.

No code of a folder is run: neither Python files that its configuration names, nor what a pickle would call."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

from vgt.core import files, weights

WHOLE = {  # file of a checkpoint folder -> those that do instead
    "config.json": (),
    "model.safetensors": ("model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    "preprocessor_config.json": ("processor_config.json",),
    "tokenizer.json": ("vocab.txt", "vocab.json", "tokenizer.model"),
}
EXAMPLES = {"blip": "Salesforce/blip-vqa-base", "vlm": "Qwen/Qwen2.5-VL-7B-Instruct"}


def checked(folder: str | Path, kind: str) -> Path:
    """The folder, if it looks like a whole checkpoint of a kind of judge.

    Raises ValueError naming the first file that is missing."""
    path = Path(folder)
    for name, others in WHOLE.items():
        if not any((path / each).is_file() for each in (name, *others)):
            raise ValueError(
                f"{path} has no {name}; give the local folder of a transformers checkpoint (for example one downloaded "
                f"with `hf download {EXAMPLES[kind]} --local-dir {path}`)"
            )
    return path


def fingerprint_all(folder: Path, *parts: str) -> str:
    """Content hash of a checkpoint's files and of how it is used."""
    present = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return files.digest_json([[p.name, files.digest_file(p)] for p in present if p.suffix != ".md"] + list(parts))


def opened(kind: Any, folder: Path, **how: Any) -> Any:
    """``kind.from_pretrained`` of a class of transformers: nothing is fetched, no code of the folder is run.

    Raises ValueError, in one line, for whatever is wrong with its files."""
    try:
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **how)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{folder} cannot be loaded: its .bin file is torn or holds more than tensors (nothing of it was run); "
            "give a folder with .safetensors files"
        ) from error
    except Exception as error:  # parsers in three languages raise what they like for a file that they cannot read
        raise ValueError(f"{folder} cannot be loaded as {kind.__name__}: {_line(error)}") from error


def opened_model(kind: Any, folder: Path, **how: Any) -> tuple[Any, dict[str, Any]]:
    """A model, its weights read as tensors only, and what did not fit (``missing_keys``, ...).

    Raises ValueError as ``opened`` does, and before memory is taken where the weights cannot fill the model that the
    configuration asks for."""
    import torch
    from transformers import AutoConfig

    automatic = kind.__name__.startswith("Auto")
    config = opened(AutoConfig if automatic else kind.config_class, folder)
    try:
        with torch.device("meta"):
            bare = kind.from_config(config, trust_remote_code=False) if automatic else kind(config)
    except Exception as error:  # whatever a model's own code makes of sizes that do not go together
        raise ValueError(f"{folder} cannot be loaded as {kind.__name__}: {_line(error)}") from error
    asked = sum(p.numel() for p in bare.parameters())
    stored = sum(p.stat().st_size for suffix in ("safetensors", "bin") for p in files.visible(folder, f"*.{suffix}"))
    if 2 * stored < asked:  # half a byte a number is the least that checkpoints take
        raise ValueError(
            f"{folder} does not hold a {kind.__name__}: {stored / 2**20:.1f} MiB of weights are too little for the "
            f"{asked:,} parameters of its config.json; download or copy it again"
        )
    with torch.random.fork_rng(devices=[]):
        return opened(kind, folder, weights_only=True, output_loading_info=True, **how)


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


# ------------------------------------------------------------------ published weights, by folder or by hub id

WEIGHTS = "model.safetensors"
# Keys that may differ between a published file and the class of today: buffers that the class computes by itself, and
# the last norm of a Swin backbone, which no feature passes.
IDLE = re.compile(r"(position_ids|relative_position_index|criterion\.empty_weight|swin\.layernorm\.(weight|bias))$")


def place(source: str | None, option: str, model: str, needed: tuple[str, ...]) -> Path:
    """The folder of ``source``, a local folder or a hub id, with all of the ``needed`` files.

    ``option``: what gives it on the command line; ``model``: the published model it is meant for.  Raises ValueError
    that names the first missing file and where to put it."""
    command = next((f": `{w.command}`" for w in weights.PUBLISHED.values() if w.hub == model), "")
    remedy = f"put {', '.join(needed)} of {model} into a folder and give it with {option}{command}"
    if not source:
        raise ValueError(f"{option} is missing; {remedy}")
    folder = Path(source)
    if not folder.is_dir():
        folder = _from_hub(source, option, needed, remedy)
    for name in needed:
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing; {remedy}")
    return folder


def _from_hub(source: str, option: str, needed: tuple[str, ...], remedy: str) -> Path:
    if source.count("/") != 1 or source.startswith(("/", ".")):
        raise ValueError(f"{option} {source}: there is no such folder; {remedy}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=list(needed)))
    except Exception as error:  # the hub's errors share no class with those of the network below it
        raise ValueError(
            f"{option} {source} is no folder and cannot be fetched ({type(error).__name__}); {remedy}"
        ) from error


def fingerprint(folder: Path, names: tuple[str, ...]) -> str:
    """Content hash of the named files of a model."""
    return files.digest_json({name: files.digest_file(folder / name) for name in names})


def load(model_class: Any, folder: Path, device: str, part: bool = False) -> Any:
    """A transformers model in float32 and eval mode, every parameter of it from the folder.  ``part``: the folder may
    hold a larger model, of which the class is a part.

    Raises ValueError for weights that do not fit the class."""
    model, report = opened_model(model_class, folder, use_safetensors=True, dtype="float32")
    for kind in ("missing_keys",) if part else ("missing_keys", "unexpected_keys"):
        wrong = sorted(key for key in report[kind] if not IDLE.search(key))
        if wrong:
            raise ValueError(
                f"{folder / WEIGHTS} does not fit {model_class.__name__}: {len(wrong)} {kind.replace('_', ' ')}, "
                f"first {wrong[0]}; the published file has all and no others"
            )
    return model.to(device).eval().requires_grad_(False)
