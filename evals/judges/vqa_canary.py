"""Canaries of judges that answer questions (docs/evaluators.md 0.4): images whose answers are known beyond doubt.

A wrong checkpoint or prompt format does not crash, it answers "no" to everything; so a judge must get both the yes and
the no questions right, and in these words."""

from __future__ import annotations

import numpy as np

from evals.dpg.rules import verdict
from evals.engine.api import Answerer
from vgt.core.captions import questions
from vgt.core.scenes import Draws, item

PLAIN = {"red": (220, 20, 20), "green": (20, 160, 40), "blue": (30, 60, 220), "black": (0, 0, 0)}
RIGHT = 0.75  # share of the yes questions, and of the no questions, that must be answered rightly
SCENES = tuple(range(6))  # indices into the validation split


def plain_image(color: str, side: int = 224) -> np.ndarray:
    """uint8 [side, side, 3]: a filled circle of ``color`` in the middle of a white image."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    image = np.full((side, side, 3), 255, np.uint8)
    image[rows**2 + columns**2 < (side / 3) ** 2] = PLAIN[color]
    return image


def plain_questions() -> list[tuple[np.ndarray, str, str]]:
    """(image, question, answer): each color asked of its own circle and of the next one's."""
    colors = list(PLAIN)
    asked = []
    for place, color in enumerate(colors):
        other = colors[(place + 1) % len(colors)]
        for name in (color, other):
            asked.append((plain_image(color), f"Is the circle {name}?", "yes" if name == color else "no"))
    return asked


def world_questions() -> list[tuple[np.ndarray, str, str]]:
    """(image, question, answer) with yes or no for an answer, about drawn scenes of the validation split."""
    asked = []
    for index in SCENES:
        drawn = item("val", index)
        pairs = questions(drawn.scene, Draws("vqa-canary", index), 16)
        asked += [(drawn.image, question, truth) for question, truth in pairs if truth in ("yes", "no")]
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
    """Drawn scenes, for judges that only know the synthetic scenes.  Raises ValueError where the judge fails."""
    _check(answerer, world_questions())


def check_table(answerer: Answerer) -> None:
    """A table of answers has no weights and no configuration that could be wrong: nothing to check."""
