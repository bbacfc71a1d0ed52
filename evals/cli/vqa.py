"""``vgt eval vqa``: how well a VLM answers questions about held-out scenes."""

from __future__ import annotations

import argparse

from evals.api import Outcome
from evals.cli import common
from vgt.commands import options

HELP = "question answering of a VLM on the embedded world"
EXAMPLE = "vgt eval vqa --subject vgt:vlm_internvl"


def arguments(parser: argparse.ArgumentParser) -> None:
    common.add_subject(parser, "vgt:<checkpoint of a VLM>")
    common.add_count(parser)
    common.add_common(parser)


def run(args: argparse.Namespace) -> Outcome:
    from evals import vqa
    from evals.subjects import vgt

    path = common.checkpoint(args, "is not a VLM", "vgt:vlm_internvl")
    answerer = vgt.answerer(path, options.device(args.device))
    return vqa.run(answerer, work=args.out, records=args.out / "records", **({"n": args.n} if args.n else {}))
