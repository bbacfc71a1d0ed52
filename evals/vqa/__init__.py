"""Question answering about the synthetic scenes (docs/evaluators.md 4)."""

from evals.engine.protocol import Protocol

PROTOCOLS: tuple[Protocol, ...] = (
    Protocol(
        "exact-match",
        "vqa",
        "share of right one-word answers about held-out scenes of the synthetic scenes",
        {"comparison": "stripped, lower case, without trailing punctuation", "interval": "clustered by scene"},
        ("this harness",),
        "4",
    ),
)
