"""The decode engine of a GPT over codes: ``vgt.methods.code_gpt.generate`` with a cache of fixed size, packed weights
and, on a GPU, a step as one CUDA graph (docs/vfmtok.md 13, docs/decode.md); and images by class with it.

Shapes: B images, R rows (2 B with guidance, those without the class second), N tokens, K entries, M places of the
cache, D model width, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vgt.checkpoints.pretrained import Loaded
from vgt.inference.engine import PAD_TO, OnStep, Prepared
from vgt.inference.generator import pixels
from vgt.inference.images import to_uint8
from vgt.inference.static_lm import FusedLM, KeyValues, Layer, folded
from vgt.methods.code_gpt import EPS, Block, CodeGPT, CodeSampling, checked, chosen, guided, uniforms


class FusedGPT(FusedLM):
    """Its layers as those of the usual decoder: with the first channels of all pairs before the second ones, in queries
    and keys alike, which leaves their products as they are."""

    def __init__(self, model: CodeGPT, places: int):
        heads = model.config.heads
        self.act = F.silu
        self._size(model.norm.weight, heads, heads, None, EPS)
        self._order = torch.arange(self.head_width, device=self._like.device).view(-1, 2).mT.flatten()
        self.layers = [self._pack(layer) for layer in model.layers]
        cos, sin = F.pad(model.rotations(), (0, 0, 0, max(0, places - model.tokens - 1)))
        self._table = torch.stack([torch.cat([cos, cos], 1), torch.cat([-sin, sin], 1)]).to(self._like.dtype)

    def _pack(self, layer: Block) -> Layer:
        q, k, v = layer.attention.wqkv.weight.unflatten(0, (3, self.heads, self.head_width))
        qkv = [part.flatten(0, 1) for part in (q[:, self._order], k[:, self._order], v)]
        forward = layer.feed_forward
        return Layer(
            folded(qkv, layer.attention_norm.weight.float() * self._stretch),
            None,
            layer.attention.wo.weight,
            folded([forward.w1.weight, forward.w3.weight], layer.ffn_norm.weight.float() * self._stretch),
            forward.w2.weight,
        )


class CodeEngine(Prepared):
    """``engine(labels, seeds, settings, on_step)`` as ``code_gpt.generate``."""

    model: CodeGPT

    def _pack(self) -> None:
        self.places = -(-self.model.tokens // PAD_TO) * PAD_TO  # the last token is never read
        self._lm = FusedGPT(self.model, self.places)
        # Codes and, behind them, classes: what is read is always a row of one table.
        self.embeddings = torch.cat([self.model.tok_embeddings.weight, self.model.cls_embedding.weight])
        seen = torch.arange(self.places, device=self.device)
        hidden = (seen > seen[:, None]).to(self.embeddings.dtype) * torch.finfo(self.embeddings.dtype).min
        self._masks = hidden[:, None, None, None]  # additive [M, 1, 1, 1, M], one for each place that is read
        self._where = seen[:, None]

    @torch.no_grad()
    def __call__(
        self, labels: Tensor, seeds: Sequence[int], settings: CodeSampling, on_step: OnStep | None = None
    ) -> Tensor:
        """Codes int64 [B, N] in raster order; ``labels`` int64 [B].

        Where memory makes smaller batches of this one, ``on_step`` is called for each in turn, always with all rows.
        Raises ValueError for another number of seeds, and for logits that are not finite."""
        if not len(seeds) or len(labels) != len(seeds):
            raise ValueError(f"{len(labels)} classes for {len(seeds)} seeds; give one seed per class")
        self._prepare()
        model, entries = self.model, self.model.config.codebook_size
        codes = torch.zeros(len(seeds), model.tokens, dtype=torch.long, device=self.device)
        given = uniforms(seeds, model.tokens).to(self.device)
        labels = labels.to(self.device)

        def decode(part: slice) -> None:
            first = [entries + labels[part]]
            if settings.branches(0) == 2:
                first.append(torch.full_like(first[0], entries + model.without_class))
            self._key_values(len(first) * len(first[0]), self.places)
            ids = torch.cat(first)
            for t in range(model.tokens):
                ids = self._token(ids, t, given[part, t], settings)
                codes[part, t] = ids
                ids = ids.repeat(settings.branches(t + 1))
                if on_step is not None:
                    on_step(t + 1, model.tokens, codes)

        self.in_parts(len(seeds), decode)
        return checked(codes, entries, self.embeddings.dtype)

    def _token(self, ids: Tensor, t: int, uniform: Tensor, settings: CodeSampling) -> Tensor:
        """Codes [B] of token ``t`` from what was read before and from ``ids`` [R or, with rows to spare, more]."""
        branches = settings.branches(t)
        ids = ids[: branches * len(uniform)]
        width = self.places if self._on_gpu else t + 1  # a graph needs one shape
        (made,) = self.run(
            (branches, settings),
            lambda *tensors: self.step(branches, settings, *tensors),
            *(ids, self._where[t], self._masks[t, ..., :width], uniform),
        )
        return made

    def step(self, branches: int, settings: CodeSampling, ids: Tensor, where: Tensor, mask: Tensor, uniform: Tensor):
        """Codes [B] of one token: reads ``ids`` [R] into the place ``where`` [1], and draws."""
        return (self.draw(self.read(ids, where, mask), branches, uniform, settings),)

    def read(self, ids: Tensor, where: Tensor, mask: Tensor) -> Tensor:
        """Final hidden states [R, D]."""
        assert self._cache is not None
        rows = KeyValues(self._cache.store[:, :, : len(ids)])  # those without the class end at the cut-off
        x = self.embeddings[ids][:, None]
        return self._lm(x, where[None], mask, where, rows, 1)[:, 0]

    def draw(self, hidden: Tensor, branches: int, uniform: Tensor, settings: CodeSampling) -> Tensor:
        """Codes [B] from hidden states [R, D]."""
        logits = self.model.output(hidden).float()
        return chosen(guided(logits, settings.guidance) if branches == 2 else logits, uniform, settings)


@dataclass(frozen=True)
class LabelToImage:
    """A GPT with its tokenizer; what the engine keeps stays from batch to batch.

    Raises ValueError for a tokenizer of another codebook."""

    loaded: Loaded
    decoder: Loaded
    settings: CodeSampling

    def __post_init__(self) -> None:
        own, other = self.loaded.model.config.codebook_size, self.decoder.model.config.codebook_size
        if own != other:
            raise ValueError(
                f"{self.loaded.name} has {own} codes and {self.decoder.name} {other}; give the tokenizer that it was "
                "trained on"
            )

    @cached_property
    def engine(self) -> CodeEngine:
        return CodeEngine(self.loaded.model)

    def read(self, text: str) -> int:
        """The number of a class from its name, or from itself.  Raises ValueError for a class that there is not."""
        names = self.loaded.model.config.classes
        if text in names:
            return names.index(text)
        if text.isdecimal() and int(text) < len(names):
            return int(text)
        raise ValueError(
            f"class {text!r} is unknown; choose one of {', '.join(names[:10])}{', ...' * (len(names) > 10)}, or a "
            f"number from 0 to {len(names) - 1}"
        )

    def generate(self, asked: Sequence[int], seeds: Sequence[int], on_step: OnStep | None = None) -> np.ndarray:
        """One image per class and seed: uint8 [N, H, W, 3].  Raises ValueError for a class outside the table."""
        classes = len(self.loaded.model.config.classes)
        if wrong := [number for number in asked if not 0 <= number < classes]:
            raise ValueError(f"class {wrong[0]} is outside the table; give numbers from 0 to {classes - 1}")
        return rendered(self.decoder.model, self.codes(asked, seeds, on_step), self.loaded.model.config.grid)

    def codes(self, asked: Sequence[int], seeds: Sequence[int], on_step: OnStep | None = None) -> Tensor:
        """int64 [N, h w]."""
        return self.engine(torch.tensor(list(asked)), seeds, self.settings, on_step)


@torch.no_grad()
def rendered(tokenizer, codes: Tensor, grid: tuple[int, int]) -> np.ndarray:
    """uint8 [N, H, W, 3] of codes [N, h w]."""
    return to_uint8(pixels(tokenizer, codes.unflatten(1, grid)))
