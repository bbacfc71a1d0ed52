"""The published VFMTok tokenizer (CVMI-Lab: vfmtok-tokenizer.pt) as a model of this project (docs/vfmtok.md 19.1).

The file has everything but the frozen vision model, which comes from DINOv2's own release or its port in transformers.
Strict: every tensor gets its place in our model, or a reason why it has none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vgt.checkpoints import released
from vgt.checkpoints.pretrained import locate
from vgt.checkpoints.released import Part
from vgt.checkpoints.released_keys import ConversionReport, strip
from vgt.methods import registry
from vgt.methods.pixel_decoder import DecoderConfig
from vgt.methods.vfmtok import VFMTokConfig
from vgt.methods.vision_features import VisionConfig, usual_taps

MARK = "slot_quantize.embedding.weight"  # the key by which a file is known
EMA = "ema: the averaged weights"
RAW = "model: the weights of the last step; the file has no averaged ones"
IMAGE, VISION = 336, 336  # pixels of the published model's images, and of those that its vision model sees

ENCODER, TOKENS = "encode_transformer.", "decode_transformer."
# Theirs -> ours, the first that fits.
NAMES: tuple[tuple[str, str], ...] = (
    (rf"{ENCODER}carrier_tokens$", "encoder.tokens"),
    (rf"{ENCODER}slots_pos$", "encoder.positions"),
    (rf"{ENCODER}norm_layers\.(\d+)\.", r"encoder.projectors.\1.norm."),
    (rf"{ENCODER}norm_pre1\.", "encoder.norm."),
    (rf"{ENCODER}projectors\.", "encoder.projectors."),
    (rf"{ENCODER}transformer\.layers\.", "encoder.layers."),
    (r"pre_slots_quant\.", "into_code."),
    (r"post_slots_quant\.", "from_code."),
    (r"slot_quantize\.embedding\.", "quantizer.embedding."),
    (rf"{TOKENS}position_embedding$", "transformer.positions"),
    (rf"{TOKENS}slot_position_embedding$", "transformer.token_positions"),
    (rf"{TOKENS}mask_embedding$", "transformer.mask"),
    (rf"{TOKENS}mask_dino$", "transformer.feature_mask"),
    (rf"{TOKENS}cls_token$", "transformer.class_token"),
    (rf"{TOKENS}register_tokens$", "transformer.registers"),
    (rf"{TOKENS}norm_post1\.", "transformer.norm."),
    (rf"{TOKENS}norm_post2\.", "transformer.feature_norm."),
    (rf"{TOKENS}proj\.", "transformer.feature_head."),
    (rf"{TOKENS}transformer\.layers\.(\d+)\.attn1\.", r"transformer.blocks.\1.attention."),
    (rf"{TOKENS}transformer\.layers\.(\d+)\.ffnet\.", r"transformer.blocks.\1.mlp."),
    (rf"{TOKENS}transformer\.layers\.", "transformer.blocks."),
    (r"decoder\.norm_out\.", "decoder.conv_norm_out."),
    (r"decoder\.(conv_in|conv_out)\.", r"decoder.\1."),
    (r"decoder\.mid\.0\.", "decoder.mid_block.resnets.0."),
    (r"decoder\.mid\.2\.", "decoder.mid_block.resnets.1."),
    (r"decoder\.mid\.1\.norm\.", "decoder.mid_block.attentions.0.group_norm."),
    (r"decoder\.mid\.1\.([qkv])\.", r"decoder.mid_block.attentions.0.to_\1."),
    (r"decoder\.mid\.1\.proj_out\.", "decoder.mid_block.attentions.0.to_out.0."),
    (r"decoder\.conv_blocks\.(\d+)\.res\.(\d+)\.nin_shortcut\.", r"decoder.up_blocks.\1.resnets.\2.conv_shortcut."),
    (r"decoder\.conv_blocks\.(\d+)\.res\.", r"decoder.up_blocks.\1.resnets."),
    (r"decoder\.conv_blocks\.(\d+)\.upsample\.conv\.", r"decoder.up_blocks.\1.upsamplers.0.conv."),
)
DROPPED = ((r"slot_quantize\.codebook_used$", "indices of the last images, for a log"), (r".*backbone", "vision model"))

# DINOv2's names -> those of transformers.
VISION_NAMES: tuple[tuple[str, str], ...] = (
    (r"(cls_token|register_tokens|mask_token)$", r"embeddings.\1"),
    (r"pos_embed$", "embeddings.position_embeddings"),
    (r"patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"norm\.", "layernorm."),
    (r"blocks\.(\d+)\.ls([12])\.gamma$", r"encoder.layer.\1.layer_scale\2.lambda1"),
    (r"blocks\.(\d+)\.attn\.(q|k|v|proj)\.", r"encoder.layer.\1.attention.\2."),
    (r"blocks\.(\d+)\.(norm1|norm2|mlp)\.", r"encoder.layer.\1.\2."),
)
# Its attention, which versions of transformers call differently.
ATTENTION = (
    {"q": "q_proj", "k": "k_proj", "v": "v_proj", "proj": "o_proj"},
    {"q": "attention.query", "k": "attention.key", "v": "attention.value", "proj": "output.dense"},
)


def is_tokenizer(found: Mapping[str, Any]) -> bool:
    """Whether a file's content is a VFMTok tokenizer."""
    tables = [found, *(found[name] for name in ("ema", "model") if isinstance(found.get(name), Mapping))]
    return any(MARK in table for table in tables)


def load(path: str | Path, vision: str | Path | None) -> tuple[Part, ConversionReport]:
    """The tokenizer in a released file with its vision model: ``vision`` is DINOv2's release file of ViT-L/14 with
    registers, or a folder or hub id of its port.  Raises ValueError, in one line, for what does not fit."""
    path = Path(path)
    if vision is None:
        raise ValueError(
            f"{path} is a tokenizer without its frozen vision model; give DINOv2 ViT-L/14 with registers as --vision, "
            "dinov2_vitl14_reg4_pretrain.pth or the folder of facebook/dinov2-with-registers-large"
        )
    found = released.opened(path)
    name = next((name for name in ("ema", "model") if isinstance(found.get(name), Mapping)), None)
    table, weights = (dict(found[name]), EMA if name == "ema" else RAW) if name else (dict(found), released.BARE)
    state, report = sort(table, path.name, weights)
    hf, frozen = vision_model(vision)
    config = configuration(state, hf, str(path))
    state |= {f"vision.network.{key}": value for key, value in frozen.items()}
    part = Part(registry.VFMTOK, config, state, str(path))
    part.build()
    report.notes.append(f"vision model: {Path(vision).name}, {len(frozen)} tensors")
    report.notes.append("positions are resampled by scale, as the weights were trained; registers change nothing")
    return part, report


def sort(table: Mapping[str, Any], source: str, weights: str) -> tuple[dict[str, Tensor], ConversionReport]:
    """Tensors under our names, and the account.  Raises ValueError for keys that have no place."""
    report, state = ConversionReport(source, weights), {}
    for key, value in strip(table, source).items():
        reason = next((why for pattern, why in DROPPED if re.match(pattern, key)), None)
        ours = _renamed(key, NAMES)
        if reason is not None:
            report.dropped[key] = reason
        elif ours is None or not isinstance(value, Tensor):
            report.left_over.append(key)
        else:
            linear = re.match(r"decoder\.mid_block\.attentions\.0\.to_.*weight", ours) is not None
            state[ours] = value.flatten(1) if linear else value  # theirs is a convolution of 1 x 1
            if ours == key:
                report.kept.append(key)
            else:
                report.renamed[key] = (ours,)
    if report.left_over:
        raise ValueError(
            f"{source} has {len(report.left_over)} tensors without a place in a VFMTok: "
            f"{', '.join(report.left_over[:3])}; give the tokenizer's file as it was published"
        )
    return state, report


def _renamed(key: str, names: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, ours in names:
        if re.match(pattern, key):
            return re.sub(pattern, ours, key, count=1)
    return None


def configuration(state: Mapping[str, Tensor], hf: dict[str, Any], where: str) -> VFMTokConfig:
    """Sizes from the shapes of the weights; heads are of 64 channels, as published (docs/vfmtok.md 4.4, 6).  Raises
    ValueError where a tensor is missing, or shapes belong to no such model."""

    def shape(key: str) -> tuple[int, ...]:
        return released.shape(state, key, where)

    width, anchors = shape("encoder.tokens")[2], round(shape("encoder.tokens")[1] ** 0.5)
    heads = max(1, width // 64)
    levels = released.blocks(state, "encoder.projectors.")
    stages = released.blocks(state, "decoder.up_blocks.")
    widths = [shape(f"decoder.up_blocks.{k}.resnets.0.conv1.weight")[0] for k in reversed(range(stages))]
    blocks = [released.blocks(state, f"decoder.up_blocks.{k}.resnets.") for k in reversed(range(stages))]
    weights = shape("encoder.layers.0.cross_attn.attention_weights.weight")[0]
    rows = shape("transformer.positions")[1] - 1
    side = VISION // hf["patch_size"]
    if side * side != rows or shape("encoder.projectors.0.mlp.0.weight")[1] != hf["hidden_size"]:
        raise ValueError(
            f"{where} was trained on {rows} features of width {shape('encoder.projectors.0.mlp.0.weight')[1]}, and "
            f"--vision makes {side * side} of width {hf['hidden_size']}; give DINOv2 ViT-L/14 with registers"
        )
    return VFMTokConfig(
        vision=VisionConfig(hf=hf, size=VISION, taps=usual_taps(hf["num_hidden_layers"])),
        image_size=IMAGE,
        anchors=anchors,
        width=width,
        heads=heads,
        points=weights // (heads * levels),
        layers=released.blocks(state, "encoder.layers."),
        hidden=shape("encoder.layers.0.linear1.weight")[0],
        codebook_size=shape("quantizer.embedding.weight")[0],
        code_width=shape("quantizer.embedding.weight")[1],
        vit_layers=released.blocks(state, "transformer.blocks."),
        vit_hidden=shape("transformer.blocks.0.mlp.w3.weight")[1],
        registers=shape("transformer.registers")[1] if "transformer.registers" in state else 0,
        share_mask="transformer.feature_mask" not in state,
        resampling="scale",
        decoder=DecoderConfig(kind="kl", widths=tuple(widths), layers=tuple(blocks), attention=0),
    )


def vision_model(spec: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """transformers' configuration and weights of DINOv2 with registers, from its release file or a folder of its port.
    Raises ValueError for another model."""
    from transformers import AutoConfig, AutoModel, Dinov2WithRegistersConfig

    from vgt.vlm.vlm import plain

    if not Path(spec).is_file():
        folder = locate(spec)
        given = {"use_safetensors": True, "dtype": torch.float32}
        try:
            network = AutoModel.from_pretrained(folder, trust_remote_code=False, **given)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"--vision {spec} cannot be read: {str(error).splitlines()[0]}") from error
        if network.config.model_type != "dinov2_with_registers":
            raise ValueError(f"--vision {spec} is a {network.config.model_type}; give DINOv2 with registers")
        return plain(AutoConfig.from_pretrained(folder, trust_remote_code=False)), dict(network.state_dict())
    state: dict[str, Tensor] = {}
    for key, value in _unfused(released.opened(Path(spec))).items():
        if (ours := _renamed(key, VISION_NAMES)) is not None:
            state[ours] = value
        else:
            raise ValueError(f"--vision {spec} has {key}, which is not DINOv2's; give dinov2_vitl14_reg4_pretrain.pth")
    try:
        _, positions, width = state["embeddings.position_embeddings"].shape
        patch = state["embeddings.patch_embeddings.projection.weight"].shape[-1]
        registers = state["embeddings.register_tokens"].shape[1]
    except KeyError as error:
        raise ValueError(f"--vision {spec} lacks {error}; give dinov2_vitl14_reg4_pretrain.pth") from error
    config = Dinov2WithRegistersConfig(
        hidden_size=width,
        num_hidden_layers=released.blocks(state, "encoder.layer."),
        num_attention_heads=max(1, width // 64),
        num_register_tokens=registers,
        patch_size=patch,
        image_size=round((positions - 1) ** 0.5) * patch,
    )
    with torch.device("meta"):
        known = AutoModel.from_config(config, trust_remote_code=False).state_dict()
    names = next((n for n in ATTENTION if f"encoder.layer.0.attention.{n['q']}.weight" in known), ATTENTION[0])
    attention = re.compile(r"(encoder\.layer\.\d+\.attention)\.(q|k|v|proj)\.")
    return plain(config), {attention.sub(lambda m: f"{m[1]}.{names[m[2]]}.", key): t for key, t in state.items()}


def _unfused(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with the queries, keys and values of each block apart."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if ".attn.qkv." not in key:
            found[key] = value
            continue
        for part, rows in zip("qkv", value.chunk(3), strict=True):
            found[key.replace(".qkv.", f".{part}.")] = rows.clone()
    return found
