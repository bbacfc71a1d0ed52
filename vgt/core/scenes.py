"""The synthetic scenes: an infinite, drawn, seeded data set of coloured shapes.

``item(split, index)`` is a pure function.  A scene is laid out in integers on a canvas of 256 x 256 units;
an image of ``size`` pixels averages blocks of 256/size units, so every pixel is decided by integer arithmetic
and is the same on every machine.  The split of a scene follows from its own content, so no two splits can
share one.  Some (colour, shape) pairs never appear in training: see ``HELD_OUT``.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

WORLD = "scenes-v1"
CANVAS = 256
SIZES = (32, 64, 128)
SPLITS = ("train", "val", "test")

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")
COLORS = {
    "red": (214, 38, 38),
    "orange": (244, 132, 16),
    "yellow": (244, 222, 44),
    "green": (36, 150, 62),
    "blue": (38, 76, 208),
    "purple": (128, 48, 170),
    "pink": (246, 148, 192),
    "brown": (116, 66, 28),
    "black": (22, 22, 22),
    "white": (246, 246, 246),
}
HELD_OUT = frozenset(
    {
        ("red", "heart"),
        ("orange", "ring"),
        ("yellow", "star"),
        ("green", "triangle"),
        ("blue", "square"),
        ("purple", "circle"),
        ("pink", "moon"),
        ("white", "cross"),
    }
)
# Classes of scenes with one object, "red circle" for example; HELD_OUT among them.
CLASSES = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)
TINTS = {
    "gray": (138, 138, 138),
    "bluish": (124, 138, 160),
    "greenish": (126, 148, 128),
    "pinkish": (158, 130, 138),
    "sandy": (158, 146, 118),
}
SHADES = ("none", "top", "bottom", "left", "right")
RADII = {"small": (34, 38), "large": (50, 58)}
RELATIONS = ("left of", "right of", "above", "below")
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
GAP = 12
LAYOUT_TRIES = 5000

# Vertices on a square of side 2000 around the origin, y downwards.
_POLYGONS = {
    "triangle": ((0, -1000), (1000, 860), (-1000, 860)),
    "star": (
        (0, -1000), (259, -356), (951, -309), (419, 136), (588, 809),
        (0, 440), (-588, 809), (-419, 136), (-951, -309), (-259, -356),
    ),
    "heart": (
        (0, -500), (92, -690), (230, -820), (400, -890), (590, -880), (770, -780), (910, -610), (980, -400),
        (960, -180), (860, 60), (690, 320), (440, 600), (0, 960), (-440, 600), (-690, 320), (-860, 60),
        (-960, -180), (-980, -400), (-910, -610), (-770, -780), (-590, -880), (-400, -890), (-230, -820), (-92, -690),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Object:
    """One shape: centre and radius in canvas units, its colour name and the painted RGB (uint8 range)."""

    shape: str
    color: str
    cx: int
    cy: int
    radius: int
    rgb: tuple[int, int, int]

    @property
    def size(self) -> str:
        """ "small" or "large"."""
        return "small" if self.radius <= RADII["small"][1] else "large"

    @property
    def pair(self) -> tuple[str, str]:
        return self.color, self.shape

    @property
    def extent(self) -> tuple[int, int, int, int]:
        """Tight box (x1, y1, x2, y2) in canvas units, far edges exclusive."""
        mask = _shape_mask(self.shape, self.radius)
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        left, top = self.cx - self.radius, self.cy - self.radius
        return left + int(cols[0]), top + int(rows[0]), left + int(cols[-1]) + 1, top + int(rows[-1]) + 1


@dataclass(frozen=True)
class Background:
    """Tint name, the side towards which it darkens, base RGB, strength of the shade, soft noise lattice."""

    tint: str
    shade: str
    rgb: tuple[int, int, int]
    slope: int
    lattice: tuple[int, ...]


@dataclass(frozen=True)
class Scene:
    """What an image shows.  ``task`` says which kind of caption it was laid out for; ``relation`` is set for
    "position" scenes: object 0 is ``relation`` object 1."""

    objects: tuple[Object, ...]
    background: Background
    task: str
    relation: str | None = None

    @property
    def held_out(self) -> bool:
        """True where any object is a (colour, shape) pair that training never shows."""
        return any(o.pair in HELD_OUT for o in self.objects)


@dataclass(frozen=True)
class Item:
    """``image`` uint8 [size, size, 3], the scene, one mask bool [size, size] and one box (x1, y1, x2, y2; pixels,
    far edges exclusive) per object."""

    image: np.ndarray
    scene: Scene
    masks: tuple[np.ndarray, ...]
    boxes: tuple[tuple[int, int, int, int], ...]


class Draws:
    """A stream of integers from a key.  Uses only the raw PCG64 stream, which NumPy guarantees never to change."""

    def __init__(self, *key: int | str):
        words = [zlib.crc32(k.encode()) if isinstance(k, str) else int(k) for k in (WORLD, *key)]
        self._bits = np.random.PCG64(np.random.SeedSequence(words))
        self._raw: list[int] = []

    def below(self, n: int) -> int:
        """Uniform integer in 0 .. n-1."""
        if not self._raw:
            self._raw = self._bits.random_raw(64).tolist()[::-1]
        return (self._raw.pop() >> 11) % n

    def between(self, low: int, high: int) -> int:
        """Uniform integer in low .. high, both included."""
        return low + self.below(high - low + 1)

    def choice(self, options):
        return options[self.below(len(options))]

    def some(self, options, k: int) -> list:
        """k different options in drawn order."""
        left = list(options)
        return [left.pop(self.below(len(left))) for _ in range(k)]


# --------------------------------------------------------------------------------------------------- layout


def relations(a, b, threshold: float = 0.1) -> tuple[str, ...]:
    """GenEval's relations of box ``a`` with respect to box ``b`` (docs/evaluators.md 2.6); boxes: x1, y1, x2, y2."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a[:4], b[:4]
    offset = np.array([(ax1 + ax2) / 2 - (bx1 + bx2) / 2, (ay1 + ay2) / 2 - (by1 + by2) / 2])
    sides = np.array([abs(ax2 - ax1) + abs(bx2 - bx1), abs(ay2 - ay1) + abs(by2 - by1)])
    shrunk = np.sign(offset) * np.maximum(np.abs(offset) - threshold * sides, 0)
    if (np.abs(shrunk) < 1e-3).all():
        return ()
    dx, dy = shrunk / np.linalg.norm(offset)
    found = (("left of", dx < -0.5), ("right of", dx > 0.5), ("above", dy < -0.5), ("below", dy > 0.5))
    return tuple(name for name, holds in found if holds)


def _place(draws: Draws, radii: list[int], accept=None) -> list[tuple[int, int]]:
    """Centres for the given radii, bounding squares at least GAP units apart and inside the canvas.

    Raises ValueError where LAYOUT_TRIES layouts in a row failed (too many objects, or relations that contradict)."""
    for _ in range(LAYOUT_TRIES):
        centres: list[tuple[int, int]] = []
        for r in radii:
            for _ in range(24):
                x, y = draws.between(r + 4, CANVAS - r - 4), draws.between(r + 4, CANVAS - r - 4)
                if all(max(abs(x - u), abs(y - v)) >= r + s + GAP for (u, v), s in zip(centres, radii, strict=False)):
                    centres.append((x, y))
                    break
            else:
                break
        if len(centres) == len(radii) and (accept is None or accept(centres)):
            return centres
    raise ValueError(
        f"{len(radii)} objects of radius {', '.join(map(str, radii))} found no layout that keeps all wanted relations; "
        "ask for fewer or smaller objects, or for relations that do not contradict each other"
    )


def _paint(draws: Draws, color: str) -> tuple[int, int, int]:
    return tuple(min(255, max(0, c + draws.between(-8, 8))) for c in COLORS[color])


def _background(draws: Draws, tint: str | None = None, shade: str | None = None) -> Background:
    tint = tint or draws.choice(tuple(TINTS))
    shade = shade or draws.choice(SHADES)
    level = draws.between(-14, 14)
    rgb = tuple(c + level + draws.between(-2, 2) for c in TINTS[tint])
    slope = draws.between(28, 44) if shade != "none" else 0
    return Background(tint, shade, rgb, slope, tuple(draws.between(-5, 5) for _ in range(25)))


def _radii(draws: Draws, sizes) -> list[int]:
    return [draws.between(*RADII[s]) for s in sizes]


def _sizes(draws: Draws, n: int) -> list[str]:
    """At most one large object among three, none among four, so that every layout fits."""
    if n <= 2:
        return [draws.choice(("small", "large")) for _ in range(n)]
    sizes = ["small"] * n
    if n == 3 and draws.below(2):
        sizes[draws.below(n)] = "large"
    return sizes


def compose(draws: Draws, kinds, sizes=None, relation=None, tint=None, shade=None, task="dense", holds=()) -> Scene:
    """Lay out the (colour, shape) ``kinds``.  ``relation``: what object 0 is to object 1 (kept clear of GenEval's
    borderline by a stricter shrink).  ``holds``: further (i, relation, j) that must be true."""
    sizes = list(sizes) if sizes else _sizes(draws, len(kinds))
    wanted = [*holds, *([(0, relation, 1)] if relation else [])]

    def accept(centres) -> bool:
        extents = [
            Object(shape, color, x, y, r, (0, 0, 0)).extent
            for (color, shape), (x, y), r in zip(kinds, centres, radii, strict=True)
        ]
        return all(rel in relations(extents[i], extents[j], 0.2) for i, rel, j in wanted)

    radii = _radii(draws, sizes)
    centres = _place(draws, radii, accept if wanted else None)
    objects = tuple(
        Object(shape, color, x, y, r, _paint(draws, color))
        for (color, shape), (x, y), r in zip(kinds, centres, radii, strict=True)
    )
    return Scene(objects, _background(draws, tint, shade), task, relation)


def _pair(draws: Draws, seen_only: bool, color=None, shape=None) -> tuple[str, str]:
    while True:
        pair = (color or draws.choice(tuple(COLORS)), shape or draws.choice(SHAPES))
        if not (seen_only and pair in HELD_OUT):
            return pair


def draw_scene(draws: Draws, task: str, seen_only: bool) -> Scene:
    """A random scene for one of TASKS or "dense"; ``seen_only`` leaves the held-out pairs out."""
    if task in ("single_object", "colors"):
        return compose(draws, [_pair(draws, seen_only)], task=task)
    if task == "counting":
        shape, n = draws.choice(SHAPES), draws.between(2, 4)
        same = _pair(draws, seen_only, shape=shape)
        kinds = [same] * n if draws.below(2) else [_pair(draws, seen_only, shape=shape) for _ in range(n)]
        return compose(draws, kinds, task=task)
    if task in ("two_object", "position", "color_attr"):
        while True:
            shapes, colors = draws.some(SHAPES, 2), draws.some(tuple(COLORS), 2)
            kinds = list(zip(colors, shapes, strict=True))
            if not (seen_only and HELD_OUT.intersection(kinds)):
                break
        return compose(draws, kinds, relation=draws.choice(RELATIONS) if task == "position" else None, task=task)
    if task == "dense":
        kinds: list[tuple[str, str]] = []
        for _ in range(draws.between(1, 4)):
            kind = _pair(draws, seen_only)
            if kind not in kinds:
                kinds.append(kind)
        return compose(draws, kinds, task=task)
    raise ValueError(f"task {task!r} is unknown; choose one of {', '.join((*TASKS, 'dense'))}")


def split_of(scene: Scene) -> str:
    """The split to which a scene belongs by its content: 8 in 10 train, 1 val, 1 test."""
    text = repr(sorted((o.shape, o.color, o.cx, o.cy, o.radius) for o in scene.objects))
    return (("train",) * 8 + ("val", "test"))[zlib.crc32(text.encode()) % 10]


def task(split: str, index: int) -> str:
    """The kind of scene ``index`` of ``split``, one of TASKS or "dense", without laying it out."""
    return _task(Draws(split, index, "any"))


def _task(draws: Draws) -> str:
    return draws.choice((*TASKS, "dense"))


def scene(split: str, index: int, task: str | None = None) -> Scene:
    """Scene ``index`` (>= 0) of ``split``; ``task`` restricts the kind.  Training scenes hold no held-out pair."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}")
    if index < 0:
        raise ValueError(f"index {index} is negative")
    draws = Draws(split, index, task or "any")
    kind = task or _task(draws)
    while True:
        drawn = draw_scene(draws, kind, seen_only=split == "train")
        if split_of(drawn) == split:
            return drawn


def class_of(scene: Scene) -> int:
    """The number of the class (CLASSES) of a scene with one object."""
    (only,) = scene.objects
    return CLASSES.index(f"{only.color} {only.shape}")


# ------------------------------------------------------------------------------------------------- rendering


@lru_cache(maxsize=1024)
def _shape_mask(shape: str, radius: int) -> np.ndarray:
    """bool [2r, 2r]: which units of the bounding square lie inside.  Sample points are unit centres (odd, doubled)."""
    axis = np.arange(-2 * radius + 1, 2 * radius, 2, dtype=np.int64)
    y, x = axis[:, None], axis[None, :]
    full = 2 * radius
    square = x * x + y * y
    if shape == "circle":
        return square <= full * full
    if shape == "ring":
        return (square <= full * full) & (4 * square >= full * full)
    if shape == "square":
        return (10 * np.abs(x) <= 9 * full) & (10 * np.abs(y) <= 9 * full)
    if shape == "cross":
        return (3 * np.abs(x) <= full) | (3 * np.abs(y) <= full)
    if shape == "moon":  # a disc less a disc of 0.8 r whose centre lies 0.5 r to the right
        bite = (2 * x - full) ** 2 + 4 * y * y
        return (square <= full * full) & (25 * bite > 64 * full * full)
    if shape in _POLYGONS:
        inside = np.zeros((2 * radius, 2 * radius), bool)
        points = _POLYGONS[shape]
        px, py = 1000 * x, 1000 * y
        for (x1, y1), (x2, y2) in zip(points, (*points[1:], points[0]), strict=True):  # even-odd rule, exact
            x1, y1, x2, y2 = full * x1, full * y1, full * x2, full * y2
            spans = (y1 > py) != (y2 > py)
            side = (px - x1) * (y2 - y1) - (py - y1) * (x2 - x1)
            inside ^= spans & ((side < 0) == (y2 > y1))
        return inside
    raise ValueError(f"shape {shape!r} is unknown; choose one of {', '.join(SHAPES)}")


@lru_cache(maxsize=65536)
def _coverage(shape: str, radius: int, phase_x: int, phase_y: int, step: int) -> np.ndarray:
    """int32 [rows, cols]: units covered in each pixel of ``step`` x ``step`` units, for a sub-pixel phase."""
    mask = _shape_mask(shape, radius)
    side = -(-(2 * radius + max(phase_x, phase_y)) // step) * step
    padded = np.zeros((side, side), np.int32)
    padded[phase_y : phase_y + 2 * radius, phase_x : phase_x + 2 * radius] = mask
    return padded.reshape(side // step, step, side // step, step).sum((1, 3), dtype=np.int32)


@lru_cache(maxsize=8)
def _bilinear(size: int) -> np.ndarray:
    """int32 [size, 5]: weights (sum 4096) that spread a 5-point lattice over ``size`` pixels."""
    weights = np.zeros((size, 5), np.int32)
    for i in range(size):
        cell, part = divmod((2 * i + 1) * 4 * 2048 // size, 4096)
        weights[i, cell], weights[i, min(cell + 1, 4)] = 4096 - part, part
    return weights


def _render_background(background: Background, size: int) -> np.ndarray:
    spread = _bilinear(size)
    lattice = np.array(background.lattice, np.int32).reshape(5, 5)
    level = (spread @ lattice @ spread.T) >> 24  # [size, size] grey levels; weights sum to 4096 on each axis
    if background.shade != "none":
        ramp = (2 * np.arange(size, dtype=np.int32) + 1 - size) * background.slope // (2 * size)
        ramp = -ramp if background.shade in ("bottom", "right") else ramp
        level = level + (ramp[:, None] if background.shade in ("top", "bottom") else ramp[None, :])
    return np.array(background.rgb, np.int32) + level[:, :, None]


def render(scene: Scene, size: int = 64) -> Item:
    """Paint a scene.  ``size`` is the side in pixels, one of SIZES."""
    if size not in SIZES:
        raise ValueError(f"size {size} is not drawn; choose one of {', '.join(map(str, SIZES))}")
    step = CANVAS // size
    units = step * step
    canvas = _render_background(scene.background, size)
    masks, boxes = [], []
    for o in scene.objects:
        left, top = o.cx - o.radius, o.cy - o.radius
        cover = _coverage(o.shape, o.radius, left % step, top % step, step)
        rows, cols = min(cover.shape[0], size - top // step), min(cover.shape[1], size - left // step)
        cover = cover[:rows, :cols]
        window = (slice(top // step, top // step + rows), slice(left // step, left // step + cols))
        part = cover[:, :, None]
        canvas[window] = (canvas[window] * (units - part) + np.array(o.rgb, np.int32) * part + units // 2) // units
        mask = np.zeros((size, size), bool)
        mask[window] = 2 * cover >= units
        masks.append(mask)
        y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append((int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1))
    return Item(canvas.astype(np.uint8), scene, tuple(masks), tuple(boxes))


def item(split: str, index: int, size: int = 64, task: str | None = None) -> Item:
    """Item number ``index`` of ``split``: a pure function of its arguments."""
    return render(scene(split, index, task), size)


def images(split: str, indices, size: int = 64) -> np.ndarray:
    """uint8 [N, size, size, 3]."""
    return np.stack([item(split, int(i), size).image for i in indices])
