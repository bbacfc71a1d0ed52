"""What a preset needs, before anything is fetched: parameters, memory, work, time, and what is missing.

``vgt train PRESET --plan``.  The run's own job is built with ``load=False`` (``vgt.training.job.Place``): nothing is
loaded and nothing downloaded, parents are read from their configurations, modules live on the meta device.  Then one
step is traced on tensors without memory (trace.py).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from vgt.core import config as configs
from vgt.methods import registry
from vgt.methods.vgt_ae import VGTAE
from vgt.training import models
from vgt.training.distributed import Team
from vgt.training.job import Job, Place, Preset
from vgt.training.optim import MUON_TAKES, TrainConfig, micro_rows
from vgt.training.plan.trace import Fakes, Rules, Traced, inference, recomputed, step
from vgt.training.sources import KINDS, parts
from vgt.training.sources.webdataset import shards
from vgt.vlm.vlm import VLM

GIB = 2**30
FP32 = 4  # bytes
UTILISATION = 0.4  # of the peak, where no throughput was measured; an assumption
CHECKPOINTED = " + checkpointing"
Strategy = Literal["single", "ddp", "fsdp"]


@dataclass(frozen=True)
class Device:
    """Memory in GiB that a process may use, and the published dense peaks in TFLOP/s."""

    memory: float
    bf16: float
    fp32: float


DEVICES = {
    "h100": Device(79.0, 989.0, 67.0),
    "h200": Device(140.0, 989.0, 67.0),
    "a100": Device(79.0, 312.0, 19.5),
    "cpu": Device(0.0, 0.0, 0.0),  # not limited here, and no peak: give a measured throughput
}


@dataclass(frozen=True)
class Plan:
    """Numbers of parameters, GiB, positions, floating-point operations (two per multiply-add), seconds.

    ``memory_gib`` has a column per strategy, with and without activation checkpointing; ``column`` is the preset's.
    ``parameters``: ``total`` counts the saved model, ``trainable`` what of it trains; discriminator, teacher,
    perceptual network and frozen autoencoder stand beside it.  ``teraflops_per_second``: of one device; ``measured``:
    whether it was given.  ``problems``: what keeps the run from starting now."""

    name: str
    system: str
    device: str
    processes: int
    micro: int
    accumulated: int
    precision: str
    parameters: dict[str, int]
    memory_gib: dict[str, dict[str, float]]
    column: str
    tokens_per_step: int
    flops_per_step: dict[str, int]
    teraflops_per_second: float | None
    measured: bool
    step_seconds: float | None
    steps: int
    disk_gib: float
    problems: list[str]

    def to_json(self) -> dict:
        """The same as a dictionary of JSON types."""
        return dataclasses.asdict(self)


def build(preset: Preset, runs: Path, rows: int) -> tuple[Job, list[str]]:
    """The job of a preset without weights, and which of its parents are not here.  Raises ValueError for one that
    cannot be built, whatever were fetched or trained."""
    place = Place(runs, Team(0, 1, torch.device("cpu")), rows, load=False)
    return registry.get(preset.system).part("job")(preset, place), place.problems


def plan(
    preset: dict | Preset,
    runs: Path,
    processes: int = 1,
    device: str = "h100",
    throughput: float | None = None,
) -> Plan:
    """The plan of a preset on ``processes`` devices of a kind.  ``throughput``: measured TFLOP/s of one device, instead
    of its peak times UTILISATION.

    Raises ValueError for an unknown device and for a preset that could not be built with everything at hand."""
    if isinstance(preset, dict):
        preset = configs.validated(Preset, preset, "preset")
    if device not in DEVICES:
        raise ValueError(f"device {device!r} is not one to plan for; choose one of {', '.join(DEVICES)}")
    if processes < 1:
        raise ValueError(f"{processes} processes are impossible; choose 1 or more")
    if throughput is not None and throughput <= 0:
        raise ValueError(f"throughput {throughput} TFLOP/s is impossible; give a measured number above 0")
    train, rules = preset.train, "cpu" if device == "cpu" else "cuda"
    micro = micro_rows(train, processes)
    accumulated = train.batch // (micro * processes)
    job, problems = build(preset, runs, micro)
    sizes = _sizes(job, train)
    disk = _disk(sizes, train)
    problems += [*data_problems(preset), *disk_problems(disk, runs)]
    traces = _traces(job, micro, train, rules)
    strategy = _strategy(train, processes)
    columns = {
        name + kind: _gib(memory(sizes, traced, name, processes, accumulated > 1))
        for name in _strategies(train, processes)
        for kind, traced in traces.items()
    }
    label = CHECKPOINTED if train.activation_checkpointing else ""
    if label not in traces:
        raise ValueError("train.activation_checkpointing is for models with transformer blocks; set it to false")
    column, chosen = strategy + label, traces[label]
    flops = _flops(chosen, processes * accumulated)
    rate = throughput or UTILISATION * (DEVICES[device].bf16 if train.precision == "bf16" else DEVICES[device].fp32)
    if 0 < DEVICES[device].memory < columns[column]["total"]:
        problems.append(
            f"memory: a step takes {columns[column]['total']:.1f} GiB of {DEVICES[device].memory:.0f} on {device}; "
            "lower train.micro, set train.activation_checkpointing=true or train.strategy=fsdp"
        )
    return Plan(
        name=preset.name,
        system=preset.system,
        device=device,
        processes=processes,
        micro=micro,
        accumulated=accumulated,
        precision=train.precision,
        parameters=_parameters(job),
        memory_gib=columns,
        column=column,
        tokens_per_step=train.batch * job.positions(job.batches(0)),
        flops_per_step=flops,
        teraflops_per_second=rate or None,
        measured=throughput is not None,
        step_seconds=flops["total"] / processes / rate / 1e12 if rate else None,
        steps=train.steps,
        disk_gib=disk / GIB,
        problems=problems,
    )


def _strategy(train: TrainConfig, processes: int) -> Strategy:
    if processes == 1:
        return "single"
    return "ddp" if train.strategy == "auto" else train.strategy


def _strategies(train: TrainConfig, processes: int) -> tuple[Strategy, ...]:
    """Those that are open to the run: Muon needs whole matrices."""
    if processes == 1:
        return ("single",)
    return ("ddp",) if train.optimizer in MUON_TAKES else ("ddp", "fsdp")


def count(*modules: nn.Module | nn.Parameter | None) -> int:
    """Parameters of modules, shared ones once."""
    each = [[m] if isinstance(m, nn.Parameter) else m.parameters() for m in modules if m is not None]
    return sum({id(p): p.numel() for own in each for p in own}.values())


def components(job: Job) -> tuple[dict[str, int], dict[str, int]]:
    """Parameters of the saved model, part by part, and of the networks beside it."""
    modules = job.system.trainable_modules()
    own = {name: count(*part) for name, part in job.parts.items()} or {"model": count(modules["model"])}
    others = {name: module for name, module in modules.items() if name != "model"}
    beside = {name: count(module) for name, module in (others | dict(job.frozen)).items()}
    return {name: n for name, n in own.items() if n}, {name: n for name, n in beside.items() if n}


def _parameters(job: Job) -> dict[str, int]:
    own, beside = components(job)
    model = job.system.trainable_modules()["model"]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {**own, "total": sum(own.values()), "trainable": trained, **beside}


def _sizes(job: Job, train: TrainConfig) -> Sizes:
    modules = job.system.trainable_modules()
    tables = {id(m.weight) for each in modules.values() for m in each.modules() if isinstance(m, nn.Embedding)}
    every = [p for each in modules.values() for p in each.parameters()]
    trained = [p for p in every if p.requires_grad]
    taken = MUON_TAKES.get(train.optimizer, ())
    matrices = [p for p in trained if p.ndim in taken and id(p) not in tables]
    own, frozen = _numel(modules["model"].parameters()), [p for m in job.frozen.values() for p in m.parameters()]
    blocks = [_numel(m.parameters()) for m in modules["model"].modules() if isinstance(m, GradientCheckpointingLayer)]
    return Sizes(
        weights=_numel(every),
        trained=_numel(trained),
        muon=_numel(matrices),
        averaged=own if train.ema > 0 else 0,
        frozen=_numel(frozen),
        layer=max(blocks, default=0),
        rest=own - sum(blocks),
    )


def _numel(tensors) -> int:
    return sum(t.numel() for t in tensors)


def _gib(found: dict[str, float]) -> dict[str, float]:
    return {name: value / GIB for name, value in found.items()}


def _disk(sizes: Sizes, train: TrainConfig) -> float:
    """Bytes on disk at the worst moment: the older state, the newer one, and the model."""
    state = FP32 * (sizes.weights + 2 * sizes.trained - sizes.muon + sizes.averaged)
    stored = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int6": 0.75}[train.storage]
    return 2 * state + stored * (sizes.averaged or sizes.weights)


def _flops(traced: Traced, times: int) -> dict[str, int]:
    return {
        "forward": traced.forward * times,
        "backward": traced.backward * times,
        "total": (traced.forward + traced.backward) * times,
    }


# --------------------------------------------------------------------------------------------------- traced steps


def _traces(job: Job, micro: int, train: TrainConfig, rules: Rules) -> dict[str, Traced]:
    """One micro-batch of the last step, when all is on, as it is and, where there are transformer blocks, with their
    activations computed again."""
    fakes, modules = Fakes(), job.system.trainable_modules()
    model = modules["model"]
    aside = [model.encoder] if isinstance(model, VLM) else []  # a VLM holds it unregistered
    for module in (*modules.values(), *job.frozen.values(), *aside):
        fakes.imitate(module)
        models.choose_attention(module, rules)
    for module in modules.values():
        module.train()
    batch, bf16 = fakes.batch(job.batches(0)), train.precision == "bf16"
    before, encoded = Traced(), batch
    if job.frozen and hasattr(job.system, "encode"):  # traced apart: a tower with windows takes minutes for many rows
        made: dict[str, Tensor] = {}

        def encoding(rows: int) -> Traced:
            given = _rows(batch, rows)
            return inference(lambda: made.update(job.system.encode(given)), bf16, rules)

        before = _at(encoding, micro, _windowed(*job.frozen.values()))
        encoded = {k: batch[k] if k in batch else _stand_in(fakes, micro, v) for k, v in made.items()}

    def traced(rows: int) -> Traced:
        return _turns(job, _rows(encoded, rows), train, rules)

    windowed = _windowed(model)
    found = {"": before.then(_at(traced, micro, windowed))}
    if parts := models.checkpointable(model):
        trained = any(p.requires_grad for part in parts for p in part.parameters())
        if trained:
            models.checkpoint_activations(model, **recomputed(rules))
        found[CHECKPOINTED] = before.then(_at(traced, micro, windowed)) if trained else found[""]
    return found


def _rows(batch: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    return {name: tensor[:rows] for name, tensor in batch.items()}


def _stand_in(fakes: Fakes, rows: int, made: Tensor) -> Tensor:
    """In the place of what frozen networks make: numbers are fake; indices, which modules look at, are 0."""
    shape = (rows, *made.shape[1:])
    return fakes.tensor(*shape, dtype=made.dtype) if made.is_floating_point() else torch.zeros(shape, dtype=made.dtype)


def _at(traced: Callable[[int], Traced], rows: int, windowed: bool) -> Traced:
    """``traced(rows)``; where each row means calls of its own, which takes minutes, two rows are extended."""
    return traced(rows) if rows <= 2 or not windowed else traced(1).extended(traced(2), rows)


def _windowed(*modules: nn.Module) -> bool:
    """Whether an autoencoder's vision tower calls its attention once per image and window."""
    vlms = [m.config.vlm for m in modules if isinstance(m, VGTAE) and m.config.vlm is not None]
    return any(vlm["model_type"] == "qwen2_5_vl" for vlm in vlms)


def _turns(job: Job, batch: dict[str, Tensor], train: TrainConfig, rules: Rules) -> Traced:
    """The turn of each trainable module on one micro-batch."""
    found, modules, last = Traced(), job.system.trainable_modules(), train.steps - 1
    every = [p for module in modules.values() for p in module.parameters()]
    for name in modules:
        if not getattr(job.system, "skips", lambda *_: False)(name, last):
            rng = torch.Generator().manual_seed(train.seed)
            loss = lambda name=name, rng=rng: job.system.loss(name, batch, last, rng)[0]  # noqa: E731
            found = found.then(step(loss, every, train.precision == "bf16", rules))
    return found


# ---------------------------------------------------------------------------------------------------------- memory

COMPONENTS = (
    "weights",
    "gradients",
    "optimizer",
    "ema",
    "frozen networks",
    "buckets",
    "gathered layers",
    "autocast copies",
    "activations",
    "peak buffers",
)


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters: of all trainable modules, of what trains, of what Muon takes, of what is averaged, of
    frozen networks; of one decoder layer and of all that is in none."""

    weights: int
    trained: int
    muon: int
    averaged: int
    frozen: int
    layer: int
    rest: int


def memory(sizes: Sizes, traced: Traced, strategy: Strategy, processes: int, accumulating: bool) -> dict[str, float]:
    """Bytes per process by component, and ``total``: the highest moment of a step, which is below the sum, since
    gradients come as activations go.

    Two moments compete.  In the backward pass: everything traced, and beside it whole gradients where micro-batches
    are accumulated.  In the optimizer's step: whole gradients and one fp32 copy of them, which the fused AdamW update
    of all tensors at once makes.  DDP keeps its buckets besides, as large as the gradients; FSDP divides what it can
    and gathers the layer in use, the one that comes next, and all that is in no layer."""
    share = processes if strategy == "fsdp" else 1
    gradients = FP32 * sizes.trained / share
    found = dict.fromkeys(COMPONENTS, 0.0) | {
        "weights": FP32 * sizes.weights / share,
        "gradients": gradients,
        "optimizer": FP32 * (2 * sizes.trained - sizes.muon) / share,
        "ema": FP32 * sizes.averaged / share,
        "frozen networks": FP32 * sizes.frozen,
        "autocast copies": traced.autocast,
        "activations": traced.activations,
    }
    if strategy == "ddp":
        found["buckets"] = gradients
    if strategy == "fsdp":
        found["gathered layers"] = FP32 * (sizes.rest + 2 * sizes.layer)
    always = ("weights", "optimizer", "ema", "frozen networks", "buckets", "gathered layers")
    resident = sum(found[name] for name in always)
    backward = traced.peak + (gradients if accumulating else 0)
    update = 2 * gradients
    total = resident + max(backward, update)
    found["peak buffers"] = max(0.0, traced.peak - traced.activations - traced.autocast)
    return found | {"total": total}


# -------------------------------------------------------------------------------------------------------- problems


def data_problems(preset: Preset) -> list[str]:
    """What of ``data.source`` is not here; nothing is opened or indexed.  Raises ValueError for an unknown kind."""
    found = [_absent(part) for part in parts(preset.data.source) if part != "scenes"]
    return [f"data.source: {problem}" for problem in found if problem]


def _absent(source: str) -> str | None:
    kind, _, rest = source.partition(":")
    path = Path(rest).expanduser()
    if kind == "folder" and rest:
        return None if path.is_dir() else f"there is no folder {rest}; put the images there or name another"
    if kind == "webdataset" and rest:
        try:
            shards(str(path))
        except ValueError as error:
            return str(error)
        return None
    if kind == "datasets" and rest:
        if importlib.util.find_spec("datasets") is None:
            return f"{source} needs the package datasets; run `pip install datasets`"
        return None if path.is_dir() else f"{rest} is no folder here; it would be fetched from the hub at the start"
    raise ValueError(f"data.source {source!r} is unknown; write {', '.join(KINDS)}, or several joined by +")


def disk_problems(needed: float, runs: Path) -> list[str]:
    """Whether ``needed`` bytes fit on the disk of ``runs``."""
    place = next(p for p in (runs.absolute(), *runs.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free >= needed:
        return []
    return [
        f"disk: the states and the model take {needed / GIB:.1f} GiB, and {runs} has {free / GIB:.1f} free; "
        "choose another --out"
    ]


# ------------------------------------------------------------------------------------------------- text for people

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
    share = f"{plan.processes} process(es) x {plan.accumulated} micro-batch(es) x {plan.micro} rows"
    own, beside = _split(plan.parameters)
    lines = [
        f"{plan.name}: {plan.system} on {plan.processes} x {plan.device}, {plan.precision}; batch {rows} = {share}",
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
            lines.append(f"{part:<18}" + "".join(f"  {_cell(v):>{w}}" for v, w in zip(cells, widths, strict=True)))
    return [*lines, "* as the preset says; the total is the highest moment of a step, below the sum of its parts"]


def _cell(value: float) -> str:
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
