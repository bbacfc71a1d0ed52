"""The decode engine on a GPU, in a few minutes: the same images, the table of times, where they go.

``python -m bench.gpu.decode --out DIR`` leaves in DIR: ``decode.jsonl`` (records), ``decode.json`` (rows, correctness,
what was left out), ``decode.txt`` (the rows for people) and profiles of a decode step of each size.  All but the
profiles are written again after every group, so that a run that is cut short keeps what it has.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from bench import generation, roofline, suites
from bench import run as measuring
from bench.cli import lines
from bench.subjects import RANDOM, Subject, random_network, subject
from bench.timing import free_memory
from bench.workloads import Conditions
from vgt.checkpoints.pretrained import place
from vgt.commands import options
from vgt.core import files, record
from vgt.inference.engine import Engine
from vgt.inference.generator import eager, generate, latents
from vgt.methods.sampling import Sampling
from vgt.training.distributed import device_name

SECONDS = 480.0  # after which nothing is begun; the last group and the profiles come on top
SLOW = 3.0  # seconds of a call by its lower bound; of what is slower, only the first steps are timed
FEW_STEPS = 8  # of those, and of the reference implementation
CALLS = 7  # of every timing: tried, warmed up, timed three times, split, under the energy counter
ABOVE_BOUND = 2.0  # assumed, to say beforehand how long a group takes
SAME_PROMPTS = 4
TOLERANCE = 1e-5  # relative, in fp32 (docs/decode.md 5)
AMPLIFIED = 10.0  # a wrong mask, position or weight is thousands of roundings away


@dataclass(frozen=True)
class Scope:
    """What is covered."""

    sizes: tuple[str, ...] = ("0.6b", "1.6b")
    accelerations: tuple[int, ...] = (1, 4, 16)
    batches: tuple[int, ...] = (1, 8, 64)
    same: tuple[str, ...] = (f"{RANDOM}smoke_query_ar_internvl", "query_ar_internvl", "mar_internvl")
    settings: dict = field(default_factory=dict)
    repeats: int = 3


TINY = Scope(("tiny",), (16,), (1, 2), ("query_ar_internvl", "mar_internvl"), {"flow_steps": 4}, 1)


@dataclass
class Report:
    """What has been found so far, and where it is written."""

    out: Path
    torch_device: str
    device: str
    started: float
    same: list[dict] = field(default_factory=list)
    found: list[record.Record] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def write(self) -> None:
        rows = measuring.rows(self.found)
        whole = {
            "device": self.device,
            "correctness": self.same,
            "rows": rows,
            "extrapolated": _extrapolated(self.found),
            "left_out": self.left_out,
            "seconds": round(time.monotonic() - self.started, 1),
        }
        record.write_collection(self.found, self.out / "decode.jsonl")
        files.write_json(self.out / "decode.json", whole)
        files.write_text(self.out / "decode.txt", "\n".join([*lines(rows), *self.left_out]) + "\n")


def sampling(tokens: int, acceleration: int, settings: dict) -> Sampling:
    return Sampling(**Sampling.usual(tokens) | settings | {"acceleration": acceleration})


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------- the same images


def _widened(found: Subject) -> Subject:
    """Random weights whose flow head does not end in zeros: every matrix N(0, 1 / fan_in)."""
    if found.weights == "random":
        rng = torch.Generator().manual_seed(0)
        for p in found.model.image_head.parameters():
            if p.ndim == 2:
                p.copy_(torch.randn(p.shape, generator=rng) * p.shape[1] ** -0.5)
    return found


@torch.no_grad()
def same_images(spec: str, accelerations: Iterable[int], device: str, settings: dict) -> list[dict]:
    """Engine against reference implementation, latents by their relative distance, images by PSNR against those of the
    reference implementation in fp32.

    ``relative``: of the two in fp32; ``engine_from_fp64`` and ``eager_from_fp64``: of each from the reference
    implementation with weights in fp64, because a trained model amplifies rounding from token to token, by chance more
    or less.  ``equal``: the first is below 1e-5, or the engine is at most ``AMPLIFIED`` times as far from fp64 as the
    reference implementation is."""
    found = _widened(subject(spec, device=device))
    prompts, seeds = generation.workload(SAME_PROMPTS)
    hows = [sampling(found.model.tokens, a, settings) for a in accelerations]

    def made(how: Sampling, decode) -> torch.Tensor:
        return latents(found.model, found.tokenizer, prompts, seeds, how, decode=decode)

    def images(how: Sampling, decode) -> np.ndarray:
        return generate(found.model, found.ae, found.tokenizer, prompts, seeds, how, decode=decode)

    engine, loop = Engine(found.model), eager(found.model)
    rows, exact, fp32 = [], [], []
    for how in hows:
        fp32.append((made(how, engine), made(how, loop)))
        exact.append(images(how, loop))
        rows.append({"model": found.name, "acceleration": how.acceleration, "notes": list(engine.notes)})
    place(found.model, device, torch.float64)
    for row, how, (ours, theirs) in zip(rows, hows, fp32, strict=True):
        row |= {"relative": _distance(ours, theirs)}
        truth = made(how, loop)
        row |= {"engine_from_fp64": _distance(ours, truth), "eager_from_fp64": _distance(theirs, truth)}
        row["equal"] = row["relative"] < TOLERANCE or row["engine_from_fp64"] <= AMPLIFIED * row["eager_from_fp64"]
    for module in (found.model, found.ae):
        place(module, device, torch.bfloat16)
    for row, how, wanted in zip(rows, hows, exact, strict=True):
        row["psnr_bf16_engine"] = _psnr(images(how, Engine(found.model)), wanted)
        row["psnr_bf16_eager"] = _psnr(images(how, loop), wanted)
    return rows


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def _psnr(a: np.ndarray, b: np.ndarray) -> float | None:
    """dB over all images; None for equal ones."""
    error = ((a.astype(float) - b) ** 2).mean()
    return float(10 * np.log10(255**2 / error)) if error else None


# ------------------------------------------------------------------------------------------------------- the table


def _least_seconds(sizes: roofline.Sizes, how: Conditions, method: str, acceleration: int) -> float:
    """Of one call, by what an H100 can do."""
    evaluations = sampling(sizes.tokens, acceleration, how.settings).flow_steps
    decoding = roofline.Decoding(method, how.batch, acceleration, 32, evaluations, steps=how.steps)
    return roofline.lower_bound(sizes, decoding, roofline.KNOWN["h100"]).total * how.batch / 1000


def groups(suite: str, size: str, scope: Scope, device: str = "cpu") -> list[tuple[int, Conditions, float]]:
    """(acceleration, conditions, seconds by assumption), the shortest first; of slow calls the first steps alone, and
    the reference implementation beside the engine at the lowest acceleration, first steps too."""
    preset, method = suites.PRESETS[suite][size][0], suite.replace("-", "_")
    sizes, found = roofline.sizes(random_network(preset, "meta")[0]), []
    for acceleration in scope.accelerations:
        for batch in scope.batches:
            how = Conditions(batch, scope.repeats, device=device, settings=scope.settings)
            if _least_seconds(sizes, how, method, acceleration) > SLOW:
                how = replace(how, steps=FEW_STEPS)
            each = _least_seconds(sizes, how, method, acceleration)
            found.append((acceleration, how, 3 + ABOVE_BOUND * CALLS * each))
    slowest = min(scope.accelerations)
    steps = min(FEW_STEPS, sizes.tokens // slowest - 1)
    how = Conditions(1, scope.repeats, device=device, settings=scope.settings, eager=True, steps=steps)
    found.append((slowest, how, 2.0 * steps))
    return sorted(found, key=lambda group: group[2])


def _extrapolated(found: Iterable[record.Record]) -> list[dict]:
    """Milliseconds of a whole image by the reference implementation, from its first steps: an estimate."""
    rows = []
    for r in found:
        if r.metric == "eager-ms-per-image" and r.partial and r.value is not None:
            whole = r.value / r.n * r.n_expected
            rows.append({"model": r.model, "suite": r.suite, "eager_ms": whole, "from_steps": r.n, "of": r.n_expected})
    return rows


def _time(report: Report, size: str, suite: str, scope: Scope, until: float) -> None:
    """All groups of one model, as long as there is time."""
    device, dtype = report.torch_device, torch.float32 if report.torch_device == "cpu" else torch.bfloat16
    found = subject(RANDOM + suites.PRESETS[suite][size][0], device=device, dtype=dtype)
    for acceleration, how, needed in groups(suite, size, scope, device):
        name, left = f"{found.name} {acceleration}x {how.suite}", until - time.monotonic()
        if needed > left:
            report.left_out.append(f"left out: {name} needs about {needed:.0f} s of {left:.0f} that are left")
            continue
        _say(f"{name}, about {needed:.0f} s")
        works = suites.plan(found, how, [acceleration])
        with tempfile.TemporaryDirectory() as work:
            outcome = measuring.run(works, work, Path(work) / "records")
        report.found += [r.model_copy(update={"evidence": None}) for r in outcome.records]
        report.write()


# ----------------------------------------------------------------------------------------------------- the profile


def profile(spec: str, batch: int, device: str, settings: dict, steps: int = 2) -> str:
    """torch's table of the kernels in the first decode steps at 1x, the slowest first; captured graphs are replayed."""
    found = subject(spec, device=device, dtype=torch.float32 if device == "cpu" else torch.bfloat16)
    how = Conditions(batch, steps=steps, settings=settings)
    call = generation.call(found, sampling(found.model.tokens, 1, settings), how, found.engine)
    call()
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if device.startswith("cuda") else []
    with torch.profiler.profile(activities=kinds) as found_out:
        call()
    key = "self_cuda_time_total" if device.startswith("cuda") else "self_cpu_time_total"
    table = found_out.key_averages().table(sort_by=key, row_limit=40, max_name_column_width=60)
    return f"{spec}, batch {batch}, text and the first {steps} decode steps at 1x on {device_name(device)}\n{table}\n"


def run(out: Path, device: str, scope: Scope, seconds: float = SECONDS) -> Report:
    """All of it; see the module.  After ``seconds`` nothing is begun."""
    report = Report(Path(out), device, device_name(device), time.monotonic())
    for spec in scope.same:
        _say(f"engine against reference implementation: {spec}")
        report.same += same_images(spec, scope.accelerations, device, scope.settings)
    report.write()
    for size in scope.sizes:
        for suite in suites.GENERATORS:
            _time(report, size, suite, scope, report.started + seconds)
            free_memory()
    for size in scope.sizes:
        spec = suites.specs("query-ar", size)[0]
        _say(f"profile of {spec}")
        for batch in (1, max(scope.batches)):
            text = profile(spec, batch, device, scope.settings)
            files.write_text(report.out / f"profile-{size}-b{batch}.txt", text)
            free_memory()
    report.write()
    return report


def main(argv: list[str] | None = None) -> int:
    """The command line; returns 0 where the engine makes the images of the reference implementation."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.decode", description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the bundled models instead: checks the path")
    options.add_out(parser, options.RUNS / "decode", "folder for records, rows and profiles")
    options.add_device(parser)
    args = parser.parse_args(argv)
    report = run(args.out, options.device(args.device), TINY if args.tiny else Scope())
    print((args.out / "decode.txt").read_text(encoding="utf-8"), end="")
    return int(not all(row["equal"] for row in report.same))


if __name__ == "__main__":
    sys.exit(main())
