"""Flow matching against closed forms: path, time law, guidance (docs/vgt.md 2.7 - 2.9, 7)."""

from __future__ import annotations

import math

import pytest
import torch

from vgt.equations import adversarial, flow


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_path_runs_from_noise_to_data():
    x1, x0 = torch.randn(2, 5, 3, generator=rng(), dtype=torch.float64)
    t = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    assert torch.equal(flow.interpolate(x1, x0, torch.zeros(5, 1)), x0)
    assert torch.equal(flow.interpolate(x1, x0, torch.ones(5, 1)), x1)
    h = 1e-6
    slope = (flow.interpolate(x1, x0, t + h) - flow.interpolate(x1, x0, t - h)) / (2 * h)
    assert torch.allclose(slope, flow.velocity(x1, x0), atol=1e-8)


@pytest.mark.parametrize("shift", [1.0, 1.4, 3.0])
def test_time_shift_moves_the_logit_toward_noise(shift):
    """The mean logit is -ln a (-0.336 for 1.4), its spread stays 1 (docs/vgt.md 2.8)."""
    n = 200_000
    t = flow.logit_normal_time(n, shift, rng(2)).double()
    assert t.shape == (n,) and t.min() > 0 and t.max() < 1
    logit = torch.logit(t)
    assert logit.mean().item() == pytest.approx(-math.log(shift), abs=4 / math.sqrt(n))
    assert logit.std().item() == pytest.approx(1, abs=0.01)


def test_times_come_from_the_generator():
    assert torch.equal(flow.logit_normal_time(5, 1.4, rng(3)), flow.logit_normal_time(5, 1.4, rng(3)))
    state = torch.random.get_rng_state()
    flow.logit_normal_time(5, 1.4, rng(3))
    assert torch.equal(state, torch.random.get_rng_state())


def test_guidance():
    conditional, unconditional = torch.randn(2, 4, 3, generator=rng(4))
    assert torch.allclose(flow.guide(conditional, unconditional, 1.0), conditional)
    assert torch.equal(flow.guide(conditional, unconditional, 0.0), unconditional)
    assert torch.allclose(flow.guide(conditional, unconditional, 3.0), 3 * conditional - 2 * unconditional, atol=1e-5)


@pytest.mark.parametrize(("total", "group"), [(256, 1), (256, 4), (64, 16)])
def test_guidance_schedules(total, group):
    """w_0 = w and w_{G-1} = 1 + (w - 1) / G falling (docs/vgt.md 7); from about 1 up to w rising (docs/mar.md 1.3)."""
    w, g = 4.5, total // group
    falling = [flow.cfg_scale("falling", w, k * group, (k + 1) * group, total) for k in range(g)]
    rising = [flow.cfg_scale("rising", w, k * group, (k + 1) * group, total) for k in range(g)]
    assert falling[0] == w and falling[-1] == pytest.approx(1 + (w - 1) / g)
    assert falling == [pytest.approx(1 + (w - 1) * (1 - k / g)) for k in range(g)]
    assert rising[-1] == w and rising[0] == pytest.approx(1 + (w - 1) / g)
    assert rising == falling[::-1]
    assert flow.cfg_scale("constant", w, 3, 4, 256) == w
    assert all(flow.cfg_scale(name, 1.0, 3, 4, 256) == 1 for name in flow.CFG_SCHEDULES)


def test_unknown_schedule():
    with pytest.raises(ValueError, match="'sinking' .* falling, rising, constant"):
        flow.cfg_scale("sinking", 4.5, 0, 1, 2)


def test_adversarial_terms():
    """Hinge and LeCam by hand (docs/vgt.md 1.8)."""
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert adversarial.hinge_discriminator(real, fake).item() == pytest.approx(0.5 * (0.25 + 0.5))
    assert adversarial.hinge_generator(fake).item() == pytest.approx(1.5)
    penalty = adversarial.lecam(real, fake, torch.tensor(0.25), torch.tensor(-0.5))
    assert penalty.item() == pytest.approx((1.25 + 0.5) ** 2 + (0.25 + 1.5) ** 2)
    assert adversarial.lecam(real, fake, torch.tensor(-9.0), torch.tensor(9.0)).item() == 0
