"""The bundled models trained side by side: ``python -m bench.gpu.train_tiny --device cuda --out DIR`` (GPU.md).

Every job is a ``vgt train`` of its own, begun when those it needs have ended; small models leave most of a GPU idle, so
several at once take little longer than one.  What a job has made lies in ``DIR/<name>.tar`` (model, metrics) as soon as
it ends, and a last table says how fast each one was.  Runs go on from their last state unless ``--fresh`` is given.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vgt.commands import options
from vgt.commands.reproduce import TRAINING
from vgt.core import files
from vgt.methods import registry
from vgt.training.job import read
from vgt.training.log import read_metrics
from vgt.training.loop import MODEL

POLL = 0.5  # seconds
COMPUTE = 1.384  # operations of a step of QueryAR by those of a step of MAR (``vgt train --plan``)


@dataclass(frozen=True)
class Job:
    """One training: its command, the folder of its run, and the jobs that it waits for."""

    name: str
    command: Sequence[str]
    run: Path
    after: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        """Beside the run's folder, which a fresh start empties."""
        return self.run.with_suffix(".log")


def jobs(names: Sequence[str], args: argparse.Namespace) -> list[Job]:
    """The chosen trainings as commands."""
    made = []
    for name in names:
        settings = [f"data.workers={args.workers}", "train.sample_every=0"]
        preset = read(name, [])
        if registry.get(preset.system).kind == "generator":
            steps = round(args.steps * COMPUTE) if name.endswith("_compute") else args.steps
            settings += [f"train.batch={args.batch}", f"train.steps={steps}", f"data.scenes={args.scenes}"]
            settings += ["train.save_every=1000"]
        command = [sys.executable, "-m", "vgt", "train", name, "--device", args.device]
        command += ["--fresh"] if args.fresh else []
        for setting in (*settings, *chosen(args.set, name)):
            command += ["--set", setting]
        needs = (
            preset.init.vlm,
            preset.init.weights,
            preset.init.autoencoder,
        )  # those not chosen are taken as they are
        made.append(Job(name, command, options.RUNS / name, tuple(n for n in needs if n in names)))
    return made


def chosen(settings: Sequence[str], name: str) -> list[str]:
    """Those of the settings that are for this job: KEY=VALUE for all, NAME:KEY=VALUE for one."""
    found = []
    for setting in settings:
        key, _, _ = setting.partition("=")
        whose, colon, _ = key.partition(":")
        if colon and whose not in TRAINING:
            raise ValueError(
                f"setting {setting!r} is for {whose!r}, which is no job; choose one of {', '.join(TRAINING)}"
            )
        if not colon or whose == name:
            found.append(setting[len(whose) + 1 :] if colon else setting)
    return found


def side_by_side(todo: Sequence[Job], out: Path, seconds: float, tell: Callable[[str], None]) -> dict[str, int | None]:
    """Run the jobs, each with its log beside its run; after ``seconds`` what still runs is ended.  Returns the
    exit status of every job, None for those that were not begun."""
    began, running = time.monotonic(), {}
    ended: dict[str, int | None] = {}
    waiting = {job.name: job for job in todo}
    out.mkdir(parents=True, exist_ok=True)
    while waiting or running:
        late = time.monotonic() - began > seconds
        for name, job in list(waiting.items()):
            failed = [n for n in job.after if ended.get(n, 0) != 0]
            if failed or late:
                tell(f"{name}: not begun" + (f", {failed[0]} failed" if failed else ", no time left"))
                ended[name] = None
                del waiting[name]
            elif all(n in ended for n in job.after):
                job.log.parent.mkdir(parents=True, exist_ok=True)
                with open(job.log, "w", encoding="utf-8") as log:
                    running[name] = (job, subprocess.Popen(job.command, stdout=log, stderr=subprocess.STDOUT))
                del waiting[name]
        for name, (job, process) in list(running.items()):
            if late and process.poll() is None:
                process.terminate()
                process.wait()
            if process.poll() is not None:
                ended[name] = process.returncode
                del running[name]
                tell(f"{name}: status {process.returncode} after {time.monotonic() - began:.0f} s")
                _pack(job, out)
        time.sleep(POLL)
    return ended


def _pack(job: Job, out: Path) -> None:
    """The run's model and metrics as one file."""
    with files.atomic(out / f"{job.name}.tar") as part, tarfile.open(part, "w") as tar:
        for path in (job.run / MODEL, job.run / "metrics.jsonl", job.log):
            if path.exists():
                tar.add(path, f"{job.name}/{path.name}")


def table(todo: Sequence[Job], ended: dict[str, int | None]) -> str:
    """One line a job: status, steps, samples a second over the second half of its log, last loss; the end of the log of
    those that failed."""
    lines = []
    for job in todo:
        rows = read_metrics(job.run) if ended[job.name] is not None else []
        told = "no steps"
        if len(rows) > 1:
            half, last = rows[len(rows) // 2 - 1], rows[-1]
            spent = last["step"] / last["steps_per_second"] - half["step"] / half["steps_per_second"]
            speed = (last["samples"] - half["samples"]) / spent if spent > 0 else float("nan")
            told = f"step {last['step']}, {speed:.0f} samples/s, loss {last['loss']:.4f}"
        lines.append(f"{job.name:34} status {ended[job.name]}  {told}")
    for job in todo:
        if ended[job.name]:
            lines.append(f"--- {job.name}\n{job.log.read_text(encoding='utf-8', errors='replace')[-1500:]}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns 0 if every job ended well."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.train_tiny", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=TRAINING, default=TRAINING, metavar="MODEL", help="these alone")
    parser.add_argument("--steps", type=int, default=8000, help="steps of every generator (default 8000)")
    parser.add_argument("--batch", type=int, default=256, help="rows of a generator's step (default 256)")
    parser.add_argument("--scenes", type=int, default=131_072, help="scenes that generators learn (default 131072)")
    parser.add_argument("--workers", type=int, default=6, help="processes that draw scenes, each job (default 6)")
    parser.add_argument("--set", action="append", default=[], metavar="[MODEL:]KEY=VALUE", help="for all, or one")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="then what still runs is ended")
    parser.add_argument("--fresh", action="store_true", help="start over instead of going on")
    options.add_out(parser, options.RUNS / "train_tiny", "folder for the logs and the packed models")
    options.add_device(parser)
    args = parser.parse_args(argv)
    todo = jobs(args.only, args)
    ended = side_by_side(todo, args.out, args.seconds, lambda text: print(text, flush=True))
    print(table(todo, ended))
    return int(any(status != 0 for status in ended.values()))


if __name__ == "__main__":
    raise SystemExit(main())
