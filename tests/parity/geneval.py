"""GenEval against independent formulations: its rules by definition, mmdet's post-processing in plain loops, others'
libraries for the formats and for kappa."""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np

from parity import Check
from vgt.core import geneval_prompts
from vgt.core.scenes import COLORS

# ---------------------------------------------------------------------------------------------------------- rules


def _holds(relation: str, a: list[float], b: list[float]) -> bool:
    """Spec evaluators 2.6 for one relation, a coordinate at a time."""
    axis, sign = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}[relation]
    far = [(a[k] + a[k + 2] - b[k] - b[k + 2]) / 2 for k in (0, 1)]
    size = [abs(a[k + 2] - a[k]) + abs(b[k + 2] - b[k]) for k in (0, 1)]
    left = [max(abs(far[k]) - 0.1 * size[k], 0.0) for k in (0, 1)]
    if max(left) < 1e-3:
        return False
    return sign * math.copysign(left[axis], far[axis]) / math.hypot(*far) > 0.5


def _verdict(found: list[tuple], prompt: dict) -> bool:
    """Spec evaluators 2.3 and 2.4 by definition; ``found``: (class, score, box, color)."""
    least = 0.9 if prompt["tag"] == "counting" else 0.3
    counted = {}
    for name, score, box, color in sorted(found, key=lambda d: d[1], reverse=True):
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


def _random_image(prompt: dict, rng: np.random.Generator) -> list[tuple]:
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


def _rules() -> float:
    from evals.geneval.rules import Box, judge_image

    rng = np.random.default_rng(0)
    differ, right, total = 0, 0, 0
    for prompt in geneval_prompts.prompts():
        for _ in range(4):
            found = _random_image(prompt, rng)
            boxes = [Box(name, score, tuple(box)) for name, score, box, _ in found]
            ours = judge_image(boxes, prompt, [color for *_, color in found])[0]
            differ, right, total = differ + (ours != _verdict(found, prompt)), right + ours, total + 1
    return differ / total if 0.1 < right / total < 0.9 else math.inf


def _prompts() -> float:
    records = geneval_prompts.prompts()
    files = {
        geneval_prompts.METADATA_SHA256: "".join(json.dumps(r) + "\n" for r in records),
        geneval_prompts.PROMPT_LIST_SHA256: "".join(r["prompt"] + "\n" for r in records),
    }
    return float(sum(hashlib.sha256(text.encode()).hexdigest() != known for known, text in files.items()))


def _results() -> float:
    import pandas

    from evals.geneval.evidence import official_lines, result

    rng = np.random.default_rng(1)
    lines = []
    for index, prompt in enumerate(geneval_prompts.prompts()[::20]):
        stored = [
            {"class": name, "score": score, "box": box, "color": color}
            for name, score, box, color in _random_image(prompt, rng)
        ]
        lines.append(result(f"images/{index:05d}/samples/0000.png", prompt, {"detections": stored}))
    theirs = pandas.DataFrame(lines).to_json(orient="records", lines=True).splitlines()
    ours = official_lines(lines).splitlines()
    return float(sum(a != b for a, b in zip(ours, theirs, strict=True)))


# ------------------------------------------------------------------------------------------------ post-processing


def _bilinear(values: np.ndarray, height: int, width: int) -> np.ndarray:
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
            wide = _bilinear(masks[query].astype(np.float64), *padded)
            full[query] = _bilinear(wide[: size[0], : size[1]], *original)
        inside = full[query] > 0
        total = sum(1 / (1 + math.exp(-v)) for v in full[query][inside])
        rows, columns = (sorted(set(axis.tolist())) for axis in np.nonzero(inside))
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if rows else (0, 0, 0, 0)
        found.append((p * total / (inside.sum() + 1e-6), c, tuple(map(float, box)), inside))
    return sorted(found, key=lambda instance: -instance[0])


def _instances() -> float:
    """Largest difference of a score; 1 where classes, boxes or masks differ."""
    import torch

    from evals.judges import instances

    rng = np.random.default_rng(2)
    classes, masks = rng.normal(0, 2, (12, 11)), rng.normal(0, 3, (12, 8, 10))
    masks[3] = -5  # an empty one
    padded, size, original = (24, 32), (22, 29), (15, 19)
    p, queries, labels = instances.best_pairs(torch.tensor(classes, dtype=torch.float32))
    logits = instances.full_masks(torch.tensor(masks, dtype=torch.float32), padded, size, original)
    scores = p * instances.mask_confidence(logits)[queries]
    worst = 0.0
    order = scores.argsort(descending=True, stable=True).tolist()
    for i, (score, label, box, inside) in zip(
        order, plain_instances(classes, masks, padded, size, original), strict=True
    ):
        mask = logits[queries[i]] > 0
        same = score < 1e-5 or (int(labels[i]), instances.tight_box(mask)) == (label, box)
        same = same and (score < 1e-5 or bool((mask.numpy() == inside).all()))
        worst = max(worst, abs(float(scores[i]) - score) if same else 1.0)
    return worst


def _kappa() -> float:
    from sklearn.metrics import cohen_kappa_score

    from evals.agreement.geneval import kappa, table

    rng, worst = np.random.default_rng(3), 0.0
    for share in rng.uniform(0.05, 0.95, 20):
        a = rng.random(300) < share
        b = np.where(rng.random(300) < 0.8, a, rng.random(300) < share)
        worst = max(worst, abs(float(kappa(table(a, b))) - cohen_kappa_score(a, b)))
    return worst


CHECKS: tuple[Check, ...] = (
    Check("geneval", "the rules by definition", "2,212 random detection sets", "share of verdicts", 0.0, _rules),
    Check("geneval", "published SHA-256", "metadata and prompt list", "files that differ", 0.0, _prompts),
    Check("geneval", "pandas' JSON lines", "28 results", "lines that differ", 0.0, _results),
    Check(
        "geneval[m2f-hf]", "float64 loops of mmdet's steps", "12 queries, 10 classes, padded", "score", 1e-5, _instances
    ),
    Check("judge-agreement", "scikit-learn", "20 pairs of 300 verdicts", "kappa", 1e-12, _kappa),
)
