"""Samplers of dx/dt = v(x, t) from noise (t = 0) to data (t = 1), each as a table of numbers (docs/vgt.md 2.9).

Whatever the method, K network evaluations are K lines of one recurrence,

    x_{k+1} = keep_k x_k + before_k x_{k-1} + push_k v_k + back_k v_{k-1} + noise_k w_k,

with v_k the guided velocity at (x_k, times_k), x_0 and w_k standard normal, and x_K the sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LAST_TIME = 0.96  # where the published time grid ends
FAMILIES = {"power": (0.2, 5.0), "shift": (0.1, 10.0)}  # time schedules with a parameter, and what it may be
SCHEDULES = ("linear", *(f"{name}:NUMBER" for name in FAMILIES))


@dataclass(frozen=True)
class Scheme:
    """The recurrence's coefficients, K numbers each."""

    times: tuple[float, ...]
    keep: tuple[float, ...]
    before: tuple[float, ...]
    push: tuple[float, ...]
    back: tuple[float, ...]
    noise: tuple[float, ...]

    def advance(
        self, k: int, x: Tensor, v: Tensor, before: Tensor | None, back: Tensor | None, noise: Tensor
    ) -> Tensor:
        """x_{k+1} from x_k and v_k [N, d], those of the evaluation before (None at the first), and ``noise``
        [N, draws, d], the start and one draw for each further evaluation."""
        y = (self.keep[k] * x).add(v, alpha=self.push[k])
        if self.before[k]:
            y = y.add(before, alpha=self.before[k])
        if self.back[k]:
            y = y.add(back, alpha=self.back[k])
        if self.noise[k]:
            y = y.add(noise[:, k + 1].float(), alpha=self.noise[k])
        return y

    @property
    def stochastic(self) -> bool:
        return any(self.noise)

    @property
    def draws(self) -> int:
        """Noise vectors that a token needs: the start, and one for every further evaluation of a stochastic sampler."""
        return len(self.times) if self.stochastic else 1


@dataclass(frozen=True)
class Step:
    """One evaluation of the recurrence; by default nothing but the state stays."""

    time: float
    keep: float = 1.0
    before: float = 0.0
    push: float = 0.0
    back: float = 0.0
    noise: float = 0.0


@lru_cache(maxsize=256)
def table(sampler: str, steps: int, schedule: str = "linear") -> Scheme:
    """The table of ``sampler`` with ``steps`` network evaluations K on a time schedule (``times``).

    Raises ValueError for an unknown sampler or schedule and for a number of evaluations that it cannot have."""
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler {sampler!r} is unknown; choose one of {', '.join(SAMPLERS)}")
    if steps < 2:
        raise ValueError(f"flow steps {steps} is too few; use at least 2")
    if sampler == "heun" and (steps < 3 or steps % 2 == 0):
        raise ValueError(
            f"flow steps {steps} does not suit heun, which evaluates twice an interval and once at the end; "
            f"use an odd number, for example {max(3, steps - 1)}"
        )
    intervals = (steps + 1) // 2 if sampler == "heun" else steps
    lines = SAMPLERS[sampler](times(schedule, intervals))
    columns = zip(*((x.time, x.keep, x.before, x.push, x.back, x.noise) for x in lines), strict=True)
    return Scheme(*columns)


def draws(tables: Sequence[Scheme]) -> int:
    """Noise vectors that a token needs where its table is any of these; those beyond its own stay unused."""
    return max(table.draws for table in tables)


def falling_steps(sampler: str, steps: int, sizes: Sequence[int]) -> list[int]:
    """Network evaluations of each decode step where their number falls over an image's tokens: the first ones decide
    the layout, the last ones follow from them (docs/decode.md 6).

    A group that covers the shares a to b of the tokens has K (3/2 - (a + b) / 2), ``steps`` K: from 1.5 K at the first
    token to 0.5 K at the last, rounded, to an odd number for heun.  Over all tokens that is K on average, whatever the
    ``sizes`` of the groups: sum (b - a) (a + b) / 2 = 1/2; rounding leaves it exact for equal groups, and moves it
    little for others.  Raises ValueError where the last tokens had fewer than ``table`` takes."""
    least = 7 if sampler == "heun" else 4
    if steps < least:
        raise ValueError(
            f"flow steps {steps} is too few to fall over the sequence, whose last tokens get half; "
            f"use at least {least} with {sampler}"
        )
    total, done, found = sum(sizes), 0, []
    for m in sizes:
        wanted = Fraction(steps * (3 * total - 2 * done - m), 2 * total)
        found.append(2 * round((wanted - 1) / 2) + 1 if sampler == "heun" else round(wanted))
        done += m
    return found


def times(schedule: str, n: int) -> list[float]:
    """n + 1 increasing times, from 0 to 1.

    linear: n points evenly from 0 to 0.96, then 1 (published, docs/vgt.md 2.9).  With s = k/n: power:p is s^p, denser
    near noise for p > 1 and near data for p < 1; shift:a is s / (s + a (1 - s)), which moves the logit by -ln a as the
    loss's own time shift does (docs/vgt.md 2.8): denser near noise for a > 1, near data for a < 1; power:1 is
    uniform."""
    if schedule == "linear":
        return [LAST_TIME * k / (n - 1) for k in range(n)] + [1.0]
    family, number = _family(schedule)
    grid = [k / n for k in range(n + 1)]
    return [s**number if family == "power" else s / (s + number * (1 - s)) for s in grid]


def one_form(schedule: str) -> str:
    """The one way to write a time schedule: "power:0.7" for "power:.70", and "power:1" for "shift:1", which is the
    same.  Raises ValueError for anything that is no schedule."""
    if schedule == "linear":
        return schedule
    family, number = _family(schedule)
    return "power:1" if number == 1 else f"{family}:{str(number).removesuffix('.0')}"


def _family(schedule: str) -> tuple[str, float]:
    """("power", 0.7) of "power:0.7".  Raises ValueError for anything that is no schedule."""
    name, _, text = schedule.partition(":")
    if name not in FAMILIES:
        raise ValueError(f"time schedule {schedule!r} is unknown; choose one of {', '.join(SCHEDULES)}")
    low, high = FAMILIES[name]
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise ValueError(f"time schedule {schedule!r} needs a number from {low:g} to {high:g}, as in {name}:0.7")
    return name, number


def _sde(t: list[float]) -> list[Step]:
    """dx = (v + (1 - t) score) dt + sqrt(2 (1 - t) dt) w with score = (t v - x) / (1 - t), whose drift is
    (1 + t) v - x in closed form; the last step is Euler's and has no noise (docs/vgt.md 2.9)."""
    *steps, _ = zip(t, t[1:], strict=False)
    noisy = [(a, b - a) for a, b in steps]
    return [Step(a, 1 - h, push=(1 + a) * h, noise=math.sqrt(2 * (1 - a) * h)) for a, h in noisy] + [_euler(*t[-2:])]


def _euler(now: float, then: float) -> Step:
    """x + h v."""
    return Step(now, push=then - now)


def _ode(t: list[float]) -> list[Step]:
    """Euler's method, order 1 (the paper's wording, docs/vgt.md 2.9)."""
    return [_euler(now, then) for now, then in zip(t, t[1:], strict=False)]


def _heun(t: list[float]) -> list[Step]:
    """Heun's method, order 2, two evaluations an interval: xhat = x + h v, then xhat + h/2 (v' - v) with v' at xhat.
    The last interval has one evaluation, Euler's, because no network was trained at t = 1."""
    lines = []
    for now, then in zip(t[:-2], t[1:-1], strict=True):
        h = then - now
        lines += [_euler(now, then), Step(then, push=h / 2, back=-h / 2)]
    return [*lines, _euler(*t[-2:])]


def _ab2(t: list[float]) -> list[Step]:
    """Adams-Bashforth of order 2 for unequal steps: x + h (v + h/(2 h') (v - v')), v' and h' those of the step
    before; the first step is Euler's."""
    lines = [_euler(*t[:2])]
    for last, now, then in zip(t, t[1:], t[2:], strict=False):
        h = then - now
        bend = h / (2 * (now - last))
        lines.append(Step(now, push=h * (1 + bend), back=-h * bend))
    return lines


def _dpmpp(t: list[float]) -> list[Step]:
    """DPM-Solver++ 2M (Lu et al. 2022, Algorithm 2), order 2, which follows the data prediction."""
    return _exponential(t, 1)


def _sde2(t: list[float]) -> list[Step]:
    """The published stochastic law (``_sde``) by the integrator of DPM-Solver++, of order 2 in its mean: noise never
    exceeds what the time after the step may hold, however long the step."""
    return _exponential(t, 2)


def _exponential(t: list[float], p: int) -> list[Step]:
    """Exact but for the data prediction D = x + (1 - t) v: with r = (1 - t') / (1 - t),

        x' = r^p x + (t' - r^p t) D* + (1 - t') sqrt(1 - r^(2p - 2)) w

    solves dx = v dt for p = 1, and for p = 2 the stochastic equation of ``_sde``, with D held at D*; in terms of D that
    is dx = ((1 + t) D - 2 x) / (1 - t) dt + sqrt(2 (1 - t)) dW.  D* = D_k + H_k / (2 H_{k-1}) (D_k - D_{k-1}), H the
    steps of lambda = log(t / (1 - t)); lambda is infinite at 0 and 1, so the first two steps and the last have D_k."""
    rise = [_lambda(b) - _lambda(a) for a, b in zip(t[1:-2], t[2:-1], strict=True)]  # H_1 ... H_{K-2}
    lines = []
    for k, (now, then) in enumerate(zip(t, t[1:], strict=False)):
        bend = rise[k - 1] / (2 * rise[k - 2]) if 2 <= k < len(t) - 2 else 0.0
        ratio, last = (1 - then) / (1 - now), t[k - 1] if k else 0.0
        share = then - ratio**p * now
        lines.append(
            Step(
                now,
                keep=ratio**p + share * (1 + bend),
                before=-share * bend,
                push=share * (1 + bend) * (1 - now),
                back=-share * bend * (1 - last),
                noise=(1 - then) * math.sqrt(1 - ratio ** (2 * p - 2)),
            )
        )
    return lines


def _lambda(t: float) -> float:
    """Half of the log signal-to-noise ratio, log(t / (1 - t))."""
    return math.log(t / (1 - t))


SAMPLERS: dict[str, Callable[[list[float]], list[Step]]] = {
    "sde": _sde, "sde2": _sde2, "ode": _ode, "heun": _heun, "ab2": _ab2, "dpmpp": _dpmpp,
}  # fmt: skip
