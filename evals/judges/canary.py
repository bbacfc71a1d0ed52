"""Canaries (docs/evaluators.md 0.4): a few images with known answers go before every judging.

Judges of the synthetic scenes see such scenes, judges of COCO's classes photographs that scikit-image ships.

A wrong configuration of a judge does not crash, it gives low scores; so these functions raise instead.
"""

from __future__ import annotations

from collections import Counter
from typing import NoReturn

import numpy as np

from evals.dpg.rules import verdict
from evals.engine.api import Answerer, Detection, Detector
from evals.geneval.rules import overlap
from vgt.core.captions import questions
from vgt.core.geneval_prompts import CLASSES
from vgt.core.images import read_image
from vgt.core.photos import image_path
from vgt.core.scenes import COLORS, SHAPES, Draws, item

SCENES = tuple(range(6))  # indices into the validation split: made like the test scenes, never judged otherwise
PRESENT = 0.3  # GenEval's threshold of presence
# Photograph -> its object, the box around it (pixels, by eye), and whether nothing else is as plain to see.
PHOTOGRAPHS = {
    ("test", "cat"): ("cat", (0, 0, 370, 300), True),
    ("test", "coffee"): ("cup", (172, 16, 412, 312), False),
    ("train", "astronaut"): ("person", (22, 15, 370, 512), True),
    ("train", "motorcycle-left"): ("motorcycle", (100, 72, 683, 450), True),
}
PLACED = 0.5  # IoU with the box that a detection must reach
PLAIN = ("red", "green", "blue", "yellow", "black", "white")
CIRCLES = {"red": (220, 20, 20), "green": (20, 160, 40), "blue": (30, 60, 220), "black": (0, 0, 0)}
RIGHT = 0.75  # share of the yes questions, and of the no questions, that must be answered rightly
ANSWERS = 0.75  # share of right answers that an answering model must reach; the analytic judge gives them all


def pairs(detector: Detector, image: np.ndarray) -> Counter[tuple[str, str]]:
    """The multiset of (class, color) that a detector finds present in uint8 [H, W, 3]."""
    return Counter((d.label, detector.color(image, d)) for d in detector.detect(image) if d.score > PRESENT)


def check_detector(detector: Detector) -> None:
    """The canary of a detector's world.  Raises ValueError where it fails, and for classes of neither world."""
    known = set(detector.classes)
    if known >= set(SHAPES):
        check_scenes(detector)
    elif known >= set(CLASSES):
        check_photos(detector)
        check_colors(detector)
    else:
        raise ValueError(
            f"judge {detector.name!r} knows neither COCO's classes nor the synthetic scenes': no canary fits"
        )


def _fail(detector: Detector, what: str) -> NoReturn:
    raise ValueError(
        f"judge {detector.name!r} fails its canary: {what}; check its weights and configuration before trusting a score"
    )


def check_scenes(detector: Detector) -> None:
    """Raises ValueError unless the detector finds exactly the objects, with their colors, of six scenes."""
    for index in SCENES:
        shown = item("val", index)
        seen = pairs(detector, shown.image)
        truth = Counter((o.shape, o.color) for o in shown.scene.objects)
        if seen != truth:
            _fail(detector, f"in validation scene {index} it sees {dict(seen)} where {dict(truth)} is drawn")


def check_photos(detector: Detector) -> None:
    """Raises ValueError unless each of PHOTOGRAPHS shows its object: present, where it is, and the best of all that
    was detected wherever it fills the image."""
    for (split, name), (label, box, alone) in PHOTOGRAPHS.items():
        found = sorted(detector.detect(read_image(image_path(split, name))), key=lambda d: -d.score)
        right = [d for d in found if d.label == label and d.score > PRESENT]
        seen = ", ".join(f"{d.label} {d.score:.2f}" for d in found[:3]) or "nothing"
        if not right or (alone and found[0].label != label):
            _fail(detector, f"in the photograph {name!r} it sees {seen} where a {label} is shown")
        if overlap(right[0].box, box) < PLACED:
            where = tuple(round(v) for v in right[0].box)
            _fail(detector, f"in the photograph {name!r} the {label} is at {where}, not near {box}")


def check_colors(detector: Detector) -> None:
    """Raises ValueError unless a ball painted in each of PLAIN on random dots is named rightly, but for one."""
    y, x = np.mgrid[:96, :128]
    mask = (x - 60) ** 2 + (y - 48) ** 2 < 40**2
    dots = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    ball = Detection("sports ball", 1.0, (21.0, 9.0, 100.0, 88.0), mask)
    named = {c: detector.color(np.where(mask[..., None], np.uint8(COLORS[c]), dots), ball) for c in PLAIN}
    if sum(color == said for color, said in named.items()) < len(PLAIN) - 1:
        _fail(detector, "it calls " + ", ".join(f"{color} {said}" for color, said in named.items()))


def check_answerer(answerer: Answerer) -> None:
    """Raises ValueError unless at least ANSWERS of 24 questions about six scenes are answered rightly."""
    asked = [
        (shown.image, question, truth)
        for shown in (item("val", index) for index in SCENES)
        for question, truth in questions(shown.scene, Draws("canary", shown.scene.objects[0].cx), 4)
    ]
    right = sum(answerer.answer(image, question).strip().lower() == truth for image, question, truth in asked)
    if right < ANSWERS * len(asked):
        image, question, truth = next(a for a in asked if answerer.answer(a[0], a[1]).strip().lower() != a[2])
        raise ValueError(
            f"judge {answerer.name!r} fails its canary: {right} of {len(asked)} answers are right, for example "
            f"{question!r} is {truth!r}; check its weights and configuration before trusting a score"
        )


def plain_image(color: str, side: int = 224) -> np.ndarray:
    """uint8 [side, side, 3]: a filled circle of ``color`` in the middle of a white image."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    image = np.full((side, side, 3), 255, np.uint8)
    image[rows**2 + columns**2 < (side / 3) ** 2] = CIRCLES[color]
    return image


def plain_questions() -> list[tuple[np.ndarray, str, str]]:
    """(image, question, answer): each color asked of its own circle and of the next one's."""
    colors = list(CIRCLES)
    asked = []
    for place, color in enumerate(colors):
        other = colors[(place + 1) % len(colors)]
        for name in (color, other):
            asked.append((plain_image(color), f"Is the circle {name}?", "yes" if name == color else "no"))
    return asked


def world_questions() -> list[tuple[np.ndarray, str, str]]:
    """(image, question, answer) with yes or no for an answer, about scenes of the validation split."""
    asked = []
    for index in SCENES:
        shown = item("val", index)
        pairs = questions(shown.scene, Draws("vqa-canary", index), 16)
        asked += [(shown.image, question, truth) for question, truth in pairs if truth in ("yes", "no")]
    return asked


def _check(answerer: Answerer, asked: list[tuple[np.ndarray, str, str]]) -> None:
    right: dict[str, list[bool]] = {"yes": [], "no": []}
    wrong = None
    for image, question, truth in asked:
        words = answerer.answer(image, question)
        good = verdict(words) is (truth == "yes")
        right[truth].append(good)
        if not good:
            wrong = wrong or f"{question!r} is {truth!r}, answered {words!r}"
    shares = {truth: float(np.mean(found)) for truth, found in right.items()}
    if min(shares.values()) < RIGHT:
        raise ValueError(
            f"judge {answerer.name!r} fails its canary: right on {shares['yes']:.0%} of the questions with a yes and "
            f"{shares['no']:.0%} of those with a no ({RIGHT:.0%} of each are needed), for example {wrong}; check its "
            f"weights, its prompt and its configuration before trusting a score"
        )


def check_plain(answerer: Answerer) -> None:
    """Colored circles on white, for judges of photographs.  Raises ValueError where the judge fails."""
    _check(answerer, plain_questions())


def check_world(answerer: Answerer) -> None:
    """Scenes, for judges that only know the synthetic scenes.  Raises ValueError where the judge fails."""
    _check(answerer, world_questions())


def check_table(answerer: Answerer) -> None:
    """A table of answers has no weights and no configuration that could be wrong: nothing to check."""
