"""Reconstruction scores of an autoencoder, or of two folders of images (docs/evaluators.md 1).

Every image is encoded and decoded once; per-image measurements and features are kept as evidence under
``work/recon/<subject>/<data>-<key>/``, and every record is made from that evidence alone.  Records of a protocol other
than "default" have a suite of their own, ``<data>@<protocol>``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.engine import images as datasets
from evals.engine.api import Tokenizer
from evals.engine.records import Outcome
from evals.engine.store import WHOLE, Shard
from evals.metrics import codebook
from evals.recon import (
    evidence as recon_evidence,
)
from evals.recon import (
    metrics as recon_metrics,
)
from evals.recon import (
    pipeline as recon_pipeline,
)
from evals.recon import (
    source as recon_source,
)
from evals.recon.metrics import AGREEMENT, FRECHET, PIXELS, Agreement, Found, Tools
from evals.recon.pipeline import Pipeline
from evals.recon.protocol import DEFAULT
from evals.recon.source import Quantized, Source
from vgt.core import files, record, samples
from vgt.core.record import Record

__all__ = ["PIXELS", "Agreement", "pairs", "run"]


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
    pipeline = recon_pipeline.resolve(protocol, tokenizer.size or size)
    assert pipeline.model_res is not None
    images = datasets.image_set(data, n, pipeline.model_res, pipeline.settings["geometry"])
    source = recon_source.Reconstructed(tokenizer, images, pipeline.settings["quantize"] != "round")
    tools = Tools(
        weights or {},
        any_weights,
        device,
        agreement,
        judge,
        tokenizer.codebook_size if isinstance(tokenizer, Quantized) else None,
        images.name == "scenes",
    )
    return _score(_Run(source, pipeline, tools, Path(work), Path(records), batch, partial_ok), metrics, shard)


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
) -> Outcome:
    """Compare two folders of images matched by their path without suffix: psnr-mean, psnr-global, every SSIM variant,
    then LPIPS and Fréchet distances for which there are weights.

    The images are taken as they are; only a protocol's resampling on the way to the comparison is applied, at the
    paper's ratio.  An image without counterpart, of another size or unreadable counts as failed.  Raises ValueError
    where the folders share no name; other arguments as for ``run``."""
    source = recon_source.folders(real_dir, recon_dir)
    pipeline = recon_pipeline.resolve(protocol, source.size, given=True)
    tools = Tools(weights or {}, any_weights, device)
    return _score(_Run(source, pipeline, tools, Path(work), Path(records), batch, partial_ok), metrics, shard)


@dataclass(frozen=True)
class _Run:
    source: Source
    pipeline: Pipeline
    tools: Tools
    work: Path
    records: Path
    batch: int
    partial_ok: bool

    @property
    def suite(self) -> str:
        return self.source.suite + ("" if self.pipeline.id == DEFAULT else f"@{self.pipeline.id}")

    @property
    def params(self) -> dict[str, Any]:
        return {**self.source.params, **self.pipeline.params()}

    def _folder(self, name: str, *parts: str) -> Path:
        about = files.digest_json([*parts, self.params, self.batch])
        return self.work / "recon" / name.replace("/", "_").replace(":", "-") / f"{self.suite}-{about[:12]}"

    @property
    def folder(self) -> Path:
        return self._folder(self.source.name, self.source.identity, self.source.originals)

    @property
    def originals(self) -> Path:
        return self._folder("originals", self.source.originals)


def _score(run: _Run, metrics: Sequence[str] | None, shard: Shard) -> Outcome:
    wanted, _ = recon_metrics.chosen(metrics, run.tools)
    headings = {metric: _heading(run, metric, definition) for metric, definition in wanted.items()}
    kept = {m: _stored(run, heading) for m, heading in headings.items()}
    missing = [m for m in wanted if kept[m] is None]
    if missing:
        started = time.perf_counter()
        kinds: dict = {}
        for metric in missing:
            kinds |= run.tools.measures(metric, run.folder, run.originals, run.batch)
        recon_evidence.collect(run.source, run.pipeline, run.folder, kinds, run.batch, shard)
        for metric in missing if shard.whole else ():
            kept[metric] = _record(run, metric, headings[metric], started)
    if not shard.whole:
        return Outcome([], 0, 0)
    return Outcome([kept[m] for m in wanted], len(missing), len(wanted) - len(missing))


def _stored(run: _Run, heading: Mapping[str, Any]) -> Record | None:
    """The record that stands, unless it lacks images: those are tried again."""
    found = record.find(run.records, f"{heading['subject']}/{heading['suite']}/{heading['metric']}", heading["key"])
    return found if found is not None and found.value is not None and not found.n_failed else None


def _heading(run: _Run, metric: str, definition: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record that are known before anything is measured, its key among them."""
    own = metric in run.pipeline.settings["own"]
    params = {**run.params, **definition, **({} if run.pipeline.id == DEFAULT else {"reported_by_its_papers": own})}
    judge = run.tools.judge if metric == AGREEMENT else None
    identity = {"subject": run.source.identity, "suite": run.source.originals}
    return {
        "subject": run.source.name,
        "suite": run.suite,
        "metric": metric,
        "unit": recon_metrics.unit(metric),
        "n_expected": run.source.expected,
        "protocol": metric if run.pipeline.id == DEFAULT else run.pipeline.id,
        "protocol_params": params,
        "judge": judge,
        "fingerprint": run.source.identity,
        "suite_hash": run.source.originals,
        "key": record.make_key(**identity, metric=metric, params=params, judge=judge),
    }


def _found(run: _Run, metric: str) -> Found:
    path = run.tools.evidence(metric, run.folder)
    if metric in FRECHET:
        originals = run.tools.evidence(metric, run.originals)
        found = recon_metrics.from_features(originals, path, len(run.source.ids))
        found.extra["reference"] = recon_metrics.reference(run.folder / recon_evidence.IMAGES)
        return found
    if metric in codebook.METRICS:
        assert run.tools.codebook_size is not None
        return recon_metrics.from_codes(path, metric, run.tools.codebook_size)
    return recon_metrics.from_rows(path, metric)


def _record(run: _Run, metric: str, heading: Mapping[str, Any], started: float) -> Record:
    """Make and write one record and its samples; the value is withheld where images failed and nobody allowed that."""
    found = _found(run, metric)
    asked = len(run.source.ids)
    failed = asked - found.n
    note = [found.note, recon_metrics.coverage_note(run.folder / recon_evidence.IMAGES)]
    interval = found.interval
    if failed and interval is not None and not run.partial_ok:
        interval = None
        note.append(f"{found.n} of {asked} images scored: value withheld")
    measured = {"value": None, "low": None, "high": None, "interval": None}
    if interval is not None:
        measured = {"value": interval.value, "low": interval.low, "high": interval.high, "interval": interval.method}
    extra = dict(found.extra)
    if metric == "psnr-mean" and (run.folder / recon_evidence.PAIRS).exists():
        extra["image"] = (run.folder / recon_evidence.PAIRS).relative_to(run.work).as_posix()
    made = record.make(
        **heading,
        **measured,
        n=found.n,
        n_failed=failed,
        note="; ".join(filter(None, note)) or None,
        extra=extra,
        evidence=run.tools.evidence(metric, run.folder).relative_to(run.work).as_posix(),
        seconds=round(time.perf_counter() - started, 3),
    )
    record.write(made, run.records)
    if found.samples is not None and interval is not None:
        samples.write(found.samples, run.records, made)
    else:
        samples.path(run.records, made).unlink(missing_ok=True)
    return made
