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
    options.add_device(parser)
    parser.add_argument("--seed", type=int, default=None, help="short for --set train.seed=...")


def run(args: argparse.Namespace) -> dict:
    from vgt.core import files
    from vgt.training.run import run as train

    settings = [*args.set, *([f"train.seed={args.seed}"] if args.seed is not None else [])]
    done = train(args.preset, settings, args.out, options.RUNS, options.device(args.device), args.fresh)
    print(f"{done.folder}: step {done.result.step}, loss {done.result.loss:.4f}")
    return {
        "checkpoint": str(done.folder),
        "step": done.result.step,
        "sha256": files.digest_file(done.folder / "model.safetensors"),
        "fingerprint": done.fingerprint,
        "loss": done.result.loss,
    }
