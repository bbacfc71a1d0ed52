"""What a run and its checkpoint say of their making.

``metrics.jsonl`` in a run's folder is written as it trains.  Beside a checkpoint lie ``training.jsonl``, the log of all
its rounds, and the card ``README.md``.  A run that goes on from weights of the same name (``init.weights``) is a
further round of that model: its log continues the earlier one's, in steps and in samples.  The last row of a round also
holds its command, batch and minutes.
"""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from vgt.core import env, files, text
from vgt.training.distributed import Team
from vgt.training.state import seconds_spent

METRICS, LOG = "metrics.jsonl", "training.jsonl"
POINTS = 50  # lines of a round, and about twice as many of all rounds before it
DIGITS = 5  # significant ones of a number in the log
SILENCE = 60  # seconds, at least, between two lines of a run without a terminal


class Log:
    """Progress bar, metrics.jsonl (cut back to the resumed step) and TensorBoard, all by the first process."""

    def __init__(self, out: Path, begin: int, here: Team):
        self.path, self.begin, self.active = out / METRICS, begin, here.first
        self.seconds = seconds_spent(out)
        kept = [row for row in read_metrics(out) if row["step"] <= begin]
        self.last = kept[-1]["loss"] if kept else float("nan")
        self._bar = None
        self._steps, self._said = begin, -math.inf
        if self.active:
            from torch.utils.tensorboard import SummaryWriter

            files.write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
            self.board = SummaryWriter(out / "tensorboard", purge_step=begin)

    def bar(self, steps: int) -> tqdm:
        """The steps that are still to be done."""
        name, quiet = self.path.parent.name, not self.active or None
        self._steps = steps
        if self.active and self.begin < steps:
            self._say(f"from step {self.begin} to {steps}")
        self._bar = tqdm(
            range(self.begin, steps),
            initial=self.begin, total=steps, file=sys.stderr, desc=name, mininterval=2, disable=quiet,
        )  # fmt: skip
        return self._bar

    def write(self, step: int, values: dict[str, float], batch: int, seconds: float) -> None:
        """``seconds`` of this process so far."""
        self.last = values["loss"]
        if not self.active:
            return
        speed = (step - self.begin) / seconds
        self._say(f"step {step} of {self._steps}, loss {self.last:.4g}, {speed:.3g} steps a second")
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(json.dumps({"step": step, "samples": step * batch, "steps_per_second": speed, **values}) + "\n")
        for key, value in values.items():
            self.board.add_scalar(key, value, step)
        self._bar.set_postfix({k: f"{v:.4g}" for k, v in list(values.items())[:4]}, refresh=False)

    def _say(self, words: str) -> None:
        """A line on stderr where no bar moves, as in a job's log: at most one in SILENCE seconds."""
        now = time.monotonic()
        if not sys.stderr.isatty() and now - self._said >= SILENCE:
            self._said = now
            print(f"{self.path.parent.name}: {words}", file=sys.stderr)

    def close(self) -> None:
        if self.active:
            self.board.close()


def read_metrics(out: Path) -> list[dict]:
    """Rows of a run's metrics.jsonl; a last line that a kill left unfinished is left out.

    Raises ValueError naming the line of any other that is not JSON or lacks step, samples and loss."""
    return _rows(out / METRICS)


def _rows(path: Path) -> list[dict]:
    rows = text.log_rows(path)
    for row in rows:
        for name in ("step", "samples"):
            if type(row.need(name)) is not int:
                raise ValueError(f"{row.place(name)}: {text.shown(row[name])} is not a whole number")
            row.number(name, 0)
        row.number("loss")
        if "minutes" in row:
            row.number("minutes", 0)
    return rows


# ---------------------------------------------------------------------------------------------- beside a checkpoint


def read(folder: Path) -> list[dict]:
    """The log beside a checkpoint; empty where it has none.  Raises ValueError as ``read_metrics`` does."""
    return _rows(folder / LOG)


def joined(earlier: Sequence[dict], rows: Sequence[dict], end: Mapping) -> list[dict]:
    """The rounds before, then this run's ``rows`` thinned to about ``POINTS``, its last one with what ``end`` says."""
    every = max(1, len(earlier) // POINTS)
    earlier = [row for k, row in enumerate(earlier) if k % every == 0 or "minutes" in row]
    kept = list(rows[:: max(1, -(-len(rows) // POINTS))])
    kept += [rows[-1]] if rows and kept[-1] != rows[-1] else []
    before = earlier[-1] if earlier else {"step": 0, "samples": 0}
    own = [{**r, "step": r["step"] + before["step"], "samples": r["samples"] + before["samples"]} for r in kept]
    if own:
        own[-1] |= end
    return [*earlier, *own]


def lines(rows: Sequence[dict]) -> str:
    """As ``training.jsonl``."""
    return "".join(json.dumps({key: _short(value) for key, value in row.items()}) + "\n" for row in rows)


def _short(value):
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def rounds(rows: Sequence[dict]) -> list[dict]:
    """One entry a round: ``steps``, ``samples`` and ``minutes`` of it, its ``command`` and ``batch`` where known."""
    found: list[dict] = []
    step = samples = 0
    for row in rows:
        if "minutes" in row:
            known = {key: row[key] for key in ("command", "batch", "minutes") if key in row}
            found.append({"steps": row["step"] - step, "samples": row["samples"] - samples, **known})
            step, samples = row["step"], row["samples"]
    return found


def card(
    title: str, system: str, data: str, parameters: int, planned: int, precision: str, device: str,
    parents: Mapping[str, str], rows: Sequence[dict],
) -> str:  # fmt: skip
    """The model card.  ``data``: what it was trained on; ``planned``: steps that this run was laid out for; ``device``:
    what it ran on; ``parents``: what it starts from and with, as hashes; ``rows``: ``joined``."""
    made = rounds(rows)
    last = made[-1]
    early = f" of {planned} planned" if last["steps"] < planned else ""
    total = f" ({rows[-1]['samples']:,} in {len(made)} rounds)" if len(made) > 1 else ""
    hashes = "".join(f"* {what}: `{found[:16]}`\n" for what, found in parents.items())
    versions = f"vgt {env.versions().get('vgt', '(source tree)')}, torch {torch.__version__}"
    curve = "\n".join(
        f"| {r['step']} | {r['samples']} | {r['loss']:.4f} |" for r in [*rows[: -1 : max(1, len(rows) // 12)], rows[-1]]
    )
    return f"""---
library_name: vgt
tags: [vgt, {system}]
---
# {title}

A {system} checkpoint of {parameters:,} parameters, trained on {data}.

* command: `{last["command"]}`
* steps {last["steps"]}{early}, batch {last["batch"]}, samples seen {last["samples"]:,}{total}
* time: about {last["minutes"]:.0f} minutes on {device} ({platform.system()}, {precision})
* written {time.strftime("%Y-%m-%d", time.gmtime())} by {versions}
{hashes}
| step | samples | loss |
|---|---|---|
{curve}
{_earlier(made[:-1])}"""


def _earlier(made: Sequence[dict]) -> str:
    """The rounds before the last one; empty where there are none."""
    if not made:
        return ""
    table = "\n".join(
        f"| {k} | {r['steps']} x {r.get('batch', '?')} | {r['samples']:,} | {r['minutes']:.0f} | "
        f"{'`' + r['command'] + '`' if 'command' in r else 'not recorded'} |"
        for k, r in enumerate(made, 1)
    )
    return f"""
## Rounds before this one

Each went on from the weights of the one before; the steps above count all of them.

| round | steps x batch | samples | minutes | command |
|---|---|---|---|---|
{table}
"""
