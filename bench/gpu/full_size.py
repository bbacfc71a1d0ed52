"""Full-size models with random weights on one device: ``python -m bench.gpu.full_size --out DIR`` (GPU.md).

Autoencoders encode and decode at their own resolution, generators take training steps in bf16 and make images at 1x, 4x
and 16x.  What is measured becomes records; memory and work of a training step stand beside what ``vgt train --plan``
says.  Weights and data are random: times and memory do not depend on them.
"""

from __future__ import annotations

import argparse
import sys

import torch

from bench import run as measuring
from bench import suites
from bench.subjects import RANDOM
from bench.timing import free_memory
from bench.workloads import Conditions, Training
from vgt.commands import options
from vgt.core import config as configs
from vgt.core import record
from vgt.training.plan import DEVICES, plan

AUTOENCODERS = ("vgt_ae_internvl3_stage2", "vgt_ae_qwen25vl_stage2")
GENERATORS = ("query_ar_internvl3_1b", "query_ar_internvl3_2b", "query_ar_qwen25vl_3b", "mar_internvl3_1b")
SMALL = (("vgt_ae_internvl",), ("query_ar_internvl", "mar_internvl"))  # the same path without a GPU


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.full_size", description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the bundled models' presets instead: checks the path")
    parser.add_argument("--generators", nargs="*", help="other presets than the usual")
    parser.add_argument("--autoencoders", nargs="*", help="other presets than the usual")
    parser.add_argument("--batch", type=int, default=16, help="rows of a training step (default 16)")
    parser.add_argument("--steps", type=int, default=10, help="timed training steps (default 10)")
    parser.add_argument("--checkpointing", action="store_true", help="train with activation checkpointing")
    parser.add_argument("--images", type=int, default=8, help="images at a time (default 8)")
    parser.add_argument("--accel", type=options.integers, default=[1, 4, 16])
    parser.add_argument("--kind", default=None, choices=sorted(DEVICES), help="for the share of the peak, e.g. h100")
    options.add_out(parser, options.RUNS / "full_size", "work folder: evidence, and records below records/")
    options.add_device(parser)
    args = parser.parse_args(argv)
    usual = SMALL if args.tiny else (AUTOENCODERS, GENERATORS)
    device = options.device(args.device)
    kind = args.kind or ("cpu" if device == "cpu" else "h100")
    generators = args.generators if args.generators is not None else usual[1]
    for preset in args.autoencoders if args.autoencoders is not None else usual[0]:
        _show(_images(preset, args, device))
    for preset in generators:
        _show(_training(preset, args, device, kind))
    for preset in generators:
        _show(_images(preset, args, device))
    return 0


def _show(found: list[record.Record]) -> None:
    for each in found:
        print(f"{each.name}  {'-' if each.value is None else format(each.value, '.4g')} {each.unit}", flush=True)
    free_memory()


def _images(preset: str, args: argparse.Namespace, device: str) -> list[record.Record]:
    """Encoding and decoding of an autoencoder, or images by a generator, in bf16 where there is a GPU."""
    print(f"timing {preset}", file=sys.stderr, flush=True)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    works = suites.models(
        [RANDOM + preset], accelerations=args.accel, batches=[args.images], device=device, dtype=dtype
    )
    return measuring.run(works, args.out, args.out / "records").records


def _training(preset: str, args: argparse.Namespace, device: str, kind: str) -> list[record.Record]:
    """Step time, memory and share of the peak of a generator's training, with the plan's figures beside them: memory
    less what cached latents make needless, and the peak where one is known."""
    print(f"training steps of {preset}", file=sys.stderr, flush=True)
    checkpointing = f"train.activation_checkpointing={str(args.checkpointing).lower()}"
    sizes = [f"train.batch={args.batch}", "train.micro=0", checkpointing]
    planned = plan(configs.override(configs.read_preset(preset), sizes), args.out, device=kind)
    how = Conditions(args.batch, args.steps, warmup=2, device=device)
    work = Training(preset, how, args.checkpointing)
    made = measuring.run([work], args.out, args.out / "records").records
    shared = {**work.heading, "n": args.steps, "n_expected": args.steps}
    column = planned.memory_gib[planned.column]
    gib = column["total"] - column["frozen networks"]
    more = [record.make(**shared, metric="planned-memory-gib", value=gib, unit="GiB")]
    peak = DEVICES[planned.device].bf16
    if peak:
        flops = 3 * planned.flops_per_step["backward"] / 2  # the trained part alone: forward is half of backward
        more.append(record.make(**shared, metric="mfu", value=flops / made[0].value / peak / 1e12))
    for each in more:
        record.write(each, args.out / "records")
    return made + more


if __name__ == "__main__":
    sys.exit(main())
