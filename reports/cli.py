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
    parser.add_argument("--publish", type=Path, metavar="FILE", help="also write all records into one .jsonl file")
    parser.add_argument("--title", default="VGT on the synthetic scenes")
    options.add_out(parser, None, "folder of the report (default <work>/report)")


def run(args: argparse.Namespace) -> dict:
    from reports.headline import summary
    from reports.page import render
    from vgt.core import files, record

    roots = args.records or [args.work / "records"]
    if args.publish and args.publish.suffix != ".jsonl":
        raise ValueError(f"--publish {args.publish} must end in .jsonl")
    out = args.out or args.work / "report"
    files.check_writable(out, folder=True)
    if args.publish:
        files.check_writable(args.publish)
    page = render(roots, args.work, out, args.title)
    found = record.read(roots)
    if args.publish:
        record.write_collection(found, args.publish)
    print(summary(found))
    print(f"\nreport: {page}")
    return {"report": str(page)}
