"""``vgt eval agreement``: how far two judges agree on the same images."""

from __future__ import annotations

import argparse
from pathlib import Path

from evals.engine import options as common
from evals.engine.records import Outcome

HELP = "agreement of two GenEval judges on the same images: kappa per task, difference of the scores"
EXAMPLE = "vgt eval agreement --a ours/results.jsonl --b official/results.jsonl --names m2f-hf m2f-mmdet"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--a", type=Path, required=True, metavar="RESULTS", help="results.jsonl of one judge")
    parser.add_argument("--b", type=Path, required=True, metavar="RESULTS", help="results.jsonl of the other")
    parser.add_argument(
        "--names", nargs=2, default=(None, None), metavar=("A", "B"), help="the judges (default: as the evidence says)"
    )
    parser.add_argument("--partial-ok", action="store_true", help="give values where only one judge saw some images")
    common.add_common(parser)


def run(args: argparse.Namespace) -> Outcome:
    from evals.agreement import run as agreement

    return agreement.of_results(
        args.a, args.b, records=args.out / "records", names=tuple(args.names), partial_ok=args.partial_ok
    )
