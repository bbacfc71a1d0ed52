"""DPG-Bench (spec evaluators 3)."""

from evals.protocols import Protocol

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol("dpg-fixed", "dpg", "DPG-Bench's rules with all tiles, topological zeroing, nothing dropped"),
)
