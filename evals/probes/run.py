"""Probes of an autoencoder's latent space (docs/evaluators.md 5).

Image-level probes see one view of the latents (``through``: mean, max, class token, or a sample of tokens), token-level
ones every token.  Beside a probe with labels stands its chance level: the same probe after the labels were shuffled.
The subject ``random_projection`` of evals.subjects.pca is the anchor for what an unlearned representation scores.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from evals.engine import records as engine
from evals.engine.api import Tokenizer, origin
from evals.engine.records import Estimate, Outcome
from evals.probes.catalogue import BLOCKS, CLUSTERS, Entry, Measured, entries, settings, side_by_side
from evals.probes.data import SEED, SIZE, VIEWS, Latents, Points, ProbeSet, encoded, evidence_path, scenes, view
from vgt.core import files, record


def run(
    tokenizer: Tokenizer,
    *,
    work: str | Path,
    records: str | Path,
    n: int | None = None,
    images: ProbeSet | None = None,
    through: str | None = None,
    wanted: str | None = None,
    clusters: int = CLUSTERS,
    partial_ok: bool = False,
) -> Outcome:
    """Probe the latents of ``images`` (default: ``n`` test scenes) in one view, by default the tokenizer's own: its
    class token (or what it has in its place for probes), else the mean over tokens.

    ``wanted``: class of the cluster maps (default the set's own), ``clusters`` their number.  Records that stand are
    reused; latents are kept as evidence.  Where images cannot be read, values are withheld without ``partial_ok``."""
    images = chosen(tokenizer, n, images)
    own_view = "class" if hasattr(tokenizer, "encode_with_class") else "mean"
    through = through or own_view
    _check(tokenizer, images, through, wanted, clusters)
    suite = f"{images.name}-latents" + (f"-{through}" if through != own_view else "")
    probes = entries(images, through, wanted, clusters, tokens=through == own_view)
    own = getattr(tokenizer, "params", {})
    params = {metric: {**settings(images, entry), **own} for metric, entry in probes.items()}
    decides = {"subject": tokenizer.fingerprint, "suite": images.fingerprint, "seed": SEED}
    keys = {m: record.make_key(**decides, metric=m, params=params[m]) for m in probes}
    kept = engine.stored(records, tokenizer.name, suite, keys, undefined_ok=True, work=work)
    missing = [m for m in probes if m not in kept]
    path = evidence_path(work, tokenizer, images)
    common = {
        "subject": tokenizer.name,
        "suite": suite,
        "fingerprint": tokenizer.fingerprint,
        "origin": origin(tokenizer),
        "suite_hash": images.fingerprint,
        "seed": SEED,
        "evidence": path.relative_to(work).as_posix(),
    }
    if missing:
        found = encoded(tokenizer, images, path)
        seen = view(found, through)
        for metric in tqdm(missing, desc=f"probes of {tokenizer.name}", unit="probe", disable=None):
            started = time.perf_counter()
            measured = _with_images(_measured(probes[metric], found, seen, partial_ok), found, path, Path(work))
            fields = {"protocol": probes[metric].protocol, "protocol_params": params[metric]}
            fields["seconds"] = round(time.perf_counter() - started, 3)
            estimate = _estimate(metric, measured, found, fields)
            made = engine.write(records, {metric: keys[metric]}, {}, {metric: estimate}, common, partial_ok, work)
            kept[metric] = made.records[0]
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


def _measured(entry: Entry, found: Latents, seen: Points, partial_ok: bool) -> Measured:
    """What the probe gives; no value, with the reason, where these latents cannot give one."""
    if found.failed and not partial_ok:
        return Measured(None, note=f"{len(found.failed)} images cannot be read ({found.failed[0]})")
    try:
        return entry.probe(found, seen)
    except ValueError as error:
        return Measured(None, note=str(error))


def _estimate(metric: str, measured: Measured, found: Latents, fields: dict[str, Any]) -> Estimate:
    n = len(found.kept) if measured.n is None else measured.n
    expected = found.images.expected if measured.asked is None else measured.asked
    return Estimate(
        metric=metric,
        unit=measured.unit,
        n=n,
        asked=n + len(found.failed),
        n_expected=max(expected, n),
        n_failed=len(found.failed),
        note=measured.note,
        extra=measured.extra,
        estimate=measured.interval,
        kept=measured.samples,
        fields=fields,
    )


def _with_images(measured: Measured, found: Latents, path: Path, work: Path) -> Measured:
    """Beside cluster maps whose images no report can render again, the images themselves."""
    if "maps" not in measured.extra or found.images.redraw is not None:
        return measured
    ids = measured.extra["ids"]
    strip = path.with_name(f"images-{files.digest_json([path.stem, ids])[:12]}.png")
    where = side_by_side(found, ids, strip).relative_to(work).as_posix()
    return replace(measured, extra=measured.extra | {"image": where})
