"""``vgt bench`` and ``vgt bench compare``."""

from __future__ import annotations

import argparse
from pathlib import Path

from vgt.commands import options
from vgt.core import record

REPEATS, SMOKE_REPEATS = 3, 1


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subjects",
        nargs="+",
        help="bundled models, runs, checkpoint folders or random:<preset>; or: compare RECORDS_A RECORDS_B",
    )
    parser.add_argument("--accel", type=options.integers, default=[1, 4, 16], help="tokens per step (default 1,4,16)")
    parser.add_argument("--batch", type=int, default=8, help="images at a time (default 8)")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"timed rounds (default {REPEATS})")
    parser.add_argument(
        "--threshold", type=float, default=0.1, help="compare: slower by more than this is a regression"
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what stands")
    parser.add_argument("--smoke", action="store_true", help="one round of two images: checks the path")
    options.add_sampling(parser)
    options.add_out(parser, options.WORK, "work folder: evidence, and records below records/")
    options.add_seed(parser)
    options.add_device(parser)


def run(args: argparse.Namespace) -> dict:
    if args.subjects[0] == "compare":
        return _compare(args)
    from bench.run import rows
    from bench.run import run as measure
    from vgt.core.config import validated
    from vgt.models.sampling import TINY, Sampling

    outcome = measure(
        args.subjects,
        work=args.out,
        records=args.out / "records",
        accelerations=args.accel,
        batch=2 if args.smoke else args.batch,
        repeats=SMOKE_REPEATS if args.smoke else args.repeats,
        device=options.device(args.device),
        settings=validated(Sampling, TINY | options.sampling(args), "sampling settings"),
        seed=args.seed,
        runs=options.RUNS,
        autoencoder=args.autoencoder,
        fresh=args.fresh,
    )
    for r in outcome.records:
        value = "not measured" if r.value is None else f"{r.value:.3f} {r.unit}"
        spread = f" [{r.low:.3f}, {r.high:.3f}]" if r.low is not None and r.high is not None else ""
        print(f"{r.name}  {value}{spread}")
    return {
        "records": str(args.out / "records"),
        "rows": rows(outcome.records),
        "computed": outcome.computed,
        "reused": outcome.reused,
        "scores": record.scores(outcome.records),
    }


def _compare(args: argparse.Namespace) -> dict:
    from bench.run import compare

    if len(args.subjects) != 3:
        raise ValueError("compare takes two folders of records: vgt bench compare RECORDS_A RECORDS_B")
    a, b = (record.read(Path(folder)) for folder in args.subjects[1:])
    found = compare(a, b, args.threshold)
    for row in found:
        print("  ".join(f"{key}={value}" for key, value in row.items() if value is not None))
    return {"rows": found}
