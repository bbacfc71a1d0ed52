"""Weights in one safetensors file, or in several with Hugging Face's index (model.safetensors.index.json): the only
place that reads and writes such files.

Tensors are read one by one from mapped files: what is not asked for costs no memory.  Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vgt.core.text import read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
AGAIN = "download, copy or train it again"


class Unreadable(ValueError):
    """A file that is missing, torn, or no safetensors file."""


def write(folder: Path, tensors: dict[str, Tensor], max_shard_size: int | str = "5GB") -> list[Path]:
    """Write contiguous ``tensors`` and return the files.  No file holds more than ``max_shard_size`` (bytes, or text
    like "5GB"), unless one tensor alone is larger; a single file has no index.

    Raises ValueError for a size that is none, OSError where the disk refuses."""
    try:
        split = split_torch_state_dict_into_shards(tensors, max_shard_size=max_shard_size)
    except ValueError as error:
        raise ValueError(f"max_shard_size {max_shard_size!r} is no size; write for example '5GB' or '200MB'") from error
    plan = split.filename_to_tensors or {WEIGHTS: []}
    for name, keys in plan.items():
        path = folder / name
        path.touch()
        mode = path.stat().st_mode
        write_file(path, {key: tensors[key] for key in keys}, {"format": "pt"})
        path.chmod(mode)  # safetensors leaves a file that its owner alone can read
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [folder / name for name in plan]


def weight_map(folder: Path) -> dict[str, str] | None:
    """Which file holds which tensor by the index, or None where one file holds them all.

    Raises ValueError for an index that cannot be read or that names files outside the folder."""
    path = folder / INDEX
    if (folder / WEIGHTS).exists() or not path.exists():
        return None
    try:
        found = read_json(path)["weight_map"]
        if not found or any(Path(name).name != name or not name.endswith(".safetensors") for name in found.values()):
            raise ValueError("weight_map")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no index of safetensors files ({type(error).__name__}); {AGAIN}") from error
    return found


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, by name.  Raises ValueError where there are none, or naming one that the index
    lists and that is gone."""
    index = weight_map(folder)
    paths = [folder / name for name in ([WEIGHTS] if index is None else sorted(set(index.values())))]
    lost = [path.name for path in paths if not path.is_file()]
    if index is None and lost:
        raise ValueError(f"{folder} has neither {WEIGHTS} nor {INDEX}; {AGAIN}, as safetensors")
    if lost:
        raise ValueError(f"{folder} lacks {len(lost)} of {len(paths)} weight files: {', '.join(lost[:3])}; {AGAIN}")
    return paths


def checked_files(folder: Path) -> list[Path]:
    """``weight_files``, of which each one's header fits its length.  Raises ValueError naming a torn one."""
    paths = weight_files(folder)
    for path in paths:
        with opened(path):
            pass
    return paths


def handle(path: str | Path) -> safe_open:
    """An open file, for who keeps it: ``keys()`` and ``get_tensor(key)``.  Raises Unreadable for a missing or torn
    one."""
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[safe_open]:
    """A safetensors file for reading one tensor at a time; its header is checked against its length.

    Raises Unreadable naming a file that is missing or torn, also where a tensor is read within the block."""
    try:
        with safe_open(path, "pt") as stored:
            yield stored
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: Exception) -> Unreadable:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return Unreadable(f"{path} cannot be read ({reason}); {AGAIN}")


def read_file(path: str | Path) -> dict[str, Tensor]:
    """All tensors of one file, in its order.  Raises ValueError as ``opened`` does."""
    with opened(path) as stored:
        return {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 - not a dict


def write_file(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """One safetensors file of contiguous ``tensors``.  Raises OSError where the disk refuses."""
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def items(paths: list[Path], wanted: Callable[[str], bool] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of several files, read one by one, those that are ``wanted``.  Raises ValueError as ``opened``
    does."""
    for path in paths:
        with opened(path) as stored:
            for key in sorted(stored.keys()):
                if wanted is None or wanted(key):
                    yield key, stored.get_tensor(key)


def read(folder: Path, wanted: Callable[[str], bool] | None = None) -> dict[str, Tensor]:
    """The tensors as stored; with ``wanted`` only those whose key it accepts, and only their files are opened.

    Raises ValueError naming the file that is missing, torn, or does not hold what the index says."""
    index, found = weight_map(folder), {}
    for path in weight_files(folder):
        listed = None if index is None else {key for key, name in index.items() if name == path.name}
        if wanted is not None and listed is not None and not any(map(wanted, listed)):
            continue
        with opened(path) as stored:
            held = list(stored.keys())
            _agree(path, listed, set(held))
            found |= {key: stored.get_tensor(key) for key in held if wanted is None or wanted(key)}
    return found


def _agree(path: Path, listed: set[str] | None, held: set[str]) -> None:
    """Raises ValueError where a shard holds other tensors than the index lists for it."""
    for what, keys in (("lacks", (listed or held) - held), ("holds besides", held - (listed or held))):
        if keys:
            raise ValueError(f"{path} {what} what {INDEX} lists: {', '.join(sorted(keys)[:3])}; {AGAIN}")
