"""What the decoding loops share: settings, per-image randomness, the cached text prefix."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import model_serializer, model_validator
from torch import Tensor

from vgt.core.config import Config
from vgt.equations import solvers
from vgt.equations.order import additive, interleaved_mask, positions
from vgt.methods.visual_lm import VisualLM

# Fields that only the reference's way of decoding has.
REFERENCE_ONLY = ("position_mode", "head_inputs")


class Sampling(Config):
    """How images are decoded.  ``acceleration``: tokens per step; ``guidance`` 1 runs conditional rows only;
    ``cfg_schedule`` None takes the method's own (QueryAR falling, MAR rising).

    ``flow_steps``: evaluations of the flow head per token by ``sampler`` on ``time_schedule`` (vgt.equations.solvers).

    ``compat`` "reference" decodes as the published code does, its defects included (reference.py; docs/vgt.md 3.3); then
    ``position_mode`` None takes that of the model's family, and ``head_inputs`` "bf16" rounds what the flow head reads.
    Raises ValueError for either of them without ``compat``, and for a sampler, steps and schedule that do not go
    together."""

    acceleration: int = 1
    guidance: float = 4.5
    cfg_schedule: Literal["falling", "rising", "constant"] | None = None
    flow_steps: int = 30
    sampler: Literal["sde", "sde2", "ode", "heun", "ab2", "dpmpp"] = "sde"
    time_schedule: str = "linear"
    order: Literal["random", "raster"] = "random"
    mar_schedule: Literal["cosine", "uniform"] = "cosine"
    compat: Literal["none", "reference"] = "none"
    position_mode: Literal["cumulative", "padded_len"] | None = None
    head_inputs: Literal["fp32", "bf16"] | None = None

    @model_validator(mode="after")
    def _suits_compat(self) -> Self:
        given = [name for name in REFERENCE_ONLY if getattr(self, name) is not None]
        if given and self.compat == "none":
            raise ValueError(f"{given[0]} {getattr(self, given[0])!r} is for compat 'reference'; give both or neither")
        return self

    @model_validator(mode="after")
    def _has_table(self) -> Self:
        _ = self.table
        return self

    @property
    def table(self) -> solvers.Table:
        """What the flow head's sampler computes."""
        return solvers.table(self.sampler, self.flow_steps, self.time_schedule)

    @model_serializer(mode="wrap")
    def _as_before(self, dump) -> dict:
        """Settings that use nothing new read as they did before it was there: stored records stay valid."""
        hidden = ("compat", *REFERENCE_ONLY) if self.compat == "none" else ()
        hidden += ("time_schedule",) if self.time_schedule == "linear" else ()
        return {name: value for name, value in dump(self).items() if name not in hidden}

    @property
    def label(self) -> str:
        """What a model's name gets behind it: "" in the correct mode, "+reference", "+reference-padded_len-bf16"."""
        if self.compat == "none":
            return ""
        chosen = (getattr(self, name) for name in REFERENCE_ONLY)
        return "-".join(["+" + self.compat, *(value for value in chosen if value is not None)])

    def unusual(self, usual: dict) -> str:
        """And behind that, where the sampler is not the model's ``usual`` one: "", "+ab2-8", "+ab2-8-power0.7"."""
        if self.table == Sampling(**usual).table:
            return ""
        schedule = [] if self.time_schedule == "linear" else [self.time_schedule.replace(":", "")]
        return "-".join([f"+{self.sampler}", str(self.flow_steps), *schedule])

    def check_method(self, method: str) -> None:
        """Raises ValueError for a method that the reference's way of decoding does not have."""
        if self.compat == "reference" and method != "query_ar":
            raise ValueError(f"compat 'reference' is about the published QueryAR models; {method} has no such mode")


# How models of few tokens are drawn, as the bundled ones.  Larger ones: Sampling's own defaults, those of the
# published GenEval scores (docs/vgt.md 6.2).
TINY = {"guidance": 3.0, "flow_steps": 15, "sampler": "sde"}
TINY_TOKENS = 64


def usual(tokens: int) -> dict:
    """The settings of a model of ``tokens`` image tokens where nobody chose others."""
    return TINY if tokens <= TINY_TOKENS else {}


def per_image_rng(seeds: list[int], n: int, order: str = "random") -> tuple[Tensor, list[torch.Generator]]:
    """Per-image order [B, n], and the image's own generator on the CPU, from which its noise comes next; so an image
    depends neither on its neighbours nor on the device."""
    generators = [torch.Generator().manual_seed(seed % 2**63) for seed in seeds]
    drawn = torch.stack([torch.randperm(n, generator=rng) for rng in generators])
    return drawn if order == "random" else torch.arange(n).expand(len(seeds), -1), generators


def noise(generators: list[torch.Generator], tokens: int, count: int, d: int) -> Tensor:
    """The next ``tokens`` of each image: [B, tokens, count, d], ``count`` vectors a token (``Table.draws``)."""
    return torch.stack([torch.randn(tokens, count, d, generator=rng) for rng in generators])


def in_pieces(count: int, d: int) -> bool:
    """Whether noise drawn a few tokens at a time is that drawn at once: torch fills 16 numbers together."""
    return count * d % 16 == 0


def draws(seeds: list[int], n: int, count: int, d: int, device, order: str = "random") -> tuple[Tensor, Tensor]:
    """Per-image order [B, n] and noise [B, n, count, d] in decode order."""
    orders, generators = per_image_rng(seeds, n, order)
    return orders.to(device), noise(generators, n, count, d).to(device)


def start(model: VisualLM, ids: Tensor, mask: Tensor, cache) -> tuple[Tensor, Tensor]:
    """Read the text and start tokens into the cache.  Returns which entries are real [rows, L + s] and the position of
    the first image token [rows, 1]."""
    inputs = model.prefix(ids)
    s = len(model.config.start_ids)
    model.read(inputs, additive(interleaved_mask(mask, s, 0), inputs.dtype), positions(mask, s, 0), cache)
    keys = torch.cat([mask, mask.new_ones(len(mask), s)], 1)
    return keys, keys.sum(1, keepdim=True)
