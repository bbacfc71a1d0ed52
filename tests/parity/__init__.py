"""Our numbers against independent implementations: how far apart they are, measured.

The implementations are the real packages (torchmetrics, pytorch-fid, clean-fid, prdc: ``pip install vgt[test]``;
torch-fidelity, lpips, scikit-image, scikit-learn and scipy are dependencies anyway).  Where no package computes a
number, a second formulation of the same mathematics stands here.

One file per family of metrics, each with a tuple ``CHECKS``.  ``python -m parity``, run in tests/, measures them all
and writes evals/tolerances.json, which evals/PROTOCOLS.md prints; tests/test_parity.py holds each to its limit.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """``measure()`` -> the largest difference found, in ``unit``, between our value of ``protocol`` and that of
    ``against`` (a package's function or an independent formulation) over the inputs that ``inputs`` describes; more
    than ``limit`` is an error.  ``slow``: takes tens of seconds."""

    protocol: str
    against: str
    inputs: str
    unit: str
    limit: float
    measure: Callable[[], float]
    slow: bool = False


def checks() -> list[Check]:
    """All checks, by file."""
    modules = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return [check for m in modules for check in importlib.import_module(f"{__name__}.{m}").CHECKS]
