"""``vgt bench``: suites, models, and ``vgt bench compare``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace

from vgt.commands import options
from vgt.core import files, record, text

REPEATS, BATCH, SMOKE_BATCH = 3, 8, 2
COLUMNS = ("engine_ms", "eager_ms", "ratio", "bound_ms", "of_bound", "images_per_second")


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
    parser.add_argument(
        "--accel", type=options.integers, default=None, help="tokens per step (default 1,4,16; of a GPT over codes 1)"
    )
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
    options.add_dtype(parser, "fp32 on a CPU, bf16 on a GPU")
    parser.add_argument(
        "--threshold", type=float, default=0.1, help="compare: slower by more than this is a regression"
    )
    parser.add_argument(
        "--name", default=None, help="name that the records of one model carry (default: its own, or a unique one)"
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

    files.check_writable(args.out, folder=True)
    outcome = measuring.run(_works(args), args.out, args.out / "records", args.fresh)
    rows = measuring.rows(outcome.records)
    print("\n".join(lines(rows)))
    return {
        "records": str(args.out / "records"),
        "rows": rows,
        "computed": outcome.computed,
        "reused": outcome.reused,
        "scores": record.scores(outcome.records),
    }


def _works(args: argparse.Namespace) -> list:
    """What is to be timed, models first.  Raises ValueError for sizes, suites and models that are none."""
    from bench import suites
    from evals.engine.records import settled

    named = [s for s in args.subjects if s in suites.SUITES]
    if args.size is not None and args.size not in suites.SIZES:
        raise ValueError(f"size {args.size!r} is unknown; choose one of {', '.join(suites.SIZES)}")
    if args.size is not None and not named:
        raise ValueError(f"--size {args.size} goes with a suite; name one of {', '.join(suites.SUITES)}")
    size, models = args.size or "tiny", []
    for name in args.subjects:
        models += suites.specs(name, size) if name in suites.MODELS else []
        models += [name] if name not in suites.SUITES else []
    if args.name is not None and (len(args.subjects) != 1 or len(models) != 1):
        raise ValueError(f"--name {args.name!r} is for one model; bench each of {', '.join(args.subjects)} by itself")
    if (options.sampling(args) or args.autoencoder) and not any(_samples(name) for name in args.subjects):
        raise ValueError(
            f"sampling settings and --autoencoder have no effect on {', '.join(args.subjects)}; name a generator"
        )
    device = options.device(args.device)
    batches = [SMOKE_BATCH] if args.smoke else args.batch
    common = {"device": device, "dtype": _dtype(args, device), "settings": options.sampling(args)}
    common |= {"repeats": 1 if args.smoke else args.repeats}
    works = suites.models(
        models,
        accelerations=args.accel,
        batches=batches or [suites.BATCH],
        seed=args.seed,
        runs=options.RUNS,
        autoencoder=args.autoencoder,
        eager=args.against == "eager",
        mode=args.mode,
        steps=args.steps,
        named=lambda found: replace(found, name=settled(args.out / "records", found, args.name)),
        **common,
    )
    for suite in named:
        works += suites.others(suite, size, batches=batches, **common) if suite not in suites.MODELS else []
    return works


def _samples(name: str) -> bool:
    """Whether a suite or a model depends on how a generator samples."""
    from bench import suites

    if name in suites.SUITES:
        return name in (*suites.GENERATORS, "flow-head")
    return suites.system_named(name, options.RUNS).kind == "generator"


def _dtype(args: argparse.Namespace, device: str):
    return options.dtype(args.dtype or ("fp32" if device == "cpu" else "bf16"))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def lines(rows: Iterable[dict]) -> list[str]:
    """The rows for people: milliseconds an image (a call of the flow head or a metric)."""
    header = ["model", "batch", *COLUMNS, ""]
    cells = [[r["model"], r["batch"], *(_number(r[c]) for c in COLUMNS), ", ".join(_remarks(r))] for r in rows]
    return text.table(cells, header=header).splitlines()


def _remarks(row: dict) -> list[str]:
    """What the numbers of a row do not say."""
    found = [f"first {row['steps']} steps only"] if row["steps"] else []
    found += [row["mode"]] if row["mode"] == "throughput" else []
    found += [row["error"]] if row["error"] else []
    found += [f"busy machine: {row['busy']}"] if row["busy"] else []
    for way in ("encode", "decode"):
        rate = row.get(f"{way}_images_per_second")
        found += [f"{way} {_number(rate)} images/s"] if rate is not None else []
    return found


def _compare(args: argparse.Namespace) -> dict:
    from bench.compare import compare
    from vgt.core import sides

    if len(args.subjects) != 3:
        raise ValueError("compare takes two folders of records: vgt bench compare RECORDS_A RECORDS_B")
    a, b = ([one.record for one in sides.read(side).stored.values()] for side in args.subjects[1:])
    found = compare(a, b, args.threshold)
    for row in found:
        print(text.coloured("  ".join(f"{key}={value}" for key, value in row.items() if value is not None)))
    if all(row["ratio"] is None for row in found):
        print(f"nothing compared: {' and '.join(args.subjects[1:])} share no speed that was measured in one way")
        return {"rows": found, "exit": 2}
    return {"rows": found, "exit": int(any(row["verdict"] == "regression" for row in found))}
