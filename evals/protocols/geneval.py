"""GenEval (spec evaluators 2)."""

from evals.protocols import Protocol

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol("geneval", "geneval", "GenEval's scoring rules and thresholds (0.3; counting 0.9; position 0.1)"),
)
