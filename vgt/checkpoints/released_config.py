"""Configurations of the released models, read from the shapes of their weights (docs/vgt.md 2.10, 4.5: never trust the
configuration, count the layers in the checkpoint).

What shapes do not say (heads, rotary base, window) comes from the VLM that a model was made of, or from the table of
the published ones.  Shapes: D width of the language model, A width of the autoencoder's projector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vgt.checkpoints.released_keys import INTERNVL, QWEN
from vgt.methods.flow_head import FlowHeadConfig
from vgt.methods.pixel_decoder import DecoderConfig
from vgt.methods.vgt_ae import VGTAEConfig
from vgt.vlm import known
from vgt.vlm.backbones import first_layers

GRID = 16  # tokens on a side of every released latent grid (docs/vgt.md 2.1)
TIME_SHIFT = {INTERNVL: 1.4, QWEN: 1.0}  # of training; inference does not use it (docs/vgt.md 2.8)

State = Mapping[str, Tensor]


def blocks(state: State, prefix: str) -> int:
    """One more than the largest number behind ``prefix``."""
    found = {key.removeprefix(prefix).partition(".")[0] for key in state if key.startswith(prefix)}
    return max((int(number) + 1 for number in found if number.isdigit()), default=0)


def shape(state: State, key: str, where: str) -> tuple[int, ...]:
    """Raises ValueError for a tensor that is not there."""
    if key not in state:
        raise ValueError(f"{where} lacks {key}; download or copy the file again")
    return tuple(state[key].shape)


def published(family: str, width: int | None) -> dict[str, Any] | None:
    """The configuration of the published VLM of a family, by the width of its language model; None without one."""
    return next(
        (
            known.hf_config_of(hub)
            for hub, values in known.KNOWN.items()
            if values["model_type"] == family and width in (None, values["text_config"]["hidden_size"])
        ),
        None,
    )


def _agree(found: Mapping[str, int], told: Mapping[str, Any], what: str, where: str) -> None:
    """Raises ValueError naming the first size of ``found`` that ``told`` has otherwise."""
    for name, size in found.items():
        if told.get(name) != size:
            raise ValueError(
                f"{where}: {what} has {name} {size}, but the VLM's configuration says {told.get(name)}; give with "
                "--vlm the VLM that the file was made from"
            )


# ------------------------------------------------------------------------------------------------- generator


def text_config(state: State, family: str, vlm: Mapping[str, Any] | None, where: str) -> tuple[dict[str, Any], int]:
    """transformers' configuration of the language model in a generator's ``state``, and how many layers the VLM has.

    ``vlm``: the whole VLM's; None takes the published one of that width.  Raises ValueError where sizes disagree, or
    for a width that nobody published."""
    vocabulary, width = shape(state, "language_model.embed_tokens.weight", where)
    values = vlm or published(family, width)
    if values is None:
        raise ValueError(f"{where}: no {family} of width {width} was published; give the VLM's folder with --vlm")
    text = values["text_config"]
    if text["hidden_size"] != width:
        _agree({"hidden_size": width}, text, "the language model", where)
    first = "language_model.layers.0"
    head = text.get("head_dim") or width // text["num_attention_heads"]
    found = {
        "intermediate_size": shape(state, f"{first}.mlp.gate_proj.weight", where)[0],
        "num_attention_heads": shape(state, f"{first}.self_attn.q_proj.weight", where)[0] // head,
        "num_key_value_heads": shape(state, f"{first}.self_attn.k_proj.weight", where)[0] // head,
    }
    _agree(found, text, "the language model", where)
    depth = blocks(state, "language_model.layers.")
    if depth > text["num_hidden_layers"]:
        _agree({"num_hidden_layers": depth}, text, "the language model", where)
    return first_layers({**text, "vocab_size": vocabulary}, depth), text["num_hidden_layers"]


def head_config(state: State, where: str) -> FlowHeadConfig:
    return FlowHeadConfig(
        width=shape(state, "image_head.input_proj.weight", where)[0], depth=blocks(state, "image_head.res_blocks.")
    )


# ----------------------------------------------------------------------------------------------- autoencoder


def _vision_sizes(state: State, family: str, where: str) -> dict[str, Any]:
    """Sizes of the tower, under the names that transformers' configuration has for them."""
    tower = "encoder.tower."
    if family == INTERNVL:
        patch = shape(state, f"{tower}embeddings.patch_embeddings.projection.weight", where)
        positions = shape(state, f"{tower}embeddings.position_embeddings", where)[1]
        side = round((positions - 1) ** 0.5) * patch[-1]
        return {
            "hidden_size": patch[0],
            "num_hidden_layers": blocks(state, f"{tower}encoder.layer."),
            "intermediate_size": shape(state, f"{tower}encoder.layer.0.mlp.fc1.weight", where)[0],
            "patch_size": [patch[-1]] * 2,
            "image_size": [side] * 2,
        }
    width, _, frames, _, patch = shape(state, f"{tower}patch_embed.proj.weight", where)
    merged = shape(state, f"{tower}merger.mlp.0.weight", where)[1]
    return {
        "hidden_size": width,
        "depth": blocks(state, f"{tower}blocks."),
        "intermediate_size": shape(state, f"{tower}blocks.0.mlp.gate_proj.weight", where)[0],
        "patch_size": patch,
        "temporal_patch_size": frames,
        "spatial_merge_size": round((merged / width) ** 0.5),
        "out_hidden_size": shape(state, f"{tower}merger.mlp.2.weight", where)[0],
    }


def _as_list(value):
    return list(value) if isinstance(value, tuple) else value


def vision_config(state: State, family: str, vlm: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    """The VLM configuration that an autoencoder is built from.  Its text part only tells the width A: the 1.6B
    InternVL3 has the autoencoder of the 1B model (docs/vgt.md 0).

    Raises ValueError where the tower is not that of ``vlm``, or of the published one."""
    width = shape(state, "down_blocks.0.mlp.0.weight", where)[0]
    matching = vlm if vlm is not None and vlm["text_config"]["hidden_size"] == width else published(family, width)
    values = dict(vlm or matching or published(family, None) or {})
    sizes = _vision_sizes(state, family, where)
    told = {name: _as_list(value) for name, value in values["vision_config"].items()}
    # The width that a Qwen tower puts out is A, which may be another model's.
    _agree({k: v for k, v in sizes.items() if k != "out_hidden_size"}, told, "the vision tower", where)
    if matching is not None:
        text = matching["text_config"]
    else:
        text = {**values["text_config"], "hidden_size": width, "num_attention_heads": 1, "num_key_value_heads": 1}
        text.pop("head_dim", None)
    return {**values, "vision_config": {**values["vision_config"], **sizes}, "text_config": text}


def decoder_config(state: State, where: str) -> DecoderConfig:
    """AutoencoderDC's decoder by its keys (docs/vgt.md 4.3): in all stages but the deepest child 0 is the up-sampler."""
    stages = blocks(state, "decoder.up_blocks.")
    widths, layers, attention, head = [], [], 0, DecoderConfig().head_dim
    for i in range(stages):
        place = f"decoder.up_blocks.{i}"
        first = 0 if i == stages - 1 else 1
        layers.append(blocks(state, f"{place}.") - first)
        attends = f"{place}.{first}.attn.norm_out.weight" in state
        name = "attn.norm_out.weight" if attends else "norm.weight"
        widths.append(shape(state, f"{place}.{first}.{name}", where)[0])
        if attends:
            attention += 1
            head = shape(state, f"{place}.{first}.attn.to_qkv_multiscale.0.proj_out.weight", where)[1]
    return DecoderConfig(widths=tuple(widths), layers=tuple(layers), attention=attention, head_dim=head)


def autoencoder_config(state: State, family: str, vlm: Mapping[str, Any] | None, where: str) -> VGTAEConfig:
    """Configuration of a released autoencoder.  Raises ValueError where its shapes belong to no such model."""
    d_z = shape(state, "decoder.conv_in.weight", where)[1]
    rows = shape(state, "down_mlp.1.weight", where)[0]
    if rows not in (d_z, 2 * d_z):
        raise ValueError(f"{where}: down_mlp.1.weight has {rows} rows; a decoder of {d_z} channels needs that or twice")
    values = vision_config(state, family, vlm, where)
    vision = values["vision_config"]
    size = vision["image_size"][0] if family == INTERNVL else GRID * vision["patch_size"] * vision["spatial_merge_size"]
    return VGTAEConfig(
        vlm=values,
        image_size=size,
        d_z=d_z,
        normalize="position",
        decoder=decoder_config(state, where),
        kl=rows == 2 * d_z,
    )
