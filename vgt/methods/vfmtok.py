"""VFMTok: a frozen vision model as an image tokenizer (docs/vfmtok.md; arXiv 2507.08441).

Anchor queries read a vision model's features where they choose, a codebook of unit vectors makes N indices of them, and
a causal transformer turns these into a grid of latents for a pixel decoder; in training also into the vision model's
own features.  With ``tokens`` "grid" the same codebook and decoder stand on a grid of features, as in a VQGAN.

Shapes: B images, N = n x n tokens, D width, d_c code width, K codes, G the side of the vision model's last grid,
P = G^2 features of width F, h x w latents of ``stride`` pixels.  Images float [B, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vgt.checkpoints.pretrained import Pretrained
from vgt.core.config import Config, Count, NotNegative, Share, Whole
from vgt.equations import adversarial
from vgt.methods.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    FeatureDiscriminator,
    FeatureDiscriminatorConfig,
)
from vgt.methods.pixel_decoder import DecoderConfig, build_decoder
from vgt.methods.quantizer import Quantizer
from vgt.methods.regions import CausalAttention, Look, Projector, RegionEncoder
from vgt.methods.vision_features import VisionConfig, VisionFeatures

OF_REGIONS = (
    "anchors", "attention", "points", "layers", "hidden", "vit_layers", "vit_hidden", "registers", "registers_first",
    "shared", "share_mask", "resampling", "dropout",
)  # fmt: skip


class VFMTokConfig(Config):
    """``vision``: what is read; ``vision_trained``: from random weights, and trained.  ``levels``: which of its maps,
    all where empty.  ``tokens``: "regions", of ``anchors`` x ``anchors`` queries, or "grid", one for each cell of the
    deepest level.  ``attention`` of the anchors: "deformable" with ``points`` a head and level, or plain in "windows".
    ``shared``: one transformer for images and features; ``share_mask``: one mask token for both.  ``registers_first``:
    before the masks, which see them then.  ``resampling`` of the position table to another grid: to its "size", or by
    the "scale" (h + 0.1) / G of the released weights (6)."""

    vision: VisionConfig
    vision_trained: bool = False
    image_size: Count = 336
    levels: tuple[Whole, ...] = ()
    tokens: Literal["regions", "grid"] = "regions"
    anchors: Count = 16
    attention: Literal["deformable", "windows"] = "deformable"
    width: Count = 512
    heads: Count = 8
    points: Count = 4
    layers: Count = 6
    hidden: Count = 1024
    codebook_size: Count = 16_384
    code_width: Count = 12
    vit_layers: Count = 6
    vit_hidden: Count = 1368
    registers: Whole = 4
    registers_first: bool = False
    shared: bool = True
    share_mask: bool = True
    resampling: Literal["size", "scale"] = "size"
    dropout: Share = 0.1
    decoder: DecoderConfig = DecoderConfig(kind="kl", widths=(128, 128, 256, 256, 512), layers=(2,) * 5, attention=0)

    @model_validator(mode="after")
    def _possible(self) -> VFMTokConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} cannot have {self.heads} heads; choose a divisor of the width")
        if self.image_size % self.stride:
            near = max(1, self.image_size // self.stride) * self.stride
            raise ValueError(f"image_size {self.image_size} is no multiple of {self.stride} px; choose {near}")
        if self.vision.kind == "conv" and len(self.vision.widths) > len(self.decoder.widths):
            raise ValueError("vision.widths has more stages than decoder.widths; give as many or fewer")
        if self.tokens == "grid":
            usual = {name: type(self).model_fields[name].default for name in OF_REGIONS}
            for name, value in usual.items():
                if getattr(self, name) != value:
                    raise ValueError(f"{name} {getattr(self, name)!r} has no effect with tokens grid; leave it out")
        if self.vision.kind == "conv" and self.tokens == "regions":
            raise ValueError("vision.kind conv has one level of features; use it with tokens grid")
        if self.vision.kind == "conv" and self.vision_trained:
            raise ValueError("vision_trained has no effect with vision.kind conv, which always trains; leave it out")
        if self.vision.kind == "efflite0" and self.vision_trained:
            raise ValueError("vision.kind efflite0 comes with its weights; use vision_trained with a transformer")
        return self

    @property
    def stride(self) -> int:
        """Pixels per latent."""
        return 2 ** (len(self.decoder.widths) - 1)


class SwiGLU(nn.Module):
    """w3(silu(a) b) with (a, b) = w12(x)."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.w12, self.w3 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(a) * b)


class Block(nn.Module):
    """x + attention(norm x), x + MLP(norm x); causal."""

    def __init__(self, config: VFMTokConfig):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.attention = CausalAttention(config.width, config.heads, config.dropout)
        self.mlp = SwiGLU(config.width, config.vit_hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def resampled(table: Tensor, grid: tuple[int, int], rule: str) -> Tensor:
    """A position table [1, G G, D] for another grid: bicubic, [1, h w, D].  "scale": with the factor (h + 0.1) / G in
    place of the size, which moves the places by a fraction of a cell (docs/vfmtok.md 6)."""
    side = math.isqrt(table.shape[1])
    if grid == (side, side):
        return table
    maps = table.mT.unflatten(2, (side, side)).float()
    asked = {"size": grid} if rule == "size" else {"scale_factor": tuple((n + 0.1) / side for n in grid)}
    return F.interpolate(maps, mode="bicubic", align_corners=False, **asked).flatten(2).mT.to(table.dtype)


class TokenTransformer(nn.Module):
    """Tokens [B, N, D] -> latents [B, D, h, w], class vector [B, D] or features [B, P, F], by mask tokens that stand
    behind the tokens (6)."""

    def __init__(self, config: VFMTokConfig, side: int, features: int):
        super().__init__()
        self.config, width = config, config.width
        scale = width**-0.5

        def table(rows: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(1, rows, width) * scale)

        self.positions, self.token_positions = table(1 + side * side), table(config.anchors**2)
        self.mask, self.class_token = table(1), table(1)
        self.feature_mask = None if config.share_mask else table(1)
        self.registers = nn.Parameter(torch.zeros(1, config.registers, width)) if config.registers else None
        self.norm, self.feature_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.vit_layers))
        self.feature_blocks = None if config.shared else nn.ModuleList(Block(config) for _ in range(config.vit_layers))
        self.feature_head = nn.Linear(width, features)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def _read(self, tokens: Tensor, blocks: nn.ModuleList, norm: nn.Module, mask: Tensor, places: Tensor) -> Tensor:
        """Last states [B, N + 1 + registers + masks, D] of [tokens | class | masks | registers]."""
        tokens = self.norm(tokens + self.token_positions)
        parts = [mask + places] if mask is not None else []
        if self.registers is not None and mask is not None:
            parts.insert(0 if self.config.registers_first else 1, self.registers)
        block = norm(torch.cat([self.class_token + self.positions[:, :1], *parts], 1))
        x = torch.cat([tokens, block.expand(len(tokens), -1, -1)], 1)
        for layer in blocks:
            x = layer(x)
        return x

    def _masked(self, x: Tensor, count: int) -> Tensor:
        """The states of the mask tokens."""
        first = self.config.anchors**2 + 1
        first += self.config.registers if self.config.registers_first else 0
        return x[:, first : first + count]

    def latents(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """[B, D, h, w]: what the pixel decoder reads."""
        places = resampled(self.positions[:, 1:], grid, self.config.resampling)
        x = self._read(tokens, self.blocks, self.norm, self.mask, places)
        return self._masked(x, grid[0] * grid[1]).mT.unflatten(2, grid)

    def class_vector(self, tokens: Tensor) -> Tensor:
        """[B, D]: the class token's state, which sees the tokens alone: a linear probe reads it."""
        return self._read(tokens, self.blocks, self.norm, None, None)[:, self.config.anchors**2]

    def features(self, tokens: Tensor) -> Tensor:
        """[B, P, F]: the vision model's last features again, in training only."""
        mask = self.mask if self.feature_mask is None else self.feature_mask
        blocks = self.blocks if self.feature_blocks is None else self.feature_blocks
        places = self.positions[:, 1:]
        x = self._read(tokens, blocks, self.feature_norm, mask, places)
        return self.feature_head(self._masked(x, places.shape[1]))


class VFMTok(Pretrained, nn.Module):
    """A discrete tokenizer: ``encode``: images -> int64 [B, n, n]; ``decode``: back to images of ``config.image_size``.

    Raises ValueError for levels that the vision model does not have, and a decoder whose width is not the tokens'."""

    def __init__(self, config: VFMTokConfig):
        super().__init__()
        self.config, self.stride = config, config.stride
        self.vision = VisionFeatures(config.vision, config.vision_trained)
        there = len(self.vision.channels)
        self.levels = config.levels or tuple(range(there))
        if max(self.levels) >= there or list(self.levels) != sorted(set(self.levels)):
            raise ValueError(f"levels {list(self.levels)} are impossible; give some of 0 to {there - 1}, rising")
        channels, width = [self.vision.channels[level] for level in self.levels], config.width
        if config.tokens == "regions":
            self.encoder = RegionEncoder(
                channels, config.anchors, width, config.heads, config.layers, config.points, config.hidden,
                config.attention,
            )  # fmt: skip
            self.transformer = TokenTransformer(config, self.vision.grids[-1][0], self.vision.width)
        else:
            self.encoder, self.transformer = Projector(channels[-1], width), None
        self.into_code, self.from_code = nn.Linear(width, config.code_width), nn.Linear(config.code_width, width)
        self.quantizer = Quantizer(config.codebook_size, config.code_width)
        self.decoder = build_decoder(config.decoder, width)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; images are cast to it on their way in."""
        return self.into_code.weight.dtype

    @property
    def tokens(self) -> int:
        """N."""
        n, m = self.grid
        return n * m

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens of an image of ``config.image_size``."""
        return self._grid((self.config.image_size,) * 2)

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """The same for H x W pixels: only a convolutional encoder makes more tokens of more pixels."""
        if self.config.tokens == "regions":
            return (self.config.anchors, self.config.anchors)
        if self.config.vision.kind == "conv":
            stride = 2 ** (len(self.config.vision.widths) - 1)
            return (size[0] // stride, size[1] // stride)
        return self.vision.grids[self.levels[-1]]

    def read(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Codes before quantization [B, N, d_c], and the vision model's last features [B, P, F]."""
        height, width = images.shape[-2:]
        if min(height, width) < self.stride or height % self.stride or width % self.stride:
            raise ValueError(
                f"image of {width} x {height} px: sides must be multiples of {self.stride} px; resize or crop it"
            )
        maps, target = self.vision(images)
        maps = [maps[level].to(self.dtype) for level in self.levels]
        tokens = self.encoder(maps if self.transformer is not None else maps[-1].flatten(2).mT)
        return self.into_code(tokens), target

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> int64 [B, n, n], row by row of the anchors.  Raises ValueError for sides that are no
        multiples of the stride."""
        return self.quantizer.indices(self.read(images)[0]).unflatten(1, self._grid(images.shape[-2:]))

    def vectors(self, indices: Tensor) -> Tensor:
        """int64 [B, n, n] -> codes [B, d_c, n, n], unit vectors."""
        return self.quantizer.vectors(indices).movedim(-1, 1)

    def decode(self, indices: Tensor) -> Tensor:
        """int64 [B, n, n] -> [B, 3, S, S].  Raises ValueError for indices outside the codebook and another number of
        tokens."""
        if indices.shape[1:] != self.grid:
            raise ValueError(f"tokens of shape {tuple(indices.shape[1:])} are not this tokenizer's {self.grid}")
        side = self.config.image_size
        return self.render(self.quantizer.vectors(indices).flatten(1, 2), (side, side))

    def render(self, codes: Tensor, size: tuple[int, int]) -> Tensor:
        """Quantized codes [B, N, d_c] -> images [B, 3, H, W], fp32."""
        return self._pixels(self.from_code(codes.to(self.dtype)), size)

    def _pixels(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        if self.transformer is not None:
            z = self.transformer.latents(tokens, (size[0] // self.stride, size[1] // self.stride))
        else:
            z = tokens.mT.unflatten(2, self._grid(size))
        x = self.decoder(z).float()
        return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.render(self._codes(images), tuple(images.shape[-2:]))

    def _codes(self, images: Tensor) -> Tensor:
        """Quantized codes [B, N, d_c]."""
        return self.quantizer.codes[self.quantizer.indices(self.read(images)[0])]

    def probe_features(self, images: Tensor) -> Tensor:
        """[B, D]: the class vector (docs/vfmtok.md 6); of a grid the mean of its codes, [B, d_c]."""
        codes = self._codes(images)
        if self.transformer is None:
            return codes.mean(1)
        return self.transformer.class_vector(self.from_code(codes.to(self.dtype))).float()

    def regions(self, images: Tensor) -> Look:
        """Where each token looked in the last layer.  Raises ValueError for tokens that do not choose."""
        if self.transformer is None:
            raise ValueError("tokens of a grid look at their own cell; use a model with model.tokens regions")
        return self.encoder.look([self.vision(images)[0][level].to(self.dtype) for level in self.levels])


# ----------------------------------------------------------------------------------------------------- training


def feature_loss(made: Tensor, features: Tensor) -> Tensor:
    """mean(1 - cos(f', f)) over tokens and images: [B, P, F] each (docs/vfmtok.md 8)."""
    return (1 - F.cosine_similarity(made.float(), features.float(), dim=-1, eps=1e-6)).mean()


class VFMTokLossConfig(Config):
    """Weights of the losses (docs/vfmtok.md 8): the paper's ``reconstruction`` is 1, the reference's in effect 2.
    ``adversarial_start``: step from which the discriminator and its term are on.  ``discriminator``: a "conv" one, or
    one that reads the features of a vision transformer, ``init.discriminator``."""

    reconstruction: NotNegative = 1.0
    perceptual: NotNegative = 1.0
    perceptual_network: str = "efflite0"
    codebook: NotNegative = 1.0
    commitment: NotNegative = 0.25
    features: NotNegative = 1.0
    adversarial: NotNegative = 0.5
    adversarial_start: Whole = 20_000
    discriminator: Literal["features", "conv"] = "features"
    conv: DiscriminatorConfig = DiscriminatorConfig()
    of_features: FeatureDiscriminatorConfig = FeatureDiscriminatorConfig()


class VFMTokTraining:
    """The tokenizer with what its training needs beside it.  ``teacher``: the frozen vision model whose features a
    model with a trained one is to give back."""

    def __init__(
        self, model: VFMTok, losses: VFMTokLossConfig, perceptual: nn.Module | None = None,
        teacher: VisionFeatures | None = None, discriminator: Discriminator | FeatureDiscriminator | None = None,
    ):  # fmt: skip
        self.model, self.losses, self.perceptual, self.teacher = model, losses, perceptual, teacher
        self.discriminator = discriminator
        self._made: deque[Tensor] = deque()  # images in [-1, 1] that wait for the discriminator's turn of step _made_at
        self._made_at = -1
        if losses.features == 0 and model.transformer is not None:  # no gradient reaches them
            for part in (model.transformer.feature_head, model.transformer.feature_norm):
                part.requires_grad_(False)

    def trainable_modules(self) -> dict[str, nn.Module]:
        return {
            "model": self.model,
            **({"discriminator": self.discriminator} if self.discriminator is not None else {}),
        }

    def to(self, device) -> None:
        for module in (self.perceptual, self.teacher):
            if module is not None:
                module.to(device)

    def lr_scale(self, name: str) -> float:
        return 1.0

    def skips(self, name: str, step: int) -> bool:
        """The discriminator rests until its start."""
        return name == "discriminator" and step < self.losses.adversarial_start

    def loss(self, name: str, batch: dict[str, Tensor], step: int, rng: torch.Generator):
        """``batch``: images [B, 3, H, W] in [-1, 1]."""
        if name == "discriminator":
            return self._discriminator_loss(batch, rng)
        # The dropout of attention takes its numbers from torch's own generator, which then follows from this one.
        with torch.random.fork_rng([rng.device] if rng.device.type == "cuda" else []):
            torch.manual_seed(rng.initial_seed())
            return self._model_loss(batch, step, rng)

    def _model_loss(self, batch, step, rng):
        weights, images, model = self.losses, batch["images"], self.model
        z, target = model.read(images)
        codes, indices, codebook, commitment = model.quantizer(z)
        tokens = model.from_code(codes.to(model.dtype))
        made = model._pixels(tokens, tuple(images.shape[-2:]))
        with torch.autocast(images.device.type, enabled=False):
            mse = F.mse_loss(made.float(), images)
        parts: dict[str, Tensor] = {"mse": mse, "codebook": codebook, "commitment": commitment}
        total = weights.reconstruction * mse + weights.codebook * codebook + weights.commitment * commitment
        if self.perceptual is not None:
            parts["perceptual"] = self.perceptual((made.float() + 1) / 2, (images + 1) / 2).float()
            total = total + weights.perceptual * parts["perceptual"]
        if weights.features > 0:
            if self.teacher is not None:
                target = self.teacher(images)[1]
            parts["features"] = feature_loss(model.transformer.features(tokens), target.detach())
            total = total + weights.features * parts["features"]
        if self.discriminator is not None and step >= weights.adversarial_start:
            parts["adversarial"] = F.softplus(-self._logits(made, rng)).mean()
            total = total + weights.adversarial * parts["adversarial"]
            if step != self._made_at:
                self._made, self._made_at = deque(), step
            self._made.append(made.detach().float())
        used = torch.zeros(model.config.codebook_size, device=images.device)
        used = used.scatter(0, indices.flatten(), 1.0).mean()  # of the codebook, by this batch
        psnr = -10 * torch.log10(mse.detach() / 4)
        logged = {"loss": total.detach(), **{k: v.detach() for k, v in parts.items()}, "psnr": psnr}
        return total, {**logged, "used": used}

    def _logits(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Logits of images in [-1, 1]."""
        if isinstance(self.discriminator, FeatureDiscriminator):
            return self.discriminator(images, rng).float()
        return self.discriminator((images + 1) / 2).float()

    def _discriminator_loss(self, batch, rng):
        real, fake = self._logits(batch["images"], rng), self._logits(self._made.popleft(), rng)
        loss = adversarial.hinge_discriminator(real, fake)
        return self.losses.adversarial * loss, {"discriminator": loss.detach()}


def parts_of(model: VFMTok) -> dict[str, list[Any]]:
    """The components of a checkpoint by name, for the plan."""
    return {
        "vision": [model.vision],
        "encoder": [model.encoder],
        "codes": [model.into_code, model.from_code, model.quantizer],
        "transformer": [model.transformer],
        "decoder": [model.decoder],
    }
