"""DPG-Bench's rules and numbers (docs/evaluators.md 3.1, 3.3, 7.2): pure functions of the stored answers.

A question is a dictionary with ``proposition_id``, ``dependency`` (list of ids, 0 or none for no parent), ``tuple``
and ``question``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

import numpy as np

from evals.dpg.protocol import PROTOCOLS
from evals.engine.generation import IMAGES_PER_PROMPT, prompt_id
from evals.engine.judging import Job
from evals.engine.records import Measure
from vgt.core import text
from vgt.core.text import Fields, shown

CATEGORIES = ("entity", "attribute", "relation", "global", "other")


@dataclass(frozen=True)
class Rules:
    """One published way to score.  ``tiles``: images of an item that count, in order, None for all;
    ``skip_first_row``: defect D1; ``match``: which answers are a yes; ``zeroing``: parents first by the graph, or in
    file order; ``category_tiles``: "last" is defect D3; ``adjusted``: dependency-adjusted categories too."""

    id: str
    tiles: int | None
    skip_first_row: bool
    match: Literal["normalized", "exact"]
    zeroing: Literal["graph", "file"]
    category_tiles: Literal["all", "last"]
    adjusted: bool

    @property
    def suffix(self) -> str:
        """What the metrics of this protocol carry in their names; ``dpg-fixed``, the default, has none."""
        return "" if self.id == "dpg-fixed" else self.id.removeprefix("dpg")

    @property
    def params(self) -> dict:
        return {key: value for key, value in asdict(self).items() if key != "id"}


RULES = {p.id: Rules(p.id, **p.settings) for p in PROTOCOLS if "zeroing" in p.settings}
FIXED = RULES["dpg-fixed"]


class Dropped(ValueError):
    """The official script drops this item: a question depends on one that it does not have."""


def rules(name: str) -> Rules:
    """The rules of a protocol.  Raises ValueError for an unknown one."""
    if name not in RULES:
        raise ValueError(f"protocol {name!r} is unknown; choose one of {', '.join(RULES)}")
    return RULES[name]


def category(question: dict) -> str:
    """L1 category: the text before the first "-" of what stands before the first "(" (docs/evaluators.md 3.1)."""
    return question["tuple"].split("(")[0].split("-")[0].strip()


def subcategory(question: dict) -> str:
    """L2 category in the form "attribute-color"; L1 alone where there is no more ("global - ")."""
    head, _, tail = question["tuple"].split("(")[0].partition("-")
    return "-".join(filter(None, (head.strip(), "-".join(tail.split()))))


def parents(question: dict) -> list[int]:
    """Ids of the questions that this one depends on; 0 means none."""
    return [p for p in question["dependency"] if p != 0]


def order(questions: list[dict]) -> list[int]:
    """Question ids with parents before children.

    Raises ValueError for ids that come twice, parents that are missing, and cycles."""
    ids = [q["proposition_id"] for q in questions]
    above = {q["proposition_id"]: parents(q) for q in questions}
    if len(above) < len(ids):
        raise ValueError(f"question ids {ids} are not all different")
    for child, wanted in above.items():
        lost = [p for p in wanted if p not in above]
        if lost:
            raise ValueError(f"question {child} depends on question {lost[0]}, which the item does not have")
    try:
        return list(TopologicalSorter({c: sorted(p) for c, p in sorted(above.items())}).static_order())
    except CycleError as error:
        raise ValueError(f"questions depend on each other in a cycle: {error.args[1]}") from error


def _check_question(question: Any, where: str) -> None:
    """Raises ValueError for what is no question of the form at the top of this file."""
    row = Fields.of(question, getattr(question, "where", where))
    number, above = row.need("proposition_id"), row.need("dependency")
    for each in (number, *(above if isinstance(above, list) else [above])):
        if type(each) is not int:
            raise ValueError(f"{row.where}: {shown(each)} is no question's id; ids are whole numbers")
    row.text("tuple")
    if not row.text("question").strip():
        raise ValueError(f"{row.place('question')}: the question is empty")
    if category(row) not in CATEGORIES:
        raise ValueError(f"{row.place('tuple')}: category {category(row)!r} is not one of {', '.join(CATEGORIES)}")


def check_prompts(suite: str, prompts: list[dict]) -> None:
    """Raises ValueError naming the first prompt of a suite that is no item with questions, and an id that comes
    twice."""
    seen: set[str] = set()
    for number, prompt in enumerate(prompts):
        row = Fields.of(prompt, getattr(prompt, "where", f"suite {suite!r}, item {number}"))
        if not row.text("prompt").strip():
            raise ValueError(f"{row.where}: the prompt is empty; `vgt prompts scenes-dpg` shows the format")
        if row.text("id") in seen:
            raise ValueError(f"{row.where}: the id {row['id']!r} is there twice; each item counts once")
        seen.add(row["id"])
        if "held_out" in row:
            row.flag("held_out")
        questions = row.need("questions")
        if not (isinstance(questions, list) and questions):
            raise ValueError(f"{row.place('questions')}: {shown(questions)} are no questions; give a list")
        for question in questions:
            _check_question(question, row.place("questions"))


def check_row(row: Fields) -> None:
    """Raises ValueError, naming file and line, for a stored row whose answers cannot be scored."""
    answers = row.object("answers")
    for name in answers:
        text.whole(name, answers.where)
        answers.text(name)
    shares = row.object("yes_share") if row.get("yes_share") is not None else Fields()
    for name in shares:
        shares.number(name, 0, 1)


def check_graph(prompts: Iterable[dict]) -> None:
    """Raises ValueError naming the first item, and its question, that ``order`` refuses."""
    for number, prompt in enumerate(prompts):
        try:
            order(prompt["questions"])
        except ValueError as error:
            remedy = "mend the questions, or score with dpg-ella, which drops such items as the official script does"
            raise ValueError(f"item {prompt.get('id', number)}: {error}; {remedy}") from error


def chosen(protocols: Iterable[str], prompts: list[dict]) -> list[Rules]:
    """The rules of some protocols, each once.

    Raises ValueError for an unknown one, and as ``check_graph`` where one of them reads the questions as a graph."""
    found = [rules(name) for name in dict.fromkeys(protocols)]
    if any(each.zeroing == "graph" for each in found):
        check_graph(prompts)
    return found


def verdict(answer: str, match: str = "normalized") -> bool | None:
    """True for yes, False for no, None for anything else (docs/evaluators.md 3.4).

    "normalized": stripped, lower case, without trailing punctuation; "exact": the very strings "yes" and "no"."""
    words = answer if match == "exact" else answer.strip().lower().rstrip(".,;:!?").rstrip()
    return {"yes": True, "no": False}.get(words)


def zeroed_by_graph(raw: Mapping[int, float], questions: list[dict]) -> dict[int, float]:
    """0 wherever a parent's own zeroed score is 0, parents first whatever the file's order.  Raises as ``order``."""
    above = {q["proposition_id"]: parents(q) for q in questions}
    zeroed: dict[int, float] = {}
    for number in order(questions):
        zeroed[number] = raw[number] if all(zeroed[parent] for parent in above[number]) else 0.0
    return zeroed


def zeroed_in_file_order(raw: Mapping[int, float], questions: list[dict]) -> dict[int, float]:
    """The official walk: a parent that comes later in the file still has its raw score.

    Raises Dropped for a parent that is missing, when it is looked at (the first parent with a 0 ends the look)."""
    zeroed = dict(raw)
    for question in questions:
        try:
            if any(zeroed[parent] == 0 for parent in parents(question)):
                zeroed[question["proposition_id"]] = 0.0
        except KeyError as error:
            raise Dropped(f"question {question['proposition_id']} depends on question {error.args[0]}") from error
    return zeroed


def score_tile(
    answers: Mapping[int, str], questions: list[dict], rules: Rules = FIXED
) -> tuple[dict[int, float], dict[int, float]]:
    """(raw, zeroed) scores by question id of one image (docs/evaluators.md 3.3).

    Raw is 1 for "yes", otherwise 0; ``answers``: question id -> the judge's words.  Raises ValueError for a missing
    answer and as the rules' zeroing does."""
    lost = [q["proposition_id"] for q in questions if q["proposition_id"] not in answers]
    if lost:
        raise ValueError(f"question {lost[0]} has no answer; ask the judge every question of an item")
    raw = {n: float(verdict(answers[n], rules.match) is True) for n in (q["proposition_id"] for q in questions)}
    zero = zeroed_by_graph if rules.zeroing == "graph" else zeroed_in_file_order
    return raw, zero(raw, questions)


def scored_questions(prompts: list[dict], index: int, rules: Rules) -> list[dict]:
    """The questions of an item that the rules know of: D1 skips the first row, the first question of the first item
    unless a later row repeats it."""
    questions = prompts[index]["questions"]
    lost = rules.skip_first_row and index == 0 and not prompts[0].get("first_row_repeated")
    return questions[1:] if lost else questions


# ---------------------------------------------------------------------------------------------------- the measures


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

    tiles: dict[str, list[float]] = field(default_factory=dict)  # item -> score of each image
    cells: dict[str, list[tuple[str, str, float]]] = field(default_factory=dict)  # category -> (id, item, score)
    shares: list[float] = field(default_factory=list)  # P(yes) / (P(yes) + P(no)) of each question, where known
    unparsed: int = 0
    judged: int = 0
    failed: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # items that the protocol drops -> their images

    def add(self, item: str, questions: list[dict], rows: dict[int, dict], rules: Rules) -> None:
        """One item's judged images by sample; an item that the official script would drop adds nothing."""
        answers = answers_of(rows)
        try:
            scores = {sample: score_tile(answers[sample], questions, rules) for sample in rows}
        except Dropped:
            self.dropped[item] = len(rows)
            return
        for sample, (raw, zeroed) in scores.items():
            self.judged += 1
            self.tiles.setdefault(item, []).append(float(np.mean(list(zeroed.values()))))
            self.unparsed += sum(verdict(answers[sample][q["proposition_id"]], rules.match) is None for q in questions)
            self.shares += (rows[sample].get("yes_share") or {}).values()
            if rules.category_tiles == "last" and sample != max(scores):
                continue
            for question in questions:
                number = question["proposition_id"]
                for name in {category(question), subcategory(question)}:
                    cell = (f"{item}:{sample}:{number}", item)
                    self.cells.setdefault(name, []).append((*cell, raw[number]))
                    if rules.adjusted:
                        self.cells.setdefault(f"{name}-adjusted", []).append((*cell, zeroed[number]))


def answers_of(rows: Mapping[Any, dict]) -> dict[Any, dict[int, str]]:
    """The judge's words by question id, of each stored row."""
    return {key: {int(number): words for number, words in row["answers"].items()} for key, row in rows.items()}


def measures(
    prompts: list[dict],
    images_per_prompt: int,
    rows: Mapping[Job, dict],
    full_items: int | None = None,
    rules: Rules = FIXED,
) -> dict[str, Measure]:
    """Metric -> Measure, 0..100, clustered by item.

    ``dpg`` is the mean over items of the mean over their images; a category is the mean over all of its questions.
    ``rows``: (item, sample) -> {"answers": {question id: words}} or {"error": why}.  ``full_items``: items of the
    whole suite, where ``prompts`` may be a part; dpg-fixed takes four images an item.  An item that the protocol drops
    by its own rules is not expected."""
    wanted = min(images_per_prompt, rules.tiles or images_per_prompt)
    tally, judged = _Tally(), {}
    for (index, sample), row in sorted(rows.items()):
        if sample >= wanted:
            continue
        if "error" in row:
            tally.failed += 1
        else:
            judged.setdefault(index, {})[sample] = row
    for index, found in judged.items():
        if questions := scored_questions(prompts, index, rules):
            tally.add(prompt_id(prompts, index), questions, found, rules)
    dropped = len(tally.dropped)
    extra: dict[str, Any] = {"unparsed": tally.unparsed}
    if tally.shares:
        extra["yes_share"] = round(float(np.mean(tally.shares)), 6)
    if dropped:
        extra["dropped"] = sorted(tally.dropped)
    shared = {
        "n": tally.judged,
        "asked": len(prompts) * wanted - sum(tally.dropped.values()),
        "n_expected": (max(len(prompts), full_items or 0) - dropped)
        * (rules.tiles or max(IMAGES_PER_PROMPT, images_per_prompt)),
        "n_failed": tally.failed,
        "scale": 100.0,
        "unit": "of 100",
        "note": f"{dropped} item(s) dropped by the rules of {rules.id}" if dropped else None,
        "extra": extra,
    }
    cells = {"dpg": [(item, item, float(np.mean(tiles))) for item, tiles in tally.tiles.items()], **tally.cells}
    return {name: by_item(name, cells.get(name, ()), **shared) for name in metrics(prompts, rules)}


def by_item(metric: str, cells: Iterable[tuple[str, str, float]], **fields) -> Measure:
    """A Measure of (id, item, value), clustered by item."""
    ids, items, values = zip(*cells, strict=True) if cells else ((), (), ())
    return Measure(metric=metric, ids=list(ids), values=list(values), clusters=list(items), **fields)
