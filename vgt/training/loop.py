"""The one loop that trains every system.

It knows a system as ``players()`` (name -> module with an optimizer of its own), ``loss(player, batch, step, rng)``
and ``lr_scale(name)``.  Batches and randomness are pure functions of the step, so a run that was killed continues
from its last state and ends with the same bits.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from vgt.core import files, seeds
from vgt.training.optim import Average, TrainConfig, learning_rate, optimizers, set_learning_rate

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
) -> Result:
    """Train to ``config.steps``.  ``identity``: what the run is (a resumed run must be the same one).  ``save(state,
    step)`` writes ``out/model`` from the averaged weights; ``sample(state, step)`` draws pictures."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if fresh:
        _clear(out)
    out.mkdir(parents=True, exist_ok=True)
    for torn in [*out.glob(".state-*"), *out.glob(f".{MODEL}.*")]:  # left by a kill in the middle of writing
        shutil.rmtree(torn, ignore_errors=True)
    AcceleratorState._reset_state(True)  # accelerate keeps one precision a process; runs may differ in theirs
    accelerator = Accelerator(mixed_precision="bf16" if config.precision == "bf16" else "no", cpu=device == "cpu")
    players = system.players()
    for module in players.values():
        module.to(accelerator.device).train()
        _choose_attention(module, accelerator.device)
    if hasattr(system, "to"):
        system.to(accelerator.device)
    trainers = {
        name: [accelerator.prepare(each) for each in optimizers(module, config, system.lr_scale)]
        for name, module in players.items()
    }
    model = players["model"]
    average = Average(model, config.ema) if config.ema > 0 else None
    begin = _resume(out, identity, players, trainers, average)
    log = _Log(out, begin)
    bar = tqdm(
        range(begin, config.steps), initial=begin, total=config.steps, file=sys.stderr, desc=out.name, mininterval=2
    )
    started, values = time.time(), {}
    for step in bar:
        batch = {k: v.to(accelerator.device) for k, v in data(step).items()}
        values = {}
        for name, module in players.items():
            if getattr(system, "skips", lambda *_: False)(name, step):
                continue
            parts = _turn(system, name, module, trainers, accelerator, config, batch, step)
            values |= {(k if name == "model" else f"{name}/{k}"): float(v) for k, v in parts.items()}
        if average is not None:
            average.update(model, step)
        if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
            log.write(step + 1, values, config.batch, time.time() - started, step + 1 - begin)
            bar.set_postfix({k: f"{v:.4g}" for k, v in list(values.items())[:4]}, refresh=False)
        last = step + 1 == config.steps
        if last or (step + 1) % config.save_every == 0:
            _store(out, identity, step + 1, players, trainers, average, log.seconds + time.time() - started)
        if last or (config.sample_every and (step + 1) % config.sample_every == 0):
            state = average.state(model) if average is not None else model.state_dict()
            if sample is not None and config.sample_every:
                sample(state, step + 1)
            if last:
                save(state, step + 1)
    if begin >= config.steps and not (out / MODEL).exists():  # killed between the last state and the model
        save(average.state(model) if average is not None else model.state_dict(), begin)
    log.close()
    return Result(config.steps, values.get("loss", log.last), config.steps - begin)


def _choose_attention(module: torch.nn.Module, device: torch.device) -> None:
    """On a CPU the backward pass of the fused attention takes half of a small model's step; plain matrix products
    are 1.8 times as fast over the whole step (EXPERIMENTS.md)."""
    if device.type == "cpu":
        for part in module.modules():
            if isinstance(part, PreTrainedModel):
                part.set_attn_implementation("eager")


def _turn(system, name, module, trainers, accelerator, config, batch, step) -> dict[str, Tensor]:
    """One optimizer step of one player; returns what it logs.  Raises ValueError for a loss that is not finite."""
    rng = torch.Generator().manual_seed(seeds.image_seed(config.seed, "step", step, name))
    for each in trainers[name]:
        set_learning_rate(each, learning_rate(config, step))
    for each in itertools.chain(*trainers.values()):
        each.zero_grad(set_to_none=True)
    with accelerator.autocast():
        loss, parts = system.loss(name, batch, step, rng)
    if not torch.isfinite(loss):
        raise ValueError(f"loss of {name} is {loss.item()} at step {step}; lower train.lr and start over with --fresh")
    accelerator.backward(loss)
    if config.clip > 0:
        parts["grad"] = accelerator.clip_grad_norm_(module.parameters(), config.clip)
    for each in trainers[name]:
        each.step()
    return parts


# ------------------------------------------------------------------------------------------- state on disk


def _clear(out: Path) -> None:
    """Remove what a run leaves in its folder, and nothing else that a user may keep there."""
    for path in [*_states(out), *(out / name for name in (MODEL, "samples", "tensorboard"))]:
        shutil.rmtree(path, ignore_errors=True)
    (out / "metrics.jsonl").unlink(missing_ok=True)


def _changed(new, old, path: str = "") -> list[str]:
    """Dotted names of the settings in which two identities differ."""
    if not (isinstance(new, dict) and isinstance(old, dict)):
        return [] if new == old else [path]
    return [
        found
        for k in sorted(new.keys() | old.keys())
        for found in _changed(new.get(k), old.get(k), f"{path}.{k}".strip("."))
    ]


def _states(out: Path) -> list[Path]:
    return sorted(out.glob("state-????????"))


def _store(out, identity, step, players, trainers, average, seconds) -> None:
    """One folder per stored step, complete or absent; the older one goes once the newer stands."""
    tensors: dict[str, Tensor] = {}
    for name, module in players.items():
        for key, value in module.state_dict().items():
            tensors[f"weights/{name}/{key}"] = value
        for place, each in enumerate(trainers[name]):
            for index, entry in each.state_dict()["state"].items():
                for key, value in entry.items():
                    tensors[f"optimizer/{name}/{place}/{index}/{key}"] = value
    if average is not None:
        tensors |= {f"average/{key}": value for key, value in average.shadow.items()}
    tensors = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    older = _states(out)
    with files.atomic_folder(out / f"state-{step:08d}") as part:
        save_file(tensors, part / "training.safetensors")
        (part / "state.json").write_text(json.dumps({"step": step, "seconds": seconds, "identity": identity}))
    for path in older:
        if path.name != f"state-{step:08d}":
            shutil.rmtree(path, ignore_errors=True)


def _resume(out, identity, players, trainers, average) -> int:
    """Load the newest state, if any; returns the step to go on from."""
    states = _states(out)
    if not states:
        return 0
    info = json.loads((states[-1] / "state.json").read_text())
    if info["identity"] != identity:
        changed = ", ".join(name.removeprefix("preset.") for name in _changed(identity, info["identity"]))
        raise ValueError(f"{out} holds a run with other settings ({changed}); add --fresh or choose another --out")
    with safe_open(states[-1] / "training.safetensors", framework="pt") as f:
        stored = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - not a dict
    for name, module in players.items():
        prefix = f"weights/{name}/"
        module.load_state_dict({k[len(prefix) :]: v for k, v in stored.items() if k.startswith(prefix)})
        for place, each in enumerate(trainers[name]):
            prefix, entries = f"optimizer/{name}/{place}/", {}
            for key, value in stored.items():
                if key.startswith(prefix):
                    index, field = key[len(prefix) :].split("/")
                    entries.setdefault(int(index), {})[field] = value
            each.load_state_dict({"state": entries, "param_groups": each.state_dict()["param_groups"]})
    if average is not None:
        for key in average.shadow:
            average.shadow[key].copy_(stored[f"average/{key}"])
    return info["step"]


def seconds_spent(out: Path) -> float:
    """Wall time of training up to the newest stored state."""
    states = _states(out)
    return json.loads((states[-1] / "state.json").read_text())["seconds"] if states else 0.0


class _Log:
    """metrics.jsonl (cut back to the resumed step) and TensorBoard."""

    def __init__(self, out: Path, begin: int):
        from torch.utils.tensorboard import SummaryWriter

        self.path, self.seconds = out / "metrics.jsonl", seconds_spent(out)
        kept = [row for row in read_log(out) if row["step"] <= begin]
        files.write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self.last = kept[-1]["loss"] if kept else float("nan")
        self.board = SummaryWriter(out / "tensorboard", purge_step=begin)

    def write(self, step: int, values: dict[str, float], batch: int, seconds: float, done: int) -> None:
        row = {"step": step, "samples": step * batch, "steps_per_second": done / seconds, **values}
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")
        for key, value in values.items():
            self.board.add_scalar(key, value, step)
        self.last = values["loss"]

    def close(self) -> None:
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
