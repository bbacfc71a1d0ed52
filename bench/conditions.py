"""Under which conditions a model is timed, and what they are called in the names of records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vgt.core.config import validated
from vgt.methods.sampling import TINY_TOKENS, Sampling

PROTOCOL_REPEATS = 3  # fewer are recorded as partial
FLIGHTS = 4  # batches that follow each other without waiting, in throughput mode
MODES = ("latency", "throughput")


@dataclass(frozen=True)
class Conditions:
    """``batch`` images at a time; ``repeats`` timed rounds after ``warmup`` untimed ones; ``settings``: sampling
    settings that differ from the model's usual ones; ``eager``: also time the reference implementation; ``mode``: latency waits
    for every batch, throughput for every ``FLIGHTS`` of them; ``steps``: only the first so many decode steps, no
    images."""

    batch: int = 8
    repeats: int = PROTOCOL_REPEATS
    warmup: int = 1
    device: str = "cpu"
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    eager: bool = False
    mode: Literal["latency", "throughput"] = "latency"
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.batch < 1 or self.repeats < 1 or self.warmup < 1:
            found = f"batch {self.batch}, {self.repeats} repeats, {self.warmup} warm-ups"
            raise ValueError(f"{found}: all three must be 1 or more")
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r} is unknown; choose one of {', '.join(MODES)}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"{self.steps} decode steps are too few; time 1 or more, or leave --steps out")
        if self.steps is not None and self.mode != "latency":
            raise ValueError("the first decode steps are timed in latency mode only; leave --steps or --mode out")
        self._check_settings()

    def _check_settings(self) -> None:
        """Raises ValueError for settings that suit neither small nor large models, before one is loaded."""
        try:
            self.sampling(TINY_TOKENS, 1)
        except ValueError:
            self.sampling(TINY_TOKENS + 1, 1)

    @property
    def flights(self) -> int:
        return FLIGHTS if self.mode == "throughput" else 1

    @property
    def suite(self) -> str:
        """The suite of the records, e.g. "bench-b8", "bench-b1-n8" for the first 8 decode steps."""
        part = f"-n{self.steps}" if self.steps is not None else ""
        return f"bench-b{self.batch}{part}" + "-throughput" * (self.mode == "throughput")

    def sampling(self, tokens: int, acceleration: int) -> Sampling:
        """The settings of a generator of ``tokens`` image tokens.  Raises ValueError for those that do not fit."""
        values = {**Sampling.usual(tokens), **self.settings, "acceleration": acceleration}
        return validated(Sampling, values, "sampling settings")
