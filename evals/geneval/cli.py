"""``vgt eval geneval``: GenEval's rules on the images of a subject, on stored evidence, or on an official file."""

from __future__ import annotations

import argparse
from pathlib import Path

from evals.engine import options as common
from evals.engine.records import Outcome
from vgt.commands import options

HELP = "GenEval on a prompt suite"
EXAMPLE = (
    "vgt eval geneval --subject vgt:query_ar_internvl --accel 4\n"
    "  vgt eval geneval --subject folder:images --suite geneval --mask2former m2f/ --clip clip-vit-large-patch14/\n"
    "  vgt eval geneval --import results.jsonl --name sdxl\n"
    "  vgt eval geneval --rescore work/geneval/oracle/scenes-geneval-1a2b3c4d-s0 --threshold 0.5"
)
JUDGES = ("judge-analytic", "m2f-hf")


def arguments(parser: argparse.ArgumentParser) -> None:
    common.add_images(parser)
    parser.add_argument("--judge", choices=JUDGES, default=None, help="default: judge-analytic; m2f-hf on `geneval`")
    parser.add_argument("--mask2former", metavar="DIR", help="m2f-hf: folder (or hub id) of Mask2Former's weights")
    parser.add_argument("--clip", metavar="DIR", help="m2f-hf: folder (or hub id) of CLIP's weights")
    parser.add_argument("--prompt-variant", metavar="NAME", help="name of a prompt set that is not the benchmark's own")
    parser.add_argument("--rescore", type=Path, metavar="FOLDER", help="score stored evidence, without a judge")
    parser.add_argument("--import", dest="results", type=Path, metavar="RESULTS", help="official results file to score")
    parser.add_argument("--import-judge", default="m2f-mmdet", metavar="NAME", help="who judged the --import file")
    parser.add_argument("--name", help="whose images the --import file judges (default import:<file>)")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write the results in the official format here too")
    rules = parser.add_argument_group("rules", "settings other than the official ones make a labelled variant")
    rules.add_argument("--threshold", type=float, default=0.3)
    rules.add_argument("--counting-threshold", type=float, default=0.9)
    rules.add_argument("--max-objects", type=int, default=16, help="per class")
    rules.add_argument("--max-overlap", type=float, default=1.0, help="IoU from which the weaker box goes; 1: never")
    rules.add_argument("--position-threshold", type=float, default=0.1)


def _rules(args: argparse.Namespace):
    from evals.geneval.rules import Thresholds

    return Thresholds(
        args.threshold, args.counting_threshold, args.max_objects, args.max_overlap, args.position_threshold
    )


def _judge(args: argparse.Namespace, suite: str):
    """The judge that --judge names.  Raises ValueError where its weights are missing."""
    if (args.judge or ("m2f-hf" if suite == "geneval" else "judge-analytic")) == "m2f-hf":
        from evals.judges import mask2former

        return mask2former.load(args.mask2former, args.clip, options.device(args.device))
    from evals.judges.analytic import AnalyticJudge

    return AnalyticJudge()


def _export(outcome: Outcome, args: argparse.Namespace) -> None:
    """Copy the results file that lies beside the records' evidence."""
    from evals.geneval.run import results_name
    from vgt.core import files

    found = args.out / Path(outcome.records[0].evidence).with_name(results_name(_rules(args)))
    if not found.is_file():
        raise ValueError(f"{found} is gone; delete the records of {outcome.records[0].model} and evaluate again")
    files.write_text(args.export, found.read_text(encoding="utf-8"))


def run(args: argparse.Namespace) -> Outcome:
    outcome = _outcome(args)
    if args.export and outcome.records:
        _export(outcome, args)
    return outcome


def _outcome(args: argparse.Namespace) -> Outcome:
    from evals.geneval import run as geneval

    shared = {"work": args.out, "records": args.out / "records", "rules": _rules(args), "partial_ok": args.partial_ok}
    if args.rescore:
        return geneval.rescore(args.rescore, **shared)
    default = "geneval" if args.results or args.judge == "m2f-hf" else "scenes-geneval"
    suite, prompts = common.prompts(args.suite or default, args.n)
    shared |= {
        "suite": suite,
        "prompts": prompts,
        "images_per_prompt": args.images_per_prompt,
        "variant": args.prompt_variant,
    }
    if args.results:
        return geneval.import_results(args.results, subject=args.name, judge=args.import_judge, **shared)
    judge = _judge(args, suite)
    generator, accel = common.generator(args, prompts)
    drawn = {"seed": args.seed, "batch": args.batch, "accel": accel, "shard": common.shard(args)}
    return geneval.run(generator, judge, **drawn, **shared)
