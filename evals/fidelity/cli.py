"""``vgt eval fidelity``: how close a folder of images comes to a reference set."""

from __future__ import annotations

import argparse
from pathlib import Path

from evals.engine import old_options as common
from evals.engine.records import Outcome
from vgt.commands import options

HELP = "FID, KID, inception score, precision/recall and relatives on pluggable features"
EXAMPLE = "vgt eval fidelity --subject folder:samples --real photos --features efflite2 --metrics kid,prdc"


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def arguments(parser: argparse.ArgumentParser) -> None:
    common.add_subject(parser, "folder:<dir>, images:<model>[@<accel>x] of the work folder, or an .npz with arr_0")
    parser.add_argument("--real", help="a folder, photos, scenes, images:<model>, an .npz of images or of mu, sigma")
    parser.add_argument("--features", type=_names, default=["efflite2"], metavar="ID,...", help="default efflite2")
    parser.add_argument("--metrics", type=_names, metavar="NAME,...", help="fd, kid, prdc, is, sfid, cmmd, ...")
    parser.add_argument(
        "--weights", action="append", default=[], metavar="[ID=]PATH", help="weights file or folder of features"
    )
    parser.add_argument("--any-weights", action="store_true", help="accept other weights than the published ones")
    parser.add_argument("--size", type=int, help="side in pixels to bring both sets to (default: the subject's)")
    parser.add_argument("--paired", action="store_true", help="the images are reconstructions of --real, by name")
    parser.add_argument("--allow-few", action="store_true", help="Frechet distance of fewer images than dimensions")
    parser.add_argument("--export", type=Path, metavar="NPZ", help="write the subject's statistics there")
    parser.add_argument(
        "--batch", type=common.count, default=32, help="images per pass; it decides the last bits of features"
    )
    common.add_count(parser)
    common.add_coverage(parser)
    common.add_common(parser)


def weights(given: list[str], features: list[str], names: tuple[str, ...]) -> dict[str, str]:
    """``--weights`` texts -> {id: path}; without an id a path belongs to the single features asked for."""
    found = {}
    for text in given:
        name, equals, path = text.partition("=")
        if equals and name in names:
            found[name] = path
        elif len(features) == 1:
            found[features[0]] = text
        else:
            raise ValueError(f"--weights {text!r} does not say for which features; give ID=PATH, ID of {features}")
    return found


def run(args: argparse.Namespace) -> Outcome:
    from evals.features import NAMES
    from evals.fidelity import run as fidelity

    return fidelity.run(
        common.subject(args, "folder:samples"),
        work=args.out,
        records=args.out / "records",
        real=args.real,
        extractors=args.features,
        metrics=args.metrics,
        weights=weights(args.weights, args.features, NAMES),
        any_weights=args.any_weights,
        n=args.n,
        size=args.size,
        paired=args.paired,
        allow_few=args.allow_few,
        partial_ok=args.partial_ok,
        export=args.export,
        batch=args.batch,
        device=options.device(args.device),
        shard=common.shard(args),
    )
