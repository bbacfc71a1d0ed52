"""The registry of protocols: every definition of a number that this harness can compute, and who uses it.

Each evaluator's module ``protocol`` has a tuple ``PROTOCOLS``.  Nothing here imports more than the standard library, so the
registry can be listed anywhere.  ``python -m evals.engine.protocol_page`` writes evals/PROTOCOLS.md from it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """One way to compute something.  ``id``: what records carry; ``evaluator``: the name under ``vgt eval``;
    ``settings``: everything that is fixed by the protocol, resolved; ``used_by``: papers and tools that report it;
    ``section``: of the evaluator specification; ``caution``: what a reader of such a number must know."""

    id: str
    evaluator: str
    summary: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    used_by: tuple[str, ...] = ()
    section: str = ""
    caution: str = ""


# the packages of evaluators that define numbers, in the order of the page
DEFINED_IN = ("dpg", "fidelity", "geneval", "probes", "recon", "solvers", "understanding")


def registry() -> dict[str, Protocol]:
    """All protocols by id, sorted by evaluator, then in the order of their file.  Raises ValueError for a double id."""
    found: dict[str, Protocol] = {}
    for name in DEFINED_IN:
        for protocol in importlib.import_module(f"evals.{name}.protocol").PROTOCOLS:
            if protocol.id in found:
                raise ValueError(f"two protocols have the id {protocol.id!r}; ids must differ")
            found[protocol.id] = protocol
    return found
