"""Canaries (spec evaluators 0.4): a few drawn scenes with known answers go before every judging.

A wrong configuration of a judge does not crash, it gives low scores; so these functions raise instead.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from evals.api import Answerer, Detector
from vgt.core.captions import questions
from vgt.core.scenes import Draws, item

SCENES = tuple(range(6))  # indices into the validation split: drawn like the test scenes, never judged otherwise
PRESENT = 0.3  # GenEval's threshold of presence
ANSWERS = 0.75  # share of right answers that an answering model must reach; the analytic judge gives them all


def pairs(detector: Detector, image: np.ndarray) -> Counter[tuple[str, str]]:
    """The multiset of (class, color) that a detector finds present in uint8 [H, W, 3]."""
    return Counter((d.label, detector.color(image, d)) for d in detector.detect(image) if d.score > PRESENT)


def check_detector(detector: Detector) -> None:
    """Raises ValueError unless the detector finds exactly the objects, with their colors, of six drawn scenes."""
    for index in SCENES:
        drawn = item("val", index)
        seen = pairs(detector, drawn.image)
        truth = Counter((o.shape, o.color) for o in drawn.scene.objects)
        if seen != truth:
            raise ValueError(
                f"judge {detector.name!r} fails its canary: in validation scene {index} it sees {dict(seen)} where "
                f"{dict(truth)} is drawn; check its weights and configuration before trusting a score"
            )


def check_answerer(answerer: Answerer) -> None:
    """Raises ValueError unless at least ANSWERS of 24 questions about six drawn scenes are answered rightly."""
    asked = [
        (drawn.image, question, truth)
        for drawn in (item("val", index) for index in SCENES)
        for question, truth in questions(drawn.scene, Draws("canary", drawn.scene.objects[0].cx), 4)
    ]
    right = sum(answerer.answer(image, question).strip().lower() == truth for image, question, truth in asked)
    if right < ANSWERS * len(asked):
        image, question, truth = next(a for a in asked if answerer.answer(a[0], a[1]).strip().lower() != a[2])
        raise ValueError(
            f"judge {answerer.name!r} fails its canary: {right} of {len(asked)} answers are right, for example "
            f"{question!r} is {truth!r}; check its weights and configuration before trusting a score"
        )
