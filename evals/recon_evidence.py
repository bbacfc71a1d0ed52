"""Per-image evidence of a reconstruction run: made in one pass over the images, kept in one file per kind.

``<kind>.jsonl`` holds one row per image (``id``, ``cluster``, and measurements or an ``error``); ``<kind>.npz`` holds
features.  A file is either whole or absent, so a kind that stands is never measured again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from evals import features
from evals.api import Tokenizer
from evals.data import ImageSet, padded
from evals.metrics import psnr, ssim
from vgt.core import files

# (originals, reconstructions), uint8 [N, H, W, 3] each -> what to keep of each image
Measure = Callable[[np.ndarray, np.ndarray], list]

PIXELS = "pixels.jsonl"
PAIRS = "pairs.png"  # the first originals, and their reconstructions below
SHOWN = 12


def pixel_row(original: np.ndarray, reconstruction: np.ndarray) -> dict[str, float]:
    """Squared error (0..1 scale), PSNR in dB, and every SSIM variant of one pair."""
    mse = psnr.squared_error(original, reconstruction)
    row = {"pixels": original.shape[0] * original.shape[1], "mse": mse, "psnr": psnr.psnr(mse)}
    return row | {variant: ssim.ssim(original, reconstruction, variant) for variant in ssim.VARIANTS}


def measure_pixels(originals: np.ndarray, reconstructions: np.ndarray) -> list[dict]:
    return [pixel_row(a, b) for a, b in zip(originals, reconstructions, strict=True)]


def measure_features(name: str) -> Measure:
    """Features of the reconstructions."""
    return lambda _, reconstructions: list(features.extract(name, reconstructions))


def measure_value(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Measure:
    """One number or truth per image, as ``value``."""
    return lambda a, b: [{"value": float(v)} for v in function(a, b)]


def batches(images: ImageSet, size: int, label: str) -> Iterator[tuple[list[int], np.ndarray, dict[int, str]]]:
    """(positions, uint8 [N, H, W, 3], {position: error} of images that could not be read), with a progress bar."""
    with tqdm(total=len(images), desc=label, unit="image") as bar:
        for start in range(0, len(images), size):
            loaded, broken = {}, {}
            for i in range(start, min(start + size, len(images))):
                try:
                    loaded[i] = images.load(i)
                except ValueError as error:
                    broken[i] = str(error)
            yield list(loaded), np.stack(list(loaded.values())) if loaded else np.empty((0,)), broken
            bar.update(len(loaded) + len(broken))


def collect(tokenizer: Tokenizer, images: ImageSet, folder: Path, kinds: dict[str, Measure], batch: int) -> None:
    """Measure the ``kinds`` (file name -> measure) that ``folder`` lacks, in one pass."""
    missing = {name: measure for name, measure in kinds.items() if not (folder / name).exists()}
    if not missing:
        return
    kept: dict[str, dict[int, object]] = {name: {} for name in missing}
    errors: dict[int, str] = {}
    shown: list[np.ndarray] = []
    for positions, originals, broken in batches(images, batch, f"{tokenizer.name} on {images.name}"):
        errors |= broken
        if not positions:
            continue
        rebuilt = tokenizer.reconstruct(padded(originals, batch))[: len(originals)]
        if rebuilt.shape != originals.shape or rebuilt.dtype != np.uint8:
            raise ValueError(
                f"{tokenizer.name} turned uint8 {originals.shape} into {rebuilt.dtype} {rebuilt.shape}; "
                "a tokenizer gives back uint8 images of the same shape"
            )
        shown = shown or [np.concatenate(pair) for pair in zip(originals[:SHOWN], rebuilt[:SHOWN], strict=True)]
        for name, measure in missing.items():
            kept[name].update(zip(positions, measure(originals, rebuilt), strict=True))
    if shown:
        with files.atomic(folder / PAIRS) as part:
            Image.fromarray(np.concatenate(shown, axis=1)).save(part)
    for name, found in kept.items():
        _write(folder / name, images, found, errors)


def _write(path: Path, images: ImageSet, found: dict[int, object], errors: dict[int, str]) -> None:
    if path.suffix == ".npz":
        write_features(path, [images.ids[i] for i in found], list(found.values()))
        return
    rows = []
    for i, (name, cluster) in enumerate(zip(images.ids, images.clusters, strict=True)):
        content = {"error": errors[i]} if i in errors else found[i]
        rows.append({"id": name, "cluster": cluster, **content})
    write_rows(path, rows)


def write_rows(path: Path, rows: list[dict]) -> None:
    files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: Path) -> tuple[list[dict], int]:
    """The rows with measurements, and the number of images that failed."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    good = [row for row in rows if "error" not in row]
    return good, len(rows) - len(good)


def write_features(path: Path, ids: list[str], found: list[np.ndarray]) -> None:
    # Networks compute in float32, so nothing is lost.
    stacked = np.stack(found).astype(np.float32) if found else np.zeros((0, 0), np.float32)
    with files.atomic(path) as part:
        np.savez(part, ids=np.array(ids, dtype=np.str_), features=stacked)


def read_features(path: Path) -> tuple[list[str], np.ndarray]:
    """(ids, float64 [N, d])."""
    with np.load(path, allow_pickle=False) as stored:
        return stored["ids"].tolist(), stored["features"].astype(np.float64)


def original_features(name: str, images: ImageSet, path: Path, batch: int) -> tuple[list[str], np.ndarray]:
    """(ids, features float64 [N, d]) of the images themselves: made once per data set, shared by all tokenizers."""
    if not path.exists():
        ids, found = [], []
        for positions, originals, _ in batches(images, batch, f"features of {images.name}"):
            if positions:
                ids += [images.ids[i] for i in positions]
                found += list(features.extract(name, originals))
        write_features(path, ids, found)
    return read_features(path)
