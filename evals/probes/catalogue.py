"""Which probes there are for a set of images, under which metric names and protocols."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from evals.engine.registry import protocols
from evals.metrics import spectra
from evals.metrics.clusters import AGREEMENT
from evals.probes import content, geometry
from evals.probes.data import ProbeSet
from evals.probes.geometry import Probe
from evals.probes.views import VIEWS

CLUSTERS = 6


@dataclass(frozen=True)
class Entry:
    """One probe in a run: ``protocol`` id, what it computes, what belongs to its settings beside the protocol's."""

    protocol: str
    probe: Probe
    about: dict[str, Any]


def _named(base: str, label: str, labels: list[str]) -> str:
    """Metric of a probe with labels: the main label goes without saying."""
    return base if label == labels[0] else f"{base}-{label}"


def _of_labels(labels: list[str], seen: dict) -> dict[str, Entry]:
    found = {}
    for label in labels:
        about = seen | {"labels": label}
        found |= {
            _named("silhouette", label, labels): Entry("probe-silhouette", content.silhouette(label), about),
            _named("knn-accuracy", label, labels): Entry("probe-knn", content.knn(label), about),
            f"linear-probe-{label}": Entry("probe-linear", content.linear(label), about),
        }
        for score in AGREEMENT:
            found[_named(score, label, labels)] = Entry(f"probe-{score}", content.agreement(score, label), about)
    return found


_SPECTRAL = {
    "effective-rank": (spectra.effective_rank, True),
    "participation-ratio": (spectra.participation_ratio, True),
    "pc1-share": (spectra.first_component_share, True),
    "correlation": (spectra.mean_correlation, True),
    "collapse": (spectra.collapsed_share, False),
}


def _spectral(tokens: bool, seen: dict) -> dict[str, Entry]:
    return {
        f"{'token-' * tokens}{name}": Entry(f"probe-{name}", geometry.spectral(measure, tokens, standardized), seen)
        for name, (measure, standardized) in _SPECTRAL.items()
    }


def _of_tokens(images: ProbeSet, wanted: str | None, clusters: int) -> dict[str, Entry]:
    seen = {"view": "every token"}
    absolute = geometry.mean_absolute
    variance = partial(geometry.distribution, lambda part: part.variance)
    found = _spectral(True, seen) | {
        "channel-variance": Entry("probe-channel-variance", variance(np.median), seen),
        "skew": Entry("probe-skew", geometry.distribution(spectra.skewness, absolute), seen),
        "kurtosis": Entry("probe-kurtosis", geometry.distribution(spectra.excess_kurtosis, absolute), seen),
        "kl-normal": Entry("probe-kl-normal", geometry.distribution(spectra.kl_to_normal, unit="nats"), seen),
        "spatial-smoothness": Entry("probe-smoothness", geometry.smoothness, seen),
    }
    seen = seen | {"k": clusters, "class": wanted}
    found["cluster-maps"] = Entry("probe-cluster-maps", content.cluster_maps(wanted, clusters), seen)
    if images.covered is not None:
        found["object-clusters"] = Entry("probe-object-clusters", content.object_clusters(wanted, clusters), seen)
    return found


def entries(
    images: ProbeSet, through: str = "mean", wanted: str | None = None, clusters: int = CLUSTERS
) -> dict[str, Entry]:
    """metric -> probe, for one view.  What needs labels is left out where there are none; what sees every token is run
    with the view "mean" alone, what needs whole images not with the view "token"."""
    seen = {"view": VIEWS[through]}
    found = {"tsne": Entry("probe-tsne", geometry.tsne, seen)} | _of_labels(list(images.labels), seen)
    if through != "token":
        pairs = seen | {"positive": images.positives}
        found |= _spectral(False, seen)
        found["alignment"] = Entry("probe-alignment", geometry.alignment(through), pairs)
        found["uniformity"] = Entry("probe-uniformity", geometry.uniformity, seen)
    if through == "mean":
        found |= _of_tokens(images, wanted or images.map_class, clusters)
    return found


def settings(images: ProbeSet, entry: Entry) -> dict[str, Any]:
    """All resolved settings of one probe on these images."""
    return dict(protocols()[entry.protocol].settings) | images.params | entry.about
