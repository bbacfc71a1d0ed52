"""``vgt eval understanding``: MME-P, MMBench-EN, AI2D and TextVQA from the results of the harness that ran them."""

from __future__ import annotations

import argparse
from pathlib import Path

from evals.engine import options as common
from evals.engine.records import Outcome

HELP = "understanding benchmarks, imported from lmms-eval or VLMEvalKit"
EXAMPLE = "vgt eval understanding --import logs/model --from lmms-eval --model vgt_internvl"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import", dest="results", type=Path, metavar="RESULTS", help="results file or folder that the harness wrote"
    )
    parser.add_argument(
        "--from", dest="harness", metavar="HARNESS", default="lmms-eval", help="lmms-eval or vlmevalkit"
    )
    parser.add_argument("--model", help="the name that the records carry")
    parser.add_argument("--harness-version", metavar="VERSION", help="where the files do not tell it")
    common.add_common(parser)


def run(args: argparse.Namespace) -> Outcome:
    from evals.understanding import run as understanding

    for option, value in (("--import", args.results), ("--model", args.model)):
        if not value:
            raise ValueError(f"{option} is missing; for example {EXAMPLE}")
    return understanding.run(
        args.results,
        harness=args.harness.lower(),
        model=args.model,
        work=args.out,
        records=args.out / "records",
        version=args.harness_version,
    )
