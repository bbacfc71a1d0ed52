"""The statistics of evaluators, ``vgt compare`` and ``vgt gate`` (docs/evaluators.md 7), in one place without torch."""

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

__all__ = [
    "Alternative",
    "Comparison",
    "Interval",
    "cluster_interval",
    "compare_intervals",
    "compare_pairs",
    "compare_replicates",
    "design_effect",
    "fixed_interval",
    "holm",
    "holm_level",
    "intracluster_correlation",
    "jackknife_interval",
    "mcnemar",
    "minimum_detectable",
    "overall_variance",
    "wilson",
]
