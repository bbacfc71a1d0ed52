"""Pixel decoders behind one switch, and the pixel-only encoder (docs/vgt.md 1.7; paper Table 4).

"dc": diffusers' AutoencoderDC decoder.  "kl": diffusers' AutoencoderKL decoder.  "vit": a plain transformer.
Latents [B, d_z, h, w] -> images [B, 3, h 2^k, w 2^k], nominally in [-1, 1], not clamped.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vgt.checkpoints.pretrained import is_hub_id, state_hash
from vgt.core.config import Config, Count, Whole


class DecoderConfig(Config):
    """``widths`` from full resolution down to the latent grid; ``layers`` blocks per stage (a first 0 lets "dc" go from
    half resolution to pixels in one step); ``attention`` how many of the deepest stages use EfficientViT blocks."""

    kind: Literal["dc", "kl", "vit"] = "dc"
    widths: tuple[Count, ...] = (128, 256, 512, 512, 1024, 1024)
    layers: tuple[Whole, ...] = (3, 3, 3, 3, 3, 3)
    attention: Whole = 3
    upsample: Literal["interpolate", "pixel_shuffle"] = "interpolate"
    head_dim: Count = 32
    vit_width: Count = 1024
    vit_layers: Count = 24
    vit_heads: Count = 16
    vit_patch: Count = 32


def check(config: DecoderConfig, d_z: int) -> None:
    """Raises ValueError, naming the setting, for a decoder of latents of ``d_z`` channels that could not work."""
    widths = config.widths
    if config.kind == "dc":
        _check_stages(config)
        if widths[-1] % d_z:
            raise ValueError(f"d_z {d_z} does not divide the decoder's deepest width {widths[-1]}; change one")
    elif config.kind == "kl":
        groups = min(32, min(widths, default=0))
        if not groups or not max(config.layers, default=0) or any(width % groups for width in widths):
            raise ValueError(
                f"decoder.widths {widths} with decoder.layers {config.layers} are impossible for kind kl; its stages "
                f"are normalised in {groups or 32} groups, so choose multiples of it, and 1 or more layers"
            )
    elif config.vit_width % config.vit_heads:
        raise ValueError(
            f"decoder.vit_heads {config.vit_heads} does not divide decoder.vit_width {config.vit_width}; change one"
        )


def _check_stages(config: DecoderConfig) -> None:
    """Raises ValueError for stages that AutoencoderDC's blocks cannot make."""
    widths, layers = config.widths, config.layers
    if len(layers) != len(widths) or len(widths) < 2 or not all(layers[1:]):
        raise ValueError(
            f"decoder.widths {widths} and decoder.layers {layers} are impossible; give as many of one as of the other, "
            "2 or more, and only the first stage may have 0 layers"
        )
    for width, deeper in list(zip(widths, widths[1:], strict=False))[0 if layers[0] else 1 :]:
        if 4 * width % deeper:  # the shortcut repeats channels, or averages groups of them
            raise ValueError(
                f"decoder.widths {widths} are impossible: {deeper} after {width}; the deeper of two must divide 4 "
                f"times the other, so choose {width} or {2 * width}"
            )
    if config.attention > len(widths):
        raise ValueError(f"decoder.attention {config.attention} is impossible with {len(widths)} stages; lower it")
    for width in widths[len(widths) - config.attention :]:
        if width % config.head_dim:
            raise ValueError(
                f"decoder.head_dim {config.head_dim} does not divide the width {width} of a stage with attention; "
                "change one, or lower decoder.attention"
            )


def _dc_stages(config: DecoderConfig) -> dict:
    plain = len(config.widths) - config.attention
    return {
        "attention_head_dim": config.head_dim,
        "block_type": ("ResBlock",) * plain + ("EfficientViTBlock",) * config.attention,
        "block_out_channels": config.widths,
        "layers_per_block": config.layers,
        "qkv_multiscales": ((),) * plain + ((5,),) * config.attention,
    }


def build_decoder(config: DecoderConfig, d_z: int) -> nn.Module:
    """The decoder of a configuration, freshly initialised.  Raises ValueError as ``check``."""
    check(config, d_z)
    if config.kind == "dc":
        from diffusers.models.autoencoders.autoencoder_dc import Decoder

        return Decoder(in_channels=3, latent_channels=d_z, upsample_block_type=config.upsample, **_dc_stages(config))
    if config.kind == "kl":
        from diffusers.models.autoencoders.vae import Decoder

        return Decoder(
            in_channels=d_z,
            out_channels=3,
            up_block_types=("UpDecoderBlock2D",) * len(config.widths),
            block_out_channels=config.widths,
            layers_per_block=max(config.layers) - 1,
            norm_num_groups=min(32, min(config.widths)),
        )
    return ViTDecoder(config, d_z)


def load_decoder(decoder: nn.Module, spec: str) -> str:
    """Fill a "dc" decoder from a diffusers AutoencoderDC, a local folder or hub id (docs/vgt.md 1.7: its encoder and
    its scaling factor are not used); returns a hash of what was loaded.  Raises ValueError where it cannot be had or
    does not fit."""
    from diffusers import AutoencoderDC

    try:
        state = AutoencoderDC.from_pretrained(spec, trust_remote_code=False).decoder.state_dict()
        decoder.load_state_dict(state)
    except OSError as error:
        fault = str(error).splitlines()[0]
        fetch = f"fetch it where there is a network with `hf download {spec} --local-dir DIR`, and give DIR instead"
        remedy = fetch if is_hub_id(spec) else "name a folder with an AutoencoderDC"
        raise ValueError(f"init.decoder {spec!r} cannot be had ({fault}); {remedy}") from error
    except RuntimeError as error:
        fault = str(error).splitlines()[-1].strip()
        raise ValueError(f"init.decoder {spec!r} does not fit model.decoder: {fault}") from error
    return state_hash(state)


def build_pixel_encoder(config: DecoderConfig, out_channels: int, stride: int) -> nn.Module:
    """AutoencoderDC's encoder, the mirror of the "dc" decoder: images [B, 3, H, W] -> [B, out_channels, h, w], which is
    smaller by ``stride``.  Raises ValueError where the configuration cannot give that."""
    from diffusers.models.autoencoders.autoencoder_dc import Encoder

    _check_stages(config)
    widths, made = config.widths, 2 ** (len(config.widths) - 1)
    if made != stride:
        raise ValueError(f"an encoder with {len(widths)} decoder.widths has stride {made}; set pixel_stride to that")
    if widths[-1] % out_channels:
        raise ValueError(f"pixel_width {out_channels} does not divide the deepest width {widths[-1]}; change one")
    if config.upsample == "pixel_shuffle" and any(width % 4 for width in widths[1:]):
        raise ValueError(f"decoder.widths {widths} after the first must be multiples of 4 for pixel_shuffle")
    return Encoder(
        in_channels=3,
        latent_channels=out_channels,
        downsample_block_type="pixel_unshuffle" if config.upsample == "pixel_shuffle" else "conv",
        out_shortcut=True,
        **_dc_stages(config),
    )


class ViTDecoder(nn.Module):
    """Latent tokens -> pre-norm transformer with sinusoidal positions -> one patch of pixels a token."""

    def __init__(self, config: DecoderConfig, d_z: int):
        super().__init__()
        width = config.vit_width
        self.patch = config.vit_patch
        self.into = nn.Linear(d_z, width)
        layer = nn.TransformerEncoderLayer(
            width, config.vit_heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, config.vit_layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.out = nn.Linear(width, 3 * self.patch**2)

    def forward(self, z: Tensor) -> Tensor:
        b, _, h, w = z.shape
        x = self.into(z.flatten(2).mT)  # [B, hw, C]
        x = self.out(self.blocks(x + _sinusoid(h, w, x.shape[-1]).to(x)))  # [B, hw, 3 p p]
        x = x.reshape(b, h, w, 3, self.patch, self.patch).permute(0, 3, 1, 4, 2, 5)
        return x.reshape(b, 3, h * self.patch, w * self.patch)


def _sinusoid(h: int, w: int, width: int) -> Tensor:
    """[hw, width]: half of the channels encode the row, half the column."""
    quarter = width // 4
    frequency = torch.exp(-torch.arange(quarter) * (9.21 / quarter))
    rows, cols = (torch.arange(n, dtype=torch.float32)[:, None] * frequency for n in (h, w))
    rows, cols = (torch.cat([a.sin(), a.cos()], 1) for a in (rows, cols))
    grid = torch.cat([rows[:, None].expand(h, w, -1), cols[None].expand(h, w, -1)], -1).flatten(0, 1)
    return nn.functional.pad(grid, (0, width - grid.shape[1]))
