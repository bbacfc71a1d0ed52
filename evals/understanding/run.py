"""``vgt eval understanding``: benchmarks as other harnesses measured them (docs/evaluators.md 4).

MME-Perception, MMBench-EN, AI2D and TextVQA, imported from result files of lmms-eval or VLMEvalKit into records with
intervals of our own.

The value is computed again from the single answers and must be the one that the harness reports.  Files are read as
they are written:

* lmms-eval: ``<date>_results.json`` (results, configs, n-samples) and, with ``--log_samples``, beside it
  ``<date>_samples_<task>.jsonl``;
* VLMEvalKit: ``<model>_<dataset>_score.csv`` or ``_acc.csv`` (the number) beside tables of single answers, in xlsx,
  csv, tsv or json.
"""

from __future__ import annotations

import ast
import glob
import importlib.util
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.engine import options
from evals.engine.options import option
from evals.engine.records import Estimate, Measure, Outcome, plain, stored, write
from evals.judges.answering import label
from evals.understanding import rules
from vgt.core import files, record, text
from vgt.core.text import Fields

HARNESSES = ("lmms-eval", "vlmevalkit")
VERSION = 1  # of the import: raise it when a change to it can change a record
METRICS = {"MME-P": "mme-perception", "MMBench-EN": "accuracy", "AI2D": "accuracy", "TextVQA": "accuracy"}
CLOSE = 0.006  # of 100, by how much our value may differ from the harness's: it may print two decimals
# Questions of the whole benchmark by task; a task that is not here is taken as whole.
EXPECTED = {
    "mme": 2114, "MME": 2114, "mmbench_en_dev": 1164, "mmbench_en_dev_static": 1164, "MMBench_DEV_EN": 1164,
    "ai2d": 3088, "ai2d_no_mask": 3088, "AI2D_TEST": 3088, "AI2D_TEST_NO_MASK": 3088,
    "textvqa_val": 5000, "TextVQA_VAL": 5000,
}  # fmt: skip


# ------------------------------------------------------------------------------------------- files of the harnesses

TABLES = (".json", ".csv", ".tsv", ".xlsx")


@dataclass(frozen=True)
class Result:
    """One benchmark in a harness's files.  ``own``: the number that it reports there; ``rows``: its single answers;
    ``params``: prompt settings and what else it says of the run."""

    task: str
    own: float
    rows: list[Fields]
    files: list[Path]
    params: dict[str, Any] = field(default_factory=dict)


def read_table(path: Path) -> list[Fields]:
    """Rows of a table, values as text or as JSON has them.

    Raises ValueError naming a file that is none, and for xlsx where openpyxl is missing."""
    if path.suffix == ".json":
        rows = text.read_json(path)
        if isinstance(rows, dict) and all(isinstance(cells, dict) for cells in rows.values()):  # column by column
            if len({len(cells) for cells in rows.values()}) > 1:
                raise ValueError(f"{path}: its columns differ in length; copy it again")
            columns = [list(cells.values()) for cells in rows.values()]
            rows = [dict(zip(rows, cells, strict=True)) for cells in zip(*columns, strict=True)]
        if not isinstance(rows, list):
            raise ValueError(f"{path} holds {text.shown(rows)}, no rows of a table")
        return [Fields.of(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)]
    if path.suffix == ".xlsx":
        if importlib.util.find_spec("openpyxl") is None:
            raise ValueError(f"{path} needs openpyxl; install it, or let VLMEvalKit write PRED_FORMAT=json or tsv")
        import openpyxl

        try:
            book = openpyxl.load_workbook(path, read_only=True)
            header, *body = book.active.iter_rows(values_only=True)
            book.close()
        except Exception as error:  # a broken archive, broken XML, no sheet: each its own kind
            raise ValueError(f"{path} is no Excel table ({type(error).__name__}: {error}); copy it again") from error
        rows = enumerate(body, 2)
        return [Fields(zip(header, cells, strict=True), f"{path}, line {number}") for number, cells in rows]
    return list(text.csv_rows(path, delimiter="\t" if path.suffix == ".tsv" else ","))


def as_score(row: Fields, name: str) -> float:
    """A score of 0 to 1 as tables hold it: 1, "1.0", True, "True".  Raises ValueError for anything else."""
    told = row.need(name)
    words = {"true": 1.0, "false": 0.0}
    return words[str(told).lower()] if str(told).lower() in words else text.figure(told, row.place(name), 0, 1)


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
        if metric in names and not isinstance(value, str):
            found[how] = float(text.number(value, f"{where}, field {key!r}"))
    if len(found) != 1:
        raise ValueError(
            f"{where} reports {names[0]} {len(found)} times ({', '.join(found) or 'nowhere'}); need it once"
        )
    return next(iter(found.items()))


def lmms_eval(root: Path, tasks: Mapping[str, tuple[str, ...]]) -> tuple[str | None, list[Result]]:
    """(version, those of ``tasks`` that a run of lmms-eval has); ``tasks``: task -> names of its metric.

    Raises ValueError for files that are absent, ambiguous or broken, and where samples were not logged."""
    reports = [root] if root.is_file() else files.visible(root, "**/*_results.json")
    path = _one(reports, root, "results files *_results.json")
    told = text.read_json(path)
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
        rows = list(text.objects(samples))
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
        found.append(Result(task, own, rows, [path, samples], {k: v for k, v in params.items() if v is not None}))
    return told.get("lmms_eval_version"), found


def _tables(root: Path, pattern: str) -> list[Path]:
    return [p for p in files.visible(root, f"**/{pattern}") if p.suffix in TABLES]


def _only_format(paths: list[Path]) -> list[Path]:
    """One file per stem: the same table may lie there in several formats."""
    stems: dict[Path, Path] = {}
    for path in sorted(paths, key=lambda p: TABLES.index(p.suffix)):
        stems.setdefault(path.with_suffix(""), path)
    return sorted(stems.values())


def vlmevalkit(root: Path, tasks: Mapping[str, tuple[str, str, str]]) -> list[Result]:
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
        own = text.figure(rows[0][column], f"{path}, field {column!r}")
        found.append(Result(task, own, read_table(table), [path, table], {"table": table.name}))
    return found


# --------------------------------------------------------------------------------------------- from answers to rows


@dataclass(frozen=True)
class Row:
    """One value of a benchmark: an image of MME, a question elsewhere; ``value`` None where only the harness's language
    model knows whether the answer is right."""

    id: str
    cluster: str
    group: str | None
    value: float | None


@dataclass(frozen=True)
class Reading:
    """How a task's files become rows.  ``scale``: from the mean of the values to the reported number; ``own``: from the
    harness's number to ours; ``per_row``: questions that a row stands for."""

    suite: str
    rows: Callable[[list[Fields]], list[Row]]
    scale: float = 100.0
    own: float = 1.0
    per_row: int = 1


def _mme_rows(answers: Sequence[tuple[str, str, float]]) -> list[Row]:
    images = rules.mme_images(answer for answer in answers if answer[0] in rules.PERCEPTION)
    return [Row(f"{i.subtask}:{i.name}", i.name, i.subtask, i.score) for i in images]


def lmms_mme(rows: list[Fields]) -> list[Row]:
    """``mme_perception_score`` (older: ``mme_percetion_score``) of a sample: question_id, category, score."""
    names = ("mme_perception_score", "mme_percetion_score")
    told = [row.object(name) for row in rows for name in names if row.get(name)]
    return _mme_rows([(t["category"], str(t["question_id"]), as_score(t, "score")) for t in told])


def kit_mme(rows: list[Fields]) -> list[Row]:
    """The ``_auxmatch`` table: category, image_path, score."""
    return _mme_rows([(row["category"], str(row["image_path"]), as_score(row, "score")) for row in rows])


def _circular_rows(answers: Sequence[tuple[int, bool | None]]) -> list[Row]:
    found = rules.circular(answers)
    return [Row(str(q), str(q), None, None if right is None else float(right)) for q, right in found.items()]


def lmms_mmbench(rows: list[Fields]) -> list[Row]:
    """``gpt_eval_score`` of a sample: index, answer, prediction.  Answers without a clear letter stay unknown."""
    answers = []
    for row in rows:
        told = row.object("gpt_eval_score")
        named = rules.choice(str(told["prediction"]))
        answers.append((told.whole("index"), None if named is None else named == told["answer"]))
    return _circular_rows(answers)


def kit_mmbench(rows: list[Fields]) -> list[Row]:
    """The ``_result`` table: index, hit."""
    return _circular_rows([(row.whole("index"), as_score(row, "hit") == 1) for row in rows])


def lmms_scores(rows: list[Fields]) -> list[Row]:
    """``exact_match`` of a sample, and its image where the sample tells it."""
    image = [str((row.get("doc") or {}).get("image_id", row["doc_id"])) for row in rows]
    return [Row(str(r["doc_id"]), i, None, as_score(r, "exact_match")) for r, i in zip(rows, image, strict=True)]


def kit_choices(rows: list[Fields]) -> list[Row]:
    """A ``_result`` table: index, hit, and image_path where it has it."""
    return [Row(str(r["index"]), str(r.get("image_path") or r["index"]), None, as_score(r, "hit")) for r in rows]


def kit_textvqa(rows: list[Fields]) -> list[Row]:
    """The prediction table: index, prediction, answer (a list of ten, as text)."""
    found = []
    for row in rows:
        told = row["answer"] if isinstance(row["answer"], list) else ast.literal_eval(str(row["answer"]))
        answers = [rules.normalized(str(answer)) for answer in told]
        score = rules.soft_accuracy(rules.normalized(str(row["prediction"])), answers)
        found.append(Row(str(row["index"]), str(row.get("image_path") or row["index"]), None, score))
    return found


_TEN = float(len(rules.PERCEPTION))
LMMS = {
    "mme": (Reading("MME-P", lmms_mme, _TEN, 1.0, 2), ("mme_perception_score", "mme_percetion_score")),
    "mmbench_en_dev": (Reading("MMBench-EN", lmms_mmbench), ("gpt_eval_score",)),
    "mmbench_en_dev_static": (Reading("MMBench-EN", lmms_mmbench), ("gpt_eval_score",)),
    "ai2d": (Reading("AI2D", lmms_scores, 100.0, 100.0), ("exact_match",)),
    "ai2d_no_mask": (Reading("AI2D", lmms_scores, 100.0, 100.0), ("exact_match",)),
    "textvqa_val": (Reading("TextVQA", lmms_scores, 100.0, 100.0), ("exact_match",)),
}
KIT = {
    "MME": (Reading("MME-P", kit_mme, _TEN, 1.0, 2), ("_score", "perception", "_auxmatch")),
    "MMBench_DEV_EN": (Reading("MMBench-EN", kit_mmbench, 100.0, 100.0), ("_acc", "Overall", "_*_result")),
    "MMBench_DEV_EN_V11": (Reading("MMBench-EN", kit_mmbench, 100.0, 100.0), ("_acc", "Overall", "_*_result")),
    "AI2D_TEST": (Reading("AI2D", kit_choices, 100.0, 100.0), ("_acc", "Overall", "_*_result")),
    "AI2D_TEST_NO_MASK": (Reading("AI2D", kit_choices, 100.0, 100.0), ("_acc", "Overall", "_*_result")),
    "TextVQA_VAL": (Reading("TextVQA", kit_textvqa), ("_acc", "Overall", "")),
}


def _checked(found: Result, reading: Reading) -> list[Row]:
    """The rows of a benchmark.  Raises ValueError where they are broken or do not give the harness's own number."""
    try:
        rows = reading.rows(found.rows)
    except (KeyError, TypeError, AttributeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"{found.files[-1]} is not as the harness writes it: {error!r}") from error
    except ValueError as error:
        where = "" if str(error).startswith(str(found.files[-1])) else f"{found.files[-1]}: "
        raise ValueError(f"{where}{error}; give the file as the harness wrote it") from error
    if not rows:
        raise ValueError(f"{found.files[-1]} holds no answers of {reading.suite}")
    own = found.own * reading.own
    low, high = (_mean(rows, unknown) * reading.scale for unknown in (0.0, 1.0))
    slack = CLOSE * (2000 / 100 if reading.suite == "MME-P" else 1)
    if not low - slack <= own <= high + slack:
        ours = f"{low:.4f}" if low == high else f"{low:.4f} to {high:.4f}"
        raise ValueError(
            f"{found.task}: {found.files[-1].name} gives {ours}, but {found.files[0].name} reports {own:.4f}; these "
            f"files are not of one run, or this version of the harness computes something else"
        )
    return rows


def _mean(rows: Sequence[Row], unknown: float) -> float:
    """Mean over groups of the mean of values; ``unknown`` stands in where there is none."""
    groups: dict[str | None, list[float]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(unknown if row.value is None else row.value)
    return sum(sum(values) / len(values) for values in groups.values()) / len(groups)


def _protocol(harness: str, version: str, found: Result) -> str:
    """``<harness>/<version>/<task>/<hash of the prompt settings>``."""
    settings = {name: found.params.get(name) for name in ("prompt", "generation", "filter")}
    return f"{harness}/{label(version)}/{found.task}/{files.digest_json(settings)[:8]}"


def _measures(rows: list[Row], reading: Reading, found: Result) -> dict[str, Measure]:
    """Metric -> Measure: the benchmark's number and, for MME, one for each sub-task."""
    questions = len(rows) * reading.per_row
    whole = max(questions, EXPECTED.get(found.task, 0))
    note = None if found.task in EXPECTED else f"how many questions {found.task} has is not known: taken as whole"
    groups = sorted({row.group for row in rows if row.group})
    if groups and len(groups) < len(rules.PERCEPTION):
        raise ValueError(f"{found.files[-1]} has {len(groups)} of MME's {len(rules.PERCEPTION)} perception sub-tasks")
    shared = {"n": questions, "asked": questions, "n_expected": whole, "unit": "of 2000" if groups else "of 100"}
    extra = {"reported": round(found.own * reading.own, 6), "files": [p.name for p in found.files]}

    def measure(metric: str, part: list[Row], **more: Any) -> Measure:
        return Measure(
            metric=metric,
            values=[row.value for row in part],
            clusters=[row.cluster for row in part],
            ids=[row.id for row in part],
            note=note,
            **{**shared, **more},
        )

    named = [row.group for row in rows] if groups else None
    main = METRICS[reading.suite]
    every = {main: measure(main, rows, groups=named, scale=reading.scale, extra=extra)}
    for group in groups:
        part = [row for row in rows if row.group == group]
        count = {"n": 2 * len(part), "asked": 2 * len(part), "n_expected": 2 * len(part), "unit": "of 200"}
        every[f"mme-{group}"] = measure(f"mme-{group}", part, **count)
    return every


def _as_reported(rows: list[Row], reading: Reading, found: Result) -> Estimate:
    """The harness's number, where its language model judged some answers: no interval can be computed from samples."""
    unknown = sum(row.value is None for row in rows)
    low, high = (_mean(rows, value) * reading.scale for value in (0.0, 1.0))
    return Estimate(
        metric=METRICS[reading.suite],
        estimate=plain(round(found.own * reading.own, 12)),
        unit="of 100",
        n=len(rows),
        asked=len(rows),
        n_expected=max(len(rows), EXPECTED.get(found.task, 0)),
        note=f"no interval: {unknown} answers were judged by the harness's language model, untold in its samples",
        extra={"unknown": unknown, "possible": [round(low, 6), round(high, 6)], "files": [p.name for p in found.files]},
    )


def _refuse_other(records: Path, model: str, suite: str, protocol: str) -> None:
    """Raises ValueError where another protocol's number has the place: it must not vanish in silence."""
    place = records / record.folder_name(model) / suite / f"{METRICS[suite]}.json"
    if place.is_file():
        there = Fields.of(text.read_json(place), str(place)).get("protocol")
        if there != protocol:
            raise ValueError(f"{place} holds {there}, which is not {protocol}; remove it, or import with another --out")


def _import(
    found: Result, reading: Reading, harness: str, version: str, model: str, work: Path, records: Path
) -> Outcome:
    """The records of one benchmark."""
    protocol = _protocol(harness, version, found)
    _refuse_other(records, model, reading.suite, protocol)
    rows = _checked(found, reading)
    content = files.digest_json([files.digest_file(path) for path in found.files])
    parts = {"import": VERSION, "content": content, "protocol": protocol, "model": model, "task": found.task}
    if all(row.value is not None for row in rows):
        measures = _measures(rows, reading, found)
    else:
        measures = {METRICS[reading.suite]: _as_reported(rows, reading, found)}
    keys = {metric: record.make_key(**parts, metric=metric) for metric in measures}
    kept = stored(records, model, reading.suite, keys, work=work)
    if len(kept) == len(keys):
        return write(records, keys, kept)
    evidence = Path("understanding") / label(model) / f"{reading.suite}.jsonl"
    lines = [json.dumps({"id": r.id, "cluster": r.cluster, "group": r.group, "value": r.value}) + "\n" for r in rows]
    files.write_text(work / evidence, "".join(lines))
    common = {
        "subject": model,
        "suite": reading.suite,
        "protocol": protocol,
        "protocol_params": {"harness": harness, "version": version, "task": found.task, **found.params},
        "fingerprint": content,
        "origin": record.place(*found.files, named=True),
        "suite_hash": files.digest_json([harness, version, found.task, sorted(row.id for row in rows)]),
        "evidence": evidence.as_posix(),
    }
    return write(records, keys, kept, measures, common, work=work)


def run(
    results: str | Path,
    *,
    harness: str,
    model: str,
    work: str | Path,
    records: str | Path,
    version: str | None = None,
) -> Outcome:
    """Import what ``results`` holds of the four benchmarks: records ``<model>/<benchmark>/accuracy``, for MME
    ``mme-perception`` and one a sub-task.

    ``results``: lmms-eval's ``*_results.json`` or a folder with one, or VLMEvalKit's folder of one model; ``version``:
    of the harness, where its files do not tell it.  Raises ValueError for another harness, an unknown version, files
    that are absent or broken, and for numbers that the samples do not give."""
    if harness not in HARNESSES:
        raise ValueError(f"--from {harness!r} is unknown; choose {' or '.join(HARNESSES)}")
    root = Path(results)
    if not root.exists():
        raise ValueError(f"{root} does not exist; give the results that {harness} wrote")
    table = LMMS if harness == "lmms-eval" else KIT
    asked = {task: how for task, (_, how) in table.items()}
    if harness == "lmms-eval":
        told, found = lmms_eval(root, asked)
    else:
        told, found = _eval_id(root), vlmevalkit(root, asked)
    version = version or told
    if version is None:
        raise ValueError(f"{root} does not say which version of {harness} wrote it; give --harness-version")
    if not found:
        raise ValueError(f"{root} has none of the tasks {', '.join(table)}")
    suites = [table[each.task][0].suite for each in found]
    twice = next((suite for suite in suites if suites.count(suite) > 1), None)
    if twice:
        tasks = [each.task for each in found if table[each.task][0].suite == twice]
        raise ValueError(f"{root} has {twice} as {' and '.join(tasks)}; import the one of them that is meant")
    each = [_import(f, table[f.task][0], harness, version, model, Path(work), Path(records)) for f in found]
    return sum(each, Outcome.none())


def _eval_id(root: Path) -> str | None:
    """VLMEvalKit's commit, where the folder carries its run id ("T20250102_Gabcdef12")."""
    ids = [re.fullmatch(r"T\d{8}_(G\w+)", part) for part in root.resolve().parts]
    return next((found[1] for found in reversed(ids) if found), None)


# ------------------------------------------------------------------------------------------------ the command line

EXAMPLE = "vgt eval understanding --import logs/model --from lmms-eval --model vgt_internvl"


class Options(options.Common):
    results: Path | None = option(
        None, "results file or folder that the harness wrote", flag="--import", metavar="RESULTS"
    )
    harness: str = option("lmms-eval", "lmms-eval or vlmevalkit", flag="--from", metavar="HARNESS", type=str.lower)
    model: str | None = option(None, "the name that the records carry (the same as --name)")
    version: str | None = option(None, "where the files do not tell it", flag="--harness-version", metavar="VERSION")


def evaluate(given: Options) -> Outcome:
    if given.model and given.name:
        raise ValueError("--model and --name are the same; give one of them")
    model = given.model or given.name
    for flag, value in (("--import", given.results), ("--model", model)):
        if not value:
            raise ValueError(f"{flag} is missing; for example {EXAMPLE}")
    given.refuse("files of another harness are read", "seed", "device")
    return run(given.results, **given.passed_to(run, model=record.checked_name(model)))
