"""QueryAR: autoregression through position queries, any order, m tokens a step (docs/vgt.md 2.4, 2.11, 2.12).

Training sequence: [text | pads | start | Q_p(1) E_p(1) Q_p(2) ... Q_p(N)], p an order per row; the state at Q_p(k)
conditions the flow head for latent p(k).
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from vgt.equations import flow
from vgt.equations.order import additive, group_mask, interleaved_mask, positions, random_orders, step_sizes
from vgt.equations.solvers import draws
from vgt.methods import registry
from vgt.methods.sampling import Sampling
from vgt.methods.visual_lm import VisualLM, orders_and_noise


def sizes(n: int, settings: Sampling) -> list[int]:
    """Tokens that each decode step generates: equal groups (docs/vgt.md 2.11) where nothing else is chosen."""
    return step_sizes(n, settings.acceleration, settings.schedule or "equal")


def sequence(n: int) -> int:
    """Image positions of a training sequence: nothing reads the last latent."""
    return 2 * n - 1


def teacher_forced(model: VisualLM, ids: Tensor, mask: Tensor, u: Tensor, orders: Tensor) -> Tensor:
    """Conditions [B, n, D] in decode order from one causal pass; u: standardised latents [B, N, d] in raster order;
    ``orders`` [B, n]: raster places, n of the N or all."""
    rows = torch.arange(len(u), device=u.device)[:, None]
    queries = model.queries()[orders]  # [B, n, D]
    latents = model.latent_inputs(u[rows, orders], orders)  # [B, n, D]
    pairs = torch.stack([queries, latents.to(queries.dtype)], 2).flatten(1, 2)[:, :-1]  # nothing reads the last E
    prefix = model.prefix(ids)
    s = len(model.config.start_ids)
    layout = interleaved_mask(mask, s, pairs.shape[1])
    inputs = torch.cat([prefix, pairs.to(prefix.dtype)], 1)  # [B, L + s + 2n - 1, D]
    hidden = model.read(inputs, additive(layout, inputs.dtype), positions(mask, s, pairs.shape[1]))
    return model.conditions(hidden[:, prefix.shape[1] :: 2])


def loss(
    model: VisualLM, batch: dict[str, Tensor], rng: torch.Generator, repeats: int = 1, repa: float = 0.0
) -> Tensor:
    """Flow-matching loss averaged over all tokens; each row has an order of its own.  With ``repa`` the batch has
    ``features`` [B, N, F] of its images (docs/vgt.md 2.5)."""
    u = model.standardize(batch["latents"])
    b, n, d = u.shape
    orders = random_orders(n, b, rng).to(u.device)
    conditions = teacher_forced(model, batch["ids"], batch["mask"], u, orders)
    targets = u.gather(1, orders[..., None].expand(b, n, d))
    rows = torch.arange(b, device=u.device)[:, None]
    features = batch["features"][rows, orders].flatten(0, 1) if repa else None
    return model.image_head.loss(
        targets.flatten(0, 1), conditions.flatten(0, 1), model.config.time_shift, repeats, rng, features, repa
    ).mean()


@torch.no_grad()
def generate(model: VisualLM, ids: Tensor, mask: Tensor, seeds: list[int], settings: Sampling, on_step=None) -> Tensor:
    """Latents [B, N, d] of the autoencoder in raster order.

    ``ids``/``mask`` [B or 2B, L]: prompts, with the unconditional rows second when ``settings.guidance`` is not 1.
    Exact parallel decoding: the m queries of a step share one position, see finished pairs and themselves only, and
    leave the cache afterwards, so every query sees just what it saw in training.  ``on_step(done, total, u)`` is called
    after each step with the standardised latents [B, N, d] so far, 0 where still to come."""
    n, b = model.tokens, len(seeds)
    copies = len(ids) // b
    groups, schedule = sizes(n, settings), settings.cfg_rule(registry.QUERY_AR.name)
    tables = settings.tables(groups)
    count, grid = draws(tables), model.config.latent_grid
    orders, noise = orders_and_noise(seeds, n, count, model.config.d_z, ids.device, settings.order, groups, grid)
    rows = torch.arange(b, device=ids.device)[:, None]
    queries, cache = model.queries(), DynamicCache()
    keys, base = model.read_prefix(ids, mask, cache)  # real cache entries [rows, L + s]; first image position [rows, 1]
    u = torch.zeros(b, n, model.config.d_z, device=ids.device)
    pending = queries.new_zeros(len(ids), 0, queries.shape[-1])  # tokens of the previous group, not yet in the cache
    pending_at = base[:, :0]
    done = 0
    for step, (m, table) in enumerate(zip(groups, tables, strict=True)):
        group = orders[:, done : done + m]  # [B, m]
        asked = queries[group.repeat(copies, 1)]  # [rows, m, D]
        layout = group_mask(keys, pending.shape[1], m)
        where = torch.cat([pending_at, (base + 2 * done).expand(-1, m)], 1)
        inputs = torch.cat([pending, asked], 1)
        hidden = model.read(inputs, additive(layout, inputs.dtype), where, cache)[:, -m:]
        c = model.conditions(hidden).flatten(0, 1)  # [rows m, D]
        w = flow.cfg_scale(schedule, settings.guidance, step, step + 1, len(groups))
        sampled = model.image_head.sample(c, w, noise[:, done : done + m].flatten(0, 1), table)
        sampled = model.renormalise(sampled).view(b, m, -1)
        u[rows, group] = sampled
        latents = model.latent_inputs(sampled, group).repeat(copies, 1, 1)  # [rows, m, D]
        steps = base + 2 * torch.arange(done, done + m, device=ids.device)
        kept = pending.shape[1]
        if m == 1:  # the query stays, as in training; only its latent is still to be read
            pending, pending_at, kept = latents, steps + 1, kept + 1
        else:
            cache.crop(-m)
            pending = torch.stack([asked, latents], 2).flatten(1, 2)  # Q E Q E ...
            pending_at = torch.stack([steps, steps + 1], 2).flatten(1, 2)
        keys = torch.cat([keys, keys.new_ones(len(keys), kept)], 1)
        done += m
        if on_step is not None:
            on_step(done, n, u)
    return model.restore(u)
