"""The metrics of a reconstruction, in one table.

A row of ``METRICS`` is all that is said of a metric anywhere: what it is and who reports it, its unit, range and better
direction, what it needs, how it is measured, and how its value follows from that.  The records, the choices of
``--metrics``, what is left out and why, the directions of compare and gate, and the page of protocols come from here.

A further metric is one more row: ``PerImage`` where it is a number per image, else a subclass of ``Metric``.  Nothing
heavy is imported before a metric is measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evals import features
from evals.engine.protocol import Protocol
from evals.engine.records import Estimate
from evals.engine.store import Arrays, read_rows
from vgt.core import files
from vgt.core.samples import REPLICATES, Samples
from vgt.core.statistics import Interval, cluster_interval, wilson

if TYPE_CHECKING:
    from evals.metrics.frechet import Jackknife
    from evals.recon.source import Compared, Group

HIGHER, LOWER = "higher", "lower"

# (originals, reconstructions), uint8 [N, H, W, 3] each -> bool [N]
Agreement = Callable[[np.ndarray, np.ndarray], np.ndarray]
# -> one row, or one line of an array, per image of the group
Measuring = Callable[["Group", "Compared"], list[dict] | np.ndarray]
# -> {column: one number per image}
Columns = Callable[["Compared"], Mapping[str, Sequence[float]]]

IMAGES = "images.jsonl"  # evidence of every run: which pixels were compared
SMALLEST = 11  # pixels; the side of SSIM's larger window


@dataclass(frozen=True)
class Tools:
    """What metrics are measured with.  ``weights``: features or "lpips-alex" / "lpips-vgg" -> file; ``any_weights``:
    accept Inception weights of another checksum; ``judge``: name and version of what ``agreement`` asks; ``batch``:
    images at a time."""

    weights: Mapping[str, Path] = field(default_factory=dict)
    any_weights: bool = False
    device: str = "cpu"
    agreement: Agreement | None = None
    judge: str | None = None
    codebook_size: int | None = None
    scenes: bool = False
    batch: int = 32


@dataclass(frozen=True)
class Evidence:
    """Where a run keeps what it measured: ``folder``, and ``originals`` what all tokenizers share; ``images``: how many
    were asked for, of the ``expected`` ones of the full protocol."""

    folder: Path
    originals: Path
    images: int
    expected: int


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.  ``name``: of its records; ``range``: of its values; ``weights``: id of the weights that it needs;
    ``smallest``: side in pixels below which it is not defined; ``memory``: bytes that it takes per pixel."""

    name: str
    protocol: Protocol
    direction: str | None
    unit: str = ""
    range: tuple[float | None, float | None] = (0.0, None)
    weights: str | None = None
    smallest: int = 1
    memory: float = 80

    def definition(self, tools: Tools) -> dict[str, Any]:
        """What the name stands for, resolved; part of a record's protocol.  Raises ValueError where the metric cannot
        be measured, saying what it lacks."""
        raise NotImplementedError

    def judge(self, tools: Tools) -> str | None:
        return None

    def place(self, tools: Tools, folder: Path) -> Path:
        """The file of rows (``.jsonl``) or the folder of arrays that the metric is made from; its name holds a hash of
        what else decides its content."""
        raise NotImplementedError

    def measuring(self, tools: Tools, evidence: Evidence) -> dict[Path, Measuring]:
        """Place -> how to fill it."""
        raise NotImplementedError

    def estimate(self, tools: Tools, evidence: Evidence) -> Estimate:
        """The value from the evidence alone."""
        raise NotImplementedError

    @property
    def columns(self) -> tuple[str, ...]:
        """The numbers that its rows must hold."""
        return ()

    def _hash(self, tools: Tools) -> str:
        return files.digest_json([self.definition(tools), self.judge(tools)])[:8]

    def _estimate(self, evidence: Evidence, interval: Interval | None, n: int, **about) -> Estimate:
        return Estimate(
            metric=self.name,
            unit=self.unit,
            n=n,
            asked=evidence.images,
            n_expected=evidence.expected,
            n_failed=evidence.images - n,
            estimate=interval,
            **about,
        )


# ------------------------------------------------------------------------------------------------ a number per image


def mean(rows: list[dict], column: str) -> tuple[Interval, dict]:
    """Mean over images, with an interval over clusters."""
    values = np.array([row[column] for row in rows])
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return cluster_interval(values, [row["cluster"] for row in rows]), {"std": spread}


def mean_psnr(rows: list[dict], column: str) -> tuple[Interval, dict]:
    from evals.metrics import pixels

    interval, extra = mean(rows, column)
    return interval, extra | {"capped": sum(row[column] >= pixels.CAP for row in rows)}


def pooled_psnr(rows: list[dict], column: str) -> tuple[Interval, dict]:
    """PSNR of the error pooled over all pixels; its bounds are those of the error, the other way round."""
    from evals.metrics import pixels

    size = np.array([row["pixels"] for row in rows], np.float64)
    errors = np.array([row[column] for row in rows]) * size / size.mean()
    error = cluster_interval(errors, [row["cluster"] for row in rows])
    low = None if error.high is None else pixels.psnr(error.high)
    high = None if error.low is None else pixels.psnr(max(0.0, error.low))
    return Interval(pixels.psnr(error.value), low, high, error.level, error.method), {}


def share(rows: list[dict], column: str) -> tuple[Interval, dict]:
    """Share of images with a value above 0."""
    return wilson(sum(row[column] > 0 for row in rows), len(rows)), {}


@dataclass(frozen=True, kw_only=True)
class PerImage(Metric):
    """A number per image and, by ``summary``, one of all of them.  ``defined(tools)``: see ``definition``;
    ``measure(tools)`` gives a function of the two images; ``rows``: the file that it fills, where metrics that share
    work have their columns; ``means``: whether the value is their mean; they then lie beside the record."""

    measure: Callable[[Tools], Columns]
    defined: Callable[[Tools], dict[str, Any]]
    column: str = "value"
    rows: str | None = None
    summary: Callable[[list[dict], str], tuple[Interval, dict]] = mean
    means: bool = True
    judged: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column, "pixels") if self.summary is pooled_psnr else (self.column,)

    def definition(self, tools: Tools) -> dict[str, Any]:
        return self.defined(tools)

    def judge(self, tools: Tools) -> str | None:
        return tools.judge if self.judged else None

    def place(self, tools: Tools, folder: Path) -> Path:
        return folder / f"{self.rows or f'{self.name}-{self._hash(tools)}'}.jsonl"

    def measuring(self, tools: Tools, evidence: Evidence) -> dict[Path, Measuring]:
        columns = self.measure(tools)

        def rows(_: Group, seen: Compared) -> list[dict]:
            found = {name: np.asarray(values).tolist() for name, values in columns(seen).items()}
            return [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]

        return {self.place(tools, evidence.folder): rows}

    def estimate(self, tools: Tools, evidence: Evidence) -> Estimate:
        rows = [row for row in read_rows(self.place(tools, evidence.folder)) if "error" not in row]
        if not rows:
            return self._estimate(evidence, None, 0, note="no image could be compared")
        interval, extra = self.summary(rows, self.column)
        kept = None
        if self.means:
            kept = Samples([r["id"] for r in rows], [r[self.column] for r in rows], [r["cluster"] for r in rows])
        return self._estimate(evidence, interval, len(rows), extra=extra, kept=kept)


def _psnr(tools: Tools) -> Columns:
    """Squared error (0..1 scale) and PSNR in dB, with the number of pixels."""
    import torch

    from evals.metrics import pixels

    def columns(seen: Compared) -> dict[str, list]:
        images = [torch.from_numpy(x) for x in (seen.images_a, seen.images_b)] if seen.whole else [seen.a, seen.b]
        errors = pixels.squared_errors(*images).tolist()
        size = seen.size[0] * seen.size[1]
        return {"pixels": [size] * len(errors), "mse": errors, "psnr": [pixels.psnr(mse) for mse in errors]}

    return columns


def _ssim(variants: Sequence[str], tools: Tools) -> Columns:
    """The variants that share their local moments, at once."""
    from evals.metrics import pixels

    return lambda seen: pixels.ssim_batch(seen.a, seen.b, variants)


def _lpips(net: str, tools: Tools) -> Columns:
    import torch

    from evals.metrics import lpips

    distance = lpips.load(net, tools.weights.get(f"lpips-{net}"), tools.device)

    def columns(seen: Compared) -> dict[str, list]:
        n = len(seen.a)
        if tools.batch * seen.size[0] * seen.size[1] > features.LARGE:  # one at a time, however many there are
            pairs = zip(seen.a.split(1), seen.b_of_lpips.split(1), strict=True)
            return {"value": [float(distance(a, b)) for a, b in pairs]}
        # batches of one padded shape
        a, b = (torch.cat([x, x[-1:].expand(max(0, tools.batch - n), -1, -1, -1)]) for x in (seen.a, seen.b_of_lpips))
        return {"value": distance(a, b)[:n].tolist()}

    return columns


def _lpips_defined(net: str, tools: Tools) -> dict[str, Any]:
    from evals.metrics import lpips

    return lpips.protocol(net, tools.weights.get(f"lpips-{net}"))


def _agreement(tools: Tools) -> Columns:
    assert tools.agreement is not None, "checked where it is defined"
    agree = tools.agreement
    return lambda seen: {"value": np.asarray(agree(seen.images_a, seen.images_b), float)}


def _agreement_defined(tools: Tools) -> dict[str, Any]:
    if tools.agreement is None or not tools.scenes:
        raise ValueError("judge-agreement needs a judge and the data set scenes")
    return {"definition": "share of images whose multiset of (class, color) the judge finds unchanged"}


# ------------------------------------------------------------------------------------------------- Fréchet distances


@dataclass(frozen=True, kw_only=True)
class Frechet(Metric):
    """Fréchet distance between the features of the same images before and after; ``weights``: id of the features."""

    direction: str | None = LOWER

    @property
    def features(self) -> str:
        assert self.weights is not None
        return self.weights

    def definition(self, tools: Tools) -> dict[str, Any]:
        about = features.protocol(self.features, tools.weights.get(self.features), any_weights=tools.any_weights)
        caution = features.CAUTIONS.get(self.features)
        return about | ({"caution": caution} if caution else {})

    def place(self, tools: Tools, folder: Path) -> Path:
        return folder / f"{self.features}-{self._hash(tools)}"

    def measuring(self, tools: Tools, evidence: Evidence) -> dict[Path, Measuring]:
        network = features.load(
            self.features, tools.weights.get(self.features), any_weights=tools.any_weights, device=tools.device
        )

        def of(side: str) -> Measuring:
            def measure(_: Group, seen: Compared) -> np.ndarray:
                return np.asarray(seen.features(network, side, tools.batch)["pool"], np.float32)

            return measure

        return {
            self.place(tools, evidence.folder): of("images_b"),
            self.place(tools, evidence.originals): of("images_a"),
        }

    def estimate(self, tools: Tools, evidence: Evidence) -> Estimate:
        rebuilt, originals = (Arrays(self.place(tools, side)) for side in (evidence.folder, evidence.originals))
        n = sum(len(part["positions"]) for part in rebuilt)
        extra: dict[str, Any] = {"reference": _reference(evidence.folder / IMAGES)}
        if n < 2:
            note = f"{n} readable images are too few for a distance"
            return self._estimate(evidence, None, n, note=note, extra=extra)
        found = distance(originals, rebuilt, evidence.images)
        extra |= {REPLICATES: list(found.replicates)} if found.replicates else {}
        from evals.metrics.frechet import FINITE

        return self._estimate(
            evidence, found.interval(floor=0.0), n, note=FINITE if found.replicates else None, extra=extra
        )


def distance(originals: Arrays, rebuilt: Arrays, images: int) -> Jackknife:
    """Fréchet distance of the same ``images`` before and after (docs/evaluators.md 1.6, 7.4), with a delete-one-block
    jackknife: image i is in block i mod 20 and leaves both sides at once.

    Features are read batch by batch: memory is that of 2 x 20 block moments, or of the features themselves where there
    are fewer images than dimensions.  Raises ValueError where the two sides are not of the same images."""
    from evals.metrics import frechet

    shapes = [part["values"].shape for part in rebuilt]
    blocks = frechet.block_count(images)
    pairs = _pairs(originals, rebuilt)
    if sum(count for count, _ in shapes) <= max(d for _, d in shapes):
        positions, a, b = (np.concatenate(x) for x in zip(*pairs, strict=True))
        return frechet.paired_jackknife(a, b, positions % blocks)
    sums: list[dict[int, frechet.Moments]] = [{}, {}]
    for positions, *sides in pairs:
        for k in np.unique(positions % blocks):
            mine = positions % blocks == k
            for of, values in zip(sums, sides, strict=True):
                part = frechet.Moments(int(mine.sum()), values[mine].sum(0), values[mine].T @ values[mine])
                of[k] = of[k] + part if k in of else part
    return frechet.blocks_jackknife(*([of[k] for k in sorted(of)] for of in sums))


def _pairs(originals: Arrays, rebuilt: Arrays):
    """(positions, original features, features of the reconstructions) batch by batch, float64."""
    for a, b in zip(originals, rebuilt, strict=True):
        if not np.array_equal(a["positions"], b["positions"]):
            raise ValueError(f"{originals.folder} and {rebuilt.folder} hold other images; delete both and run again")
        if len(a["positions"]):
            yield a["positions"], a["values"].astype(np.float64), b["values"].astype(np.float64)


def _reference(path: Path) -> dict[str, Any]:
    """What the originals of a distance were: their number and a hash of their pixels (docs/evaluators.md 1.6)."""
    hashes = [row["pixels"] for row in read_rows(path) if "error" not in row]
    return {"count": len(hashes), "pixels": files.digest_json(sorted(hashes))[:16]}


# ---------------------------------------------------------------------------------------------------- inception score


@dataclass(frozen=True, kw_only=True)
class InceptionScore(Metric):
    """The inception score of the reconstructions alone; ``weights``: id of the features, ``variant``: how images are
    split (evals/metrics/entropy.py)."""

    direction: str | None = HIGHER
    variant: str

    def definition(self, tools: Tools) -> dict[str, Any]:
        about = features.protocol(self.weights, tools.weights.get(self.weights), any_weights=tools.any_weights)
        return {**about, "variant": self.variant}

    def place(self, tools: Tools, folder: Path) -> Path:
        return folder / f"logits-{self.weights}-{self._hash(tools)}"

    def measuring(self, tools: Tools, evidence: Evidence) -> dict[Path, Measuring]:
        network = features.load(
            self.weights, tools.weights.get(self.weights), any_weights=tools.any_weights, device=tools.device
        )

        def logits(_: Group, seen: Compared) -> np.ndarray:
            return np.asarray(seen.features(network, "images_b", tools.batch)["logits"], np.float32)

        return {self.place(tools, evidence.folder): logits}

    def estimate(self, tools: Tools, evidence: Evidence) -> Estimate:
        from evals.metrics import entropy, frechet

        parts = [p for p in Arrays(self.place(tools, evidence.folder)) if len(p["positions"])]
        if not parts:
            return self._estimate(evidence, None, 0, note="no image could be read")
        where, logits = (np.concatenate([part[key] for part in parts]) for key in ("positions", "values"))
        order = np.argsort(where)
        blocks = where[order] % frechet.block_count(evidence.images)
        found, spread = entropy.inception_score(logits[order], self.variant, blocks)
        extra = {"std_over_splits": spread} | ({REPLICATES: list(found.replicates)} if found.replicates else {})
        return self._estimate(evidence, found.interval(), len(where), extra=extra)


# ---------------------------------------------------------------------------------------------------------- codebook


@dataclass(frozen=True, kw_only=True)
class Codebook(Metric):
    """How a quantised tokenizer uses its codebook over the whole set."""

    direction: str | None = HIGHER
    method: str = "none: a property of the whole set, which grows with it"

    def definition(self, tools: Tools) -> dict[str, Any]:
        if tools.codebook_size is None:
            raise ValueError(f"{self.name} needs a quantised tokenizer: one with codebook_size and indices()")
        return {"codebook_size": tools.codebook_size}

    def place(self, tools: Tools, folder: Path) -> Path:
        return folder / "codes"

    def measuring(self, tools: Tools, evidence: Evidence) -> dict[Path, Measuring]:
        def codes(group: Group, _: Compared) -> np.ndarray:
            assert group.codes is not None, "defined only for a tokenizer with a codebook"
            return group.codes().astype(np.int32)

        return {self.place(tools, evidence.folder): codes}

    def estimate(self, tools: Tools, evidence: Evidence) -> Estimate:
        from evals.metrics import entropy

        assert tools.codebook_size is not None
        n, counted = 0, np.zeros(tools.codebook_size, np.int64)
        for part in Arrays(self.place(tools, evidence.folder)):
            n += len(part["positions"])
            counted += entropy.codebook_counts([part["values"].astype(np.int64)], tools.codebook_size)
        if not counted.sum():
            return self._estimate(evidence, None, n, note="no image could be read")
        interval = Interval(entropy.codebook_use(counted)[self.name], None, None, 0.95, self.method)
        return self._estimate(evidence, interval, n, extra={"indices": int(counted.sum())})


# --------------------------------------------------------------------------------------------------------- the table


def _about(name: str, summary: str, settings: Mapping[str, Any], section: str, used_by=(), caution="") -> Protocol:
    return Protocol(name, "recon", summary, settings, used_by, section, caution)


def _psnr_metric(name: str, column: str, summary, means: bool, protocol: Protocol) -> PerImage:
    return PerImage(
        name=name, protocol=protocol, direction=HIGHER, unit="dB", range=(None, 100.0), measure=_psnr,
        defined=lambda _: {"cap": 100.0}, column=column, rows="pixels", summary=summary, means=means,
    )  # fmt: skip


# Rows of evidence that share their local moments (evals/metrics/pixels.py): name -> variants, smallest side.
_SSIM = {
    "ssim-gaussian": (("ssim-wang", "ssim-tm", "ssim-tm-signed"), SMALLEST),
    "ssim-uniform": (("ssim-taming", "ssim-sk"), 7),
    "ssim-luma": (("ssim-y",), SMALLEST),
}


def _ssim_metric(protocol: Protocol, definition: str) -> PerImage:
    rows, (variants, smallest) = next(each for each in _SSIM.items() if protocol.id in each[1][0])
    return PerImage(
        name=protocol.id, protocol=protocol, direction=HIGHER, range=(-1.0, 1.0), measure=partial(_ssim, variants),
        defined=lambda _: {"definition": definition}, column=protocol.id, rows=rows, smallest=smallest,
    )  # fmt: skip


def _lpips_metric(net: str, backbone: str) -> PerImage:
    settings = {"net": net, "version": "0.1", "input": "[-1, 1]", "average": "spatial, then over images"}
    summary, caution = f"LPIPS v0.1 with the {backbone} backbone", "alex and vgg differ by a factor of 1.5 to 2"
    return PerImage(
        name=f"lpips-{net}-v0.1", protocol=_about(f"lpips-{net}-v0.1", summary, settings, "1.5", caution=caution),
        direction=LOWER, weights=f"lpips-{net}", measure=partial(_lpips, net), defined=partial(_lpips_defined, net),
        smallest={"alex": 31, "vgg": 16}[net], memory={"alex": 200, "vgg": 2000}[net],
    )  # fmt: skip


def _frechet_metric(name: str, of: str, summary: str, section: str, used_by=(), caution="") -> Frechet:
    closest = "the same images with the same crop, before and after; never statistics of a training set"
    settings = {"features": of, "reference": closest}
    return Frechet(name=name, weights=of, protocol=_about(name, summary, settings, section, used_by, caution))


_GAUSSIAN = {"window": "11x11 Gaussian, sigma 1.5", "covariance": "population"}
_UNIFORM = {"window": "7x7 uniform", "covariance": "sample"}
_CODEBOOK = _about(
    "codebook",
    "usage, dead codes, entropy and perplexity of a quantised tokenizer's indices over the whole set",
    {
        "usage": "distinct indices / codebook size",
        "dead": "codes without an index",
        "entropy": "-sum p log2(p + 1e-8)",
        "perplexity": "2^entropy",
    },
    "1.6",
    ("VFMTok (usage)", "LlamaGen (usage)"),
)

_ROWS: tuple[Metric, ...] = (
    _psnr_metric(
        "psnr-mean", "psnr", mean_psnr, True,
        _about(
            "psnr-mean", "mean of per-image PSNR, capped at 100 dB", {"range": 1.0, "cap": 100.0}, "1.3",
            ("VGT", "LlamaGen", "VFMTok", "RAE", "LightningDiT"),
        ),
    ),
    _psnr_metric(
        "psnr-global", "mse", pooled_psnr, False,
        _about(
            "psnr-global", "PSNR of the pooled mean squared error", {"range": 1.0, "cap": 100.0}, "1.3",
            ("torchmetrics' default",), "never above psnr-mean",
        ),
    ),
    _ssim_metric(
        _about(
            "ssim-wang", "SSIM, 11x11 Gaussian window sigma 1.5, data range 1 (Wang et al. 2004)",
            {**_GAUSSIAN, "range": 1.0, "rim": "5 pixels dropped"}, "1.4", ("image processing",),
        ),
        "11x11 Gaussian sigma 1.5, population covariance, range 1, per channel, rim dropped",
    ),
    _ssim_metric(
        _about(
            "ssim-taming", "SSIM, 7x7 uniform window, data range 2 on [0, 1] images: inflated",
            {**_UNIFORM, "range": 2.0, "rim": "3 pixels dropped"}, "1.4", ("VGT", "LlamaGen", "VFMTok"),
            "0.05 to 0.23 above ssim-sk: compare within this lineage only",
        ),
        "7x7 uniform, sample covariance, range 2 for images in [0, 1] (inflated), per channel, rim dropped",
    ),
    _ssim_metric(
        _about(
            "ssim-sk", "SSIM, 7x7 uniform window, sample covariance, data range 1",
            {**_UNIFORM, "range": 1.0, "rim": "3 pixels dropped"}, "1.4",
            ("scikit-image's defaults with the right range",),
        ),
        "7x7 uniform, sample covariance, range 1, per channel, rim dropped",
    ),
    _ssim_metric(
        _about(
            "ssim-tm", "SSIM, 11x11 Gaussian window, all channels, reflect padding (torchmetrics)",
            {**_GAUSSIAN, "range": 1.0, "rim": "reflected, kept", "version": "torchmetrics 1.4.2 or newer"}, "1.4",
            ("RAE",), "torchmetrics before 1.4.2 cut the rim: 0.6544 where this gives 0.6522",
        ),
        "11x11 Gaussian sigma 1.5, population covariance, range 1, all channels, reflected rim kept",
    ),
    _ssim_metric(
        _about(
            "ssim-tm-signed", "ssim-tm of images in [-1, 1] with data range 2",
            {**_GAUSSIAN, "range": "(-1, 1)", "rim": "reflected, kept", "version": "torchmetrics 1.4.2 or newer"},
            "1.4", ("LightningDiT",),
            "not ssim-tm: the luminance term is not that of [0, 1] images; torchmetrics before 1.4.2 cut the rim",
        ),
        "ssim-tm of images in [-1, 1] with range 2: another luminance term, for means are not from black",
    ),
    _ssim_metric(
        _about(
            "ssim-y", "SSIM, 11x11 Gaussian window, luma only",
            {**_GAUSSIAN, "range": 1.0, "channels": "BT.601 luma"}, "1.4", ("image restoration",),
        ),
        "11x11 Gaussian sigma 1.5, population covariance, range 1, BT.601 luma only, rim dropped",
    ),
    _lpips_metric("alex", "AlexNet"),
    _lpips_metric("vgg", "VGG16"),
    _frechet_metric(
        "rfid-tf-compat", "tf-compat", "rFID on torch-fidelity's port of the 2015 Inception graph", "1.6, 1.7",
        ("VGT", "TiTok", "closest to LlamaGen's and VFMTok's TensorFlow graph"),
    ),
    _frechet_metric(
        "rfid-pytorch-fid", "pytorch-fid", "rFID with pytorch-fid's input resampling", "1.6, 1.7", ("LightningDiT",)
    ),
    InceptionScore(
        name="ris-5000-tf-compat", weights="tf-compat", variant="is-5000", range=(1.0, None),
        protocol=_about(
            "ris-5000-tf-compat", "rIS: inception score of reconstructions on torch-fidelity's port, chunks of 5,000",
            {"features": "tf-compat", "chunk": 5000, "shuffle": "none", "logits": "without bias, 1008"}, "1.6, 1.7",
            ("closest to LlamaGen's and VFMTok's TensorFlow graph",), "grows with the number of images up to 5,000",
        ),
    ),
    _frechet_metric("fd-efflite2", "efflite2", "Frechet distance of EfficientNet-Lite2 features; not FID", "1.6"),
    _frechet_metric(
        "fd-efflite0", "efflite0",
        "Frechet distance of EfficientNet-Lite0 features, which a training loss also uses; not FID", "1.6",
        caution="a model trained on these features is flattered",
    ),
    PerImage(
        name="judge-agreement",
        protocol=_about(
            "recon-agreement", "share of scenes in which a judge finds the same objects before and after",
            {"interval": "Wilson over images"}, "1", caution="depends on the judge, which the record names",
        ),
        direction=HIGHER, unit="share", range=(0.0, 1.0), measure=_agreement, defined=_agreement_defined,
        summary=share, judged=True,
    ),
    Codebook(name="codebook-usage", protocol=_CODEBOOK, unit="share", range=(0.0, 1.0)),
    Codebook(
        name="codebook-dead", protocol=_CODEBOOK, unit="codes", direction=LOWER,
        method="none: a property of the whole set, which shrinks as it grows",
    ),
    Codebook(name="codebook-entropy", protocol=_CODEBOOK, unit="bit"),
    Codebook(name="codebook-perplexity", protocol=_CODEBOOK, range=(1.0, None)),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ROWS}


def direction(name: str) -> str | None:
    """Which way is better: "higher", "lower", or None where neither is.  Raises KeyError for a metric of others."""
    return METRICS[name].direction


def chosen(names: Sequence[str] | None, tools: Tools) -> tuple[dict[str, dict], dict[str, str]]:
    """({metric: definition} to measure, {metric: why not}): by default all for which there are weights, a judge and a
    codebook; with ``names`` exactly those.  Raises ValueError for one that cannot be measured, before any work."""
    for name in names or ():
        if name not in METRICS:
            raise ValueError(f"reconstruction metric {name!r} is unknown; choose from {', '.join(METRICS)}")
    if names is not None:
        return {name: METRICS[name].definition(tools) for name in names}, {}
    wanted, absent = {}, {}
    for name, metric in METRICS.items():
        try:
            wanted[name] = metric.definition(tools)
        except ValueError as error:
            absent[name] = str(error)
    return wanted, absent


def smallest(names: Sequence[str] | None) -> int:
    """Side in pixels that an image must have for all of these metrics, by default all."""
    return max((METRICS[name].smallest for name in names or () if name in METRICS), default=SMALLEST)


def coverage_note(folder: Path, place: Path) -> str | None:
    """One line on the images that failed for the metric at ``place`` and those that were converted, None where all
    were 8-bit RGB and measured."""
    rows = read_rows(folder / IMAGES)
    errors = [row["error"] for row in (read_rows(place) if place.suffix == ".jsonl" else rows) if "error" in row]
    kinds = Counter(row["converted"] for row in rows if "converted" in row)
    parts = [f"{len(errors)} failed, the first {errors[0]}"] if errors else []
    parts += [f"{count} converted from {kind}" for kind, count in sorted(kinds.items())]
    return "; ".join(parts) or None
