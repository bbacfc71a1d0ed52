"""``vgt eval EVALUATOR``: one line here registers an evaluator.

Its module has ``EXAMPLE``, ``Options`` (evals/engine/options.py) and ``evaluate(options)``, which returns an Outcome.
Where a package defines numbers, ``PROTOCOLS`` in the module named here says how.  Nothing of an evaluator is imported
before it is asked for.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass

from evals.engine import launch
from evals.engine.protocol import Protocol
from evals.engine.records import Outcome
from evals.engine.store import Shard
from vgt.commands import options
from vgt.core import files, record, text


@dataclass(frozen=True)
class Evaluator:
    """``module``: below ``evals``, with the command line; ``protocols``: the one with PROTOCOLS, light to import."""

    name: str
    help: str
    module: str
    protocols: str | None = None


EVALUATORS = {
    e.name: e
    for e in (
        Evaluator(
            "agreement",
            "agreement of two GenEval judges on the same images: kappa per task, difference of the scores",
            "agreement.run",
        ),
        Evaluator(
            "cka",
            "linear CKA between encoders on the same images, with a random projection of pixels as the anchor",
            "probes.cka",
        ),
        Evaluator("classes", "accuracy of a generator by class on the synthetic scenes", "classes.run", "classes"),
        Evaluator("dpg", "DPG-Bench on a prompt suite", "dpg.cli", "dpg.protocol"),
        Evaluator(
            "fidelity",
            "FID, KID, inception score, precision/recall and relatives on pluggable features",
            "fidelity.cli",
            "fidelity.protocol",
        ),
        Evaluator("geneval", "GenEval on a prompt suite", "geneval.cli", "geneval.protocol"),
        Evaluator("judge", "calibration of the analytic judge on scenes, clean and disturbed", "calibration.run"),
        Evaluator(
            "probes",
            "t-SNE, linear probe, k-NN, clusters, rank, collapse and distribution of an autoencoder's latents",
            "probes.cli",
            "probes.protocol",
        ),
        Evaluator("recon", "PSNR, SSIM, LPIPS and Frechet distances of reconstructions", "recon.cli", "recon.protocol"),
        Evaluator(
            "solvers",
            "samplers of the flow head: score against evaluations a token, with a non-inferiority test",
            "solvers.run",
            "solvers",
        ),
        Evaluator("training", "loss curve, samples seen and minutes of a checkpoint, from its own log", "training.run"),
        Evaluator(
            "understanding",
            "understanding benchmarks, imported from lmms-eval or VLMEvalKit",
            "understanding.run",
            "understanding",
        ),
        Evaluator("vqa", "question answering of a VLM on the synthetic scenes", "vqa.run", "vqa"),
    )
}


def protocols() -> dict[str, Protocol]:
    """Every definition of a number, by id: sorted by evaluator, then in the order of its module.  Raises ValueError
    for a double id."""
    found: dict[str, Protocol] = {}
    for evaluator in EVALUATORS.values():
        for protocol in _import(evaluator.protocols).PROTOCOLS if evaluator.protocols else ():
            if protocol.id in found:
                raise ValueError(f"two protocols have the id {protocol.id!r}; ids must differ")
            found[protocol.id] = protocol
    return found


def _import(module: str):
    return importlib.import_module(f"evals.{module}")


def module(name: str):
    """The module of an evaluator, with ``Options`` and ``evaluate``.  Raises ValueError for an unknown name."""
    if name not in EVALUATORS:
        raise ValueError(f"evaluator {name!r} is unknown; choose one of {', '.join(EVALUATORS)}")
    return _import(EVALUATORS[name].module)


# --------------------------------------------------------------------------------------------------------- the verb


class _Parser(options.Parser):
    """A parser of one evaluator, which gets its flags when it is used: the others are not imported."""

    fill: Callable[[], None] | None = None

    def parse_known_args(self, args=None, namespace=None):
        if self.fill is not None:
            fill, self.fill = self.fill, None
            fill()
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:  # said here, so that the hint names the evaluator
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def arguments(parser: argparse.ArgumentParser) -> None:
    choices = parser.add_subparsers(dest="evaluator", required=True, metavar="EVALUATOR", parser_class=_Parser)
    for name, evaluator in EVALUATORS.items():
        each = choices.add_parser(
            name,
            help=evaluator.help,
            description=f"{evaluator.help[0].upper()}{evaluator.help[1:]}.",
        )
        each.fill = lambda each=each, module=evaluator.module: _fill(each, _import(module))


def _fill(parser: argparse.ArgumentParser, module) -> None:
    parser.epilog = f"example:\n  {module.EXAMPLE}"
    module.Options.add(parser)


def run(args: argparse.Namespace) -> dict | None:
    if not args.out.is_dir():
        files.check_writable(args.out, folder=True)
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
    module, here = _import(EVALUATORS[args.evaluator].module), launch.place()

    def evaluate(**changes) -> Outcome:
        return module.evaluate(module.Options.read(argparse.Namespace(**{**vars(args), **changes})))

    def part(shard: Shard) -> Outcome:
        return evaluate(shards=str(shard))

    if here.whole or getattr(args, "shards", None):
        return evaluate()
    if hasattr(args, "shards"):
        return launch.together(here, part)
    return evaluate() if here.index == 0 else None


def _show(outcome: Outcome) -> None:
    """A line for each record; what the notes of all of them say stands once, below."""
    rows, notes = [], [(r.note or "").split("; ") for r in outcome.records]
    shared = [part for part in notes[0] if part and all(part in each for each in notes)] if len(notes) > 1 else []
    for r, parts in zip(outcome.records, notes, strict=True):
        own = "; ".join(part for part in parts if part not in shared)
        value = "not measured" if r.value is None else f"{r.value:.4f}"
        interval = ""
        if r.value is not None and r.low is not None and r.high is not None:
            interval = f" [{r.low:.4f}, {r.high:.4f}]"
        elif r.value is not None and (r.interval or "").startswith("none: "):
            interval = f" [no interval: {r.interval.removeprefix('none: ')}]"
        count = f"n={r.n}" + (f" of {r.n_expected}: partial" if r.partial else "")
        rows.append([r.name, f"{value}{interval}  {count}{f'  ({own})' if own else ''}"])
    if rows:
        print("\n".join([text.table(rows), *([f"note: {'; '.join(shared)}"] if shared else [])]))
