"""QueryAR decodes exactly as it was trained, whatever the group size, the prompt's padding and the neighbours
(docs/vgt.md 2.4, 2.11, 2.12, 7; docs/decode.md 5)."""

from __future__ import annotations

import pytest
import torch
from conftest import CAPTIONS, FAMILIES

from vgt.equations import flow
from vgt.equations.order import random_orders
from vgt.inference import generator
from vgt.methods import query_ar
from vgt.methods.sampling import Sampling
from vgt.methods.visual_lm import orders_and_noise
from vgt.vlm.prompts import tokenize

SEEDS = [11, 5, 2**40 + 3]
N = 16


def settings(acceleration: int = 1, guidance: float = 1.0, **fields) -> Sampling:
    return Sampling(acceleration=acceleration, guidance=guidance, flow_steps=4, **fields)


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


class Watched:
    """One generation with what the loop asked of the network: conditions [B, N, D] in decode order, and every call."""

    def __init__(self, model, words, captions, how: Sampling, seeds=SEEDS, monkeypatch=None):
        self.ids, self.mask = tokenize(words, captions)
        self.calls, conditions = [], []
        sample, read = model.image_head.sample, model.read

        def seen_sample(c, w, noise, table):
            conditions.append(c.view(len(captions), -1, c.shape[-1]))
            return sample(c, w, noise, table)

        def seen_read(inputs, mask, positions, cache=None):
            before = cache.get_seq_length()
            out = read(inputs, mask, positions, cache)
            self.calls.append({"before": before, "fed": inputs.shape[1], "positions": positions, "rows": len(inputs)})
            return out

        with monkeypatch.context() as patch:
            patch.setattr(model.image_head, "sample", seen_sample)
            patch.setattr(model, "read", seen_read)
            self.latents = query_ar.generate(model, self.ids, self.mask, list(seeds), how)
        self.conditions = torch.cat(conditions, 1)
        sizes, grid = query_ar.sizes(N, how), model.config.latent_grid
        self.orders, _ = orders_and_noise(list(seeds), N, 4, model.config.d_z, "cpu", how.order, sizes, grid)


@torch.no_grad()
def test_cached_loop_equals_teacher_forcing(family, visual_lms, vlms, monkeypatch):
    """m = 1, prompts of three lengths: every condition as in one full causal pass over the same latents."""
    model = visual_lms[family]
    run = Watched(model, vlms[family].tokenizer, list(CAPTIONS), settings(), monkeypatch=monkeypatch)
    forced = query_ar.teacher_forced(model, run.ids, run.mask, model.standardize(run.latents), run.orders)
    assert forced.shape == run.conditions.shape == (3, N, 32)
    assert len({int(m) for m in run.mask.sum(1)}) == 3
    assert torch.allclose(run.conditions, forced, atol=2e-5)
    assert (forced[:, 1:] - forced[:, :-1]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("acceleration", "chosen", "sizes"),
    [
        (4, {}, [4, 4, 4, 4]),
        (6, {}, [8, 8]),
        (16, {}, [16]),
        (4, {"schedule": "cosine"}, [2, 3, 5, 6]),
        (2, {"schedule": "cosine", "order": "spread"}, [1, 1, 1, 2, 3, 2, 3, 3]),
    ],
)
@torch.no_grad()
def test_every_query_of_a_group_is_in_its_training_context(
    family, acceleration, chosen, sizes, visual_lms, vlms, monkeypatch
):
    """After k finished tokens, each query of the group sees what it would see in a training sequence in which it
    comes next, also where a group of one, whose query stays, and larger ones follow each other."""
    model = visual_lms[family]
    how = settings(acceleration, **chosen)
    assert query_ar.sizes(N, how) == sizes
    run = Watched(model, vlms[family].tokenizer, list(CAPTIONS), how, monkeypatch=monkeypatch)
    u = model.standardize(run.latents)
    done = 0
    for m in sizes:
        for j in range(m):
            place = done + j
            rest = [i for i in range(done, N) if i != place]
            order = run.orders[:, [*range(done), place, *rest]]
            forced = query_ar.teacher_forced(model, run.ids, run.mask, u, order)[:, done]
            assert torch.allclose(run.conditions[:, place], forced, atol=2e-5), (done, j)
        done += m
    assert done == N


@pytest.mark.parametrize("acceleration", [1, 4])
@torch.no_grad()
def test_cache_holds_the_training_prefix(family, acceleration, visual_lms, vlms, monkeypatch):
    """Cache lengths, tokens fed and position ids of every call (docs/vgt.md 2.11, 2.12; costs of docs/mar.md 3.4)."""
    model = visual_lms[family]
    run = Watched(model, vlms[family].tokenizer, list(CAPTIONS), settings(acceleration), monkeypatch=monkeypatch)
    (length,), s = run.ids.shape[1:], len(model.config.start_ids)
    real = run.mask.sum(1, keepdim=True) + s  # T + s of each row
    first, *steps = run.calls
    assert first["before"] == 0 and first["fed"] == length + s
    assert len(steps) == N // acceleration
    for g, call in enumerate(steps):
        k, m = g * acceleration, acceleration
        if m == 1:
            expected = [] if g == 0 else [2 * k - 1]
            assert call["before"] == length + s + max(0, 2 * k - 1)
        else:
            expected = list(range(2 * (k - m), 2 * k)) if g else []
            assert call["before"] == length + s + (2 * (k - m) if g else 0)
        expected = torch.tensor([*expected, *[2 * k] * m])
        assert torch.equal(call["positions"], real + expected)
        assert call["fed"] == len(expected)
    total = sum(call["fed"] for call in steps)
    assert total == (2 * N - 1 if acceleration == 1 else acceleration + 3 * acceleration * (N // acceleration - 1))


@torch.no_grad()
def test_start_token_counts(visual_lms):
    assert [len(visual_lms[f].config.start_ids) for f in FAMILIES] == [1, 2]


@torch.no_grad()
def test_training_positions_and_layout(family, visual_lms, vlms, monkeypatch):
    """Q_p(k) at T + s + 2 (k - 1), latents one later, pads repeating T - 1 (docs/vgt.md 2.4); inputs are Q = M + P and
    E = W u + b + P at their places."""
    model = visual_lms[family]
    ids, mask = tokenize(vlms[family].tokenizer, list(CAPTIONS))
    s, length = len(model.config.start_ids), ids.shape[1]
    u = torch.randn(3, N, 8, generator=torch.Generator().manual_seed(0))
    orders, _ = orders_and_noise(SEEDS, N, 2, 8, "cpu")
    seen = {}
    read = model.read

    def spy(inputs, mask, positions, cache=None):
        seen.update(inputs=inputs, positions=positions)
        return read(inputs, mask, positions, cache)

    monkeypatch.setattr(model, "read", spy)
    query_ar.teacher_forced(model, ids, mask, u, orders)
    assert seen["inputs"].shape == (3, length + s + 2 * N - 1, 32)
    for b in range(3):
        t = int(mask[b].sum())
        expected = [*range(t), *[t - 1] * (length - t), *range(t, t + s + 2 * N - 1)]
        assert seen["positions"][b].tolist() == expected
        for k in (0, 3, N - 1):
            i = int(orders[b, k])
            row, col = 2 + i // 4, 2 + i % 4  # the centre of the 8 x 8 grids
            place = model.grid_embed[0, :, row, col]
            at = length + s + 2 * k
            assert torch.allclose(seen["inputs"][b, at], model.max_metaquery[0, :, row, col] + place)
            if k < N - 1:
                assert torch.allclose(seen["inputs"][b, at + 1], model.image_in_projector(u[b, i]) + place, atol=1e-5)


@torch.no_grad()
def test_conditions_depend_on_the_past_only(family, visual_lms, vlms):
    model = visual_lms[family]
    ids, mask = tokenize(vlms[family].tokenizer, list(CAPTIONS))
    u = torch.randn(3, N, 8, generator=torch.Generator().manual_seed(1))
    orders, _ = orders_and_noise(SEEDS, N, 2, 8, "cpu")
    base = query_ar.teacher_forced(model, ids, mask, u, orders)
    changed = u.clone()
    changed[torch.arange(3), orders[:, 7]] += 1  # the latent decoded eighth
    moved = (query_ar.teacher_forced(model, ids, mask, changed, orders) - base).abs().amax((0, 2))
    assert moved[:8].max() == 0 and moved[8:].min() > 1e-3


# ------------------------------------------------------------------------------------- rows are on their own


@pytest.mark.parametrize("acceleration", [1, 4])
@torch.no_grad()
def test_a_row_does_not_depend_on_its_neighbours(family, acceleration, visual_lms, vlms, pixel_autoencoder):
    """Identical bytes at one batch shape, whoever sits beside, with guidance on."""
    model, words = visual_lms[family], vlms[family].tokenizer
    how = settings(acceleration, guidance=3.0)
    longest = CAPTIONS[1]

    def images(captions, seeds):
        return generator.generate(model, pixel_autoencoder, words, captions, seeds, how)

    base = images([CAPTIONS[0], longest, CAPTIONS[2]], SEEDS)
    permuted = images([CAPTIONS[2], CAPTIONS[0], longest], [SEEDS[2], SEEDS[0], SEEDS[1]])
    assert base.shape == (3, 32, 32, 3)
    assert (permuted[[1, 2, 0]] == base).all()
    others = images([CAPTIONS[0], longest, "a photo of a black moon"], [SEEDS[0], 99, 98])
    assert (others[0] == base[0]).all() and (others[1:] != base[1:]).any((1, 2, 3)).all()


@pytest.mark.parametrize("acceleration", [1, 4])
@torch.no_grad()
def test_a_row_does_not_depend_on_padding_or_batch_size(family, acceleration, visual_lms, vlms):
    """Alone and beside a longer prompt: latents equal to 2e-5."""
    model, words = visual_lms[family], vlms[family].tokenizer
    how = settings(acceleration)
    together = query_ar.generate(model, *tokenize(words, list(CAPTIONS)), SEEDS, how)
    for k, caption in enumerate(CAPTIONS):
        alone = query_ar.generate(model, *tokenize(words, [caption]), SEEDS[k : k + 1], how)
        assert torch.allclose(alone[0], together[k], atol=2e-5), k


@torch.no_grad()
def test_seeds_decide_images(family, visual_lms, vlms):
    model, words = visual_lms[family], vlms[family].tokenizer
    ids, mask = tokenize(words, [CAPTIONS[0]] * 3)
    z = query_ar.generate(model, ids, mask, [7, 8, 7], settings())
    assert torch.equal(z[0], z[2]) and not torch.allclose(z[0], z[1], atol=0.1)
    state = torch.random.get_rng_state()
    assert torch.equal(query_ar.generate(model, ids, mask, [7, 8, 7], settings()), z)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_draws_belong_to_the_image():
    orders, noise = orders_and_noise([3, 4], 16, 5, 8, "cpu")
    one = orders_and_noise([4], 16, 5, 8, "cpu")
    assert torch.equal(orders[1:], one[0]) and torch.equal(noise[1:], one[1])
    assert noise.shape == (2, 16, 5, 8) and not torch.equal(orders[0], orders[1])
    few, many = (Sampling(sampler=s, flow_steps=k).table.draws for s, k in (("ab2", 3), ("ode", 30)))
    assert few == many == 1 and Sampling(flow_steps=7).table.draws == 7  # one start, whatever a deterministic sampler
    raster, same = orders_and_noise([3, 4], 16, 5, 8, "cpu", "raster")
    assert torch.equal(raster, torch.arange(16).expand(2, -1)) and torch.equal(same, noise)
    spread, same = orders_and_noise([3, 4], 16, 5, 8, "cpu", "spread", [4] * 4, (4, 4))
    assert torch.equal(spread[1:], orders_and_noise([4], 16, 5, 8, "cpu", "spread", [4] * 4, (4, 4))[0])
    assert not torch.equal(spread[0], spread[1]) and torch.equal(same, noise)


@torch.no_grad()
def test_raster_order(family, visual_lms, vlms, monkeypatch):
    model = visual_lms[family]
    run = Watched(model, vlms[family].tokenizer, list(CAPTIONS), settings(order="raster"), monkeypatch=monkeypatch)
    assert torch.equal(run.orders, torch.arange(N).expand(3, -1))
    forced = query_ar.teacher_forced(model, run.ids, run.mask, model.standardize(run.latents), run.orders)
    assert torch.allclose(run.conditions, forced, atol=2e-5)
    shuffled = Watched(model, vlms[family].tokenizer, list(CAPTIONS), settings(), monkeypatch=monkeypatch)
    assert not torch.allclose(shuffled.latents, run.latents, atol=0.1)


# ----------------------------------------------------------------------------------------------- guidance


@torch.no_grad()
def test_guidance_of_one_is_the_conditional_model(family, visual_lms, vlms):
    model, words = visual_lms[family], vlms[family].tokenizer
    both = tokenize(words, [*CAPTIONS, None, None, None])
    plain = query_ar.generate(model, both[0][:3], both[1][:3], SEEDS, settings())
    guided = query_ar.generate(model, *both, SEEDS, settings(guidance=1.0))
    assert torch.allclose(plain, guided, atol=2e-5)
    assert not torch.allclose(query_ar.generate(model, *both, SEEDS, settings(guidance=3.0)), plain, atol=0.1)


@pytest.mark.parametrize(("guidance", "rows"), [(1.0, 3), (3.0, 6)])
@torch.no_grad()
def test_guidance_of_one_runs_conditional_rows_only(guidance, rows, visual_lms, vlms, pixel_autoencoder, monkeypatch):
    model, seen = visual_lms["internvl"], []
    read = generator.Engine.read
    monkeypatch.setattr(
        generator.Engine, "read", lambda engine, x, *rest: seen.append(len(x)) or read(engine, x, *rest)
    )
    generator.generate(
        model, pixel_autoencoder, vlms["internvl"].tokenizer, list(CAPTIONS), SEEDS, settings(4, guidance)
    )
    assert set(seen) == {rows}


@pytest.mark.parametrize(("schedule", "expected"), [(None, "falling"), ("rising", "rising"), ("constant", "constant")])
@torch.no_grad()
def test_guidance_schedule_reaches_the_head(schedule, expected, visual_lms, vlms, monkeypatch):
    model, scales = visual_lms["internvl"], []
    sample = model.image_head.sample
    monkeypatch.setattr(model.image_head, "sample", lambda c, w, *rest: scales.append(w) or sample(c, w, *rest))
    ids, mask = tokenize(vlms["internvl"].tokenizer, [CAPTIONS[0], None])
    query_ar.generate(model, ids, mask, [1], settings(4, 3.0, cfg_schedule=schedule))
    assert scales == [flow.cfg_scale(expected, 3.0, k, k + 4, N) for k in range(0, N, 4)]


@torch.no_grad()
def test_sampled_tokens_lie_on_the_autoencoders_set(family, visual_lms, vlms):
    """Mean 0 and variance 1 over channels after every step (docs/vgt.md 2.9); off where the autoencoder has no norm."""
    model = visual_lms[family]
    z = query_ar.generate(model, *tokenize(vlms[family].tokenizer, list(CAPTIONS)), SEEDS, settings(4))
    assert z.shape == (3, N, 8)
    assert z.mean(-1).abs().max() < 1e-4 and (z.var(-1, unbiased=False) - 1).abs().max() < 1e-3
    u = model.standardize(z)
    assert torch.allclose(model.restore(u), z, atol=1e-5) and not torch.allclose(u, z, atol=0.1)
    assert torch.allclose(model.renormalise(u), u, atol=1e-4)


def test_impossible_acceleration(visual_lms, vlms):
    ids, mask = tokenize(vlms["internvl"].tokenizer, [CAPTIONS[0]])
    for acceleration in (0, 17):
        with pytest.raises(ValueError, match=f"acceleration {acceleration} is impossible with 16"):
            query_ar.generate(visual_lms["internvl"], ids, mask, [0], settings(acceleration))


def test_prompts_and_seeds_must_match(visual_lms, vlms, pixel_autoencoder):
    with pytest.raises(ValueError, match="1 prompts but 2 seeds"):
        words = vlms["internvl"].tokenizer
        generator.generate(visual_lms["internvl"], pixel_autoencoder, words, ["a"], [1, 2], settings())


@torch.no_grad()
def test_progress_is_reported(visual_lms, vlms):
    ids, mask = tokenize(vlms["internvl"].tokenizer, [CAPTIONS[0]])
    seen = []
    query_ar.generate(
        visual_lms["internvl"], ids, mask, [0], settings(4), lambda done, total, _: seen.append((done, total))
    )
    assert seen == [(4, 16), (8, 16), (12, 16), (16, 16)]


# ----------------------------------------------------------------------------------------------- training


@torch.no_grad()
def test_loss_is_the_head_on_teacher_forced_conditions(family, visual_lms, vlms):
    """An order per row, standardised latents as targets, the same generator throughout."""
    model = visual_lms[family]
    ids, mask = tokenize(vlms[family].tokenizer, list(CAPTIONS))
    z = torch.randn(3, N, 8, generator=torch.Generator().manual_seed(3))
    batch = {"latents": z, "ids": ids, "mask": mask}
    found = query_ar.loss(model, batch, torch.Generator().manual_seed(4), repeats=2)
    rng = torch.Generator().manual_seed(4)
    orders = torch.rand(3, N, generator=rng).argsort(1)
    assert not torch.equal(orders[0], orders[1])
    u = model.standardize(z)
    conditions = query_ar.teacher_forced(model, ids, mask, u, orders)
    targets = torch.stack([u[b, orders[b]] for b in range(3)])
    by_hand = model.image_head.loss(
        targets.view(-1, 8), conditions.view(-1, 32), model.config.time_shift, repeats=2, rng=rng
    )
    assert torch.allclose(found, by_hand.mean(), rtol=1e-5)


@torch.no_grad()
def test_a_prefix_sees_what_it_sees_in_the_whole_order(family, visual_lms, vlms):
    model = visual_lms[family]
    ids, mask = tokenize(vlms[family].tokenizer, list(CAPTIONS))
    u = torch.randn(3, N, 8, generator=torch.Generator().manual_seed(3))
    orders = random_orders(N, 3, torch.Generator().manual_seed(5))
    whole = query_ar.teacher_forced(model, ids, mask, u, orders)
    for k in (1, 5, N - 1):
        part = query_ar.teacher_forced(model, ids, mask, u, orders[:, :k])
        assert torch.allclose(part, whole[:, :k], atol=1e-5)
