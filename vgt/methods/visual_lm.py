"""The parameters that QueryAR and MAR share, tensor by tensor (docs/vgt.md 2.1 - 2.3; docs/mar.md 3.1).

A VLM's language model, a learned position-query grid, a learned position grid, two projectors and the flow head.
Shapes: B rows, L padded text length, N = h w image tokens, D width of the language model, d latent channels.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from vgt.checkpoints.pretrained import Pretrained
from vgt.core.config import Config
from vgt.equations.latents import crop_grid, position_norm, sinusoid_grid
from vgt.methods.flow_head import FlowHead, FlowHeadConfig
from vgt.vlm.tokenizer import TURN_END, TURN_START

UNCONDITIONAL = "Generate an image."


def template(text: str) -> str:
    """The chat template around one user turn (docs/vgt.md 2.2)."""
    return f"{TURN_START}user\n{text}{TURN_END}\n{TURN_START}assistant\n"


def conditional(caption: str) -> str:
    """The prompt of a caption."""
    return template(f"Generate an image: {caption.strip()}")


class VisualLMConfig(Config):
    """``text``: transformers configuration of the language model (with ``model_type``); ``query_grid``: side of the two
    learned grids; ``latent_grid``: (h, w) in use; ``latent_mean``/``latent_std``: the standardisation of the latents
    that the model was trained on, per channel; ``latent_norm``: whether the autoencoder normalises per position;
    ``autoencoder``: content hash of the autoencoder that the latents come from; ``grid_start``: amplitude of the
    sinusoids that the position grid starts from (0: noise of 0.02, as published)."""

    method: Literal["query_ar", "mar"]
    text: dict[str, Any]
    start_ids: tuple[int, ...]
    query_grid: int = 64
    grid_start: float = 0.0
    latent_grid: tuple[int, int] = (16, 16)
    d_z: int = 32
    head: FlowHeadConfig = FlowHeadConfig()
    latent_norm: bool = True
    latent_mean: tuple[float, ...] | None = None
    latent_std: tuple[float, ...] | None = None
    time_shift: float = 1.0
    autoencoder: str = ""
    autoencoder_name: str = ""


class VisualLM(Pretrained, nn.Module):
    """The network; the two ways to train and decode it stand in query_ar.py and mar.py."""

    def __init__(self, config: VisualLMConfig):
        super().__init__()
        self.config = config
        self.language_model = AutoModel.from_config(AutoConfig.for_model(**config.text))
        width = self.language_model.config.hidden_size
        side = config.query_grid
        self.max_metaquery = nn.Parameter(torch.randn(1, width, side, side) * width**-0.5)
        grid = nn.init.trunc_normal_(torch.empty(1, width, side, side), std=0.02)
        if config.grid_start:
            grid = sinusoid_grid(width, side, config.grid_start)
        self.grid_embed = nn.Parameter(grid)
        self.image_in_projector = nn.Linear(config.d_z, width)
        self.image_out_projector = nn.Linear(width, width)
        for linear in (self.image_in_projector, self.image_out_projector):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        self.image_head = FlowHead(config.head, config.d_z, width)
        self.register_buffer("latent_mean", torch.tensor(config.latent_mean or [0.0] * config.d_z), persistent=False)
        self.register_buffer("latent_std", torch.tensor(config.latent_std or [1.0] * config.d_z), persistent=False)

    @property
    def tokens(self) -> int:
        """N."""
        return self.config.latent_grid[0] * self.config.latent_grid[1]

    def check_acceleration(self, acceleration: int) -> None:
        """Raises ValueError for a number of tokens per step that the latent grid does not allow."""
        if not 1 <= acceleration <= self.tokens:
            raise ValueError(
                f"acceleration {acceleration} is impossible with {self.tokens} image tokens; choose 1 .. {self.tokens}"
            )

    def places(self) -> Tensor:
        """P [N, D]: the position embeddings of the latent grid, raster order."""
        return crop_grid(self.grid_embed, *self.config.latent_grid)

    def queries(self) -> Tensor:
        """Q = M + P [N, D]."""
        return crop_grid(self.max_metaquery, *self.config.latent_grid) + self.places()

    def latent_inputs(self, u: Tensor, where: Tensor) -> Tensor:
        """E = W_in u + b_in + P at raster places ``where`` [B, n]: u [B, n, d] -> [B, n, D]."""
        return self.image_in_projector(u.to(self.image_in_projector.weight.dtype)) + self.places()[where]

    def conditions(self, hidden: Tensor) -> Tensor:
        """Conditions of the flow head from final hidden states."""
        return self.image_out_projector(hidden)

    def standardize(self, z: Tensor) -> Tensor:
        """Autoencoder latents [..., d] -> what the model sees."""
        return (z - self.latent_mean) / self.latent_std

    def renormalise(self, u: Tensor) -> Tensor:
        """A sampled token put back on the autoencoder's latent set: un-standardised, normalised per position where the
        autoencoder does (docs/vgt.md 2.9), standardised again."""
        if not self.config.latent_norm:
            return u
        return self.standardize(position_norm(u * self.latent_std + self.latent_mean))

    def restore(self, u: Tensor) -> Tensor:
        """The inverse of ``standardize``."""
        return u * self.latent_std + self.latent_mean

    def prefix(self, ids: Tensor) -> Tensor:
        """Embeddings of text [B, L] and the start token(s): [B, L + s, D]."""
        embed = self.language_model.get_input_embeddings()
        start = embed(torch.tensor(self.config.start_ids, device=ids.device))
        return torch.cat([embed(ids), start.expand(len(ids), *start.shape)], 1)

    def read(self, inputs: Tensor, mask: Tensor, positions: Tensor, cache=None) -> Tensor:
        """Run the language model: inputs [B, q, D], additive mask [B, 1, q, k] -> final hidden states [B, q, D]."""
        cached = {} if cache is None else {_cache_argument(type(self.language_model)): cache}
        out = self.language_model(
            inputs_embeds=inputs,
            attention_mask=mask.to(inputs.dtype),
            position_ids=positions,
            use_cache=cache is not None,
            **cached,
        )
        return out.last_hidden_state


@functools.cache
def _cache_argument(model: type[nn.Module]) -> str:
    """What a language model of transformers calls its key-value cache: another name from 5.24 on."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def tokenize(tokenizer, captions: Sequence[str | None], device=None) -> tuple[Tensor, Tensor]:
    """Templated prompts, right padded: ids [B, L] and bool mask of real tokens.  None is the unconditional prompt."""
    texts = [conditional(c) if c is not None else template(UNCONDITIONAL) for c in captions]
    found = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    return found.input_ids.to(device), found.attention_mask.bool().to(device)


class ARTraining:
    """A VisualLM under training by its method; ``repeats``: fresh (noise, time) draws per condition; ``ae``: a frozen
    autoencoder for batches of images, whose latents nobody cached."""

    def __init__(self, model: VisualLM, loss_fn, repeats: int = 1, ae: nn.Module | None = None):
        self.model, self.loss_fn, self.repeats, self.ae = model, loss_fn, repeats, ae

    def trainable_modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def to(self, device) -> None:
        if self.ae is not None:
            self.ae.to(device)

    def lr_scale(self, name: str) -> float:
        return 1.0

    @torch.no_grad()
    def encode(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch with latents [B, N, d] for its images."""
        if "latents" in batch:
            return batch
        latents = self.ae.encode(batch["images"]).float().flatten(2).mT
        return {"ids": batch["ids"], "mask": batch["mask"], "latents": latents}

    def loss(self, player: str, batch: dict[str, Tensor], step: int, rng: torch.Generator):
        """``batch``: ids [B, L], mask bool [B, L], and latents [B, N, d] of the autoencoder (not standardised), or
        images [B, 3, H, W] for it."""
        loss = self.loss_fn(self.model, self.encode(batch), rng, self.repeats)
        return loss, {"loss": loss.detach()}
