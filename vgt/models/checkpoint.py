"""Checkpoint folders in Hugging Face style: config.json, model.safetensors, tokenizer files, README.md.

Loading is strict; nothing is ever unpickled.  Weights are stored as fp32, fp16, bf16, or "int6" (see int6.py):
``<name>`` packed, ``<name>.scale`` and ``<name>.shape`` beside it, everything small as fp16.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vgt.core import files
from vgt.models import int6

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1
STORAGE = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int6": torch.float16}
SCALE, SHAPE = ".scale", ".shape"
SYSTEMS = ("vlm", "vgt_ae", "query_ar", "mar")
ENTRIES = ("vgt_format", "system", "name", "ties", "config")


def save(
    folder: str | Path,
    system: str,
    name: str,
    config: dict,
    state: dict[str, Tensor],
    tokenizer=None,
    texts: dict[str, str] | None = None,
    storage: str = "fp32",
) -> str:
    """Write a checkpoint folder atomically; returns its fingerprint.  Tied tensors are written once.

    ``texts``: further text files by name (model card, training log); ``storage``: one of STORAGE."""
    assert system in SYSTEMS
    seen: dict[int, str] = {}
    kept: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    for key, tensor in state.items():
        pointer = tensor.data_ptr()
        same = kept[seen[pointer]] if tensor.numel() and pointer in seen else None
        if same is not None and (same.shape, same.stride()) == (tensor.shape, tensor.stride()):
            ties[key] = seen[pointer]
            continue
        seen[pointer] = key
        kept[key] = tensor.detach().cpu()
    with files.atomic_folder(folder) as part:
        save_file(_pack(kept, storage), part / WEIGHTS, metadata={"format": "pt"})
        header = {"vgt_format": FORMAT, "system": system, "name": name, "ties": ties, "config": config}
        (part / CONFIG).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
        if tokenizer is not None:
            tokenizer.save_pretrained(part)
        for file, text in (texts or {}).items():
            (part / file).write_text(text, encoding="utf-8")
    return fingerprint(folder)


def _pack(state: dict[str, Tensor], storage: str) -> dict[str, Tensor]:
    packed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if storage == "int6" and tensor.is_floating_point() and tensor.ndim >= 2 and tensor.numel() >= int6.GROUP:
            packed[key], packed[key + SCALE] = int6.pack(tensor)
            packed[key + SHAPE] = torch.tensor(tensor.shape)
        else:
            packed[key] = tensor.to(STORAGE[storage]) if tensor.is_floating_point() else tensor
    return {key: tensor.contiguous() for key, tensor in packed.items()}


def _unpack(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for key, tensor in stored.items():
        if key + SHAPE in stored:
            state[key] = int6.unpack(tensor, stored[key + SCALE], stored[key + SHAPE].tolist())
        elif not any(key.endswith(end) and key.removesuffix(end) + SHAPE in stored for end in (SCALE, SHAPE)):
            state[key] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def read_header(folder: str | Path) -> dict:
    """The parsed config.json.  Raises ValueError where the folder is not a checkpoint of this project."""
    path = Path(folder) / CONFIG
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        if header["vgt_format"] != FORMAT or header["system"] not in SYSTEMS or not all(k in header for k in ENTRIES):
            raise ValueError(header["vgt_format"], header["system"])
    except FileNotFoundError:
        raise ValueError(f"no checkpoint at {folder}: {CONFIG} is missing; see `vgt list models`") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the configuration of a VGT checkpoint ({type(error).__name__})") from error
    return header


def read_state(folder: str | Path) -> dict[str, Tensor]:
    """Tensors in fp32, ties restored.  Raises ValueError for an unreadable file."""
    header, path = read_header(folder), Path(folder) / WEIGHTS
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read ({error}); copy or train the checkpoint again") from error
    try:
        state = _unpack(state)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path} holds torn int6 weights ({error}); copy or train the checkpoint again") from error
    absent = sorted(set(header["ties"].values()) - state.keys())
    if absent:
        raise ValueError(f"{path} lacks tied weights: {', '.join(absent[:3])}; copy or train the checkpoint again")
    return state | {key: state[target] for key, target in header["ties"].items()}


def load_into(module: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Strict: every key must match.  Raises ValueError naming the first differences."""
    own = module.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    if missing or extra or shapes:
        parts = (("missing", missing), ("unexpected", extra), ("of another shape", sorted(shapes)))
        faults = "; ".join(f"{len(keys)} {what}: {', '.join(keys[:3])}" for what, keys in parts if keys)
        raise ValueError(f"weights of {where} do not fit its configuration: {faults}")
    module.load_state_dict(state)


def fingerprint(folder: str | Path) -> str:
    """Content hash of configuration, weights and tokenizer: what decides the outputs, and nothing else."""
    folder = Path(folder)
    header = read_header(folder)
    identity = {k: header[k] for k in ("vgt_format", "system", "ties", "config")}
    parts = [json.dumps(identity, sort_keys=True), files.digest_file(folder / WEIGHTS)]
    vocabulary = folder / "tokenizer.json"
    if vocabulary.exists():
        parts.append(files.digest_file(vocabulary))
    return files.digest(*parts)
