"""``vgt compare``."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    sides = "folder of records, work folder or .jsonl file; FOLDER:MODEL takes one model, for example runs/tiny:mar@4x"
    parser.add_argument("a", metavar="A", help=sides)
    parser.add_argument("b", metavar="B", help="the same; may be another model of the same folder")
    parser.add_argument(
        "--metric", nargs="+", default=["*"], metavar="GLOB", help="metrics, or suite/metric, to compare (default all)"
    )
    parser.add_argument(
        "--allow", nargs="+", default=[], metavar="SETTING", help="protocol settings that may differ, e.g. batch"
    )


def run(args: argparse.Namespace) -> dict:
    from evals.compare import compare, pairs

    a, b = pairs.read(args.a), pairs.read(args.b)
    rows = compare.compare(a, b, args.metric, args.allow)
    print(compare.table(a, b, rows))
    return compare.report(a, b, rows)
