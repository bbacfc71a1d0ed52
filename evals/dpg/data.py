"""DPG-Bench's own files (docs/evaluators.md 3.1): the questions CSV and the prompts, as a suite of this harness.

The files are not part of the package; they come from TencentQQGYLab/ELLA, folder ``dpg_bench``.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

SUITE = "dpg-bench"
ITEMS = 1065  # prompts of the benchmark
COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")  # those read


def item_name(text: str) -> str:
    """An item's id, as files carry it: up to the first dot."""
    return text.strip().split(".")[0]


def _number(text: str, what: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{where}: {what} is {text!r}, not a whole number") from None


def _question(row: dict[str, str], where: str) -> dict:
    """One row as a question record."""
    return {
        "proposition_id": _number(row["proposition_id"], "proposition_id", where),
        "dependency": [
            number for part in row["dependency"].split(",") if (number := _number(part.strip(), "dependency", where))
        ],
        "tuple": row["tuple"],
        "question": row["question_natural_language"].strip(),
    }


def read_questions(path: str | Path) -> list[dict]:
    """The items of ``dpg_bench.csv`` in file order: {"id", "prompt", "questions"}.

    Raises ValueError for a file that is absent or empty, a column that is missing, a number that is none, an item
    whose rows are apart, and a question that an item has twice."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"questions file {path} does not exist; give DPG-Bench's dpg_bench.csv with --csv")
    items: dict[str, dict] = {}
    last = None
    with open(path, encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, restval="")
        missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
        if missing:
            found = ", ".join(reader.fieldnames or ()) or "none"
            raise ValueError(f"{path} has no column {missing[0]!r} (found: {found}); give DPG-Bench's dpg_bench.csv")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            name, question = item_name(row["item_id"]), _question(row, where)
            if name in items and name != last:
                raise ValueError(f"{where}: item {name} comes a second time; the rows of an item stand together")
            item = items.setdefault(name, {"id": name, "prompt": row["text"].strip(), "questions": []})
            if any(q["proposition_id"] == question["proposition_id"] for q in item["questions"]):
                raise ValueError(f"{where}: item {name} has question {question['proposition_id']} twice")
            item["questions"].append(question)
            last = name
    if not items:
        raise ValueError(f"{path} has no questions; give DPG-Bench's dpg_bench.csv")
    return list(items.values())


def read_prompts(path: str | Path) -> dict[str, str]:
    """Item id -> prompt, from a folder of ``<item_id>.txt`` or a file of JSON lines with ``item_id`` and ``text``.

    Raises ValueError for a path that is neither, for broken lines, and for an item that comes twice."""
    path = Path(path)
    if path.is_dir():
        pairs = [(p.name, p.read_text(encoding="utf-8")) for p in sorted(path.glob("*.txt"))]
    elif path.is_file():
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            pairs = [(str(row["item_id"]), row["text"]) for row in rows]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not JSON lines with item_id and text: {error!r}") from error
    else:
        raise ValueError(f"prompts {path} are neither a folder of <item_id>.txt nor a file of JSON lines")
    found: dict[str, str] = {}
    for name, text in pairs:
        if item_name(name) in found:
            raise ValueError(f"{path} has two prompts for item {item_name(name)}; remove one")
        found[item_name(name)] = text.strip()
    if not found:
        raise ValueError(f"{path} holds no prompts; expected <item_id>.txt files or JSON lines")
    return found


def load(questions: str | Path, prompts: str | Path | None = None) -> list[dict]:
    """The suite: items in the order of the CSV, with the prompts of ``prompts`` where given (default: its own text).

    Raises ValueError as the readers do, and for items without a prompt and prompts without questions."""
    items = read_questions(questions)
    if prompts is None:
        return items
    texts = read_prompts(prompts)
    ids = {item["id"] for item in items}
    for left, right, what in ((ids, texts.keys(), "prompt"), (texts.keys(), ids, "questions")):
        lost = sorted(left - right)
        if lost:
            raise ValueError(f"item {lost[0]} has no {what} ({len(lost)} such items); {questions} and {prompts} differ")
    return [{**item, "prompt": texts[item["id"]]} for item in items]
