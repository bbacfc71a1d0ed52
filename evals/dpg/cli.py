"""``vgt eval dpg``: DPG-Bench's rules on the images of a subject."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from evals.engine import options as common
from evals.engine.records import Outcome
from vgt.commands import options

HELP = "DPG-Bench on a prompt suite"
EXAMPLE = (
    "vgt eval dpg --subject vgt:query_ar_internvl --accel 4\n"
    "  vgt eval dpg --csv dpg_bench.csv --prompts prompts/ --subject folder:grids --resolution 512 "
    "--judge mplug --judge-python mplug/bin/python --protocol dpg-fixed,dpg-ella,dpg-vgt"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    common.add_images(parser)
    parser.add_argument("--csv", type=Path, help="DPG-Bench's dpg_bench.csv instead of a suite")
    parser.add_argument(
        "--prompts", type=Path, help="its folder of <item_id>.txt, or JSON lines (default: the CSV's text)"
    )
    parser.add_argument(
        "--protocol", default="dpg-fixed", help="dpg-fixed, dpg-ella, dpg-vgt, several with commas, or all"
    )
    parser.add_argument("--judge", help="analytic (default on scenes-dpg), mplug, blip:<folder>, vlm:<folder>, "
                        "vgt:<checkpoint>, process:<command>, scripted:<file>")  # fmt: skip
    parser.add_argument("--judge-python", metavar="PYTHON", help="for mplug: the interpreter that has modelscope")
    parser.add_argument("--judge-weights", metavar="DIR", help="for mplug: a local copy of the model")
    parser.add_argument("--against", metavar="JUDGE", help="ask a second judge too, and record how far the two agree")
    parser.add_argument("--answers", type=Path, help="score a stored answers.jsonl; no subject, no judge")
    parser.add_argument(
        "--resolution", type=int, help="a folder: subject holds 2x2 grids <item_id>.png of tiles of this size"
    )
    parser.add_argument("--export-grids", type=Path, metavar="DIR", help="write the images as 2x2 grids too")


def _suite(args: argparse.Namespace) -> tuple[str, list[dict], list[dict]]:
    """Name, the prompts that were asked for, and the whole suite."""
    if args.csv is None:
        if args.prompts is not None:
            raise ValueError("--prompts goes with --csv; name another suite with --suite")
        suite, prompts = common.prompts(args.suite or "scenes-dpg", args.n)
        return suite, prompts, prompts if not args.n else common.prompts(args.suite or "scenes-dpg", None)[1]
    from evals.dpg import data as dpg_data

    whole = dpg_data.load(args.csv, args.prompts)
    count = min(args.n or len(whole), len(whole))
    return args.suite or dpg_data.SUITE, [whole[i * len(whole) // count] for i in range(count)], whole


def _subject(args: argparse.Namespace, prompts: list[dict], whole: list[dict]):
    """The subject and its acceleration; a folder of grids is unpacked first."""
    if args.resolution is None:
        return common.generator(args, prompts)
    from evals.dpg import data

    kind, _, root = common.subject(args, "folder:grids").partition(":")
    if kind != "folder" or not root:
        raise ValueError(f"--resolution is for a folder of grids, not for {args.subject!r}; give folder:<dir>")
    return data.unpack_grids(root, prompts, args.out, args.resolution, whole), None


def _judge(args: argparse.Namespace, spec: str):
    from evals.judges import answering

    return answering.load(spec, functools.partial(options.device, args.device), args.judge_python, args.judge_weights)


def run(args: argparse.Namespace) -> Outcome:
    from evals.agreement import run as agreement
    from evals.dpg import rules as dpg_rules
    from evals.dpg import run as dpg

    protocols = list(dpg_rules.RULES) if args.protocol == "all" else [p.strip() for p in args.protocol.split(",")]
    records = args.out / "records"
    if args.answers is not None:
        return dpg.rescore(args.answers, work=args.out, records=records, protocols=protocols, partial_ok=args.partial_ok)
    suite, prompts, whole = _suite(args)
    if args.judge is None and args.csv is not None:
        raise ValueError("--judge is missing; DPG-Bench needs one, for example --judge blip:<folder>")
    dpg_rules.chosen(protocols, prompts)
    judges = [_judge(args, spec) for spec in filter(None, (args.judge or "analytic", args.against))]
    generator, accel = _subject(args, prompts, whole)
    drawn = {
        "work": args.out,
        "suite": suite,
        "prompts": prompts,
        "images_per_prompt": args.images_per_prompt,
        "seed": args.seed,
        "batch": args.batch,
        "accel": accel,
    }
    shard = common.shard(args)
    scored = {**drawn, "records": records, "protocols": protocols, "partial_ok": args.partial_ok, "shard": shard}
    outcomes = []
    for judge in judges:
        try:
            outcomes.append(dpg.run(generator, judge.answerer, check_judge=judge.check, **scored))
        finally:
            judge.close()
    if shard.whole and args.against:
        stored = [args.out / outcome.records[0].evidence for outcome in outcomes]
        outcomes.append(agreement.of_answers(*stored, work=args.out, records=records))
    if shard.whole and args.export_grids is not None:
        dpg.export_grids(generator, args.export_grids, **drawn)
    return sum(outcomes, Outcome.none())
