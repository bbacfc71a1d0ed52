"""``vgt eval dpg``: DPG-Bench's rules on the pictures of a subject."""

from __future__ import annotations

import argparse

from evals.api import Outcome
from evals.cli import common

HELP = "DPG-Bench on a prompt suite"
EXAMPLE = "vgt eval dpg --subject vgt:query_ar_internvl --accel 4"


def arguments(parser: argparse.ArgumentParser) -> None:
    common.add_pictures(parser)


def run(args: argparse.Namespace) -> Outcome:
    from evals import dpg
    from evals.judges.analytic import AnalyticJudge

    suite, prompts = common.prompts(args.suite or "scenes-dpg", args.n)
    generator, accel = common.generator(args, prompts)
    return dpg.run(
        generator,
        AnalyticJudge(),
        work=args.out,
        records=args.out / "records",
        suite=suite,
        prompts=prompts,
        images_per_prompt=args.images_per_prompt,
        seed=args.seed,
        batch=args.batch,
        accel=accel,
        partial_ok=args.partial_ok,
    )
