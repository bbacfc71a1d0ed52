"""Checkpoint folders in Hugging Face style: config.json, model.safetensors (or shards and their index), tokenizer
files, README.md.

Loading is strict; nothing is ever unpickled.  Weights are stored as fp32, fp16, bf16, or "int6" (see int6.py):
``<name>`` packed, ``<name>.scale`` and ``<name>.shape`` beside it, everything small as fp16.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from vgt.checkpoints import int6, shards
from vgt.core import files
from vgt.core.text import read_json
from vgt.methods import registry

CONFIG, WEIGHTS, CARD = "config.json", shards.WEIGHTS, "README.md"
FORMAT = 1
STORAGE = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int6": torch.float16}
SCALE, SHAPE = ".scale", ".shape"
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
    max_shard_size: int | str = "5GB",
) -> str:
    """Write a checkpoint folder atomically; returns its fingerprint.  Tied tensors are written once.

    ``texts``: further text files by name (training log; a README.md here takes the place of the plain model card);
    ``storage``: one of STORAGE; ``max_shard_size``: bytes or text like "5GB", see shards.py.
    Raises ValueError where the disk is full or refuses; a checkpoint that was there before is then unchanged."""
    registry.get(system)
    kept, ties = _without_ties(state)
    header = {"vgt_format": FORMAT, "system": system, "name": name, "ties": ties, "config": config}
    weights = sum(tensor.numel() for tensor in kept.values() if tensor.is_floating_point())
    texts = {CARD: card(name, system, config, weights, storage), **(texts or {})}
    with disk_errors(folder), files.atomic_folder(folder) as part:
        shards.write(part, _pack(kept, storage), max_shard_size)
        (part / CONFIG).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
        if tokenizer is not None:
            backend = getattr(tokenizer, "backend_tokenizer", None)
            if backend is not None:  # it would save how it was called last, which decides nothing
                backend.no_padding()
                backend.no_truncation()
            tokenizer.save_pretrained(part)
        for file, text in texts.items():
            (part / file).write_text(text, encoding="utf-8")
    return fingerprint(folder)


def card(name: str, system: str, config: Mapping, weights: int, storage: str) -> str:
    """The card of one checkpoint folder.  ``config``: the system's configuration; its parent is read from it;
    ``weights``: how many numbers; ``storage``: in which precision."""
    parent = ""
    if config.get("autoencoder"):
        parent = f"* autoencoder: {config.get('autoencoder_name') or 'unnamed'} (`{config['autoencoder'][:16]}`)\n"
    entry = registry.get(system)
    module, _, kind = entry.model.partition(":")
    return f"""{card_header(system)}# {name}

{entry.about} with {weights:,} weights.

* system: `{system}`
* weights: safetensors, {storage}
{parent}
```python
from {module} import {kind}

model = {kind}.from_pretrained("{name}")  # this folder
```
"""


def card_header(system: str) -> str:
    task = "pipeline_tag: text-to-image\n" if registry.get(system).condition == "text" else ""
    return f"---\nlibrary_name: vgt\n{task}tags: [vgt, {system}]\n---\n"


def _without_ties(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors on the CPU, of those that share memory only the first, and key -> first key for the others."""
    seen: dict[int, str] = {}
    kept: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    for key, tensor in state.items():
        pointer = tensor.data_ptr()
        same = state[seen[pointer]] if tensor.numel() and pointer in seen else None
        if same is not None and (same.shape, same.stride()) == (tensor.shape, tensor.stride()):
            ties[key] = seen[pointer]
            continue
        seen[pointer] = key
        kept[key] = tensor.detach().cpu()
    return kept, ties


@contextlib.contextmanager
def disk_errors(folder: str | Path) -> Iterator[None]:
    """Turns what a disk answers while ``folder`` is written, also for a part of it, into one ValueError."""
    try:
        yield
    except (OSError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, ValueError) else error
        if not isinstance(cause, OSError):
            raise
        reason = next(iter(str(cause).splitlines()), type(cause).__name__)
        raise ValueError(
            f"{folder} cannot be written ({reason}); free some space or choose another folder; "
            "what was there before is unchanged"
        ) from cause


def _pack(state: dict[str, Tensor], storage: str) -> dict[str, Tensor]:
    packed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        large = tensor.is_floating_point() and tensor.ndim >= 2 and tensor.numel() >= int6.GROUP
        if storage == "int6" and large and not key.endswith(int6.EXACT):
            packed[key], packed[key + SCALE] = int6.pack(tensor)
            packed[key + SHAPE] = torch.tensor(tensor.shape)
        else:
            packed[key] = tensor.to(STORAGE[storage]) if tensor.is_floating_point() else tensor
    return {key: tensor.contiguous() for key, tensor in packed.items()}


def _unpack(stored: dict[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for key, tensor in stored.items():
        if key + SHAPE in stored:
            tensor = int6.unpack(tensor, stored[key + SCALE], stored[key + SHAPE].tolist())
        elif _packed_key(key) + SHAPE in stored:
            continue
        state[key] = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
    return state


def _packed_key(key: str) -> str:
    """The tensor that a stored key belongs to, if it is a scale or shape of int6."""
    return key.removesuffix(SCALE).removesuffix(SHAPE)


def read_header(folder: str | Path) -> dict:
    """The parsed config.json.  Raises ValueError where the folder is not a checkpoint of this project."""
    path = Path(folder) / CONFIG
    if not path.exists():
        raise ValueError(f"no checkpoint at {folder}: {CONFIG} is missing; see `vgt list models`")
    try:
        header = read_json(path)
        if header["vgt_format"] != FORMAT or not all(key in header for key in ENTRIES):
            raise ValueError(header["vgt_format"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the configuration of a VGT checkpoint ({type(error).__name__})") from error
    if header["system"] not in registry.names():
        raise ValueError(
            f"{path} is not the configuration of a VGT checkpoint: system {header['system']!r} is unknown; name the "
            f"module that registers it in {registry.PLUGINS}"
        )
    return header


def read_state(
    folder: str | Path, dtype: torch.dtype | None = torch.float32, only: Callable[[str], bool] | None = None
) -> dict[str, Tensor]:
    """The tensors, ties restored, floating ones in ``dtype`` (None: as stored, without a copy; int6 becomes fp32).

    ``only``: read just the keys that it accepts.  Raises ValueError naming the file that is absent, torn or short."""
    header, folder = read_header(folder), Path(folder)
    ties = {key: target for key, target in header["ties"].items() if only is None or only(key)}
    wanted = None if only is None else lambda key: only(_packed_key(key)) or only(key) or key in ties.values()
    stored = shards.read(folder, wanted)
    where = folder / (WEIGHTS if shards.weight_map(folder) is None else shards.INDEX)
    try:
        state = _unpack(stored, dtype)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{where} holds torn int6 weights ({error}); {shards.AGAIN}") from error
    absent = sorted(set(ties.values()) - state.keys())
    if absent:
        raise ValueError(f"{where} lacks tied weights: {', '.join(absent[:3])}; {shards.AGAIN}")
    state |= {key: state[target] for key, target in ties.items()}
    return state if only is None else {key: tensor for key, tensor in state.items() if only(key)}


def load_into(module: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Strict: every key must match.  Raises ValueError naming the first differences, depth before all."""
    _fit(module, state, where)
    module.load_state_dict(state)


@contextlib.contextmanager
def skeleton() -> Iterator[None]:
    """Modules built within have their parameters on the meta device: no memory, no random numbers; see ``adopt``."""
    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        yield


def adopt(module: nn.Module, state: dict[str, Tensor], where: str, dtype: torch.dtype | None = None) -> None:
    """``load_into`` for a module built in ``skeleton``, without a second copy: it takes the tensors themselves.

    Parameters become ``dtype`` (None: as they are); buffers keep the precision that they were built with.  Tensors that
    ``state`` holds under several keys stay one parameter.  ``state`` is emptied on the way."""
    _fit(module, state, where)
    buffers = dict(module.named_buffers())
    same: dict[int, list[str]] = {}
    for key, tensor in state.items():
        same.setdefault(id(tensor), []).append(key)
    taken: dict[str, Tensor] = {}
    for keys in same.values():
        source = [state.pop(key) for key in keys][0]
        wanted = buffers[keys[0]].dtype if keys[0] in buffers else dtype
        cast = source.to(wanted) if source.is_floating_point() else source
        taken |= dict.fromkeys(keys, cast)
    module.load_state_dict(taken, assign=True)
    for first, *others in same.values():
        for key in others if first not in buffers else ():
            owner, _, leaf = key.rpartition(".")
            setattr(module.get_submodule(owner), leaf, module.get_parameter(first))


def _fit(module: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Raises ValueError where keys or shapes of ``state`` are not those of ``module``."""
    own = module.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    if missing or extra or shapes:
        parts = (("missing", missing), ("unexpected", extra), ("of another shape", shapes))
        faults = [f"{len(keys)} {what}: {', '.join(keys[:3])}" for what, keys in parts if keys]
        asked, held = _depths(own), _depths(state)
        deep = sorted(stack for stack in asked.keys() & held.keys() if asked[stack] != held[stack])
        faults = [f"{stack} has {asked[stack]} blocks, the weights {held[stack]}" for stack in deep[:1]] + faults
        raise ValueError(f"weights of {where} do not fit its configuration: {'; '.join(faults)}")


def _depths(keys) -> dict[str, int]:
    """Stack of blocks -> how many there are, from keys like ``language_model.layers.3.mlp.weight``."""
    found: dict[str, set[str]] = {}
    for key in keys:
        for match in re.finditer(r"\.(\d+)(?=\.)", key):
            found.setdefault(key[: match.start()], set()).add(match[1])
    return {stack: len(numbers) for stack, numbers in found.items()}


def fingerprint(folder: str | Path) -> str:
    """Content hash of configuration, weights and tokenizer: what decides the outputs, and nothing else.  The weights
    count as they lie on the disk: the same tensors in more files are another fingerprint."""
    folder = Path(folder)
    header = read_header(folder)
    identity = {k: header[k] for k in ("vgt_format", "system", "ties", "config")}
    hashes = [files.digest_file(path) for path in shards.weight_files(folder)]
    parts = [json.dumps(identity, sort_keys=True), hashes[0] if len(hashes) == 1 else files.digest(*hashes)]
    vocabulary = folder / "tokenizer.json"
    if vocabulary.exists():
        parts.append(files.digest_file(vocabulary))
    return files.digest(*parts)
