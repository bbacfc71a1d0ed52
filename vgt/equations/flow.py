"""Flow matching: the path, its target, the time law and guidance (docs/vgt.md 2.7 - 2.9); solvers.py has the samplers.

x1 is data, x0 is noise; t = 0 noise, t = 1 data.  All in fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def interpolate(x1: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """x_t = t x1 + (1 - t) x0 (VGT Eq. 8); t broadcasts against x."""
    return t * x1 + (1 - t) * x0


def velocity(x1: Tensor, x0: Tensor) -> Tensor:
    """Target dx_t/dt = x1 - x0."""
    return x1 - x0


def logit_normal_time(n: int, shift: float, rng: torch.Generator, device=None) -> Tensor:
    """t [n]: t0 = sigmoid(N(0, 1)), then t = 1 - a t0 / (1 + (a - 1) t0): a > 1 shifts toward noise, by -ln a in the
    logit (docs/vgt.md 2.8; the paper's formula applied to the noise level 1 - t, as in SD3)."""
    t0 = torch.sigmoid(torch.randn(n, generator=rng, device=rng.device))
    return (1 - shift * t0 / (1 + (shift - 1) * t0)).to(device)


def guide(conditional: Tensor, unconditional: Tensor, w: float) -> Tensor:
    """Classifier-free guidance: v_u + w (v_c - v_u)."""
    return unconditional + w * (conditional - unconditional)


CFG_SCHEDULES = ("falling", "rising", "constant")


def cfg_scale(schedule: str, w: float, before: int, after: int, total: int) -> float:
    """Guidance of one decode step that goes from ``before`` to ``after`` of ``total``: finished groups for QueryAR
    (docs/vgt.md 2.9), known tokens for MAR (docs/mar.md 1.3).

    falling (QueryAR): 1 + (w - 1)(1 - before/total); rising (MAR): 1 + (w - 1) after/total; or constant w."""
    if schedule == "falling":
        return 1 + (w - 1) * (1 - before / total)
    if schedule == "rising":
        return 1 + (w - 1) * after / total
    if schedule == "constant":
        return w
    raise ValueError(f"guidance schedule {schedule!r} is unknown; choose one of {', '.join(CFG_SCHEDULES)}")
