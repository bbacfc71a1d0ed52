"""``vgt report``."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterable
from pathlib import Path

from vgt.commands import options
from vgt.core import files
from vgt.core.record import Record


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


def _say_what_changed(found: Iterable[Record], work: Path) -> None:
    """Says on stderr which records' evidence is not the one that they were made from."""
    digest = functools.cache(files.digest_file)
    told = [(r, work / r.evidence) for r in found if r.evidence and "evidence" in r.hashes]
    changed = [(r, p) for r, p in told if p.is_file() and digest(p) != r.hashes["evidence"]]
    if changed:
        first, path = changed[0]
        print(
            f"warning: the evidence of {len(changed)} records was changed since they were made, the first {first.name} "
            f"({path}); evaluate again",
            file=sys.stderr,
        )


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
    _say_what_changed(found, args.work)
    if args.publish:
        record.write_collection(found, args.publish)
    print(summary(found))
    print(f"\nreport: {page}")
    return {"report": str(page)}
