"""What a preset needs, before anything is fetched: parameters, memory, work, time, and what is missing.

``vgt train PRESET --plan``.  Nothing is loaded and nothing is downloaded: parents are read from their configurations,
modules live on the meta device, and one step is traced on tensors without memory (plan_trace.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from vgt.core import config as configs
from vgt.training.attention import PLAIN
from vgt.training.optim import TrainConfig, micro_rows
from vgt.training.plan.build import Planned, build_planned
from vgt.training.plan.memory import FP32, Sizes, Strategy, memory
from vgt.training.plan.problems import data_problems, disk_problems
from vgt.training.plan.trace import Fakes, Rules, Traced, inference, recomputed, step
from vgt.training.run import Preset
from vgt.vlm.vlm import VLM

GIB = 2**30
UTILISATION = 0.4  # of the peak, where no throughput was measured; an assumption
CHECKPOINTED = " + checkpointing"


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
    ``parameters``: ``total`` counts the saved model, ``trainable`` what of it trains; teacher, discriminator, perceptual
    network and frozen autoencoder stand beside it.  ``teraflops_per_second``: of one device; ``measured``: whether it
    was given.  ``problems``: what keeps the run from starting now."""

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
    planned = build_planned(preset, runs)
    sizes = _sizes(planned, train)
    disk = _disk(sizes, train)
    problems = [*planned.problems, *data_problems(preset), *disk_problems(disk, runs)]
    traces = _traces(planned, micro, train, rules)
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
        parameters=_parameters(planned),
        memory_gib=columns,
        column=column,
        tokens_per_step=train.batch * planned.positions,
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
    return ("ddp",) if train.optimizer == "muon" else ("ddp", "fsdp")


def _parameters(planned: Planned) -> dict[str, int]:
    trained = sum(p.numel() for p in planned.model.parameters() if p.requires_grad)
    return {**planned.parts, "total": sum(planned.parts.values()), "trainable": trained, **planned.beside}


def _sizes(planned: Planned, train: TrainConfig) -> Sizes:
    trainable_modules = list(planned.system.trainable_modules().values())
    tables = {id(m.weight) for player in trainable_modules for m in player.modules() if isinstance(m, nn.Embedding)}
    every = [p for player in trainable_modules for p in player.parameters()]
    trained = [p for p in every if p.requires_grad]
    matrices = [p for p in trained if p.ndim == 2 and id(p) not in tables] if train.optimizer == "muon" else []
    own, frozen = _numel(planned.model.parameters()), [p for m in planned.frozen for p in m.parameters()]
    blocks = [_numel(m.parameters()) for m in planned.model.modules() if isinstance(m, GradientCheckpointingLayer)]
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


def _traces(planned: Planned, micro: int, train: TrainConfig, rules: Rules) -> dict[str, Traced]:
    """One micro-batch as it is and, where there are decoder layers, with their activations computed again."""
    fakes = Fakes()
    trainable_modules = planned.system.trainable_modules()
    aside = [planned.model.encoder] if isinstance(planned.model, VLM) else []  # a VLM holds it unregistered
    for module in (*trainable_modules.values(), *planned.frozen, *aside):
        fakes.imitate(module)
        _choose_attention(module, rules)
    for player in trainable_modules.values():
        player.train()

    def rows_traced(rows: int) -> Traced:
        return _players(planned, fakes, rows, train, rules)

    before = Traced()
    if planned.encoder is not None:
        before = _at(lambda rows: _encoding(planned, fakes, rows, train, rules), micro, planned.windowed)
    windowed = planned.windowed and planned.encoder is None
    found = {"": before.then(_at(rows_traced, micro, windowed))}
    if parts := _checkpointable(planned.model):
        trained = [part for part in parts if any(p.requires_grad for p in part.parameters())]
        for part in trained:
            enable = getattr(part, "activation_checkpointing_enable", None) or part.gradient_checkpointing_enable
            enable(recomputed(rules))
        found[CHECKPOINTED] = before.then(_at(rows_traced, micro, windowed)) if trained else found[""]
    return found


def _at(traced: Callable[[int], Traced], rows: int, windowed: bool) -> Traced:
    """``traced(rows)``; where each row means calls of its own, which takes minutes, two rows are extended."""
    return traced(rows) if rows <= 2 or not windowed else traced(1).extended(traced(2), rows)


def _checkpointable(model: nn.Module) -> list[PreTrainedModel]:
    """The parts whose blocks train.activation_checkpointing computes twice."""
    return [m for m in model.modules() if isinstance(m, PreTrainedModel) and m.supports_gradient_checkpointing]


def _choose_attention(module: nn.Module, rules: Rules) -> None:
    """As the training loop does: plain matrix products on a CPU, the fused kernels on a GPU."""
    for part in module.modules():
        if isinstance(part, PreTrainedModel):
            part.set_attn_implementation(PLAIN if rules == "cpu" else "sdpa")


def _encoding(planned: Planned, fakes: Fakes, rows: int, train: TrainConfig, rules: Rules) -> Traced:
    """The frozen autoencoder, which runs within the step."""
    images = fakes.tensor(rows, 3, planned.image_size, planned.image_size)
    return inference(lambda: planned.encoder.encode(images), train.precision == "bf16", rules)


def _players(planned: Planned, fakes: Fakes, rows: int, train: TrainConfig, rules: Rules) -> Traced:
    """Each player's turn on one micro-batch of ``rows``."""
    found, trainable_modules, batch = Traced(), planned.system.trainable_modules(), planned.batch(fakes, rows)
    every = [p for player in trainable_modules.values() for p in player.parameters()]
    for name in trainable_modules:
        found = found.then(step(_turn(planned, name, batch, train.seed), every, train.precision == "bf16", rules))
    return found


def _turn(planned: Planned, name: str, batch: dict[str, Tensor], seed: int) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        return planned.system.loss(name, batch, planned.moment, torch.Generator().manual_seed(seed))[0]

    return loss
