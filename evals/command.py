"""``vgt eval EVALUATOR``: one evaluator per file of evals/cli, with HELP, EXAMPLE, arguments() and run()."""

from __future__ import annotations

import argparse
import importlib
import pkgutil

from evals import cli, launch
from evals.api import Outcome
from evals.shards import Shard
from vgt.core import record


def evaluators() -> list[str]:
    """Names of the evaluators: the files of evals/cli that can run."""
    return sorted(m.name for m in pkgutil.iter_modules(cli.__path__) if m.name != "common")


def _module(name: str):
    return importlib.import_module(f"{cli.__name__}.{name}")


def arguments(parser: argparse.ArgumentParser) -> None:
    choices = parser.add_subparsers(dest="evaluator", required=True, metavar="EVALUATOR")
    for name in evaluators():
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
