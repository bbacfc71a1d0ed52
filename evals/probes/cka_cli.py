"""``vgt eval cka``: how alike encoders see the same images."""

from __future__ import annotations

import argparse

from evals.engine import old_options as common
from evals.engine.records import Outcome
from evals.probes import cli as probes

HELP = "linear CKA between encoders on the same images, with a random projection of pixels as the anchor"
EXAMPLE = "vgt eval cka --subjects vgt:vgt_ae_internvl,vgt:pixel_ae,pca"
ANCHOR = "random_projection"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--subjects", metavar="A,B,...", help="encoders: vgt:<checkpoint> or pca")
    probes.add_images(parser)
    parser.add_argument(
        "--view", default="mean", choices=("mean", "max", "grid"), help="how an image's tokens become one point"
    )
    parser.add_argument("--partial-ok", action="store_true", help="give values even where images cannot be read")
    common.add_common(parser)


def run(args: argparse.Namespace) -> Outcome:
    from evals.probes import cka

    named = [s for s in (args.subjects or "").split(",") if s]
    if not named:
        raise ValueError(
            f"--subjects is missing; name two or more, for example {EXAMPLE.removeprefix('vgt eval cka ')}"
        )
    asked = list(dict.fromkeys([*named, ANCHOR]))
    tokenizers = [probes.tokenizer(argparse.Namespace(**{**vars(args), "subject": s})) for s in asked]
    return cka.run(
        tokenizers,
        work=args.out,
        records=args.out / "records",
        images=[probes.images(args, t.size) for t in tokenizers],
        through=args.view,
        partial_ok=args.partial_ok,
    )
