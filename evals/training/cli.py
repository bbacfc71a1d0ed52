"""``vgt eval training``: a checkpoint's own training log as records."""

from __future__ import annotations

import argparse

from evals.engine import options as common
from evals.engine.records import Outcome

HELP = "loss curve, samples seen and minutes of a checkpoint, from its own log"
EXAMPLE = "vgt eval training --subject vgt:query_ar_internvl"


def arguments(parser: argparse.ArgumentParser) -> None:
    common.add_subject(parser, "vgt:<checkpoint>")
    common.add_common(parser)


def run(args: argparse.Namespace) -> Outcome:
    from evals.subjects import vgt
    from evals.training import run as training

    path = common.checkpoint(args, "has no training log", "vgt:query_ar_internvl")
    return training.run(*vgt.training_log(path), records=args.out / "records")
