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
    dry.add_argument(
        "--processes", type=int, default=None, help="plan for so many processes, a device each (default 1)"
    )
    dry.add_argument(
        "--throughput", type=float, default=None, metavar="TFLOPS", help="plan with a measured TFLOP/s of one device"
    )


def run(args: argparse.Namespace) -> dict:
    _refuse_idle(args)
    settings = [*args.set, *([f"train.seed={args.seed}"] if args.seed is not None else [])]
    if args.plan:
        return _plan(args, settings)
    from vgt.core import files
    from vgt.training.run import run as train

    device = options.device(args.device)
    if args.out is not None:
        files.check_writable(args.out, folder=True)
    done = train(args.preset, settings, args.out, options.RUNS, device, args.fresh, args.publish)
    print(f"{done.folder}: step {done.result.step}, loss {done.result.loss:.4f}")
    return {
        "checkpoint": str(done.folder),
        "step": done.result.step,
        "sha256": files.digest_file(done.folder / "model.safetensors"),
        "fingerprint": done.fingerprint,
        "loss": done.result.loss,
    }


def _refuse_idle(args: argparse.Namespace) -> None:
    """Raises ValueError for options that would do nothing."""
    of_plan = {"--processes": args.processes is not None, "--throughput": args.throughput is not None}
    of_training = {"--out": args.out is not None, "--fresh": args.fresh, "--publish": args.publish}
    idle = [name for name, given in (of_training if args.plan else of_plan).items() if given]
    if idle and args.plan:
        raise ValueError(f"{', '.join(idle)}: a plan trains and writes nothing; leave --plan or that out")
    if idle:
        raise ValueError(
            f"{', '.join(idle)}: for a plan only; add --plan, and train with several processes by torchrun or "
            "`accelerate launch` (docs/training.md)"
        )
    if (args.processes is not None and args.processes < 1) or (args.throughput is not None and not args.throughput > 0):
        raise ValueError(f"--processes {args.processes} must be 1 or more, --throughput {args.throughput} above 0")


def _plan(args: argparse.Namespace, settings: list[str]) -> dict:
    from vgt.training.job import read
    from vgt.training.plan import plan, render

    device = "h100" if args.device == "auto" else args.device
    found = plan(read(args.preset, settings), options.RUNS, args.processes or 1, device, args.throughput)
    print(render(found))
    return found.to_json()
