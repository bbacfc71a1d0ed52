"""Small systems that the tests train in one process and, by torchrun on this file, in two.

Usage: two_processes.py FOLDER NAME=JOB ...: each job is trained into FOLDER/NAME; what it raises is written beside."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from conftest import IMAGE, vlm_values, widen
from safetensors.torch import save_file
from torch import Tensor

from vgt.core.config import override
from vgt.methods import query_ar
from vgt.methods.flow_head import FlowHeadConfig
from vgt.methods.pixel_decoder import DecoderConfig
from vgt.methods.vgt_ae import VGTAE, AELossConfig, VGTAEConfig, VGTAETraining
from vgt.methods.visual_lm import ARTraining, VisualLM, VisualLMConfig
from vgt.training import loop, state
from vgt.training.data import DataConfig, conversation_batches, region_choices
from vgt.training.distributed import team
from vgt.training.optim import TrainConfig, micro_rows
from vgt.vlm import tokenizer, vlm
from vgt.vlm.training import VLMLossConfig, VLMTraining

Batches = Callable[[int], dict[str, Tensor]]
DECODER = DecoderConfig(widths=(8, 16, 16, 16), layers=(0, 1, 1, 1), attention=0, upsample="pixel_shuffle")


class Stop(Exception):
    """Ends a run in the middle, in all processes."""


def drawn(index: int) -> torch.Generator:
    return torch.Generator().manual_seed(100 + index)


def small_vlm() -> vlm.VLM:
    config = vlm.VLMConfig(hf=vlm_values("internvl"), image_size=IMAGE)
    return widen(vlm.VLM.build(config, tokenizer.build("internvl")), 1)


def generator(rows: int) -> tuple[ARTraining, Batches]:
    text = vlm.hf_config(vlm_values("internvl")).text_config.to_dict() | {"vocab_size": 64}
    config = VisualLMConfig(
        method="query_ar",
        text=text | {"pad_token_id": None, "eos_token_id": None},
        start_ids=(7,),
        query_grid=5,
        latent_grid=(4, 4),
        d_z=8,
        head=FlowHeadConfig(width=16, depth=1),
    )
    model = widen(VisualLM(config), 2)

    def batch(index: int) -> dict[str, Tensor]:
        rng = drawn(index)
        lengths = torch.randint(2, 7, (rows, 1), generator=rng)
        return {
            "latents": torch.randn(rows, 16, 8, generator=rng),
            "ids": torch.randint(0, 64, (rows, 6), generator=rng),
            "mask": torch.arange(6) < lengths,
        }

    return ARTraining(model, query_ar.loss, repeats=2), batch


def autoencoder(rows: int, frozen: bool = False) -> tuple[VGTAETraining, Batches]:
    """Everything at once: teacher, noise, a discriminator from step 1 on, running statistics."""
    values = small_vlm()
    config = VGTAEConfig(
        vlm=values.config.to_dict(), image_size=IMAGE, d_z=8, normalize="batch", decoder=DECODER,
    )  # fmt: skip
    discriminator = {"widths": (8, 16), "grid": 4}
    losses = AELossConfig(
        perceptual=0.0, distill=0.1, noise=0.1, adversarial=0.1, adversarial_start=1, lecam=0.1,
        discriminator=discriminator, freeze_encoder=frozen,
    )  # fmt: skip
    ae = VGTAE(config)
    ae.down_mlp[3].bias.requires_grad_(False)  # the batch norm takes it off again: its gradient is noise
    system = VGTAETraining(ae, losses, values.encoder, None)
    widen(system.discriminator, 3)

    def batch(index: int) -> dict[str, Tensor]:
        return {"images": torch.rand(rows, 3, IMAGE, IMAGE, generator=drawn(index)) * 2 - 1}

    return system, batch


def understanding(rows: int) -> tuple[VLMTraining, Batches]:
    """A whole VLM, whose output layer is its embedding."""
    model = small_vlm()
    system = VLMTraining(model, VLMLossConfig(regions=0.5), region_choices(model.tokenizer))
    return system, conversation_batches(model, DataConfig(turns=2), rows)


def broken(rows: int) -> tuple[ARTraining, Batches]:
    """The second micro-batch of step 1 cannot be learnt."""
    system, batch = generator(rows)

    def at(index: int) -> dict[str, Tensor]:
        made = batch(index)
        return made | {"latents": made["latents"] * float("nan")} if index == 1 * 4 + 1 else made

    return system, at


def stopped(rows: int) -> tuple[ARTraining, Batches]:
    """Stops in step 2, after a state was stored."""
    system, batch = generator(rows)

    def at(index: int) -> dict[str, Tensor]:
        if index >= 2 * 4:
            raise Stop
        return batch(index)

    return system, at


def crowded(rows: int) -> tuple[ARTraining, Batches]:
    """The second process cannot write its part of a state."""
    system, batch = generator(rows)

    def refuse(*_) -> None:
        raise OSError("No space left on device")

    if team().rank == 1:
        state.write_file = refuse
    return system, batch


SYSTEMS = {
    "generator": generator,
    "autoencoder": autoencoder,
    "frozen": lambda rows: autoencoder(rows, frozen=True),
    "understanding": understanding,
    "broken": broken,
    "stopped": stopped,
    "crowded": crowded,
}


def train(out: Path, job: str) -> loop.Result:
    """``job``: a system and settings of its training, such as "generator strategy=fsdp optimizer=muon"."""
    name, *settings = job.split()
    values = {"steps": 3, "batch": 8, "micro": 2, "lr": 1e-2, "warmup": 1, "ema": 0.9, "save_every": 2, "log_every": 1}
    values = override(values, settings)
    config = TrainConfig.model_validate(values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        system, batches = SYSTEMS[name](micro_rows(config, team().size))

    def save(weights: dict[str, Tensor], step: int) -> None:
        (out / "model").mkdir(parents=True)
        save_file({k: v.detach().clone().contiguous() for k, v in weights.items()}, out / "model/weights.safetensors")

    return loop.train(system, batches, config, out, {"job": "a test"}, save)


if __name__ == "__main__":
    state.LIMIT = 20_000  # several files, so that both processes write
    folder = Path(sys.argv[1])
    for each in sys.argv[2:]:
        place, job = each.split("=", 1)
        try:
            train(folder / place, job)
        except (ValueError, Stop) as error:
            (folder / f"{place}.error-{os.environ['RANK']}").write_text(str(error))
    torch.distributed.destroy_process_group()
