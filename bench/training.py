"""Timing of a generator's training steps: forward, backward, clipping and the optimizer, on random latents and text.

The time of a step depends on shapes, not on weights or data, so nothing has to be at hand.  The network, the loss and
the optimizer are those of ``vgt train``; the frozen autoencoder stays out, as with cached latents.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench import timing
from bench.subjects import random_generator
from bench.timing import quartiles
from vgt.core import config as configs
from vgt.core import files, record
from vgt.core.record import Record
from vgt.methods import registry
from vgt.methods.visual_lm import ARTraining, VisualLM
from vgt.training.distributed import device_name
from vgt.training.models import checkpoint_activations
from vgt.training.optim import TrainConfig, optimizers

SUITE, PROTOCOL, METRIC = "train-steps", "random-batch", "step-seconds"
TEXT = 64  # tokens of a prompt


@dataclass(frozen=True)
class Steps:
    """Seconds of each timed step; ``peak_mib``: memory of the highest of them; ``rows`` and ``positions`` of a step;
    ``parameters`` that train."""

    seconds: tuple[float, ...]
    peak_mib: float | None
    rows: int
    positions: int
    parameters: int


def steps(preset: str, batch: int, count: int, device: str = "cpu", checkpointing: bool = False, **loop) -> Steps:
    """``count`` timed steps of ``batch`` rows after two untimed ones; ``loop`` as for ``timing.alternate``.

    Raises ValueError for a preset that is no generator's."""
    values = configs.read_preset(preset)
    if registry.get(values["system"]).kind != "generator":
        raise ValueError(f"preset {preset!r} is a {values['system']}; time a generator's")
    train: TrainConfig = configs.validated(TrainConfig, values["train"], f"train of preset {preset}")
    model = random_generator(preset, device).train()
    if checkpointing:
        checkpoint_activations(model)
    system = ARTraining(model, registry.get(values["system"]).part("loss"), values.get("repeats", 1))
    made = optimizers(model, train, system.lr_scale)
    rows = _batch(model, batch, device)
    instruments = timing.instruments(device)
    rng = torch.Generator().manual_seed(0)

    def step() -> None:
        for each in made:
            each.zero_grad(set_to_none=True)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=train.precision == "bf16"):
            loss, _ = system.loss("model", rows, 0, rng)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip)
        for each in made:
            each.step()

    found = timing.measure(
        step,
        repeats=count,
        warmup=2,
        synchronize=instruments.synchronize,
        peak_memory=instruments.peak_memory,
        **loop,
    )
    tokens = {"query_ar": 2 * model.tokens - 1, "mar": model.tokens}[values["system"]]
    positions = batch * (TEXT + len(model.config.start_ids) + tokens)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Steps(found.seconds, found.peak_mib, batch, positions, trained)


def shared(preset: str, found: Steps, expected: int, device: str, checkpointing: bool) -> dict:
    """The fields that all records of a preset's steps share, the key among them; ``expected`` steps were asked for."""
    made = {
        "subject": f"random-{preset}",
        "suite": f"{SUITE}-b{found.rows}",
        "n": len(found.seconds),
        "n_expected": expected,
        "protocol": PROTOCOL,
        "protocol_params": {
            "batch": found.rows,
            "text": TEXT,
            "device": device,
            "cached_latents": True,
            "checkpointing": checkpointing,
        },
        "fingerprint": files.digest_json(configs.read_preset(preset)["train"]),
        "suite_hash": files.digest_json([preset, found.rows, TEXT]),
        "device": device_name(device),
        "note": "random weights and data: times and memory do not depend on them",
        "extra": {"parameters": found.parameters, "positions": found.positions},
    }
    return made | {"key": record.make_key(**{k: made[k] for k in ("subject", "protocol_params", "device")})}


def records(found: Steps, shared: dict) -> list[Record]:
    """Seconds a step with their quartiles, and memory where it is known."""
    low, seconds, high = quartiles(found.seconds)
    how = {"interval": f"quartiles of {len(found.seconds)} steps"}
    made = [record.make(**shared, **how, metric=METRIC, value=seconds, low=low, high=high, unit="s")]
    if found.peak_mib is not None:
        made.append(record.make(**shared, metric="peak-memory-gib", value=found.peak_mib / 1024, unit="GiB"))
    return made


def _batch(model: VisualLM, rows: int, device: str) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    vocabulary = model.language_model.config.vocab_size
    latents = torch.randn(rows, model.tokens, model.config.d_z, generator=rng)
    batch = {"ids": torch.randint(vocabulary, (rows, TEXT), generator=rng), "latents": latents}
    batch["mask"] = torch.ones(rows, TEXT, dtype=torch.bool)
    return {key: value.to(device) for key, value in batch.items()}
