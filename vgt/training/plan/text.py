"""A plan as text for people."""

from __future__ import annotations

from vgt.training.plan.plan import UTILISATION, Plan

TERA = 1e12
COUNTED = (
    "matrix products, convolutions and attention (whole, masked or not), two operations per multiply-add; frozen "
    "networks count forward alone, checkpointing counts what it computes once more"
)


def render(plan: Plan) -> str:
    """Several lines: what the run is, its parameters, memory, work and time, and what is missing."""
    return "\n".join([*_head(plan), "", *_memory(plan), "", *_work(plan), "", *_problems(plan)])


def _head(plan: Plan) -> list[str]:
    rows = plan.processes * plan.accumulated * plan.micro
    deal = f"{plan.processes} process(es) x {plan.accumulated} micro-batch(es) x {plan.micro} rows"
    own, beside = _split(plan.parameters)
    lines = [
        f"{plan.name}: {plan.system} on {plan.processes} x {plan.device}, {plan.precision}; batch {rows} = {deal}",
        f"parameters: {plan.parameters['total']:,} saved, {plan.parameters['trainable']:,} trained",
        *(f"  {name:<20}{number:>15,}" for name, number in own.items()),
    ]
    if beside:
        lines += ["beside the model:", *(f"  {name:<20}{number:>15,}" for name, number in beside.items())]
    return lines


def _split(parameters: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """What stands before and behind ``total`` and ``trainable``."""
    names = list(parameters)
    place = names.index("total")
    return {k: parameters[k] for k in names[:place]}, {k: parameters[k] for k in names[place + 2 :]}


def _memory(plan: Plan) -> list[str]:
    columns = list(plan.memory_gib)
    heads = [name + (" *" if name == plan.column else "") for name in columns]
    widths = [max(8, len(head)) for head in heads]
    lines = [f"{'GiB per process':<18}" + "".join(f"  {head:>{w}}" for head, w in zip(heads, widths, strict=True))]
    for part in plan.memory_gib[columns[0]]:
        cells = [plan.memory_gib[name][part] for name in columns]
        if any(cells):
            lines.append(f"{part:<18}" + "".join(f"  {_gib(v):>{w}}" for v, w in zip(cells, widths, strict=True)))
    return [*lines, "* as the preset says; the total is the highest moment of a step, below the sum of its parts"]


def _gib(value: float) -> str:
    return "-" if value == 0 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def _work(plan: Plan) -> list[str]:
    flops = plan.flops_per_step
    shares = ", ".join(f"{name} {flops[name] / TERA:,.4g}" for name in ("forward", "backward"))
    lines = [f"a step: {plan.tokens_per_step:,} positions, {flops['total'] / TERA:,.4g} TFLOP ({shares})"]
    if plan.step_seconds is None:
        lines.append(f"time: no peak is known for {plan.device}; measure one and give --throughput TFLOPS")
    else:
        hours = plan.step_seconds * plan.steps / 3600
        source = f"{UTILISATION:.0%} of its peak, assumed" if not plan.measured else "as given"
        rate = f"{plan.teraflops_per_second:,.4g} TFLOP/s per device ({source})"
        lines.append(f"time: {plan.step_seconds:.3g} s a step at {rate}; {plan.steps:,} steps in {hours:,.3g} h")
    return [*lines, f"disk: {plan.disk_gib:.2f} GiB while a state is written", f"counted: {COUNTED}"]


def _problems(plan: Plan) -> list[str]:
    if not plan.problems:
        return ["problems: none"]
    return [f"problems: {len(plan.problems)}", *(f"  - {problem}" for problem in plan.problems)]
