"""Features of a set of images as evidence on disk: moments, and single features where a metric needs them.

Image i is in block i mod B, and one block is worked on at a time, so memory is one block's sums whatever the number of
images.  A block's files are whole or absent: a killed run repeats one block at most, shards take whole blocks, and
blocks are added in their order whoever made them.

    <folder>/index-07.json            ids, positions and pixel hashes of block 7, and what could not be read
    <folder>/moments-<view>-07.npz    float64 count, sum, sum of outer products
    <folder>/features-<view>-07.npy   float32 [n, d] in the order of the index
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evals.engine.images import ImageSet, padded
from evals.engine.store import WHOLE, Shard, exclusive
from evals.features import Extractor
from evals.fidelity.references import Fingerprint, names_hash
from evals.metrics import frechet
from evals.metrics.frechet import BLOCKS, Moments
from vgt.core import files

MOMENTS, FEATURES = "moments", "features"
Kind = tuple[str, str]  # ("moments" | "features", view)


def block_count(images: int) -> int:
    """20, or fewer where a block would hold less than two images."""
    return max(1, min(BLOCKS, images // 2))


@dataclass(frozen=True)
class Evidence:
    """The evidence of one set of images with one extractor; ``batch`` images run through the network at a time, the
    last ones padded, so that no feature depends on how many images there are."""

    images: ImageSet
    extractor: Extractor
    root: Path
    batch: int

    @cached_property
    def folder(self) -> Path:
        about = files.digest_json([self.images.fingerprint, dict(self.extractor.protocol), self.batch])
        return self.root / f"{self.images.name}-{self.extractor.id}-{about[:12]}"

    @property
    def blocks(self) -> int:
        return block_count(len(self.images))

    def _path(self, kind: Kind, block: int) -> Path:
        suffix = "npz" if kind[0] == MOMENTS else "npy"
        return self.folder / f"{kind[0]}-{kind[1]}-{block:02d}.{suffix}"

    def _index_path(self, block: int) -> Path:
        return self.folder / f"index-{block:02d}.json"

    def collect(self, kinds: set[Kind], shard: Shard = WHOLE) -> None:
        """Make what is missing of ``kinds`` in this shard's blocks.

        Raises ValueError naming an image whose features are not finite; finished blocks stay."""
        mine = [b for b in range(self.blocks) if shard.mine(b)]
        missing = {b: sorted(k for k in kinds if not self._path(k, b).exists()) for b in mine}
        todo = [b for b in mine if missing[b] or not self._index_path(b).exists()]
        members = [(b, i) for b in todo for i in range(b, len(self.images), self.blocks)]
        if not members:
            return
        title = f"{self.extractor.id} of {self.images.name}"
        working: dict[int, _Block] = {}  # a batch may end one block and begin the next
        with exclusive(self.folder, shard), tqdm(total=len(members), desc=title, unit="image") as bar:
            for start in range(0, len(members), self.batch):
                chosen = members[start : start + self.batch]
                for b in dict.fromkeys(b for b, _ in chosen):
                    working.setdefault(b, _Block(missing[b], self.extractor.dims))
                self._run(chosen, working)
                following = members[start + self.batch][0] if start + self.batch < len(members) else None
                for b in [b for b in working if b != following]:
                    self._finish(b, working.pop(b))
                bar.update(len(chosen))

    def _run(self, chosen: list[tuple[int, int]], working: dict[int, _Block]) -> None:
        """One batch through the network, and its features to their blocks."""
        loaded: list[tuple[int, int, np.ndarray]] = []
        for block, i in chosen:
            try:
                loaded.append((block, i, self.images.load(i)))
            except ValueError as error:
                working[block].errors[self.images.ids[i]] = str(error)
        if not loaded:
            return
        found = self.extractor.embed(padded(np.stack([image for _, _, image in loaded]), self.batch))
        for row, (block, i, image) in enumerate(loaded):
            for view, values in found.items():
                if not np.isfinite(values[row]).all():
                    raise ValueError(
                        f"the {self.extractor.id} features ({view}) of image {self.images.ids[i]} are not finite; "
                        "look at the image and at the weights file"
                    )
            working[block].add(i, self.images.ids[i], image, {view: values[row] for view, values in found.items()})

    def _finish(self, block: int, found: _Block) -> None:
        for view, total in found.sums.items():
            frechet.save(self._path((MOMENTS, view), block), [total.moments])
        for view, rows in found.rows.items():
            with files.atomic(self._path((FEATURES, view), block)) as part:
                np.save(part, np.array(rows, np.float32).reshape(len(rows), self.extractor.dims[view]))
        files.write_json(self._index_path(block), found.index)

    # ------------------------------------------------------------------------------------------ reading

    @cached_property
    def _indices(self) -> list[dict]:
        return [json.loads(self._index_path(b).read_text(encoding="utf-8")) for b in range(self.blocks)]

    @property
    def errors(self) -> dict[str, str]:
        """{id: reason} of the images that could not be read."""
        return {name: reason for index in self._indices for name, reason in index["errors"].items()}

    @property
    def count(self) -> int:
        """Images that were read."""
        return sum(len(index["ids"]) for index in self._indices)

    @cached_property
    def order(self) -> np.ndarray:
        """Positions of the read images, block after block, and so the order that sorts them back."""
        return np.argsort([i for index in self._indices for i in index["positions"]])

    @property
    def ids(self) -> list[str]:
        """Names of the read images in the set's order."""
        names = [name for index in self._indices for name in index["ids"]]
        return [names[i] for i in self.order]

    @property
    def clusters(self) -> list[str]:
        """What each read image varies together with, in the set's order."""
        positions = sorted(i for index in self._indices for i in index["positions"])
        return [self.images.clusters[i] for i in positions]

    @property
    def block_of(self) -> np.ndarray:
        """The block of each read image, in the set's order."""
        found = np.repeat(np.arange(self.blocks), [len(index["ids"]) for index in self._indices])
        return found[self.order]

    def moments(self, view: str) -> list[Moments]:
        """One entry a block: 8 d^2 bytes each."""
        return [frechet.load(self._path((MOMENTS, view), b))[0] for b in range(self.blocks)]

    def features(self, view: str) -> np.ndarray:
        """float32 [N, d] in the set's order: 4 N d bytes."""
        found = [np.load(self._path((FEATURES, view), b), allow_pickle=False) for b in range(self.blocks)]
        return np.concatenate(found)[self.order]

    @property
    def fingerprint(self) -> Fingerprint:
        """What the statistics of the read images are of."""
        pixels: Sequence[str] = sorted(p for index in self._indices for p in index["pixels"])
        return Fingerprint(
            count=self.count,
            preprocessing=preprocessing(self.images),
            extractor=self.extractor.id,
            weights=str(self.extractor.protocol["weights"]),
            names=names_hash(self.ids),
            pixels=files.digest_json(pixels),
        )


def preprocessing(images: ImageSet) -> str:
    """How the images came to their size, e.g. "adm-crop 256"."""
    return f"{images.params.get('geometry') or images.params.get('crops') or images.params.get('world')} " + str(
        images.params.get("size")
    )


class _Block:
    """What a block under work holds so far."""

    def __init__(self, kinds: list[Kind], dims: Mapping[str, int]):
        self.sums = {view: _Sum(dims[view]) for kind, view in kinds if kind == MOMENTS}
        self.rows: dict[str, list[np.ndarray]] = {view: [] for kind, view in kinds if kind == FEATURES}
        self.errors: dict[str, str] = {}
        self._read: list[tuple[int, str, str]] = []

    def add(self, position: int, name: str, image: np.ndarray, found: Mapping[str, np.ndarray]) -> None:
        for view, total in self.sums.items():
            total.add(found[view])
        for view, rows in self.rows.items():
            rows.append(found[view].astype(np.float32))
        self._read.append((position, name, hashlib.sha256(image.tobytes()).hexdigest()))

    @property
    def index(self) -> dict:
        columns = {key: [row[k] for row in self._read] for k, key in enumerate(("positions", "ids", "pixels"))}
        return {**columns, "errors": self.errors}


class _Sum:
    """Moments of one block in float64, added in groups of a fixed size: the sums have the same bits wherever a batch
    ended."""

    GROUP = 256

    def __init__(self, d: int):
        self._total, self._outer, self._count = np.zeros(d), np.zeros((d, d)), 0
        self._waiting: list[np.ndarray] = []

    def add(self, row: np.ndarray) -> None:
        self._waiting.append(row)
        if len(self._waiting) == self.GROUP:
            self._flush()

    def _flush(self) -> None:
        rows = np.array(self._waiting, np.float64).reshape(len(self._waiting), len(self._total))
        self._count += len(rows)
        self._total += rows.sum(0)
        self._outer += rows.T @ rows
        self._waiting = []

    @property
    def moments(self) -> Moments:
        self._flush()
        return Moments(self._count, self._total, self._outer)
