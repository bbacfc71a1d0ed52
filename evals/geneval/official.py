"""GenEval's formats: the official results file, written and read, and COCO's masks (docs/evaluators.md 2.7, 2.8).

A results file holds boxes and scores, so counts, positions and thresholds are computed anew from it.  It holds neither
masks nor pixels: the colors are what its reasons say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from evals.engine.judging import Job
from evals.geneval.rules import OFFICIAL, Box, Thresholds, above, judge_image, select
from vgt.core import text
from vgt.core.scenes import COLORS
from vgt.core.text import Fields

SIDE = 100_000  # pixels: no image is larger, so no box reaches farther
REMEDY = "give the official scorer's results.jsonl"
JUDGE = "m2f-mmdet"  # the official detector
_PLACE = re.compile(r"(?:^|[/\\])([0-9]{1,9})[/\\]samples[/\\]([0-9]{1,9})\.png\Z")
_COLORS = re.compile(r"[0-9]{1,9} [a-z]+(, [0-9]{1,9} [a-z]+)*")


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

    A clause without a complaint found its color; the others name what was found instead, the right ones first here.
    Raises ValueError for a complaint that does not name colors, or more of them than there are detections."""
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
            named = sorted(_told(complaint.partition("; and ")[2], number.get(name, 0)), key=lambda c: c != wanted)
        told[name] = [*named, *[None] * number.get(name, 0)][: number.get(name, 0)]
    return told


def _told(found: str, most: int) -> list[str]:
    """The colors of "1 red, 2 blue", ``most`` at most; none where none could be told."""
    if not found:
        return []
    if not _COLORS.fullmatch(found):
        raise ValueError(f"{text.shown(found)} does not name colors, as '1 red, 2 blue' does")
    seen = [(int(count), color) for count, color in (part.split(" ") for part in found.split(", "))]
    unknown = [color for _, color in seen if color not in COLORS]
    if unknown:
        raise ValueError(f"{text.shown(unknown[0])} is not one of {', '.join(COLORS)}")
    if sum(count for count, _ in seen) > most:
        raise ValueError(f"{text.shown(found)} are more colors than the {most} boxes of the class in 'details'")
    return [color for count, color in seen for _ in range(count)]


def row_of(prompt: dict, line: dict) -> dict:
    """The row of one image from a line of results, without masks.  A line has the best box first, the rules take the
    last one of equal scores first: so the last box comes first here, and the line's order holds."""
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
            for i, box in reversed(list(enumerate(boxes)))
        ]
    }


def check_box(box: Any, where: str) -> None:
    """Raises ValueError for a box that is not [x1, y1, x2, y2] in pixels, the first corner top left."""
    if not (isinstance(box, list) and len(box) == 4):
        raise ValueError(f"{where}: {text.shown(box)} is not [x1, y1, x2, y2]")
    for value in box:
        text.number(value, f"{where}, box {text.shown(box)}", 0, SIDE)
    if box[0] > box[2] or box[1] > box[3]:
        raise ValueError(f"{where}: the box {text.shown(box)} ends before it begins")


def check_row(row: Fields) -> None:
    """Raises ValueError, naming file and line, for a stored row whose detections cannot be scored."""
    found = row.need("detections")
    for detection in found if isinstance(found, list) else [found]:
        each = Fields.of(detection, row.place("detections"))
        each.text("class")
        each.number("score", 0, 1)
        check_box(each.need("box"), each.where)
        if each.need("color") is not None and each["color"] not in tuple(COLORS):
            raise ValueError(f"{each.place('color')}: {text.shown(each['color'])} is not one of {', '.join(COLORS)}")


def _line(told: Fields) -> Fields:
    """One result, its JSON strings read and its values checked.  Raises ValueError naming line and field."""
    details = told.object("details")
    for name, boxes in details.items():
        where = f"{told.place('details')}, class {name!r}"
        for box in boxes if isinstance(boxes, list) else [boxes]:
            if not (isinstance(box, list) and len(box) == 5):
                raise ValueError(f"{where}: {text.shown(box)} is not [x1, y1, x2, y2, score]")
            check_box(box[:4], where)
            text.number(box[4], f"{where}, score of {text.shown(box)}", 0, 1)
    reason = "" if told.need("reason") is None else told.text("reason")  # pandas reads an empty text as nothing
    words = {name: told.text(name) for name in ("filename", "tag", "prompt")}
    checked = {"correct": told.flag("correct"), "reason": reason, "metadata": told.object("metadata")}
    return Fields({**words, **checked, "details": details}, told.where)


def read(path: str | Path, suite: str, prompts: list[dict], images_per_prompt: int) -> dict[Job, Fields]:
    """(prompt index, sample) -> line of an official results file, its JSON strings read.

    Raises ValueError for lines that are no results, images that come twice or are not the suite's, and prompts that
    differ from it."""
    text.present(path, "results", REMEDY)
    found: dict[Job, Fields] = {}
    try:
        lines = [_line(told) for told in text.objects(path)]
    except ValueError as error:
        raise ValueError(f"{error}; {REMEDY}") from error
    for line in lines:
        where = place_of(line["filename"])
        if where is None or where[0] >= len(prompts) or where[1] >= images_per_prompt:
            raise ValueError(
                f"{line.place('filename')}: {text.shown(line['filename'])} is none of the "
                f"{len(prompts)} x {images_per_prompt} images of suite {suite!r}; "
                "name images <00000>/samples/<0000>.png"
            )
        if where in found:
            raise ValueError(f"{line.where}: {text.shown(line['filename'])} comes twice; each image counts once")
        mine = prompts[where[0]]
        if any(line["metadata"].get(key) != mine.get(key) for key in ("tag", "include", "exclude", "prompt")):
            raise ValueError(
                f"{line.where}: the prompt {line['prompt']!r} is not number {where[0]} of suite {suite!r}, "
                f"{mine['prompt']!r}; give the suite that was judged with --suite"
            )
        for name in ("tag", "prompt"):
            if line[name] != mine[name]:
                fault = f"{line.place(name)}: {text.shown(line[name])} is not {text.shown(mine[name])}"
                raise ValueError(f"{fault}, that of its metadata; {REMEDY}")
        try:
            told_colors(mine, line["reason"], {name: len(boxes) for name, boxes in line["details"].items()})
        except ValueError as error:
            raise ValueError(f"{line.place('reason')}: {error}; {REMEDY}") from error
        found[where] = line
    return found


def doubts(lines: Iterable[dict], rules: Thresholds = OFFICIAL) -> list[str]:
    """What in results shows that they were judged with other settings than these (docs/evaluators.md 2.3): boxes that
    these would not have kept, or none where these would have kept many."""
    told = []
    scores: dict[str, list[float]] = {"threshold": [], "counting_threshold": []}
    most = 0
    for line in lines:
        kind = "counting_threshold" if line["tag"] == "counting" else "threshold"
        for boxes in line["details"].values():
            scores[kind] += [box[4] for box in boxes]
            most = max(most, len(boxes))
    for kind, found in scores.items():
        least, lowest = getattr(rules, kind), min(found, default=1.0)
        if found and not above(lowest, least):
            low = sum(not above(score, least) for score in found)
            told.append(f"{low} boxes score {least} or less, as with a lower {kind}")
        # If only a tenth of the scores lay evenly above the threshold, a gap this wide would be a matter of chance.
        elif (1 - 0.1 * (lowest - least) / (1 - least)) ** len(found) < 1e-6:
            told.append(f"none of {len(found)} boxes scores below {lowest:.4g}, as with a higher {kind} than {least}")
    if most > rules.max_objects:
        told.append(f"{most} boxes of one class, as with a larger max_objects than {rules.max_objects}")
    return told


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
