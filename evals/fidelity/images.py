"""The two sides of a comparison by name: a folder, an npz of samples, the photo crops, the drawn scenes, statistics."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from evals.engine import images as datasets
from evals.engine.images import ImageSet
from evals.fidelity import references
from evals.fidelity.references import Reference
from vgt.core import files

SUBJECTS = "folder:<dir>, images:<model>[@<accel>x] or an .npz with arr_0 (uint8 [N, H, W, 3])"
REALS = "a folder, photos, scenes, images:<model>, an .npz with arr_0, or statistics .npz with mu and sigma"
IMAGES = "images:"
ARRAY = "arr_0"
GRID = "grid"  # GenEval's layout keeps an overview beside a prompt's samples


def subject(spec: str, n: int | None, size: int | None, work: str | Path) -> tuple[str, ImageSet]:
    """(name, images) of what ``spec`` names.  Without ``size`` the images must be squares of one size, and stay as
    they are; with it all are brought to ``size`` by adm-crop.  Raises ValueError for other specs."""
    kind, _, rest = spec.partition(":")
    if spec.startswith(IMAGES):
        found = drawn(rest, work)
        return rest, first(_folder(found, size or _common_side(found)), n)
    if kind == "folder" and rest:
        images = _folder(rest, size or _common_side(rest))
        return f"folder:{Path(rest).resolve().name}", first(images, n)
    if spec.endswith(".npz"):
        return f"npz:{Path(spec).stem}", first(_npz(spec, size, work), n)
    raise ValueError(f"subject {spec!r} is no set of images; give {SUBJECTS}")


def real(spec: str, n: int | None, size: int, work: str | Path) -> ImageSet | Reference:
    """The reference that ``spec`` names: images brought to ``size`` by adm-crop, or statistics from a file."""
    if spec == "photos":
        return datasets.photos(n, size)
    if spec == "scenes":
        return datasets.scenes("test", n, size)
    if spec.endswith(".npz"):
        return references.read(spec) if "mu" in references.members(spec) else first(_npz(spec, size, work), n)
    if spec.startswith(IMAGES):
        name = spec.removeprefix(IMAGES)
        return first(replace(_folder(drawn(name, work), size), name=f"images-{name}"), n)
    if not Path(spec).is_dir():
        raise ValueError(f"--real {spec!r} is not there; give {REALS}")
    return first(_folder(spec, size), n)


def drawn(model: str, work: str | Path) -> Path:
    """The folder of the images that ``vgt eval geneval`` drew for a model, the newest where there are several.
    Raises ValueError where there is none."""
    root = Path(work) / "geneval" / model.replace(":", "-").replace("/", "_")
    found = sorted(root.glob("*/subject.json"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise ValueError(f"{root} holds no images; draw them first with `vgt eval geneval`, or name another --out")
    return found[-1].parent


def reference_images(spec: str, size: int, work: str | Path) -> ImageSet | None:
    """The images that an ADM reference file holds beside its statistics, for metrics that need single images."""
    return _npz(spec, size, work) if spec.endswith(".npz") and ARRAY in references.members(spec) else None


def first(images: ImageSet, n: int | None) -> ImageSet:
    """The first ``n`` images of a set; its ``expected`` stays, so that records of fewer are partial."""
    if n is None or n >= len(images):
        return images
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
    images = datasets.folder(path, None, size)
    kept = [i for i, name in enumerate(images.ids) if not _is_grid(name)]
    return images if len(kept) == len(images) else replace(_chosen(images, kept), expected=len(kept))


def _is_grid(name: str) -> bool:
    folder, _, last = name.rpartition("/")
    return last == GRID and folder.rpartition("/")[2].isdigit()


def _common_side(path: str | Path) -> int:
    """The side of a folder's images, read from their headers.  Raises ValueError naming one that is not square or of
    another size."""
    found: tuple[str, int] | None = None
    for name, file in datasets.image_files(path).items():
        if _is_grid(name):
            continue
        try:
            with Image.open(file) as opened:
                width, height = opened.size
        except (OSError, Image.DecompressionBombError):
            continue  # counted as failed when it is its turn
        if width != height:
            raise ValueError(f"{file.name} is {width}x{height} pixels; give --size to cut a square out of every image")
        if found and found[1] != width:
            raise ValueError(
                f"{found[0]} is {found[1]} and {file.name} {width} pixels wide; give --size to bring all to one size"
            )
        found = found or (file.name, width)
    if found is None:
        raise ValueError(f"no image of {path} can be read")
    return found[1]


def _npz(path: str | Path, size: int | None, work: str | Path) -> ImageSet:
    """The images of an ADM sample file.  They are unpacked once below ``work`` and then read one at a time."""
    path = Path(path)
    if ARRAY not in references.members(path):
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
    images = np.load(unpacked, mmap_mode="r", allow_pickle=False)
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
