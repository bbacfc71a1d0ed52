"""The statistics of evaluators, ``vgt compare``, ``vgt gate`` and claims (docs/evaluators.md 7), in one place without
torch."""

from vgt.core.comparisons import (
    Alternative,
    Comparison,
    compare_intervals,
    compare_pairs,
    compare_replicates,
    holm,
    holm_level,
    mcnemar,
    minimum_detectable,
)
from vgt.core.intervals import (
    Interval,
    cluster_interval,
    design_effect,
    fixed_interval,
    intracluster_correlation,
    jackknife_interval,
    overall_variance,
    wilson,
)
from vgt.core.trainings import Effect, Part, effect, images_to_reach, jackknifed, pooled, speedup

__all__ = [
    "Alternative",
    "Comparison",
    "Effect",
    "Interval",
    "Part",
    "cluster_interval",
    "compare_intervals",
    "compare_pairs",
    "compare_replicates",
    "design_effect",
    "effect",
    "fixed_interval",
    "holm",
    "holm_level",
    "images_to_reach",
    "intracluster_correlation",
    "jackknife_interval",
    "jackknifed",
    "mcnemar",
    "minimum_detectable",
    "overall_variance",
    "pooled",
    "speedup",
    "wilson",
]
