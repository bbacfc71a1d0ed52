"""The judge of the synthetic scenes: training-free, for images of any size.  A Detector and an Answerer.

What it sees follows from segmentation.py (where objects are) and shapes.py (what they are); colors are names of the
nearest palette color in CIE Lab.  Its accuracy on clean and on degraded images is measured by evals/calibration/run.py.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from skimage.color import rgb2lab
from skimage.transform import resize

from evals.engine.api import Detection
from evals.judges import segmentation, shapes
from evals.judges.segmentation import Blob, segment
from evals.judges.shapes import match
from vgt.core import captions, files
from vgt.core.captions import SceneText, Seen
from vgt.core.scenes import COLORS, SHAPES, TINTS, WORLD

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

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of the judge's own source: another judge, another hash."""
        sources = [Path(m).read_text(encoding="utf-8") for m in (segmentation.__file__, shapes.__file__, __file__)]
        return files.digest(WORLD, *sources)

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
        key = (image.shape, image.tobytes())  # questions about a image come one after another: look once
        if self._last is None or self._last[0] != key:
            self._last = (key, self.scene_text(image))
        return captions.answer(self._last[1], question)
