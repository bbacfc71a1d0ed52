"""The parameters that QueryAR and MAR share, tensor by tensor (docs/vgt.md 2.1 - 2.3; docs/mar.md 3.1).

A VLM's language model, a learned position-query grid, a learned position grid, two projectors and the flow head.
Shapes: B rows, L padded text length, N = h w image tokens, D width of the language model, d latent channels.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

from vgt.checkpoints.pretrained import Pretrained
from vgt.core.config import Config, Count, NotNegative, Positive
from vgt.equations.latents import crop_grid, position_norm, sinusoid_grid
from vgt.equations.order import additive, decode_orders, interleaved_mask, positions
from vgt.methods import registry
from vgt.methods.flow_head import FlowHead, FlowHeadConfig


def _known(method: str) -> str:
    """``method`` if the registry has it for this network.  Raises ValueError naming those that there are."""
    known = registry.sharing("vgt.methods.visual_lm:VisualLM")
    if method not in known:
        raise ValueError(f"method {method!r} is unknown; choose one of {', '.join(known)}")
    return method


class VisualLMConfig(Config):
    """``method``: the system, which names loss and decoding; ``text``: transformers configuration of the language model
    (with ``model_type``); ``query_grid``: side of the two learned grids; ``latent_grid``: (h, w) in use;
    ``latent_mean``/``latent_std``: the standardisation of the latents that the model was trained on, per channel;
    ``latent_norm``: whether the autoencoder normalises per position; ``autoencoder``: content hash of the autoencoder
    that the latents come from; ``grid_start``: amplitude of the sinusoids that the position grid starts from (0: noise
    of 0.02, as published)."""

    method: Annotated[str, AfterValidator(_known)]
    text: dict[str, Any]
    start_ids: Annotated[tuple[int, ...], Field(min_length=1)]
    query_grid: Count = 64
    grid_start: NotNegative = 0.0
    latent_grid: tuple[Count, Count] = (16, 16)
    d_z: Count = 32
    head: FlowHeadConfig = FlowHeadConfig()
    latent_norm: bool = True
    latent_mean: tuple[float, ...] | None = None
    latent_std: tuple[float, ...] | None = None
    time_shift: Positive = 1.0
    autoencoder: str = ""
    autoencoder_name: str = ""


class VisualLM(Pretrained, nn.Module):
    """The network; how it trains and decodes stands in query_ar.py and mar.py."""

    def __init__(self, config: VisualLMConfig):
        super().__init__()
        self.config = config
        self.language_model = AutoModel.from_config(AutoConfig.for_model(**config.text), trust_remote_code=False)
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

    def position_embeddings(self) -> Tensor:
        """P [N, D]: the position embeddings of the latent grid, raster order."""
        return crop_grid(self.grid_embed, *self.config.latent_grid)

    def queries(self) -> Tensor:
        """Q = M + P [N, D]."""
        return crop_grid(self.max_metaquery, *self.config.latent_grid) + self.position_embeddings()

    def latent_inputs(self, u: Tensor, where: Tensor) -> Tensor:
        """E = W_in u + b_in + P at raster positions ``where`` [B, n]: u [B, n, d] -> [B, n, D]."""
        return self.image_in_projector(u.to(self.image_in_projector.weight.dtype)) + self.position_embeddings()[where]

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
        start = embed(_indices(self.config.start_ids, ids.device))
        return torch.cat([embed(ids), start.expand(len(ids), *start.shape)], 1)

    def read_prefix(self, ids: Tensor, mask: Tensor, cache) -> tuple[Tensor, Tensor]:
        """Read text and start tokens into the cache.  Returns which of its entries are real [B, L + s] and the position
        of the first image token [B, 1]."""
        inputs, s = self.prefix(ids), len(self.config.start_ids)
        self.read(inputs, additive(interleaved_mask(mask, s, 0), inputs.dtype), positions(mask, s, 0), cache)
        keys = torch.cat([mask, mask.new_ones(len(mask), s)], 1)
        return keys, keys.sum(1, keepdim=True)

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


@functools.lru_cache(maxsize=32)
def _indices(ids: tuple[int, ...], device: torch.device) -> Tensor:
    """``ids`` on a device, sent there once; also for autograd where inference mode asked first."""
    with torch.inference_mode(False):
        return torch.tensor(ids, device=device)


@functools.cache
def _cache_argument(model: type[nn.Module]) -> str:
    """What a language model of transformers calls its key-value cache: another name from 5.24 on."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def per_image_rng(
    seeds: list[int], n: int, order: str = "random", sizes: Sequence[int] = (), grid: tuple[int, int] = (0, 0)
) -> tuple[Tensor, list[torch.Generator]]:
    """Per-image order [B, n], and the image's own generator on the CPU, from which its noise comes next; so an image
    depends neither on its neighbours nor on the device.  ``sizes`` of the decode steps and the latent ``grid`` are for
    orders that depend on them (``decode_orders``)."""
    generators = [torch.Generator().manual_seed(seed % 2**63) for seed in seeds]
    sampled = torch.stack([torch.randperm(n, generator=rng) for rng in generators])
    return decode_orders(order, sampled, sizes, grid), generators


def noise(generators: list[torch.Generator], tokens: int, count: int, d: int) -> Tensor:
    """The next ``tokens`` of each image: [B, tokens, count, d], ``count`` vectors a token (``solvers.draws``)."""
    return torch.stack([torch.randn(tokens, count, d, generator=rng) for rng in generators])


def in_pieces(count: int, d: int) -> bool:
    """Whether noise sampled a few tokens at a time is that sampled at once: torch fills 16 numbers together."""
    return count * d % 16 == 0


def orders_and_noise(
    seeds: list[int], n: int, count: int, d: int, device, order: str = "random", sizes: Sequence[int] = (),
    grid: tuple[int, int] = (0, 0),
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Per-image order [B, n] and noise [B, n, count, d] in decode order; arguments as for ``per_image_rng``."""
    orders, generators = per_image_rng(seeds, n, order, sizes, grid)
    return orders.to(device), noise(generators, n, count, d).to(device)


class ARLossConfig(Config):
    """``repa``: weight of the alignment of the flow head's middle with the features of a frozen image model, the one
    that ``init.repa`` names (docs/vgt.md 2.5)."""

    repa: NotNegative = 0.0


class ImageFeatures(nn.Module):
    """A frozen vision transformer of transformers (DINOv3, DINOv2) as REPA uses it: images float [B, 3, H, W] in
    [-1, 1], resized to ``side`` px -> [B, h w, F], its patches' last states resized to the latent grid."""

    def __init__(self, network: nn.Module, grid: tuple[int, int], side: int = 256):
        super().__init__()
        self.network, self.grid = network.eval().requires_grad_(False), grid
        self.side = side // network.config.patch_size * network.config.patch_size
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        self.register_buffer("mean", mean.view(3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(3, 1, 1), persistent=False)

    @property
    def channels(self) -> int:
        """F."""
        return self.network.config.hidden_size

    def train(self, mode: bool = True) -> ImageFeatures:
        """Stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        size = (self.side, self.side)
        x = F.interpolate((images + 1) / 2, size, mode="bicubic", align_corners=False, antialias=True)
        states = self.network(pixel_values=(x - self.mean) / self.std).last_hidden_state.float()
        patches = self.side // self.network.config.patch_size
        states = states[:, -(patches**2) :].mT.unflatten(2, (patches, patches))  # without class and register tokens
        if states.shape[-2:] != self.grid:
            states = F.interpolate(states, self.grid, mode="bilinear", align_corners=False)
        return states.flatten(2).mT


class ARTraining:
    """A VisualLM under training by its method; ``repeats``: fresh (noise, time) draws per condition; ``ae``: a frozen
    autoencoder for batches of images, whose latents nobody cached; ``repa``: weight of the alignment with
    ``features``."""

    def __init__(
        self, model: VisualLM, loss_fn, repeats: int = 1, ae: nn.Module | None = None, repa: float = 0.0,
        features: nn.Module | None = None,
    ):  # fmt: skip
        self.model, self.loss_fn, self.repeats, self.ae = model, loss_fn, repeats, ae
        self.repa, self.features = repa, features

    def trainable_modules(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    def to(self, device) -> None:
        for module in (self.ae, self.features):
            if module is not None:
                module.to(device)

    def lr_scale(self, name: str) -> float:
        return 1.0

    @torch.no_grad()
    def encode(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch with latents [B, N, d] for its images."""
        if "latents" in batch:
            return batch
        latents = self.ae.encode(batch["images"]).float().flatten(2).mT
        shown = {} if self.features is None else {"features": self.features(batch["images"])}
        return {"ids": batch["ids"], "mask": batch["mask"], "latents": latents, **shown}

    def loss(self, name: str, batch: dict[str, Tensor], step: int, rng: torch.Generator):
        """``batch``: ids [B, L], mask bool [B, L], and latents [B, N, d] of the autoencoder (not standardised), or
        images [B, 3, H, W] for it."""
        more = {"repa": self.repa} if self.repa else {}
        loss = self.loss_fn(self.model, self.encode(batch), rng, self.repeats, **more)
        return loss, {"loss": loss.detach()}
