"""``vgt eval probes``: what the latent space of an autoencoder is like."""

from __future__ import annotations

import argparse

from evals.api import Outcome
from evals.cli import common

HELP = "t-SNE, linear probe, k-NN, rank and collapse of an autoencoder's latents"
EXAMPLE = "vgt eval probes --subject vgt:vgt_ae_internvl"


def arguments(parser: argparse.ArgumentParser) -> None:
    common.add_subject(parser, "vgt:<checkpoint> or pca")
    common.add_count(parser)
    common.add_common(parser)


def run(args: argparse.Namespace) -> Outcome:
    from evals import probes

    count = {"n": args.n} if args.n else {}
    return probes.run(common.tokenizer(args, args.out), work=args.out, records=args.out / "records", **count)
