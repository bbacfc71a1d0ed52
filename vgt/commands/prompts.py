"""``vgt prompts``: a suite as JSON lines, to stdout (and then nothing else) or to a file."""

from __future__ import annotations

import argparse
import sys

from vgt.commands import options
from vgt.core import files, suites


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", help=f"one of {', '.join(suites.SUITES)}")
    parser.add_argument(
        "--seed",
        type=int,
        default=suites.DEFAULT_SEED,
        help=f"seed of the synthetic scenes' suites (default {suites.DEFAULT_SEED})",
    )
    parser.add_argument("--per-task", type=int, help="scenes-geneval: prompts per task (default 20)")
    parser.add_argument("--count", type=int, help="scenes-dpg: prompts (default 40)")
    options.add_out(parser, None, "file to write instead of stdout")


def run(args: argparse.Namespace) -> dict | None:
    counts = {}
    for flag, value, suite, name in (
        ("--per-task", args.per_task, "scenes-geneval", "per_task"),
        ("--count", args.count, "scenes-dpg", "n"),
    ):
        if value is None:
            continue
        if args.suite in suites.SUITES and args.suite != suite:
            raise ValueError(f"{flag} {value} would do nothing: it is for {suite}, not for {args.suite}; leave it out")
        if value < 1:
            raise ValueError(f"{flag} {value} must be 1 or more")
        counts[name] = value
    if args.suite == "geneval" and args.seed != suites.DEFAULT_SEED:
        raise ValueError(
            f"--seed {args.seed} would give other prompts than the benchmark's under its name; leave it out "
            f"(it is {suites.DEFAULT_SEED})"
        )
    records = suites.prompts(args.suite, args.seed, **counts)
    if args.out is None:
        sys.stdout.write(suites.lines(records))
        return None
    files.write_text(args.out, suites.lines(records))
    print(f"{args.out}: {len(records)} prompts of {args.suite}, seed {args.seed}")
    return {"files": [str(args.out)], "n": len(records)}
