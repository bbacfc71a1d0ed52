"""Optimisation: schedule, parameter groups, the averaged weights (docs/vgt.md 1.11, 2.6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vgt.core.config import Config, Count, NotNegative, Positive, Whole
from vgt.training.distributed import local

Decay = Annotated[float, Field(ge=0, lt=1)]


MUON_TAKES = {"muon": (2,), "muon_conv": (2, 4)}  # dimensions of the parameters that it moves, by train.optimizer


class TrainConfig(Config):
    """One training run.  ``warmup``: steps of linear warm-up; ``final_lr``: where the cosine ends, as a factor of lr;
    ``sample_every`` 0 makes no images.  ``snapshots``: steps after which the model so far is kept as a checkpoint of
    its own, ``<run>/snapshots/<step>``.  ``ema``: decay of the averaged weights (0 = none), ``ema_ramp``: whether it is
    smaller at first, (1 + k) / (10 + k) in step k; until step ``ema_start`` the average is the weights themselves.
    ``optimizer`` "muon" orthogonalises the updates of hidden matrices, "muon_conv" those of convolutions too, and
    leaves the rest to AdamW at ``rest_lr`` (0: at ``lr``).

    ``batch``: rows of a step in all processes together; ``micro``: rows of a micro-batch (0: the share of a process),
    which has noise of its own, so that a run is the same for any number of processes with the same ``micro``.
    ``strategy`` with several processes: "ddp" copies the model, "fsdp" splits it, "auto" is "ddp".
    ``activation_checkpointing``: compute the transformer blocks twice instead of keeping what is inside them.
    ``compile``: torch.compile on the transformers, minutes once, then a shorter step (EXPERIMENTS.md); a run then
    resumes to rounding."""

    steps: Count
    batch: Annotated[int, Field(ge=1, le=1 << 20)]
    micro: int = 0
    lr: Positive
    optimizer: Literal["adamw", "muon", "muon_conv"] = "adamw"
    rest_lr: NotNegative = 0.0
    warmup: Whole = 100
    final_lr: NotNegative = 0.05
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    weight_decay: NotNegative = 0.01
    clip: NotNegative = 1.0
    ema: Decay = 0.0
    ema_ramp: bool = True
    ema_start: Whole = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    activation_checkpointing: bool = False
    compile: bool = False
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 42
    save_every: Count = 500
    log_every: Count = 20
    sample_every: Whole = 0
    snapshots: tuple[Count, ...] = ()
    storage: Literal["fp32", "fp16", "bf16", "int6"] = "fp32"

    @model_validator(mode="after")
    def _reached(self) -> Self:
        late = [step for step in self.snapshots if step >= self.steps]
        if late:
            raise ValueError(
                f"train.snapshots {late[0]} is not before the last step, {self.steps} (train.steps), whose model is "
                "kept anyway; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _averages(self) -> Self:
        """Raises ValueError for settings of the average where there is none."""
        if not self.ema and self.ema_start:
            raise ValueError(f"train.ema_start {self.ema_start} has no effect with train.ema 0; set it to 0, or an ema")
        if not self.ema and not self.ema_ramp:
            raise ValueError("train.ema_ramp false has no effect with train.ema 0; set it to true, or an ema")
        if self.ema and self.ema_start >= self.steps:
            raise ValueError(
                f"train.ema_start {self.ema_start} is never reached in {self.steps} steps (train.steps); lower it"
            )
        return self


def micro_rows(config: TrainConfig, processes: int) -> int:
    """Rows of one micro-batch.  Raises ValueError for a batch that cannot be split evenly over the processes, and for
    an optimizer that cannot work on split matrices."""
    if config.strategy == "fsdp" and config.optimizer in MUON_TAKES:
        raise ValueError(
            f"train.optimizer {config.optimizer} needs whole matrices and train.strategy fsdp splits them; use adamw, "
            "or strategy ddp"
        )
    micro = config.micro or config.batch // processes
    if not 1 <= micro <= config.batch or config.batch % micro or (config.batch // micro) % processes:
        raise ValueError(
            f"train.batch {config.batch} cannot be split over {processes} process(es) in micro-batches of "
            f"{config.micro or f'{config.batch}/{processes}'} rows; choose a batch that is a multiple of "
            f"{max(1, config.micro) * processes}, or another train.micro"
        )
    return micro


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then cosine to ``final_lr`` x lr at the last step."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    part = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, part))))


def optimizers(module: nn.Module, config: TrainConfig, lr_scale: Callable[[str], float]) -> list[torch.optim.Optimizer]:
    """What trains a module: AdamW over its trainable parameters, decay only on two or more dimensions, a group per
    (scale, decay); with "muon" the hidden matrices go to a second optimizer, Muon with the step size of AdamW."""
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    plain: dict[tuple[float, bool], list[Tensor]] = {}
    matrices: dict[float, list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim in MUON_TAKES.get(config.optimizer, ()) and id(parameter) not in tables:
            matrices.setdefault(lr_scale(name), []).append(parameter)
        else:
            plain.setdefault((lr_scale(name), parameter.ndim >= 2), []).append(parameter)
    rest = config.rest_lr / config.lr if matrices and config.rest_lr else 1.0
    rows = [
        {"params": params, "scale": scale * rest, "weight_decay": config.weight_decay if decay else 0.0}
        for (scale, decay), params in sorted(plain.items(), key=lambda g: (-g[0][0], -g[0][1]))
    ]
    made: list[torch.optim.Optimizer] = []
    if rows:
        made.append(torch.optim.AdamW(rows, lr=config.lr, betas=config.betas, foreach=True))
    if matrices:
        rows = [{"params": matrices[scale], "scale": scale} for scale in sorted(matrices, reverse=True)]
        decay = config.weight_decay
        made.append(Muon(rows, lr=config.lr, weight_decay=decay))
    return made


def orthogonalised(updates: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """[M, A, B] -> the same shape, every matrix near the orthogonal one of its polar decomposition: ``steps`` of the
    quintic Newton-Schulz iteration X <- a X + (b G + c G G) X with G = X X^T, from X of norm 1 (Jordan et al., Muon,
    2024)."""
    a, b, c = coefficients
    tall = updates.shape[1] > updates.shape[2]
    x = updates.mT if tall else updates
    x = x / x.flatten(1).norm(dim=1).clamp(min=eps)[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


# torch's defaults, given here because torch's own constructor, which refuses convolutions, is passed over.
MUON = {
    "lr": 1e-3, "weight_decay": 0.1, "momentum": 0.95, "nesterov": True, "eps": 1e-7, "ns_steps": 5,
    "ns_coefficients": (3.4445, -4.775, 2.0315), "adjust_lr_fn": "match_rms_adamw",
}  # fmt: skip


class Muon(torch.optim.Muon):
    """torch's Muon with all matrices of one shape orthogonalised together, and in fp32 where there is no GPU: hundreds
    of small products in bf16, one after the other, were half of a step on a CPU.  A convolution's kernels are a matrix
    too, of a row per output channel."""

    def __init__(self, params, **settings):
        torch.optim.Optimizer.__init__(self, params, {**MUON, **settings})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            parameters: list[Tensor] = []
            gradients: list[Tensor] = []
            momenta: list[Tensor] = []
            self._init_group(group, parameters, gradients, momenta)
            if not parameters:
                continue
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            shapes: dict[torch.Size, list[int]] = {}
            for place, parameter in enumerate(parameters):
                shapes.setdefault(parameter.shape, []).append(place)
            for shape, places in shapes.items():
                stacked = torch.stack([updates[place].flatten(1) for place in places])
                stacked = stacked.bfloat16() if stacked.is_cuda else stacked.float()
                moved = orthogonalised(stacked, group["ns_coefficients"], group["ns_steps"], group["eps"])
                rate = group["lr"] * 0.2 * math.sqrt(max(stacked.shape[1:]))  # AdamW's: torch's match_rms_adamw
                moved = moved.to(parameters[places[0]].dtype).unflatten(2, shape[1:])
                torch._foreach_add_([parameters[place] for place in places], list(moved), alpha=-rate)


def set_learning_rate(opt: torch.optim.Optimizer, lr: float) -> None:
    for group in opt.param_groups:
        group["lr"] = lr * group["scale"]


class Average:
    """Exponential moving average of the weights that train in fp32, by ``ema``, ``ema_ramp`` and ``ema_start`` of
    TrainConfig."""

    def __init__(self, module: nn.Module, decay: float, ramp: bool = True, start: int = 0):
        self.decay, self.ramp, self.start = decay, ramp, start
        self.shadow = {k: v.detach().clone().float() for k, v in module.named_parameters() if v.requires_grad}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step)) if self.ramp else self.decay
        decay = decay if step >= self.start else 0.0
        current = [local(p.detach()).float() for k, p in module.named_parameters() if k in self.shadow]
        torch._foreach_lerp_([local(v) for v in self.shadow.values()], current, 1 - decay)

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        """The module's state with averaged parameters (ties kept)."""
        first = {id(p): k for k, p in module.named_parameters()}
        names = {k: first[id(p)] for k, p in module.named_parameters(remove_duplicate=False)}
        averaged = {k: self.shadow[name] for k, name in names.items() if name in self.shadow}
        return {k: averaged.get(k, v) for k, v in module.state_dict().items()}
