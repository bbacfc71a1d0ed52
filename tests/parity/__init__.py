"""Our numbers against independent implementations: how far apart they are, measured.

One file per evaluator, each with a tuple ``CHECKS``.  ``python -m parity`` runs them all and writes
evals/tolerances.json, which evals/PROTOCOLS.md prints; the tests hold each to its limit.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """``measure()`` -> the largest difference found, in ``unit``, between our value of ``protocol`` and that of
    ``against`` (name of the library or of the independent formulation) over the inputs that ``inputs`` describes;
    more than ``limit`` is an error."""

    protocol: str
    against: str
    inputs: str
    unit: str
    limit: float
    measure: Callable[[], float]


def checks() -> list[Check]:
    """All checks, by file."""
    modules = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return [check for m in modules for check in importlib.import_module(f"{__name__}.{m}").CHECKS]
