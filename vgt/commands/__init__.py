"""The verbs that belong to the package itself; each module has ``arguments(parser)`` and ``run(args) -> dict``."""
