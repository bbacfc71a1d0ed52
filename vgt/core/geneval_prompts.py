"""GenEval's own prompts, drawn as the benchmark drew them (docs/evaluators.md 2.1).

``prompts()`` repeats the published ``evaluation_metadata.jsonl`` byte for byte; another seed is another legal prompt
set of the same kind, and a number measured on it is a variant of the benchmark.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache

import numpy as np

from vgt.core.captions import NUMBERS, article, plural
from vgt.core.scenes import COLORS, RELATIONS

SEED = 43
DRAWN = 100  # records drawn for each task but single_object, before repeats are dropped
METADATA_SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
PROMPT_LIST_SHA256 = "55b6e3650e980c13daf30569eb666e000faf19bfc2b7b4cbe999fcdb7aa9d680"

# The benchmark's names of COCO's 80 classes, in COCO's order: a detector's class index is a place in this list.
CLASSES = tuple(
    """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    computer mouse, tv remote, computer keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book,
    clock, vase, scissors, teddy bear, hair drier, toothbrush""".replace("\n    ", " ").split(", ")
)
_COLORS = tuple(COLORS)


def _a(words: str) -> str:
    return f"{article(words)} {words}"


def _clause(index: int, count: int = 1, **more) -> dict:
    return {"class": CLASSES[index], "count": count, **more}


def _record(tag: str, include: list[dict], text: str, **exclude: list[dict]) -> dict:
    return {"tag": tag, "include": include, **exclude, "prompt": f"a photo of {text}"}


def _two_object(rng: np.random.Generator) -> dict:
    a, b = rng.choice(len(CLASSES), size=2, replace=False)
    return _record("two_object", [_clause(a), _clause(b)], f"{_a(CLASSES[a])} and {_a(CLASSES[b])}")


def _counting(rng: np.random.Generator) -> dict:
    a = rng.choice(len(CLASSES))
    n = int(rng.integers(2, 4, endpoint=True))
    text = f"{NUMBERS[n]} {plural(CLASSES[a])}"
    return _record("counting", [_clause(a, n)], text, exclude=[_clause(a, n + 1)])


def _colors(rng: np.random.Generator) -> dict:
    a = rng.choice(len(CLASSES) - 1) + 1  # never a person
    color = _COLORS[rng.choice(len(_COLORS))]
    return _record("colors", [_clause(a, color=color)], f"{_a(color)} {CLASSES[a]}")


def _position(rng: np.random.Generator) -> dict:
    a, b = rng.choice(len(CLASSES), size=2, replace=False)
    relation = RELATIONS[rng.choice(len(RELATIONS))]
    include = [_clause(b), _clause(a, position=[relation, 0])]
    return _record("position", include, f"{_a(CLASSES[a])} {relation} {_a(CLASSES[b])}")


def _color_attr(rng: np.random.Generator) -> dict:
    a, b = rng.choice(len(CLASSES) - 1, size=2, replace=False) + 1
    c, d = (_COLORS[i] for i in rng.choice(len(_COLORS), size=2, replace=False))
    include = [_clause(a, color=c), _clause(b, color=d)]
    return _record("color_attr", include, f"{_a(c)} {CLASSES[a]} and {_a(d)} {CLASSES[b]}")


@lru_cache(maxsize=4)
def _drawn(seed: int) -> tuple[str, ...]:
    """The different records of a seed in their order, as JSON lines."""
    rng = np.random.default_rng(seed)  # one generator from the first draw to the last
    order = rng.choice(len(CLASSES), size=len(CLASSES), replace=False)
    records = [_record("single_object", [_clause(i)], _a(CLASSES[i])) for i in order]
    for draw in (_two_object, _counting, _colors, _position, _color_attr):
        records += [draw(rng) for _ in range(DRAWN)]
    return tuple(dict.fromkeys(json.dumps(r) for r in records))


def prompts(seed: int = SEED) -> list[dict]:
    """The records of a seed, ``tag, include, [exclude], prompt``; SEED gives the benchmark's own 553.

    Raises ValueError for a negative seed, and RuntimeError where this NumPy draws other prompts than the benchmark."""
    if seed < 0:
        raise ValueError(f"seed {seed} is negative; give 0 or more ({SEED} is the benchmark's)")
    if seed == SEED and hashlib.sha256(_text(_drawn(SEED)).encode()).hexdigest() != METADATA_SHA256:
        raise RuntimeError(f"NumPy {np.__version__} does not repeat GenEval's prompts; versions 1.23 to 2.4 do")
    return [json.loads(line) for line in _drawn(seed)]


def is_official(records: list[dict]) -> bool:
    """Whether these are the benchmark's own records, word for word: all of them, or some in their order."""
    rest = iter(_drawn(SEED))
    return all(json.dumps(r) in rest for r in records)


def _text(lines: tuple[str, ...]) -> str:
    return "".join(line + "\n" for line in lines)
