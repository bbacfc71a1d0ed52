"""The sample grid: the same prompts and seeds down every row, read from the folders that the scores were judged from.

Nothing is selected: prompts are the first of each task in the suite, and always sample 0."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from reports.figures.grid import Cell, Grid, cell
from reports.measured import TASKS, Measured, is_reference, row_label
from vgt.core.record import Record

SAMPLE = "samples/0000.png"


def folder_of(record: Record, work: Path) -> Path | None:
    """The folder of images (GenEval layout) behind a score, if it is still there below ``work``."""
    if record.evidence is None:
        return None
    path = work / record.evidence
    path = path if path.is_dir() else path.parent
    inside = path.resolve().is_relative_to(work.resolve())
    return path if inside and path.is_dir() and any(path.glob("[0-9]*/metadata.jsonl")) else None


def prompts_of(folder: Path) -> dict[str, dict]:
    """``{folder name: prompt record}`` of a folder of images, in order."""
    found = {}
    for path in sorted(folder.glob("[0-9]*/metadata.jsonl")):
        found[path.parent.name] = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    return found


def _verdicts(folder: Path) -> dict[str, bool]:
    """``{"00000/samples/0000.png": correct}`` from the judge's results file, where there is one."""
    path = folder / "results.jsonl"
    if not path.is_file():
        return {}
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {"/".join(Path(row["filename"]).parts[-3:]): bool(row["correct"]) for row in rows}


def _cell(folder: Path, index: str, verdicts: dict[str, bool]) -> Cell | None:
    path = folder / index / SAMPLE
    if not path.is_file():
        return None
    with Image.open(path) as opened:
        return cell(opened, verdicts.get(f"{index}/{SAMPLE}"))


def grids(measured: Measured, work: Path, per_task: int = 2) -> list[Grid]:
    """One grid per ``k < per_task``: the k-th prompt of every task; rows are the oracle, then every generator.

    A image whose folder holds another prompt under the same number is left out."""
    records = [
        r for r in measured.where("scenes-geneval", "overall") if not is_reference(r.subject) or r.subject == "oracle"
    ]
    records.sort(key=lambda r: r.subject != "oracle")
    folders = {row_label(r.subject, r.accel): f for r in records if (f := folder_of(r, work))}
    if not folders.keys() - {row_label("oracle")}:
        return []
    listed = {name: prompts_of(folder) for name, folder in folders.items()}
    first = max(listed.values(), key=len)
    made = []
    for k in range(per_task):
        of_task = [[i for i, p in first.items() if p.get("tag") == task] for task in TASKS]
        chosen = [indices[k] for indices in of_task if len(indices) > k]
        if not chosen:
            break
        rows = []
        for name, folder in folders.items():
            verdicts = _verdicts(folder)
            same = (listed[name].get(i, {}).get("prompt") == first[i]["prompt"] for i in chosen)
            rows.append(
                (name, [_cell(folder, i, verdicts) if ok else None for i, ok in zip(chosen, same, strict=True)])
            )
        made.append(Grid(f"samples_{k + 1}", [first[i]["prompt"] for i in chosen], rows))
    return made
