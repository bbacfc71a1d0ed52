"""Probes of an autoencoder's latent space (docs/evaluators.md 5).

Image-level probes see one view of the latents (``through``: mean, max, class token, or a sample of tokens), token-level
ones every token.  Beside a probe with labels stands its chance level: the same probe after the labels were shuffled.
The subject ``random_projection`` of evals.subjects.pca is the anchor for what an unlearned representation scores.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from evals.engine.api import Tokenizer
from evals.engine.records import Outcome
from evals.probes.catalogue import BLOCKS, CLUSTERS, Entry, Finding, entries, settings, strip
from evals.probes.data import SEED, SIZE, VIEWS, Latents, Points, ProbeSet, evidence_path, gather, scenes, view
from vgt.core import files, record, samples
from vgt.core.record import Record

__all__ = ["BLOCKS", "ProbeSet", "run"]


def run(
    tokenizer: Tokenizer,
    *,
    work: str | Path,
    records: str | Path,
    n: int | None = None,
    images: ProbeSet | None = None,
    through: str = "mean",
    wanted: str | None = None,
    clusters: int = CLUSTERS,
    partial_ok: bool = False,
) -> Outcome:
    """Probe the latents of ``images`` (default: ``n`` test scenes) in one view.

    ``wanted``: class of the cluster maps (default the set's own), ``clusters`` their number.  Records that stand are
    reused; latents are kept as evidence.  Where images cannot be read, values are withheld without ``partial_ok``."""
    images = chosen(tokenizer, n, images)
    _check(tokenizer, images, through, wanted, clusters)
    suite = f"{images.name}-latents" + (f"-{through}" if through != "mean" else "")
    probes = entries(images, through, wanted, clusters)
    params = {metric: settings(images, entry) for metric, entry in probes.items()}
    decides = {"subject": tokenizer.fingerprint, "suite": images.fingerprint, "seed": SEED}
    keys = {m: record.make_key(**decides, metric=m, params=params[m]) for m in probes}
    kept = {m: _standing(records, f"{tokenizer.name}/{suite}/{m}", key) for m, key in keys.items()}
    missing = [m for m in probes if kept[m] is None]
    if missing:
        path = evidence_path(work, tokenizer, images)
        found = gather(tokenizer, images, path)
        probing = _Run(found, view(found, through), path, Path(work), partial_ok)
        for metric in tqdm(missing, desc=f"probes of {tokenizer.name}", unit="probe"):
            common = {"subject": tokenizer.name, "suite": suite, "metric": metric, "key": keys[metric]}
            common |= {"fingerprint": tokenizer.fingerprint, "protocol_params": params[metric]}
            kept[metric] = probing.record(probes[metric], common, records)
    return Outcome([kept[m] for m in probes], len(missing), len(probes) - len(missing))


def chosen(tokenizer: Tokenizer, n: int | None = None, images: ProbeSet | None = None) -> ProbeSet:
    """``images``, or ``n`` test scenes at the encoder's size.  Raises ValueError for too few of them."""
    if n is not None and images is not None:
        raise ValueError("give n or images, not both: the set decides how many images there are")
    count = len(images) if images is not None else n
    if count is not None and count < 3 * BLOCKS:
        raise ValueError(f"n = {count} images are too few to probe a latent space; give {3 * BLOCKS} or more")
    return images or scenes(n, tokenizer.size or SIZE)


def _check(tokenizer: Tokenizer, images: ProbeSet, through: str, wanted: str | None, clusters: int) -> None:
    if through not in VIEWS:
        raise ValueError(f"view {through!r} is unknown; choose one of {', '.join(VIEWS)}")
    if through == "class" and not hasattr(tokenizer, "encode_with_class"):
        raise ValueError(f"{tokenizer.name} gives no class token; choose the view mean, max or token")
    if clusters < 2:
        raise ValueError(f"{clusters} clusters make no map; give 2 or more (6 or 8 are usual)")
    known = sorted(set(next(iter(images.labels.values()), ())))
    if wanted is not None and wanted not in known:
        raise ValueError(f"no image is of class {wanted!r}; there are {', '.join(known[:8]) or 'no labels'}")


def _standing(records: str | Path, name: str, key: str) -> Record | None:
    """The stored record while its key holds; one that misses images is made again."""
    found = record.find(records, name, key)
    return found if found is not None and found.n_failed == 0 else None


@dataclass(frozen=True)
class _Run:
    """The latents at ``path`` below ``work`` and one view of them."""

    found: Latents
    seen: Points
    path: Path
    work: Path
    partial_ok: bool

    def record(self, entry: Entry, common: dict[str, Any], records: str | Path) -> Record:
        """Run one probe; write its record, and its samples before it."""
        started = time.perf_counter()
        finding = self._with_images(self._finding(entry))
        made = record.make(
            **common,
            **finding.fields(len(self.found.kept), self.found.images.expected),
            n_failed=len(self.found.failed),
            protocol=entry.protocol,
            seed=SEED,
            suite_hash=self.found.images.fingerprint,
            evidence=self.path.relative_to(self.work).as_posix(),
            seconds=round(time.perf_counter() - started, 3),
        )
        if finding.samples is not None:
            samples.write(finding.samples, records, made)
        record.write(made, records)
        return made

    def _finding(self, entry: Entry) -> Finding:
        """What the probe finds; no value, with the reason, where these latents cannot give one."""
        failed = self.found.failed
        if failed and not self.partial_ok:
            reason = f"{len(failed)} images cannot be read ({failed[0]}): value withheld"
            return Finding(None, note=f"{reason}; remove them or pass --partial-ok")
        try:
            return entry.probe(self.found, self.seen)
        except ValueError as error:
            return Finding(None, note=str(error))

    def _with_images(self, finding: Finding) -> Finding:
        """Beside cluster maps whose images no report can draw again, the images themselves."""
        if "maps" not in finding.extra or self.found.images.redraw is not None:
            return finding
        ids = finding.extra["ids"]
        path = self.path.with_name(f"images-{files.digest_json([self.path.stem, ids])[:12]}.png")
        where = strip(self.found, ids, path).relative_to(self.work).as_posix()
        return replace(finding, extra=finding.extra | {"image": where})
