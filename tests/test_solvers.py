"""Samplers as tables: against the textbook step by step, their order, and examples by hand (docs/vgt.md 2.9)."""

from __future__ import annotations

import math

import pytest
import torch

from vgt.equations import solvers
from vgt.methods.flow_head import FlowHead

MEAN, STD = 1.5, 0.6  # the data of the Gaussian tests
DETERMINISTIC = ("ode", "heun", "ab2", "dpmpp")


def gaussian_velocity(x, t):
    """E[x1 - x0 | x_t = x] for x1 ~ N(MEAN, STD^2), x0 ~ N(0, 1) on the path t x1 + (1 - t) x0."""
    variance = t**2 * STD**2 + (1 - t) ** 2
    centred = x - t * MEAN
    return MEAN + t * STD**2 / variance * centred - (1 - t) / variance * centred


def score(x, v, t):
    """grad log p_t(x) of that path in terms of the velocity."""
    return (t * v - x) / (1 - t)


def run(table: solvers.Scheme, x, velocity, noise=None):
    """The recurrence, written out."""
    before, slope = 0 * x, 0 * x
    for k, t in enumerate(table.times):
        v = velocity(x, t)
        y = table.keep[k] * x + table.before[k] * before + table.push[k] * v + table.back[k] * slope
        if table.noise[k]:
            y = y + table.noise[k] * noise[k]
        x, before, slope = y, x, v
    return x


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_score_of_the_oracle():
    x = torch.linspace(-3, 3, 41, dtype=torch.float64)
    for t in (0.0, 0.3, 0.9):
        exact = -(x - t * MEAN) / (t**2 * STD**2 + (1 - t) ** 2)
        assert torch.allclose(score(x, gaussian_velocity(x, t), t), exact, atol=1e-10)


@pytest.mark.parametrize("schedule", ["linear", "power:1.5"])
@pytest.mark.parametrize("steps", [2, 3, 15, 30])
def test_sde_is_the_published_loop(steps, schedule):
    """v + (1 - t) score as drift, sqrt(2 (1 - t) dt) w as noise, and a last step without either (docs/vgt.md 2.9)."""
    grid = [*(0.96 * k / (steps - 1) for k in range(steps)), 1]
    grid = grid if schedule == "linear" else [(k / steps) ** 1.5 for k in range(steps + 1)]
    start, *noise = torch.randn(steps, 50, generator=rng(1), dtype=torch.float64)
    x = start
    for k in range(steps):
        t, dt = grid[k], grid[k + 1] - grid[k]
        v = gaussian_velocity(x, t)
        if k == steps - 1:
            x = x + dt * v
        else:
            x = x + (v + (1 - t) * score(x, v, t)) * dt + math.sqrt(2 * (1 - t) * dt) * noise[k]
    table = solvers.table("sde", steps, schedule)
    assert torch.allclose(run(table, start, gaussian_velocity, noise), x, atol=1e-12)
    assert table.stochastic and table.draws == steps and table.noise[-1] == 0


@pytest.mark.parametrize("steps", [2, 8, 30])
def test_ode_is_eulers_loop(steps):
    x = start = torch.randn(50, generator=rng(2), dtype=torch.float64)
    for k in range(steps):
        t = 0.96 * k / (steps - 1)
        x = x + (0.96 / (steps - 1) if k < steps - 1 else 0.04) * gaussian_velocity(x, t)
    table = solvers.table("ode", steps)
    assert torch.allclose(run(table, start, gaussian_velocity), x, atol=1e-12)
    assert not table.stochastic and table.draws == 1


def test_heun_by_hand():
    """dx/dt = x^2 from 1/2, one interval of 0.96 and Euler to 1."""
    seen = []
    got = run(solvers.table("heun", 3), 0.5, lambda x, t: seen.append((t, x)) or x * x)
    guess = 0.5 + 0.96 * 0.25
    corrected = 0.5 + 0.96 * (0.25 + guess**2) / 2
    assert seen == [(0.0, 0.5), (0.96, pytest.approx(guess)), (0.96, pytest.approx(corrected))]
    assert got == pytest.approx(corrected + 0.04 * corrected**2)


def test_ab2_by_hand():
    """Times 0, 0.48, 0.96: the second step weighs 3/2 and -1/2, the last 1 + 1/24 and -1/24."""
    a = 0.5 + 0.48 * 0.25
    b = a + 0.48 * (1.5 * a**2 - 0.5 * 0.25)
    c = b + 0.04 * ((1 + 1 / 24) * b**2 - a**2 / 24)
    assert run(solvers.table("ab2", 3), 0.5, lambda x, t: x * x) == pytest.approx(c)


def test_dpmpp_in_its_own_variables():
    """The 2M update as its authors write it, in sigma, alpha, lambda and data predictions."""
    t = [*(0.96 * k / 5 for k in range(6)), 1.0]
    x, kept, steps = 0.5, None, []
    for k in range(6):
        now, then = t[k], t[k + 1]
        d = x + (1 - now) * gaussian_velocity(x, now)
        h = math.inf if k in (0, 5) else math.log(then / (1 - then)) - math.log(now / (1 - now))
        blend = d
        if k not in (0, 5):  # r = h_{k-1} / h_k is infinite for k = 1
            r = steps[-1] / h
            blend = (1 + 1 / (2 * r)) * d - 1 / (2 * r) * kept
        x = (1 - then) / (1 - now) * x + then * blend * (1 - math.exp(-h))
        kept = d
        steps.append(h)
    assert run(solvers.table("dpmpp", 6), 0.5, gaussian_velocity) == pytest.approx(x, abs=1e-12)


@pytest.mark.parametrize(("now", "then"), [(0.0, 0.3), (0.2, 0.5), (0.5, 0.96)])
def test_sde2_solves_the_published_equation_between_two_times(now, then):
    """Mean and variance after many small steps of (1 + t) v - x and sqrt(2 (1 - t) dt), with v = (D - x) / (1 - t)."""
    d, x, steps = 0.7, 2.0, 20_000
    mean, variance, dt = x, 0.0, (then - now) / steps
    for k in range(steps):
        t = now + k * dt
        pull = 1 - ((1 + t) / (1 - t) + 1) * dt
        mean = pull * mean + (1 + t) / (1 - t) * d * dt
        variance = pull**2 * variance + 2 * (1 - t) * dt
    line = solvers._exponential([now, then, 1.0], 2)[0]
    assert line.keep * x + line.push * (d - x) / (1 - now) == pytest.approx(mean, abs=1e-3)
    assert line.noise**2 == pytest.approx(variance, abs=1e-3)


@pytest.mark.parametrize("sampler", ["sde2", "dpmpp"])
def test_one_image_is_drawn_exactly(sampler):
    """Where the data is a single value, every number of evaluations ends there, whatever the noise."""
    for steps in (2, 3, 5, 12):
        noise = torch.randn(steps, 9, generator=rng(3), dtype=torch.float64)
        table = solvers.table(sampler, steps)
        end = run(table, noise[0], lambda x, t: (MEAN - x) / (1 - t), noise[1:])
        assert torch.allclose(end, torch.full((9,), MEAN, dtype=torch.float64), atol=1e-9)


def spread(sampler: str, steps: int, std: float) -> float:
    """Standard deviation at the end for data N(0, std^2), computed: the state is a sum of independent normals."""
    table = solvers.table(sampler, steps, "power:1")
    noise = torch.eye(steps, dtype=torch.float64)

    def velocity(x, t):
        return (t * std**2 - (1 - t)) / (t**2 * std**2 + (1 - t) ** 2) * x

    return float(run(table, noise[0], velocity, noise[1:]).norm())


def test_sde2_has_order_two():
    coarse, fine = (abs(spread("sde2", steps, 0.6) - 0.6) for steps in (1000, 2000))
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.3)
    coarse, fine = (abs(spread("sde", steps, 0.6) - 0.6) for steps in (1000, 2000))
    assert math.log2(coarse / fine) == pytest.approx(1, abs=0.1)


def error(sampler: str, steps: int, schedule: str) -> float:
    """Of dx/dt = -2 t x^2, x(0) = 1, whose solution is 1 / (1 + t^2)."""
    steps += sampler == "heun"
    return abs(run(solvers.table(sampler, steps, schedule), 1.0, lambda x, t: -2 * t * x * x) - 0.5)


@pytest.mark.parametrize("schedule", ["power:1", "power:1.5", "shift:0.7"])
@pytest.mark.parametrize(("sampler", "order"), [("ode", 1), ("heun", 2), ("ab2", 2), ("dpmpp", 2)])
def test_order_of_convergence(sampler, order, schedule):
    """Twice the evaluations leave 2^-order of the error, dpmpp's up to a logarithm (lambda is infinite at the ends)."""
    coarse, fine = (error(sampler, steps, schedule) for steps in (4096, 8192))
    slope = math.log2(coarse / fine)
    assert slope == pytest.approx(order, abs=0.25 if sampler == "dpmpp" else 0.05)


@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_better_solvers_are_better_at_few_evaluations(sampler):
    """The exact flow between Gaussians is affine in its starting point: MEAN + STD x0."""
    x0 = torch.linspace(-2, 2, 41, dtype=torch.float64)
    off = {
        name: float((run(solvers.table(name, 9, "power:1"), x0, gaussian_velocity) - MEAN - STD * x0).abs().max())
        for name in DETERMINISTIC
    }
    assert off[sampler] < 0.2
    assert sampler == "ode" or off[sampler] < off["ode"] / 2


@pytest.mark.parametrize("sampler", solvers.SAMPLERS)
@pytest.mark.parametrize("schedule", ["linear", "power:0.5", "power:2", "shift:0.5", "shift:3"])
def test_tables_are_whole(sampler, schedule):
    """K numbers in each column, times in [0, 1), and a constant velocity is followed exactly."""
    for steps in (3, 5, 31):
        table = solvers.table(sampler, steps, schedule)
        for column in (table.times, table.keep, table.before, table.push, table.back, table.noise):
            assert len(column) == steps and all(map(math.isfinite, column))
        assert table.times[0] == 0 and max(table.times) < 1 and list(table.times) == sorted(table.times)
        if not table.stochastic:
            assert run(table, 0.3, lambda x, t: 2.0) == pytest.approx(2.3, abs=1e-9)
    assert solvers.table(sampler, 31, schedule) is table


def test_schedules():
    assert solvers.times("linear", 3) == [0, 0.48, 0.96, 1]
    assert solvers.times("power:2", 4) == [0, 1 / 16, 1 / 4, 9 / 16, 1]
    assert solvers.times("power:1", 4) == solvers.times("shift:1", 4) == [0, 0.25, 0.5, 0.75, 1]
    shifted = solvers.times("shift:3", 4)
    assert [math.log(t / (1 - t)) for t in shifted[1:-1]] == pytest.approx(
        [math.log(s / (1 - s)) - math.log(3) for s in (0.25, 0.5, 0.75)]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("euler", 8), "sampler 'euler' is unknown; choose one of sde, sde2, ode, heun, ab2, dpmpp"),
        (("ab2", 1), "flow steps 1 is too few; use at least 2"),
        (("heun", 8), "flow steps 8 does not suit heun.*odd number, for example 7"),
        (("heun", 2), "flow steps 2 does not suit heun.*for example 3"),
        (("ode", 8, "cubic"), "time schedule 'cubic' is unknown; choose one of linear, power:NUMBER, shift:NUMBER"),
        (("ode", 8, "linear:2"), "time schedule 'linear:2' is unknown"),
        (("ode", 8, "power"), "time schedule 'power' needs a number from 0.2 to 5, as in power:0.7"),
        (("ode", 8, "power:nan"), "needs a number from 0.2 to 5"),
        (("ode", 8, "shift:20"), "time schedule 'shift:20' needs a number from 0.1 to 10"),
    ],
)
def test_bad_tables(arguments, message):
    with pytest.raises(ValueError, match=message):
        solvers.table(*arguments)


@pytest.mark.parametrize("sampler", solvers.SAMPLERS)
@pytest.mark.parametrize("sizes", [[1] * 256, [16] * 16, [4] * 4, [5, 4, 4], [2, 3, 5, 6], [8]])
def test_a_falling_budget_keeps_the_total(sampler, sizes):
    """Never rising, from 3/2 to 1/2 of the constant one at the middles of the steps, in numbers that the sampler takes,
    and as many in all."""
    for steps in (7, 9, 15, 31):
        found, total = solvers.falling_steps(sampler, steps, sizes), sum(sizes)
        assert found == sorted(found, reverse=True) and len(found) == len(sizes)
        assert all(solvers.table(sampler, k) for k in found)
        ends = [steps * (1.5 - sizes[0] / 2 / total), steps * (0.5 + sizes[-1] / 2 / total)]
        assert [found[0], found[-1]] == pytest.approx(ends, abs=1)
        spent = sum(m * k for m, k in zip(sizes, found, strict=True))
        assert spent == steps * total if len(set(sizes)) == 1 else abs(spent - steps * total) < total
    assert solvers.falling_steps(sampler, 15, [4] * 4)[0] > 15 > solvers.falling_steps(sampler, 15, [4] * 4)[-1]


def test_falling_budgets_by_hand():
    assert solvers.falling_steps("sde", 15, [4, 4, 4, 4]) == [21, 17, 13, 9]
    assert solvers.falling_steps("heun", 15, [4, 4, 4, 4]) == [21, 17, 13, 9]
    assert solvers.falling_steps("sde", 8, [2, 3, 5, 6]) == [12, 10, 8, 6]  # 11.5, 10.25, 8.25, 5.5
    assert solvers.falling_steps("sde", 15, [16]) == [15]


@pytest.mark.parametrize(("sampler", "steps", "least"), [("sde", 3, 4), ("ab2", 2, 4), ("heun", 5, 7)])
def test_budgets_that_are_too_small_to_fall(sampler, steps, least):
    with pytest.raises(
        ValueError, match=f"flow steps {steps} is too few to fall .* use at least {least} with {sampler}"
    ):
        solvers.falling_steps(sampler, steps, [4, 4])
    assert min(solvers.falling_steps(sampler, least, [1] * 1000)) >= (3 if sampler == "heun" else 2)


class Exact:
    """A head whose velocity is that of the Gaussian."""

    sample = FlowHead.sample

    def __call__(self, x, t, c):
        return gaussian_velocity(x.double(), t[:, None].double()).float()


@pytest.mark.parametrize("sampler", solvers.SAMPLERS)
def test_samplers_recover_a_gaussian(sampler):
    """With the exact velocity every sampler ends at the data's mean and standard deviation."""
    n, table = 20_000, solvers.table(sampler, 101)
    noise = torch.randn(n, table.draws, 1, generator=rng(5))
    x = Exact().sample(torch.zeros(n, 1), 1.0, noise, table).double()
    assert x.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert x.std().item() == pytest.approx(STD, rel=0.04)
    if not table.stochastic:
        assert (x - (MEAN + STD * noise[:, 0].double())).abs().max() < 0.1
