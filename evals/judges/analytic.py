"""The judge of the synthetic scenes: training-free, for images of any size.  A Detector and an Answerer.

Three steps: where objects are (a smooth background, then one object after another peeled off it), what they are (the
best match among images of the world's own shapes), and which color they have (the nearest of the palette in CIE Lab).
Its accuracy on clean and on degraded images is measured by evals/calibration.

The first step works on a copy of the image whose longer side is ``SIDE`` pixels, so that thresholds in pixels mean the
same for an image of 32, 64 or 512 pixels.  The templates of the second go through the same segmentation and the same
normalization as the object, at several sizes, sub-pixel positions and blurs, so that whatever the measurement does to
an edge it does to both sides.  Colors are sRGB in 0..255; differences of color are CIE Lab Delta E (1976).

Shape legend: h, w = working height and width; H, W = the image's own.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.restoration import denoise_tv_chambolle
from skimage.transform import resize

from evals.engine.api import Detection
from evals.engine.store import SampleError
from vgt.core import captions, files
from vgt.core.captions import SceneText, Seen
from vgt.core.scenes import COLORS, SHAPES, TINTS, WORLD, Background, Object, Scene, render

# -------------------------------------------------------------------------------------------------- where objects are

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
    # A cubic spline overshoots at edges: keep to the range of an image.
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


# ------------------------------------------------------------------------------------------------- which shape they are

GRID = 24  # samples along a side of a normalized shape
SPAN = 2.0  # half the side of the normalized window, in radii of gyration
RADII = (34, 38, 50, 58)  # canvas units: the ends of the world's two size ranges
BLURS = (0.0, 0.8, 1.2, 1.8)  # standard deviations, pixels of a 64-pixel image
PHASES = ((128, 128), (130, 131))  # centres, canvas units


def normalize(alpha: np.ndarray) -> tuple[np.ndarray, float]:
    """float32 [h, w] cover -> (float32 [GRID*GRID], radius of gyration in pixels): upright, centred on its centroid and
    scaled by its radius of gyration, both of which blur and noise hardly move."""
    h, w = alpha.shape
    mass = float(alpha.sum()) + 1e-9
    rows, columns = alpha.sum(1), alpha.sum(0)
    ys, xs = np.arange(h), np.arange(w)
    cy, cx = float(rows @ ys) / mass, float(columns @ xs) / mass
    gyration = np.sqrt(float(rows @ (ys - cy) ** 2 + columns @ (xs - cx) ** 2) / mass) + 1e-9
    step = 2 * SPAN * gyration / GRID
    offsets = (np.arange(GRID) - (GRID - 1) / 2) * step

    def spread(centre: float, n: int) -> np.ndarray:
        """[GRID, n] tent weights: linear interpolation, wider where samples are further apart than pixels."""
        width = max(1.0, step)
        tent = np.maximum(0, 1 - np.abs((centre + offsets)[:, None] - np.arange(n)) / width)
        return tent / width

    return (spread(cy, h) @ alpha @ spread(cx, w).T).astype(np.float32).ravel(), float(gyration)


@lru_cache(maxsize=1)
def templates() -> tuple[np.ndarray, np.ndarray]:
    """Every shape at every radius, blur and phase: float32 [len(SHAPES), variants, GRID*GRID], and float64
    [len(SHAPES), variants], the drawn radius (canvas units) that stands behind one pixel of gyration."""
    plain = Background("gray", "none", (138, 138, 138), 0, (0,) * 25)
    images, units = [], []
    for shape in SHAPES:
        for radius, (cx, cy), blur in itertools.product(RADII, PHASES, BLURS):
            drawn = render(Scene((Object(shape, "black", cx, cy, radius, (22, 22, 22)),), plain, "colors")).image
            seen = segment(ndimage.gaussian_filter(drawn, (blur, blur, 0)) if blur else drawn)
            image, gyration = normalize(seen.blobs[0].alpha)
            images.append(image)
            units.append(radius / gyration)
    variants = len(RADII) * len(PHASES) * len(BLURS)
    return np.array(images).reshape(len(SHAPES), variants, -1), np.array(units).reshape(len(SHAPES), variants)


def match(alpha: np.ndarray) -> tuple[np.ndarray, float]:
    """(float64 [len(SHAPES)], radius): the soft intersection over union (Tanimoto: ab / (aa + bb - ab)) with the best
    template of each shape, and the drawn radius in canvas units that the best of all implies (blur hardly moves it)."""
    bank, units = templates()
    image, gyration = normalize(alpha)
    both = bank @ image
    overlap = both / ((bank * bank).sum(-1) + image @ image - both)
    shape, variant = np.unravel_index(np.argmax(overlap), overlap.shape)
    return overlap.max(1).astype(np.float64), float(units[shape, variant] * gyration)


# ---------------------------------------------------------------------------------------------------------- the judge

PRESENT = 0.3  # GenEval's threshold of presence: what the judge calls seen
LARGE = 44.0  # radius in canvas units: small shapes end at 38, large ones begin at 50
EVEN = 12.0  # grey levels between opposite sides below which a background is even; the world's shades are 28 to 44
# Centre and width of each logistic function of ``confidence``.
FIT, MARGIN, CONTRAST, CALM = (0.84, 0.02), (0.0, 0.004), (18.0, 1.0), (0.40, 0.02)

_NAMES = tuple(COLORS)
_PALETTE = rgb2lab(np.array([list(COLORS.values())]) / 255)[0]  # [10, 3]
_TINT_CHROMA = rgb2lab(np.array([list(TINTS.values())]) / 255)[0, :, 1:]  # [5, 2]


def confidence(fit: float, margin: float, contrast: float, calm: float) -> float:
    """Detection score in 0..1: the product of four logistic functions, so it grows with each of

    * ``fit``: soft IoU with the best template (0.84 gives one half; clean shapes have 0.98 and more, shapes warped
      until a person hesitates 0.85 to 0.9, random blobs about 0.8);
    * ``margin``: lead over the second best class (a tie gives one half; clean shapes lead by 0.05 and more);
    * ``contrast``: Delta E against the background (18 gives one half; the world's palette has 30 and more);
    * ``calm``: share of the image that is background (0.4 gives one half; scenes have 0.57 and more).

    A clean or mildly degraded object scores above 0.9 (GenEval's counting threshold), a blob that could be two things
    about one half, a speck, a shadow or noise below 0.3 (GenEval's presence threshold)."""
    steps = ((fit, FIT), (margin, MARGIN), (contrast, CONTRAST), (calm, CALM))
    return float(np.prod([1 / (1 + np.exp(-(value - centre) / width)) for value, (centre, width) in steps]))


def color_name(rgb: np.ndarray) -> str:
    """The palette color nearest in CIE Lab to an sRGB color in 0..255."""
    lab = rgb2lab(np.asarray(rgb, np.float64)[None, None] / 255)[0, 0]
    return _NAMES[int(np.argmin(((_PALETTE - lab) ** 2).sum(-1)))]


def tint_and_shade(ground: np.ndarray) -> tuple[str, str]:
    """Names of a fitted background, float [h, w, 3]: the tint by chroma alone (brightness varies), and the side towards
    which it darkens, "none" where opposite sides differ by less than EVEN grey levels."""
    chroma = rgb2lab(ground.mean((0, 1))[None, None] / 255)[0, 0, 1:]
    tint = tuple(TINTS)[int(np.argmin(((_TINT_CHROMA - chroma) ** 2).sum(-1)))]
    grey = ground.mean(-1)
    h, w = grey.shape
    down = grey[-(h // 8) :].mean() - grey[: h // 8].mean()
    right = grey[:, -(w // 8) :].mean() - grey[:, : w // 8].mean()
    if max(abs(down), abs(right)) < EVEN:
        return tint, "none"
    if abs(down) >= abs(right):
        return tint, "top" if down > 0 else "bottom"
    return tint, "left" if right > 0 else "right"


def _detection(blob: Blob, calm: float, height: int, width: int) -> tuple[Detection, str] | None:
    """A blob named and brought back to the image's own pixels, and whether it is small or large; None where nothing
    is left of it there."""
    fit, radius = match(blob.alpha)
    order = np.argsort(fit)
    best, second = fit[order[-1]], fit[order[-2]]
    alpha = blob.alpha
    if alpha.shape != (height, width):
        alpha = resize(alpha, (height, width), order=1, mode="edge", anti_aliasing=False)
    mask = alpha >= 0.5
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    found = Detection(SHAPES[order[-1]], confidence(best, best - second, blob.contrast, calm), box, mask)
    return found, "large" if radius > LARGE else "small"


def _paint(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Median color of the inside of a mask (its border left out where something remains), sRGB 0..255."""
    inner = mask.copy()
    inner[1:-1, 1:-1] &= mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    inner = inner if inner.sum() >= 4 else mask
    return np.median(image[inner], axis=0)


class AnalyticJudge:
    """Detector (``detect``, ``color``) and Answerer (``answer``) of the synthetic scenes."""

    name = "judge-analytic"
    classes = SHAPES

    def __init__(self):
        self._last: tuple[tuple, SceneText] | None = None  # the image asked about last, and what was seen

    def __eq__(self, other: object) -> bool:
        """Two of one class say the same of an image; a subclass may not."""
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of the judge's own source: another judge, another hash."""
        return files.digest(WORLD, Path(__file__).read_text(encoding="utf-8"))

    def look(self, image: np.ndarray) -> tuple[list[tuple[Detection, str]], np.ndarray]:
        """(detection, "small" or "large") of every object, best score first, and the fitted background."""
        seen = segment(image)
        found = [_detection(blob, seen.calm, *image.shape[:2]) for blob in seen.blobs]
        return sorted((f for f in found if f), key=lambda f: (-f[0].score, f[0].box)), seen.ground

    def detect(self, image: np.ndarray) -> list[Detection]:
        """uint8 [H, W, 3] -> one detection an object (its best class only), best score first."""
        return [detection for detection, _ in self.look(image)[0]]

    def color(self, image: np.ndarray, detection: Detection) -> str:
        """Name of the nearest palette color to the median of the detection's inside."""
        return color_name(_paint(image, detection.mask))

    def scene_text(self, image: np.ndarray) -> SceneText:
        """What the judge sees with a score above PRESENT; boxes in pixels."""
        found, ground = self.look(image)
        objects = [Seen(d.label, self.color(image, d), size, d.box) for d, size in found if d.score > PRESENT]
        return SceneText(tuple(objects), *tint_and_shade(ground))

    def answer(self, image: np.ndarray, question: str) -> str:
        """Answer a question of the world's grammar, e.g. "yes".  Raises ValueError for other questions."""
        key = (image.shape, image.tobytes())  # questions about an image come one after another: look once
        if self._last is None or self._last[0] != key:
            self._last = (key, self.scene_text(image))
        return captions.answer(self._last[1], question)
