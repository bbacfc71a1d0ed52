"""InternVL's original layout (``model_type: internvl_chat``, made for remote code) in transformers' native names
(docs/vgt.md 1.2, 4.3).  Pure functions from keys, tensors and configurations; nothing here runs code of a checkpoint.

Shapes: C width of the vision tower.  Its attention stores queries, keys and values as one matrix [3 C, C].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

MODEL_TYPE = "internvl_chat"

_EMBEDDINGS = {
    "class_embedding": "cls_token",
    "position_embedding": "position_embeddings",
    "patch_embedding.weight": "patch_embeddings.projection.weight",
    "patch_embedding.bias": "patch_embeddings.projection.bias",
}
_BLOCK = {
    "ls1": "lambda_1",
    "ls2": "lambda_2",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.projection_layer",
    "attn.q_norm": "attention.q_norm",
    "attn.k_norm": "attention.k_norm",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_FUSED = tuple(f"attention.{name}_proj" for name in "qkv")
_PROJECTOR = {"0": "layer_norm", "1": "linear_1", "3": "linear_2"}

# Sizes of a vision configuration that keep their names, and those that have another one in transformers.
_VISION_KEPT = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "norm_type",
    "layer_norm_eps",
    "num_channels",
    "initializer_range",
    "attention_dropout",
)
_VISION_RENAMED = {"qk_normalization": "use_qk_norm", "qkv_bias": "attention_bias"}
_TEXTS = ("qwen2", "qwen3", "llama")


def vision_names(key: str) -> tuple[str, ...] | None:
    """Native names, within the tower, of a key below ``vision_model.`` (or ``encoder.`` of a released VGT-AE): three
    for a fused attention matrix (its thirds are queries, keys, values), one for any other, None for an unknown key."""
    kind, _, rest = key.partition(".")
    if kind == "embeddings":
        return (f"embeddings.{_EMBEDDINGS[rest]}",) if rest in _EMBEDDINGS else None
    if not key.startswith("encoder.layers."):
        return None
    layer, _, rest = key.removeprefix("encoder.layers.").partition(".")
    if not layer.isdigit():
        return None
    place = f"encoder.layer.{layer}"
    if rest in ("ls1", "ls2"):
        return (f"{place}.{_BLOCK[rest]}",)
    module, _, leaf = rest.rpartition(".")
    if module == "attn.qkv":
        return tuple(f"{place}.{name}.{leaf}" for name in _FUSED)
    return (f"{place}.{_BLOCK[module]}.{leaf}",) if module in _BLOCK else None


def projector_name(key: str) -> str | None:
    """The native name, within the projector, of a key below ``mlp1.``; None for an unknown one."""
    module, _, leaf = key.partition(".")
    return f"{_PROJECTOR[module]}.{leaf}" if module in _PROJECTOR else None


def native_names(key: str) -> tuple[str, ...] | None:
    """Native names of a key of a whole model; None for a key that the layout does not have."""
    part, _, rest = key.partition(".")
    if part == "vision_model":
        names = vision_names(rest)
        return names and tuple(f"model.vision_tower.{name}" for name in names)
    if part == "mlp1":
        name = projector_name(rest)
        return name and (f"model.multi_modal_projector.{name}",)
    if rest.startswith("model.") and part == "language_model":
        return (f"model.language_model.{rest.removeprefix('model.')}",)
    return ("lm_head.weight",) if key == "language_model.lm_head.weight" else None


def native_tensors(items: Iterable[tuple[str, Tensor]], names=native_names) -> Iterator[tuple[str, Tensor]]:
    """Native (name, tensor) pairs of original ones, lazily; fused matrices come as thirds of their own memory.

    ``names``: the rule for keys.  A key that it does not know keeps its name, so that a strict loader reports it.
    Raises ValueError for a fused matrix that has no thirds."""
    for key, tensor in items:
        found = names(key) or (key,)
        if len(found) == 1:
            yield found[0], tensor
            continue
        if len(tensor) % len(found):
            raise ValueError(f"{key} has {len(tensor)} rows, which are not queries, keys and values of one size")
        for name, part in zip(found, tensor.chunk(len(found)), strict=True):
            yield name, part.clone()


def native_config(values: dict[str, Any]) -> dict[str, Any]:
    """transformers' native configuration of an original one, both as dictionaries; ``image_token_id`` is left out, the
    tokenizer knows it.  Raises ValueError for a variant that the native classes do not have."""
    text, vision = dict(values.get("llm_config") or {}), dict(values.get("vision_config") or {})
    for name, part in (("llm_config", text), ("vision_config", vision)):
        if not part:
            raise ValueError(f"InternVL configuration without {name}; use the config.json of the published model")
    if values.get("ps_version", "v2") != "v2":
        raise ValueError(f"pixel shuffle ps_version {values['ps_version']!r} transposes the grid; only 'v2' is known")
    if values.get("select_layer", -1) != -1:
        raise ValueError(f"select_layer {values['select_layer']} takes an inner layer; only -1, the last, is known")
    if text.get("model_type") not in _TEXTS:
        raise ValueError(
            f"language model {text.get('model_type')!r} of an InternVL needs its authors' code; "
            f"use a checkpoint with one of {', '.join(_TEXTS)}"
        )
    size = values.get("force_image_size") or vision["image_size"]
    kept = {key: vision[key] for key in _VISION_KEPT if key in vision}
    kept |= {new: vision[old] for old, new in _VISION_RENAMED.items() if old in vision}
    kept |= {"image_size": [vision["image_size"]] * 2, "patch_size": [vision["patch_size"]] * 2}
    ratio = values.get("downsample_ratio", 0.5)
    tied = bool(text.get("tie_word_embeddings", False))
    dropped = ("architectures", "auto_map", "_name_or_path", "torch_dtype", "dtype", "use_bfloat16")
    return {
        "model_type": "internvl",
        "downsample_ratio": ratio,
        "image_seq_length": round((size // vision["patch_size"] * ratio) ** 2),
        "tie_word_embeddings": tied,
        "vision_config": kept,
        "text_config": {k: v for k, v in text.items() if k not in dropped} | {"tie_word_embeddings": tied},
    }
