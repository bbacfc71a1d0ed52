"""Latent probes (spec evaluators 5)."""

from evals.protocols import Protocol

PROTOCOLS: tuple[Protocol, ...] = ()
