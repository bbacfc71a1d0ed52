"""A protocol: one definition of a number that this harness can compute, and who uses it.

A module with PROTOCOLS (evals/engine/registry.py names it) imports nothing more, so that they can be listed anywhere.
``python -m evals.engine.protocol_page`` writes evals/PROTOCOLS.md from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """One way to compute something.  ``id``: what records carry; ``evaluator``: the name under ``vgt eval``;
    ``settings``: everything that is fixed by the protocol, resolved; ``used_by``: papers and tools that report it;
    ``section``: of docs/evaluators.md; ``caution``: what a reader of such a number must know."""

    id: str
    evaluator: str
    summary: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    used_by: tuple[str, ...] = ()
    section: str = ""
    caution: str = ""
