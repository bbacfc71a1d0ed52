"""``vgt train``."""

from __future__ import annotations

import argparse

from vgt.commands import options


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("preset", help="a preset's name (see `vgt list presets`) or a .toml file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting, e.g. train.steps=100"
    )
    options.add_out(parser, None, "folder of the run (default runs/<name>)")
    parser.add_argument("--fresh", action="store_true", help="start over instead of going on from the last state")
    parser.add_argument(
        "--publish", action="store_true", help="train nothing: write the model of the last state, however far that is"
    )
    options.add_device(parser)
    parser.add_argument("--seed", type=int, default=None, help="short for --set train.seed=...")
    dry = parser.add_argument_group("dry run")
    dry.add_argument(
        "--plan", action="store_true", help="train nothing: print parameters, memory, work, time, and what is missing"
    )
    dry.add_argument("--processes", type=int, default=1, help="plan for so many processes, a device each (default 1)")
    dry.add_argument(
        "--throughput", type=float, default=None, metavar="TFLOPS", help="plan with a measured TFLOP/s of one device"
    )


def run(args: argparse.Namespace) -> dict:
    settings = [*args.set, *([f"train.seed={args.seed}"] if args.seed is not None else [])]
    if args.plan:
        return _plan(args, settings)
    from vgt.core import files
    from vgt.training.run import run as train

    device = options.device(args.device)
    done = train(args.preset, settings, args.out, options.RUNS, device, args.fresh, args.publish)
    print(f"{done.folder}: step {done.result.step}, loss {done.result.loss:.4f}")
    return {
        "checkpoint": str(done.folder),
        "step": done.result.step,
        "sha256": files.digest_file(done.folder / "model.safetensors"),
        "fingerprint": done.fingerprint,
        "loss": done.result.loss,
    }


def _plan(args: argparse.Namespace, settings: list[str]) -> dict:
    from vgt.training.job import read
    from vgt.training.plan import plan, render

    device = "h100" if args.device == "auto" else args.device
    found = plan(read(args.preset, settings), options.RUNS, args.processes, device, args.throughput)
    print(render(found))
    return found.to_json()
