"""Per-image evidence of a reconstruction run, made in one pass over the images.

``<kind>.jsonl`` holds one row per image (``id``, ``cluster``, and measurements or an ``error``), ``<kind>/<start>.npz``
an array of one batch (features, codes).  Rows are appended batch by batch to ``<kind>.part.jsonl`` (a shard's to
``<kind>.2-of-4.part.jsonl``); a whole run takes all parts in and leaves ``<kind>.jsonl`` in order.  A killed run loses
the batch it was at; nothing is measured twice, and the bytes at the end are those of a run that was never killed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from evals.engine.images import padded
from evals.engine.store import WHOLE, Shard, exclusive
from evals.features import Extractor
from evals.metrics import psnr, ssim
from evals.recon import pipeline as recon_pipeline
from evals.recon.pipeline import Compared, Pipeline
from evals.recon.source import Batch, Group, Source
from vgt.core import files

# -> one row, or one line of an array, per image of the group
Measure = Callable[[Group, Compared], list[dict] | np.ndarray]

IMAGES, PIXELS = "images.jsonl", "pixels.jsonl"
PAIRS = "pairs.png"  # the first originals, and their reconstructions below
SHOWN = 12


# ---------------------------------------------------------------------------------------------------- measures


def measure_pixels(group: Group, seen: Compared) -> list[dict]:
    """Squared error (0..1 scale), PSNR in dB, and every SSIM variant of each pair."""
    levels = (torch.from_numpy(seen.images_a), torch.from_numpy(seen.images_b))
    errors = psnr.squared_errors(*(levels if seen.same else (seen.a, seen.b))).tolist()
    scores = {variant: values.tolist() for variant, values in ssim.batch(seen.a, seen.b).items()}
    pixels = seen.a.shape[-2] * seen.a.shape[-1]
    return [
        {"pixels": pixels, "mse": mse, "psnr": psnr.psnr(mse), **{v: scores[v][i] for v in scores}}
        for i, mse in enumerate(errors)
    ]


def measure_images(group: Group, seen: Compared) -> list[dict]:
    """Which pixels were compared: a hash of each original."""
    return [{"pixels": hashlib.sha256(image.tobytes()).hexdigest()} for image in seen.images_a]


def measure_distance(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], batch: int) -> Measure:
    """One number per image from both float images, in batches of one padded shape."""

    def measure(group: Group, seen: Compared) -> list[dict]:
        n = len(seen.a)
        a, b = (torch.cat([x, x[-1:].expand(max(0, batch - n), -1, -1, -1)]) for x in (seen.a, seen.b))
        return [{"value": v} for v in function(a, b)[:n].tolist()]

    return measure


def measure_agreement(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Measure:
    """One truth per image from both uint8 images."""
    return lambda _, seen: [{"value": float(v)} for v in function(seen.images_a, seen.images_b)]


def measure_features(extractor: Extractor, batch: int, reconstructions: bool) -> Measure:
    """float32 [N, d] features of one side, in batches of one padded shape."""

    def measure(group: Group, seen: Compared) -> np.ndarray:
        images = seen.images_b if reconstructions else seen.images_a
        found = extractor.embed(padded(images, batch))["pool"][: len(images)]
        return np.asarray(found, np.float32)

    return measure


def measure_codes(group: Group, seen: Compared) -> np.ndarray:
    """int32 [N, T] indices of a quantised tokenizer."""
    assert group.codes is not None, "chosen only for a tokenizer with a codebook"
    return group.codes().astype(np.int32)


# ------------------------------------------------------------------------------------------------------ stores


@dataclass
class _Rows:
    """Rows of one kind: appended to a part, put in order at the end."""

    path: Path
    shard: Shard
    done: set[str]

    @classmethod
    def open(cls, path: Path, shard: Shard) -> _Rows:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = cls(path, shard, set())
        found.done = {row["id"] for part in found.parts() for row in _whole_rows(part)}
        if found.own.exists() and found.own.read_bytes()[-1:] not in (b"", b"\n"):
            files.write_text(found.own, "".join(json.dumps(row) + "\n" for row in _whole_rows(found.own)))
        return found

    @property
    def own(self) -> Path:
        return self.path.with_name(f"{self.path.stem}{self.shard.suffix}.part.jsonl")

    def parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.stem}.part.jsonl")) + sorted(
            self.path.parent.glob(f"{self.path.stem}.*-of-*.part.jsonl")
        )

    def lacks(self, ids: list[str], start: int) -> bool:
        return not self.path.exists() and any(name not in self.done for name in ids)

    def add(self, rows: dict[str, dict], start: int) -> None:
        new = {name: row for name, row in rows.items() if name not in self.done}
        with open(self.own, "a", encoding="utf-8") as lines:
            lines.write("".join(json.dumps({"id": name, **row}) + "\n" for name, row in new.items()))
        self.done |= set(new)

    def finish(self, ids: Mapping[str, int]) -> None:
        """``ids``: position of each image.  Leaves the file whole and in order, without parts."""
        if not self.path.exists():
            lines = {row["id"]: json.dumps(row) + "\n" for part in self.parts() for row in _whole_rows(part)}
            files.write_text(self.path, "".join(lines[name] for name in sorted(lines, key=ids.__getitem__)))
        for part in self.parts():
            part.unlink()


@dataclass
class Arrays:
    """One file per batch: whole or absent."""

    folder: Path

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:08d}.npz"

    def lacks(self, ids: list[str], start: int) -> bool:
        return not self._path(start).exists()

    def add(self, positions: list[int], values: np.ndarray, start: int) -> None:
        with files.atomic(self._path(start)) as part:
            np.savez(part, positions=np.array(positions, np.int64), values=values)


def _whole_rows(path: Path) -> Iterator[dict]:
    """Rows of a file; a line cut short by a kill is left out."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if line.endswith("\n"):
                yield row


# --------------------------------------------------------------------------------------------------- collecting


def collect(
    source: Source, pipeline: Pipeline, folder: Path, kinds: Mapping[Path, Measure], batch: int, shard: Shard = WHOLE
) -> None:
    """Measure what ``kinds`` lack: ``<name>.jsonl`` -> rows, any other path -> a folder of arrays.

    A shard takes every n-th batch.  Raises ValueError where another process works on the same part, where a tokenizer
    changes shapes, and naming an image whose features are not finite; what was measured before stays."""
    kinds = {folder / IMAGES: measure_images, **kinds}
    starts = [s for k, s in enumerate(range(0, len(source.ids), batch)) if shard.mine(k)]
    with exclusive(folder, shard):
        stores = {p: _Rows.open(p, shard) if p.suffix == ".jsonl" else Arrays(p) for p in kinds}
        todo = []
        for start in starts:
            ids = list(source.ids[start : start + batch])
            lacking = [p for p in kinds if stores[p].lacks(ids, start)]
            todo += [(start, ids, lacking)] if lacking else []
        count = sum(len(ids) for _, ids, _ in todo)
        title = f"{source.name} on {source.suite} ({pipeline.id})"
        with tqdm(total=count, desc=title, unit="image", disable=not todo) as bar:
            for start, ids, lacking in todo:
                found = source.batch(range(start, start + len(ids)), batch)
                _measure(source, pipeline, folder, found, {p: kinds[p] for p in lacking}, stores, start)
                bar.update(len(ids))
        if shard.whole:
            positions = {name: i for i, name in enumerate(source.ids)}
            for store in stores.values():
                if isinstance(store, _Rows):
                    store.finish(positions)


def _measure(
    source: Source,
    pipeline: Pipeline,
    folder: Path,
    found: Batch,
    kinds: Mapping[Path, Measure],
    stores: Mapping[Path, _Rows | Arrays],
    start: int,
) -> None:
    seen: list[tuple[Group, Compared]] = []
    for group in found.groups:
        compared = recon_pipeline.compare(pipeline, group.originals, group.rebuilt)
        try:
            ssim.check_sides(*compared.a.shape[-2:])
        except ValueError as error:
            found.errors |= {i: f"{source.ids[i]}: {error}" for i in group.positions}
            continue
        seen.append((group, compared))
    if seen and start == 0 and not (folder / PAIRS).exists():
        _show(seen[0][0], folder / PAIRS)
    for path, measure in kinds.items():
        store, made = stores[path], [(group, measure(group, compared)) for group, compared in seen]
        if isinstance(store, Arrays):
            positions = [i for group, _ in made for i in group.positions]
            values = np.concatenate([v for _, v in made]) if made else np.zeros((0, 0), np.float32)
            _refuse_not_finite(path, source, positions, values)
            store.add(positions, values, start)
            continue
        rows = {i: row for group, values in made for i, row in zip(group.positions, values, strict=True)}
        rows |= {i: {"error": reason} for i, reason in found.errors.items()}
        if path.name == IMAGES:
            rows |= {i: {**rows[i], "converted": kind} for i, kind in found.converted.items()}
        store.add({source.ids[i]: {"cluster": source.clusters[i], **rows[i]} for i in sorted(rows)}, start)


def _refuse_not_finite(path: Path, source: Source, positions: list[int], values: np.ndarray) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        where = source.ids[positions[int(np.argmin(np.isfinite(values).all(1)))]]
        raise ValueError(f"{path.name}: the features of image {where} are not finite; look at it and at the weights")


def _show(group: Group, path: Path) -> None:
    rebuilt = group.rebuilt[:SHOWN]
    if rebuilt.dtype != np.uint8:
        rebuilt = np.rint(255 * rebuilt.clip(0, 1)).astype(np.uint8)
    pairs = [np.concatenate(pair) for pair in zip(group.originals[:SHOWN], rebuilt, strict=True)]
    with files.atomic(path) as part:
        Image.fromarray(np.concatenate(pairs, axis=1)).save(part)


# ------------------------------------------------------------------------------------------------------ reading


def read_rows(path: Path) -> tuple[list[dict], dict[str, str]]:
    """The rows with measurements, and {id: error} of the images that failed."""
    rows = list(_whole_rows(path))
    return [r for r in rows if "error" not in r], {r["id"]: r["error"] for r in rows if "error" in r}


def read_arrays(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(positions [n], values [n, d]) batch after batch."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as stored:
            yield stored["positions"], stored["values"]
