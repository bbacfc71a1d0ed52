"""What MME, MMBench and TextVQA compute from single answers (docs/evaluators.md 4): pure functions, to check what other
harnesses report and to give it an interval.  No benchmark is run here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
ROTATION = 1_000_000  # MMBench: rotations of a question differ in their index by multiples of this
ARTICLES = ("a", "an", "the")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


@dataclass(frozen=True)
class Image:
    """One image of MME: its sub-task, and accuracy + accuracy+ in percent (0, 50 or 200)."""

    subtask: str
    name: str
    score: float


def mme_images(rows: Iterable[tuple[str, str, float]]) -> list[Image]:
    """(sub-task, image, 1 for a right answer) of every question -> images (docs/evaluators.md 4).

    Accuracy is the share of right answers, accuracy+ of images with both right, so an image gives 0, 50 or 200.
    Raises ValueError for an image without exactly two questions."""
    answers: dict[tuple[str, str], list[float]] = {}
    for subtask, name, right in rows:
        answers.setdefault((subtask, name), []).append(float(right))
    for (subtask, name), scores in answers.items():
        if len(scores) != 2:
            raise ValueError(f"MME image {name} of {subtask} has {len(scores)} questions; it must have two")
    return [Image(s, n, 100 * float(np.mean(r)) + 100 * float(all(r))) for (s, n), r in sorted(answers.items())]


def mme_total(images: Sequence[Image]) -> float:
    """The sum over sub-tasks of their mean over images; ten sub-tasks give at most 2000."""
    subtasks = sorted({image.subtask for image in images})
    return float(sum(np.mean([i.score for i in images if i.subtask == subtask]) for subtask in subtasks))


def circular(rows: Iterable[tuple[int, bool | None]]) -> dict[int, bool | None]:
    """MMBench's CircularEval: question -> right under all rotations; ``rows``: (index, right, or None where unknown).

    One wrong rotation decides; otherwise one unknown leaves the question unknown."""
    rotations: dict[int, list[bool | None]] = {}
    for index, right in rows:
        rotations.setdefault(int(index) % ROTATION, []).append(right)
    return {
        question: False if False in found else None if None in found else True
        for question, found in sorted(rotations.items())
    }


def choice(answer: str, letters: str = "ABCDE") -> str | None:
    """The option that an answer names beyond doubt: a single letter, alone or at the start with a mark behind it
    ("B", "(B) a cat", "B. a cat"); None for anything else, which harnesses leave to further rules or to a model."""
    words = answer.strip()
    found = re.match(rf"\(?([{letters}])(?:[).:,]+|$)", words)
    named = {word.strip("().:,") for word in words.split()} & set(letters)
    return found[1] if found and named == {found[1]} else None


def soft_accuracy(answer: str, answers: Sequence[str]) -> float:
    """TextVQA's accuracy of a normalised answer against normalised human ones: each is left out once, the score is the
    mean of min(1, matches among the others / 3)."""
    matches = [other == answer for other in answers]
    return float(np.mean([min(1.0, (sum(matches) - own) / 3) for own in matches]))


NEGATED = "ai|are|ca|could|did|does|do|had|has|have|is|might|must|need|ought|sha|should|was|were|wo|would"
# "dont" -> "don't" and its kin, as the standard VQA evaluation has them.
CONTRACTIONS = {f"{stem}nt": f"{stem}n't" for stem in NEGATED.split("|")}
CONTRACTIONS |= {f"{stem}ve": f"{stem}'ve" for stem in ("could", "might", "must", "should", "we", "would", "you")}
CONTRACTIONS |= {"youre": "you're", "theyve": "they've", "theyre": "they're", "oclock": "o'clock"}


def normalized(text: str) -> str:
    """An answer as the VQA evaluation compares it: lower case, punctuation, articles and number words made alike."""
    words = text.replace("\n", " ").replace("\t", " ").strip()
    comma_in_number = re.search(r"\d,\d", words)
    plain = words
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in words or f" {mark}" in words
        plain = plain.replace(mark, "" if beside_space or comma_in_number else " ")
    plain = re.sub(r"\.(?!\d)", "", plain).lower()
    numbers = {word: str(value) for value, word in enumerate(NUMBERS)} | {"none": "0"}
    kept = [numbers.get(word, word) for word in plain.split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in kept if word not in ARTICLES)
