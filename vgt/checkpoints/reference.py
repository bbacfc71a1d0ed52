"""QueryAR decoded as the published code does it, its defects included (docs/vgt.md 2.11, 3.2 D1 - D3 and D12, 3.3).

Pads are attended to after step 0, and what stands in their cache entries depends on the attention that read them: flash
attention, which every published configuration of a released model selects, gives zeros for a pad's row, dense attention
(eager, SDPA) does not.  Both are here.

For the released weights and numbers only; query_ar.py is the correct way.  What differs there: pads are masked at every
step, positions are those of training, the queries of a group leave the cache, every image has an order of its own.
Shapes: B images, R rows (2 B with guidance), L padded text length, T real text tokens of a row, s start tokens, N image
tokens, m tokens a step, D width of the language model, d latent channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import DynamicCache

from vgt.equations import flow
from vgt.equations.latents import position_norm
from vgt.equations.order import additive, group_sizes, positions
from vgt.methods import registry
from vgt.methods.flow_head import FlowHead
from vgt.methods.sampling import POSITION_MODES, Sampling
from vgt.methods.visual_lm import VisualLM, orders_and_noise


def position_mode(model: VisualLM, settings: Sampling) -> str:
    """The rule for positions after step 0: the one in ``settings``, else that of the model's family.

    Raises ValueError for a family that was never released."""
    if settings.position_mode is not None:
        return settings.position_mode
    kind = str(model.config.text.get("model_type"))
    if kind not in POSITION_MODES:
        raise ValueError(
            f"no reference positions are known for a language model of type {kind!r}; "
            "give position_mode 'cumulative' or 'padded_len'"
        )
    return POSITION_MODES[kind]


def first_mask(text_mask: Tensor, tokens: int) -> Tensor:
    """Step 0, bool [R, L + tokens, same]: causal, pads never attended.  A pad row sees the text before it and not
    itself, as dense attention has it (flash attention: ``zero_rows``); ``text_mask`` bool [R, L]."""
    real = torch.cat([text_mask, text_mask.new_ones(len(text_mask), tokens)], 1)
    size = real.shape[1]
    return torch.ones(size, size, dtype=torch.bool, device=real.device).tril() & real[:, None, :]


def later_mask(rows: int, before: int, tokens: int, device) -> Tensor:
    """Further steps, bool [rows, tokens, before + tokens]: causal over everything, pads included (D1)."""
    seen = torch.ones(tokens, before + tokens, dtype=torch.bool, device=device).tril(before)
    return seen.expand(rows, -1, -1)


def later_positions(mode: str, last: Tensor, length: int, step: int, tokens: int) -> Tensor:
    """Positions [R, tokens] of step ``step`` >= 1 (docs/vgt.md 2.11, D2).  ``last`` [R, 1]: a row's last position so
    far; ``length``: L.  Under "padded_len" every row has the same."""
    count = torch.arange(tokens, device=last.device)
    if mode == "padded_len":
        return (length + step * tokens + count).expand(len(last), -1)
    return last + 1 + count


@contextlib.contextmanager
def zero_rows(model: VisualLM, real: Tensor) -> Iterator[None]:
    """Within, attention gives zeros to rows that are not ``real``, bool [R, q], as flash attention does, which reads
    real tokens only: a pad passes the residual stream and the MLPs.

    Raises ValueError for a language model whose attention has no output projection of the usual name."""
    outputs = [getattr(getattr(layer, "self_attn", None), "o_proj", None) for layer in model.language_model.layers]
    if None in outputs:
        kind = model.config.text.get("model_type")
        raise ValueError(f"attention 'flash' is not known for a language model of type {kind!r}; give 'dense'")
    hooks = [o.register_forward_pre_hook(lambda _, args: (args[0] * real[..., None].to(args[0]),)) for o in outputs]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class RoundedHead:
    """A flow head that reads x and t in bf16 and keeps its state in fp32 (docs/vgt.md 3.3, head precision)."""

    def __init__(self, head: FlowHead):
        self.head = head

    def __call__(self, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        return self.head(x.bfloat16(), t.bfloat16(), c)

    sample = FlowHead.sample


def _fed(m: int, asked: Tensor, before: tuple[Tensor, Tensor] | None) -> Tensor:
    """Tokens of one step [R, q, D]: the previous group's latents, behind their queries once more where several are
    decoded at a time (D3), then the queries that are ``asked``."""
    if before is None:
        return asked
    queries, latents = before
    again = latents if m == 1 else torch.stack([queries, latents], 2).flatten(1, 2)  # Q E Q E ...
    return torch.cat([again, asked], 1)


@torch.no_grad()
def generate(model: VisualLM, ids: Tensor, mask: Tensor, seeds: list[int], settings: Sampling, on_step=None) -> Tensor:
    """Latents [B, N, d] of the autoencoder in raster order; arguments as for QueryAR.

    The first image's order is that of the whole batch; the noise is each image's own.  Sampled latents are cast to the
    precision of the weights and then normalised per position, whatever the autoencoder does (D12).  Raises ValueError
    as ``position_mode`` and ``zero_rows`` do."""
    mode = position_mode(model, settings)
    n, b, s = model.tokens, len(seeds), len(model.config.start_ids)
    copies, length = len(ids) // b, ids.shape[1]
    orders, noise = orders_and_noise(seeds, n, settings.table.draws, model.config.d_z, ids.device, settings.order)
    orders = orders[:1].expand(b, -1)
    dtype = model.image_in_projector.weight.dtype
    rounded = settings.head_inputs == "bf16" or (settings.head_inputs is None and dtype == torch.bfloat16)
    head = RoundedHead(model.image_head) if rounded else model.image_head
    rows = torch.arange(b, device=ids.device)[:, None]
    queries, cache, prefix = model.queries(), DynamicCache(), model.prefix(ids)
    u = torch.zeros(b, n, model.config.d_z, device=ids.device)
    before, done, groups = None, 0, group_sizes(n, settings.acceleration)
    schedule = settings.cfg_rule(registry.QUERY_AR.name)
    for step, m in enumerate(groups):
        group = orders[:, done : done + m]  # [B, m]
        asked = queries[group.repeat(copies, 1)].to(prefix.dtype)  # [R, m, D]
        inputs = _fed(settings.acceleration, asked, before)  # [R, q, D]
        if step == 0:
            inputs = torch.cat([prefix, inputs], 1)
            layout, where = first_mask(mask, s + m), positions(mask, s, m)
            seen = torch.cat([mask, mask.new_ones(len(mask), s + m)], 1)
        else:
            layout = later_mask(len(ids), cache.get_seq_length(), inputs.shape[1], ids.device)
            where = later_positions(mode, where[:, -1:], length, step, inputs.shape[1])
        flash = zero_rows(model, seen) if step == 0 and settings.attention != "dense" else contextlib.nullcontext()
        with flash:
            hidden = model.read(inputs, additive(layout, inputs.dtype), where, cache)[:, -m:]
        c = model.conditions(hidden).flatten(0, 1)  # [R m, D]
        w = flow.cfg_scale(schedule, settings.guidance, step, step + 1, len(groups))
        sampled = head.sample(c, w, noise[:, done : done + m].flatten(0, 1), settings.table)
        sampled = model.standardize(position_norm(model.restore(sampled).to(dtype)).float()).view(b, m, -1)
        u[rows, group] = sampled
        before = asked, model.latent_inputs(sampled, group).repeat(copies, 1, 1).to(prefix.dtype)
        done += m
        if on_step is not None:
            on_step(done, n, u)
    return model.restore(u)


def pixels(x: Tensor) -> Tensor:
    """float [N, 3, H, W] in [-1, 1] -> uint8 [N, H, W, 3] by truncation: clamp(127.5 x + 128) (docs/vgt.md 2.11)."""
    return (127.5 * x.float() + 128).clamp(0, 255).byte().permute(0, 2, 3, 1)


def encode(ae, images: Tensor, seeds: list[int]) -> Tensor:
    """Latents [B, d, h, w] of images [B, 3, H, W] as the published code has them: those of a KL autoencoder are always
    sampled (docs/vgt.md 1.4), here from one seed per image; others are as ``ae.encode`` gives them."""
    if len(images) != len(seeds):
        raise ValueError(f"{len(images)} images but {len(seeds)} seeds; give one seed per image")
    made = [
        ae.encode(image[None], torch.Generator().manual_seed(seed % 2**63))
        for image, seed in zip(images, seeds, strict=True)
    ]
    return torch.cat(made)
