"""The two sides of a comparison by name: a folder, an npz of samples, photo crops, synthetic scenes, the images that
GenEval's evaluator made of a model; or, for the reference, statistics from a file (docs/evaluators.md 1.6).

Statistics are mean and covariance of features with a fingerprint of how they were made.  The layout is pytorch-fid's
and ADM's: an npz with ``mu`` [d] and ``sigma`` [d, d], optionally ``mu_s`` and ``sigma_s`` of the spatial features and
``arr_0``, uint8 images [N, H, W, 3].  Files of ours add ``fingerprint``, a JSON text; without it a file is unverified,
and what is computed with it says so.
"""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from evals.engine import api, generation
from evals.engine import images as datasets
from evals.engine.generation import Run
from evals.engine.images import ImageSet
from evals.metrics.frechet import Gaussian
from vgt.core import files, geneval_prompts, record
from vgt.core.images import ImageError, image_size
from vgt.core.listing import folder_name, image_files
from vgt.core.text import parse_json, read_json

SUBJECTS = (
    "vgt:<generator by class>, folder:<dir>, images:<model>[@<accel>x] or an .npz with arr_0 (uint8 [N, H, W, 3])"
)
REALS = (
    "a folder (or folder:<dir>), photos, scenes, scenes:single_object, images:<model>, an .npz with arr_0, "
    "or statistics .npz with mu and sigma"
)
IMAGES = "images:"
ARRAY = "arr_0"
CLASSES = "classes"  # the folder of images that are made by class
GRID = "grid"  # GenEval's layout keeps an overview beside a prompt's samples


def subject(spec: str | Run, n: int | None, size: int | None, work: str | Path) -> tuple[str, ImageSet]:
    """(name, images) of what ``spec`` names, or of a class-conditional generator, made where they are missing.
    Without ``size`` the images must be squares of one size, and stay as they are; with it all are resized to ``size``
    by adm-crop.  Raises ValueError for other specs."""
    if isinstance(spec, Run):
        return spec.model, _labelled(_of_classes(spec, size, spec.folder(work, CLASSES)), spec.suite, spec.seed)
    kind, _, rest = spec.partition(":")
    if spec.startswith(IMAGES):
        found = generated(rest, work)
        told = read_json(found / generation.SUBJECT)
        images = _labelled(_folder(found, size or _common_side(found)), str(told.get("suite")), told.get("seed"))
        return rest, first(images, n)
    if kind == "folder" and rest:
        images = _folder(rest, size or _common_side(rest))
        return f"folder:{folder_name(rest)}", first(images, n)
    if spec.endswith(".npz"):
        return f"npz:{Path(spec).stem}", first(_npz(spec, size, work), n)
    raise ValueError(f"subject {spec!r} is no set of images; give {SUBJECTS}")


def _labelled(images: ImageSet, suite: str, seed: int | None) -> ImageSet:
    """Images with how their labels came about, where they were made by class."""
    if not suite.startswith(CLASSES):
        return images
    return replace(images, params={**images.params, "labels": generation.labels_of(suite, seed)})


def settings(spec: str | Run, work: str | Path) -> dict | None:
    """How a generator sampled the images of a subject; None where nobody tells."""
    if isinstance(spec, Run):
        found = getattr(spec.subject, "settings", None)
        return None if found is None else dict(found)
    if not spec.startswith(IMAGES):
        return None
    return read_json(generated(spec.removeprefix(IMAGES), work) / generation.SUBJECT).get("settings")


def origin(spec: str | Run, work: str | Path, named: bool = False) -> str:
    """Whose the images of a subject are (evals/engine/api.py); ``named``: not by the name of their place."""
    if isinstance(spec, Run):
        return api.origin(spec.subject)
    if not spec.startswith(IMAGES):
        return record.place(spec.removeprefix("folder:"), named=named)
    found = generated(spec.removeprefix(IMAGES), work)
    told = read_json(found / generation.SUBJECT).get("origin")
    return told or record.place(found, named=True)  # an earlier version did not tell


def real(spec: str, n: int | None, size: int, work: str | Path, subject: str = "") -> ImageSet | Reference:
    """The reference that ``spec`` names: images resized to ``size`` by adm-crop, or statistics from a file.
    "photos", "scenes" and "scenes:<task>" are always the built-in sets.  ``subject``: what it is compared with, as
    named."""
    if spec == "photos":
        return datasets.photos(n, size)
    if spec == "scenes" or spec.startswith("scenes:"):
        return datasets.scenes("test", n, size, spec.partition(":")[2] or None)
    if spec.endswith(".npz"):
        if "mu" not in members(spec):
            return first(_npz(spec, size, work), n)
        _check_side(Path(spec), size)
        return read_statistics(spec)
    if spec.startswith(IMAGES):
        name = spec.removeprefix(IMAGES)
        like = generated(subject.removeprefix(IMAGES), work) if subject.startswith(IMAGES) else None
        return first(replace(_folder(generated(name, work, like), size), name=f"images-{name}"), n)
    check_real(spec)
    return first(_folder(Path(spec.removeprefix("folder:")), size), n)


def check_real(spec: str) -> None:
    """Raises ValueError for a reference that cannot be had, as far as that can be told without images."""
    if spec in ("photos", "scenes") or spec.startswith(IMAGES):
        return
    if spec.startswith("scenes:"):
        datasets.scenes("test", 1, task=spec.partition(":")[2])
    elif spec.endswith(".npz"):
        members(spec)
    elif not Path(spec.removeprefix("folder:")).is_dir():
        raise ValueError(f"--real {spec!r} is not there; give {REALS}")


def generated(model: str, work: str | Path, like: Path | None = None) -> Path:
    """The folder of the images that ``vgt eval geneval`` made of a model, or this one of a generator by class.

    Where there are several (other weights, prompts or seeds), the one that the model's records in ``work`` were judged
    on, and of those the one with the prompts and seed of the folder ``like``.  Raises ValueError where there is none,
    and naming them where several fit."""
    roots, safe = (Path(work) / "geneval", Path(work) / CLASSES), record.folder_name(model)
    found = sorted(path.parent for root in roots for path in (root / safe).glob(f"*/{generation.SUBJECT}"))
    if not found:
        raise ValueError(
            f"{roots[0] / safe} holds no images; make them first with `vgt eval geneval`, or name another --out"
        )
    fits = found
    if len(fits) > 1:
        judged = _judged(model, work)
        fits = [folder for folder in fits if folder in judged] or fits
    if len(fits) > 1 and like is not None:
        fits = [folder for folder in fits if _prompts(folder) == _prompts(like)] or fits
    if len(fits) > 1:
        names = " and ".join(str(folder) for folder in fits)
        raise ValueError(f"images:{model} fits {names}; name one of these folders itself, or remove the others")
    return fits[0]


def _judged(model: str, work: str | Path) -> set[Path]:
    """The folders below ``work`` that the records of a model were made from."""
    root = Path(work) / "records" / record.folder_name(model)
    records = record.read(root) if root.exists() else []
    return {(Path(work) / one.evidence).parent for one in records if one.evidence}


def _prompts(folder: Path) -> tuple:
    """What the images in a folder were made for."""
    about = read_json(folder / "subject.json")
    return tuple(about.get(key) for key in ("suite", "suite_hash", "seed"))


def _check_side(path: Path, size: int) -> None:
    """Raises ValueError where the images that lie beside a file's statistics have another side than ``size``: then the
    statistics are of that other size too."""
    if ARRAY not in members(path):
        return
    shape = _array_shape(path)
    if len(shape) == 4 and shape[1:3] != (size, size):
        raise ValueError(
            f"{path.name} is of images of {shape[2]}x{shape[1]} pixels, the subject's are {size}x{size}; "
            f"give --size {shape[1]}, or the statistics of that size"
        )


def _array_shape(path: Path) -> tuple[int, ...]:
    """The shape of ``arr_0`` from its header.  Raises ValueError where it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{ARRAY}.npy") as packed:
            version = np.lib.format.read_magic(packed)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            return read(packed)[0]
    except UNREADABLE as error:
        raise ValueError(f"{path.name}: {ARRAY} cannot be read ({error}); give uint8 [N, H, W, 3]") from error


def reference_images(spec: str, size: int, work: str | Path) -> ImageSet | None:
    """The images that an ADM reference file holds beside its statistics, for metrics that need single images."""
    return _npz(spec, size, work) if spec.endswith(".npz") and ARRAY in members(spec) else None


def _of_classes(run: Run, size: int | None, folder: Path) -> ImageSet:
    """The images of a run, among those that other runs have made in ``folder``; the whole set is ``CLASS_IMAGES``."""
    generation.check(run)
    wanted = {path.relative_to(folder).with_suffix("") for path in generation.images(run, folder).paths.values()}
    found = _folder(folder, size or _common_side(folder))
    found = _chosen(found, [i for i, name in enumerate(found.ids) if Path(name) in wanted])
    return replace(found, expected=max(generation.CLASS_IMAGES, len(found)))


def first(images: ImageSet, n: int | None) -> ImageSet:
    """The first ``n`` images of a set; its ``expected`` stays, so that records of fewer are partial, and becomes ``n``
    where there are not so many."""
    if n is None:
        return images
    if n >= len(images):
        return datasets.of(images, n)
    if n < 1:
        raise ValueError(f"n = {n} images; give 1 or more")
    return _chosen(images, range(n))


def _chosen(images: ImageSet, positions: Sequence[int]) -> ImageSet:
    ids = tuple(images.ids[i] for i in positions)
    return replace(
        images,
        ids=ids,
        clusters=tuple(images.clusters[i] for i in positions),
        load=lambda i: images.load(positions[i]),
        fingerprint=files.digest_json([images.fingerprint, ids]),
    )


def _folder(path: str | Path, size: int) -> ImageSet:
    """The images of a folder; one that an evaluator made has as many as its protocol asks for, or is partial."""
    images = datasets.folder(path, None, size)
    kept = [i for i, name in enumerate(images.ids) if not _is_grid(name)]
    found = images if len(kept) == len(images) else _chosen(images, kept)
    return datasets.of(replace(found, expected=len(kept)), _asked(Path(path)))


def _asked(folder: Path) -> int:
    """How many images there are of a model by the protocol that the images in ``folder`` were made for; 0 for images
    that no evaluator made."""
    if not (folder / "subject.json").is_file():
        return 0
    suite = str(read_json(folder / "subject.json").get("suite"))
    if suite.startswith(CLASSES):
        return generation.CLASS_IMAGES
    full = geneval_prompts.prompts() if suite == "geneval" else generation.full_suite(suite)
    prompts = len(full) if full else len(list(folder.glob("*/metadata.jsonl")))
    samples = max((len(list(place.glob("*.png"))) for place in folder.glob("*/samples")), default=0)
    return prompts * max(generation.IMAGES_PER_PROMPT, samples)


def _is_grid(name: str) -> bool:
    folder, _, last = name.rpartition("/")
    return last == GRID and folder.rpartition("/")[2].isdigit()


def _common_side(path: str | Path) -> int:
    """The side of a folder's images, read from their headers.  Raises ValueError naming one that is not square or of
    another size."""
    found: tuple[str, int] | None = None
    for name, file in image_files(path).items():
        if _is_grid(name):
            continue
        try:
            width, height = image_size(file)
        except ImageError:
            continue  # counted as failed when it is its turn
        if width != height:
            raise ValueError(f"{file.name} is {width}x{height} pixels; give --size to cut a square out of every image")
        if found and found[1] != width:
            raise ValueError(
                f"{found[0]} is {found[1]} and {file.name} {width} pixels wide; give --size to resize all to one size"
            )
        found = found or (file.name, width)
    if found is None:
        raise ValueError(f"no image of {path} can be read")
    return found[1]


def _npz(path: str | Path, size: int | None, work: str | Path) -> ImageSet:
    """The images of an ADM sample file.  They are unpacked once below ``work`` and then read one at a time."""
    path = Path(path)
    if ARRAY not in members(path):
        raise ValueError(f"{path.name} holds no {ARRAY}; give an npz of uint8 images [N, H, W, 3]")
    digest = files.digest_file(path)
    unpacked = Path(work) / "fidelity" / "npz" / f"{path.stem}-{digest[:12]}.npy"
    if not unpacked.exists():
        with (
            zipfile.ZipFile(path) as archive,
            archive.open(f"{ARRAY}.npy") as packed,
            files.atomic(unpacked) as part,
            open(part, "wb") as target,
        ):
            shutil.copyfileobj(packed, target, 1 << 20)
    try:
        images = np.load(unpacked, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path.name}: {ARRAY} cannot be read ({error}); give uint8 [N, H, W, 3]") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or len(images) == 0:
        raise ValueError(f"{path.name}: {ARRAY} is {images.dtype} {images.shape}; give uint8 [N, H, W, 3]")
    if size is None and images.shape[1] != images.shape[2]:
        raise ValueError(f"{path.name} holds images of {images.shape[2]}x{images.shape[1]} pixels; give --size")
    side = size or images.shape[1]

    names = tuple(f"{i:06d}" for i in range(len(images)))
    return ImageSet(
        name=f"npz-{path.stem}",
        ids=names,
        clusters=names,
        load=lambda i: datasets.adm_crop(Image.fromarray(np.ascontiguousarray(images[i])), side),
        expected=len(names),
        fingerprint=files.digest_json([digest, side]),
        params={"geometry": "adm-crop", "size": side, "cluster": "image"},
    )


# ------------------------------------------------------------------------------------- statistics of a reference set


KEYS = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
ROUNDING = 1e-4  # of the largest eigenvalue: what float32 leaves of a covariance of thousands of features
UNREADABLE = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)  # numpy's, of a member
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


def export_statistics(path: str | Path, gaussians: Mapping[str, Gaussian], fingerprint: Fingerprint) -> Path:
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


def read_statistics(path: str | Path) -> Reference:
    """Statistics of an npz.  Raises ValueError for what is missing, of another shape, not finite or no covariance."""
    path = Path(path)
    held = members(path)
    if not {"mu", "sigma"} <= set(held):
        raise ValueError(f"{path.name} holds {', '.join(held) or 'nothing'}; statistics need mu and sigma")
    gaussians = {}
    with np.load(path, allow_pickle=False) as stored:
        for view, (mean, covariance) in KEYS.items():
            if mean in held and covariance in held:
                gaussians[view] = _gaussian(path, _numbers(path, stored, mean), _numbers(path, stored, covariance))
        fingerprint = None
        if "fingerprint" in held:
            try:
                fingerprint = Fingerprint(**parse_json(str(stored["fingerprint"]), "fingerprint"))
            except (TypeError, *UNREADABLE) as error:
                raise ValueError(f"{path.name} has a damaged fingerprint: {error}; export it again") from error
    content = [[view, g.mean.tobytes().hex(), files.digest(g.covariance.tobytes())] for view, g in gaussians.items()]
    return Reference(f"stats-{path.stem}", gaussians, files.digest_json(content), fingerprint)


def _numbers(path: Path, stored: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """An array of an npz as float64.  Raises ValueError where it cannot be read or holds anything but real numbers."""
    try:
        found = stored[name]
    except UNREADABLE as error:
        raise ValueError(f"{path.name}: {name} cannot be read ({error}); make the statistics again") from error
    if found.dtype.kind not in "fiu":
        raise ValueError(f"{path.name}: {name} holds {found.dtype} and not real numbers; make the statistics again")
    return found.astype(np.float64)


def _gaussian(path: Path, mean: np.ndarray, covariance: np.ndarray) -> Gaussian:
    if mean.ndim != 1 or covariance.shape != (mean.size, mean.size):
        raise ValueError(f"{path.name} has a mean {mean.shape} and a covariance {covariance.shape}; they do not fit")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{path.name} holds numbers that are not finite; make the statistics again")
    fault = f"{path.name} has a covariance that is not"
    if np.abs(covariance - covariance.T).max(initial=0) > ROUNDING * np.abs(covariance).max(initial=0):
        raise ValueError(f"{fault} symmetric; make the statistics again")
    values = np.linalg.eigvalsh(covariance)
    if values.min(initial=0) < -ROUNDING * np.abs(values).max(initial=0):
        raise ValueError(f"{fault} positive semidefinite (eigenvalue {values[0]:.3g}); make the statistics again")
    return Gaussian(mean, covariance)


def check_statistics(
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
