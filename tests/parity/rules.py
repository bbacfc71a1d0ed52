"""The rules of benchmarks against independent formulations: GenEval, DPG-Bench, TextVQA, MME.

No package computes these rules, so they stand here a second time, by definition or in closed form; the libraries that
are at hand check the file formats and Cohen's kappa.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from evals.dpg.rules import RULES, score_tile
from evals.understanding import rules as understanding
from parity import Check
from vgt.core import geneval_prompts
from vgt.core.scenes import COLORS

EXACT = 1e-12

# -------------------------------------------------------------------------------------------------------- GenEval


def _holds(relation: str, a: list[float], b: list[float]) -> bool:
    """docs/evaluators.md 2.6 for one relation, a coordinate at a time."""
    axis, sign = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}[relation]
    far = [(a[k] + a[k + 2] - b[k] - b[k + 2]) / 2 for k in (0, 1)]
    size = [abs(a[k + 2] - a[k]) + abs(b[k + 2] - b[k]) for k in (0, 1)]
    left = [max(abs(far[k]) - 0.1 * size[k], 0.0) for k in (0, 1)]
    if max(left) < 1e-3:
        return False
    return sign * math.copysign(left[axis], far[axis]) / math.hypot(*far) > 0.5


def verdict(found: list[tuple], prompt: dict) -> bool:
    """docs/evaluators.md 2.3 and 2.4 by definition; ``found``: (class, score, box, color)."""
    least = 0.9 if prompt["tag"] == "counting" else 0.3
    counted = {}
    for name, score, box, color in sorted(found[::-1], key=lambda d: d[1], reverse=True):
        if score > least and len(counted.setdefault(name, [])) < 16:
            counted[name].append((box, color))
    groups: list = []
    for clause in prompt["include"]:
        best = counted.get(clause["class"], [])[: clause["count"]]
        good = len(best) == clause["count"]
        if good and "color" in clause:
            good = all(color == clause["color"] for _, color in best)
        if good and "position" in clause:
            relation, target = clause["position"]
            against = groups[target]
            good = against is not None and all(_holds(relation, a, b) for a, _ in best for b, _ in against)
        groups.append(best if good else None)
    over = any(len(counted.get(c["class"], [])) >= c["count"] for c in prompt.get("exclude", []))
    return None not in groups and not over


def random_image(prompt: dict, rng: np.random.Generator) -> list[tuple]:
    """Detections that fulfil a prompt about half the time."""
    wanted = {c["class"]: c.get("color", "red") for c in prompt["include"]}
    names = [c["class"] for c in prompt["include"] for _ in range(c["count"])]
    names += list(rng.choice([*wanted, "person"], size=rng.integers(0, 2)))
    found = []
    for name in names:
        x, y, w, h = rng.uniform(0, 60, 4)
        color = wanted.get(name, "red") if rng.random() < 0.8 else str(rng.choice(list(COLORS)))
        low = 0.85 if prompt["tag"] == "counting" else 0.25
        found.append((name, float(rng.uniform(low, 1)), [x, y, x + w + 1, y + h + 1], color))
    return found


def geneval_rules() -> float:
    from evals.geneval.rules import Box, judge_image

    rng = np.random.default_rng(0)
    differ, right, total = 0, 0, 0
    for prompt in geneval_prompts.prompts():
        for _ in range(4):
            found = random_image(prompt, rng)
            boxes = [Box(name, score, tuple(box)) for name, score, box, _ in found]
            ours = judge_image(boxes, prompt, [color for *_, color in found])[0]
            differ, right, total = differ + (ours != verdict(found, prompt)), right + ours, total + 1
    return differ / total if 0.1 < right / total < 0.9 else math.inf


def geneval_prompt_files() -> float:
    records = geneval_prompts.prompts()
    files = {
        geneval_prompts.METADATA_SHA256: "".join(json.dumps(r) + "\n" for r in records),
        geneval_prompts.PROMPT_LIST_SHA256: "".join(r["prompt"] + "\n" for r in records),
    }
    return float(sum(hashlib.sha256(text.encode()).hexdigest() != known for known, text in files.items()))


def geneval_results_file() -> float:
    import pandas

    from evals.geneval.official import result, to_lines

    rng = np.random.default_rng(1)
    lines = []
    for index, prompt in enumerate(geneval_prompts.prompts()[::20]):
        stored = [
            {"class": name, "score": score, "box": box, "color": color}
            for name, score, box, color in random_image(prompt, rng)
        ]
        lines.append(result(f"images/{index:05d}/samples/0000.png", prompt, {"detections": stored}))
    theirs = pandas.DataFrame(lines).to_json(orient="records", lines=True).splitlines()
    ours = to_lines(lines).splitlines()
    return float(sum(a != b for a, b in zip(ours, theirs, strict=True)))


# ------------------------------------------------------------------------------- post-processing of Mask2Former


def bilinear(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """float64 [h, w] -> [height, width], corners not aligned, one pixel at a time."""
    h, w = values.shape
    out = np.empty((height, width))
    for i in range(height):
        y = max((i + 0.5) * h / height - 0.5, 0.0)
        y0, y1 = int(y), min(int(y) + 1, h - 1)
        for j in range(width):
            x = max((j + 0.5) * w / width - 0.5, 0.0)
            x0, x1 = int(x), min(int(x) + 1, w - 1)
            top = values[y0, x0] * (1 - x + x0) + values[y0, x1] * (x - x0)
            low = values[y1, x0] * (1 - x + x0) + values[y1, x1] * (x - x0)
            out[i, j] = top * (1 - y + y0) + low * (y - y0)
    return out


def plain_instances(
    classes: np.ndarray, masks: np.ndarray, padded: tuple[int, int], size: tuple[int, int], original: tuple[int, int]
) -> list[tuple[float, int, tuple[float, ...], np.ndarray]]:
    """(score, class, box, mask) best first, by docs/evaluators.md 2.8 in float64 loops: class logits [Q, C + 1], mask
    logits [Q, h, w]."""
    pairs = []
    for query, logits in enumerate(classes.astype(np.float64)):
        exp = np.exp(logits - logits.max())
        pairs += [(value, query, c) for c, value in enumerate((exp / exp.sum())[:-1])]
    pairs.sort(key=lambda pair: -pair[0])
    found, full = [], {}
    for p, query, c in pairs[:100]:
        if query not in full:
            wide = bilinear(masks[query].astype(np.float64), *padded)
            full[query] = bilinear(wide[: size[0], : size[1]], *original)
        inside = full[query] > 0
        total = sum(1 / (1 + math.exp(-v)) for v in full[query][inside])
        rows, columns = (sorted(set(axis.tolist())) for axis in np.nonzero(inside))
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if rows else (0, 0, 0, 0)
        found.append((p * total / (inside.sum() + 1e-6), c, tuple(map(float, box)), inside))
    return sorted(found, key=lambda instance: -instance[0])


def mask2former_instances() -> float:
    """Largest difference of a score; 1 where classes, boxes or masks differ."""
    import torch

    from evals.judges import mask2former

    rng = np.random.default_rng(2)
    classes, masks = rng.normal(0, 2, (12, 11)), rng.normal(0, 3, (12, 8, 10))
    masks[3] = -5  # an empty one
    padded, size, original = (24, 32), (22, 29), (15, 19)
    p, queries, labels = mask2former.best_pairs(torch.tensor(classes, dtype=torch.float32))
    logits = mask2former.full_masks(torch.tensor(masks, dtype=torch.float32), padded, size, original)
    scores = p * mask2former.mask_confidence(logits)[queries]
    worst = 0.0
    order = scores.argsort(descending=True, stable=True).tolist()
    for i, (score, label, box, inside) in zip(
        order, plain_instances(classes, masks, padded, size, original), strict=True
    ):
        mask = logits[queries[i]] > 0
        same = score < 1e-5 or (int(labels[i]), mask2former.tight_box(mask)) == (label, box)
        same = same and (score < 1e-5 or bool((mask.numpy() == inside).all()))
        worst = max(worst, abs(float(scores[i]) - score) if same else 1.0)
    return worst


# ------------------------------------------------------------------------------------------------------ DPG-Bench

GRAPHS = 400


def random_items(seed: int, forwards: bool) -> Iterator[tuple[list[dict], np.ndarray, np.ndarray]]:
    """(questions in a random file order, adjacency [n, n] of child to parent in that order, raw scores [n]) of random
    graphs without cycles.  ``forwards``: parents stand before their children in the file."""
    rng = np.random.default_rng(seed)
    for _ in range(GRAPHS):
        n = int(rng.integers(1, 16))
        edges = np.tril(rng.random((n, n)) < 0.3, -1)
        order = np.arange(n) if forwards else rng.permutation(n)
        edges = edges[np.ix_(order, order)]
        raw = (rng.random(n) < 0.7).astype(float)
        questions = [
            {
                "proposition_id": i + 1,
                "dependency": [int(p) + 1 for p in np.flatnonzero(row)],
                "tuple": "",
                "question": "",
            }
            for i, row in enumerate(edges)
        ]
        yield questions, edges, raw


def reached(edges: np.ndarray) -> np.ndarray:
    """Reflexive transitive closure, bool [n, n]: the powers of (I + edges)."""
    closure = np.eye(len(edges), dtype=bool) | edges
    for _ in range(len(edges).bit_length()):
        closure = (closure.astype(int) @ closure.astype(int)) > 0
    return closure


def dpg_zeroing(name: str, forwards: bool) -> float:
    """Largest difference of a tile's score: a question counts where every question that it reaches is a yes.

    The walk in file order follows chains of parents that stand earlier, and then looks at one later parent's raw
    score; the graph follows all."""
    rules, worst = RULES[name], 0.0
    for questions, edges, raw in random_items(0, forwards):
        words = {i + 1: "yes" if score else "no" for i, score in enumerate(raw)}
        ours = np.mean(list(score_tile(words, questions, rules)[1].values()))
        if rules.zeroing == "graph":
            seen = reached(edges)
        else:
            earlier, later = np.tril(edges, -1), np.triu(edges, 1)
            seen = (reached(earlier).astype(int) @ (np.eye(len(raw), dtype=int) + later)) > 0
        theirs = np.mean([raw[row].all() for row in seen])
        worst = max(worst, abs(float(ours - theirs)))
    return worst


# -------------------------------------------------------------------------------------------------- understanding


def textvqa_soft_accuracy() -> float:
    """k of 10 answers agree: (k min(1, (k-1)/3) + (10-k) min(1, k/3)) / 10."""
    worst = 0.0
    for k in range(11):
        closed = (k * min(1, (k - 1) / 3) + (10 - k) * min(1, k / 3)) / 10
        worst = max(worst, abs(understanding.soft_accuracy("x", ["x"] * k + ["y"] * (10 - k)) - closed))
    return worst


def mme_score() -> float:
    """Table form: right [images, 2] of every sub-task -> 100 (mean of all + mean of the products of a row)."""
    rng, worst = np.random.default_rng(0), 0.0
    for _ in range(20):
        tables = {subtask: rng.random((int(rng.integers(2, 30)), 2)) < 0.7 for subtask in understanding.PERCEPTION}
        closed = sum(100 * (table.mean() + table.prod(1).mean()) for table in tables.values())
        answers = [
            (name, str(i), float(right))
            for name, table in tables.items()
            for i, row in enumerate(table)
            for right in row
        ]
        worst = max(worst, abs(understanding.mme_total(understanding.mme_images(answers)) - closed))
    return worst


# -------------------------------------------------------------------------------------------------------- agreement


def cohens_kappa(sets: int, n: int) -> float:
    from sklearn.metrics import cohen_kappa_score

    from evals.agreement.run import kappa, table

    rng, worst = np.random.default_rng(3), 0.0
    for share in rng.uniform(0.05, 0.95, sets):
        a = rng.random(n) < share
        b = np.where(rng.random(n) < 0.8, a, rng.random(n) < share)
        worst = max(worst, abs(float(kappa(table(a, b))) - cohen_kappa_score(a, b)))
    return worst


def _zeroing(protocol: str, against: str, inputs: str, forwards: bool) -> Check:
    inputs = f"{GRAPHS} random question graphs {inputs}"
    return Check(protocol, against, inputs, "", EXACT, lambda: dpg_zeroing(protocol, forwards))


CHECKS: tuple[Check, ...] = (
    _zeroing("dpg-fixed", "transitive closure by matrix powers", "in random file order", False),
    _zeroing("dpg-ella", "closure over earlier parents, then one later", "in random file order", False),
    _zeroing("dpg-vgt", "transitive closure by matrix powers", "with parents first", True),
    Check("dpg-agreement", "scikit-learn cohen_kappa_score", "100 pairs of 50 answers", "", EXACT,
          partial(cohens_kappa, 100, 50)),
    Check(
        "geneval", "the rules by definition", "2,212 random detection sets", "share of verdicts", 0.0, geneval_rules
    ),
    Check(
        "geneval", "published SHA-256", "metadata and prompt list", "files that differ", 0.0, geneval_prompt_files
    ),
    Check("geneval", "pandas' JSON lines", "28 results", "lines that differ", 0.0, geneval_results_file),
    Check(
        "geneval[m2f-hf]", "float64 loops of mmdet's steps", "12 queries, 10 classes, padded", "score", 1e-5,
        mask2former_instances,
    ),
    Check("judge-agreement", "scikit-learn cohen_kappa_score", "20 pairs of 300 verdicts", "kappa", EXACT,
          partial(cohens_kappa, 20, 300)),
    Check("lmms-eval", "closed form of TextVQA's soft accuracy", "0 to 10 of 10 answers agree", "", 1e-9,
          textvqa_soft_accuracy),
    Check("lmms-eval", "table form of MME's score", "20 random answer sheets", "of 2000", 1e-9, mme_score),
)  # fmt: skip
