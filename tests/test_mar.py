"""MAR inside the VLM: bidirectional image block, causal text, the parameters of QueryAR (docs/mar.md 3, 4)."""

from __future__ import annotations

import pytest
import torch
from conftest import CAPTIONS, FAMILIES

from vgt.equations import flow
from vgt.equations.order import additive, cosine_sizes, positions, prefix_mask
from vgt.methods import mar
from vgt.methods.sampling import Sampling
from vgt.methods.visual_lm import VisualLM, orders_and_noise
from vgt.vlm.prompts import tokenize

SEEDS = [11, 5, 8]
N = 16


def settings(acceleration: int = 4, guidance: float = 1.0, **fields) -> Sampling:
    return Sampling(acceleration=acceleration, guidance=guidance, flow_steps=4, **fields)


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture
def batch(family, visual_lms, vlms):
    """(model, ids [3, L], mask, standardised latents [3, N, d], known [3, N])."""
    rng = torch.Generator().manual_seed(0)
    ids, mask = tokenize(vlms[family].tokenizer, list(CAPTIONS))
    return visual_lms[family], ids, mask, torch.randn(3, N, 8, generator=rng), torch.rand(3, N, generator=rng) < 0.3


def test_parameters_are_queryars_tensor_by_tensor(family, visual_lms):
    config = visual_lms[family].config
    with torch.device("meta"):
        other = VisualLM(config.model_copy(update={"method": "mar"}))
    ours = {name: (p.shape, p.dtype) for name, p in visual_lms[family].named_parameters()}
    assert {name: (p.shape, p.dtype) for name, p in other.named_parameters()} == ours
    assert other.state_dict().keys() == visual_lms[family].state_dict().keys()


@torch.no_grad()
def test_slots(batch):
    """Queries where masked, latents where known, in raster order."""
    model, _, _, u, known = batch
    found = mar.slots(model, u, known)
    where = torch.arange(N).expand(3, -1)
    assert torch.equal(found[known], model.latent_inputs(u, where)[known])
    assert torch.equal(found[~known], model.queries().expand(3, -1, -1)[~known])


@torch.no_grad()
def test_all_masked_depends_on_the_text_only(batch):
    model, ids, mask, u, _ = batch
    nothing = torch.zeros(3, N, dtype=torch.bool)
    base = mar.masked_conditions(model, ids, mask, u, nothing)
    assert torch.equal(mar.masked_conditions(model, ids, mask, -u, nothing), base)
    assert (base[0] - base[1]).abs().max() > 0.1


@torch.no_grad()
def test_permuting_slots_with_their_positions_permutes_outputs(batch):
    model, ids, mask, u, known = batch
    s = len(model.config.start_ids)
    inputs = torch.cat([model.prefix(ids), mar.slots(model, u, known)], 1)
    where, layout = positions(mask, s, N), additive(prefix_mask(mask, s, N), torch.float32)
    head = inputs.shape[1] - N
    p = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    shuffled = torch.cat([torch.arange(head), head + p])
    base = model.read(inputs, layout, where)
    moved = model.read(inputs[:, shuffled], layout, where[:, shuffled])
    assert torch.allclose(moved, base[:, shuffled], atol=2e-5)


@torch.no_grad()
def test_a_visible_latent_reaches_both_sides_and_not_the_text(batch):
    model, ids, mask, u, _ = batch
    known = torch.zeros(3, N, dtype=torch.bool)
    known[:, 8] = True
    s = len(model.config.start_ids)
    layout, where = additive(prefix_mask(mask, s, N), torch.float32), positions(mask, s, N)

    def hidden(latents):
        return model.read(torch.cat([model.prefix(ids), mar.slots(model, latents, known)], 1), layout, where)

    changed = u.clone()
    changed[:, 8] += 1
    moved = (hidden(changed) - hidden(u)).abs().amax(-1)
    length = ids.shape[1] + s
    assert moved[:, :length].max() == 0
    image = moved[:, length:]
    assert image[:, :8].min() > 1e-4 and image[:, 9:].min() > 1e-4


@torch.no_grad()
def test_text_stays_causal(batch):
    model, ids, mask, u, known = batch
    s = len(model.config.start_ids)
    layout, where = additive(prefix_mask(mask, s, N), torch.float32), positions(mask, s, N)
    inputs = torch.cat([model.prefix(ids), mar.slots(model, u, known)], 1)
    other = inputs.clone()
    other[:, 5] += 1
    moved = (model.read(other, layout, where) - model.read(inputs, layout, where)).abs().amax(-1)
    assert moved[:, :5].max() == 0 and moved[:, 5].min() > 1e-3


@torch.no_grad()
def test_a_row_does_not_depend_on_its_padding(batch):
    model, ids, mask, u, known = batch
    whole = mar.masked_conditions(model, ids, mask, u, known)
    for k in range(3):
        length = int(mask[k].sum())
        alone = mar.masked_conditions(
            model, ids[k : k + 1, :length], mask[k : k + 1, :length], u[k : k + 1], known[k : k + 1]
        )
        assert torch.allclose(alone[0], whole[k], atol=2e-5)


def generated(model, ids, mask, how, seeds=SEEDS):
    """Latents, and the known places and conditions of every step as the loop used them."""
    steps = []
    sample = model.image_head.sample
    model.image_head.sample = lambda c, w, noise, table: steps.append((c, w)) or sample(c, w, noise, table)
    try:
        return mar.generate(model, ids, mask, seeds, how), steps
    finally:
        del model.image_head.sample


@pytest.mark.parametrize("acceleration", [1, 4, 16])
@pytest.mark.parametrize("schedule", ["cosine", "equal"])
@torch.no_grad()
def test_cached_prefix_equals_full_passes(batch, acceleration, schedule):
    """Each step's conditions are those of one full pass over the same known latents; known ones are never redrawn."""
    model, ids, mask, _, _ = batch
    z, steps = generated(model, ids, mask, settings(acceleration, schedule=schedule))
    u = model.standardize(z)
    orders, _ = orders_and_noise(SEEDS, N, 4, 8, "cpu")
    assert len(steps) == N // acceleration
    done = 0
    known = torch.zeros(3, N, dtype=torch.bool)
    for c, _ in steps:
        m = len(c) // 3
        group = orders[:, done : done + m]
        full = mar.masked_conditions(model, ids, mask, u, known)
        asked = torch.stack([full[b, group[b]] for b in range(3)])
        assert torch.allclose(c.view(3, m, -1), asked, atol=2e-5)
        for b in range(3):
            known[b, group[b]] = True
        done += m
    assert done == N and known.all()


@torch.no_grad()
def test_one_token_a_step_at_1x(batch):
    model, ids, mask, _, _ = batch
    _, steps = generated(model, ids, mask, settings(1))
    assert [len(c) // 3 for c, _ in steps] == [1] * N


@torch.no_grad()
def test_guidance_rises_with_what_is_known(batch):
    model, ids, mask, _, _ = batch
    unconditional = ids.repeat(2, 1), mask.repeat(2, 1)
    _, steps = generated(model, *unconditional, settings(4, 3.0))
    sizes, done, expected = [len(c) // 6 for c, _ in steps], 0, []
    for m in sizes:
        expected.append(flow.cfg_scale("rising", 3.0, done, done + m, N))
        done += m
    assert [w for _, w in steps] == expected and expected[-1] == 3.0 and sizes == cosine_sizes(N, 4)
    _, steps = generated(model, *unconditional, settings(4, 3.0, cfg_schedule="falling"))
    assert steps[0][1] == 3.0


@pytest.mark.parametrize("acceleration", [1, 4])
@torch.no_grad()
def test_rows_are_on_their_own(family, acceleration, visual_lms, vlms):
    model, words = visual_lms[family], vlms[family].tokenizer
    how = settings(acceleration)
    together = mar.generate(model, *tokenize(words, list(CAPTIONS)), SEEDS, how)
    permuted = mar.generate(model, *tokenize(words, [CAPTIONS[1], CAPTIONS[2], CAPTIONS[0]]), [5, 8, 11], how)
    assert torch.equal(permuted[[2, 0, 1]], together)
    for k in range(3):
        alone = mar.generate(model, *tokenize(words, [CAPTIONS[k]]), [SEEDS[k]], how)
        assert torch.allclose(alone[0], together[k], atol=2e-5)
    assert together.mean(-1).abs().max() < 1e-4
    assert torch.equal(mar.generate(model, *tokenize(words, list(CAPTIONS)), SEEDS, how), together)


@torch.no_grad()
def test_guidance_of_one_is_the_conditional_model(family, visual_lms, vlms):
    model, words = visual_lms[family], vlms[family].tokenizer
    ids, mask = tokenize(words, [*CAPTIONS, None, None, None])
    plain = mar.generate(model, ids[:3], mask[:3], SEEDS, settings())
    assert torch.allclose(mar.generate(model, ids, mask, SEEDS, settings(guidance=1.0)), plain, atol=2e-5)
    assert not torch.allclose(mar.generate(model, ids, mask, SEEDS, settings(guidance=3.0)), plain, atol=0.1)


@torch.no_grad()
def test_loss_is_on_masked_slots_only(batch, monkeypatch):
    model, ids, mask, _, _ = batch
    z = torch.randn(3, N, 8, generator=torch.Generator().manual_seed(5))
    seen = []
    conditions = mar.masked_conditions
    monkeypatch.setattr(mar, "masked_conditions", lambda *a: seen.append(a) or conditions(*a))
    found = mar.loss(model, {"latents": z, "ids": ids, "mask": mask}, torch.Generator().manual_seed(6))
    ((_, _, _, u, known),) = seen
    masked = ~known
    assert torch.equal(u, model.standardize(z))
    assert (masked.sum(1) >= 12).all()  # ceil(0.7 x 16)
    assert not torch.equal(masked[0], masked[1])
    rng = torch.Generator().manual_seed(6)
    mar.random_orders(N, 3, rng)
    mar.mask_counts(3, N, rng)
    c = conditions(model, ids, mask, u, known)
    expected = model.image_head.loss(u[masked], c[masked], model.config.time_shift, 1, rng)
    assert len(expected) == masked.sum() and torch.allclose(found, expected.mean(), rtol=1e-5)
