"""``vgt bench``: suites, models, and ``vgt bench compare``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from vgt.commands import options
from vgt.core import record, text

REPEATS, SMOKE_REPEATS = 3, 1
BATCH, SMOKE_BATCH = 8, 2
COLUMNS = ("engine_ms", "eager_ms", "ratio", "floor_ms", "of_floor", "images_per_second")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subjects",
        nargs="+",
        help="suites: query-ar, mar, flow-head, autoencoder, training, metrics; or models: bundled ones, runs, "
        "checkpoint folders, random:<preset>; or: compare RECORDS_A RECORDS_B",
    )
    parser.add_argument(
        "--size", default=None, help="of a suite: tiny (default), 0.6b or 1.6b; without checkpoints, weights are random"
    )
    parser.add_argument("--accel", type=options.integers, default=[1, 4, 16], help="tokens per step (default 1,4,16)")
    parser.add_argument(
        "--batch",
        type=options.integers,
        default=None,
        help=f"images at a time (default {BATCH}), or a list: 1,8,64; rows of flow-head and training, pairs of metrics",
    )
    parser.add_argument(
        "--against", choices=("eager",), default=None, help="also time the reference implementation, in alternation"
    )
    parser.add_argument(
        "--mode", choices=("latency", "throughput"), default="latency", help="wait for every batch, or for several"
    )
    parser.add_argument("--steps", type=int, default=None, help="only the first so many decode steps, for large models")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"timed rounds (default {REPEATS})")
    parser.add_argument(
        "--dtype", choices=("fp32", "bf16"), default=None, help="of the weights (default fp32 on a CPU, bf16 on a GPU)"
    )
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
    from bench import run as measuring
    from bench import suites

    models, others = _subjects(args, suites)
    device = options.device(args.device)
    common = {"device": device, "dtype": _dtype(args, device), "settings": options.sampling(args)}
    repeats = SMOKE_REPEATS if args.smoke else args.repeats
    found, computed, reused = [], 0, 0
    if models:
        outcome = measuring.run(
            models,
            work=args.out,
            records=args.out / "records",
            accelerations=args.accel,
            batches=[SMOKE_BATCH] if args.smoke else args.batch or [BATCH],
            repeats=repeats,
            seed=args.seed,
            runs=options.RUNS,
            autoencoder=args.autoencoder,
            fresh=args.fresh,
            eager=args.against == "eager",
            mode=args.mode,
            steps=args.steps,
            **common,
        )
        found, computed, reused = list(outcome.records), outcome.computed, outcome.reused
    for suite in others:
        batches = [SMOKE_BATCH] if args.smoke else args.batch
        made = suites.run(
            suite, args.size or "tiny", records=args.out / "records", batches=batches, repeats=repeats, **common
        )
        found, computed = found + made, computed + len(made)
    table = measuring.rows(found)
    print(lines(table))
    return {
        "records": str(args.out / "records"),
        "rows": table,
        "computed": computed,
        "reused": reused,
        "scores": record.scores(found),
    }


def _subjects(args: argparse.Namespace, suites) -> tuple[list[str], list[str]]:
    """The models to time and the suites of other things.  Raises ValueError for sizes and suites that are none."""
    named = [s for s in args.subjects if s in suites.SUITES]
    if args.size is not None and args.size not in suites.SIZES:
        raise ValueError(f"size {args.size!r} is unknown; choose one of {', '.join(suites.SIZES)}")
    if args.size is not None and not named:
        raise ValueError(f"--size {args.size} goes with a suite; name one of {', '.join(suites.SUITES)}")
    models = []
    for name in args.subjects:
        models += suites.specs(name, args.size or "tiny") if name in suites.MODELS else []
        models += [name] if name not in suites.SUITES else []
    return models, [s for s in named if s not in suites.MODELS]


def _dtype(args: argparse.Namespace, device: str):
    import torch

    chosen = args.dtype or ("fp32" if device == "cpu" else "bf16")
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[chosen]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def lines(table: Iterable[dict]) -> str:
    """The rows for people: milliseconds an image (a call of the flow head or a metric)."""
    rows = []
    for row in table:
        numbers = [_number(row[column]) for column in COLUMNS]
        rows.append([row["model"], str(row["batch"]), *numbers, ", ".join(_remarks(row))])
    return text.table(rows, header=["model", "batch", *COLUMNS, ""])


def _remarks(row: dict) -> list[str]:
    """What the numbers of a row do not say."""
    found = [f"first {row['steps']} steps only"] if row["steps"] else []
    found += [row["mode"]] if row["mode"] == "throughput" else []
    found += [row["error"]] if row["error"] else []
    for way in ("encode", "decode"):
        rate = row.get(f"{way}_images_per_second")
        found += [f"{way} {_number(rate)} images/s"] if rate is not None else []
    return found


def _compare(args: argparse.Namespace) -> dict:
    from bench.compare import compare

    if len(args.subjects) != 3:
        raise ValueError("compare takes two folders of records: vgt bench compare RECORDS_A RECORDS_B")
    a, b = (record.read(Path(folder)) for folder in args.subjects[1:])
    found = compare(a, b, args.threshold)
    for row in found:
        print("  ".join(f"{key}={value}" for key, value in row.items() if value is not None))
    return {"rows": found, "exit": int(any(row["verdict"] == "regression" for row in found))}
