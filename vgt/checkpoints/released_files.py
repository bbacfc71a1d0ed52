"""Files of the published checkpoints: .safetensors, or .pth read as tensors only (docs/vgt.md 4.1, 4.4).

Nothing is ever unpickled but tensors, containers and numbers.  A training file also holds bookkeeping of the training
framework; its objects are replaced by empty ones, so that none of their code runs.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

AGAIN = "download or copy the file again"
CHOICES = ("auto", "state_dict", "ema_state_dict")
# Where the reference's loader looks, in its order; the file itself comes last.
ORDER = ("ema_state_dict", "state_dict", "model")
# What stands under these names (docs/vgt.md 4.4): the training code swaps the two when it saves.
AVERAGED = "state_dict: the averaged weights (the training code swaps them in when it saves)"
RAW = "ema_state_dict: the raw weights of the last step, not their average (swapped when the file was saved)"
ALONE = "state_dict: the only weights in the file"
MODEL = "model: the only weights in the file"
BARE = "the file itself is a table of weights"
# Globals of bookkeeping in training files (message_hub and meta of mmengine), never of weights.
BOOKKEEPING = ("mmengine.", "numpy.")
NAMES = ("builtins.getattr", "__builtin__.getattr", "getattr", "_codecs.encode")


@dataclass(frozen=True)
class Contents:
    """``tensors``: what the chosen table holds, as it stands there; ``weights``: which table, and what it really is."""

    tensors: dict[str, Any]
    weights: str


class _Ignored:
    """Takes the place of a bookkeeping object, or of a call: accepts everything, does and keeps nothing."""

    def __new__(cls, *args):
        return object.__new__(cls)

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


def read(path: str | Path, weights: str = "auto") -> Contents:
    """The table of weights in a file, mapped and not copied.  ``weights``: one of CHOICES; "auto" takes the reference's
    order.

    Raises ValueError for a file that is absent, torn, holds code, or has no such table."""
    if weights not in CHOICES:
        raise ValueError(f"weights {weights!r} is unknown; choose one of {', '.join(CHOICES)}")
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise ValueError(f"{path} {what}; give a .pth or .safetensors file of a released model")
    return choose(_opened(path), weights, path)


def _opened(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = _pickled(path)
    except (OSError, EOFError, RuntimeError, KeyError, SafetensorError, pickle.UnpicklingError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"{path} cannot be read as tensors ({reason:.120}); {AGAIN}") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} holds a {type(found).__name__}, not a table of weights; give a released checkpoint")
    return found


def _pickled(path: Path) -> Any:
    """Tensors and plain values of a file of torch.save.  Raises ValueError naming what in it is neither."""
    mapped = zipfile.is_zipfile(path)  # older files are not, and cannot be mapped
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path) if mapped else []
    strange = [name for name in unsafe if not name.startswith(BOOKKEEPING) and name not in NAMES]
    if strange:
        raise ValueError(
            f"{path} holds objects that run code when they are read ({', '.join(sorted(strange)[:3])}); nothing of it "
            "was run. Give a file with tensors only"
        )
    with torch.serialization.safe_globals([(_Ignored, name) for name in unsafe]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def choose(found: Mapping[str, Any], weights: str, where: str | Path) -> Contents:
    """The table that ``weights`` names.  Raises ValueError where there is none of that name."""
    tables = {name: found[name] for name in ORDER if isinstance(found.get(name), Mapping)}
    if weights != "auto" and weights not in tables:
        has = ", ".join(tables) or "bare weights only"
        raise ValueError(f"{where} has no {weights}; it has {has}; leave the choice to auto")
    name = weights if weights != "auto" else next(iter(tables), None)
    if name is None:
        return Contents(dict(found), BARE)
    both = "ema_state_dict" in tables
    told = {"ema_state_dict": RAW, "state_dict": AVERAGED if both else ALONE, "model": MODEL}
    return Contents(dict(tables[name]), told[name])
