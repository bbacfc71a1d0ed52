"""The flow head alone: all evaluations of one decode step, hoisted as the engine has them against the plain head."""

from __future__ import annotations

import torch

from bench import roofline, subjects
from bench.limits import Limits
from bench.pairs import Pair
from vgt.inference.hoisted_head import HoistedHead
from vgt.methods.sampling import Sampling

ROWS = (2, 8, 32)  # conditional and unconditional rows together: 1, 4 and 16 tokens
WHAT = "all evaluations of one decode step with guidance: hoisted, against one call of the head per evaluation"


def check(rows: int) -> None:
    """Raises ValueError for a number of rows that guidance does not allow."""
    if rows < 2 or rows % 2:
        raise ValueError(
            f"{rows} rows of the flow head are impossible with guidance: give an even number, for example 2"
        )


def pair(preset: str, size: str, rows: int, device: str, dtype: torch.dtype, limits: Limits, settings: dict) -> Pair:
    """The head of a generator's preset with random weights, at ``rows`` rows (an even number, both branches).

    Raises ValueError for an odd number of rows."""
    check(rows)
    with torch.no_grad():
        model = subjects.random_generator(preset, "meta")
        how = Sampling(**{**Sampling.usual(model.tokens), **settings})
        head = subjects.random_head(model, device).to(dtype).requires_grad_(False)
        rng = torch.Generator().manual_seed(0)
        table, n, width = how.table, rows // 2, head.cond_embed.in_features
        c = torch.randn(rows, width, generator=rng).to(device, dtype)
        noise = torch.randn(n, table.draws, model.config.d_z, generator=rng).to(device)
        hoisted = HoistedHead(head)
    return Pair(
        f"flow-head-{size}",
        rows,
        torch.no_grad()(lambda: hoisted.sample(c, how.guidance, noise, table)),
        torch.no_grad()(lambda: head.sample(c, how.guidance, noise, table)),
        WHAT,
        ("vgt.inference.hoisted_head", "bench.flow_head"),
        {"flow_steps": how.flow_steps, "dtype": str(dtype).removeprefix("torch."), "weights": "random"},
        _floor(model, rows, how.flow_steps, dtype, limits),
    )


def _floor(model, rows: int, evaluations: int, dtype: torch.dtype, limits: Limits) -> dict:
    how = roofline.Decoding("query_ar", 1, 1, 1, evaluations, bytes=dtype.itemsize)
    calls = roofline.head(roofline.sizes(model), how, rows)
    return {"ms": 1000 * sum(call.seconds(limits) for call in calls), "limits": vars(limits)}
