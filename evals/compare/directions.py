"""Which way a metric is better."""

from __future__ import annotations

from fnmatch import fnmatchcase

from vgt.core.record import Record

HIGHER, LOWER = "higher", "lower"

# The first pattern of the metric's name decides; None: neither way is better (a description, not a score).
NAMES: tuple[tuple[str, str | None], ...] = (
    *((name, LOWER) for name in ("fd-*", "fid*", "?fid*", "kid*", "cmmd*", "lpips*", "*mse", "loss*", "*collapse")),
    *((name, LOWER) for name in ("ms-*", "peak-memory*", "*flip-rate")),
    ("cluster-maps", None),  # a share, but of a description
    *((name, HIGHER) for name in ("psnr*", "ssim*", "is-*", "precision*", "recall*", "density*", "coverage*")),
    *(
        (name, HIGHER)
        for name in ("*accuracy*", "*agreement*", "*kappa*", "linear-probe*", "silhouette*", "codebook-*")
    ),
    *((name, HIGHER) for name in ("nmi*", "ari*", "homogeneity*", "completeness*", "spatial-smoothness")),
    *((name, HIGHER) for name in ("mme*", "mmbench*", "ai2d*", "textvqa*", "clip*", "*per-second")),
)
# Then its unit.
UNITS = {"share": HIGHER, "of 100": HIGHER, "dB": HIGHER, "images/s": HIGHER, "ms": LOWER, "s": LOWER, "MiB": LOWER}


def of(record: Record) -> str | None:
    """ "higher" or "lower" for what is better, None where that is not known."""
    for pattern, direction in NAMES:
        if fnmatchcase(record.metric, pattern):
            return direction
    return UNITS.get(record.unit)


def span(record: Record) -> float | None:
    """The largest difference that two samples can have, None for values without bounds."""
    return {"share": 1.0, "of 100": 100.0}.get(record.unit)
