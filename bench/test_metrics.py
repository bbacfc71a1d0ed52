"""Reconstruction metrics: the batched SSIM and PSNR against scikit-image, and the memory of a run.

``pytest bench/test_metrics.py --benchmark-enable --benchmark-only -s``; ratios are of medians of alternating rounds,
one thread each, by CPU time, which a busy machine changes less, and by the clock.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench import metrics, timing
from bench.pairs import Pair, cpu_ratio
from evals.engine.images import ImageSet
from evals.engine.store import read_rows
from evals.features import Extractor
from evals.metrics import pixels
from evals.recon import run as reconstruction

ROUNDS = 7


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def against(benchmark, pair: Pair) -> None:
    found = pair.times(timing.CPU, ROUNDS, loop=lambda sweep, rounds: benchmark.pedantic(sweep, rounds=rounds))
    ratios = {"cpu": cpu_ratio(found), "wall": found["plain"].median / found["call"].median}
    milliseconds = {name: round(1000 * float(np.median(t.cpu_seconds)) / pair.batch, 3) for name, t in found.items()}
    benchmark.extra_info |= {"ratios": ratios, "CPU ms per pair": milliseconds}
    print(
        f"\n{benchmark.name}: {ratios['cpu']:.1f}x by CPU time ({milliseconds['call']} against "
        f"{milliseconds['plain']} ms a pair), {ratios['wall']:.1f}x by the clock"
    )


@pytest.mark.parametrize("variants", [*((v,) for v in pixels.SSIM), pixels.SSIM], ids="+".join)
def test_ssim(benchmark, variants):
    against(benchmark, metrics.ssim_pair(variants))


def test_psnr(benchmark):
    against(benchmark, metrics.psnr_pair())


# ------------------------------------------------------------------------------------------------------ memory

TINY, DIMENSIONS = 16, 32


class Dull:
    """A tokenizer that darkens every image by one level."""

    name = fingerprint = "dull"
    size = TINY

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        return np.maximum(images, 1) - 1

    def encode(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1, 3).astype(np.float32)


def noise_images(count: int) -> ImageSet:
    names = tuple(f"{i:06d}" for i in range(count))

    def load(i: int) -> np.ndarray:
        return np.random.default_rng(i).integers(0, 256, (TINY, TINY, 3), np.uint8)

    return ImageSet("noise", names, names, load, count, str(count), {"size": TINY, "cluster": "image"})


def thumbnails(images: np.ndarray) -> dict[str, np.ndarray]:
    return {"pool": images.reshape(len(images), -1)[:, :DIMENSIONS].astype(np.float32)}


@pytest.mark.parametrize("count", [1_000, 10_000])
def test_memory_of_a_run(benchmark, tmp_path, monkeypatch, count):
    """Growth of the resident set during a whole evaluation with a Frechet distance, MiB."""
    monkeypatch.setattr(reconstruction.datasets, "image_set", lambda data, n, size, geometry: noise_images(n))
    extractor = Extractor("efflite2", {"pool": DIMENSIONS}, {"features": "thumbnail", "weights": ""}, "", thumbnails)
    monkeypatch.setattr(reconstruction.recon_metrics.features, "load", lambda *_, **__: extractor)
    peaks = []

    def run():
        peaks.append(
            timing.resident_peak(
                lambda: reconstruction.run(
                    Dull(), work=tmp_path, records=tmp_path / "records", data="noise", n=count, batch=100,
                    metrics=["psnr-mean", "ssim-wang", "fd-efflite2"],
                )
            )
        )  # fmt: skip

    benchmark.pedantic(run, rounds=1)
    rows = read_rows(next(tmp_path.rglob("pixels.jsonl")))
    assert len(rows) == count and not any("error" in row for row in rows)
    benchmark.extra_info |= {"images": count, "MiB": peaks[0]}
    print(f"\n{count} images: {peaks[0]:.1f} MiB")
