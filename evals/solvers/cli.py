"""``vgt eval solvers``: score against evaluations of the flow head, and the fewest that cost nothing."""

from __future__ import annotations

import argparse

from evals.engine import options as common
from evals.engine.records import Outcome
from vgt.commands import options

HELP = "samplers of the flow head: score against evaluations a token, with a non-inferiority test"
EXAMPLE = (
    "vgt eval solvers --subject vgt:query_ar_internvl --accel 16 --split test "
    "--settings sde:15,ode:8,ab2:8,heun:9,dpmpp:8,ab2:8:power:0.7"
)
SETTINGS = "sde:15,ode:8,heun:9,ab2:8,dpmpp:8"


def arguments(parser: argparse.ArgumentParser) -> None:
    common.add_subject(parser, "vgt:<checkpoint>, a generator")
    parser.add_argument("--accel", type=common.count, default=1, help="tokens per decode step (default 1)")
    parser.add_argument(
        "--settings",
        default=SETTINGS,
        metavar="LIST",
        help=f"SAMPLER:EVALUATIONS[:SCHEDULE], the baseline first (default {SETTINGS})",
    )
    parser.add_argument(
        "--split", choices=("validation", "test"), default="validation", help="to choose by, or to tell"
    )
    parser.add_argument("--prompts", type=common.count, default=1020, help="how many, of six tasks (default 1020)")
    parser.add_argument("--images-per-prompt", type=common.count, default=4)
    parser.add_argument("--margin", type=float, default=0.02, help="the loss of overall score that is allowed")
    parser.add_argument("--guidance", type=float, default=None, help="classifier-free guidance scale; 1 turns it off")
    parser.add_argument("--batch", type=common.count, default=32, help="images drawn at a time")
    common.add_common(parser)


def run(args: argparse.Namespace) -> Outcome:
    from evals.judges.analytic import AnalyticJudge
    from evals.solvers import run as solvers
    from evals.subjects import vgt

    path = common.checkpoint(args, "has no flow head", "vgt:query_ar_internvl")
    settings = [solvers.parse(text) for text in args.settings.split(",")]
    shared = {} if args.guidance is None else {"guidance": args.guidance}
    for one in settings:
        vgt.check_sampling({**one, **shared})
    device = options.device(args.device)
    outcome, results = solvers.run(
        lambda one: vgt.generator(path, device, acceleration=args.accel, **one, **shared),
        settings,
        AnalyticJudge(),
        work=args.out,
        split=args.split,
        count=args.prompts,
        margin=args.margin,
        images_per_prompt=args.images_per_prompt,
        seed=args.seed,
        batch=args.batch,
        accel=args.accel,
    )
    print(solvers.table(results, args.margin))
    return outcome
