"""Statistics of a reference set as a file: mean and covariance of features, with a fingerprint of how they were made
(docs/evaluators.md 1.6).

The layout is pytorch-fid's and ADM's: an npz with ``mu`` [d] and ``sigma`` [d, d], optionally ``mu_s`` and ``sigma_s``
of the spatial features and ``arr_0``, uint8 images [N, H, W, 3].  Files of ours add ``fingerprint``, a JSON text;
without it a file is unverified, and what is computed with it says so.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from evals.metrics.frechet import Gaussian
from vgt.core import files

KEYS = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
UNVERIFIED = "unverified reference statistics: the file says neither preprocessing nor network"


@dataclass(frozen=True)
class Fingerprint:
    """What a set of statistics was made from.  ``count``: images; ``preprocessing``: how they came to their size, e.g.
    "adm-crop 256"; ``extractor`` and ``weights``: id of the features and hash of the network; ``names``: hash of the
    images' names in order; ``pixels``: hash of the sorted hashes of the images' pixels."""

    count: int
    preprocessing: str
    extractor: str
    weights: str
    names: str
    pixels: str


@dataclass(frozen=True)
class Reference:
    """Statistics from a file.  ``gaussians``: view ("pool", "spatial") -> Gaussian; ``digest``: hash of the content;
    ``fingerprint``: None for files made elsewhere."""

    name: str
    gaussians: Mapping[str, Gaussian]
    digest: str
    fingerprint: Fingerprint | None

    @property
    def label(self) -> str | None:
        return None if self.fingerprint else UNVERIFIED


def names_hash(ids) -> str:
    """Hash of image names in their sorted order."""
    return files.digest_json(sorted(ids))


def export(path: str | Path, gaussians: Mapping[str, Gaussian], fingerprint: Fingerprint) -> Path:
    """Write statistics atomically; other tools read ``mu`` and ``sigma``."""
    arrays = {}
    for view, gaussian in gaussians.items():
        mean, covariance = KEYS[view]
        arrays |= {mean: gaussian.mean, covariance: gaussian.covariance}
    text = np.array(json.dumps(asdict(fingerprint), sort_keys=True))
    with files.atomic(Path(path).with_suffix(".npz")) as part:
        np.savez(part, fingerprint=text, **arrays)
    return Path(path).with_suffix(".npz")


def members(path: str | Path) -> tuple[str, ...]:
    """Names of the arrays of an npz.  Raises ValueError where it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as npz: {error}; give statistics with mu and sigma") from error


def read(path: str | Path) -> Reference:
    """Statistics of an npz.  Raises ValueError naming what is missing, of another shape or not finite."""
    path = Path(path)
    held = members(path)
    if not {"mu", "sigma"} <= set(held):
        raise ValueError(f"{path.name} holds {', '.join(held) or 'nothing'}; statistics need mu and sigma")
    gaussians = {}
    with np.load(path, allow_pickle=False) as stored:
        for view, (mean, covariance) in KEYS.items():
            if mean in held and covariance in held:
                gaussians[view] = _gaussian(path, stored[mean], stored[covariance])
        fingerprint = None
        if "fingerprint" in held:
            try:
                fingerprint = Fingerprint(**json.loads(str(stored["fingerprint"])))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path.name} has a damaged fingerprint: {error}; export it again") from error
    content = [[view, g.mean.tobytes().hex(), files.digest(g.covariance.tobytes())] for view, g in gaussians.items()]
    return Reference(f"stats-{path.stem}", gaussians, files.digest_json(content), fingerprint)


def _gaussian(path: Path, mean: np.ndarray, covariance: np.ndarray) -> Gaussian:
    mean, covariance = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
    if mean.ndim != 1 or covariance.shape != (mean.size, mean.size):
        raise ValueError(f"{path.name} has a mean {mean.shape} and a covariance {covariance.shape}; they do not fit")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{path.name} holds numbers that are not finite; make the statistics again")
    return Gaussian(mean, covariance)


def check(
    reference: Reference,
    *,
    extractor: str,
    weights: str,
    dims: Mapping[str, int],
    preprocessing: str,
    paired_with: str | None = None,
    count: int | None = None,
) -> None:
    """Refuse statistics that the features at hand must not be compared with.

    ``dims``: view -> dimensions of the features at hand; ``paired_with``: ``names_hash`` of the images that
    reconstructions belong to, with their ``count``: rFID takes the statistics of the very same images, preprocessed
    alike, never those of a training set.  Raises ValueError saying what differs."""
    name, found = reference.name, reference.fingerprint
    for view, d in dims.items():
        if view in reference.gaussians and reference.gaussians[view].mean.size != d:
            raise ValueError(
                f"{name} has {reference.gaussians[view].mean.size} dimensions, {extractor} features have {d}: "
                "these are statistics of another extractor"
            )
    if found is None:
        if paired_with is not None:
            raise ValueError(
                f"{name} has no fingerprint, so nothing shows that it is of the images that were reconstructed; "
                "give the folder of those images (published statistics are for generation, not for rFID)"
            )
        return
    wanted = {"extractor": extractor, "weights": weights, "preprocessing": preprocessing}
    for field, value in wanted.items():
        if getattr(found, field) != value:
            raise ValueError(
                f"{name} was made with {field} {getattr(found, field)!r}, these features with {value!r}: "
                "make the statistics again in the same way"
            )
    if paired_with is not None and (found.names, found.count) != (paired_with, count):
        raise ValueError(
            f"{name} is of {found.count} other images than the {count} reconstructed ones; rFID compares images with "
            "themselves: give the folder of the originals"
        )
