"""Folders of transformers checkpoints that judges are made of: looked at before torch is imported, loaded strictly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from vgt.core import files

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


# ------------------------------------------------------------------ published weights, by folder or by hub id

WEIGHTS = "model.safetensors"
# Keys that may differ between a published file and the class of today: buffers that the class computes by itself, and
# the last norm of a Swin backbone, which no feature passes.
IDLE = re.compile(r"(position_ids|relative_position_index|criterion\.empty_weight|swin\.layernorm\.(weight|bias))$")


def place(source: str | None, option: str, model: str, needed: tuple[str, ...]) -> Path:
    """The folder of ``source``, a local folder or a hub id, with all of the ``needed`` files.

    ``option``: what gives it on the command line; ``model``: the published model it is meant for.  Raises ValueError
    that names the first missing file and where to put it."""
    remedy = f"put {', '.join(needed)} of {model} into a folder and give it with {option}"
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


def load(model_class: Any, folder: Path, device: str) -> Any:
    """A transformers model in float32 and eval mode, every parameter of it from the folder.

    Raises ValueError for weights that do not fit the class."""
    try:
        model, report = model_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype="float32", output_loading_info=True
        )
    except (OSError, RuntimeError, KeyError, ValueError, SafetensorError) as error:
        raise ValueError(f"{folder} does not hold a {model_class.__name__}: {str(error).splitlines()[0]}") from error
    for kind in ("missing_keys", "unexpected_keys"):
        wrong = sorted(key for key in report[kind] if not IDLE.search(key))
        if wrong:
            raise ValueError(
                f"{folder / WEIGHTS} does not fit {model_class.__name__}: {len(wrong)} {kind.replace('_', ' ')}, "
                f"first {wrong[0]}; the published file has all and no others"
            )
    return model.to(device).eval().requires_grad_(False)
