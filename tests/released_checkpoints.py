"""Checkpoints in the published layout, from docs/vgt.md 4.2 and 4.3: tables of keys and shapes, small or full."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from conftest import IMAGE

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Sizes:
    """``width`` D, ``layers``, ``kv`` rows of keys and values, ``mlp`` F, ``words``; ``ae`` A; ``tower``: width, depth
    and MLP of the vision tower, ``patch``, ``positions`` of InternViT; ``d_z``; ``head``: width and depth of the flow
    head; ``grid``; ``stages`` of the decoder as (width, blocks, attention), from pixels to latents."""

    width: int
    layers: int
    kv: int
    mlp: int
    words: int
    ae: int
    tower: tuple[int, int, int]
    patch: int
    positions: int
    d_z: int
    head: tuple[int, int]
    grid: int
    stages: tuple[tuple[int, int, bool], ...]


DC_AE = ((128, 3, False), (256, 3, False), (512, 3, False), (512, 3, True), (1024, 3, True), (1024, 3, True))
_FULL = {"patch": 14, "d_z": 32, "head": (1536, 12), "grid": 64, "stages": DC_AE}
INTERNVL3_1B = Sizes(896, 24, 128, 4864, 151674, 896, (1024, 24, 4096), positions=1025, **_FULL)
INTERNVL3_2B = Sizes(1536, 28, 256, 8960, 151674, 896, (1024, 24, 4096), positions=1025, **_FULL)
QWEN_3B = Sizes(2048, 36, 256, 11008, 151936, 2048, (1280, 32, 3420), positions=0, **_FULL)


def small(words: int, family: str, layers: int = 2, ae: int = 32) -> Sizes:
    """The sizes of conftest's VLMs."""
    stages = ((32, 1, False), (32, 1, True))
    positions = 1 + (IMAGE // 4) ** 2 if family == "internvl" else 0
    return Sizes(32, layers, 16, 64, words, ae, (16, 2, 32), 4, positions, 8, (32, 2), 16, stages)


def both(prefix: str, out: int, *more: int) -> Shapes:
    """A weight and a bias."""
    return {f"{prefix}.weight": (out, *more), f"{prefix}.bias": (out,)}


def decoder_layers(prefix: str, s: Sizes) -> Shapes:
    """Embeddings, layers and final norm of a language model (4.2)."""
    found: Shapes = {f"{prefix}embed_tokens.weight": (s.words, s.width), f"{prefix}norm.weight": (s.width,)}
    for n in range(s.layers):
        at = f"{prefix}layers.{n}."
        found |= both(f"{at}self_attn.q_proj", s.width, s.width)
        found |= both(f"{at}self_attn.k_proj", s.kv, s.width) | both(f"{at}self_attn.v_proj", s.kv, s.width)
        found |= {
            f"{at}self_attn.o_proj.weight": (s.width, s.width),
            f"{at}mlp.gate_proj.weight": (s.mlp, s.width),
            f"{at}mlp.up_proj.weight": (s.mlp, s.width),
            f"{at}mlp.down_proj.weight": (s.width, s.mlp),
            f"{at}input_layernorm.weight": (s.width,),
            f"{at}post_attention_layernorm.weight": (s.width,),
        }
    return found


def generator(family: str, s: Sizes) -> Shapes:
    """Keys of a generator without its autoencoder."""
    if family == "internvl":
        found = decoder_layers("lmm.language_model.model.", s)
        found["lmm.language_model.lm_head.weight"] = (s.words, s.width)
    else:
        found = decoder_layers("lmm.model.language_model.", s) | decoder_layers("lmm.language_model.", s)
        found["lmm.lm_head.weight"] = (s.words, s.width)
    h, depth = s.head
    net = "image_head.net."
    found |= {
        "adaptive_metaquery.max_metaquery": (1, s.width, s.grid, s.grid),
        "adaptive_metaquery.pos_encoding.grid_embed": (1, s.width, s.grid, s.grid),
        **both("image_in_projector", s.width, s.d_z),
        **both("image_out_projector", s.width, s.width),
        **both(f"{net}time_embed.mlp.0", h, 256),
        **both(f"{net}time_embed.mlp.2", h, h),
        **both(f"{net}cond_embed", h, s.width),
        **both(f"{net}input_proj", h, s.d_z),
        **both(f"{net}final_layer.adaLN_modulation.1", 2 * h, h),
        **both(f"{net}final_layer.linear", s.d_z, h),
    }
    for i in range(depth):
        at = f"{net}res_blocks.{i}."
        found |= both(f"{at}in_ln", h) | both(f"{at}mlp.0", h, h) | both(f"{at}mlp.2", h, h)
        found |= both(f"{at}adaLN_modulation.1", 3 * h, h)
    return found


def tower(family: str, s: Sizes, encoder: str = "encoder.", mlp1: str = "mlp1.") -> Shapes:
    """The vision tower and projector of an autoencoder (4.3)."""
    c, depth, mlp = s.tower
    if family == "internvl":
        found: Shapes = {
            f"{encoder}embeddings.class_embedding": (1, 1, c),
            f"{encoder}embeddings.position_embedding": (1, s.positions, c),
            **both(f"{encoder}embeddings.patch_embedding", c, 3, s.patch, s.patch),
            **both(f"{mlp1}0", 4 * c),
            **both(f"{mlp1}1", s.ae, 4 * c),
            **both(f"{mlp1}3", s.ae, s.ae),
        }
        for n in range(depth):
            at = f"{encoder}encoder.layers.{n}."
            found |= both(f"{at}attn.qkv", 3 * c, c) | both(f"{at}attn.proj", c, c)
            found |= both(f"{at}mlp.fc1", mlp, c) | both(f"{at}mlp.fc2", c, mlp)
            found |= both(f"{at}norm1", c) | both(f"{at}norm2", c) | {f"{at}ls1": (c,), f"{at}ls2": (c,)}
        return found
    found = {
        f"{encoder}patch_embed.proj.weight": (c, 3, 2, s.patch, s.patch),
        f"{encoder}merger.ln_q.weight": (c,),
        **both(f"{encoder}merger.mlp.0", 4 * c, 4 * c),
        **both(f"{encoder}merger.mlp.2", s.ae, 4 * c),
    }
    for n in range(depth):
        at = f"{encoder}blocks.{n}."
        found |= {f"{at}norm1.weight": (c,), f"{at}norm2.weight": (c,)}
        found |= both(f"{at}attn.qkv", 3 * c, c) | both(f"{at}attn.proj", c, c)
        found |= both(f"{at}mlp.gate_proj", mlp, c) | both(f"{at}mlp.up_proj", mlp, c)
        found |= both(f"{at}mlp.down_proj", c, mlp)
    return found


def pixel_decoder(s: Sizes) -> Shapes:
    """AutoencoderDC's decoder."""
    deepest = s.stages[-1][0]
    found = both("decoder.conv_in", deepest, s.d_z, 3, 3)
    for i, (c, count, attention) in enumerate(s.stages):
        first = 0
        if i < len(s.stages) - 1:
            found |= both(f"decoder.up_blocks.{i}.0.conv", c, s.stages[i + 1][0], 3, 3)
            first = 1
        for k in range(first, first + count):
            at = f"decoder.up_blocks.{i}.{k}."
            if not attention:
                found |= both(f"{at}conv1", c, c, 3, 3) | both(f"{at}norm", c) | {f"{at}conv2.weight": (c, c, 3, 3)}
                continue
            found |= {f"{at}attn.to_{x}.weight": (c, c) for x in "qkv"}
            found |= both(f"{at}attn.norm_out", c) | {f"{at}attn.to_out.weight": (c, 2 * c)}
            found[f"{at}attn.to_qkv_multiscale.0.proj_in.weight"] = (3 * c, 1, 5, 5)
            found[f"{at}attn.to_qkv_multiscale.0.proj_out.weight"] = (3 * c, 32, 1, 1)
            found |= both(f"{at}conv_out.conv_inverted", 8 * c, c, 1, 1) | both(f"{at}conv_out.norm", c)
            found |= both(f"{at}conv_out.conv_depth", 8 * c, 1, 3, 3)
            found[f"{at}conv_out.conv_point.weight"] = (c, 4 * c, 1, 1)
    return found | both("decoder.norm_out", s.stages[0][0]) | both("decoder.conv_out", 3, s.stages[0][0], 3, 3)


def autoencoder(family: str, s: Sizes, kl: bool = False) -> Shapes:
    """Keys of an autoencoder's file."""
    out = s.d_z * (2 if kl else 1)
    found = tower(family, s) | pixel_decoder(s)
    for i in range(3):
        found |= both(f"down_blocks.{i}.mlp.0", s.ae) | both(f"down_blocks.{i}.mlp.1", s.ae, s.ae)
        found |= both(f"down_blocks.{i}.mlp.3", s.ae, s.ae)
    return found | both("down_mlp.0", s.ae) | both("down_mlp.1", out, s.ae) | both("down_mlp.3", out, out)


def whole(family: str, s: Sizes, kl: bool = False) -> Shapes:
    """A generator's file with its autoencoder in it."""
    return generator(family, s) | {f"vgt_ae.{key}": shape for key, shape in autoencoder(family, s, kl).items()}


def ballast(family: str, s: Sizes) -> Shapes:
    """What training leaves in a generator's file and inference ignores (4.2, 4.3)."""
    return {
        **tower(family, s, "vgt_ae.teacher.", "vgt_ae.teacher_mlp1."),
        **both("image_head.net.repa_projector.0", 20, s.head[0]),
        **both("dinov3_extractor.model.patch_embed.proj", 4, 3, 2, 2),
        "steps": (),
        **both("lmm.vision_model.embeddings.patch_embedding", 4, 3, 2, 2),
        **both("lmm.mlp1.0", 4),
        "lmm.model.visual.patch_embed.proj.weight": (4, 3, 2, 2, 2),
    }


def drawn(shapes: Shapes, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """Random tensors; Qwen's second copy of the language model shares the memory of the first."""
    rng = torch.Generator().manual_seed(seed)
    made: dict[str, torch.Tensor] = {}
    for key, shape in shapes.items():
        first = key.replace("lmm.language_model.", "lmm.model.language_model.", 1)
        if key.startswith("lmm.language_model.") and first in made:
            made[key] = made[first]
        else:
            made[key] = (torch.randn(shape, generator=rng) * 0.2).to(dtype)
    return made


def empty(shapes: Shapes) -> dict[str, torch.Tensor]:
    """Tensors without memory."""
    return {key: torch.empty(shape, device="meta", dtype=torch.bfloat16) for key, shape in shapes.items()}
