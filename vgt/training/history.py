"""What a checkpoint says of its making: ``training.jsonl``, the log of all its rounds, and the card ``README.md``.

A run that goes on from weights of the same name (``init.weights``) is a further round of that model: its log continues
the earlier one's, in steps and in samples.  The last row of a round also holds its command, batch and minutes.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from vgt.core import env

LOG = "training.jsonl"
POINTS = 50  # lines of a round, and about twice as many of all rounds before it
DIGITS = 5  # significant ones of a number in the log


def read(folder: Path) -> list[dict]:
    """The log beside a checkpoint; empty where it has none."""
    path = folder / LOG
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


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
            told = {key: row[key] for key in ("command", "batch", "minutes") if key in row}
            found.append({"steps": row["step"] - step, "samples": row["samples"] - samples, **told})
            step, samples = row["step"], row["samples"]
    return found


def card(
    title: str, system: str, world: str, parameters: int, planned: int, precision: str, device: str,
    parents: Mapping[str, str], rows: Sequence[dict],
) -> str:  # fmt: skip
    """The model card.  ``planned``: steps that this run was laid out for; ``device``: what it ran on; ``parents``: what
    it starts from and with, as hashes; ``rows``: ``joined``."""
    made = rounds(rows)
    last = made[-1]
    early = f" of {planned} planned" if last["steps"] < planned else ""
    total = f" ({rows[-1]['samples']:,} in {len(made)} rounds)" if len(made) > 1 else ""
    marks = "".join(f"* {what}: `{mark[:16]}`\n" for what, mark in parents.items())
    versions = f"vgt {env.versions().get('vgt', '(source tree)')}, torch {torch.__version__}"
    curve = "\n".join(
        f"| {r['step']} | {r['samples']} | {r['loss']:.4f} |" for r in [*rows[:: max(1, len(rows) // 12)], rows[-1]]
    )
    return f"""---
library_name: vgt
tags: [vgt, {system}]
---
# {title}

A {system} checkpoint of {parameters:,} parameters, trained on {world}.

* command: `{last["command"]}`
* steps {last["steps"]}{early}, batch {last["batch"]}, samples seen {last["samples"]:,}{total}
* time: about {last["minutes"]:.0f} minutes on {device} ({platform.system()}, {precision})
* written {time.strftime("%Y-%m-%d", time.gmtime())} by {versions}
{marks}
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
