"""Two judges on the same images (docs/evaluators.md 3.4): Cohen's kappa, the bias per category, the paired
difference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evals.dpg.evidence import Judging, read_judging
from evals.dpg.rules import CATEGORIES, FIXED, category, score_tile
from evals.engine.generation import prompt_id
from evals.engine.records import Measure, Outcome, write
from evals.judges.answering import label
from vgt.core import files, record
from vgt.core.statistics import jackknife_interval

PROTOCOL = "dpg-agreement"
Evidence = Mapping[tuple[int, int], dict]


def kappa(counts: np.ndarray) -> float | None:
    """Cohen's kappa = (p_o - p_e) / (1 - p_e) of a 2x2 table of counts; None where both judges always say the same."""
    share = counts / counts.sum()
    chance = float(share.sum(0) @ share.sum(1))
    return None if np.isclose(chance, 1) else float((np.trace(share) - chance) / (1 - chance))


def paired(prompts: list[dict], a: Evidence, b: Evidence) -> dict[str, list[tuple[str, str, float, float]]]:
    """(id, item, A's score, B's score) of everything that both judged: "dpg" by image, a category by question."""
    rows: dict[str, list[tuple[str, str, float, float]]] = {}
    for index, sample in sorted(a.keys() & b.keys()):
        entries = (a[index, sample], b[index, sample])
        if any("error" in entry for entry in entries):
            continue
        questions, item = prompts[index]["questions"], prompt_id(prompts, index)
        answers = [{int(n): words for n, words in entry["answers"].items()} for entry in entries]
        (raw_a, zero_a), (raw_b, zero_b) = (score_tile(each, questions, FIXED) for each in answers)
        means = (float(np.mean(list(zeroed.values()))) for zeroed in (zero_a, zero_b))
        rows.setdefault("dpg", []).append((f"{item}:{sample}", item, *means))
        for q in questions:
            number = q["proposition_id"]
            row = (f"{item}:{sample}:{number}", item, raw_a[number], raw_b[number])
            rows.setdefault(category(q), []).append(row)
    return rows


def _tables(rows: Mapping[str, list[tuple[str, str, float, float]]]) -> np.ndarray:
    """Counts [items, 2, 2] of (A says yes, B says yes) over all questions."""
    tables: dict[str, np.ndarray] = {}
    for name, found in rows.items():
        for _, item, a, b in found if name != "dpg" else ():
            tables.setdefault(item, np.zeros((2, 2)))[int(a), int(b)] += 1
    return np.array([tables[item] for item in sorted(tables)])


def _kappa_fields(tables: np.ndarray) -> dict[str, Any]:
    """Value and interval of kappa, items deleted one at a time."""
    value = kappa(tables.sum(0))
    if value is None:
        return {"value": None, "note": "both judges gave one and the same answer to everything: kappa is not defined"}
    left_out = [kappa(tables.sum(0) - table) for table in tables] if len(tables) > 1 else []
    if not left_out or any(each is None for each in left_out):
        return {
            "value": round(value, 12),
            "note": "no interval: too few items, or one of them alone shows a difference",
        }
    interval = jackknife_interval(value, left_out)
    return {
        "value": round(value, 12),
        "low": round(max(-1.0, interval.low), 12),
        "high": round(min(1.0, interval.high), 12),
        "interval": interval.method.replace("blocks", "items"),
    }


def _compatible(a: Judging, b: Judging) -> None:
    """Raises ValueError unless both judged the same images of the same questions."""
    for what, left, right in (("images", a.identity, b.identity), ("questions", a.prompts, b.prompts)):
        if left != right:
            raise ValueError(f"judges {a.judge} and {b.judge} were not asked about the same {what}; run both again")
    if a.judge_fingerprint == b.judge_fingerprint:
        raise ValueError(f"{a.judge} and {b.judge} are one and the same judge; name two with --judge and --against")


def run(first: str | Path, second: str | Path, *, records: str | Path) -> Outcome:
    """Records from two stored ``answers.jsonl``: ``kappa[a,b]`` over all questions, and the differences second minus
    first: ``bias[a,b]`` of the score and ``bias-<category>[a,b]``, in points of 100, clustered by item.

    Raises ValueError for answers about different images or questions."""
    (a, evidence_a), (b, evidence_b) = read_judging(first), read_judging(second)
    _compatible(a, b)
    rows = paired(a.prompts, evidence_a, evidence_b)
    mark = f"[{label(a.judge)},{label(b.judge)}]"
    parts = {"protocol": PROTOCOL, "answers": [files.digest_file(first), files.digest_file(second)]}
    asked = len(a.prompts) * a.images_per_prompt
    counts = {"n": len(rows.get("dpg", [])), "asked": asked, "n_expected": asked}
    measures = {}
    for name in ("dpg", *(c for c in CATEGORIES if c in rows)):
        ids, items, left, right = zip(*rows.get(name, []), strict=True) if rows.get(name) else ((), (), (), ())
        metric = ("bias" if name == "dpg" else f"bias-{name}") + mark
        values = [y - x for x, y in zip(left, right, strict=True)]
        shared = {"scale": 100.0, "unit": "points of 100", **counts}
        measures[metric] = Measure(metric=metric, values=values, clusters=list(items), ids=list(ids), **shared)
    common = {
        **a.common,
        "protocol": PROTOCOL,
        "judge": f"{a.judge} {a.judge_fingerprint[:12]}, {b.judge} {b.judge_fingerprint[:12]}",
    }
    keys = {metric: record.make_key(**parts, metric=metric) for metric in measures}
    made = write(records, keys, {}, measures, common)
    key = record.make_key(**parts, metric=f"kappa{mark}")
    fields = {"metric": f"kappa{mark}", "key": key, "unit": "", "n": counts["n"], "n_expected": asked}
    agreed = record.make(**common, **fields, **_kappa_fields(_tables(rows)))
    record.write(agreed, records)
    return Outcome([agreed, *made.records], made.computed + 1, 0)
