"""What ``vgt gate`` holds a candidate to: a TOML file, or one that comes with the package by name."""

from __future__ import annotations

from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from vgt.core.config import Config, parsed, validated
from vgt.core.record import Record

Share = Annotated[float, Field(gt=0, lt=1)]
Margin = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Rule(Config):
    """How much worse a metric may become: ``margin`` in its own unit, or ``relative`` to the baseline's value."""

    margin: Margin | None = None
    relative: Margin | None = None
    direction: Literal["higher", "lower"] | None = (
        None  # what is better; by default as evals/compare/directions.py says
    )

    @model_validator(mode="after")
    def _one_margin(self) -> Rule:
        if (self.margin is None) == (self.relative is None):
            raise ValueError("give either margin or relative")
        return self

    def allowance(self, baseline: float) -> float:
        return self.margin if self.margin is not None else self.relative * abs(baseline)


class Policy(Config):
    """``metrics`` maps patterns to rules; the first that fits a record decides, and records that none fits are not
    gated.  A pattern is of the metric, of ``suite/metric`` or of ``model/suite/metric``."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    power: Share = 0.8
    inconclusive: Literal["warn", "fail"] = "warn"
    allow_partial: bool = False  # a part of the benchmark may be gated, where both sides cover the same n
    allow_different: tuple[str, ...] = ()  # settings that may differ: keys of protocol_params, or "accel"
    metrics: Annotated[dict[str, Rule], Field(min_length=1)]

    def rule(self, record: Record) -> tuple[str, Rule] | None:
        """The pattern that decides for a record, and its rule."""
        for pattern, rule in self.metrics.items():
            name = (record.metric, f"{record.suite}/{record.metric}", record.name)[min(pattern.count("/"), 2)]
            if fnmatchcase(name, pattern):
                return pattern, rule
        return None


def bundled() -> list[str]:
    """Names of the policies that come with the package."""
    return sorted(
        p.name[:-5] for p in (resources.files("evals.compare") / "policies").iterdir() if p.name.endswith(".toml")
    )


def read(name: str) -> Policy:
    """A policy by name or by path.  Raises ValueError naming the unknown key or the wrong value."""
    if Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    elif name in bundled():
        text = (resources.files("evals.compare") / "policies" / f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise ValueError(f"policy {name!r} is no file and none of {', '.join(bundled())}")
    return validated(Policy, parsed(text, f"policy {name}"), f"policy {name}")
