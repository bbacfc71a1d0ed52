"""``vgt report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from vgt.commands import options


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--records", type=Path, nargs="+", default=None, help="folders of records (default <work>/records)"
    )
    parser.add_argument(
        "--work", type=Path, default=options.WORK, help=f"folder that evidence lies in (default {options.WORK})"
    )
    parser.add_argument("--title", default="VGT on the embedded world")
    options.add_out(parser, None, "folder of the report (default <work>/report)")


def run(args: argparse.Namespace) -> dict:
    from reports.page import render, summary
    from vgt.core import record

    roots = args.records or [args.work / "records"]
    page = render(roots, args.work, args.out or args.work / "report", args.title)
    print(summary(record.read(roots)))
    print(f"\nreport: {page}")
    return {"report": str(page)}
