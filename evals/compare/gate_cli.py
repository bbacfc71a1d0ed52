"""``vgt gate``."""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    sides = "folder of records, work folder or .jsonl file; FOLDER:MODEL takes one model"
    parser.add_argument("--baseline", required=True, metavar="RECORDS", help=sides)
    parser.add_argument("--candidate", required=True, metavar="RECORDS", help="the same")
    parser.add_argument(
        "--policy", default="default", metavar="FILE", help="a .toml file, or default or subset (default: default)"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 where the result is inconclusive")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")


def run(args: argparse.Namespace) -> dict:
    from evals.compare import gate, gate_report, pairs, policy
    from vgt.core import files

    rules = policy.read(args.policy)
    result = gate.gate(pairs.read(args.baseline), pairs.read(args.candidate), rules, args.strict)
    if args.json:
        files.write_json(args.json, gate_report.as_json(result, rules, args.baseline, args.candidate))
    if args.junit:
        files.write_text(args.junit, gate_report.junit(result))
    print(gate_report.table(result, rules))
    return {"verdict": result.verdict, "exit": result.exit, **gate_report.counts(result)}
