"""MAR inside the VLM: masked autoregression with the parameters of QueryAR (docs/mar.md 3).

Sequence: [text | pads | start | N slots in raster order]; a masked slot holds its query Q_i, a known one its latent
E_i.  Text is causal, the image block is bidirectional; masked slots condition the flow head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from vgt.equations import flow
from vgt.equations.order import additive, mask_counts, positions, prefix_mask, random_orders, step_sizes
from vgt.equations.solvers import draws
from vgt.methods import registry
from vgt.methods.sampling import Sampling
from vgt.methods.visual_lm import VisualLM, orders_and_noise


def sizes(n: int, settings: Sampling) -> list[int]:
    """Tokens that each decode step generates: on MAR's cosine (docs/mar.md 1.3) where nothing else is chosen."""
    return step_sizes(n, settings.acceleration, settings.schedule or "cosine")


def sequence(n: int) -> int:
    """Image positions of a training sequence."""
    return n


def slots(model: VisualLM, u: Tensor, known: Tensor) -> Tensor:
    """Inputs of the image block [B, N, D]: latents where ``known`` [B, N], queries elsewhere."""
    where = torch.arange(model.tokens, device=u.device).expand(len(u), -1)
    queries = model.queries()
    return torch.where(known[..., None], model.latent_inputs(u, where).to(queries.dtype), queries)


def masked_conditions(model: VisualLM, ids: Tensor, mask: Tensor, u: Tensor, known: Tensor) -> Tensor:
    """Conditions [B, N, D] at every slot from one full pass."""
    prefix = model.prefix(ids)
    s, n = len(model.config.start_ids), model.tokens
    inputs = torch.cat([prefix, slots(model, u, known).to(prefix.dtype)], 1)  # [B, L + s + N, D]
    hidden = model.read(inputs, additive(prefix_mask(mask, s, n), inputs.dtype), positions(mask, s, n))
    return model.conditions(hidden[:, -n:])


def loss(
    model: VisualLM, batch: dict[str, Tensor], rng: torch.Generator, repeats: int = 1, repa: float = 0.0
) -> Tensor:
    """Flow-matching loss on masked slots only, divided by their number; mask ratio and places sampled per row.
    ``repa`` as in query_ar.py."""
    u = model.standardize(batch["latents"])
    b, n, _ = u.shape
    ranks = random_orders(n, b, rng)
    masked = (ranks < mask_counts(b, n, rng)[:, None]).to(u.device)
    conditions = masked_conditions(model, batch["ids"], batch["mask"], u, ~masked)
    features = batch["features"][masked] if repa else None
    return model.image_head.loss(
        u[masked], conditions[masked], model.config.time_shift, repeats, rng, features, repa
    ).mean()


@torch.no_grad()
def generate(model: VisualLM, ids: Tensor, mask: Tensor, seeds: list[int], settings: Sampling, on_step=None) -> Tensor:
    """Latents [B, N, d] of the autoencoder in raster order; arguments as for QueryAR.

    The text prefix is read once; every step reads all N slots again, because each reveal changes them all."""
    n, b = model.tokens, len(seeds)
    copies = len(ids) // b
    groups, schedule = sizes(n, settings), settings.cfg_rule(registry.MAR.name)
    tables = settings.tables(groups)
    count, grid = draws(tables), model.config.latent_grid
    orders, noise = orders_and_noise(seeds, n, count, model.config.d_z, ids.device, settings.order, groups, grid)
    rows = torch.arange(b, device=ids.device)[:, None]
    cache = DynamicCache()
    keys, base = model.read_prefix(ids, mask, cache)
    layout = torch.cat([keys, keys.new_ones(len(keys), n)], 1)[:, None].expand(-1, n, -1)
    where = base + torch.arange(n, device=ids.device)
    u = torch.zeros(b, n, model.config.d_z, device=ids.device)
    known = torch.zeros(b, n, dtype=torch.bool, device=ids.device)
    done = 0
    for m, table in zip(groups, tables, strict=True):
        group = orders[:, done : done + m]  # [B, m]
        inputs = slots(model, u, known).repeat(copies, 1, 1)
        hidden = model.read(inputs, additive(layout, inputs.dtype), where, cache)
        cache.crop(-n)
        asked = hidden.gather(1, group.repeat(copies, 1)[..., None].expand(-1, -1, hidden.shape[-1]))
        c = model.conditions(asked).flatten(0, 1)
        w = flow.cfg_scale(schedule, settings.guidance, done, done + m, n)
        sampled = model.image_head.sample(c, w, noise[:, done : done + m].flatten(0, 1), table)
        u[rows, group] = model.renormalise(sampled).view(b, m, -1)
        known[rows, group] = True
        done += m
        if on_step is not None:
            on_step(done, n, u)
    return model.restore(u)
