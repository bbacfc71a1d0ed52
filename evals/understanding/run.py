"""``vgt eval understanding``: benchmarks as other harnesses measured them (docs/evaluators.md 4).

MME-Perception, MMBench-EN, AI2D and TextVQA, imported from result files of lmms-eval or VLMEvalKit into records with
intervals of our own.

The value is computed again from the single answers and must be the one that the harness reports.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.engine import options
from evals.engine.options import option
from evals.engine.records import Estimate, Measure, Outcome, plain, stored, write
from evals.judges.answering import label
from evals.understanding import harnesses as harness_files
from evals.understanding import rules
from evals.understanding.harnesses import Found, truth
from vgt.core import files, record

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
    rows: Callable[[list[dict]], list[Row]]
    scale: float = 100.0
    own: float = 1.0
    per_row: int = 1


def _mme_rows(answers: Sequence[tuple[str, str, float]]) -> list[Row]:
    images = rules.mme_images(answer for answer in answers if answer[0] in rules.PERCEPTION)
    return [Row(f"{i.subtask}:{i.name}", i.name, i.subtask, i.score) for i in images]


def lmms_mme(rows: list[dict]) -> list[Row]:
    """``mme_perception_score`` (older: ``mme_percetion_score``) of a sample: question_id, category, score."""
    told = [row.get("mme_perception_score", row.get("mme_percetion_score")) for row in rows]
    return _mme_rows([(t["category"], str(t["question_id"]), truth(t["score"])) for t in told if t])


def kit_mme(rows: list[dict]) -> list[Row]:
    """The ``_auxmatch`` table: category, image_path, score."""
    return _mme_rows([(row["category"], str(row["image_path"]), truth(row["score"])) for row in rows])


def _circular_rows(answers: Sequence[tuple[int, bool | None]]) -> list[Row]:
    found = rules.circular(answers)
    return [Row(str(q), str(q), None, None if right is None else float(right)) for q, right in found.items()]


def lmms_mmbench(rows: list[dict]) -> list[Row]:
    """``gpt_eval_score`` of a sample: index, answer, prediction.  Answers without a clear letter stay unknown."""
    answers = []
    for row in rows:
        told = row["gpt_eval_score"]
        named = rules.choice(str(told["prediction"]))
        answers.append((int(told["index"]), None if named is None else named == told["answer"]))
    return _circular_rows(answers)


def kit_mmbench(rows: list[dict]) -> list[Row]:
    """The ``_result`` table: index, hit."""
    return _circular_rows([(int(float(row["index"])), truth(row["hit"]) == 1) for row in rows])


def lmms_scores(rows: list[dict]) -> list[Row]:
    """``exact_match`` of a sample, and its image where the sample tells it."""
    image = [str((row.get("doc") or {}).get("image_id", row["doc_id"])) for row in rows]
    return [Row(str(r["doc_id"]), i, None, truth(r["exact_match"])) for r, i in zip(rows, image, strict=True)]


def kit_choices(rows: list[dict]) -> list[Row]:
    """A ``_result`` table: index, hit, and image_path where it has it."""
    return [Row(str(r["index"]), str(r.get("image_path") or r["index"]), None, truth(r["hit"])) for r in rows]


def kit_textvqa(rows: list[dict]) -> list[Row]:
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


def _checked(found: Found, reading: Reading) -> list[Row]:
    """The rows of a benchmark.  Raises ValueError where they are broken or do not give the harness's own number."""
    try:
        rows = reading.rows(found.rows)
    except (KeyError, TypeError, SyntaxError) as error:
        raise ValueError(f"{found.files[-1]} is not as the harness writes it: {error!r}") from error
    except ValueError as error:
        raise ValueError(f"{found.files[-1]}: {error}") from error
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


def _protocol(harness: str, version: str, found: Found) -> str:
    """``<harness>/<version>/<task>/<hash of the prompt settings>``."""
    settings = {name: found.params.get(name) for name in ("prompt", "generation", "filter")}
    return f"{harness}/{label(version)}/{found.task}/{files.digest_json(settings)[:8]}"


def _measures(rows: list[Row], reading: Reading, found: Found) -> dict[str, Measure]:
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


def _as_reported(rows: list[Row], reading: Reading, found: Found) -> Estimate:
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
    place = records / model.replace(":", "-").replace("/", "_") / suite / f"{METRICS[suite]}.json"
    if place.is_file():
        there = json.loads(place.read_text(encoding="utf-8")).get("protocol")
        if there != protocol:
            raise ValueError(f"{place} holds {there}, which is not {protocol}; remove it, or import with another --out")


def _import(
    found: Found, reading: Reading, harness: str, version: str, model: str, work: Path, records: Path
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
    kept = stored(records, model, reading.suite, keys)
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
        "suite_hash": files.digest_json([harness, version, found.task, sorted(row.id for row in rows)]),
        "evidence": evidence.as_posix(),
    }
    return write(records, keys, kept, measures, common)


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
        told, found = harness_files.lmms_eval(root, asked)
    else:
        told, found = _eval_id(root), harness_files.vlmevalkit(root, asked)
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
    model: str | None = option(None, "the name that the records carry")
    version: str | None = option(None, "where the files do not tell it", flag="--harness-version", metavar="VERSION")


def evaluate(given: Options) -> Outcome:
    for flag, value in (("--import", given.results), ("--model", given.model)):
        if not value:
            raise ValueError(f"{flag} is missing; for example {EXAMPLE}")
    return run(given.results, **given.passed_to(run))
