"""Prompt suites, drawn by seed.

``geneval``: the 553 prompts of the benchmark itself (geneval_prompts.py).
``scenes-geneval``: GenEval's six tasks with this world's shapes (record format: docs/evaluators.md 2.1).
``scenes-dpg``: dense captions with a question graph (entity, attribute, relation, global, other;
docs/evaluators.md 3.1).
"""

from __future__ import annotations

import json

from vgt.core import geneval_prompts as benchmark
from vgt.core.captions import NUMBERS, article, dense_caption, plural, told_relations
from vgt.core.scenes import COLORS, HELD_OUT, RELATIONS, SHAPES, TASKS, Draws, Scene, scene

WORLD_SUITES = {
    "scenes-geneval": "six GenEval tasks over the synthetic scenes, 20 prompts a task",
    "scenes-dpg": "dense captions with question graphs over the synthetic scenes, 40 prompts",
}
SUITES = {**WORLD_SUITES, "geneval": "GenEval's own 553 prompts"}
DEFAULT_SEED = 43


def geneval_prompts(seed: int = DEFAULT_SEED, per_task: int = 20) -> list[dict]:
    """Records with ``id, tag, include, [exclude], prompt, held_out``.

    A prompt comes twice within a task only after all of the task's prompts have come once (there are 8 for
    single_object).  ``held_out`` is true where it names a (colour, shape) pair that training never shows."""
    pairs = len(SHAPES) * (len(SHAPES) - 1)
    limits = {
        "single_object": len(SHAPES),
        "two_object": pairs,
        "counting": 3 * len(SHAPES),
        "colors": len(SHAPES) * len(COLORS),
        "position": pairs * len(RELATIONS),
        "color_attr": pairs * len(COLORS) * (len(COLORS) - 1),
    }
    records = []
    for task in TASKS:
        draws, seen, repeats = Draws("scenes-geneval", seed, task), set(), 0
        while len(seen) < per_task:
            # Every fourth prompt that names colours starts with a held-out pair, so that they can be scored apart;
            # once all of those have come, any prompt takes the place.
            record = _geneval_record(draws, task, held_out=len(seen) % 4 == 3 and repeats < 1000)
            key = (record["prompt"], len(seen) // limits[task])
            if key in seen:
                repeats += 1
                continue
            seen.add(key)
            repeats = 0
            named = {(c["color"], c["class"]) for c in record["include"] if "color" in c}
            records.append(
                {"id": f"{task}-{len(seen) - 1:03d}", **record, "held_out": bool(HELD_OUT.intersection(named))}
            )
    return records


def _geneval_record(draws: Draws, task: str, held_out: bool) -> dict:
    if task == "single_object":
        a = draws.choice(SHAPES)
        return {"tag": task, "include": [{"class": a, "count": 1}], "prompt": f"a photo of {article(a)} {a}"}
    if task == "two_object":
        a, b = draws.some(SHAPES, 2)
        include = [{"class": a, "count": 1}, {"class": b, "count": 1}]
        return {"tag": task, "include": include, "prompt": f"a photo of {article(a)} {a} and {article(b)} {b}"}
    if task == "counting":
        a, n = draws.choice(SHAPES), draws.between(2, 4)
        return {
            "tag": task,
            "include": [{"class": a, "count": n}],
            "exclude": [{"class": a, "count": n + 1}],
            "prompt": f"a photo of {NUMBERS[n]} {plural(a)}",
        }
    if task == "colors":
        c, a = draws.choice(sorted(HELD_OUT)) if held_out else (draws.choice(tuple(COLORS)), draws.choice(SHAPES))
        include = [{"class": a, "count": 1, "color": c}]
        return {"tag": task, "include": include, "prompt": f"a photo of {article(c)} {c} {a}"}
    if task == "position":
        (a, b), relation = draws.some(SHAPES, 2), draws.choice(RELATIONS)
        include = [{"class": b, "count": 1}, {"class": a, "count": 1, "position": [relation, 0]}]
        prompt = f"a photo of {article(a)} {a} {relation} {article(b)} {b}"
        return {"tag": task, "include": include, "prompt": prompt}
    (a, b), (c, d) = draws.some(SHAPES, 2), draws.some(tuple(COLORS), 2)
    if held_out:
        c, a = draws.choice([pair for pair in sorted(HELD_OUT) if pair[0] != d and pair[1] != b])
    include = [{"class": a, "count": 1, "color": c}, {"class": b, "count": 1, "color": d}]
    return {"tag": task, "include": include, "prompt": f"a photo of {article(c)} {c} {a} and {article(d)} {d} {b}"}


def dpg_prompts(seed: int = DEFAULT_SEED, n: int = 40) -> list[dict]:
    """Records with ``id, prompt, held_out, questions``; a question has ``proposition_id`` (from 1), ``dependency``
    (list of ids, empty if none), ``tuple`` (its text before "(" is the L2 category) and ``question``.

    Every question is asked so that "yes" is right for the image described."""
    first = Draws("scenes-dpg", seed).below(2**31)
    records = []
    for k in range(n):
        shown = scene("test", first + k, task="dense")
        records.append(
            {
                "id": f"dense-{k:03d}",
                "prompt": dense_caption(shown),
                "held_out": shown.held_out,
                "questions": _question_graph(shown),
            }
        )
    return records


def _question_graph(shown: Scene) -> list[dict]:
    graph: list[dict] = []

    def ask(category: str, content: str, question: str, *parents: int) -> int:
        graph.append(
            {
                "proposition_id": len(graph) + 1,
                "dependency": list(parents),
                "tuple": f"{category} ({content})",
                "question": question,
            }
        )
        return len(graph)

    entities: dict[str, int] = {}
    colored = []
    for o in shown.objects:
        if o.shape not in entities:
            entities[o.shape] = ask("entity - whole", o.shape, f"Is there {article(o.shape)} {o.shape}?")
    for o in shown.objects:
        name = f"{o.color} {o.shape}"
        entity = entities[o.shape]
        colored.append(ask("attribute - color", name, f"Is there {article(o.color)} {name}?", entity))
        ask("attribute - size", f"{name}, {o.size}", f"Is the {name} {o.size}?", colored[-1])
    for i, relation, j in told_relations(shown):
        a, b = (f"{shown.objects[k].color} {shown.objects[k].shape}" for k in (i, j))
        question = f"Is the {a} {relation} the {b}?"
        ask("relation - spatial", f"{a}, {b}, {relation}", question, colored[i], colored[j])
    tint, shade = shown.background.tint, shown.background.shade
    ask("global - ", tint, f"Is the background {tint}?")
    darker = "even" if shade == "none" else f"darker at the {shade}"
    ask("global - ", darker, f"Is the background {darker}?")
    count = len(shown.objects)
    ask(
        "other - count",
        NUMBERS[count],
        f"{'Are' if count > 1 else 'Is'} there exactly {NUMBERS[count]} {'objects' if count > 1 else 'object'}?",
    )
    return graph


def prompts(suite: str, seed: int = DEFAULT_SEED, per_task: int = 20, n: int = 40) -> list[dict]:
    """The records of a suite by name.  Raises ValueError for an unknown one."""
    if suite == "geneval":
        return benchmark.prompts(seed)
    if suite == "scenes-geneval":
        return geneval_prompts(seed, per_task)
    if suite == "scenes-dpg":
        return dpg_prompts(seed, n)
    raise ValueError(f"suite {suite!r} is unknown; choose one of {', '.join(SUITES)}")


def spaced(count: int, n: int) -> list[int]:
    """``n`` places of ``count``, evenly spaced from the first one on."""
    return [i * count // n for i in range(n)]


def lines(records: list[dict]) -> str:
    """JSON lines, one record each, trailing newline."""
    return "".join(json.dumps(r) + "\n" for r in records)
