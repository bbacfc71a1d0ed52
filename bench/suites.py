"""The suites of ``vgt bench SUITE --size SIZE``: what each times at each size.

tiny: the bundled models (random weights where there are none); 0.6b, 1.6b: the networks of the full-size presets with
random weights, which the time does not depend on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench import flow_head, limits, metrics, pairs, training
from bench.subjects import RANDOM
from vgt.core import record
from vgt.core.record import Record
from vgt.inference.load import bundled

PRESETS = {
    "query-ar": {
        "tiny": ("query_ar_internvl",), "0.6b": ("query_ar_internvl3_1b",), "1.6b": ("query_ar_internvl3_2b",),
    },
    "mar": {"tiny": ("mar_internvl",), "0.6b": ("mar_internvl3_1b",), "1.6b": ("mar_internvl3_2b",)},
    "autoencoder": {
        "tiny": ("vgt_ae_internvl", "vgt_ae_qwen", "pixel_ae"),
        "0.6b": ("vgt_ae_internvl3_stage2",),
        "1.6b": ("vgt_ae_internvl3_stage2",),  # both sizes share it
    },
}  # fmt: skip
GENERATORS, MODELS = ("query-ar", "mar"), tuple(PRESETS)
SUITES = (*MODELS, "flow-head", "training", "metrics")
SIZES = ("tiny", "0.6b", "1.6b")


def specs(suite: str, size: str) -> list[str]:
    """The subjects of a suite of models (``bench.subjects.subject``)."""
    present = set(bundled())
    return [name if name in present else RANDOM + name for name in PRESETS[suite][size]]


def run(
    suite: str,
    size: str,
    *,
    records: Path,
    batches: Sequence[int] | None,
    repeats: int,
    device: str,
    dtype: torch.dtype,
    settings: dict[str, Any],
) -> list[Record]:
    """Time a suite that is not of models, and write its records.  ``batches``: rows of the flow head (default 2, 8 and
    32), rows of a training step (16; of the tiny size 8), pairs of images (8)."""
    preset = PRESETS["query-ar"][size][0]
    if suite == "flow-head":
        rows = batches or flow_head.ROWS
        for n in rows:
            flow_head.check(n)
        known = limits.measure_limits(device, dtype)
        made = [flow_head.pair(preset, size, n, device, dtype, known, settings) for n in rows]
        return pairs.run(made, records, device, repeats)
    if suite == "metrics":
        made = [pair for n in batches or (metrics.IMAGES,) for pair in metrics.pairs(n)]
        return pairs.run(made, records, "cpu", repeats)
    found = []
    for rows in batches or ((8,) if size == "tiny" else (16,)):
        steps = training.steps(preset, rows, repeats, device)
        found += training.records(steps, training.shared(preset, steps, repeats, device, checkpointing=False))
    for each in found:
        record.write(each, records)
    return found
