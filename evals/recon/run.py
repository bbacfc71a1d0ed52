"""Reconstruction scores of an autoencoder, or of two folders of images (docs/evaluators.md 1).

Every image is encoded and decoded once, in one pass for all that is missing.  Per-image numbers, features and codes are
kept as evidence under ``work/recon/<subject>/<data>-<key>/``, and every record is made from that evidence alone.
Records of a protocol other than "default" have a suite of their own, ``<data>@<protocol>``.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from evals.engine import images as datasets
from evals.engine import records as engine
from evals.engine.api import Tokenizer
from evals.engine.records import Estimate, Outcome
from evals.engine.store import WHOLE, Arrays, Rows, Shard, check_finite, exclusive
from evals.recon import metrics as recon_metrics
from evals.recon import source as recon_source
from evals.recon.metrics import IMAGES, METRICS, Agreement, Evidence, Measuring, Tools
from evals.recon.protocol import DEFAULT, Pipeline, resolve
from evals.recon.source import Batch, Compared, Group, Quantized, Source
from vgt.core import files, record
from vgt.core.text import Fields

PAIRS = "pairs.png"  # the first originals, and their reconstructions below
SHOWN = 12
MEMORY = 8.0  # GB that a metric may take for one image


def run(
    tokenizer: Tokenizer,
    *,
    work: str | Path,
    records: str | Path,
    data: str | Path,
    n: int | None = None,
    metrics: Sequence[str] | None = None,
    protocol: str = DEFAULT,
    size: int | None = None,
    batch: int = 32,
    agreement: Agreement | None = None,
    judge: str | None = None,
    weights: Mapping[str, Path] | None = None,
    any_weights: bool = False,
    device: str = "cpu",
    memory: float = MEMORY,
    shard: Shard = WHOLE,
    partial_ok: bool = False,
) -> Outcome:
    """Score ``tokenizer`` on "scenes" (500 test scenes), "photos" (256 test crops), a folder of images or WebDataset
    shards, by one protocol of evals.recon.protocol.

    ``n``: fewer images (the records are then partial); ``size``: side for a tokenizer that takes any; ``agreement``
    with ``judge`` (its name and version) adds judge agreement on scenes; ``weights``: features or LPIPS net -> file.
    Records that stand are reused; missing ones are made from evidence that stands.  ``memory``: GB that a metric may
    take for one image; images that need more are refused.  ``shard``: measure this part of
    the batches and make no records; a whole run afterwards does the rest.  A value is withheld where images failed,
    unless ``partial_ok``.  Raises ValueError for what cannot be measured, before any work."""
    if agreement is not None and not judge:
        raise ValueError("agreement comes without a judge; name it with its version, for it decides the number")
    if size is not None and tokenizer.size not in (None, size):
        raise ValueError(f"{tokenizer.name} takes {tokenizer.size} px images; leave the size {size} out")
    pipeline = resolve(protocol, tokenizer.size or size, smallest=recon_metrics.smallest(metrics))
    assert pipeline.model_res is not None and pipeline.eval_res is not None
    geometry = pipeline.settings["geometry"]
    images = datasets.image_set(data, n, pipeline.model_res, geometry)
    references = None
    if pipeline.resizes and pipeline.settings["reference"] and images.name.startswith("folder-"):
        references = datasets.image_set(data, n, pipeline.eval_res, geometry)
    source = recon_source.reconstructed(tokenizer, images, pipeline.settings, references)
    codes = tokenizer.codebook_size if isinstance(tokenizer, Quantized) else None
    tools = Tools(weights or {}, any_weights, device, agreement, judge, codes, images.name == "scenes", batch)
    return _score(_Run(source, pipeline, tools, Path(work), Path(records), partial_ok, memory), metrics, shard)


def pairs(
    real_dir: str | Path,
    recon_dir: str | Path,
    *,
    work: str | Path,
    records: str | Path,
    metrics: Sequence[str] | None = None,
    protocol: str = DEFAULT,
    batch: int = 32,
    weights: Mapping[str, Path] | None = None,
    any_weights: bool = False,
    device: str = "cpu",
    memory: float = MEMORY,
    shard: Shard = WHOLE,
    partial_ok: bool = False,
    name: str | None = None,
) -> Outcome:
    """Compare two folders of images matched by their path without suffix, by all metrics for which there are weights.

    The images are taken as they are; only a protocol's resampling on the way to the comparison is applied, at the
    paper's ratio.  An image without counterpart, of another size or unreadable counts as failed.  ``name``: that the
    records carry, by default "pairs-<recon_dir's own>".  Raises ValueError where the folders share no name of an image;
    other arguments as for ``run``."""
    source = recon_source.folders(real_dir, recon_dir, named=name is not None)
    source = replace(source, name=engine.settled(records, source, name))
    pipeline = resolve(protocol, source.size, given=True)
    tools = Tools(weights or {}, any_weights, device, batch=batch)
    return _score(_Run(source, pipeline, tools, Path(work), Path(records), partial_ok, memory), metrics, shard)


@dataclass(frozen=True)
class _Run:
    source: Source
    pipeline: Pipeline
    tools: Tools
    work: Path
    records: Path
    partial_ok: bool
    memory: float

    @property
    def suite(self) -> str:
        return self.source.suite + ("" if self.pipeline.id == DEFAULT else f"@{self.pipeline.id}")

    @property
    def params(self) -> dict[str, Any]:
        return {**self.source.params, **self.pipeline.params()}

    @property
    def evidence(self) -> Evidence:
        source = self.source
        folder = self._folder(source.name, source.identity, source.originals)
        return Evidence(folder, self._folder("originals", source.originals), len(source.ids), source.expected)

    def _folder(self, name: str, *parts: str) -> Path:
        about = files.digest_json([*parts, self.params, self.tools.batch])
        return files.inside(self.work, "recon", record.folder_name(name), f"{self.suite}-{about[:12]}")


def _score(run: _Run, names: Sequence[str] | None, shard: Shard) -> Outcome:
    wanted, _ = recon_metrics.chosen(names, run.tools)
    headings = {name: _heading(run, name, definition) for name, definition in wanted.items()}
    keys = {name: heading.pop("key") for name, heading in headings.items()}
    common = {"subject": run.source.name, "suite": run.suite, "origin": run.source.origin or run.source.identity}
    engine.claim(run.records, keys, **common, fingerprint=run.source.identity)
    kept = engine.stored(run.records, run.source.name, run.suite, keys, work=run.work)
    missing = [name for name in wanted if name not in kept]
    started = time.perf_counter()
    if missing:
        _check_memory(run, missing)
        todo: dict[Path, Measuring] = {}
        smallest: dict[Path, int] = {}
        columns: dict[Path, set[str]] = {}
        for name in missing:
            found = METRICS[name].measuring(run.tools, run.evidence)
            todo |= found
            smallest |= dict.fromkeys(found, METRICS[name].smallest)
            for place in found:
                columns.setdefault(place, set()).update(METRICS[name].columns)
        _collect(run, todo, smallest, columns, shard)
    if not shard.whole:
        return Outcome.none()
    measures = {name: _estimate(run, name, headings[name], started) for name in missing}
    return engine.write(run.records, keys, kept, measures, common, run.partial_ok, run.work)


def _check_memory(run: _Run, names: Sequence[str]) -> None:
    """Raises ValueError where one image would take more memory than allowed."""
    largest, pixels = run.source.largest
    for name in names:
        need = METRICS[name].memory * pixels / 1e9
        if need > run.memory:
            raise ValueError(
                f"{largest} has {pixels / 1e6:.0f} million pixels, for which {name} takes about {need:.0f} GB of "
                f"memory; leave the metric out with --metrics, or allow it with --memory {math.ceil(need)}"
            )


def _heading(run: _Run, name: str, definition: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record that are known before anything is measured, its key among them."""
    own = name in run.pipeline.settings["own"]
    params = {**run.params, **definition, **({} if run.pipeline.id == DEFAULT else {"reported_by_its_papers": own})}
    judge = METRICS[name].judge(run.tools)
    identity = {"subject": run.source.identity, "suite": run.source.originals}
    return {
        "protocol": name if run.pipeline.id == DEFAULT else run.pipeline.id,
        "protocol_params": params,
        "judge": judge,
        "fingerprint": run.source.identity,
        "suite_hash": run.source.originals,
        "key": record.make_key(**identity, metric=name, params=params, judge=judge),
    }


def _estimate(run: _Run, name: str, heading: Mapping[str, Any], started: float) -> Estimate:
    """What the evidence says, with the fields of the record that are its own."""
    metric, evidence = METRICS[name], run.evidence
    found = metric.estimate(run.tools, evidence)
    path = metric.place(run.tools, evidence.folder)
    note = "; ".join(filter(None, [found.note, recon_metrics.coverage_note(evidence.folder, path)])) or None
    extra = dict(found.extra)
    if name == "psnr-mean" and (evidence.folder / PAIRS).exists():
        extra["image"] = (evidence.folder / PAIRS).relative_to(run.work).as_posix()
    fields = {
        **heading,
        "evidence": path.relative_to(run.work).as_posix(),
        "seconds": round(time.perf_counter() - started, 3),
    }
    return replace(found, note=note, extra=extra, fields=fields)


# --------------------------------------------------------------------------------------------------------- evidence


def _collect(
    run: _Run,
    todo: Mapping[Path, Measuring],
    smallest: Mapping[Path, int],
    columns: Mapping[Path, set[str]],
    shard: Shard,
) -> None:
    """Measure what the places of ``todo`` lack: ``<name>.jsonl`` -> rows, any other path -> a folder of arrays.

    ``smallest``: the side that an image must have there; ``columns``: the numbers of a row.  A shard takes every n-th
    batch.  Raises ValueError where another process works on the same part, where a tokenizer changes shapes, and
    naming an image whose features are not finite; what was measured before stays."""
    source, folder, size = run.source, run.evidence.folder, run.tools.batch
    todo = {folder / IMAGES: _hashes, **todo}
    batches = shard.take([range(s, min(s + size, len(source.ids))) for s in range(0, len(source.ids), size)])
    names = [source.ids[i] for batch in batches for i in batch]

    def check(path: Path, row: Fields) -> None:
        row.text("cluster")
        if path.name == IMAGES:
            row.text("pixels")
        for column in columns.get(path, ()):
            row.number(column)

    with exclusive(folder, shard):
        stores = {p: Rows(p, names, shard, partial(check, p)) if p.suffix == ".jsonl" else Arrays(p) for p in todo}
        work = [(batch, [p for p in todo if _lacks(stores[p], source, batch)]) for batch in batches]
        if not _as_shown(folder):
            (folder / PAIRS).unlink(missing_ok=True)
        work = [(b, lacking) for b, lacking in work if lacking or (b.start == 0 and not (folder / PAIRS).exists())]
        title = f"{source.name} on {source.suite} ({run.pipeline.id})"
        with tqdm(total=sum(len(b) for b, _ in work), desc=title, unit="image", disable=not work or None) as bar:
            for batch, lacking in work:
                found = source.batch(batch, size)
                measured: dict[Path, list[_Measured]] = {place: [] for place in lacking}
                for group in found.groups:
                    _show(group, folder / PAIRS, batch)
                    seen = recon_source.compare(run.pipeline, group.originals, group.rebuilt, group.references)
                    for place in lacking:
                        measured[place].append(_measured(run, group, seen, todo[place], smallest.get(place, 1)))
                    bar.update(len(group.positions))
                for place in lacking:
                    _keep(stores[place], source, batch, found, measured[place])
                bar.update(len(found.errors))
        for store in stores.values():
            if isinstance(store, Rows):
                store.finish()


# Positions of images, and their rows, lines of an array, or the reason why they have none.
_Measured = tuple[list[int], list[dict] | np.ndarray | str]


def _measured(run: _Run, group: Group, seen: Compared, measure: Measuring, smallest: int) -> _Measured:
    height, width = seen.size
    if min(height, width) >= smallest:
        return group.positions, measure(group, seen)
    return group.positions, f"{width}x{height} pixels are too few, {smallest} a side are needed"


def _as_shown(folder: Path) -> bool:
    """Whether the picture of the first pairs, where there is one, is the one that was made."""
    picture, told = folder / PAIRS, folder / f"{PAIRS}.hash"
    return not (picture.exists() and told.exists()) or told.read_bytes().strip() == files.digest_file(picture).encode()


def _lacks(store: Rows | Arrays, source: Source, batch: range) -> bool:
    if isinstance(store, Arrays):
        return store.lacks(batch.start, lambda held: _fits(held, batch))
    return bool(store.lacks(source.ids[i] for i in batch))


def _fits(held: Mapping[str, np.ndarray], batch: range) -> bool:
    """Whether stored arrays are those of images of a batch."""
    positions, values = held.get("positions"), held.get("values")
    if positions is None or values is None or positions.ndim != 1 or positions.dtype.kind != "i":
        return False
    known = len(set(positions.tolist())) == len(positions) and set(positions.tolist()) <= set(batch)
    return known and values.ndim >= 1 and values.dtype.kind in "if" and len(values) == len(positions)


def _keep(store: Rows | Arrays, source: Source, batch: range, found: Batch, measured: list[_Measured]) -> None:
    """Rows or arrays of one batch to where they belong."""
    values = [(positions, one) for positions, one in measured if not isinstance(one, str)]
    if isinstance(store, Arrays):
        where = [i for positions, _ in values for i in positions]
        array = np.concatenate([one for _, one in values]) if values else np.zeros((0, 0), np.float32)
        check_finite(array, [source.ids[i] for i in where], f"{store.folder.name} features")
        store.add(batch.start, positions=np.array(where, np.int64), values=array)
        return
    rows = {i: row for positions, one in values for i, row in zip(positions, one, strict=True)}
    small = {i: f"{source.ids[i]}: {one}" for positions, one in measured if isinstance(one, str) for i in positions}
    rows |= {i: {"error": reason} for i, reason in {**small, **found.errors}.items()}
    if store.path.name == IMAGES:
        rows |= {i: {**rows[i], "converted": kind} for i, kind in found.converted.items()}
    store.add({source.ids[i]: {"cluster": source.clusters[i], **rows[i]} for i in sorted(rows)})


def _hashes(group: Group, seen: Compared) -> list[dict]:
    """Which pixels were compared: a hash of each original."""
    return [{"pixels": hashlib.sha256(image.tobytes()).hexdigest()} for image in seen.images_a]


def _show(group: Group, path: Path, batch: range) -> None:
    """The first images, where they are not large, as originals above reconstructions."""
    if batch.start > 0 or path.exists() or group.originals[0].size > 3 * recon_source.GROUP_PIXELS:
        return
    shown = [recon_source.levels(images[:SHOWN], "round") for images in (group.originals, group.rebuilt)]
    with files.atomic(path) as part:
        Image.fromarray(np.concatenate([np.concatenate(pair) for pair in zip(*shown, strict=True)], axis=1)).save(part)
    files.write_text(path.with_name(f"{PAIRS}.hash"), files.digest_file(path) + "\n")
