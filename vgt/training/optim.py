"""Optimisation: schedule, parameter groups, the averaged weights (spec vgt 1.11, 2.6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from vgt.core.config import Config


class TrainConfig(Config):
    """One training run.  ``warmup``: steps of linear warm-up; ``final_lr``: where the cosine ends, as a factor of lr;
    ``ema``: decay of the averaged weights (0 = none); ``sample_every`` 0 draws no pictures."""

    steps: int
    batch: int
    lr: float
    warmup: int = 100
    final_lr: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 42
    save_every: int = 500
    log_every: int = 20
    sample_every: int = 0
    storage: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then cosine to ``final_lr`` x lr at the last step."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    part = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, part))))


def optimizer(module: nn.Module, config: TrainConfig, lr_scale: Callable[[str], float]) -> torch.optim.AdamW:
    """AdamW over trainable parameters; decay only on two or more dimensions; a group per (scale, decay)."""
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((lr_scale(name), parameter.ndim >= 2), []).append(parameter)
    rows = [
        {"params": params, "scale": scale, "weight_decay": config.weight_decay if decay else 0.0}
        for (scale, decay), params in sorted(groups.items(), key=lambda g: (-g[0][0], -g[0][1]))
    ]
    return torch.optim.AdamW(rows, lr=config.lr, betas=config.betas, fused=False, foreach=True)


def set_learning_rate(opt: torch.optim.Optimizer, lr: float) -> None:
    for group in opt.param_groups:
        group["lr"] = lr * group["scale"]


class Average:
    """Exponential moving average of the weights in fp32; early steps use a smaller decay, (1 + k) / (10 + k)."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.shadow = {k: v.detach().clone().float() for k, v in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [p.detach().float() for _, p in module.named_parameters()]
        torch._foreach_lerp_(list(self.shadow.values()), current, 1 - decay)

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        """The module's state with averaged parameters (ties kept)."""
        state = dict(module.state_dict())
        by_pointer = {p.data_ptr(): k for k, p in module.named_parameters()}
        return {k: self.shadow[by_pointer[v.data_ptr()]] if v.data_ptr() in by_pointer else v for k, v in state.items()}
