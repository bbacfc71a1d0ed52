"""The language model as the decode engine needs it: a few tokens at a time, into a key-value cache of fixed size.

``FusedLM`` computes the usual decoder (RMS norm, grouped attention with rotary positions, gated MLP) from packed
weights: query, key and value projections are one product, gate and up another, and the norms' gains are folded into
both.  ``ModuleLM`` calls transformers' own modules, for every other family; it is slower where calls cost more than
arithmetic.

Shapes: R rows, q tokens read at once, M places of the cache, D model width, H heads of which G share a key, E head
width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache as TransformersCache
from transformers.cache_utils import CacheLayerMixin

from vgt.methods.visual_lm import VisualLM

# Language models whose layers are the usual ones, compared with transformers in the tests.
USUAL = ("llama", "qwen2", "qwen2_5_vl_text")


@dataclass(frozen=True)
class KeyValues:
    """The cache: ``store`` [layers, 2, R, H/G, M, E], keys and values."""

    store: Tensor

    @property
    def places(self) -> int:
        return self.store.shape[4]

    def copy_rows(self, other: KeyValues, source: Tensor, target: Tensor, length: int) -> None:
        """The first ``length`` places of rows ``source`` of ``other`` become those of rows ``target`` here."""
        self.store[:, :, target, :, :length] = other.store[:, :, source, :, :length]


class StaticLM(Protocol):
    """What both implementations do."""

    group: int  # query heads that share a key: the rows of a mask are repeated that often

    def cache(self, rows: int, places: int) -> KeyValues:
        """An empty cache."""
        ...

    def __call__(
        self, x: Tensor, where: Tensor, mask: Tensor, slots: Tensor, cache: KeyValues, asked: Tensor | int
    ) -> Tensor | None:
        """Read x [R, q, D] at positions ``where`` [R, q] into the places ``slots`` [q] of the cache.

        ``mask`` additive [R, 1, G q or 1, k <= M] over the first k places, query heads of a group one after the other.
        Final hidden states of the tokens that are ``asked`` for: the last n of them, or those at an index [R, n]; None
        for 0, when only the cache matters."""
        ...


def static_lm(model: VisualLM) -> tuple[StaticLM, str | None]:
    """The faster implementation that suits a generator's language model, and why it is not the fused one."""
    kind = str(model.config.text.get("model_type"))
    windows = [t for t in getattr(model.language_model.config, "layer_types", None) or [] if t != "full_attention"]
    if kind in USUAL and not windows:
        return FusedLM(model.language_model), None
    why = f"{windows[0]} layers" if kind in USUAL else f"layers of type {kind}"
    return ModuleLM(model), f"language model through transformers' modules: {why} are not fused"


def _select(x: Tensor, asked: Tensor | int) -> Tensor:
    """Tokens of x [R, q, ...] that are asked for."""
    if isinstance(asked, int):
        return x[:, x.shape[1] - asked :]
    index = asked.view(*asked.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])
    return x.gather(1, index)


# ------------------------------------------------------------------------------------------------------ fused


@dataclass(frozen=True)
class Layer:
    """Packed weights; linear maps as (weight, bias)."""

    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    gate_up: Tensor
    down: Tensor


def folded(weights: list[Tensor], gain: Tensor) -> Tensor:
    """Weights in one matrix whose input is still to be multiplied by ``gain``."""
    return torch.cat([w.float() * gain.float() for w in weights]).to(weights[0])


class FusedLM:
    """The usual decoder from packed weights (a copy of all but the output and down projections)."""

    def __init__(self, language_model: nn.Module):
        config = language_model.config
        self.act = language_model.layers[0].mlp.act_fn
        heads, width = config.num_attention_heads, getattr(config, "head_dim", None)
        self._size(language_model.norm.weight, heads, config.num_key_value_heads, width, config.rms_norm_eps)
        self.layers = [self._pack(layer) for layer in language_model.layers]
        self._rotary, self._table = language_model.rotary_emb, None
        self._axes = 3 if config.model_type == "qwen2_5_vl_text" else 0

    def _size(self, norm: Tensor, heads: int, keys: int, head_width: int | None, eps: float) -> None:
        """What follows from the sizes and from the gain [D] of the last norm."""
        self.heads, self.keys, self.group, self.width = heads, keys, heads // keys, len(norm)
        self.head_width = head_width or self.width // heads
        self.eps, self._like = eps, norm
        self._own_norm = norm.device.type == "cpu" and norm.dtype == torch.float32
        self._stretch = self.width**0.5 if self._own_norm else 1.0
        self._floor = norm.new_full((), (self.width * eps) ** 0.5)
        self.norm = norm * self._stretch

    def _pack(self, layer: nn.Module) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        projections = [attention.q_proj, attention.k_proj, attention.v_proj]
        biased = projections[0].bias is not None
        return Layer(
            folded([p.weight for p in projections], layer.input_layernorm.weight.float() * self._stretch),
            torch.cat([p.bias for p in projections]) if biased else None,
            attention.o_proj.weight,
            folded(
                [mlp.gate_proj.weight, mlp.up_proj.weight],
                layer.post_attention_layernorm.weight.float() * self._stretch,
            ),
            mlp.down_proj.weight,
        )

    def cache(self, rows: int, places: int) -> KeyValues:
        return KeyValues(self._like.new_zeros(len(self.layers), 2, rows, self.keys, places, self.head_width))

    def _rotation(self, where: Tensor, places: int) -> tuple[Tensor, Tensor]:
        """Cosine and signed sine [R, q, 1, E] of rotary positions, from a table made once."""
        if self._table is None or self._table.shape[1] < places:
            at = torch.arange(places, device=where.device)[None]
            if self._axes:  # text has the same position on all axes
                at = at.expand(self._axes, 1, -1)
            cos, sin = (t.reshape(-1, places, self.head_width)[0] for t in self._rotary(self._like, at))
            half = self.head_width // 2
            self._table = torch.stack([cos, torch.cat([-sin[:, :half], sin[:, half:]], 1)])
        cos, sin = self._table[:, where]
        return cos[:, :, None], sin[:, :, None]

    def _normed(self, x: Tensor) -> Tensor:
        """x / sqrt(mean x^2 + eps), up to a factor that the weights behind it have, like the norm's gains."""
        if self._own_norm:  # torch's own is six calls there; with the root of D left to the weights it takes three
            return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self._floor)
        return F.rms_norm(x, (self.width,), eps=self.eps)

    def __call__(self, x, where, mask, slots, cache, asked):
        cos, sin = self._rotation(where, cache.places)
        seen, last = mask.shape[-1], self.layers[-1]
        for layer, (keys, values) in zip(self.layers, cache.store, strict=True):
            h = F.linear(self._normed(x), layer.qkv, layer.qkv_bias).unflatten(2, (-1, self.head_width))
            turning = h[:, :, : -self.keys]  # queries and keys turn with their position
            turned = torch.addcmul(turning * cos, turning.unflatten(3, (2, -1)).flip(3).flatten(3), sin)
            keys.index_copy_(2, slots, turned[:, :, self.heads :].transpose(1, 2))
            values.index_copy_(2, slots, h[:, :, -self.keys :].transpose(1, 2))
            queries = turned[:, :, : self.heads]
            if layer is last:
                if isinstance(asked, int) and asked == 0:
                    return None
                queries, x, mask = _select(queries, asked), _select(x, asked), self._select_mask(mask, asked)
            r, q = queries.shape[:2]
            queries = queries.unflatten(2, (self.keys, self.group)).permute(0, 2, 3, 1, 4).flatten(2, 3)
            attended = F.scaled_dot_product_attention(queries, keys[:, :, :seen], values[:, :, :seen], mask)
            attended = attended.unflatten(2, (self.group, q)).permute(0, 3, 1, 2, 4).reshape(r * q, -1)
            x = torch.addmm(x.reshape(r * q, -1), attended, layer.out.t())
            gate, up = F.linear(self._normed(x), layer.gate_up).chunk(2, -1)
            x = torch.addmm(x, self.act(gate).mul_(up), layer.down.t()).view(r, q, -1)
        return self._normed(x) * self.norm

    def _select_mask(self, mask: Tensor, asked: Tensor | int) -> Tensor:
        """Rows of the mask for the last ``asked`` tokens; a mask of one row is the same for all."""
        if mask.shape[2] == 1:
            return mask
        assert isinstance(asked, int), "tokens at an index need a mask of one row"
        return mask.unflatten(2, (self.group, -1))[:, :, :, -asked:].flatten(2, 3)


# ------------------------------------------------------------------------------------------------------ modules


class _Slots(CacheLayerMixin):
    """A layer of transformers' cache that writes into given places of our own."""

    is_sliding = False

    def __init__(self, store: Tensor, slots: Tensor, seen: int):
        super().__init__()
        self.keys, self.values = store
        self.slots, self.seen, self.is_initialized = slots, seen, True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """The store is there already."""

    def update(self, key_states: Tensor, value_states: Tensor, *_, **__) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self.slots, key_states)
        self.values.index_copy_(2, self.slots, value_states)
        return self.keys[:, :, : self.seen], self.values[:, :, : self.seen]

    def get_seq_length(self) -> int:
        return 0  # positions and masks are given

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen, 0

    def get_max_length(self) -> int:
        return self.keys.shape[2]

    get_max_cache_shape = get_max_length  # its name before transformers 5.24


class ModuleLM:
    """Any language model of transformers, module by module."""

    group = 1

    def __init__(self, model: VisualLM):
        self.model = model
        config = model.language_model.config
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        self._shape = (config.num_hidden_layers, config.num_key_value_heads or heads, width)

    def cache(self, rows: int, places: int) -> KeyValues:
        layers, heads, width = self._shape
        like = self.model.image_in_projector.weight
        return KeyValues(like.new_zeros(layers, 2, rows, heads, places, width))

    def __call__(self, x, where, mask, slots, cache, asked):
        seen = mask.shape[-1]
        through = TransformersCache(layers=[_Slots(store, slots, seen) for store in cache.store])
        return _select(self.model.read(x, mask.expand(-1, -1, x.shape[1], -1), where, through), asked)
