"""Result files of lmms-eval and VLMEvalKit, read as they are written (docs/evaluators.md 4).

lmms-eval: ``<date>_results.json`` (results, configs, n-samples) and, with ``--log_samples``, beside it
``<date>_samples_<task>.jsonl``.
VLMEvalKit: ``<model>_<dataset>_score.csv`` or ``_acc.csv`` (the number) beside tables of single answers, in xlsx, csv,
tsv or json.
"""

from __future__ import annotations

import csv
import glob
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TABLES = (".json", ".csv", ".tsv", ".xlsx")


@dataclass(frozen=True)
class Found:
    """One benchmark in a harness's files.  ``own``: the number that it reports there; ``rows``: its single answers;
    ``params``: prompt settings and what else it says of the run."""

    task: str
    own: float
    rows: list[dict]
    files: list[Path]
    params: dict[str, Any] = field(default_factory=dict)


def read_json(path: Path) -> Any:
    """Raises ValueError naming a file that is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error


def read_table(path: Path) -> list[dict]:
    """Rows of a table, values as text or as JSON has them.  Raises ValueError for xlsx where openpyxl is missing."""
    if path.suffix == ".json":
        rows = read_json(path)
        if isinstance(rows, dict):  # column by column
            columns = [list(cells.values()) for cells in rows.values()]
            rows = [dict(zip(rows, cells, strict=True)) for cells in zip(*columns, strict=True)]
        return rows
    if path.suffix == ".xlsx":
        if importlib.util.find_spec("openpyxl") is None:
            raise ValueError(f"{path} needs openpyxl; install it, or let VLMEvalKit write PRED_FORMAT=json or tsv")
        import openpyxl

        book = openpyxl.load_workbook(path, read_only=True)
        header, *body = book.active.iter_rows(values_only=True)
        book.close()
        return [dict(zip(header, cells, strict=True)) for cells in body]
    csv.field_size_limit(1 << 28)  # tables of VLMEvalKit may hold images
    with open(path, encoding="utf-8-sig", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ","))


def truth(value: Any) -> float:
    """A score as tables hold it: 1, "1.0", True, "True".  Raises ValueError for anything else."""
    words = {"true": 1.0, "false": 0.0}
    return words[str(value).lower()] if str(value).lower() in words else float(value)


# ------------------------------------------------------------------------------------------------------ lmms-eval


def _one(paths: list[Path], root: Path, what: str) -> Path:
    if len(paths) != 1:
        names = ", ".join(sorted(p.name for p in paths)[:3]) or "none"
        raise ValueError(f"{root} holds {len(paths)} {what} ({names}); name one of them or the folder of one run")
    return paths[0]


def _number(results: Mapping[str, Any], names: tuple[str, ...], where: Path) -> tuple[str, float]:
    """(filter, value) of the one metric among ``names`` in a task's results ("exact_match,flexible-extract")."""
    found = {}
    for key, value in results.items():
        metric, _, how = key.partition(",")
        if metric in names and isinstance(value, (int, float)):
            found[how] = float(value)
    if len(found) != 1:
        raise ValueError(
            f"{where} reports {names[0]} {len(found)} times ({', '.join(found) or 'nowhere'}); need it once"
        )
    return next(iter(found.items()))


def lmms_eval(root: Path, tasks: Mapping[str, tuple[str, ...]]) -> tuple[str | None, list[Found]]:
    """(version, those of ``tasks`` that a run of lmms-eval has); ``tasks``: task -> names of its metric.

    Raises ValueError for files that are absent, ambiguous or broken, and where samples were not logged."""
    path = root if root.is_file() else _one(sorted(root.rglob("*_results.json")), root, "results files *_results.json")
    told = read_json(path)
    if not isinstance(told, dict) or not isinstance(told.get("results"), dict):
        raise ValueError(f"{path} has no results; give the *_results.json that lmms-eval wrote")
    found = []
    for task, names in tasks.items():
        if task not in told["results"]:
            continue
        how, own = _number(told["results"][task], names, path)
        samples = path.with_name(path.name.removesuffix("results.json") + f"samples_{task}.jsonl")
        if not samples.is_file():
            raise ValueError(f"{samples} does not exist; run lmms-eval with --log_samples")
        try:
            rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines() if line.strip()]
        except ValueError as error:
            raise ValueError(f"{samples} is not JSON lines: {error}") from error
        config = (told.get("configs") or {}).get(task) or {}
        prompt = config.get("lmms_eval_specific_kwargs", config.get("model_specific_prompt_kwargs"))
        params = {
            "prompt": prompt,
            "generation": config.get("generation_kwargs"),
            "filter": how,
            "n_samples": (told.get("n-samples") or {}).get(task),
            "harness_commit": told.get("git_hash"),
            "harness_model": told.get("model_name") or (told.get("config") or {}).get("model"),
        }
        found.append(Found(task, own, rows, [path, samples], {k: v for k, v in params.items() if v is not None}))
    return told.get("lmms_eval_version"), found


# ----------------------------------------------------------------------------------------------------- VLMEvalKit


def _tables(root: Path, pattern: str) -> list[Path]:
    return sorted(p for p in root.rglob(pattern) if p.suffix in TABLES)


def _only_format(paths: list[Path]) -> list[Path]:
    """One file per stem: the same table may lie there in several formats."""
    stems: dict[Path, Path] = {}
    for path in sorted(paths, key=lambda p: TABLES.index(p.suffix)):
        stems.setdefault(path.with_suffix(""), path)
    return sorted(stems.values())


def vlmevalkit(root: Path, tasks: Mapping[str, tuple[str, str, str]]) -> list[Found]:
    """Those of ``tasks`` that a folder of VLMEvalKit has; ``tasks``: dataset -> (end of the number's file, its column,
    end of the answers' file, with * for the judge).

    Raises ValueError for files that are absent, ambiguous or broken."""
    if not root.is_dir():
        raise ValueError(f"{root} is no folder; give the folder that VLMEvalKit wrote for one model")
    found = []
    for task, (number, column, answers) in tasks.items():
        numbers = _only_format(_tables(root, f"*_{task}{number}.*"))
        if not numbers:
            continue
        path = _one(numbers, root, f"files *_{task}{number}")
        prefix = path.name[: -len(f"{number}{path.suffix}")]
        longer = tuple(prefix.removesuffix(task) + other for other in tasks if other.startswith(task) and other != task)
        tables = _tables(path.parent, f"{glob.escape(prefix)}{answers}.*")
        tables = [p for p in tables if p.stem != path.stem and not p.stem.startswith(longer)]
        table = _one(_only_format(tables), path.parent, f"tables {prefix}{answers}")
        rows = read_table(path)
        if len(rows) != 1 or column not in rows[0]:
            raise ValueError(f"{path} has {len(rows)} rows; it must have one, with a column {column!r}")
        found.append(Found(task, float(rows[0][column]), read_table(table), [path, table], {"table": table.name}))
    return found
