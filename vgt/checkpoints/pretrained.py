"""``from_pretrained`` and ``save_pretrained`` for every system: a folder or a hub id in, a model in its precision and
place out.  The only table from systems to classes; the files themselves are checkpoint.py's.

The model classes take their two methods from ``Pretrained`` here, so the builders import them when they are called.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from vgt.checkpoints import checkpoint
from vgt.core.config import validated

STORAGE = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Found:
    """A model as a checkpoint folder holds it, in eval mode and frozen; ``tokenizer`` is None for autoencoders."""

    system: str
    name: str
    model: nn.Module
    tokenizer: Any
    folder: Path


def read(folder: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Found:
    """The model of a checkpoint folder, with one copy of its weights in memory; a VLM of Hugging Face's is one too.

    Raises ValueError for a folder that is no checkpoint, is torn, or does not fit its configuration."""
    from vgt.vlm import backbones

    check_dtype(dtype)
    folder = Path(folder)
    if backbones.is_backbone(folder):
        vlm = place(backbones.load_backbone(folder, dtype=dtype).requires_grad_(False), device)
        return Found("vlm", folder.resolve().name, vlm, vlm.tokenizer, folder)
    header = checkpoint.read_header(folder)
    state = checkpoint.read_state(folder, None)
    tokenizer = None if header["system"] == "vgt_ae" else read_tokenizer(folder)
    with checkpoint.skeleton():
        model = _BUILDERS[header["system"]](header["config"], tokenizer, f"configuration of {folder}")
    checkpoint.adopt(model, state, str(folder), dtype)
    return Found(header["system"], header["name"], place(model.eval().requires_grad_(False), device), tokenizer, folder)


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
    system, values = _describe(model)
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if len(dtypes) != 1 or not dtypes <= STORAGE.keys():
        raise ValueError(f"a model in {_names(dtypes)} cannot be saved; cast it to one of {_names(STORAGE)}")
    tokenizer = tokenizer or getattr(model, "tokenizer", None)
    if tokenizer is None and system != "vgt_ae":
        raise ValueError(f"a {system} is saved with its tokenizer; give tokenizer=")
    return checkpoint.save(
        folder,
        system,
        name or Path(folder).resolve().name,
        {**values, **(config or {})},
        model.state_dict(),
        tokenizer,
        storage=STORAGE[dtypes.pop()],
        max_shard_size=max_shard_size,
    )


class Pretrained:
    """The two methods that people know from Hugging Face's libraries; adds nothing else to a model class."""

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


# ----------------------------------------------------------------------------------------- places


def find(path: str | Path) -> Path:
    """The folder of ``path``: itself, or the snapshot of that hub id, fetched where the cache does not hold it.

    Raises ValueError where it is neither, or where the hub cannot be reached."""
    from vgt.vlm import backbones

    folder = backbones.locate(path) if backbones.is_hub_id(path) else Path(path)
    if not (folder / checkpoint.CONFIG).is_file():
        raise ValueError(
            f"no checkpoint at {path}: {checkpoint.CONFIG} is missing; give a folder or a Hugging Face hub id"
        )
    return folder


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


# ---------------------------------------------------------------------------------------- systems


def read_tokenizer(folder: Path):
    """The Hugging Face tokenizer beside a checkpoint.  Raises ValueError where there is none."""
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} has no tokenizer.json; copy or train the checkpoint again")
    return PreTrainedTokenizerFast.from_pretrained(folder)


def _vlm(values: dict, tokenizer, where: str) -> nn.Module:
    from vgt.vlm.vlm import VLM, VLMConfig, build, hf_config, whole_model

    config: VLMConfig = validated(VLMConfig, values, where)
    if config.hf.get("text_config", {}).get("vocab_size") is None:  # as a preset says it
        return build(config, tokenizer)
    # A pretrained VLM may have more embeddings than its tokenizer has tokens.
    return VLM(whole_model(hf_config(config.hf)), tokenizer, config.image_size, config.mrope)


def _vgt_ae(config: dict, tokenizer, where: str) -> nn.Module:
    from vgt.methods.vgt_ae import VGTAE, VGTAEConfig

    return VGTAE(validated(VGTAEConfig, config, where))


def _visual_lm(config: dict, tokenizer, where: str) -> nn.Module:
    from vgt.methods.visual_lm import VisualLM, VisualLMConfig

    return VisualLM(validated(VisualLMConfig, config, where))


_BUILDERS = {"vlm": _vlm, "vgt_ae": _vgt_ae, "query_ar": _visual_lm, "mar": _visual_lm}


def _describe(model: nn.Module) -> tuple[str, dict]:
    """System and configuration of a model.  Raises ValueError for a class that is no system."""
    from vgt.methods.vgt_ae import VGTAE
    from vgt.methods.visual_lm import VisualLM
    from vgt.vlm.vlm import VLM

    if isinstance(model, VGTAE):
        return "vgt_ae", model.config.model_dump(mode="json")
    if isinstance(model, VisualLM):
        return model.config.method, model.config.model_dump(mode="json")
    if isinstance(model, VLM):
        return "vlm", {"hf": model.config.to_dict(), "image_size": model.image_size, "mrope": model.mrope}
    raise ValueError(f"a {type(model).__name__} is no system of this project; save a VLM, VGTAE or VisualLM")
