"""GenEval's formats: the official results file, written and read, and COCO's masks (docs/evaluators.md 2.7, 2.8).

A results file holds boxes and scores, so counts, positions and thresholds are computed anew from it.  It holds neither
masks nor pixels: the colors are what its reasons say.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from evals.engine.judging import Job
from evals.geneval.rules import OFFICIAL, Box, Thresholds, judge_image, select

FIELDS = ("filename", "tag", "prompt", "correct", "reason", "metadata", "details")
JUDGE = "m2f-mmdet"  # the official detector
_PLACE = re.compile(r"(?:^|[/\\])(\d+)[/\\]samples[/\\](\d+)\.png$")


def place_of(filename: str) -> Job | None:
    """(prompt index, sample) of ".../00012/samples/0003.png"; None for other names."""
    found = _PLACE.search(filename)
    return (int(found[1]), int(found[2])) if found else None


# -------------------------------------------------------------------------------------------------------- writing


def boxes_and_colors(row: dict) -> tuple[list[Box], list[str | None]]:
    """Detections, without their masks, and their colors from the stored row of an image."""
    found = row["detections"]
    return [Box(d["class"], d["score"], tuple(d["box"])) for d in found], [d["color"] for d in found]


def result(name: str, prompt: dict, row: dict, rules: Thresholds = OFFICIAL) -> dict:
    """One line of the official results file (docs/evaluators.md 2.7)."""
    detections, colors = boxes_and_colors(row)
    correct, reason = judge_image(detections, prompt, colors, rules)
    details = {
        label: [[*detections[i].box, detections[i].score] for i in indices]
        for label, indices in select(detections, prompt["tag"], rules).items()
    }
    return {
        "filename": name,
        "tag": prompt["tag"],
        "prompt": prompt["prompt"],
        "correct": correct,
        "reason": reason,
        "metadata": json.dumps(prompt),
        "details": json.dumps(details),
    }


def to_lines(results: list[dict]) -> str:
    """Results as the official scorer writes them (pandas' JSON lines: no spaces, slashes escaped)."""
    # In JSON text a slash stands inside strings only.
    return "".join(json.dumps(line, separators=(",", ":")).replace("/", "\\/") + "\n" for line in results)


# -------------------------------------------------------------------------------------------------------- reading


def told_colors(prompt: dict, reason: str, number: dict[str, int]) -> dict[str, list[str | None]]:
    """Class -> one color per detection, best first, as the reasons of a result tell; ``number``: how many there are.

    A clause without a complaint found its color; the others name what was found instead, the right ones first here."""
    told: dict[str, list[str | None]] = {}
    for clause in prompt["include"]:
        name, count = clause["class"], clause["count"]
        if "color" not in clause:
            continue
        wanted = clause["color"]
        head = f"expected {wanted} {name}>={count}, found "
        complaint = next((line for line in reason.split("\n") if line.startswith(head) and "; and " in line), None)
        named = [wanted] * count
        if complaint is not None:
            seen = [part.split(" ", 1) for part in complaint.split("; and ")[1].split(", ")]
            named = sorted((c for k, c in seen for _ in range(int(k))), key=lambda c: c != wanted)
        told[name] = [*named, *[None] * number.get(name, 0)][: number.get(name, 0)]
    return told


def row_of(prompt: dict, line: dict) -> dict:
    """The row of one image from a line of results, without masks."""
    details = line["details"]
    colors = told_colors(prompt, line["reason"], {name: len(boxes) for name, boxes in details.items()})
    return {
        "detections": [
            {
                "class": name,
                "score": box[4],
                "box": box[:4],
                "color": colors.get(name, [None] * len(boxes))[i],
                "mask": None,
            }
            for name, boxes in details.items()
            for i, box in enumerate(boxes)
        ]
    }


def _line(text: str, number: int, path: Path) -> dict:
    """One result, its JSON strings read.  Raises ValueError naming the line for anything else."""
    try:
        line = json.loads(text)
        lost = [k for k in FIELDS if k not in line]
        if not lost:
            line = {**line, "metadata": json.loads(line["metadata"]), "details": json.loads(line["details"])}
            boxes = [box for found in line["details"].values() for box in found]
            if not all(len(box) == 5 and all(isinstance(v, (int, float)) for v in box) for box in boxes):
                raise ValueError("details hold a box that is not [x1, y1, x2, y2, score]")
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}, line {number}: not a result ({error}); give the scorer's results.jsonl") from error
    if lost:
        raise ValueError(f"{path}, line {number}: the key {lost[0]!r} is missing; give the scorer's results.jsonl")
    return line


def read(path: str | Path, suite: str, prompts: list[dict], images_per_prompt: int) -> dict[Job, dict]:
    """(prompt index, sample) -> line of an official results file, its JSON strings read.

    Raises ValueError for lines that are no results, images that come twice or are not the suite's, and prompts that
    differ from it."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"results {path} do not exist; give the official scorer's results.jsonl")
    found: dict[Job, dict] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = _line(text, number, path)
        where = place_of(line["filename"])
        if where is None or where[0] >= len(prompts) or where[1] >= images_per_prompt:
            raise ValueError(
                f"{path}, line {number}: {line['filename']!r} is none of the {len(prompts)} x {images_per_prompt} "
                f"images of suite {suite!r}; name images <00000>/samples/<0000>.png"
            )
        if where in found:
            raise ValueError(f"{path}, line {number}: {line['filename']!r} comes twice; each image counts once")
        mine = prompts[where[0]]
        if any(line["metadata"].get(key) != mine.get(key) for key in ("tag", "include", "exclude", "prompt")):
            raise ValueError(
                f"{path}, line {number}: the prompt {line['prompt']!r} is not number {where[0]} of suite {suite!r}, "
                f"{mine['prompt']!r}; give the suite that was judged with --suite"
            )
        found[where] = line
    return found


# ---------------------------------------------------------------------------------------------------------- masks
# Run lengths column by column, alternately zeros and ones, zeros first; stored compressed, as one string that
# pycocotools reads too, so that scoring from boxes passes over them.


def run_lengths(mask: np.ndarray) -> list[int]:
    """bool [H, W] -> lengths of its runs."""
    flat = mask.astype(bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return [0, *counts] if flat.size and flat[0] else counts


def compress(counts: list[int]) -> str:
    """Run lengths as COCO's string: from the fourth on the difference to the last but one, five bits a character from
    the lowest up, sign in the last one, 32 added while more follow, 48 to all."""
    text = []
    for i, count in enumerate(counts):
        rest = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            bits = rest & 31
            rest >>= 5
            more = rest != (-1 if bits & 16 else 0)
            text.append(chr(48 + bits + (32 if more else 0)))
    return "".join(text)


def expand(text: str) -> list[int]:
    """The inverse of ``compress``."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts


def encode_mask(mask: np.ndarray) -> dict:
    """bool [H, W] -> ``{"size": [H, W], "counts": "..."}``."""
    return {"size": list(mask.shape), "counts": compress(run_lengths(mask))}


def decode_mask(code: dict) -> np.ndarray:
    """The inverse of ``encode_mask``; ``counts`` may also be a list.

    Raises ValueError where they do not fill the size."""
    height, width = code["size"]
    counts = expand(code["counts"]) if isinstance(code["counts"], str) else code["counts"]
    if sum(counts) != height * width:
        raise ValueError(f"run lengths sum to {sum(counts)}, a mask of {height} x {width} has {height * width} pixels")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape((height, width), order="F")
