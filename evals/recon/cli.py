"""``vgt eval recon``: reconstruction scores of an autoencoder, or of two folders of images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from evals.engine import old_options as common
from evals.engine.records import Outcome
from vgt.commands import options

HELP = "PSNR, SSIM, LPIPS and Frechet distances of reconstructions"
EXAMPLE = "vgt eval recon --subject vgt:vgt_ae_internvl --data photos"


def arguments(parser: argparse.ArgumentParser) -> None:
    common.add_subject(parser, "vgt:<checkpoint> or pca")
    parser.add_argument(
        "--data", default="scenes", help="scenes, photos, a folder of images, a .tar shard or a folder of them"
    )
    parser.add_argument("--pairs", nargs=2, type=Path, metavar=("REAL", "RECON"), help="compare two folders instead")
    parser.add_argument(
        "--protocol",
        default="default",
        metavar="A[,B...]",
        help="default, vgt, llamagen, vfmtok, lightningdit; several are printed side by side",
    )
    parser.add_argument("--metrics", metavar="A[,B...]", help="only these (default: all for which there are weights)")
    parser.add_argument("--size", type=int, default=None, help="image side for a subject that takes any")
    parser.add_argument("--batch", type=common.count, default=32, help="images at a time; it decides their last bits")
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="ID=PATH",
        help="weights file of lpips-alex, lpips-vgg, tf-compat or pytorch-fid (default: by name in $VGT_WEIGHTS)",
    )
    parser.add_argument("--any-weights", action="store_true", help="accept other Inception weights, under a label")
    common.add_count(parser)
    common.add_coverage(parser)
    common.add_common(parser)


def weights(given: list[str], names: tuple[str, ...]) -> dict[str, Path]:
    """``--weights`` texts -> {id: path}."""
    found = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or name not in names:
            raise ValueError(f"--weights {text!r} is not of the form ID=PATH with an ID of {', '.join(names)}")
        found[name] = Path(path)
    return found


def _listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def run(args: argparse.Namespace) -> Outcome:
    from evals.recon import metrics as recon_metrics
    from evals.recon import pipeline as recon_pipeline

    protocols = list(dict.fromkeys(_listed(args.protocol)))
    for name in protocols:
        recon_pipeline.resolve(name, None)
    names = (*(f"lpips-{net}" for net in recon_metrics.LPIPS.values()), *recon_metrics.FRECHET.values())
    shared = {
        "work": args.out,
        "records": args.out / "records",
        "metrics": _listed(args.metrics) if args.metrics else None,
        "batch": args.batch,
        "weights": weights(args.weights, names),
        "any_weights": args.any_weights,
        "device": options.device(args.device),
        "partial_ok": args.partial_ok,
    }
    if not args.metrics:
        _say_what_is_left_out(recon_metrics.Tools(shared["weights"], args.any_weights))
    score = _scorer(args)

    found = {name: score(protocol=name, shard=common.shard(args), **shared) for name in protocols}
    outcomes = list(found.values())
    if len(outcomes) > 1 and any(o.records for o in outcomes):
        print(side_by_side(found))
    return Outcome([r for o in outcomes for r in o.records], *(sum(x) for x in _counts(outcomes)))


def _counts(outcomes: list[Outcome]) -> tuple[list[int], list[int]]:
    return [o.computed for o in outcomes], [o.reused for o in outcomes]


def _scorer(args: argparse.Namespace):
    """What scores one protocol: two folders, or a subject on data."""
    from evals.calibration import run as calibration
    from evals.judges.analytic import AnalyticJudge
    from evals.recon import run as reconstruction

    if args.pairs:
        return lambda **settings: reconstruction.pairs(*args.pairs, **settings)
    judge = AnalyticJudge()
    tokenizer = common.tokenizer(args, args.out)
    return lambda **settings: reconstruction.run(
        tokenizer,
        data=args.data,
        n=args.n,
        size=args.size,
        agreement=lambda a, b: calibration.agreement(judge, a, b),
        judge=f"{judge.name} {judge.fingerprint[:12]}",
        **settings,
    )


def _say_what_is_left_out(tools) -> None:
    from evals.recon import metrics as recon_metrics

    _, absent = recon_metrics.chosen(None, tools)
    for metric, reason in absent.items():
        if metric in (*recon_metrics.LPIPS, *recon_metrics.FRECHET):
            print(f"{metric} is not measured: {reason}", file=sys.stderr)


def side_by_side(outcomes: Mapping[str, Outcome]) -> str:
    """A table, metrics by protocols; ``*``: what the papers with that protocol report."""
    from evals.recon.protocol import PIPELINES

    cells = {(r.metric, name): r for name, outcome in outcomes.items() for r in outcome.records}
    metrics = list(dict.fromkeys(metric for metric, _ in cells))
    head = ["", *outcomes]
    rows = []
    for name in ("geometry", "model_res", "eval_res", "resampler", "quantize"):
        params = (next((r.protocol_params for r in o.records), {}) for o in outcomes.values())
        rows.append([name, *(str(p.get(name, "")) for p in params)])
    for metric in metrics:
        row = [metric]
        for name in outcomes:
            one = cells.get((metric, name))
            text = "-" if one is None else "none" if one.value is None else f"{one.value:.4f}"
            row.append(text + ("*" if one and metric in PIPELINES[name]["own"] else " "))
        rows.append(row)
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]]
    return "\n".join([*lines, "* reported by the papers that use the protocol", ""])
