"""``vgt report``: the page, one figure of reconstruction against generation, or the samples behind scores."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from vgt.commands import options
from vgt.core import files
from vgt.core.record import Record

ONLY = {  # options of one of them
    "page": ("publish", "title", "evidence"),
    "tradeoff": ("x", "y", "pair", "accel", "by"),
    "evidence": ("metric", "a", "b", "megabytes"),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="?",
        choices=tuple(ONLY),
        default="page",
        help="the whole page (default), one figure of any models, or the samples behind scores",
    )
    parser.add_argument(
        "--records", type=Path, nargs="+", default=None, help="folders of records, or work folders (default <work>)"
    )
    parser.add_argument(
        "--work", type=Path, help=f"folder that evidence lies in (default: that of --records, else {options.WORK})"
    )
    parser.add_argument("--publish", type=Path, metavar="FILE", help="also write all records into one .jsonl file")
    parser.add_argument("--title", help="of the page")
    parser.add_argument(
        "--evidence",
        action="store_true",
        default=None,
        help="also write the samples behind its scores, which link to them (`vgt report evidence`)",
    )
    only = parser.add_argument_group("tradeoff")
    only.add_argument(
        "--x",
        metavar="SUITE/METRIC",
        help="of the autoencoders (default photos/psnr-mean), or `step`, the training step",
    )
    only.add_argument(
        "--y",
        metavar="SUITE/METRIC",
        help="of the generators (default scenes-geneval/overall); with --x step of any model",
    )
    only.add_argument(
        "--pair",
        action="append",
        metavar="AE=GENERATOR",
        help="a point; default: every generator that has an autoencoder",
    )
    only.add_argument("--accel", type=int, help="acceleration of the generators (default their lowest)")
    only.add_argument(
        "--by", choices=("pair", "step"), help="step: join snapshots by the step at the end of their names"
    )
    only = parser.add_argument_group("evidence")
    only.add_argument(
        "--metric", nargs="+", metavar="GLOB", help="metrics, or suite/metric (default the main score of each suite)"
    )
    only.add_argument(
        "--a", metavar="MODEL", help="one model (default all): of --records, or without it FOLDER[:MODEL]"
    )
    only.add_argument("--b", metavar="MODEL", help="the same, beside A on the same prompts")
    only.add_argument("--megabytes", type=int, metavar="MB", help="of images at most (default 200)")
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


def _work(records: Sequence[Path] | None) -> Path:
    """The work folder of the first records folder that was named."""
    folders = [root for root in records or () if root.is_dir()]
    return next((root.parent if root.name == "records" else root for root in folders), options.WORK)


def run(args: argparse.Namespace) -> dict:
    from reports.headline import summary
    from reports.page import render
    from vgt.core import record

    given_work, args.work = args.work, args.work or _work(args.records)
    roots = args.records or [args.work / "records"]
    for what, names in ONLY.items():
        for name in names:
            if what != args.what and getattr(args, name) is not None:
                raise ValueError(f"--{name} has no effect here; it is for `vgt report {what}`")
    if args.what == "tradeoff":
        from reports import tradeoff

        out = args.out or args.work / "report" / "tradeoff"
        files.check_writable(out, folder=True)
        axes = args.x or tradeoff.X, args.y or tradeoff.Y
        return tradeoff.run(roots, out, *axes, args.pair or [], args.accel, args.by)
    if args.what == "evidence":
        from reports import evidence

        out = args.out or args.work / "report" / "evidence"
        return evidence.run(
            args.records,
            args.work,
            given_work,
            out,
            args.metric or [],
            (args.a, args.b),
            evidence.MEGABYTES if args.megabytes is None else args.megabytes,
        )
    if args.publish and args.publish.suffix != ".jsonl":
        raise ValueError(f"--publish {args.publish} must end in .jsonl")
    out = args.out or args.work / "report"
    files.check_writable(out, folder=True)
    if args.publish:
        files.check_writable(args.publish)
    page = render(roots, args.work, out, args.title, bool(args.evidence))
    found = record.read(roots)
    _say_what_changed(found, args.work)
    if args.publish:
        record.write_collection(found, args.publish)
    print(summary(found))
    print(f"\nreport: {page}")
    return {"report": str(page)}
