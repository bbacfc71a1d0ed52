"""Finds the objects of a drawn scene: a smooth background, then one object after another peeled off it.

Every step works on a copy of the image whose longer side is ``SIDE`` pixels, so that thresholds in pixels mean the
same for a image of 32, 64 or 512 pixels.  Colors are sRGB in 0..255; differences of color are CIE Lab Delta E (1976).

Shape legend: h, w = working height and width; H, W = the image's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.restoration import denoise_tv_chambolle
from skimage.transform import resize

from evals.engine.store import SampleError

SIDE = 64  # working size of the longer side, pixels
NOISY = 3.5  # noise (standard deviation, 0..255) above which the image is denoised
FAINT = 14.0  # an object starts where the color differs by at least this much Delta E from the background
SPECK = 40  # smallest area of an object, working pixels; the world's smallest shape covers about 80
NOISE_CONTRAST = 0.55  # contrast that white noise of standard deviation 1 can leave behind after denoising, Delta E
CROWD = 16  # at most this many objects are peeled off
REACH = 2  # pixels around an object's core that may hold its soft edge


@dataclass(frozen=True)
class Blob:
    """One segmented object: ``alpha`` float32 [h, w], the share of each pixel that it covers; its color (sRGB);
    ``contrast``, the Delta E between that color and the background behind it."""

    alpha: np.ndarray
    color: np.ndarray
    contrast: float


@dataclass(frozen=True)
class Segmentation:
    """The objects, most conspicuous first, the background float64 [h, w, 3] (sRGB 0..255) and ``calm``, the share of
    the image that is background: above 0.57 in the world's scenes however degraded, below 0.4 in random textures."""

    blobs: list[Blob]
    ground: np.ndarray
    calm: float


def working_copy(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] -> float32 [h, w, 3] in 0..255 with max(h, w) == SIDE.  Raises SampleError for other arrays."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 8:
        raise SampleError(f"image is {image.dtype} {image.shape}; the judge takes uint8 [H, W, 3] of at least 8 pixels")
    pixels = image.astype(np.float32)
    height, width = image.shape[:2]
    if max(height, width) == SIDE:
        return pixels
    scale = SIDE / max(height, width)
    shape = (max(8, round(height * scale)), max(8, round(width * scale)))
    # A cubic spline overshoots at edges: keep to the range of a image.
    order = 3 if scale > 1 else 1
    return np.clip(resize(pixels, shape, order=order, mode="edge", anti_aliasing=scale < 1), 0, 255).astype(np.float32)


def noise_level(pixels: np.ndarray) -> float:
    """Standard deviation of white noise, robustly: median absolute diagonal Haar detail / 0.6745, mean of channels."""
    detail = (pixels[:-1, :-1] - pixels[1:, :-1] - pixels[:-1, 1:] + pixels[1:, 1:]) / 2
    return float(np.median(np.abs(detail), axis=(0, 1)).mean() / 0.6745)


def denoise(pixels: np.ndarray, level: float) -> np.ndarray:
    """Total-variation denoising with a weight that follows the noise; quiet images come back as they are."""
    if level < NOISY:
        return pixels
    return denoise_tv_chambolle(pixels / 255, weight=1.1 * level / 255, max_num_iter=60, channel_axis=-1) * 255


@lru_cache(maxsize=8)
def _surface(height: int, width: int) -> np.ndarray:
    """float64 [h*w, 6]: the monomials of a quadratic surface over [-1, 1]^2."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1).reshape(-1, 6)


def fit_background(pixels: np.ndarray) -> np.ndarray:
    """The smooth background, float64 [h, w, 3]: a quadratic surface per channel, refitted to ever closer pixels.

    The first guess is the median of the rim, which objects hardly touch."""
    h, w, _ = pixels.shape
    rim = max(2, h // 24)
    edge = np.ones((h, w), bool)
    edge[rim:-rim, rim:-rim] = False
    flat = pixels.reshape(-1, 3).astype(np.float64)
    ground = np.broadcast_to(np.median(pixels[edge], axis=0), flat.shape)
    design = _surface(h, w)
    for tolerance in (48.0, 30.0, 20.0, 16.0):
        near = ((flat - ground) ** 2).sum(1) < tolerance**2
        if near.sum() < 0.1 * len(flat):  # no smooth background: keep the last guess
            break
        rows = design[near]
        ground = design @ np.linalg.solve(rows.T @ rows + 1e-6 * np.eye(6), rows.T @ flat[near])
    return np.clip(ground.reshape(h, w, 3), 0, 255)


def cover(pixels: np.ndarray, ground: np.ndarray, color: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each pixel lies on the way from the background to ``color`` (alpha, 0..1) and how far off that way
    (share of its length), both [h, w]: the inverse of anti-aliased painting."""
    way = color - ground
    length = np.maximum((way * way).sum(-1), 1.0)
    step = pixels - ground
    alpha = (step * way).sum(-1) / length
    clipped = np.clip(alpha, 0, 1)
    off = np.sqrt(((step - clipped[..., None] * way) ** 2).sum(-1) / length)
    return clipped, off


def _component(core: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
    labels, _ = ndimage.label(core)
    return labels == labels[seed] if labels[seed] else np.zeros_like(core)


def peel(pixels: np.ndarray, ground: np.ndarray, faint: float) -> tuple[list[Blob], float]:
    """(Objects, share of background).  Takes the pixel that differs most from the background, gathers the connected
    pixels of its color, sets them aside with their soft rim, and repeats until nothing differs by ``faint`` Delta E.
    Objects of different colors may touch."""
    ground_lab = rgb2lab(ground / 255)
    difference = np.linalg.norm(rgb2lab(np.asarray(pixels, np.float64) / 255) - ground_lab, axis=-1)
    smooth = ndimage.uniform_filter(difference, 3)
    free = np.ones(smooth.shape, bool)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray, float]] = []
    for _ in range(4 * CROWD):
        seed = np.unravel_index(np.argmax(np.where(free, smooth, 0)), smooth.shape)
        if not free[seed] or smooth[seed] < faint or len(found) == CROWD:
            break
        y, x = seed
        patch = pixels[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        color = np.median(patch.reshape(-1, 3), axis=0)
        for _ in range(2):  # once with the seed's color, once with the object's
            alpha, off = cover(pixels, ground, color)
            core = _component(free & (alpha > 0.5) & (off < 0.4), seed)
            inside = core & (alpha > 0.9)
            if inside.sum() < 4:
                break
            color = np.median(pixels[inside], axis=0)
        free &= ~ndimage.binary_dilation(core, np.ones((5, 5), bool))
        free[seed] = False
        if core.sum() < SPECK:
            continue
        contrast = float(np.linalg.norm(rgb2lab(color[None, None] / 255)[0, 0] - ground_lab[core].mean(0)))
        if contrast >= faint:
            found.append((core, np.where(off < 0.6, alpha, 0), color, contrast))
    cores = [core for core, *_ in found]
    blobs = [Blob(_with_rim(alpha, k, cores), color, contrast) for k, (_, alpha, color, contrast) in enumerate(found)]
    return blobs, float((difference < FAINT).mean())


def _with_rim(alpha: np.ndarray, own: int, cores: list[np.ndarray]) -> np.ndarray:
    """``alpha`` kept on one core and its rim, less what lies in or next to another object."""
    rim = ndimage.binary_dilation(cores[own], iterations=REACH)
    for k, other in enumerate(cores):
        if k != own:
            rim &= ~ndimage.binary_dilation(other) | cores[own]
    return np.where(rim, alpha, 0).astype(np.float32)


def segment(image: np.ndarray) -> Segmentation:
    """uint8 [H, W, 3] -> its objects and background.  Raises SampleError for other arrays."""
    pixels = working_copy(image)
    noise = noise_level(pixels)
    pixels = denoise(pixels, noise)
    ground = fit_background(pixels)
    blobs, calm = peel(pixels, ground, max(FAINT, NOISE_CONTRAST * noise))
    return Segmentation(blobs, ground, calm)
