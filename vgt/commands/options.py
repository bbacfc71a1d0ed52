"""Options that mean the same in every verb."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

RUNS = Path("runs")
WORK = RUNS / "tiny"


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: cuda where there is one)")


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="base seed; every image has a seed of its own (default 0)")


def add_out(parser: argparse.ArgumentParser, default: Path | str | None, what: str) -> None:
    shown = f" (default {default})" if default is not None else ""
    parser.add_argument("-o", "--out", type=Path, default=default, help=f"{what}{shown}")


def device(name: str) -> str:
    """The device that was asked for.  Raises ValueError where there is none such."""
    import torch

    if name == "auto":
        rank = os.environ.get("LOCAL_RANK")  # one of several processes that torchrun launched
        return "cpu" if not torch.cuda.is_available() else "cuda" if rank is None else f"cuda:{rank}"
    try:
        kind = torch.device(name).type
    except RuntimeError:
        raise ValueError(f"device {name!r} is unknown; use cpu or cuda") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} is not there: torch sees no GPU; use --device cpu")
    return name


def integers(text: str) -> list[int]:
    """Parse "1,4,16"."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of integers like 1,4,16") from None
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{min(values)} is below 1")
    return values


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Sampling settings shared by generate, eval and bench."""
    parser.add_argument("--guidance", type=float, default=None, help="classifier-free guidance scale; 1 turns it off")
    parser.add_argument("--cfg-schedule", choices=("falling", "rising", "constant"), default=None)
    parser.add_argument("--flow-steps", type=int, default=None, help="flow-head evaluations per token")
    parser.add_argument(
        "--sampler", default=None, help="of the flow head: sde, sde2 (stochastic), ode (Euler), heun, ab2, dpmpp"
    )
    parser.add_argument(
        "--time-schedule", metavar="NAME", default=None, help="linear (default), power:NUMBER or shift:NUMBER"
    )
    parser.add_argument(
        "--compat", choices=("none", "reference"), default=None, help="reference: decode as the published code does"
    )
    parser.add_argument(
        "--position-mode", choices=("cumulative", "padded_len"), default=None, help="reference: if not the family's own"
    )
    parser.add_argument(
        "--autoencoder", default=None, help="its autoencoder, if not the bundled or trained one of that name"
    )


def sampling(args: argparse.Namespace) -> dict:
    """The chosen sampling settings; the rest follow from the model (``vgt.methods.sampling.usual``)."""
    given = {
        "guidance": args.guidance,
        "cfg_schedule": args.cfg_schedule,
        "flow_steps": args.flow_steps,
        "sampler": args.sampler,
        "time_schedule": args.time_schedule,
        "compat": args.compat,
        "position_mode": args.position_mode,
    }
    if args.position_mode and args.compat != "reference":
        raise ValueError(f"--position-mode {args.position_mode} is for --compat reference; give both or neither")
    return {k: v for k, v in given.items() if v is not None}
