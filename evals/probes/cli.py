"""``vgt eval probes``: what the latent space of an autoencoder is like."""

from __future__ import annotations

import argparse

from evals.engine import old_options as common
from evals.engine.records import Outcome

HELP = "t-SNE, linear probe, k-NN, clusters, rank, collapse and distribution of an autoencoder's latents"
EXAMPLE = "vgt eval probes --subject vgt:vgt_ae_internvl"


def arguments(parser: argparse.ArgumentParser) -> None:
    common.add_subject(parser, "vgt:<checkpoint>, pca or random_projection (what nothing learned scores)")
    add_images(parser)
    parser.add_argument(
        "--view", default="mean", choices=("mean", "max", "class", "token"), help="how an image's tokens become points"
    )
    parser.add_argument("--class", dest="wanted", metavar="NAME", help="class whose images are clustered into maps")
    parser.add_argument("--clusters", type=int, default=6, metavar="K", help="clusters of the maps (6 or 8 are usual)")
    parser.add_argument("--partial-ok", action="store_true", help="give values even where images cannot be read")
    common.add_common(parser)


def add_images(parser: argparse.ArgumentParser) -> None:
    """--data, --size and -n of everything that looks at latents."""
    parser.add_argument(
        "--data",
        default="scenes",
        help="scenes (default), photos, or a folder; sub-folders of an ImageFolder are its labels",
    )
    parser.add_argument("--size", type=int, default=None, help="image side for encoders that take any (default 64)")
    common.add_count(parser)


def tokenizer(args: argparse.Namespace):
    """The subject as common.tokenizer knows it, and the anchor."""
    if args.subject == "random_projection":
        from evals.subjects.pca import random_projection

        return random_projection(size=args.size or 64)
    return common.tokenizer(args, args.out)


def images(args: argparse.Namespace, side: int | None):
    """The images that --data names, at the encoder's own size.  Raises ValueError where --size is another."""
    from evals.probes import data

    if side and args.size and side != args.size:
        raise ValueError(f"--size {args.size}: this encoder takes {side} pixels; leave --size out")
    return data.named(args.data, args.n, side or args.size or data.SIZE)


def run(args: argparse.Namespace) -> Outcome:
    from evals.probes import run as probes

    subject = tokenizer(args)
    return probes.run(
        subject,
        work=args.out,
        records=args.out / "records",
        images=images(args, subject.size),
        through=args.view,
        wanted=args.wanted,
        clusters=args.clusters,
        partial_ok=args.partial_ok,
    )
