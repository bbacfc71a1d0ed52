"""GenEval's rules (docs/evaluators.md 2.3 to 2.7), pure functions of detections: what counts, what is right, why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple, Protocol

import numpy as np

from vgt.core.scenes import COLORS, RELATIONS, TASKS, relations

VERSION = 3  # of the rules below: raise it when a change to them can change a score


@dataclass(frozen=True)
class Thresholds:
    """The official settings (docs/evaluators.md 2.3).  ``max_overlap`` 1 switches suppression off."""

    threshold: float = 0.3
    counting_threshold: float = 0.9
    max_objects: int = 16
    max_overlap: float = 1.0
    position_threshold: float = 0.1

    def __post_init__(self) -> None:
        for name in ("threshold", "counting_threshold", "max_overlap", "position_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} is outside 0..1")
        if self.max_objects < 1:
            raise ValueError(f"max_objects {self.max_objects} is below 1")

    @property
    def variant(self) -> str:
        """ "" for the official settings, else what differs: "threshold0.5,max_objects4"."""
        changed = asdict(self).items() - asdict(Thresholds()).items()
        return ",".join(f"{name}{value:g}" for name, value in asdict(self).items() if (name, value) in changed)


OFFICIAL = Thresholds()


class Box(NamedTuple):
    """A detection without its mask: all that the rules look at."""

    label: str
    score: float
    box: tuple[float, float, float, float]


class Detected(Protocol):
    """What the rules need of a detection; api.Detection and Box have it."""

    label: str
    score: float
    box: tuple[float, float, float, float]


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """IoU of two boxes with inclusive coordinates (docs/evaluators.md 2.3)."""

    def area(x1: float, y1: float, x2: float, y2: float) -> float:
        return max(x2 - x1 + 1, 0) * max(y2 - y1 + 1, 0)

    both = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a[:4]) + area(*b[:4]) - both
    return both / union if union else 0.0


def above(score: float, threshold: float) -> bool:
    """Whether a score counts: both as float32, as the official code holds its scores and so compares them."""
    return bool(np.float32(score) > np.float32(threshold))


def select(detections: Sequence[Detected], tag: str, rules: Thresholds = OFFICIAL) -> dict[str, list[int]]:
    """Class -> indices of the detections that count, best first (docs/evaluators.md 2.3): score ``above`` the task's
    threshold, at most ``max_objects``, then greedy suppression.  Of equal scores the last detection comes first."""
    least = rules.counting_threshold if tag == "counting" else rules.threshold
    chosen: dict[str, list[int]] = {}
    for i in sorted(range(len(detections)), key=lambda i: (detections[i].score, i), reverse=True):
        if above(detections[i].score, least):
            chosen.setdefault(detections[i].label, []).append(i)
    for label, indices in chosen.items():
        kept: list[int] = []
        for i in indices[: rules.max_objects]:
            if rules.max_overlap == 1 or all(
                overlap(detections[i].box, detections[k].box) < rules.max_overlap for k in kept
            ):
                kept.append(i)
        chosen[label] = kept
    return chosen


def color_reason(clause: dict, named: Sequence[str | None]) -> str | None:
    """Why instances of these colors do not fulfil a clause, None where they do (docs/evaluators.md 2.4, 2.7)."""
    name, count, wanted = clause["class"], clause["count"], clause["color"]
    right = list(named).count(wanted)
    if right >= count:
        return None
    seen = ", ".join(f"{list(named).count(c)} {c}" for c in COLORS if c in named)
    return f"expected {wanted} {name}>={count}, found {right} {wanted}; and {seen}"


def position_reason(clause: dict, boxes: Sequence, targets: Sequence | None, rules: Thresholds) -> str | None:
    """Why instances do not stand as a clause says with respect to every target, None where they do; ``targets`` None
    for a reference that was not matched."""
    name, relation = clause["class"], clause["position"][0]
    if targets is None:
        return f"no target for {name} to be {relation}"
    for box in boxes:
        for target in targets:
            true = relations(box, target, rules.position_threshold)
            if relation not in true:
                return f"expected {name} {relation} target, found {' and '.join(true)} target"
    return None


def judge_image(
    detections: Sequence[Detected], prompt: dict, colors: Sequence[str | None], rules: Thresholds = OFFICIAL
) -> tuple[bool, str]:
    """Whether an image holds its prompt's record, and the reasons why not (docs/evaluators.md 2.4, 2.7).

    ``colors``: one name per detection; needed only for classes that the record gives a color."""
    found = select(detections, prompt["tag"], rules)
    reasons: list[str] = []
    groups: list[list | None] = []  # per clause the boxes that matched it
    for clause in prompt["include"]:
        name, count = clause["class"], clause["count"]
        chosen = found.get(name, [])[:count]
        boxes = [detections[i].box for i in chosen]
        reason = f"expected {name}>={count}, found {len(chosen)}" if len(chosen) < count else None
        if reason is None and "color" in clause:
            reason = color_reason(clause, [colors[i] for i in chosen])
        if reason is None and "position" in clause:
            reason = position_reason(clause, boxes, groups[clause["position"][1]], rules)
        groups.append(boxes if reason is None else None)
        reasons += [] if reason is None else [reason]
    for clause in prompt.get("exclude", []):
        number = len(found.get(clause["class"], []))
        if number >= clause["count"]:
            reasons.append(f"expected {clause['class']}<{clause['count']}, found {number}")
    return not reasons, "\n".join(reasons)


def colored_classes(prompt: dict) -> tuple[str, ...]:
    """Classes whose color the record asks for."""
    return tuple(sorted({clause["class"] for clause in prompt["include"] if "color" in clause}))


# ------------------------------------------------------------------------------------------------ prompt records


def _clause_fault(clause: object, place: int) -> str | None:
    """What is wrong with one include or exclude clause, the ``place``-th of its list."""
    if not (isinstance(clause, dict) and isinstance(clause.get("class"), str)):
        return "has a clause without a class"
    if not (isinstance(clause.get("count"), int) and clause["count"] is not True and clause["count"] >= 1):
        return f"asks for {clause.get('count')!r} of {clause['class']!r}; a count is 1 or more"
    if clause.get("color", "red") not in tuple(COLORS):
        return f"asks for the color {clause['color']!r}; give one of {', '.join(COLORS)}"
    if "position" in clause:
        told = clause["position"]
        known = isinstance(told, list) and len(told) == 2 and told[0] in RELATIONS
        if not (known and isinstance(told[1], int) and 0 <= told[1] < place):
            return f"has the position {told!r}; give a relation and the place of an earlier clause"
    return None


def _fault(prompt: object) -> str | None:
    """What is wrong with a prompt record, None for a good one."""
    lost = [k for k in ("tag", "include", "prompt") if not isinstance(prompt, dict) or k not in prompt]
    if lost:
        return f"has no {lost[0]!r}"
    if prompt["tag"] not in tuple(TASKS):
        return f"has the tag {prompt['tag']!r}; tags are {', '.join(TASKS)}"
    if not (isinstance(prompt["prompt"], str) and isinstance(prompt["include"], list) and prompt["include"]):
        return "needs a text as prompt and a list of clauses as include"
    if not isinstance(prompt.get("exclude", []), list):
        return f"has {prompt['exclude']!r} as exclude; give a list of clauses, or leave it out"
    if not isinstance(prompt.get("id", ""), (str, int)):
        return f"has the id {prompt['id']!r}; give a text"
    if not isinstance(prompt.get("held_out", False), bool):
        return f"has {prompt['held_out']!r} as held_out; give true or false"
    faults = [_clause_fault(clause, place) for place, clause in enumerate(prompt["include"])]
    faults += [_clause_fault(clause, 0) for clause in prompt.get("exclude", [])]
    return next(filter(None, faults), None)


def check_prompts(suite: str, prompts: list[dict]) -> None:
    """Raises ValueError for a record that the rules cannot score, and for two that are the same."""
    seen: dict[str, int] = {}
    for number, prompt in enumerate(prompts):
        fault = _fault(prompt)
        if fault:
            where = getattr(prompt, "where", f"suite {suite!r}, prompt {number}")
            raise ValueError(f"{where}: {fault}; `vgt prompts geneval` shows the format")
        text = repr(prompt)
        if text in seen:
            raise ValueError(f"suite {suite!r}: prompts {seen[text]} and {number} are the same; each counts once")
        seen[text] = number
