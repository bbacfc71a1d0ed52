"""The processes that train one model together: their devices, what they tell each other, how gradients meet.

A process that was started alone is a team of one, and nothing here then touches torch.distributed.  Under torchrun or
``accelerate launch`` every process holds the whole model ("ddp") or a part of each parameter ("fsdp": torch's
fully_shard, parameters are DTensors).  All processes see one folder.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from transformers.modeling_layers import GradientCheckpointingLayer

from vgt.core import env

AMPERE = (8, 0)  # compute capability of the first NVIDIA GPUs with bf16 tensor cores
PATIENCE = datetime.timedelta(hours=6)  # others wait while the first process caches latents, draws samples or saves

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """This process is number ``rank`` of ``size`` and works on ``device``."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one process that logs, draws samples and saves."""
        return self.rank == 0

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.size > 1:
            self.gather(None)

    def gather(self, value: T) -> list[T]:
        """What every process says, by rank."""
        if self.size == 1:
            return [value]
        said: list = [None] * self.size
        distributed.all_gather_object(said, value)
        return said

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the processes, the same on all of them."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total / self.size

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process does the block before the others do, for files that the others then find."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


def team(device: str = "cpu") -> Team:
    """This process among those of its launcher; ``device`` names the kind where there are several.  Call it before
    anything is put on a device.  Raises ValueError where there are several but no launcher."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        return Team(0, 1, torch.device(device))
    absent = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if absent:
        raise ValueError(
            f"WORLD_SIZE is {size} but {', '.join(absent)} is not set; start it with torchrun or accelerate launch"
        )
    from accelerate import PartialState

    state = PartialState(cpu=torch.device(device).type == "cpu", timeout=PATIENCE)
    if state.num_processes != size:
        raise ValueError(f"{size} processes cannot train together on device {device}; use cpu, cuda, or one process")
    return Team(state.process_index, size, state.device)


def native_bf16(device: str | torch.device) -> bool:
    """Whether ``device`` has instructions for bf16 matrix products; without them they are many times slower than in
    fp32.  Kinds other than CPUs and CUDA GPUs are taken to have them."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= AMPERE
    return device.type != "cpu" or env.cpu_multiplies_bf16()


def device_name(device: str | torch.device) -> str:
    """What the device is called by its maker."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else env.processor()


# ------------------------------------------------------------------------------------------------ gradients


class TrainableModule(nn.Module):
    """A module under training.  Calling it with a loss function runs that function, so that the hooks which DDP and
    FSDP put on a forward pass surround the whole loss, whatever parts of the module it uses."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        kept = module.state_dict().keys()
        self.synced = tuple(k for k, b in module.named_buffers() if k in kept and b.is_floating_point())

    def forward(self, loss: Callable[[], T]) -> T:
        return loss()


def spread(module: nn.Module, team: Team, strategy: str) -> nn.Module:
    """The module as one whose gradients are the mean over the team; ``strategy`` "auto", "ddp" or "fsdp".  With "fsdp"
    its parameters become DTensors: each transformer block is gathered when it is its turn."""
    wrapped = TrainableModule(module)
    if team.size == 1:
        return wrapped
    if strategy == "fsdp":
        return _shard(wrapped, team)
    devices = None if team.device.type == "cpu" else [team.device]
    # Towers may have parameters that no loss reaches; torch warns where there are none.
    return DistributedDataParallel(wrapped, device_ids=devices, find_unused_parameters=True)


def _shard(module: TrainableModule, team: Team) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(team.device.type, (team.size,))
    blocks = [m for m in module.modules() if isinstance(m, GradientCheckpointingLayer)]
    for block in reversed(blocks):  # an inner one before the one that holds it
        fully_shard(block, mesh=mesh)
    return fully_shard(module, mesh=mesh)


def autocast(module: nn.Module, precision: str, team: Team) -> torch.autocast:
    """Arithmetic of the loss, "bf16" where autocast allows it or "fp32"; weights and their gradients stay fp32."""
    split = any(isinstance(p, DTensor) for p in module.parameters())
    # A cache of cast weights would keep the gathered ones of all blocks.
    return torch.autocast(team.device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=not split)


def exchanging(module: nn.Module, last: bool) -> contextlib.AbstractContextManager:
    """Around one micro-batch: copies exchange their gradients with the ``last`` one only.  Shards do so each time,
    since the sum of whole gradients would take the memory that sharding saves."""
    if isinstance(module, DistributedDataParallel) and not last:
        return module.no_sync()
    return contextlib.nullcontext()


def clip(module: nn.Module, largest: float) -> Tensor:
    """Scale the gradients down to the norm ``largest``; returns the norm that they had together."""
    parameters = [p for p in module.parameters() if p.grad is not None]
    norm = whole(nn.utils.get_total_norm([p.grad for p in parameters]))
    nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm


class BufferSync:
    """The buffers that forward passes change (running means).  Every micro-batch starts from those of the step's begin;
    the step ends at the mean of where the micro-batches took them, so it does not matter who ran which."""

    def __init__(self, module: nn.Module):
        inner = module.module if isinstance(module, DistributedDataParallel) else module
        self.module, self.names = inner.module, inner.synced
        self.start = {name: self._now(name).clone() for name in self.names}
        self.drift = {name: torch.zeros_like(self.start[name]) for name in self.names}

    def _now(self, name: str) -> Tensor:
        return self.module.get_buffer(name)

    @torch.no_grad()
    def rewind(self) -> None:
        """After a micro-batch: note where it went and go back to the start."""
        for name in self.names:
            self.drift[name] += self._now(name) - self.start[name]
            self._now(name).copy_(self.start[name])

    @torch.no_grad()
    def finish(self, team: Team, count: int) -> None:
        """After the last of this process's ``count`` micro-batches: move by the mean of the team."""
        for name in self.names:
            self._now(name).add_(team.mean(self.drift[name] / count))


# ------------------------------------------------------------------------------------------- split tensors


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, sharing its memory; a tensor that is not split is its own part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor put together from all parts; for a split one all processes must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def split_like(value: Tensor, model: Tensor) -> Tensor:
    """A whole tensor split as ``model`` is, without asking other processes."""
    if not isinstance(model, DTensor):
        return value
    return distribute_tensor(value.to(model.device), model.device_mesh, model.placements, src_data_rank=None)


def current(module: nn.Module) -> dict[str, Tensor]:
    """The module's state now; a tensor under two names is one object."""
    return module.state_dict() | dict(module.named_parameters(remove_duplicate=False))


def gathered(state: dict[str, Tensor], team: Team) -> dict[str, Tensor]:
    """Whole tensors of a state in which some are split, put together one at a time on the first process's CPU (the
    others get nothing).  A tensor under two names stays one."""
    if not any(isinstance(value, DTensor) for value in state.values()):
        return state
    found: dict[int, Tensor] = {}
    for value in state.values():
        if id(value) not in found:  # the same on all processes
            full = whole(value.detach())
            found[id(value)] = full.cpu() if team.first else full.new_empty(0)
    return {name: found[id(value)] for name, value in state.items()} if team.first else {}
