"""The flow head: its structure written out by hand, its loss and its sampler (docs/vgt.md 2.7 - 2.9, 7)."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import widen
from torch.nn import functional as F

from vgt.equations import flow, solvers
from vgt.methods.flow_head import FlowHead, FlowHeadConfig, time_features

D_Z, CONDITION, WIDTH = 6, 10, 32


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def fresh() -> FlowHead:
    """As initialised."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FlowHead(FlowHeadConfig(width=WIDTH, depth=2), D_Z, CONDITION).requires_grad_(False)


@pytest.fixture(scope="module")
def head() -> FlowHead:
    """Every layer random, so that nothing is zero."""
    return widen(FlowHead(FlowHeadConfig(width=WIDTH, depth=2), D_Z, CONDITION), 1).requires_grad_(False)


def inputs(n: int):
    return (
        torch.randn(n, D_Z, generator=rng(1)),
        torch.rand(n, generator=rng(2)),
        torch.randn(n, CONDITION, generator=rng(3)),
    )


def test_output_at_initialisation_is_exactly_zero(fresh):
    assert torch.equal(fresh(*inputs(9)), torch.zeros(9, D_Z))


def test_initialisation(fresh):
    """Xavier, time weights N(0, 0.02), biases 0, adaLN and final layers 0 (docs/vgt.md 2.7)."""
    for name, p in fresh.named_parameters():
        if name.endswith("bias") or "adaLN" in name or "final_layer" in name:
            assert not p.any()
        elif "time_embed" in name:
            assert p.std().item() == pytest.approx(0.02, rel=0.1)
        elif p.ndim == 2:
            assert p.abs().max() <= math.sqrt(6 / sum(p.shape)) and p.std() > 0.5 * math.sqrt(2 / sum(p.shape))


def test_time_features():
    """t itself, 128 cosines then 128 sines, frequencies exp(-ln(10000) k / 128)."""
    t = torch.tensor([0.0, 0.25, 0.96])
    found = time_features(t)
    assert found.shape == (3, 256)
    for k in (0, 1, 77, 127):
        angle = t * 10000 ** (-k / 128)
        assert torch.allclose(found[:, k], angle.cos(), atol=1e-6)
        assert torch.allclose(found[:, 128 + k], angle.sin(), atol=1e-6)


def test_structure(head):
    """The whole network once more from its weights alone (docs/vgt.md 2.7)."""
    w = {k: v.double() for k, v in head.state_dict().items()}

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    x, t, c = inputs(7)
    time = linear("time_embed.mlp.2", F.silu(linear("time_embed.mlp.0", time_features(t).double())))
    y = F.silu(time + linear("cond_embed", c.double()))
    hidden = linear("input_proj", x.double())
    for k in range(2):
        block = f"res_blocks.{k}"
        shift, scale, gate = linear(f"{block}.adaLN_modulation.1", y).chunk(3, -1)
        normed = norm(hidden) * w[f"{block}.in_ln.weight"] + w[f"{block}.in_ln.bias"]
        inner = F.silu(linear(f"{block}.mlp.0", normed * (1 + scale) + shift))
        hidden = hidden + gate * linear(f"{block}.mlp.2", inner)
    shift, scale = linear("final_layer.adaLN_modulation.1", y).chunk(2, -1)
    expected = linear("final_layer.linear", norm(hidden) * (1 + scale) + shift)
    assert torch.allclose(head(x, t, c).double(), expected, atol=1e-5)


def test_loss_of_the_zero_head_is_the_energy_of_the_target(fresh):
    """With v = 0 the loss is mean (x1 - x0)^2, about |x1|^2 / d + 1."""
    x1 = torch.randn(20, D_Z, generator=rng(4))
    loss = fresh.loss(x1, torch.zeros(20, CONDITION), 1.0, 200, rng(5))
    assert loss.shape == (20,)
    assert torch.allclose(loss, x1.square().mean(1) + 1, rtol=0.35)
    assert loss.mean().item() == pytest.approx((x1.square().mean() + 1).item(), rel=0.03)


def test_loss_is_the_matching_error(head):
    """The same draws by hand: one repeat, time first, then noise."""
    x1, _, c = inputs(5)
    t = flow.logit_normal_time(5, 1.4, again := rng(6))
    x0 = torch.randn(5, D_Z, generator=again)
    v = head(flow.interpolate(x1, x0, t[:, None]), t, c)
    assert torch.allclose(head.loss(x1, c, 1.4, 1, rng(6)), (v - (x1 - x0)).square().mean(1))


def test_repa_is_the_cosine_with_the_middle_block():
    """docs/vgt.md 2.5: less the weight times the cosine of the projected block 2 of 4 and the image's features."""
    made = widen(FlowHead(FlowHeadConfig(width=WIDTH, depth=4, repa=7), D_Z, CONDITION), 3)
    x1, _, c = inputs(5)
    features = torch.randn(5, 7, generator=rng(4))
    t = flow.logit_normal_time(5, 1.0, again := rng(6))
    x0 = torch.randn(5, D_Z, generator=again)
    y, x = made.time_embed(t) + made.cond_embed(c), made.input_proj(flow.interpolate(x1, x0, t[:, None]))
    for block in made.res_blocks[:2]:
        x = block(x, y)
    cosine = F.cosine_similarity(made.repa_projector(x), features, dim=-1)
    found = made.loss(x1, c, 1.0, 1, rng(6), features, 0.5)
    torch.testing.assert_close(found, made.loss(x1, c, 1.0, 1, rng(6)) - 0.5 * cosine)
    found.mean().backward()
    assert all(p.grad is not None for p in made.parameters())
    with torch.device("meta"):
        full = FlowHead(FlowHeadConfig(repa=768), 32, 896)
    assert sum(p.numel() for p in full.repa_projector.parameters()) == 8_917_760


def test_repeats_keep_each_token_with_its_condition(head):
    x1, _, c = inputs(8)
    many = head.loss(x1, c, 1.0, 3000, rng(7))
    one = torch.stack([head.loss(x1[i : i + 1], c[i : i + 1], 1.0, 3000, rng(8 + i))[0] for i in range(8)])
    assert torch.allclose(many, one, rtol=0.1)
    assert (many.max() - many.min()) / many.mean() > 0.5  # the tokens differ by far more than that


def test_loss_reaches_the_condition():
    trainable = widen(FlowHead(FlowHeadConfig(width=WIDTH, depth=2), D_Z, CONDITION), 2)
    x1, _, c = inputs(4)
    c.requires_grad_()
    trainable.loss(x1, c, 1.0, 2, rng(9)).mean().backward()
    assert c.grad.abs().min(1).values.max() > 0
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trainable.parameters())


@pytest.mark.parametrize("sampler", ["sde", "ode"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_sampler_step_by_step(head, sampler, guidance):
    """K evaluations at the grid's times, dt = 0.96 / (K - 1), a last Euler step of 0.04 (docs/vgt.md 2.9)."""
    n, steps = 4, 6
    conditional, unconditional = torch.randn(2, n, CONDITION, generator=rng(10))
    c = conditional if guidance == 1 else torch.cat([conditional, unconditional])
    noise = torch.randn(n, steps, D_Z, generator=rng(11))
    x = noise[:, 0]
    for k in range(steps):
        t = 0.96 * k / (steps - 1)
        when = torch.full((n,), t)
        v = head(x, when, conditional)
        if guidance != 1:
            bare = head(x, when, unconditional)
            v = bare + guidance * (v - bare)
        dt = 0.96 / (steps - 1)
        if k == steps - 1:
            x = x + 0.04 * v
        elif sampler == "ode":
            x = x + dt * v
        else:
            x = x + ((1 + t) * v - x) * dt + math.sqrt(2 * (1 - t) * dt) * noise[:, k + 1]
    assert torch.allclose(head.sample(c, guidance, noise, solvers.table(sampler, steps)), x, atol=1e-4)


@pytest.mark.parametrize("steps", [2, 7])
def test_sampler_calls_the_network_once_a_step(head, monkeypatch, steps):
    calls = []
    whole = head.forward
    monkeypatch.setattr(head, "forward", lambda *a: calls.append(len(a[0])) or whole(*a))
    table = solvers.table("sde", steps)
    head.sample(torch.randn(3, CONDITION), 1.0, torch.randn(3, steps, D_Z), table)
    head.sample(torch.randn(6, CONDITION), 2.0, torch.randn(3, steps, D_Z), table)
    assert calls == [3] * steps + [6] * steps


def test_ode_ignores_later_noise(head):
    c, noise = torch.randn(3, CONDITION, generator=rng(12)), torch.randn(3, 5, D_Z, generator=rng(13))
    other = noise.clone()
    other[:, 1:] = 0
    ode, sde = solvers.table("ode", 5), solvers.table("sde", 5)
    assert torch.equal(head.sample(c, 1.0, noise, ode), head.sample(c, 1.0, other, ode))
    assert not torch.allclose(head.sample(c, 1.0, noise, sde), head.sample(c, 1.0, other, sde), atol=1e-2)
