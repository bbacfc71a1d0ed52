"""The one loop that trains every system.

It knows a system as ``trainable_modules()`` (name -> module with an optimizer of its own), ``loss(player, batch, step, rng)``
and ``lr_scale(name)``.  A step of ``batch`` rows is M micro-batches; micro-batch j of step s is ``data(s M + j)`` with
randomness of its own, whichever process it falls to.  So a run that was killed continues from its last state and ends
with the same bits, and with another number of processes it ends at the same weights but for rounding.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from vgt.core import files, seeds
from vgt.training import state as states
from vgt.training.attention import PLAIN
from vgt.training.distributed import (
    Moving,
    Team,
    autocast,
    clip,
    current,
    exchanging,
    gathered,
    local,
    split_like,
    spread,
    team,
)
from vgt.training.optim import Average, TrainConfig, learning_rate, micro_rows, optimizers, set_learning_rate
from vgt.training.state import Stored, seconds_spent

MODEL = "model"  # the checkpoint's folder within a run


@dataclass(frozen=True)
class Result:
    """Where the run stands at its end: steps done, last logged loss, whether anything was trained now."""

    step: int
    loss: float
    trained: int


def train(
    system,
    data: Callable[[int], dict[str, Tensor]],
    config: TrainConfig,
    out: Path,
    identity: dict,
    save: Callable[[dict[str, Tensor], int], None],
    sample: Callable[[dict[str, Tensor], int], None] | None = None,
    device: str = "cpu",
    fresh: bool = False,
    upgrade: Callable[[dict], dict] | None = None,
    publish: bool = False,
) -> Result:
    """Train to ``config.steps``.  ``data(index)``: ``micro_rows`` rows, a pure function of the micro-batch's number.
    ``identity``: what the run is (a resumed run must be the same one; ``upgrade`` adds to a stored identity the
    settings that its version did not have).  ``save(state, step)`` writes ``out/model`` from the averaged weights,
    ``sample(state, step)`` draws images, both on the first process only.  ``publish``: train nothing and save the
    averaged weights of the last state, however far that is."""
    if publish and fresh:
        raise ValueError(
            "to publish is to write the model of what was trained, and fresh throws that away; leave one out"
        )
    here = team(device)
    rows = micro_rows(config, here.size)
    _open_folder(out, fresh, here)
    trainable_modules = system.trainable_modules()
    _prepare(system, trainable_modules, config, here)
    # A discriminator is small, and the model's own loss reads it: it stays whole.
    turns = {k: spread(m, here, config.strategy if k == "model" else "ddp") for k, m in trainable_modules.items()}
    trainers = {name: optimizers(module, config, system.lr_scale) for name, module in trainable_modules.items()}
    model = trainable_modules["model"]
    average = Average(model, config.ema) if config.ema > 0 else None
    begin = _resume(out, identity, trainable_modules, trainers, average, upgrade, here)
    if publish and not begin:
        raise ValueError(f"{out} has no stored state to publish; one is written every {config.save_every} steps")
    log = _Log(out, begin, here)
    started, values = time.time(), {}
    for step in log.bar(begin if publish else config.steps):
        batches = _micro_batches(data, config.batch // rows, rows, step, here)
        parts: dict[str, Tensor] = {}
        for name, player in turns.items():
            if getattr(system, "skips", lambda *_: False)(name, step):
                continue
            found = _turn(system, name, player, trainers, here, config, batches, step)
            parts |= {(k if name == "model" else f"{name}/{k}"): v for k, v in found.items()}
        if average is not None:
            average.update(model, step)
        last, done = step + 1 == config.steps, step + 1
        if last or done % config.log_every == 0 or done % config.save_every == 0:
            values = _mean(parts, here)
            log.write(done, values, config.batch, time.time() - started)
        if last or done % config.save_every == 0:
            _store(out, identity, done, trainable_modules, trainers, average, log.seconds + time.time() - started, here)
        drawn = sample is not None and config.sample_every and (last or done % config.sample_every == 0)
        _publish(model, average, here, done, [sample if drawn else None, save if last else None])
    unsaved = publish or here.gather(begin >= config.steps and not (out / MODEL).exists())[0]
    _publish(model, average, here, begin, [save if unsaved else None])  # killed between the last state and the model
    log.close()
    end = begin if publish else config.steps
    return Result(end, values.get("loss", log.last), end - begin)


def _open_folder(out: Path, fresh: bool, here: Team) -> None:
    if here.first:
        if fresh:
            states.clear(out, (MODEL, "samples", "tensorboard"))
            (out / "metrics.jsonl").unlink(missing_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        for torn in [*out.glob(".state-*"), *out.glob(f".{MODEL}.*")]:  # left by a kill in the middle of writing
            shutil.rmtree(torn, ignore_errors=True)
    here.wait()


def _prepare(system, trainable_modules: dict[str, nn.Module], config: TrainConfig, here: Team) -> None:
    """Everything on its device and in training mode."""
    for module in trainable_modules.values():
        module.to(here.device).train()
        _choose_attention(module, here.device)
    if config.activation_checkpointing:
        checkpoint_activations(trainable_modules["model"])
    if config.compile:
        compile_transformers(trainable_modules["model"], here.device)
    if hasattr(system, "to"):
        system.to(here.device)


def _choose_attention(module: nn.Module, device: torch.device) -> None:
    """On a CPU plain matrix products are more than 1.8 times as fast over the whole step (attention.py)."""
    if device.type == "cpu":
        for part in module.modules():
            if isinstance(part, PreTrainedModel):
                part.set_attn_implementation(PLAIN)


def compile_transformers(module: nn.Module, device: torch.device, **options) -> None:
    """torch.compile, in place, on the language models and vision towers, for any number of rows and tokens.

    Raises ValueError on a CPU without a C++ compiler."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # the one that torch calls
    if device.type == "cpu" and not shutil.which(compiler):
        raise ValueError(
            f"train.compile needs a C++ compiler on a CPU and {compiler} is not found; install g++, or set it to false"
        )
    for part in module.modules():
        inner = (m for m in part.modules() if m is not part)
        if isinstance(part, PreTrainedModel) and not any(isinstance(m, PreTrainedModel) for m in inner):
            part.compile(dynamic=True, **options)


def checkpoint_activations(module: nn.Module) -> None:
    """The blocks of language models and vision towers keep their inputs only and are computed again for the backward
    pass; the gradients are the same.  Raises ValueError where there are no such blocks."""
    parts = [m for m in module.modules() if isinstance(m, PreTrainedModel) and m.supports_gradient_checkpointing]
    within = {id(inner) for part in parts for inner in part.modules() if inner is not part}
    if not parts:
        raise ValueError(
            f"train.activation_checkpointing is for models with transformer blocks and {type(module).__name__} has "
            "none here; set it to false"
        )
    for part in (part for part in parts if id(part) not in within):
        enable = getattr(part, "activation_checkpointing_enable", None) or part.gradient_checkpointing_enable
        enable({"use_reentrant": False})


# ---------------------------------------------------------------------------------------------------- a step


def _micro_batches(data, count: int, rows: int, step: int, here: Team) -> list[dict[str, Tensor]]:
    """Those of the step's ``count`` micro-batches that fall to this process: each ``size``-th, from ``rank`` on."""
    made = []
    for index in range(step * count + here.rank, (step + 1) * count, here.size):
        batch = {k: v.to(here.device) for k, v in data(index).items()}
        given = len(next(iter(batch.values())))
        assert given == rows, f"the data give {given} rows at once, train.batch and train.micro ask for {rows}"
        made.append(batch)
    return made


def _turn(system, name, player, trainers, here, config, batches, step) -> dict[str, Tensor]:
    """One optimizer step of one player over this process's micro-batches; returns what it logs, the mean over them.
    Raises ValueError on all processes for a loss that is not finite."""
    count = len(batches) * here.size
    moving = Moving(player) if count > 1 else None
    for each in trainers[name]:
        set_learning_rate(each, learning_rate(config, step))
    for each in itertools.chain(*trainers.values()):
        each.zero_grad(set_to_none=True)
    losses, logged = [], []
    for place, batch in enumerate(batches):
        names = (step, name) if count == 1 else (step, name, here.rank + place * here.size)
        # Drawn where it is used: a CPU's noise for a large batch takes longer than a GPU's step.
        rng = torch.Generator(here.device).manual_seed(seeds.image_seed(config.seed, "step", *names))
        with exchanging(player, last=place + 1 == len(batches)):
            with autocast(player, config.precision, here):
                loss, parts = player(functools.partial(system.loss, name, batch, step, rng))
            (loss / len(batches)).backward()
        losses.append(loss.detach())
        logged.append(parts)
        if moving is not None:
            moving.back()
    loss = here.mean(torch.stack(losses).mean())
    if not torch.isfinite(loss):
        raise ValueError(f"loss of {name} is {loss.item()} at step {step}; lower train.lr and start over with --fresh")
    if moving is not None:
        moving.settle(here, len(batches))
    parts = {k: torch.stack([torch.as_tensor(p[k]) for p in logged]).mean(0) for k in logged[0]}
    if config.clip > 0:
        parts["grad"] = clip(player, config.clip)
    for each in trainers[name]:
        each.step()
    return parts


def _mean(parts: dict[str, Tensor], here: Team) -> dict[str, float]:
    """What is logged, the mean over the processes."""
    together = here.mean(torch.stack([value.float() for value in parts.values()]))
    return dict(zip(parts, together.tolist(), strict=True))


def _publish(model: nn.Module, average: Average | None, here: Team, step: int, takers: list[Callable | None]) -> None:
    """Hand the averaged weights to what draws and saves, on the first process; the others wait."""
    takers = [take for take in takers if take is not None]
    if not takers:
        return
    state = gathered(average.state(model) if average is not None else current(model), here)
    if here.first:
        for take in takers:
            take(state, step)
    here.wait()


# ------------------------------------------------------------------------------------------- state on disk


def _store(out, identity, step, trainable_modules, trainers, average, seconds, here) -> None:
    """The weights of all trainable_modules, their optimizers' state and the averaged weights."""
    tensors: dict[str, Tensor] = {}
    for name, module in trainable_modules.items():
        tensors |= {f"weights/{name}/{key}": value for key, value in module.state_dict().items()}
        for place, each in enumerate(trainers[name]):
            for index, entry in each.state_dict()["state"].items():
                tensors |= {f"optimizer/{name}/{place}/{index}/{field}": value for field, value in entry.items()}
    if average is not None:
        tensors |= {f"average/{key}": value for key, value in average.shadow.items()}
    states.write(out, step, seconds, identity, tensors, here)


def _resume(out, identity, trainable_modules, trainers, average, upgrade, here) -> int:
    """Load the newest state, if any; returns the step to go on from."""
    found = states.newest(out, identity, upgrade)
    steps = here.gather(found[0] if found else 0)
    if len(set(steps)) > 1:
        raise ValueError(f"{out} holds states of steps {steps} for the processes; choose an --out that all of them see")
    if found is None:
        return 0
    step, stored = found
    for name, module in trainable_modules.items():
        _fill(module.state_dict(), stored, f"weights/{name}/")
        for place, each in enumerate(trainers[name]):
            _fill_optimizer(each, stored, f"optimizer/{name}/{place}/")
    if average is not None:
        _fill(average.shadow, stored, "average/")
    return step


def _fill(targets: dict[str, Tensor], stored: Stored, prefix: str) -> None:
    assert targets.keys() == set(stored.names(prefix)), f"the state's {prefix} is of another model"
    for key, target in targets.items():
        local(target).copy_(local(split_like(stored[prefix + key], target)))


def _fill_optimizer(optimizer: torch.optim.Optimizer, stored: Stored, prefix: str) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    entries: dict[int, dict[str, Tensor]] = {}
    for rest in stored.names(prefix):
        index, field = rest.split("/")
        value, parameter = stored[prefix + rest], parameters[int(index)]
        moment = value.ndim > 0 and value.shape == parameter.shape  # what is not: the count of steps
        entries.setdefault(int(index), {})[field] = split_like(value, parameter) if moment else value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})


# ---------------------------------------------------------------------------------------------------- the log


class _Log:
    """Progress bar, metrics.jsonl (cut back to the resumed step) and TensorBoard, all by the first process."""

    def __init__(self, out: Path, begin: int, here: Team):
        self.path, self.begin, self.active = out / "metrics.jsonl", begin, here.first
        self.seconds = seconds_spent(out)
        kept = [row for row in read_log(out) if row["step"] <= begin]
        self.last = kept[-1]["loss"] if kept else float("nan")
        self._bar = None
        if self.active:
            from torch.utils.tensorboard import SummaryWriter

            files.write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
            self.board = SummaryWriter(out / "tensorboard", purge_step=begin)

    def bar(self, steps: int) -> tqdm:
        """The steps that are still to be done."""
        name, quiet = self.path.parent.name, not self.active
        self._bar = tqdm(
            range(self.begin, steps),
            initial=self.begin, total=steps, file=sys.stderr, desc=name, mininterval=2, disable=quiet,
        )  # fmt: skip
        return self._bar

    def write(self, step: int, values: dict[str, float], batch: int, seconds: float) -> None:
        """``seconds`` of this process so far."""
        self.last = values["loss"]
        if not self.active:
            return
        speed = (step - self.begin) / seconds
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(json.dumps({"step": step, "samples": step * batch, "steps_per_second": speed, **values}) + "\n")
        for key, value in values.items():
            self.board.add_scalar(key, value, step)
        self._bar.set_postfix({k: f"{v:.4g}" for k, v in list(values.items())[:4]}, refresh=False)

    def close(self) -> None:
        if self.active:
            self.board.close()


def read_log(out: Path) -> list[dict]:
    """Rows of metrics.jsonl; a torn last line is left out."""
    rows = []
    try:
        for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            rows.append(json.loads(line))
    except (OSError, json.JSONDecodeError):
        pass
    return rows
