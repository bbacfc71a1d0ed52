"""What evaluators cost: image metrics against independent definitions, Fréchet distances and their memory, a whole
reconstruction run, GenEval scored again from stored evidence.

``python -m bench.evaluators N`` streams N images through the moments of a Fréchet distance in a process of its own,
whose memory nothing else has touched, and prints what it took as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import linalg
from skimage.metrics import peak_signal_noise_ratio

from bench.timing import resident_peak
from bench.workloads import Conditions, Pair
from evals.engine.images import ImageSet
from evals.features import Extractor
from evals.metrics import frechet, pixels
from evals.metrics.frechet import Moments
from vgt.core import files, geneval_prompts, photos

IMAGES, SIDE = 8, 256

# ------------------------------------------------------------------------------------------------ image metrics


def images(count: int = IMAGES) -> tuple[np.ndarray, np.ndarray]:
    """Photographs uint8 [count, SIDE, SIDE, 3], and the same with noise."""
    originals = photos.images("test", range(count), SIDE)
    noise = np.random.default_rng(0).normal(0, 10, originals.shape)
    return originals, np.clip(originals + noise, 0, 255).astype(np.uint8)


def _pair(name: str, how: Conditions, ours, theirs, tolerance: float) -> Pair:
    """Raises ValueError where the two do not agree."""
    distance = np.abs(np.array(ours()) - np.array(theirs())).max()
    if distance >= tolerance:
        raise ValueError(f"{name} of the two implementations differs by {distance:.2g}; time neither")
    return Pair(name, how, ours, theirs, "batched, against scikit-image pair by pair", ("bench.evaluators",))


def ssim_pair(variants: tuple[str, ...], how: Conditions) -> Pair:
    """SSIM of ``how.batch`` pairs of images in some variants.  Raises ValueError where the two do not agree."""
    pairs = images(how.batch)
    a, b = (torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().float() / 255 for x in pairs)

    def ours() -> list[list[float]]:
        made = pixels.ssim_batch(a, b, variants)
        return [made[v] for v in variants]

    def theirs() -> list[list[float]]:
        return [[pixels.ssim(x, y, v) for x, y in zip(*pairs, strict=True)] for v in variants]

    return _pair(variants[0] if len(variants) == 1 else "ssim-all", how, ours, theirs, 1e-5)


def psnr_pair(how: Conditions) -> Pair:
    """PSNR of ``how.batch`` pairs of images.  Raises ValueError where the two do not agree."""
    pairs = images(how.batch)
    a, b = (torch.from_numpy(x) for x in pairs)

    def ours() -> list[float]:
        return [pixels.psnr(e) for e in pixels.squared_errors(a, b).tolist()]

    def theirs() -> list[float]:
        return [peak_signal_noise_ratio(x, y, data_range=255) for x, y in zip(*pairs, strict=True)]

    return _pair("psnr", how, ours, theirs, 1e-6)


def metrics(how: Conditions) -> list[Pair]:
    """All that are timed."""
    return [*(ssim_pair((v,), how) for v in pixels.SSIM), ssim_pair(tuple(pixels.SSIM), how), psnr_pair(how)]


# ------------------------------------------------------------------------------------------- Fréchet distances

DIMENSIONS = 2048


def stored(seed: int, d: int = DIMENSIONS, n: int = 6000) -> Moments:
    """Moments of n features [n, d] whose spectrum falls as that of pooled features does."""
    rng = np.random.default_rng(seed)
    scale = np.exp(-np.arange(d) / (d / 5)) * (1 + 0.05 * seed)
    return frechet.moments(rng.normal(size=(n, d)) * scale + 0.01 * seed)


def by_square_root(a: Moments, b: Moments) -> float:
    """The route of most FID programs: scipy's square root of the product of the covariances."""
    shift, sigma_a, sigma_b = a.mean - b.mean, a.covariance, b.covariance
    root = linalg.sqrtm(sigma_a @ sigma_b)
    return float(shift @ shift + np.trace(sigma_a) + np.trace(sigma_b) - 2 * np.trace(root).real)


def noise_images(count: int, side: int = 16) -> ImageSet:
    """Images of noise, each made when it is read."""
    names = tuple(f"{i:06d}" for i in range(count))

    def load(i: int) -> np.ndarray:
        return np.random.default_rng(i).integers(0, 256, (side, side, 3), np.uint8)

    about = {"geometry": "none", "size": side, "cluster": "image"}
    return ImageSet("noise", names, names, load, count, f"noise {count}", about)


def stream(n: int, d: int = DIMENSIONS, batch: int = 32) -> dict:
    """Moments of n images with a network that is one random matrix: growth of the resident set, MiB, seconds."""
    from evals.fidelity.metrics import MOMENTS
    from evals.fidelity.run import Evidence

    found = noise_images(n)
    weights = np.random.default_rng(0).normal(size=(found.load(0).size, d)).astype(np.float32) / 255

    def embed(images: np.ndarray) -> dict[str, np.ndarray]:
        return {"pool": images.reshape(len(images), -1).astype(np.float32) @ weights}

    extractor = Extractor("matrix", {"pool": d}, {"features": "matrix", "weights": "0"}, "", embed)
    with tempfile.TemporaryDirectory() as folder:
        embed(np.stack([found.load(0)] * batch))
        evidence = Evidence(found, extractor, Path(folder), batch)
        start = time.perf_counter()
        peak = resident_peak(lambda: evidence.collect({(MOMENTS, "pool")}))
        return {"images": n, "peak_mib": peak, "seconds": time.perf_counter() - start, "read": evidence.count}


def stream_elsewhere(n: int) -> dict:
    """``stream`` in a process of its own."""
    words = [sys.executable, "-m", "bench.evaluators", str(n)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# ----------------------------------------------------------------------------------------- a reconstruction run


class Darker:
    """A tokenizer that darkens every image by one level."""

    name = fingerprint = "darker"
    size = 16

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        return np.maximum(images, 1) - 1

    def encode(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1, 3).astype(np.float32)


def thumbnails(images: np.ndarray) -> dict[str, np.ndarray]:
    """The first numbers of images as their features."""
    return {"pool": images.reshape(len(images), -1)[:, :32].astype(np.float32)}


# ------------------------------------------------------------------------------------------------------- GenEval


def ellipse(rng: np.random.Generator, side: int) -> tuple[tuple[float, ...], dict]:
    """A box and the mask of an ellipse with a ragged edge in it."""
    from evals.geneval.official import encode_mask

    y, x = np.mgrid[:side, :side] / side
    (cx, cy), (a, b) = rng.uniform(0.3, 0.7, 2), rng.uniform(0.08, 0.27, 2)
    mask = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 < 1 + 0.1 * rng.normal(size=(side, side))
    rows, columns = np.nonzero(mask)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return tuple(map(float, box)), encode_mask(mask)


def detection(prompt: dict, shapes: list, rng: np.random.Generator) -> dict:
    """One that the prompt may or may not ask for."""
    clause = prompt["include"][rng.integers(len(prompt["include"]))]
    name = clause["class"] if rng.random() < 0.4 else str(rng.choice(geneval_prompts.CLASSES))
    color = (clause["color"] if rng.random() < 0.8 else "red") if "color" in clause else None
    box, mask = shapes[rng.integers(len(shapes))]
    return {"class": name, "score": round(float(rng.random()), 6), "box": box, "color": color, "mask": mask}


def geneval_evidence(root: Path, samples: int = 4, side: int = 512, detections: int = 15) -> Path:
    """A folder with stored detections of 553 prompts x ``samples`` images; returns their file."""
    from evals.engine.generation import Run, place
    from evals.engine.judging import Named, write_judging
    from evals.engine.store import row_line
    from evals.geneval.run import judging_of

    rng, prompts = np.random.default_rng(0), geneval_prompts.prompts()
    shapes = [ellipse(rng, side) for _ in range(40)]
    job = Run(Named("synthetic", "0" * 64), "synthetic", None, "geneval", prompts, samples, 0, 32)
    names = {(i, s): place(i, s) for i in range(len(prompts)) for s in range(samples)}
    judging = judging_of(job, Named("m2f-hf", "1" * 64), root)
    write_judging(replace(judging, path=root / "detections.jsonl", images=names))
    lines = []
    for (index, _), name in names.items():
        found = [detection(prompts[index], shapes, rng) for _ in range(detections)]
        lines.append({"id": name, "stamp": "2" * 64, "image": "3" * 64, "size": [side, side], "detections": found})
    return files.write_text(root / "detections.jsonl", "".join(map(row_line, lines)))


if __name__ == "__main__":
    print(json.dumps(stream(int(sys.argv[1]))))
