"""``vgt prompts``: a suite as JSON lines, to stdout (and then nothing else) or to a file."""

from __future__ import annotations

import argparse
import sys

from vgt.commands import options
from vgt.core import files, suites


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", help=f"one of {', '.join(suites.SUITES)}")
    parser.add_argument(
        "--seed", type=int, default=suites.DEFAULT_SEED, help=f"seed of the suite (default {suites.DEFAULT_SEED})"
    )
    parser.add_argument("--per-task", type=int, default=20, help="scenes-geneval: prompts per task (default 20)")
    parser.add_argument("--count", type=int, default=40, help="scenes-dpg: prompts (default 40)")
    options.add_out(parser, None, "file to write instead of stdout")


def run(args: argparse.Namespace) -> dict | None:
    if args.per_task < 1 or args.count < 1:
        raise ValueError(f"--per-task {args.per_task} and --count {args.count} must be 1 or more")
    records = suites.prompts(args.suite, args.seed, args.per_task, args.count)
    if args.out is None:
        sys.stdout.write(suites.lines(records))
        return None
    files.write_text(args.out, suites.lines(records))
    print(f"{args.out}: {len(records)} prompts of {args.suite}, seed {args.seed}")
    return {"files": [str(args.out)], "n": len(records)}
