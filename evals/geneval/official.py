"""Results files of the official GenEval scorer, scored again here (docs/evaluators.md 2.7, 2.8).

Such a file holds boxes and scores, so counts, positions and thresholds are computed anew.  It holds neither masks nor
pixels: the colors are what its reasons say.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from evals.engine.generation import IMAGES_PER_PROMPT, Run
from evals.engine.records import Outcome, write
from evals.geneval.evidence import Job, Judging, Known, prompt_variant, write_judging
from evals.geneval.rules import OFFICIAL, Thresholds, check_prompts
from evals.geneval.run import kept_records, result, score
from vgt.core import files

FIELDS = ("filename", "tag", "prompt", "correct", "reason", "metadata", "details")
JUDGE = "m2f-mmdet"  # the official detector
_PLACE = re.compile(r"(?:^|[/\\])(\d+)[/\\]samples[/\\](\d+)\.png$")


def place_of(filename: str) -> Job | None:
    """(prompt index, sample) of ".../00012/samples/0003.png"; None for other names."""
    found = _PLACE.search(filename)
    return (int(found[1]), int(found[2])) if found else None


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


def entry(prompt: dict, line: dict) -> dict:
    """Evidence of one image from a line of results, without masks."""
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


def run(
    path: str | Path,
    *,
    work: str | Path,
    records: str | Path,
    suite: str,
    prompts: list[dict],
    images_per_prompt: int = IMAGES_PER_PROMPT,
    subject: str | None = None,
    judge: str = JUDGE,
    rules: Thresholds = OFFICIAL,
    variant: str | None = None,
    partial_ok: bool = False,
) -> Outcome:
    """Records of an official results file, under the judge's id ``official:<judge>``, and its evidence below ``work``.

    ``subject``: whose images they are (default ``import:<file's name>``).  Coverage counts as for our own judging.
    Raises ValueError as ``read`` does, and for thresholds looser than the official ones."""
    check_prompts(suite, prompts)
    lines = read(path, suite, prompts, images_per_prompt)
    content = files.digest_file(path)
    name = subject or f"import:{Path(path).stem}"
    entries = {where: entry(prompts[where[0]], line) for where, line in sorted(lines.items())}
    differ = sum(
        result(line["filename"], prompts[where[0]], entries[where])["correct"] != line["correct"]
        for where, line in lines.items()
    )
    note = f"judged elsewhere, colors as its reasons tell; {differ} of {len(lines)} verdicts differ when scored here"
    # Seed and batch of images made elsewhere are not known.
    job = Run(Known(name, content), name, None, suite, prompts, images_per_prompt, None, None)
    by = Known(f"official:{judge}", content)
    judging = Judging(job, by, prompt_variant(suite, prompts, variant), Thresholds(position_threshold=0.0), note=note)
    keys, kept = kept_records(judging, rules, records, partial_ok)
    if len(kept) == len(keys):
        return write(records, keys, kept, {}, {})
    out = judging.folder(work)
    place = {where: lines[where]["filename"] for where in entries}
    by_name = {place[where]: {"id": place[where], **told} for where, told in entries.items()}
    files.write_text(out / "detections.jsonl", "".join(json.dumps(e) + "\n" for e in by_name.values()))
    write_judging(judging, place, out)
    return score(judging, by_name, place, out, work=work, records=records, rules=rules, partial_ok=partial_ok)
