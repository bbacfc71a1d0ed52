"""Reconstruction scores of an autoencoder, or of two folders of images (docs/evaluators.md 1).

Every image is encoded and decoded once, in one pass for all that is missing.  Per-image numbers, features and codes are
kept as evidence under ``work/recon/<subject>/<data>-<key>/``, and every record is made from that evidence alone.
Records of a protocol other than "default" have a suite of their own, ``<data>@<protocol>``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from evals.metrics import pixels
from evals.recon import metrics as recon_metrics
from evals.recon import source as recon_source
from evals.recon.metrics import IMAGES, METRICS, Agreement, Evidence, Measuring, Tools
from evals.recon.protocol import DEFAULT, Pipeline, resolve
from evals.recon.source import Batch, Compared, Group, Quantized, Source
from vgt.core import files, record

PAIRS = "pairs.png"  # the first originals, and their reconstructions below
SHOWN = 12


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
    shard: Shard = WHOLE,
    partial_ok: bool = False,
) -> Outcome:
    """Score ``tokenizer`` on "scenes" (500 test scenes), "photos" (256 test crops), a folder of images or WebDataset
    shards, by one protocol of evals.recon.protocol.

    ``n``: fewer images (the records are then partial); ``size``: side for a tokenizer that takes any; ``agreement``
    with ``judge`` (its name and version) adds judge agreement on scenes; ``weights``: features or LPIPS net -> file.
    Records that stand are reused; missing ones are made from evidence that stands.  ``shard``: measure this part of
    the batches and make no records; a whole run afterwards does the rest.  A value is withheld where images failed,
    unless ``partial_ok``.  Raises ValueError for what cannot be measured, before any work."""
    if agreement is not None and not judge:
        raise ValueError("agreement comes without a judge; name it with its version, for it decides the number")
    if size is not None and tokenizer.size not in (None, size):
        raise ValueError(f"{tokenizer.name} takes {tokenizer.size} px images; leave the size {size} out")
    pipeline = resolve(protocol, tokenizer.size or size)
    assert pipeline.model_res is not None
    images = datasets.image_set(data, n, pipeline.model_res, pipeline.settings["geometry"])
    source = recon_source.reconstructed(tokenizer, images, pipeline.settings["quantize"] != "round")
    codes = tokenizer.codebook_size if isinstance(tokenizer, Quantized) else None
    tools = Tools(weights or {}, any_weights, device, agreement, judge, codes, images.name == "scenes", batch)
    return _score(_Run(source, pipeline, tools, Path(work), Path(records), partial_ok), metrics, shard)


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
    return _score(_Run(source, pipeline, tools, Path(work), Path(records), partial_ok), metrics, shard)


@dataclass(frozen=True)
class _Run:
    source: Source
    pipeline: Pipeline
    tools: Tools
    work: Path
    records: Path
    partial_ok: bool

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
        return self.work / "recon" / record.folder_name(name) / f"{self.suite}-{about[:12]}"


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
        todo: dict[Path, Measuring] = {}
        for name in missing:
            todo |= METRICS[name].measuring(run.tools, run.evidence)
        _collect(run, todo, shard)
    if not shard.whole:
        return Outcome.none()
    measures = {name: _estimate(run, name, headings[name], started) for name in missing}
    return engine.write(run.records, keys, kept, measures, common, run.partial_ok, run.work)


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
    note = "; ".join(filter(None, [found.note, recon_metrics.coverage_note(evidence.folder / IMAGES)])) or None
    extra = dict(found.extra)
    if name == "psnr-mean" and (evidence.folder / PAIRS).exists():
        extra["image"] = (evidence.folder / PAIRS).relative_to(run.work).as_posix()
    place = metric.place(run.tools, evidence.folder).relative_to(run.work).as_posix()
    fields = {**heading, "evidence": place, "seconds": round(time.perf_counter() - started, 3)}
    return replace(found, note=note, extra=extra, fields=fields)


# --------------------------------------------------------------------------------------------------------- evidence


def _collect(run: _Run, todo: Mapping[Path, Measuring], shard: Shard) -> None:
    """Measure what the places of ``todo`` lack: ``<name>.jsonl`` -> rows, any other path -> a folder of arrays.

    A shard takes every n-th batch.  Raises ValueError where another process works on the same part, where a tokenizer
    changes shapes, and naming an image whose features are not finite; what was measured before stays."""
    source, folder, size = run.source, run.evidence.folder, run.tools.batch
    todo = {folder / IMAGES: _hashes, **todo}
    batches = shard.take([range(s, min(s + size, len(source.ids))) for s in range(0, len(source.ids), size)])
    names = [source.ids[i] for batch in batches for i in batch]
    with exclusive(folder, shard):
        stores = {p: Rows(p, names, shard) if p.suffix == ".jsonl" else Arrays(p) for p in todo}
        work = [(batch, [p for p in todo if _lacks(stores[p], source, batch)]) for batch in batches]
        if not _as_shown(folder):
            (folder / PAIRS).unlink(missing_ok=True)
        work = [(b, lacking) for b, lacking in work if lacking or (b.start == 0 and not (folder / PAIRS).exists())]
        title = f"{source.name} on {source.suite} ({run.pipeline.id})"
        with tqdm(total=sum(len(b) for b, _ in work), desc=title, unit="image", disable=not work) as bar:
            for batch, lacking in work:
                found, seen = _compared(run, batch)
                for place in lacking:
                    measured = [(group, todo[place](group, compared)) for group, compared in seen]
                    _keep(stores[place], source, batch, found, measured)
                bar.update(len(batch))
        for store in stores.values():
            if isinstance(store, Rows):
                store.finish()


def _as_shown(folder: Path) -> bool:
    """Whether the picture of the first pairs, where there is one, is the one that was made."""
    picture, told = folder / PAIRS, folder / f"{PAIRS}.hash"
    return not (picture.exists() and told.exists()) or told.read_text("utf-8").strip() == files.digest_file(picture)


def _lacks(store: Rows | Arrays, source: Source, batch: range) -> bool:
    if isinstance(store, Arrays):
        return store.lacks(batch.start)
    return bool(store.lacks(source.ids[i] for i in batch))


def _compared(run: _Run, batch: range) -> tuple[Batch, list[tuple[Group, Compared]]]:
    """A batch's originals and reconstructions, and the images that the pipeline makes of them."""
    found = run.source.batch(batch, run.tools.batch)
    seen: list[tuple[Group, Compared]] = []
    for group in found.groups:
        compared = recon_source.compare(run.pipeline, group.originals, group.rebuilt)
        try:
            pixels.check_sides(*compared.a.shape[-2:])
        except ValueError as error:
            found.errors |= {i: f"{run.source.ids[i]}: {error}" for i in group.positions}
            continue
        seen.append((group, compared))
    if seen and batch.start == 0 and not (run.evidence.folder / PAIRS).exists():
        _show(seen[0][0], run.evidence.folder / PAIRS)
    return found, seen


def _keep(
    store: Rows | Arrays, source: Source, batch: range, found: Batch, measured: list[tuple[Group, list | np.ndarray]]
) -> None:
    """Rows or arrays of one batch to where they belong."""
    if isinstance(store, Arrays):
        positions = [i for group, _ in measured for i in group.positions]
        values = np.concatenate([v for _, v in measured]) if measured else np.zeros((0, 0), np.float32)
        check_finite(values, [source.ids[i] for i in positions], f"{store.folder.name} features")
        store.add(batch.start, positions=np.array(positions, np.int64), values=values)
        return
    rows = {i: row for group, values in measured for i, row in zip(group.positions, values, strict=True)}
    rows |= {i: {"error": reason} for i, reason in found.errors.items()}
    if store.path.name == IMAGES:
        rows |= {i: {**rows[i], "converted": kind} for i, kind in found.converted.items()}
    store.add({source.ids[i]: {"cluster": source.clusters[i], **rows[i]} for i in sorted(rows)})


def _hashes(group: Group, seen: Compared) -> list[dict]:
    """Which pixels were compared: a hash of each original."""
    return [{"pixels": hashlib.sha256(image.tobytes()).hexdigest()} for image in seen.images_a]


def _show(group: Group, path: Path) -> None:
    rebuilt = group.rebuilt[:SHOWN]
    if rebuilt.dtype != np.uint8:
        rebuilt = np.rint(255 * rebuilt.clip(0, 1)).astype(np.uint8)
    pairs = [np.concatenate(pair) for pair in zip(group.originals[:SHOWN], rebuilt, strict=True)]
    with files.atomic(path) as part:
        Image.fromarray(np.concatenate(pairs, axis=1)).save(part)
    files.write_text(path.with_name(f"{PAIRS}.hash"), files.digest_file(path) + "\n")
