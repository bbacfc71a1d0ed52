"""From names to workloads: models and suites, as ``vgt bench`` takes them.

Sizes of a suite are tiny: the bundled models (random weights where there are none); 0.6b, 1.6b: the networks of the
full-size presets with random weights, which the time does not depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from bench import timing, workloads
from bench.generation import CodeGeneration, EngineGeneration, Generation
from bench.subjects import RANDOM, Subject, subject, system_named
from bench.workloads import Autoencoder, Conditions, Training, Workload
from vgt.core.config import validated
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
BATCH = 8  # images at a time, where nobody says


def specs(suite: str, size: str) -> list[str]:
    """The subjects of a suite of models (``bench.subjects.subject``)."""
    present = set(bundled())
    return [name if name in present else RANDOM + name for name in PRESETS[suite][size]]


def plan(found: Subject, how: Conditions, accelerations: Sequence[int] | None = None) -> list[Workload]:
    """One workload for an autoencoder, one an acceleration for a generator, by default those of its sampling options.

    Raises ValueError for an acceleration that the generator's tokens do not allow."""
    if found.system.kind == "tokenizer":
        return [Autoencoder(found, replace(how, settings={}, seed=0, eager=False, mode="latency", steps=None))]
    stepwise = CodeGeneration if found.system.condition == "label" else EngineGeneration
    made = Generation if found.system.loop is None else stepwise
    usual = found.system.part("sampling").accelerations
    return [made(found, how, acceleration) for acceleration in accelerations or usual]


def _check_settings(spec: str | Subject, settings: dict, runs: Path | None) -> None:
    """Raises ValueError for settings that suit neither small nor large models of a system, before one is loaded."""
    system = spec.system if isinstance(spec, Subject) else system_named(spec, runs)
    if system.kind == "generator":
        options = system.part("sampling")
        try:
            validated(options, options.usual(1) | settings, "sampling settings")
        except ValueError:
            validated(options, options.usual(10**9) | settings, "sampling settings")


def models(
    subjects: Sequence[str | Subject],
    *,
    accelerations: Sequence[int] | None = None,
    batches: Sequence[int] = (BATCH,),
    warmup: int | None = None,
    device: str = "cpu",
    runs: Path | None = None,
    autoencoder: str | None = None,
    dtype: torch.dtype = torch.float32,
    named: Callable[[Subject], Subject] = lambda found: found,
    **how,
) -> list[Workload]:
    """Generators at every acceleration and autoencoders, in batches of each size.

    ``subjects``: bundled models, runs below ``runs``, folders, ``random:<preset>``, or what ``bench.subjects.subject``
    makes of them; ``autoencoder``: that of the generators, if not under its own name; ``named``: gives a
    subject the name that its records carry; ``how``: the other
    ``Conditions``.  ``warmup`` defaults to 1 on a CPU and 2 on a GPU.  Raises ValueError for unknown subjects and
    impossible conditions."""
    warmup = warmup if warmup is not None else 1 if device.startswith("cpu") else 2
    asked = [Conditions(batch, warmup=warmup, device=device, **how) for batch in batches]
    timing.instruments(device)
    for each in subjects:
        _check_settings(each, how.get("settings", {}), runs)
    found = [
        named(each if isinstance(each, Subject) else subject(each, runs, device, autoencoder, dtype))
        for each in dict.fromkeys(subjects)
    ]
    return [work for each in found for conditions in asked for work in plan(each, conditions, accelerations)]


def others(
    suite: str, size: str, *, batches: Sequence[int] | None, dtype: torch.dtype = torch.float32, **how
) -> list[Workload]:
    """The workloads of a suite that is not of models.  ``batches``: rows of the flow head (default 2, 8 and 32), rows
    of a training step (16; of the tiny size 8), pairs of images (8); ``how``: the other ``Conditions``."""
    preset = PRESETS["query-ar"][size][0]
    if suite == "flow-head":
        asked = [Conditions(rows, **how) for rows in batches or workloads.HEAD_ROWS]
        return [workloads.flow_head(preset, size, each, dtype) for each in asked]
    if suite == "training":
        asked = [Conditions(rows, **{**how, "warmup": 2}) for rows in batches or ((8,) if size == "tiny" else (16,))]
        return [Training(preset, each) for each in asked]
    from bench import evaluators

    asked = [Conditions(count, **{**how, "device": "cpu"}) for count in batches or (evaluators.IMAGES,)]
    return [pair for each in asked for pair in evaluators.metrics(each)]
