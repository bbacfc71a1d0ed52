"""``vgt reproduce``: ``tiny``, the main job, a sequence of the other verbs through files; ``paper`` stands in paper.py.

Every step keeps its results below ``--out`` and computes only what is missing or changed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vgt.commands import options
from vgt.core import env, files

TRAINING = (
    "vlm_internvl", "pixel_ae", "vgt_ae_internvl_stage1", "vgt_ae_internvl", "query_ar_internvl", "mar_internvl",
    "query_ar_pixel", "vlm_qwen", "vgt_ae_qwen_stage1", "vgt_ae_qwen", "query_ar_qwen",
    "vgt_ae_internvl_nodistill_stage1", "vgt_ae_internvl_nodistill", "mar_internvl_compute",
)  # fmt: skip
VLMS = ("vlm_internvl", "vlm_qwen")
AUTOENCODERS = ("vgt_ae_internvl", "vgt_ae_qwen", "pixel_ae")
GENERATORS = ("query_ar_internvl", "mar_internvl", "query_ar_qwen", "query_ar_pixel")
# For comparisons; not bundled, measured where they were trained.
AUTOENCODER_ARMS = ("vgt_ae_internvl_nodistill",)
GENERATOR_ARMS = ("mar_internvl_compute",)
BUILT_IN = ("built-in:scenes", "built-in:photos")  # whatever folders lie where it runs
BASELINES = ("pca", "random_projection")  # untrained: of reconstruction and of latents, and of latents alone
ACCELERATIONS = (1, 4, 16)
RIVALS = ("query_ar_internvl", "mar_internvl")  # timed against each other in detail
CLOSENESS = ["--metrics", "kid,prdc"]
QUICK_PROTOCOLS, FULL_PROTOCOLS = "vgt,llamagen", "vgt,llamagen,vfmtok,lightningdit"
QUICK_CONDITIONS = "clean,blur1.5,noise20,jpeg25,shrink32"  # of the judge's calibration
QUICK_IMAGES, FULL_IMAGES = 1, 4
RESULT = "reproduce.json"  # all scores, in the work folder


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "job",
        choices=("tiny", "paper"),
        help="tiny: the bundled models; paper: train every arm of a paper with its seeds",
    )
    tiny = parser.add_argument_group("tiny")
    tiny.add_argument(
        "--full",
        action="store_true",
        help=f"{FULL_IMAGES} images per prompt instead of {QUICK_IMAGES}, every reconstruction protocol, every "
        "condition of the judge's calibration, and speed at more accelerations and batch sizes",
    )
    tiny.add_argument(
        "--train", action="store_true", help="train every model from nothing first (many hours on two cores)"
    )
    tiny.add_argument(
        "--smoke", action="store_true", help="a few items of everything: checks the path, measures nothing"
    )
    tiny.add_argument("--seed", type=int, default=None, help="base seed of the images (default 0)")
    of_paper = parser.add_argument_group("paper")
    of_paper.add_argument("--paper", default=None, help="whose recipe, of reports/papers (default vgt)")
    of_paper.add_argument("--scale", default=None, help="micro (default), tiny or full")
    of_paper.add_argument(
        "--only", type=lambda given: given.split(","), default=None, metavar="A[,B...]",
        help="what these tables, figures, claims or arms need, e.g. table8,figure6,C9",
    )  # fmt: skip
    of_paper.add_argument("--seeds", type=whole_numbers, default=None, help="of the trainings (default 0,1,2)")
    of_paper.add_argument("--plan", action="store_true", help="print the jobs that are left, run nothing")
    of_paper.add_argument("--published", action="store_true", help="run only what the published results lack")
    of_paper.add_argument(
        "--publish", type=Path, metavar="ZIP", help="write the results so far into one file, run nothing"
    )
    of_paper.add_argument("--jobs", type=int, default=None, help="at a time (default: a job for each core)")
    of_paper.add_argument("--processes", type=int, default=None, help="of one training, by torchrun (default 1)")
    of_paper.add_argument("--executor", default=None, help="Snakemake's, e.g. slurm or kubernetes (default: here)")
    options.add_out(parser, None, f"work folder (default {options.WORK}, or runs/<paper>-<scale>)")
    options.add_device(parser)


USUAL = {
    "tiny": {"full": False, "train": False, "smoke": False, "seed": 0},
    "paper": {
        "paper": "vgt", "scale": "micro", "only": None, "seeds": None, "plan": False, "published": False,
        "publish": None, "jobs": None, "processes": 1, "executor": None,
    },
}  # fmt: skip


def whole_numbers(given: str) -> list[int]:
    """Parse "0,1,2"."""
    try:
        values = [int(part) for part in given.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < 0 or len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(f"{given!r} is not a list of different seeds like 0,1,2")
    return values


def run(args: argparse.Namespace) -> dict:
    for job, usual in USUAL.items():
        for name, value in usual.items():
            given = getattr(args, name)
            if job != args.job and given is not None and given is not False:
                raise ValueError(f"--{name} has no effect on {args.job}; it is for `vgt reproduce {job}`")
            if given is None:
                setattr(args, name, value)
    if args.job == "tiny":
        args.out = args.out or options.WORK
        return _tiny(args)
    from vgt.commands import paper

    for name in ("jobs", "processes"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)} must be 1 or more")
    for only, idle in {
        "plan": ("executor", "published", "publish"),
        "publish": ("only", "seeds", "published", "jobs", "executor"),
    }.items():
        given = [name for name in idle if getattr(args, only) and getattr(args, name)]
        if given:
            raise ValueError(f"--{given[0]} has no effect on --{only}; leave one of the two out")
    args.jobs = args.jobs or max(1, env.cores() // args.processes)
    return paper.run(args)


def _tiny(args: argparse.Namespace) -> dict:
    from vgt.__main__ import dispatch

    files.check_writable(args.out, folder=True)
    began = time.monotonic()
    common = ["--device", args.device]
    steps = [["train", name, *common] for name in TRAINING] if args.train else []
    steps += [[*step, *common, "--out", str(args.out)] for step in _measurements(args)]
    steps += [["report", "--work", str(args.out)]]
    computed = reused = 0
    scores: dict[str, dict] = {}
    result: dict = {}
    finished: list[tuple[float, float]] = []
    for number, step in enumerate(steps, 1):
        print(f"[{number}/{len(steps)}] vgt {' '.join(step)}", file=sys.stderr)
        started = time.monotonic()
        last = number == len(steps)
        if last:
            _keep_differences(args.out / "records")
        with contextlib.nullcontext() if last else contextlib.redirect_stdout(io.StringIO()):
            result = dispatch(step) or {}  # what they print comes once, in the report's summary
        computed += result.get("computed", 0)
        reused += result.get("reused", 0)
        scores |= result.get("scores", {})
        seconds = time.monotonic() - started
        if result.get("computed", 1):
            finished.append((work(step), seconds))
        left = time_left(finished, [work(later) for later in steps[number:]])
        print(f"    {spoken(seconds)}{f'; at most about {spoken(left)} left' if left else ''}", file=sys.stderr)
    seconds = round(time.monotonic() - began, 1)
    told = {
        "report": result["report"],
        "records": str(args.out / "records"),
        "seconds": seconds,
        "computed": computed,
        "reused": reused,
    }
    place = files.write_json(args.out / RESULT, {**told, "scores": scores})
    print(f"records: {args.out / 'records'} ({computed} computed, {reused} reused, {seconds:.0f} s)")
    return {**told, "result": str(place)}


# How much work a step is, in seconds on two quiet cores with AVX-512 (of a training roughly): only their ratios count.
WORK = {
    "train": 1000, "eval judge": 26, "eval vqa": 8, "eval training": 0.1, "eval recon": 9, "eval probes": 5,
    "eval cka": 1, "eval geneval": 1, "eval dpg": 0.5, "eval fidelity": 1, "bench": 25, "report": 9,
}  # fmt: skip
WORK_OF_IMAGES = {"eval geneval": 3, "eval dpg": 1.5}  # one image per prompt at 4x; at 1x it is about twice as much


def work(step: list[str]) -> float:
    """How much work the step ``vgt <step>`` is, beside others."""
    name = " ".join(step[: 2 if step[0] == "eval" else 1])
    images = int(step[step.index("--images-per-prompt") + 1]) if "--images-per-prompt" in step else 1
    slow = 2 if "--accel" in step and step[step.index("--accel") + 1] == "1" else 1
    return WORK[name] + WORK_OF_IMAGES.get(name, 0) * images * slow * ("--accel" in step or "--through" in step)


def time_left(finished: Sequence[tuple[float, float]], rest: Sequence[float]) -> float | None:
    """Seconds that steps of ``rest`` work will take if none of their results stands yet, at the speed of those that
    are ``finished``, each (work, seconds); None where there is none of them."""
    done = sum(amount for amount, _ in finished)
    return sum(rest) * sum(seconds for _, seconds in finished) / done if done else None


def spoken(seconds: float) -> str:
    """12.3 -> "12 s", 754 -> "13 min", 7500 -> "2 h 5 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _keep_differences(records: Path) -> None:
    """Paired tests of the paper's claims, for the report."""
    from evals.compare import compare
    from reports import claims
    from reports.measured import Measured
    from vgt.core import record

    print("paired tests of the claims", file=sys.stderr)
    compare.keep(records, claims.compared(Measured(record.read(records))))


def _measurements(args: argparse.Namespace) -> list[list[str]]:
    from vgt.inference.load import bundled

    present = set(bundled()) if not args.train else set(TRAINING)
    arms, rest = (
        [m for m in group if args.train or (options.RUNS / m / "model").is_dir()]
        for group in (AUTOENCODER_ARMS, GENERATOR_ARMS)
    )
    if not present:
        raise ValueError("no bundled models; reinstall the package, or train them with `vgt reproduce tiny --train`")
    few, sixty = (["-n", "6"], ["-n", "60"]) if args.smoke else ([], [])
    images = ["--images-per-prompt", str(FULL_IMAGES if args.full else QUICK_IMAGES), "--seed", str(args.seed)]
    images += ["--batch", "6"] if args.smoke else []
    vlms, aes, generators = ([m for m in group if m in present] for group in (VLMS, AUTOENCODERS, GENERATORS))
    generators += rest
    steps = [["eval", "judge", *([] if args.full else ["--conditions", QUICK_CONDITIONS]), *few]]
    for m in vlms:
        steps += [["eval", "vqa", "--subject", f"vgt:{m}", *few]]
        for ae in (*aes, *arms):  # the same questions through the encoders that were tuned
            if ae.startswith(m.replace("vlm_", "vgt_ae_")):
                steps += [["eval", "vqa", "--subject", f"vgt:{m}", "--encoder", f"vgt:{ae}", *few]]
    steps += [["eval", "training", "--subject", f"vgt:{m}"] for m in (*vlms, *aes, *arms, *generators)]
    for subject in [*(f"vgt:{m}" for m in (*aes, *arms)), *BASELINES[:1]]:
        steps += [["eval", "recon", "--subject", subject, "--data", data, *few] for data in BUILT_IN]
    for m in aes if args.full else aes[:1]:  # the same reconstructions by the protocols of other papers
        protocols = FULL_PROTOCOLS if args.full else QUICK_PROTOCOLS
        steps += [["eval", "recon", "--subject", f"vgt:{m}", "--data", BUILT_IN[1], "--protocol", protocols, *few]]
    probed = [*(f"vgt:{m}" for m in aes), *BASELINES]
    steps += [["eval", "probes", "--subject", subject, *sixty] for subject in probed]
    alike = [*(f"vgt:{m}" for m in aes), *BASELINES[:1]]
    steps += [["eval", "cka", "--subjects", ",".join(alike), *sixty]] if len(alike) > 1 else []
    for evaluator in ("geneval", "dpg"):
        steps += [["eval", evaluator, "--subject", s, *images, *few] for s in ("fake:oracle", "fake:shuffled")]
        steps += [["eval", evaluator, "--subject", "fake:oracle", "--through", f"vgt:{m}", *images, *few] for m in aes]
        for m in generators:
            for accel in ACCELERATIONS:
                steps += [["eval", evaluator, "--subject", f"vgt:{m}", "--accel", str(accel), *images, *few]]
    drawn = ["shuffled", *(f"{m}@{accel}x" for m in generators for accel in ACCELERATIONS)]
    for model in () if args.smoke else drawn:  # a handful of images is no set
        steps += [["eval", "fidelity", "--subject", f"images:{model}", "--real", "images:oracle", *CLOSENESS]]
    rivals, smoke = [m for m in generators if m in RIVALS], ["--smoke"] if args.smoke else []
    accels = ",".join(map(str, ACCELERATIONS))
    if rivals:
        detail = ["--accel", "1,2,4,8,16", "--batch", "1,8"] if args.full else ["--accel", accels, *smoke]
        steps += [["bench", *rivals, *detail, "--against", "eager"]]
    steps += [["bench", *(m for m in (*generators, *aes) if m not in (*rivals, *rest)), "--accel", accels, *smoke]]
    return steps
