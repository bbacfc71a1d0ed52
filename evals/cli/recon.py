"""``vgt eval recon``: reconstruction scores of an autoencoder, or of two folders of pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from evals.api import Outcome
from evals.cli import common

HELP = "PSNR, SSIM, LPIPS and Frechet distances of reconstructions"
EXAMPLE = "vgt eval recon --subject vgt:vgt_ae_internvl --data photos"


def arguments(parser: argparse.ArgumentParser) -> None:
    common.add_subject(parser, "vgt:<checkpoint> or pca")
    parser.add_argument("--data", default="scenes", help="scenes, photos or a folder of images (default scenes)")
    parser.add_argument("--pairs", nargs=2, type=Path, metavar=("REAL", "RECON"), help="compare two folders instead")
    parser.add_argument("--protocol", default="default", help="see `vgt list protocols`")
    common.add_count(parser)
    common.add_common(parser)


def run(args: argparse.Namespace) -> Outcome:
    from evals import calibration, reconstruction
    from evals.judges.analytic import AnalyticJudge

    if args.pairs:
        return reconstruction.pairs(*args.pairs)
    judge = AnalyticJudge()
    return reconstruction.run(
        common.tokenizer(args, args.out),
        work=args.out,
        records=args.out / "records",
        data=args.data,
        n=args.n,
        protocol=args.protocol,
        agreement=lambda a, b: calibration.agreement(judge, a, b),
        judge=f"{judge.name} {judge.fingerprint[:12]}",
    )
