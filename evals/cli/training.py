"""``vgt eval training``: a checkpoint's own training log as records."""

from __future__ import annotations

import argparse

from evals.api import Outcome
from evals.cli import common

HELP = "loss curve, samples seen and minutes of a checkpoint, from its own log"
EXAMPLE = "vgt eval training --subject vgt:query_ar_internvl"


def arguments(parser: argparse.ArgumentParser) -> None:
    common.add_subject(parser, "vgt:<checkpoint>")
    common.add_common(parser)


def run(args: argparse.Namespace) -> Outcome:
    from evals import training
    from evals.subjects import vgt

    path = common.checkpoint(args, "has no training log", "vgt:query_ar_internvl")
    return training.run(*vgt.training_log(path), records=args.out / "records")
