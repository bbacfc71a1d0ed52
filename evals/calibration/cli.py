"""``vgt eval judge``: how often the analytic judge is right where the truth is known."""

from __future__ import annotations

import argparse

from evals.engine import options as common
from evals.engine.records import Outcome

HELP = "calibration of the analytic judge on scenes, clean and disturbed"
EXAMPLE = "vgt eval judge"


def arguments(parser: argparse.ArgumentParser) -> None:
    common.add_count(parser)
    common.add_common(parser)


def run(args: argparse.Namespace) -> Outcome:
    from evals.calibration import run as calibration
    from evals.judges.analytic import AnalyticJudge

    count = {"n": args.n} if args.n else {}
    return calibration.run(AnalyticJudge(), work=args.out, records=args.out / "records", **count)
