"""Workloads of the Fréchet machinery: the distance from stored moments at Inception's size, and streaming moments.

``python -m bench.frechet N`` streams N images in this process and prints what it took as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import linalg

from bench.timing import resident_peak
from evals.metrics import frechet
from evals.metrics.frechet import Moments

DIMENSIONS, IMAGES = 2048, 6000
SIDE, BATCH = 16, 32


def stored(seed: int, d: int = DIMENSIONS, n: int = IMAGES) -> Moments:
    """Moments of n features [n, d] whose spectrum falls as that of pooled features does."""
    rng = np.random.default_rng(seed)
    scale = np.exp(-np.arange(d) / (d / 5)) * (1 + 0.05 * seed)
    return frechet.moments(rng.normal(size=(n, d)) * scale + 0.01 * seed)


def by_square_root(a: Moments, b: Moments) -> float:
    """The route of most FID programs: scipy's square root of the product of the covariances."""
    shift, sigma_a, sigma_b = a.mean - b.mean, a.covariance, b.covariance
    root = linalg.sqrtm(sigma_a @ sigma_b)
    return float(shift @ shift + np.trace(sigma_a) + np.trace(sigma_b) - 2 * np.trace(root).real)


def stream(n: int, d: int = DIMENSIONS) -> dict:
    """Moments of n drawn images with a network that is one random matrix: growth of the resident set, MiB, seconds."""
    from evals.engine.images import ImageSet
    from evals.features import Extractor
    from evals.fidelity.metrics import MOMENTS
    from evals.fidelity.run import Evidence

    weights = np.random.default_rng(0).normal(size=(SIDE * SIDE * 3, d)).astype(np.float32) / 255

    def embed(images: np.ndarray) -> dict[str, np.ndarray]:
        return {"pool": images.reshape(len(images), -1).astype(np.float32) @ weights}

    def load(i: int) -> np.ndarray:
        return np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)

    names = tuple(f"{i:06d}" for i in range(n))
    images = ImageSet("drawn", names, names, load, n, f"drawn {n}", {"geometry": "none", "size": SIDE})
    extractor = Extractor("matrix", {"pool": d}, {"features": "matrix", "weights": "0"}, "", embed)
    with tempfile.TemporaryDirectory() as folder:
        embed(np.stack([load(0)] * BATCH))
        evidence = Evidence(images, extractor, Path(folder), BATCH)
        start = time.perf_counter()
        peak = resident_peak(lambda: evidence.collect({(MOMENTS, "pool")}))
        return {"images": n, "peak_mib": peak, "seconds": time.perf_counter() - start, "read": evidence.count}


def stream_elsewhere(n: int) -> dict:
    """``stream`` in a process of its own, whose memory nothing else has touched."""
    done = subprocess.run([sys.executable, "-m", "bench.frechet", str(n)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(stream(int(sys.argv[1]))))
