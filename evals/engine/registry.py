"""``vgt eval EVALUATOR``: an evaluator is a package with a module ``cli`` (HELP, EXAMPLE, arguments() and run()) and,
where it defines numbers, a module ``protocol`` (PROTOCOLS).  One line here registers it."""

from __future__ import annotations

import argparse
import importlib

from evals.engine import launch
from evals.engine.records import Outcome
from evals.engine.store import Shard
from vgt.core import record

# name under ``vgt eval`` -> its module with the command line
EVALUATORS = {
    "agreement": "evals.agreement.cli",
    "cka": "evals.probes.cka_cli",
    "dpg": "evals.dpg.cli",
    "fidelity": "evals.fidelity.cli",
    "geneval": "evals.geneval.cli",
    "judge": "evals.calibration.cli",
    "probes": "evals.probes.cli",
    "recon": "evals.recon.cli",
    "solvers": "evals.solvers.cli",
    "training": "evals.training.cli",
    "understanding": "evals.understanding.cli",
    "vqa": "evals.vqa.cli",
}


def _module(name: str):
    return importlib.import_module(EVALUATORS[name])


def arguments(parser: argparse.ArgumentParser) -> None:
    choices = parser.add_subparsers(dest="evaluator", required=True, metavar="EVALUATOR")
    for name in EVALUATORS:
        module = _module(name)
        each = choices.add_parser(
            name,
            help=module.HELP,
            description=f"{module.HELP[0].upper()}{module.HELP[1:]}.",
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.arguments(each)


def run(args: argparse.Namespace) -> dict | None:
    outcome = _outcome(args)
    if outcome is None:  # a process of several that is not the first one: what it made lies on disk
        return None
    _show(outcome)
    return {
        "records": str(args.out / "records"),
        "partial": any(r.partial for r in outcome.records),
        "computed": outcome.computed,
        "reused": outcome.reused,
        "scores": record.scores(outcome.records),
    }


def _outcome(args: argparse.Namespace) -> Outcome | None:
    """Run the evaluator in this process, or as one of several that torchrun or accelerate launched."""
    module, here = _module(args.evaluator), launch.place()

    def part(shard: Shard) -> Outcome:
        return module.run(argparse.Namespace(**{**vars(args), "shards": str(shard)}))

    if here.whole or getattr(args, "shards", None):
        return module.run(args)
    if hasattr(args, "shards"):
        return launch.together(here, part)
    return module.run(args) if here.index == 0 else None


def _show(outcome: Outcome) -> None:
    width = max((len(r.name) for r in outcome.records), default=0)
    for r in outcome.records:
        value = "not measured" if r.value is None else f"{r.value:.4f}"
        interval = (
            f" [{r.low:.4f}, {r.high:.4f}]" if r.value is not None and r.low is not None and r.high is not None else ""
        )
        count = f"n={r.n}" + (f" of {r.n_expected}: partial" if r.partial else "")
        print(f"{r.name:<{width}}  {value}{interval}  {count}{f'  ({r.note})' if r.note else ''}")
