"""Folders of transformers checkpoints, looked at before torch is imported."""

from __future__ import annotations

from pathlib import Path

from vgt.core import files

NEEDED = {  # file of a checkpoint folder -> those that do instead
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
    for name, others in NEEDED.items():
        if not any((path / each).is_file() for each in (name, *others)):
            raise ValueError(
                f"{path} has no {name}; give the local folder of a transformers checkpoint (for example one downloaded "
                f"with `hf download {EXAMPLES[kind]} --local-dir {path}`)"
            )
    return path


def fingerprint(folder: Path, *parts: str) -> str:
    """Content hash of a checkpoint's files and of how it is used."""
    present = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    return files.digest_json([[p.name, files.digest_file(p)] for p in present if p.suffix != ".md"] + list(parts))
