"""``vgt reproduce paper``: the recipe of a paper (reports/recipe.py) as a graph of jobs, run by Snakemake.

A model is a training and then a measuring job; the last job draws the report.  A job's name ends with a hash of all
that decides its result, and it is done where the file of that name is there.  So a changed preset retrains just what
depends on it, and a killed run goes on.  ``python -m vgt.commands.paper JOB --work DIR`` does one job, as Snakemake
asks for it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from reports import recipe, results, verdicts
from reports.recipe import Arm, Scale
from reports.results import MEASURE, RUNS, STAMPS, TRAIN
from vgt.commands import options
from vgt.core import env, files, record, scenes, text
from vgt.core.config import preset_names

GRAPH, LOGS = "graph.json", "logs"  # in the work folder
REPORT = "report"
BASELINES = "baselines"  # measurements of no arm: what the untrained score
MEASURING = 1.5, 64  # minutes that an arm's measurements take on one core, with no more image tokens than that
PROCESS = 800  # MiB of a process with torch in it


@dataclass(frozen=True)
class Job:
    """``name``: of its files; ``model``: its run and records; ``arm``, ``seed``: of the recipe; ``after``: names of
    jobs that it waits for; ``preset``, ``settings``: of a training; ``commands``: of a measurement.  ``minutes`` and
    ``memory`` (MiB) are expected ones, None where nothing is known."""

    kind: str
    name: str
    model: str = ""
    arm: str = ""
    seed: int = 0
    after: tuple[str, ...] = ()
    preset: str = ""
    settings: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    minutes: float | None = None
    memory: int | None = None

    def done(self, work: Path) -> bool:
        """Whether its stamp is there, and with it the model or the records that it tells of."""
        path = stamp(work, self.name)
        if not path.is_file() or (self.kind == TRAIN and not (work / RUNS / self.model / "model").is_dir()):
            return False
        told = text.read_json(path).get("records", []) if self.kind == MEASURE else []
        return all((work / "records" / record.place_of(name)).is_file() for name in told)


def stamp(work: Path, name: str) -> Path:
    """The file that says that a job is done."""
    return work / STAMPS / f"{name}.json"


# ------------------------------------------------------------------------------------------------------ the graph


def graph(paper: str, scale: str, seeds: Sequence[int], arms: Iterable[str], work: Path) -> list[Job]:
    """The jobs that train ``arms`` and all that they start from, parents first, and measure ``arms``; the report last.

    Raises ValueError for a scale without a preset that an arm needs (``possible``)."""

    found = recipe.load(paper)
    sizes, asked, known = found.scale(scale), set(arms), _minutes(work, paper, scale)
    jobs: dict[str, Job] = {}
    latest: dict[tuple[str, int], str] = {}  # the training of an arm and seed
    for arm in found.needed(asked):
        if arm.id in sizes.published:
            continue
        for seed in seeds if arm.seeds else seeds[:1]:
            model = recipe.model(scale, arm, seed)
            parents = {role: _parent(found[p], sizes, scale, seed) for role, p in arm.parents.items()}
            after = tuple(latest[p, seed] for p in arm.parents.values() if (p, seed) in latest)
            job, snapshots = _training(sizes.preset(arm.preset), model, arm, seed, parents, after, known)
            jobs[job.name] = job
            for other in seeds if not arm.seeds else [seed]:
                latest[arm.id, other] = job.name
            if arm.id in asked:
                run = f"{RUNS}/{model}"
                values = {role: f"{RUNS}/{parent}/model" for role, parent in parents.items()}
                values |= {"run": run, "model": f"{run}/model", "name": model}
                commands = [
                    line.format(**values, step=step)
                    for line in found.commands(arm, scale)
                    for step in (snapshots if "{step}" in line else [0])
                ]
                measured = _measuring(model, arm.id, seed, (job.name,), commands, known, sizes.tokens)
                jobs[measured.name] = measured
    if lines := found.measured(scale).get(BASELINES):
        commands = [line.format(size=sizes.size) for line in lines]
        measured = _measuring(f"{scale}_{BASELINES}", BASELINES, 0, (), commands, known, sizes.tokens)
        jobs[measured.name] = measured
    last = tuple(name for name, job in jobs.items() if job.kind == MEASURE)
    report = Job(REPORT, f"report-{_hash(paper, scale, last)}", after=last, minutes=0.5)
    return [*jobs.values(), report]


def possible(paper: str, scale: str, arms: Iterable[str]) -> list[str]:
    """Those of the arms that have presets at a scale, with all that they start from."""
    found, gone = recipe.load(paper), set(missing(paper, scale))
    return [arm for arm in arms if not gone & {a.id for a in found.needed([arm])}]


def missing(paper: str, scale: str) -> dict[str, str]:
    """The arms that a scale does not have, each with the preset that is not there ("" where it is left out)."""
    found, there = recipe.load(paper), set(preset_names())
    sizes = found.scale(scale)
    presets = {a.id: sizes.preset(a.preset) for a in found.arms if a.id not in sizes.published}
    return {
        arm: "" if name in there else name for arm, name in presets.items() if arm in sizes.without or name not in there
    }


def _lacking(paper: str, scale: str, arms: Sequence[str]) -> str:
    """The presets for want of which a scale cannot train these arms, in brackets."""
    gone = missing(paper, scale)
    names = dict.fromkeys(gone.get(arm.id) for arm in recipe.load(paper).needed(arms))
    told = ", ".join(name for name in names if name)
    return f" (there is no preset {told})" if told else ""


def _parent(arm: Arm, sizes: Scale, scale: str, seed: int) -> str:

    return sizes.published.get(arm.id, recipe.model(scale, arm, seed))


def _hash(*parts: Any) -> str:
    return files.digest_json(parts)[:10]


def _training(
    preset: str, model: str, arm: Arm, seed: int, parents: dict[str, str], after: tuple, known: dict
) -> tuple[Job, tuple[int, ...]]:
    """The job, and the steps of its snapshots."""
    from vgt.training import job as training

    settings = [f"name={model}", *(f"init.{role}={parent}" for role, parent in parents.items())]
    settings += [f"train.seed={seed}"] if arm.seeds else []
    settings += [f"{key}={json.dumps(value)}" for key, value in arm.settings.items()]
    try:
        resolved = training.read(preset, settings)
    except ValueError as error:
        raise ValueError(f"arm {arm.id} cannot be trained at this scale: {error}") from error
    key = _hash(resolved.model_dump(mode="json"), after, scenes.WORLD)
    name, minutes = f"{model}.train-{key}", known.get((arm.id, TRAIN))
    job = Job(TRAIN, name, model, arm.id, seed, after, preset, tuple(settings), minutes=minutes)
    return job, resolved.train.snapshots


def _measuring(model: str, arm: str, seed: int, after: tuple, commands: list[str], known: dict, tokens: int) -> Job:
    name = f"{model}.measure-{_hash(after, commands)}"
    minutes = known.get((arm, MEASURE), MEASURING[0] if tokens <= MEASURING[1] else None)
    return Job(MEASURE, name, model, arm, seed, after, commands=tuple(commands), minutes=minutes, memory=1500)


def _minutes(work: Path, paper: str, scale: str) -> dict[tuple[str, str], float]:
    """Minutes that jobs of an arm took: in this work folder, else as published with the records."""
    mine = [text.read_json(path) for path in sorted((work / STAMPS).glob("*.json"))]
    found: dict[tuple[str, str], float] = {}
    for source in (mine, results.stamps(scale, paper)):
        here: dict[tuple[str, str], list[float]] = {}
        for one in source:
            here.setdefault((one["arm"], one["kind"]), []).append(one["minutes"])
        found = {key: sum(values) / len(values) for key, values in here.items()} | found
    return found


def estimated(jobs: Sequence[Job], work: Path, device: str) -> list[Job]:
    """The jobs with what `vgt train --plan` says of trainings: memory, and minutes where no run told them, on a
    ``device`` of ``vgt.training.plan.DEVICES``."""
    from vgt.training import job as training
    from vgt.training.plan import UTILISATION, plan

    rate = UTILISATION * _multiplications() if device == "cpu" else None
    made, plans = [], {}
    for job in jobs:
        if job.kind == TRAIN:
            sizes = tuple(s for s in job.settings if s.startswith(("model.", "train.")) and "seed" not in s)
            if (job.preset, sizes) not in plans:  # with the preset's own parents, which need not be there
                preset = training.read(job.preset, list(sizes))
                plans[job.preset, sizes] = plan(preset, work / RUNS, 1, device, rate)
            found = plans[job.preset, sizes]
            minutes = job.minutes
            if minutes is None and found.step_seconds is not None:
                minutes = found.step_seconds * found.steps / 60
            memory = 1024 * found.memory_gib[found.column]["total"] + (PROCESS if device == "cpu" else 0)
            job = dataclasses.replace(job, minutes=minutes, memory=round(memory))
        made.append(job)
    return made


def _multiplications() -> float:
    """TFLOP/s of a matrix product on one thread of this CPU."""
    import torch

    threads, side = torch.get_num_threads(), 512
    torch.set_num_threads(1)
    a, best = torch.randn(side, side), float("inf")
    for _ in range(10):
        began = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - began)
    torch.set_num_threads(threads)
    return 2 * side**3 / best / 1e12


def table(left: Sequence[Job], jobs: Sequence[Job], parallel: int) -> str:
    """One line for each job that is left, with expected minutes and memory, and the sum."""
    width = max((len(job.name) for job in left), default=3)
    lines = [f"{'job':<{width}}  minutes      MiB"] if left else []
    for job in left:
        minutes = "?" if job.minutes is None else f"{job.minutes:.1f}"
        lines.append(f"{job.name:<{width}}  {minutes:>7}  {job.memory or '?':>7}")
    told = [job.minutes for job in left if job.minutes is not None]
    unknown = f", and {len(left) - len(told)} of unknown length" if len(told) < len(left) else ""
    hours = sum(told) / 60 / parallel
    lines.append(
        f"{len(jobs) - len(left)} of {len(jobs)} jobs need not run; the others take about {hours:.1f} h, {parallel} "
        f"at a time{unknown}"
    )
    return "\n".join(lines)


def to_do(jobs: Sequence[Job], work: Path) -> list[Job]:
    """Those that the last one still waits for, itself among them: a training whose measurements are all there need not
    be repeated, even where its model is gone."""
    wanted = {jobs[-1].name}
    for job in reversed(jobs):
        if job.name in wanted:
            wanted.discard(job.name) if job.done(work) else wanted.update(job.after)
    return [job for job in jobs if job.name in wanted]


# ----------------------------------------------------------------------------------------------------- Snakemake


def snakefile(jobs: Sequence[Job], device: str, processes: int) -> str:
    """The graph as Snakemake reads it: a rule for each of ``jobs``, its output the job's stamp."""
    rules = [f"rule all:\n    input: {json.dumps(f'{STAMPS}/{jobs[-1].name}.json')}\n"]
    for number, job in enumerate(jobs):
        inputs = ", ".join(f"ancient({json.dumps(f'{STAMPS}/{name}.json')})" for name in job.after)
        command = [sys.executable, "-m"]
        if processes > 1 and job.kind == TRAIN:
            command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
        command += ["vgt.commands.paper", job.name, "--work", ".", "--device", device]
        log = f"{LOGS}/{job.name}.log"
        shell = shlex.join(command).replace("{", "{{").replace("}", "}}")
        resources = f"mem_mb={job.memory or 2000}, runtime={max(5, round(4 * (job.minutes or 60)))}"
        rules.append(
            f"rule job{number}:\n"
            + (f"    input: {inputs}\n" if inputs else "")
            + f"    output: {json.dumps(f'{STAMPS}/{job.name}.json')}\n"
            f"    log: {json.dumps(log)}\n"
            f"    threads: {processes if job.kind == TRAIN else 1}\n"
            f"    resources: {resources}\n"
            f"    shell: {json.dumps(shell + ' > {log} 2>&1')}\n"
        )
    return "\n".join(rules)


def check_engine(executor: str | None) -> None:
    """Raises ValueError where Snakemake or the executor's plugin is not installed."""
    import importlib.util

    if importlib.util.find_spec("snakemake") is None:
        raise ValueError("snakemake is not installed, which runs the jobs; `pip install 'vgt[workflow]'`")
    if executor and importlib.util.find_spec(f"snakemake_executor_plugin_{executor.replace('-', '_')}") is None:
        name = f"snakemake-executor-plugin-{executor}"
        raise ValueError(f"executor {executor!r} is not installed; `pip install {name}`, or leave --executor")


def execute(jobs: Sequence[Job], work: Path, device: str, processes: int, parallel: int, executor: str | None) -> int:
    """Hand the graph to Snakemake; returns how many jobs failed or could not start."""
    files.write_text(work / "Snakefile", snakefile(jobs, device, processes))
    files.write_json(work / GRAPH, [vars(job) for job in jobs])
    command = [sys.executable, "-m", "snakemake", "--snakefile", "Snakefile", "--keep-going", "--nolock"]
    command += ["--rerun-triggers", "input", "--ignore-incomplete", "--latency-wait", "60" if executor else "5"]
    command += ["--executor", executor, "--jobs", str(parallel)] if executor else ["--cores", str(parallel * processes)]
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")} if device == "cpu" else {}
    with open(work / "snakemake.log", "a") as log:
        process = subprocess.Popen(
            command, cwd=work, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **threads}
        )
        try:
            _watch(process, jobs, work)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return sum(not job.done(work) for job in jobs)


def _watch(process: subprocess.Popen, jobs: Sequence[Job], work: Path) -> None:
    """A line for every job that ends, until Snakemake does."""
    left = {job.name: job for job in jobs if not job.done(work)}
    print(f"{len(jobs)} jobs, {len(jobs) - len(left)} done already; log: {work / 'snakemake.log'}", file=sys.stderr)
    while True:
        ended = process.poll() is not None
        for name in [name for name, job in left.items() if job.done(work)]:
            del left[name]
            print(f"[{len(jobs) - len(left)}/{len(jobs)}] {name}", file=sys.stderr)
        if ended:
            return
        time.sleep(1)


def failures(jobs: Sequence[Job], work: Path) -> list[str]:
    """A line for each job that failed, with its log; jobs that waited for it are counted."""
    missing = {job.name: job for job in jobs if not job.done(work)}
    failed = [job for job in missing.values() if not any(name in missing for name in job.after)]
    lines = [f"failed: {job.name}; see {work / LOGS / job.name}.log" for job in failed]
    waiting = len(missing) - len(failed)
    return lines + ([f"{waiting} more wait for them"] if waiting else [])


# ------------------------------------------------------------------------------------------------ the command itself


def run(args: argparse.Namespace) -> dict:
    """``vgt reproduce paper``.  Raises ValueError for an unknown paper, table, scale or seed, before anything runs."""

    found = recipe.load(args.paper)
    sizes = found.scale(args.scale)
    seeds = args.seeds or sizes.seeds
    asked = found.arms_of(args.only, verdicts.needed(args.paper)) if args.only else [arm.id for arm in found.arms]
    arms = possible(args.paper, args.scale, asked)
    if not arms:
        raise ValueError(
            f"none of {', '.join(asked)} has a preset at the scale {args.scale}"
            f"{_lacking(args.paper, args.scale, asked)}; leave --scale {args.scale}"
        )
    if left_out := [arm for arm in asked if arm not in arms]:
        lacking = _lacking(args.paper, args.scale, left_out)
        print(f"note: without a preset at this scale: {', '.join(left_out)}{lacking}", file=sys.stderr)
    if not args.plan and not args.publish:
        check_engine(args.executor)
    work = args.out or options.RUNS / f"{args.paper}-{args.scale}"
    if args.plan:
        return _plan(args, seeds, arms, work)
    if args.publish:
        given = {recipe.model(args.scale, arm, 0) for arm in found.arms if not arm.seeds}
        print(results.pack(work, given, args.publish))
        return {"published": str(args.publish)}
    files.check_writable(work, folder=True)
    try:
        with FileLock(work / ".lock", timeout=0):
            return _reproduce(args, seeds, arms, work)
    except Timeout:
        raise ValueError(
            f"{work} is in use by another `vgt reproduce paper`; wait for it, or give another --out"
        ) from None


def _plan(args: argparse.Namespace, seeds: list[int], arms: list[str], work: Path) -> dict:
    jobs = graph(args.paper, args.scale, seeds, arms, work)
    device = "h100" if args.scale == "full" or args.device.startswith("cuda") else "cpu"
    left = estimated(to_do(jobs, work), work, device)
    print(table(left, jobs, args.jobs))
    minutes = sum(job.minutes or 0 for job in left)
    return {"jobs": len(jobs), "left": len(left), "minutes": round(minutes, 1), "device": device}


def _reproduce(args: argparse.Namespace, seeds: list[int], arms: list[str], work: Path) -> dict:
    if args.published:
        results.unpack(args.scale, work, args.paper)
    jobs = graph(args.paper, args.scale, seeds, arms, work)
    device = options.device(args.device)
    left = estimated(to_do(jobs, work), work, "cpu" if device == "cpu" else "h100")
    print(table(left, jobs, args.jobs), file=sys.stderr)
    missing = execute(left, work, device, args.processes, args.jobs, args.executor) if left else 0
    for line in failures(left, work):
        print(line, file=sys.stderr)
    report = work / "report" / "index.html"
    if missing:
        print(f"{missing} of {len(jobs)} jobs are not done; the same command goes on")
    else:
        print(f"report: {report}")
    return {"jobs": len(jobs), "left": missing, "report": str(report), "exit": 1 if missing else 0}


# --------------------------------------------------------------------------------------------------- a single job


def _run_job(job: Job, work: Path, device: str) -> None:
    """Do one job in the work folder, which is the current one, and write its stamp."""
    from vgt.__main__ import dispatch

    began = time.monotonic()
    told: dict[str, Any] = {}
    if job.kind == TRAIN:
        told = _train(job, work, device)
    elif job.kind == MEASURE:
        _forget(job, work)
        records: set[str] = set()
        for command in job.commands:
            print(f"+ vgt {command}", flush=True)
            result = dispatch([*shlex.split(command), "--out", ".", "--device", device]) or {}
            records |= set(result.get("scores", {}))
        told = {"of": list(job.after), "records": sorted(records)}
    else:
        dispatch(["report", "--work", "."])
    minutes = round((time.monotonic() - began) / 60, 2)
    if int(os.environ.get("RANK", "0")) == 0:
        about = {"kind": job.kind, "model": job.model, "arm": job.arm, "seed": job.seed, "device": env.processor()}
        files.write_json(stamp(work, job.name), {**about, "minutes": minutes, **told})


def _forget(job: Job, work: Path) -> None:
    """Remove the records of an earlier training of this model, whose name they have."""
    for path in (work / STAMPS).glob(f"{job.model}.{MEASURE}-*.json"):
        about = text.read_json(path)
        if about["of"] != list(job.after):
            for name in about["records"]:
                place = work / "records" / record.place_of(name)
                place.unlink(missing_ok=True)
                place.with_suffix(record.SAMPLES).unlink(missing_ok=True)
            path.unlink()


def _train(job: Job, work: Path, device: str) -> dict[str, Any]:
    """A run of another recipe under this name is thrown away; one of this recipe goes on."""
    from vgt.training.run import run
    from vgt.training.state import seconds_spent

    out = work / RUNS / job.model
    belongs = out / "job.json"
    fresh = belongs.is_file() and text.read_json(belongs).get("job") != job.name
    if int(os.environ.get("RANK", "0")) == 0:
        files.write_json(belongs, {"job": job.name})
    done = run(job.preset, list(job.settings), out, work / RUNS, options.device(device), fresh=fresh)
    minutes = round(seconds_spent(out) / 60, 2)  # of all the times that it went on
    return {"minutes": minutes, "fingerprint": done.fingerprint, "step": done.result.step, "loss": done.result.loss}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vgt.commands.paper", description="Run one job of a graph.")
    parser.add_argument("job")
    parser.add_argument("--work", type=Path, default=Path())
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    jobs = {one["name"]: one for one in text.read_json(args.work / GRAPH)}
    if args.job not in jobs:
        print(f"no job {args.job!r} in {args.work / GRAPH}", file=sys.stderr)
        return 2
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in jobs[args.job].items()}
    with contextlib.chdir(args.work):
        try:
            _run_job(Job(**values), Path(), args.device)
        except (ValueError, OSError) as error:
            print(f"{args.job}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
