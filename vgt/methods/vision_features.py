"""Vision models as image tokenizers read them: a few maps of features from shallow to deep (docs/vfmtok.md 3).

Shapes: B images, C_l channels and h_l x w_l cells of level l.  Images float [B, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vgt.core.config import Config, Count, Whole
from vgt.methods.perceptual import feature_network
from vgt.vlm.families import IMAGENET, TOWER_PIXELS

LEVELS = 4


def usual_taps(depth: int) -> tuple[int, ...]:
    """Four blocks as far apart as ``depth`` allows, the last among them: 6, 12, 18, 24 of 24; 0 is the embedding."""
    step = max(1, depth // LEVELS)
    return tuple(max(0, depth - step * k) for k in reversed(range(LEVELS)))


def group_count(widths: tuple[int, ...], what: str) -> int:
    """Groups of the norms of a convolutional stack.  Raises ValueError for widths that they do not divide."""
    groups = min(32, min(widths))
    if any(width % groups for width in widths):
        raise ValueError(f"{what} {widths} are normalised in {groups} groups; choose multiples of it")
    return groups


EFFLITE_CHANNELS = {"efflite0": (24, 40, 112, 320)}  # at strides 4, 8, 16 and 32
STRIDES = (4, 8, 16, 32)


class VisionConfig(Config):
    """``kind``: "transformer", transformers' model of the configuration ``hf`` (DINOv2 with registers, CLIP, SigLIP,
    the tower of a VLM); "efflite0", EfficientNet-Lite0 with its ImageNet weights; "conv", a convolutional encoder
    trained from scratch with ``layers`` blocks a stage, ``widths`` from full resolution down.  ``size``: side in pixels
    that images are resized to before; ``taps``: after which blocks the levels are read (``usual_taps`` where empty),
    the last after the final norm (docs/vfmtok.md 3)."""

    kind: Literal["transformer", "efflite0", "conv"] = "transformer"
    hf: dict[str, Any] | None = None
    size: Count | None = None
    taps: tuple[Whole, ...] = ()
    widths: tuple[Count, ...] = ()
    layers: Count = 2

    @model_validator(mode="after")
    def _complete(self) -> VisionConfig:
        if self.kind == "transformer" and (not self.hf or not self.size):
            raise ValueError("a vision transformer needs hf, its configuration, and size, its images' side in pixels")
        if self.kind == "efflite0" and not self.size:
            raise ValueError("vision.kind efflite0 needs vision.size, a multiple of 32 px")
        if self.kind == "conv" and len(self.widths) < 2:
            raise ValueError(f"vision.widths {self.widths} is too short for kind conv; give 2 or more")
        return self


def _vision_part(hf: dict[str, Any]) -> nn.Module:
    """transformers' vision model of a configuration; of one for text and images (CLIP, SigLIP) the vision part."""
    from transformers import AutoConfig, AutoModel

    return AutoModel.from_config(AutoConfig.for_model(**hf), trust_remote_code=False)


class VisionFeatures(nn.Module):
    """images -> (levels, target): maps [B, C_l, h_l, w_l] from shallow to deep, and the deepest again as [B, P, C],
    what a tokenizer may be asked to reconstruct; None for "conv".

    Frozen, and in eval mode whatever its owner's mode, unless ``trained``.  ``channels`` and ``grids`` have a value per
    level."""

    def __init__(self, config: VisionConfig, trained: bool = False):
        super().__init__()
        self.config, self.trained = config, trained or config.kind == "conv"
        build = {"transformer": self._transformer, "efflite0": self._efflite, "conv": self._conv}
        build[config.kind]()
        mean, std = torch.tensor(self.pixels[0]), torch.tensor(self.pixels[1])
        self.register_buffer("mean", mean.view(3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(3, 1, 1), persistent=False)
        if not self.trained:
            self.requires_grad_(False).eval()

    def _transformer(self) -> None:
        config, hf = self.config, self.config.hf
        self.network = _vision_part(hf)
        own = self.network.config
        patch = own.patch_size if isinstance(own.patch_size, int) else own.patch_size[0]
        if config.size % patch or config.size < patch:
            near = max(1, config.size // patch) * patch
            raise ValueError(f"vision.size {config.size} is no multiple of the patch of {patch} px; choose {near}")
        depth = own.num_hidden_layers
        self.taps = config.taps or usual_taps(depth)
        if len(self.taps) != LEVELS or list(self.taps) != sorted(set(self.taps)) or self.taps[-1] != depth:
            raise ValueError(
                f"vision.taps {self.taps} are impossible with {depth} blocks; give {LEVELS}, rising, the last {depth}"
            )
        side = config.size // patch
        self.channels, self.grids = (own.hidden_size,) * LEVELS, ((side, side),) * LEVELS
        self.pixels = TOWER_PIXELS.get(own.model_type, IMAGENET)

    def _efflite(self) -> None:
        if self.config.size % STRIDES[-1]:
            near = max(1, self.config.size // STRIDES[-1]) * STRIDES[-1]
            raise ValueError(f"vision.size {self.config.size} is no multiple of {STRIDES[-1]} px; choose {near}")
        object.__setattr__(self, "network", None)  # made when it is used, and never stored: its package has the weights
        self.channels = EFFLITE_CHANNELS[self.config.kind]
        self.grids = tuple((self.config.size // stride,) * 2 for stride in STRIDES)
        self.pixels = ((0.0,) * 3, (1.0,) * 3)

    def _conv(self) -> None:
        from diffusers.models.autoencoders.vae import Encoder

        widths = self.config.widths
        groups = group_count(widths, "vision.widths")
        self.network = Encoder(
            3, widths[-1], ("DownEncoderBlock2D",) * len(widths), widths, self.config.layers, groups, double_z=False
        )
        self.channels, self.grids = (widths[-1],), ()
        self.pixels = ((0.5,) * 3, (0.5,) * 3)

    def train(self, mode: bool = True) -> VisionFeatures:
        return super().train(mode and self.trained)

    @property
    def width(self) -> int:
        """Channels of the target."""
        return self.channels[-1]

    def resized(self, images: Tensor) -> Tensor:
        """Bicubic with aligned corners and antialiasing, as the reference does, and clamped (docs/vfmtok.md 3)."""
        size = self.config.size  # None: any
        if size is None or images.shape[-2:] == (size, size):
            return images
        grown = F.interpolate(images, (size, size), mode="bicubic", align_corners=True, antialias=True)
        return grown.clamp(-1, 1)

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trained):
            x = (self.resized(images.float()) + 1) / 2
            x = (x - self.mean) / self.std
            if self.config.kind == "efflite0":
                levels = self._lite(x.device).stages(x)[1:]
            else:
                x = x.to(next(self.network.parameters()).dtype)
                levels = [self.network(x)] if self.config.kind == "conv" else self._blocks(x)
            return levels, None if self.config.kind == "conv" else levels[-1].flatten(2).mT

    def _lite(self, device: torch.device) -> nn.Module:
        if self.network is None:
            object.__setattr__(self, "network", feature_network(self.config.kind))
        return self.network.to(device)

    def _blocks(self, x: Tensor) -> list[Tensor]:
        found = self.network(pixel_values=x, output_hidden_states=True)
        side = self.grids[0]
        states = [*(found.hidden_states[tap] for tap in self.taps[:-1]), self._final(found.last_hidden_state)]
        cells = side[0] * side[1]
        return [state[:, -cells:].mT.unflatten(2, side) for state in states]  # without class and register tokens

    def _final(self, last: Tensor) -> Tensor:
        """The last states after the final norm, which some models keep for their class token or do not have."""
        if self.network.config.model_type == "clip_vision_model":
            return self.network.post_layernorm(last)
        if getattr(self.network.config, "use_mean_pooling", False):  # InternVL
            return F.layer_norm(last, last.shape[-1:])
        return last
