"""The grammar of the synthetic scenes: captions, questions, their answers, and the way back from text to a scene.

Short captions follow GenEval's six tasks (docs/evaluators.md 2.1); dense captions name counts, colours, sizes,
relations and the background.  Questions are asked of a :class:`SceneText`, what somebody saw in an image, be it
the true scene or a judge's detections.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vgt.core.scenes import (
    CANVAS,
    COLORS,
    RELATIONS,
    SHADES,
    SHAPES,
    TINTS,
    Draws,
    Scene,
    compose,
    relations,
)

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
SIZES = ("small", "large")


@dataclass(frozen=True)
class Seen:
    """One object as seen: names and its box (x1, y1, x2, y2) in any unit, far edges exclusive."""

    shape: str
    color: str
    size: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class SceneText:
    """What somebody saw: the objects, the background's tint and the side to which it darkens ("none" if even)."""

    objects: tuple[Seen, ...]
    tint: str
    shade: str


def scene_text(scene: Scene) -> SceneText:
    """The true sight of a scene."""
    objects = tuple(Seen(o.shape, o.color, o.size, o.extent) for o in scene.objects)
    return SceneText(objects, scene.background.tint, scene.background.shade)


def article(word: str) -> str:
    """ "an" before a, e, i, o, u, else "a" (GenEval's rule)."""
    return "an" if word[0] in "aeiou" else "a"


def plural(word: str) -> str:
    """GenEval's naive plural: "es" after s, else "s"."""
    return word + ("es" if word.endswith("s") else "s")


# -------------------------------------------------------------------------------------------------- captions


def short_caption(scene: Scene) -> str:
    """GenEval's sentence for the task that the scene was laid out for ("dense" scenes: their first object)."""
    first = scene.objects[0]
    second = scene.objects[1] if len(scene.objects) > 1 else None
    if scene.task == "two_object":
        return f"a photo of {article(first.shape)} {first.shape} and {article(second.shape)} {second.shape}"
    if scene.task == "counting":
        return f"a photo of {NUMBERS[len(scene.objects)]} {plural(first.shape)}"
    if scene.task == "position":
        return (
            f"a photo of {article(first.shape)} {first.shape} {scene.relation} {article(second.shape)} {second.shape}"
        )
    if scene.task == "color_attr":
        return (
            f"a photo of {article(first.color)} {first.color} {first.shape} "
            f"and {article(second.color)} {second.color} {second.shape}"
        )
    if scene.task == "single_object":
        return f"a photo of {article(first.shape)} {first.shape}"
    return f"a photo of {article(first.color)} {first.color} {first.shape}"


def _listing(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def told_relations(scene: Scene) -> list[tuple[int, str, int]]:
    """At most two (i, relation, j) between neighbours in the listing, taken where the relation is clear and both
    objects can be named without doubt."""
    names = [(o.color, o.shape) for o in scene.objects]
    told = []
    for i in range(len(names) - 1):
        if names.count(names[i]) == names.count(names[i + 1]) == 1:
            clear = relations(scene.objects[i].extent, scene.objects[i + 1].extent, 0.2)
            if clear:
                told.append((i, clear[0], i + 1))
    return told[:2]


def dense_caption(scene: Scene) -> str:
    """Counts, sizes, colours, relations and background in a few sentences."""
    n = len(scene.objects)
    parts = [f"{article(o.size)} {o.size} {o.color} {o.shape}" for o in scene.objects]
    text = [f"There {'is one object' if n == 1 else f'are {NUMBERS[n]} objects'}: {_listing(parts)}."]
    for i, relation, j in told_relations(scene):
        a, b = scene.objects[i], scene.objects[j]
        text.append(f"The {a.color} {a.shape} is {relation} the {b.color} {b.shape}.")
    shade = "even" if scene.background.shade == "none" else f"darker at the {scene.background.shade}"
    text.append(f"The background is {scene.background.tint} and {shade}.")
    return " ".join(text)


# ------------------------------------------------------------------------------------- from text to a scene

_COLOR, _SHAPE = "|".join(COLORS), "|".join(SHAPES)
_PLURALS = {plural(s): s for s in SHAPES}
_ITEM = re.compile(rf"an? (?:({_COLOR}) )?({_SHAPE})\b")
_DENSE_ITEM = re.compile(rf"an? (small|large) ({_COLOR}) ({_SHAPE})\b")
_DENSE_RELATION = re.compile(rf"The ({_COLOR}) ({_SHAPE}) is ({'|'.join(RELATIONS)}) the ({_COLOR}) ({_SHAPE})\.")
_BACKGROUND = re.compile(
    rf"The background is ({'|'.join(TINTS)}) and (?:even|darker at the ({'|'.join(SHADES[1:])}))\."
)


def scene_from_text(text: str, seed: int) -> Scene:
    """Draw a scene that fulfils a caption of this grammar.  What the caption leaves open comes from ``seed``.

    Raises ValueError where the text is not of the grammar."""
    draws = Draws("text", text, seed)
    dense = text.startswith("There ")
    if dense:
        listing, _, rest = text.partition(".")
        found = _DENSE_ITEM.findall(listing)
        kinds, sizes = [(c, s) for _, c, s in found], [size for size, _, _ in found]
        told = [((a, b), relation, (c, d)) for a, b, relation, c, d in _DENSE_RELATION.findall(rest)]
        for pair in (pair for a, _, b in told for pair in (a, b)):
            if pair not in kinds:
                raise ValueError(f"prompt relates a {' '.join(pair)} that it does not list: {text!r}; list it first")
        holds = [(kinds.index(a), relation, kinds.index(b)) for a, relation, b in told]
        background = _BACKGROUND.search(rest)
        tint, shade = (background[1], background[2] or "none") if background else (None, None)
        if kinds:
            return compose(draws, kinds, sizes=sizes, tint=tint, shade=shade, holds=holds)
    counted = re.fullmatch(rf"a photo of ({'|'.join(NUMBERS[2:])}) ({'|'.join(_PLURALS)})", text)
    if counted:
        shape = _PLURALS[counted[2]]
        kinds = [(draws.choice(tuple(COLORS)), shape) for _ in range(NUMBERS.index(counted[1]))]
        return compose(draws, kinds, task="counting")
    items = _ITEM.findall(text) if text.startswith("a photo of ") else []
    if not items:
        raise ValueError(
            f"prompt {text!r} is not in the grammar of the synthetic scenes (see `vgt prompts scenes-geneval`)"
        )
    relation = next((r for r in RELATIONS if f" {r} " in text), None)
    kinds = [(color or draws.choice(tuple(COLORS)), shape) for color, shape in items]
    return compose(draws, kinds, relation=relation)


# ------------------------------------------------------------------------------------------------- questions


def _matches(objects: Sequence[Seen], words: str) -> list[Seen]:
    """Objects to which a phrase like "large red star", "red object" or "stars" applies."""
    for many, one in (*_PLURALS.items(), ("objects", "object")):
        words = re.sub(rf"\b{many}\b", one, words)
    kept = list(objects)
    for word in words.split():
        if word in SHAPES:
            kept = [o for o in kept if o.shape == word]
        elif word in COLORS:
            kept = [o for o in kept if o.color == word]
        elif word in SIZES:
            kept = [o for o in kept if o.size == word]
        elif word != "object":
            raise ValueError(f"word {word!r} does not name an object of the synthetic scenes")
    return kept


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def answer(seen: SceneText, question: str) -> str:
    """Answer a question of the grammar about what was seen, in one lower-case word.

    Raises ValueError where the question is not of the grammar."""
    objects = seen.objects
    rules = (  # the first that matches answers
        (r"What color is the background\?", lambda m: seen.tint),
        (r"What (color|shape|size) is the (.+)\?", lambda m: _first(_matches(objects, m[2]), m[1])),
        (r"How many (.+) are there\?", lambda m: NUMBERS[min(len(_matches(objects, m[1])), len(NUMBERS) - 1)]),
        (r"Is the background darker at the (\w+)\?", lambda m: _yes(m[1] == seen.shade)),
        (r"Is the background (\w+)\?", lambda m: _yes(m[1] == seen.tint or (m[1], seen.shade) == ("even", "none"))),
        (r"(?:Is|Are) there exactly (\w+) (.+)\?", lambda m: _yes(len(_matches(objects, m[2])) == NUMBERS.index(m[1]))),
        (r"Is there an? (.+)\?", lambda m: _yes(bool(_matches(objects, m[1])))),
        (rf"Is the (.+) ({'|'.join(RELATIONS)}) the (.+)\?", lambda m: _yes(_related(objects, *m.groups()))),
        (rf"Is the (.+) ({'|'.join((*SIZES, *COLORS))})\?", lambda m: _yes(bool(_matches(objects, f"{m[2]} {m[1]}")))),
    )
    for pattern, rule in rules:
        match = re.fullmatch(pattern, question)
        if match:
            return rule(match)
    raise ValueError(f"question {question!r} is not in the grammar of the synthetic scenes")


def _related(objects: Sequence[Seen], a: str, relation: str, b: str) -> bool:
    return any(relation in relations(x.box, y.box) for x in _matches(objects, a) for y in _matches(objects, b))


def _first(found: Sequence[Seen], field: str) -> str:
    return getattr(found[0], field) if found else "none"


RELATION = 6  # the number of the kind of question that asks for one
PLACE = 8  # of the kind that asks on which side of the image an object is: for training, no test asks it


def questions(scene: Scene, draws: Draws, n: int, kinds: Sequence[int] = range(8)) -> list[tuple[str, str]]:
    """n (question, answer) pairs about a scene, drawn from ``kinds``; yes and no are about equally frequent."""
    truth = scene_text(scene)
    shapes = [o.shape for o in scene.objects]
    colors = [o.color for o in scene.objects]
    pairs = []
    while len(pairs) < n:
        kind, o = draws.choice(kinds), draws.choice(scene.objects)
        shape, color = (o.shape, o.color) if draws.below(2) else (draws.choice(SHAPES), draws.choice(tuple(COLORS)))
        if kind == 0:
            question = f"Is there {article(shape)} {shape}?"
        elif kind == 1:
            question = f"Is there {article(color)} {color} {shape}?"
        elif kind == 2:
            question = f"How many {draws.choice((plural(o.shape), plural(shape), 'objects'))} are there?"
        elif kind == 3 and shapes.count(o.shape) == 1:
            question = f"What color is the {o.shape}?"
        elif kind == 4 and colors.count(o.color) == 1:
            question = f"What shape is the {o.color} object?"
        elif kind == 5 and shapes.count(o.shape) == 1:
            question = f"What size is the {o.shape}?"
        elif kind == RELATION and len(scene.objects) > 1:
            a, b = draws.some(scene.objects, 2)
            if shapes.count(a.shape) > 1 or shapes.count(b.shape) > 1:
                continue
            true = relations(a.extent, b.extent)
            relation = true[0] if true and draws.below(2) else draws.choice(RELATIONS)
            question = f"Is the {a.shape} {relation} the {b.shape}?"
        elif kind == PLACE and shapes.count(o.shape) == 1:
            side = draws.choice(SHADES[1:])
            offset = (o.cx if side in ("left", "right") else o.cy) - CANVAS // 2
            if abs(offset) < CANVAS // 16:
                continue  # in the middle
            pairs.append((f"Is the {o.shape} at the {side}?", _yes((offset < 0) == (side in ("left", "top")))))
            continue
        elif kind == 7:
            question = (
                "What color is the background?"
                if draws.below(2)
                else f"Is the background darker at the {draws.choice(SHADES[1:])}?"
            )
        else:
            continue
        pairs.append((question, answer(truth, question)))
    return pairs


def vocabulary() -> list[str]:
    """Every word of the grammar, sorted: what a word-level tokenizer must know."""
    text = (
        "a an photo of and There is are Are one object objects The background even darker at the Is there exactly "
        "How many What color shape size yes no none : , . ? ! Generate image Describe the user assistant"
    )
    words = {*text.split(), *COLORS, *SHAPES, *_PLURALS, *TINTS, *SHADES, *SIZES, *NUMBERS}
    return sorted(words | {word for relation in RELATIONS for word in relation.split()})
