"""``from_pretrained`` and ``save_pretrained`` for every system: a folder or a hub id in, a model in its precision and
place out.  The files themselves are checkpoint.py's; which class a folder holds is the registry's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from vgt.checkpoints import checkpoint, shards
from vgt.core import files
from vgt.core.config import Config, validated
from vgt.core.text import read_json
from vgt.methods import registry

STORAGE = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
WANTED = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]  # of a hub's files: no code, no pickles
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class Loaded:
    """A model as a checkpoint folder holds it, in eval mode and frozen; ``tokenizer`` is None for systems without
    text."""

    system: str
    name: str
    model: nn.Module
    tokenizer: Any
    folder: Path

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of the folder (every byte is read once)."""
        return fingerprint(self.folder)


def read(
    folder: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu", name: str | None = None
) -> Loaded:
    """The model of a checkpoint folder, with one copy of its weights in memory; a VLM of Hugging Face's is one too,
    and may be given a ``name`` (default: its folder's).

    Raises ValueError for a folder that is no checkpoint, is torn, or does not fit its configuration."""
    check_dtype(dtype)
    folder = Path(folder)
    if is_backbone(folder):
        system = registry.VLM
        vlm = place(system.part("foreign")(folder, dtype=dtype).requires_grad_(False), device)
        return Loaded(system.name, name or folder.resolve().name, vlm, vlm.tokenizer, folder)
    header = checkpoint.read_header(folder)
    system = registry.get(header["system"])
    state = checkpoint.read_state(folder, None)
    tokenizer = read_tokenizer(folder) if system.has_tokenizer else None
    config = validated(system.part("config"), header["config"], f"configuration of {folder}")
    with checkpoint.skeleton():
        model = system.part("model").build(config, tokenizer)
    checkpoint.adopt(model, state, str(folder), dtype)
    return Loaded(system.name, header["name"], place(model.eval().requires_grad_(False), device), tokenizer, folder)


def save(
    model: nn.Module,
    folder: str | Path,
    name: str | None = None,
    tokenizer=None,
    max_shard_size: int | str = "5GB",
    config: dict | None = None,
) -> str:
    """Write ``model`` in the precision that it has; returns the fingerprint.  ``name`` defaults to the folder's;
    ``config``: entries of its configuration to write otherwise.

    Raises ValueError for a model of no known system, a precision that is not stored, a generator without its
    ``tokenizer``, or a disk that refuses."""
    system = registry.of(model)
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if len(dtypes) != 1 or not dtypes <= STORAGE.keys():
        raise ValueError(f"a model in {_names(dtypes)} cannot be saved; cast it to one of {_names(STORAGE)}")
    tokenizer = tokenizer or getattr(model, "tokenizer", None)
    if tokenizer is None and system.has_tokenizer:
        raise ValueError(f"a {system.name} is saved with its tokenizer; give tokenizer=")
    return checkpoint.save(
        folder,
        system.name,
        name or Path(folder).resolve().name,
        {**model.described(), **(config or {})},
        model.state_dict(),
        tokenizer,
        storage=STORAGE[dtypes.pop()],
        max_shard_size=max_shard_size,
    )


class Pretrained:
    """What every network class of the registry has: the two methods that people know from Hugging Face's libraries,
    and how it becomes a configuration and is built from one."""

    @classmethod
    def build(cls, config: Config, tokenizer: Any) -> Self:
        """The network of a configuration, freshly initialised; ``tokenizer`` is the one beside its checkpoint."""
        del tokenizer
        return cls(config)

    def described(self) -> dict[str, Any]:
        """The configuration that ``build`` takes, as a checkpoint stores it."""
        return self.config.model_dump(mode="json")

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        device_map: str | torch.device | None = None,
    ) -> Self:
        """The model in a checkpoint folder or under a hub id, frozen and in eval mode.  ``device_map``: "auto", or
        another word for ``device``; one model stays on one device.

        Raises ValueError for what is no checkpoint, or one of another class."""
        found = read(find(path), dtype, single_device(device_map) if device_map is not None else device)
        if not isinstance(found.model, cls):
            raise ValueError(
                f"{path} is a {found.system} checkpoint; load it with {type(found.model).__name__}, not {cls.__name__}"
            )
        return found.model

    def save_pretrained(
        self, folder: str | Path, name: str | None = None, tokenizer=None, max_shard_size: int | str = "5GB"
    ) -> str:
        """Write a checkpoint folder, see ``save``."""
        return save(self, folder, name, tokenizer, max_shard_size)


# ----------------------------------------------------------------------------------------- folders


def is_hub_id(spec: str | Path) -> bool:
    """Whether ``spec`` reads as "owner/name" and cannot be a path below an existing folder."""
    return HUB_ID.fullmatch(str(spec)) is not None and not Path(spec).exists() and not Path(spec).parent.exists()


def is_backbone(folder: str | Path) -> bool:
    """Whether the folder's config.json is that of a Hugging Face model (and not of one of this project)."""
    try:
        values = read_json(Path(folder) / checkpoint.CONFIG)
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and "model_type" in values and "vgt_format" not in values


def locate(spec: str | Path) -> Path:
    """The local directory of ``spec``: itself, or the snapshot of a hub id, fetched where it is not in the cache.

    Raises ValueError that says how to fetch it where neither is to be had."""
    folder = Path(spec)
    if folder.is_dir():
        return folder
    if not is_hub_id(spec):
        raise ValueError(
            f"no model directory {spec}; give a directory with {checkpoint.CONFIG}, or a hub id such as owner/name"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(spec), allow_patterns=WANTED))
    except Exception as error:  # the hub's client raises errors of its own, of its HTTP library, and of the system
        raise ValueError(
            f"{spec} is neither a directory here nor to be had from the hub ({type(error).__name__}); fetch it where "
            f"there is a network with `hf download {spec} --local-dir DIR`, and give DIR instead"
        ) from error


def find(path: str | Path) -> Path:
    """The folder of ``path``: itself, or the snapshot of that hub id, fetched where the cache does not hold it.

    Raises ValueError where it is neither, or where the hub cannot be reached."""
    folder = locate(path) if is_hub_id(path) else Path(path)
    if not (folder / checkpoint.CONFIG).is_file():
        raise ValueError(
            f"no checkpoint at {path}: {checkpoint.CONFIG} is missing; give a folder or a Hugging Face hub id"
        )
    return folder


def fingerprint(folder: str | Path) -> str:
    """Content hash of a checkpoint folder, or of configuration, weights and tokenizer of a Hugging Face model."""
    folder = Path(folder)
    if not is_backbone(folder):
        return checkpoint.fingerprint(folder)
    named = [checkpoint.CONFIG, *VOCABULARIES, "merges.txt", "tokenizer_config.json"]
    paths = [folder / name for name in named if (folder / name).is_file()] + shards.checked_files(folder)
    return files.digest(*(part for path in paths for part in (path.name, files.digest_file(path))))


def state_hash(state: Mapping[str, Tensor]) -> str:
    """Content hash of weights in memory, fp32."""
    return files.digest(*(part for key, value in state.items() for part in (key, value.numpy().tobytes())))


# ---------------------------------------------------------------------------- devices and precisions


def single_device(device_map: str | torch.device) -> torch.device:
    """The device that a ``device_map`` for one model means: "auto" is the GPU where there is one.

    Raises ValueError for a device that is unknown or not there."""
    name = str(device_map)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is unknown; use auto, cpu or cuda") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} GPUs; use cpu")
    return device


def check_dtype(dtype: torch.dtype) -> torch.dtype:
    """``dtype`` if models can run in it.  Raises ValueError naming those."""
    if dtype not in STORAGE:
        raise ValueError(f"dtype {dtype!r} is not for models; choose one of {_names(STORAGE)}")
    return dtype


def place(model: nn.Module, device: str | torch.device, dtype: torch.dtype | None = None) -> nn.Module:
    """Move and cast.  Only parameters are cast: statistics and rotary frequencies keep their precision, so that the
    latents of the flow stay fp32."""
    if dtype is not None:
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
    return model.to(device)


def _names(dtypes) -> str:
    return ", ".join(sorted(str(d).removeprefix("torch.") for d in dtypes)) or "no numbers"


def read_tokenizer(folder: Path):
    """The Hugging Face tokenizer beside a checkpoint.  Raises ValueError where there is none."""
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} has no tokenizer.json; copy or train the checkpoint again")
    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
