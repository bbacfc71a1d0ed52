"""The one loop that trains every system.

It knows a system by the few methods that job.py lists.  A step of ``batch`` rows is M micro-batches; micro-batch j of
step s is ``data(s M + j)`` with randomness of its own, whichever process it falls to.  So a run that was killed
continues from its last state and ends with the same bits, and with another number of processes it ends at the same
weights but for rounding.
"""

from __future__ import annotations

import functools
import itertools
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vgt.core import files, seeds
from vgt.training import models
from vgt.training import state as states
from vgt.training.distributed import (
    BufferSync,
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
from vgt.training.log import Log
from vgt.training.optim import Average, TrainConfig, learning_rate, micro_rows, optimizers, set_learning_rate
from vgt.training.state import Stored

MODEL = "model"  # the checkpoint's folder within a run
SNAPSHOTS = "snapshots"  # the folder of those of earlier steps
CHECK_EVERY = 16  # steps after which the losses are looked at; a look waits for the device


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
    snapshot: Callable[[dict[str, Tensor], int], None] | None = None,
) -> Result:
    """Train to ``config.steps``.  ``data(index)``: ``micro_rows`` rows, a pure function of the micro-batch's number.
    ``identity``: what the run is (a resumed run must be the same one; ``upgrade`` adds to a stored identity the
    settings that its version did not have).  ``save(state, step)`` writes ``out/model`` from the averaged weights,
    ``sample(state, step)`` draws images, ``snapshot(state, step)`` keeps the weights of one of ``config.snapshots``,
    all on the first process only.  ``publish``: train nothing and save the averaged weights of the last state, however
    far that is."""
    if publish and fresh:
        raise ValueError(
            "to publish is to write the model of what was trained, and fresh throws that away; leave one out"
        )
    here = team(device)
    with states.exclusive(out, here):
        return _train(system, data, config, out, identity, save, sample, snapshot, here, fresh, upgrade, publish)


def _train(
    system, data, config, out, identity, save, sample, snapshot, here: Team, fresh, upgrade, publish
) -> Result:  # fmt: skip
    rows = micro_rows(config, here.size)
    _clean(out, fresh, here)
    modules = system.trainable_modules()
    _prepare(system, modules, config, here)
    # A discriminator is small, and the model's own loss reads it: it stays whole.
    spreads = {k: spread(m, here, config.strategy if k == "model" else "ddp") for k, m in modules.items()}
    trainers = {name: optimizers(module, config, system.lr_scale) for name, module in modules.items()}
    model = modules["model"]
    average = Average(model, config.ema, config.ema_ramp, config.ema_start) if config.ema > 0 else None
    begin = _resume(out, identity, modules, trainers, average, upgrade, here)
    if publish and not begin:
        raise ValueError(f"{out} has no stored state to publish; one is written every {config.save_every} steps")
    log = Log(out, begin, here)
    finite = {name: Finite(name, here.device) for name in modules}
    started, values = time.time(), {}
    for step in log.bar(begin if publish else config.steps):
        batches = _micro_batches(data, config.batch // rows, rows, step, here)
        parts: dict[str, Tensor] = {}
        for name, module in spreads.items():
            if getattr(system, "skips", lambda *_: False)(name, step):
                continue
            found = _turn(system, name, module, trainers, finite[name], here, config, batches, step)
            parts |= {(k if name == "model" else f"{name}/{k}"): v for k, v in found.items()}
        if average is not None:
            average.update(model, step)
        last, done = step + 1 == config.steps, step + 1
        stored = last or done % config.save_every == 0
        logged = stored or done % config.log_every == 0
        samples = sample is not None and config.sample_every and (last or done % config.sample_every == 0)
        if logged or samples or done % CHECK_EVERY == 0:
            for losses in finite.values():
                losses.check()
        if logged:
            values = _mean(parts, here)
            log.write(done, values, config.batch, time.time() - started)
        if stored:
            _store(out, identity, done, modules, trainers, average, log.seconds + time.time() - started, here)
        kept = snapshot if done in config.snapshots else None
        _publish(model, average, here, done, [sample if samples else None, kept, save if last else None])
    unsaved = publish or here.gather(begin >= config.steps and not (out / MODEL).exists())[0]
    _publish(model, average, here, begin, [save if unsaved else None])  # killed between the last state and the model
    if not publish:
        states.keep_newest(out, here)
    log.close()
    end = begin if publish else config.steps
    return Result(end, values.get("loss", log.last), end - begin)


def _clean(out: Path, fresh: bool, here: Team) -> None:
    """What a kill in the middle of writing left goes, and with ``fresh`` the run that was there."""
    if here.first:
        files.restore(out / MODEL)
        if fresh:
            states.clear(out, (MODEL, SNAPSHOTS, "samples", "tensorboard"))
            (out / "metrics.jsonl").unlink(missing_ok=True)
        for torn in [*out.glob(".state-*"), *out.glob(f".{MODEL}.*")]:
            shutil.rmtree(torn, ignore_errors=True)
    here.wait()


def _prepare(system, modules: dict[str, nn.Module], config: TrainConfig, here: Team) -> None:
    """Everything on its device and in training mode."""
    for module in modules.values():
        module.to(here.device).train()
        models.choose_attention(module, "cpu" if here.device.type == "cpu" else None)
    if config.activation_checkpointing:
        models.checkpoint_activations(modules["model"])
    if config.compile:
        models.compile_transformers(modules["model"], here.device)
    if hasattr(system, "to"):
        system.to(here.device)


# ---------------------------------------------------------------------------------------------------- a step


def _micro_batches(data, count: int, rows: int, step: int, here: Team) -> list[dict[str, Tensor]]:
    """Those of the step's ``count`` micro-batches that fall to this process: each ``size``-th, from ``rank`` on."""
    made = []
    for index in range(step * count + here.rank, (step + 1) * count, here.size):
        batch = {k: _moved(v, here.device) for k, v in data(index).items()}
        given = len(next(iter(batch.values())))
        assert given == rows, f"the data give {given} rows at once, train.batch and train.micro ask for {rows}"
        made.append(batch)
    return made


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``.  From pinned memory a GPU takes it when it gets there; from other the host would wait
    for all that the GPU has still to do."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Finite:
    """Watches one module's loss on its own device, so that the host need not wait for every step."""

    def __init__(self, name: str, device: torch.device):
        self.name = name
        self.first = torch.full((2,), -1.0, device=device)  # step and loss of the first bad one

    def note(self, step: int, loss: Tensor) -> None:
        """Remember the first loss that is not finite."""
        now = torch.stack([torch.full_like(self.first[0], step), loss.to(self.first.dtype)])
        bad = (self.first[0] < 0) & ~torch.isfinite(loss)
        self.first = torch.where(bad, now, self.first)

    def check(self) -> None:
        """Raises ValueError, on all processes, if a loss noted so far was not finite.  Waits for the device."""
        step, loss = self.first.tolist()
        if step >= 0:
            raise ValueError(
                f"loss of {self.name} is {loss} at step {int(step)}; lower train.lr and start over with --fresh"
            )


def _turn(system, name, module, trainers, finite, here, config, batches, step) -> dict[str, Tensor]:
    """One optimizer step of one trainable module over this process's micro-batches; returns what it logs, the mean over
    them."""
    count = len(batches) * here.size
    buffers = BufferSync(module) if count > 1 else None
    for each in trainers[name]:
        set_learning_rate(each, learning_rate(config, step))
    for each in itertools.chain(*trainers.values()):
        each.zero_grad(set_to_none=True)
    losses, logged = [], []
    for place, batch in enumerate(batches):
        names = (step, name) if count == 1 else (step, name, here.rank + place * here.size)
        # Noise is made where it is used: a CPU takes longer for that of a large batch than a GPU for its step.
        rng = torch.Generator(here.device).manual_seed(seeds.image_seed(config.seed, "step", *names))
        with exchanging(module, last=place + 1 == len(batches)):
            with autocast(module, config.precision, here):
                loss, parts = module(functools.partial(system.loss, name, batch, step, rng))
            (loss / len(batches)).backward()
        losses.append(loss.detach())
        logged.append(parts)
        if buffers is not None:
            buffers.rewind()
    finite.note(step, here.mean(torch.stack(losses).mean()))
    if buffers is not None:
        buffers.finish(here, len(batches))
    parts = {k: torch.stack([torch.as_tensor(p[k]) for p in logged]).mean(0) for k in logged[0]}
    if config.clip > 0:
        parts["grad"] = clip(module, config.clip)
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


def _store(out, identity, step, modules, trainers, average, seconds, here) -> None:
    """The weights of all trainable modules, their optimizers' state and the averaged weights."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"weights/{name}/{key}": value for key, value in module.state_dict().items()}
        for place, each in enumerate(trainers[name]):
            for index, entry in each.state_dict()["state"].items():
                tensors |= {f"optimizer/{name}/{place}/{index}/{field}": value for field, value in entry.items()}
    if average is not None:
        tensors |= {f"average/{key}": value for key, value in average.shadow.items()}
    states.write(out, step, seconds, identity, tensors, here)


def _resume(out, identity, modules, trainers, average, upgrade, here) -> int:
    """Load the newest whole state, if any; returns the step to go on from."""
    stored = states.newest(out, identity, upgrade)
    steps = here.gather(stored.step if stored else 0)
    if len(set(steps)) > 1:
        raise ValueError(f"{out} holds states of steps {steps} for the processes; choose an --out that all of them see")
    if stored is None:
        return 0
    states.remove_torn(stored, here)
    for name, module in modules.items():
        _fill(module.state_dict(), stored, f"weights/{name}/")
        for place, each in enumerate(trainers[name]):
            _fill_optimizer(each, stored, f"optimizer/{name}/{place}/")
    if average is not None:
        _fill(average.shadow, stored, "average/")
    return stored.step


def _fill(targets: dict[str, Tensor], stored: Stored, prefix: str) -> None:
    if targets.keys() != set(stored.names(prefix)):
        raise ValueError(f"the state of step {stored.step} is of another model ({prefix}); start over with --fresh")
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
