"""DPG-Bench's numbers from stored answers (docs/evaluators.md 3.3, 7.2): one protocol's Measures, clustered by item."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from evals.dpg.rules import (
    CATEGORIES,
    FIXED,
    Dropped,
    Rules,
    category,
    score_tile,
    scored_questions,
    subcategory,
    verdict,
)
from evals.engine.generation import IMAGES_PER_PROMPT, prompt_id
from evals.engine.records import Measure


def metrics(prompts: list[dict], rules: Rules = FIXED) -> list[str]:
    """Names of the numbers that a suite gives: the score, its L1 categories, raw and then adjusted, its L2 categories.

    Raises ValueError for a category that DPG-Bench does not have."""
    questions = [q for prompt in prompts for q in prompt["questions"]]
    present = {category(q) for q in questions}
    known = [c for c in CATEGORIES if c in present]
    if present - set(known):
        raise ValueError(f"category {sorted(present - set(known))[0]!r} is not one of {', '.join(CATEGORIES)}")
    names = ["dpg"]
    for level in (known, sorted({subcategory(q) for q in questions} - present)):
        names += [*level, *(f"{c}-adjusted" for c in level if rules.adjusted)]
    return names


@dataclass
class _Tally:
    """What the images of a run add up to under one protocol."""

    tiles: dict[int, list[float]] = field(default_factory=dict)  # item -> score of each image
    cells: dict[str, list[tuple[str, str, float]]] = field(default_factory=dict)  # category -> (id, item, score)
    shares: list[float] = field(default_factory=list)  # P(yes) / (P(yes) + P(no)) of each question, where known
    unparsed: int = 0
    judged: int = 0
    failed: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # items that the protocol drops -> their images


def _add_item(tally: _Tally, item: str, index: int, questions: list[dict], tiles: dict[int, dict], rules: Rules):
    """One item's judged images; an item that the official script would drop adds nothing."""
    answers = {s: {int(n): words for n, words in entry["answers"].items()} for s, entry in tiles.items()}
    try:
        scores = {sample: score_tile(answers[sample], questions, rules) for sample in tiles}
    except Dropped:
        tally.dropped[item] = len(tiles)
        return
    last = max(scores)
    for sample, (raw, zeroed) in scores.items():
        tally.judged += 1
        tally.tiles.setdefault(index, []).append(float(np.mean(list(zeroed.values()))))
        tally.unparsed += sum(verdict(answers[sample][q["proposition_id"]], rules.match) is None for q in questions)
        tally.shares += (tiles[sample].get("yes_share") or {}).values()
        if rules.category_tiles == "last" and sample != last:
            continue
        for question in questions:
            number = question["proposition_id"]
            for name in {category(question), subcategory(question)}:
                row = (f"{item}:{sample}:{number}", item)
                tally.cells.setdefault(name, []).append((*row, raw[number]))
                if rules.adjusted:
                    tally.cells.setdefault(f"{name}-adjusted", []).append((*row, zeroed[number]))


def _tally(prompts: list[dict], evidence: Mapping[tuple[int, int], dict], rules: Rules, tiles: int) -> _Tally:
    tally = _Tally()
    items: dict[int, dict[int, dict]] = {}
    for (index, sample), entry in sorted(evidence.items()):
        if sample >= tiles:
            continue
        if "error" in entry:
            tally.failed += 1
        else:
            items.setdefault(index, {})[sample] = entry
    for index, judged in items.items():
        questions = scored_questions(prompts, index, rules)
        if questions:
            _add_item(tally, prompt_id(prompts, index), index, questions, judged, rules)
    return tally


def measures(
    prompts: list[dict],
    images_per_prompt: int,
    evidence: Mapping[tuple[int, int], dict],
    full_items: int | None = None,
    rules: Rules = FIXED,
    n_extra: int = 0,
    note: str | None = None,
) -> dict[str, Measure]:
    """Metric -> Measure, 0..100.

    ``dpg`` is the mean over items of the mean over their images; a category is the mean over all of its questions.
    ``evidence``: (item, sample) -> {"answers": {question id: words}} or {"error": why}.  ``full_items``: items of the
    whole suite, where ``prompts`` may be a part; dpg-fixed takes four images an item.  An item that the protocol drops
    by its own rules is not expected."""
    wanted = min(images_per_prompt, rules.tiles or images_per_prompt)
    expected = rules.tiles or max(IMAGES_PER_PROMPT, images_per_prompt)
    tally = _tally(prompts, evidence, rules, wanted)
    dropped = len(tally.dropped)
    extra: dict = {"unparsed": tally.unparsed}
    if tally.shares:
        extra["yes_share"] = round(float(np.mean(tally.shares)), 6)
    if dropped:
        extra["dropped"] = sorted(tally.dropped)
    gone = f"{dropped} item(s) dropped by the rules of {rules.id}" if dropped else None
    shared = {
        "n": tally.judged,
        "asked": len(prompts) * wanted - sum(tally.dropped.values()),
        "n_expected": (max(len(prompts), full_items or 0) - dropped) * expected,
        "n_failed": tally.failed,
        "n_extra": n_extra,
        "scale": 100.0,
        "unit": "of 100",
        "note": "; ".join(filter(None, (gone, note))) or None,
        "extra": extra,
    }
    score = [(prompt_id(prompts, i), prompt_id(prompts, i), float(np.mean(t))) for i, t in tally.tiles.items()]
    rows = {"dpg": score, **{name: tally.cells.get(name, []) for name in metrics(prompts, rules)[1:]}}
    return {name: _measure(name, found, shared) for name, found in rows.items()}


def _measure(name: str, rows: Iterable[tuple[str, str, float]], shared: dict) -> Measure:
    ids, clusters, values = zip(*rows, strict=True) if rows else ((), (), ())
    return Measure(metric=name, ids=list(ids), values=list(values), clusters=list(clusters), **shared)
