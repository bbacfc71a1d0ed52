"""GenEval from files alone: stored evidence scored again, official results imported, two judges compared."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from coco_judge import Scripted
from parity.rules import random_image
from PIL import Image
from sklearn.metrics import cohen_kappa_score

from evals.agreement import run as agreement
from evals.engine.store import Shard, read_rows, row_line
from evals.geneval import official
from evals.geneval import run as geneval
from evals.geneval.rules import OFFICIAL as OFFICIAL_RULES
from evals.geneval.rules import Thresholds, check_prompts
from evals.judges.analytic import AnalyticJudge
from evals.subjects import fake
from evals.subjects.folder import folder
from vgt.__main__ import main
from vgt.core import geneval_prompts, record, samples, suites
from vgt.core.scenes import COLORS, TASKS

OFFICIAL = geneval_prompts.prompts()
SMALL = suites.geneval_prompts(per_task=2)


def official_file(path, seed: int = 0, images_per_prompt: int = 4, prompts=OFFICIAL) -> list[dict]:
    """A results file as the official scorer would write it, of random detections."""
    rng = np.random.default_rng(seed)
    lines = []
    for index, prompt in enumerate(prompts):
        for sample in range(images_per_prompt):
            stored = [
                {"class": name, "score": score, "box": list(box), "color": color}
                for name, score, box, color in random_image(prompt, rng)
            ]
            name = f"outputs/sdxl/{index:05d}/samples/{sample:05d}.png"
            lines.append(official.result(name, prompt, {"detections": stored}))
    path.write_text(official.to_lines(lines))
    return lines


def values(outcome) -> dict:
    return {r.metric: (r.value, r.low, r.high, r.n) for r in outcome.records}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """An official file of all 2,212 images, its lines, and the outcome of its import."""
    root = tmp_path_factory.mktemp("import")
    lines = official_file(root / "results.jsonl")
    options = {"work": root, "records": root / "records", "suite": "geneval", "prompts": OFFICIAL}
    return root, lines, geneval.import_results(root / "results.jsonl", subject="sdxl", **options)


# --------------------------------------------------------------------------------------------------------- import


def test_import_scores_the_boxes_again(imported):
    root, lines, outcome = imported
    scores = {r.metric: r for r in outcome.records}
    shares = [np.mean([x["correct"] for x in lines if x["tag"] == task]) for task in TASKS]
    assert scores["overall"].value == pytest.approx(np.mean(shares), abs=1e-12) and 0.3 < np.mean(shares) < 0.9
    assert [scores[task].value for task in TASKS] == pytest.approx(shares, abs=1e-12)
    overall = scores["overall"]
    assert (overall.name, overall.protocol) == ("sdxl/geneval/overall", "geneval[m2f-mmdet]")
    assert (overall.n, overall.n_expected, overall.partial) == (2212, 2212, False)
    assert overall.judge.startswith("official:m2f-mmdet ") and overall.protocol_params["prompt_variant"] == "official"
    assert "0 of 2212 verdicts differ" in overall.note and "colors as its reasons tell" in overall.note
    kept = samples.read(root / "records", overall)
    assert len(kept.ids) == 2212 and kept.ids[5] == "00001/0001" and set(kept.groups) == set(TASKS)
    assert len(samples.read(root / "records", scores["prompts-any"]).ids) == 553


def test_colors_come_from_the_reasons():
    prompt = next(p for p in OFFICIAL if p["tag"] == "color_attr")
    (a, b), wanted = prompt["include"], [c["color"] for c in prompt["include"]]
    other = next(c for c in COLORS if c not in wanted)
    reason = f"expected {wanted[1]} {b['class']}>=1, found 0 {wanted[1]}; and 1 {other}"
    told = official.told_colors(prompt, reason, {a["class"]: 2, b["class"]: 1})
    assert told == {a["class"]: [wanted[0], None], b["class"]: [other]}


def test_an_import_can_be_tightened_but_not_loosened(imported):
    root, _, outcome = imported
    stored = (root / outcome.records[0].evidence).parent
    options = {"work": root, "records": root / "records"}
    again = geneval.rescore(stored, **options)
    assert (again.computed, again.reused) == (0, len(outcome.records))
    strict = geneval.rescore(stored, rules=Thresholds(threshold=0.8), **options)
    first = strict.records[0]
    assert first.name == "sdxl/geneval+threshold0.8/overall" and first.protocol == "geneval-variant"
    assert first.value < outcome.records[0].value and first.protocol_params["threshold"] == 0.8
    assert (stored / "results+threshold0.8.jsonl").is_file()
    with pytest.raises(ValueError, match="threshold 0.2 is below 0.3"):
        geneval.rescore(stored, rules=Thresholds(threshold=0.2), **options)


def test_broken_official_files_are_refused(imported, tmp_path):
    root, lines, _ = imported
    options = {"work": tmp_path, "records": tmp_path / "records", "suite": "geneval", "prompts": OFFICIAL}

    def refused(changed: list[dict] | str, match: str):
        text = changed if isinstance(changed, str) else official.to_lines(changed)
        (tmp_path / "r.jsonl").write_text(text)
        with pytest.raises(ValueError, match=match):
            geneval.import_results(tmp_path / "r.jsonl", **options)

    refused([lines[0], lines[0]], "line 2: .* comes twice")
    refused([{**lines[0], "filename": "a/00553/samples/0000.png"}], "none of the 553 x 4 images")
    refused([{**lines[0], "filename": "cat.png"}], "none of the 553 x 4")
    refused([{**lines[0], "filename": lines[4]["filename"]}], "is not number 1 of suite 'geneval'")
    refused([{k: v for k, v in lines[0].items() if k != "details"}], "line 1: the field 'details' is missing")
    refused("{not json", "line 1: not valid JSON")
    refused([{**lines[0], "details": "{'cat': 1"}], "line 1, field 'details': not valid JSON")
    refused(
        [{**lines[0], "details": '{"cat": [[1, 2, 3, 4]]}'}],
        "line 1, field 'details', class 'cat': .*not .x1, y1, x2, y2, score",
    )
    with pytest.raises(ValueError, match="does not exist"):
        geneval.import_results(tmp_path / "absent.jsonl", **options)


BOX = '{"bench": [[%s, %s]]}'


@pytest.mark.parametrize(
    "changed, fault",
    [
        ({"correct": "true"}, "'correct': 'true' is not true or false"),
        ({"correct": None}, "'correct': None is not true or false"),
        ({"correct": 1}, "'correct': 1 is not true or false"),
        ({"correct": float("nan")}, "'correct': nan is not true or false"),
        ({"filename": None}, "'filename': None is not text"),
        ({"tag": 3}, "'tag': 3 is not text"),
        ({"reason": ["x"]}, "'reason': .'x'. is not text"),
        ({"metadata": "[]"}, "'metadata': .. is no JSON object"),
        ({"details": "[]"}, "'details': .. is no JSON object"),
        ({"details": None}, "'details': None is no JSON object"),
        ({"details": '{"bench": 5}'}, "class 'bench': 5 is not .x1"),
        ({"details": BOX % ("0, 0, 9, 9", "NaN")}, "score of .*: nan is not a finite number"),
        ({"details": BOX % ("0, 0, 9, 9", "1e999")}, "score of .*: inf is not a finite number"),
        ({"details": BOX % ("0, 0, 9, 9", "1.5")}, "score of .*: 1.5 is outside 0..1"),
        ({"details": BOX % ("0, 0, 9, 9", "-0.5")}, "score of .*: -0.5 is outside 0..1"),
        ({"details": BOX % ("0, 0, 9, 9", '"0.5"')}, "score of .*: '0.5' is not a finite number"),
        ({"details": BOX % ("0, 0, 9, 9", "true")}, "score of .*: True is not a finite number"),
        ({"details": BOX % ("0, 0, Infinity, 9", "0.5")}, "box .*: inf is not a finite number"),
        ({"details": BOX % ("-5, 0, 9, 9", "0.5")}, "box .*: -5 is outside 0..100000"),
        ({"details": BOX % ("0, 0, 1e12, 9", "0.5")}, "box .*: 1000000000000.0 is outside 0..100000"),
        ({"details": BOX % ("9, 0, 0, 9", "0.5")}, "the box .9, 0, 0, 9. ends before it begins"),
        ({"details": "[" * 9999 + "]" * 9999}, "'details': nested more than 100 levels deep"),
    ],
)
def test_values_of_official_files_are_checked(imported, tmp_path, changed, fault):
    (tmp_path / "r.jsonl").write_text("\n" + json.dumps({**imported[1][0], **changed}) + "\n")
    options = {"work": tmp_path, "records": tmp_path / "records", "suite": "geneval", "prompts": OFFICIAL}
    with pytest.raises(ValueError, match=f"r.jsonl, line 2, field .*{fault}.*give the official scorer"):
        geneval.import_results(tmp_path / "r.jsonl", **options)


@pytest.mark.parametrize(
    "changed, fault",
    [
        ({"tag": "counting"}, "'tag': 'counting' is not 'colors'"),
        ({"prompt": "zzz"}, "'prompt': 'zzz' is not 'a photo of"),
        ({"reason": "0 red; and banana"}, "'reason': 'banana' does not name colors"),
        ({"reason": "0 red; and x red"}, "'reason': 'x red' does not name colors"),
        ({"reason": "0 red; and -5 red"}, "'reason': '-5 red' does not name colors"),
        ({"reason": "0 red; and 1 red; and 1 red"}, "'reason': '1 red; and 1 red' does not name colors"),
        ({"reason": "0 red; and 1 mauve"}, "'reason': 'mauve' is not one of red"),
        ({"reason": "0 red; and 100000000 red"}, "'reason': '100000000 red' are more colors than the 1 boxes"),
        ({"reason": "0 red; and 1000000000 red"}, "'reason': '1000000000 red' does not name colors"),
        ({"filename": "x/" + "0" * 5000 + "/samples/0000.png"}, "'filename': 'x/0+... is none of the 553 x 4"),
        ({"filename": "x/\u0660/samples/0000.png"}, "'filename': .* is none of the 553 x 4"),
        ({"filename": "x/00000/samples/0000.png\n"}, "'filename': .* is none of the 553 x 4"),
    ],
)
def test_what_a_line_says_beside_its_boxes_is_checked(imported, tmp_path, changed, fault):
    line = next(line for line in imported[1] if line["tag"] == "colors")
    clause = json.loads(line["metadata"])["include"][0]
    details = json.dumps({clause["class"]: [[0, 0, 9, 9, 0.9]]})
    if "reason" in changed:
        head = f"expected {clause['color']} {clause['class']}>={clause['count']}, found "
        changed = {"reason": head + changed["reason"], "correct": False}
    (tmp_path / "r.jsonl").write_text("\n" + json.dumps({**line, "details": details, **changed}) + "\n")
    options = {"work": tmp_path, "records": tmp_path / "records", "suite": "geneval", "prompts": OFFICIAL}
    with pytest.raises(ValueError, match=f"r.jsonl, line 2, field {fault}"):
        geneval.import_results(tmp_path / "r.jsonl", **options)


def test_a_file_as_other_programs_save_it_is_the_same_file(imported, tmp_path):
    """A byte order mark, Windows' line ends, blank lines, a reason that became null."""
    lines = [{**line, "reason": line["reason"] or None} for line in imported[1]]
    content = "\r\n".join(["", *(json.dumps(line) for line in lines), "", ""])
    (tmp_path / "r.jsonl").write_bytes(b"\xef\xbb\xbf" + content.encode())
    options = {"work": tmp_path, "records": tmp_path / "records", "suite": "geneval", "prompts": OFFICIAL}
    assert values(geneval.import_results(tmp_path / "r.jsonl", **options)) == values(imported[2])


def test_an_import_keeps_the_order_of_equal_scores():
    """The line names its best box first; read back, the rules must take the same one."""
    prompt = {"tag": "colors", "include": [{"class": "star", "count": 1, "color": "red"}], "prompt": "a red star"}
    boxes = [[0, 0, 9, 9, 0.5], [20, 0, 29, 9, 0.5], [40, 0, 49, 9, 0.4]]
    again = official.result("x", prompt, official.row_of(prompt, {"details": {"star": boxes}, "reason": ""}))
    assert json.loads(again["details"]) == {"star": boxes} and again["correct"]


def test_verdicts_that_are_not_those_of_the_boxes_are_refused(imported, tmp_path, capsys):
    """Rows that lost their boxes would score 0 though most call themselves right."""
    path = tmp_path / "r.jsonl"
    right = [k % 5 < 3 for k in range(len(imported[1]))]
    lines = [{**x, "correct": r, "reason": "", "details": "{}"} for x, r in zip(imported[1], right, strict=True)]
    path.write_text(official.to_lines(lines))
    shares = [np.mean([r for x, r in zip(lines, right, strict=True) if x["tag"] == task]) for task in TASKS]
    assert main(["eval", "geneval", "-o", str(tmp_path / "w"), "--import", str(path)]) == 2
    told = capsys.readouterr().err
    assert f"give {np.mean(shares):.4f} overall, its boxes 0.0000; 1328 of 2212 verdicts differ" in told
    assert "line 1: right there, wrong by the boxes (expected bench>=1, found 0)" in told
    assert "1328 images are called right without a box" in told and told.count("\n") == 1
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "task, settings, doubt",
    [
        (None, {"threshold": 0.6}, "none of .* boxes scores below 0.6.*, as with a higher threshold than 0.3"),
        ("counting", {"counting_threshold": 0.95}, "none of .* as with a higher counting_threshold than 0.9"),
        (None, {"threshold": 0.25, "counting_threshold": 0.3}, "boxes score 0.9 or less, as with a lower counting_"),
    ],
)
def test_other_thresholds_are_doubted_aloud(tmp_path, capsys, task, settings, doubt):
    """``random_image`` scores evenly from 0.25 (0.85 in counting) up; only what the settings keep is in the file."""
    rng, lines = np.random.default_rng(0), []
    prompts = [p for p in OFFICIAL if task in (None, p["tag"])][:: 1 if task else 3]
    for index, prompt in enumerate(prompts):
        for sample in range(4):
            found = random_image(prompt, rng)
            stored = [{"class": n, "score": s, "box": list(b), "color": c} for n, s, b, c in found]
            name = f"{index:05d}/samples/{sample}.png"
            lines.append(official.result(name, prompt, {"detections": stored}, Thresholds(**settings)))
    (tmp_path / "r.jsonl").write_text(official.to_lines(lines))
    options = {"work": tmp_path, "records": tmp_path / "records", "suite": "mine", "prompts": prompts}
    if settings.get("threshold", 1) < 0.3:  # what passed there does not pass here
        with pytest.raises(ValueError, match=f"verdicts differ.*{doubt}"):
            geneval.import_results(tmp_path / "r.jsonl", **options)
        return
    outcome = geneval.import_results(tmp_path / "r.jsonl", **options)
    assert re.search(f"doubtful: {doubt}", outcome.records[0].note)
    told = capsys.readouterr().err
    assert re.search(f"warning: .*r.jsonl was probably not judged with the official settings: {doubt}", told)


def test_verdicts_of_one_rule_with_another_setting_are_doubted_aloud(imported, tmp_path, capsys):
    """Every verdict of one task turned over, boxes kept; the boxes decide, and both scores are told."""
    lines = [{**x, "correct": not x["correct"]} if x["tag"] == "position" else x for x in imported[1]]
    there = [x for x in lines if any(json.loads(x["details"]).values()) or x["tag"] != "position" or not x["correct"]]
    (tmp_path / "r.jsonl").write_text(official.to_lines(there))
    options = {"work": tmp_path, "records": tmp_path / "records", "suite": "geneval", "prompts": OFFICIAL}
    note = geneval.import_results(tmp_path / "r.jsonl", partial_ok=True, **options).records[0].note
    doubt = "doubtful: its own verdicts give .* overall, its boxes .* verdicts differ, all in position, as with another"
    assert re.search(doubt, note) and "all in position" in capsys.readouterr().err


def test_the_command_says_a_doubt_once(tmp_path, capsys):
    """Not in every line of its results; each record keeps it."""
    prompt = {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a photo of a cat"}
    (tmp_path / "suite.jsonl").write_text(json.dumps(prompt) + "\n")
    boxes = [{"class": "cat", "score": 0.35 + k / 100, "box": [0, 0, 9, 9], "color": None} for k in range(17)]
    lines = [
        official.result(f"00000/samples/{k:04d}.png", prompt, {"detections": boxes}, Thresholds(max_objects=17))
        for k in range(4)
    ]
    (tmp_path / "r.jsonl").write_text(official.to_lines(lines))
    argv = [
        "--suite",
        str(tmp_path / "suite.jsonl"),
        "--import",
        str(tmp_path / "r.jsonl"),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(["eval", "geneval", *argv]) == 0
    out, err = capsys.readouterr()
    doubt = "17 boxes of one class, as with a larger max_objects than 16"
    assert out.count(doubt) == 1 and err.count(doubt) == 1 and out.count("judged elsewhere") == 1
    assert out.count("any of 4 images") == 1
    made = list((tmp_path / "o" / "records").rglob("*.json"))
    notes = [record.read(path)[0].note for path in made]
    assert len(notes) > 2 and all(doubt in note for note in notes)


def test_official_settings_are_not_doubted(imported):
    assert "doubtful" not in imported[2].records[0].note
    many = [{"tag": "colors", "details": {"cat": [[0, 0, 9, 9, 0.31 + k / 100] for k in range(17)]}}]
    assert official.doubts(many) == ["17 boxes of one class, as with a larger max_objects than 16"]


def test_an_incomplete_import_withholds_its_values(imported, tmp_path):
    (tmp_path / "r.jsonl").write_text(official.to_lines(imported[1][1:]))
    options = {"work": tmp_path, "records": tmp_path / "records", "suite": "geneval", "prompts": OFFICIAL}
    scores = {r.metric: r for r in geneval.import_results(tmp_path / "r.jsonl", **options).records}
    assert scores["overall"].value is None and "2211 of 2212" in scores["overall"].note
    assert scores["counting"].value is not None and scores["single_object"].value is None


def test_verdicts_that_differ_are_counted(imported, tmp_path):
    lines = [dict(line) for line in imported[1]]
    lines[7]["correct"] = not lines[7]["correct"]
    (tmp_path / "r.jsonl").write_text(official.to_lines(lines))
    options = {"work": tmp_path, "records": tmp_path / "records", "suite": "geneval", "prompts": OFFICIAL}
    assert "1 of 2212 verdicts differ" in geneval.import_results(tmp_path / "r.jsonl", **options).records[0].note


# ------------------------------------------------------------------------------------------------------ rescoring


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A small run of the oracle: its root, outcome and evidence folder."""
    root = tmp_path_factory.mktemp("judged")
    options = {"work": root, "records": root / "records", "suite": "scenes-geneval", "prompts": SMALL, "batch": 8}
    outcome = geneval.run(fake.Oracle(), AnalyticJudge(), **options)
    return root, outcome, (root / outcome.records[0].evidence).parent


def test_rescoring_gives_the_very_records(judged, tmp_path, monkeypatch):
    root, outcome, stored = judged
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for name in ("detections.run.json", "detections.jsonl"):
        shutil.copy(stored / name, copy)
    again = geneval.rescore(copy, work=tmp_path, records=tmp_path / "records")
    assert values(again) == values(outcome) and [r.key for r in again.records] == [r.key for r in outcome.records]
    assert (copy / "results.jsonl").read_bytes() == (stored / "results.jsonl").read_bytes()
    assert again.records[0].protocol_params == outcome.records[0].protocol_params
    lines = (stored / "detections.jsonl").read_text().splitlines(keepends=True)
    rows = [{**row, "detections": []} for row in read_rows(stored / "detections.jsonl")]
    (copy / "detections.jsonl").write_text("".join(map(row_line, rows)))  # of the same run, but other ones
    other = geneval.rescore(copy, work=tmp_path, records=tmp_path / "records")
    assert other.reused == 0 and values(other) != values(outcome)
    monkeypatch.chdir(copy)  # a path that is not below the work folder, and relative
    others = [geneval.rescore(".", work="../out", records="../out/records") for _ in range(2)]
    assert others[0].reused == others[1].computed == 0 and values(others[1]) == values(other)
    (copy / "detections.jsonl").write_text("".join(lines[:20]))
    with pytest.raises(ValueError, match=r"28 of 48 images have no row, the first \d+/samples"):
        geneval.rescore(copy, work=tmp_path, records=tmp_path / "records")
    rows = [json.loads(line) for line in lines]
    del rows[2]["check"]
    (copy / "detections.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="line 3: its hash, the field 'check', is missing; evaluate again"):
        geneval.rescore(copy, work=tmp_path, records=tmp_path / "records")
    (copy / "detections.run.json").unlink()
    with pytest.raises(ValueError, match="holds no finished judging"):
        geneval.rescore(copy, work=tmp_path, records=tmp_path / "records")


@pytest.mark.parametrize(
    "detection, fault",
    [
        ({"score": float("nan")}, "field 'score': nan is not a finite number"),
        ({"score": 2}, "field 'score': 2 is outside 0..1"),
        ({"score": "high"}, "field 'score': 'high' is not a finite number"),
        ({"box": [0, 0, 9]}, "is not .x1, y1, x2, y2"),
        ({"box": [0, 0, 9, float("nan")]}, "nan is not a finite number"),
        ({"class": 5}, "field 'class': 5 is not text"),
        ({"color": "mauve"}, "field 'color': 'mauve' is not one of red"),
    ],
)
def test_stored_detections_are_checked(judged, tmp_path, detection, fault):
    shutil.copy(judged[2] / "detections.run.json", tmp_path)
    rows = read_rows(judged[2] / "detections.jsonl")
    rows[1]["detections"][0] |= detection
    (tmp_path / "detections.jsonl").write_text("".join(map(row_line, rows)))
    with pytest.raises(ValueError, match=f"detections.jsonl, line 2, .*{fault}"):
        geneval.rescore(tmp_path, work=tmp_path, records=tmp_path / "records")
    (tmp_path / "detections.jsonl").write_text((judged[2] / "detections.jsonl").read_text()[:-9])
    with pytest.raises(ValueError, match="detections.jsonl, line 48: not valid JSON"):
        geneval.rescore(tmp_path, work=tmp_path, records=tmp_path / "records")


def test_other_thresholds_are_another_suite(judged):
    root, outcome, stored = judged
    rules = Thresholds(threshold=0.999999, counting_threshold=1.0)
    strict = geneval.rescore(stored, work=root, records=root / "records", rules=rules)
    assert {r.suite for r in strict.records} == {"scenes-geneval+threshold0.999999,counting_threshold1"}
    assert strict.records[0].value < outcome.records[0].value
    assert geneval.rescore(stored, work=root, records=root / "records").reused == len(outcome.records)
    with pytest.raises(ValueError, match="outside 0..1"):
        Thresholds(threshold=3)


def test_shards_leave_what_one_process_leaves(judged, tmp_path):
    options = {
        "work": tmp_path,
        "records": tmp_path / "records",
        "suite": "scenes-geneval",
        "prompts": SMALL,
        "batch": 8,
    }
    for index in range(2):
        part = geneval.run(fake.Oracle(), AnalyticJudge(), **options, shard=Shard(index, 2))
        assert part.records == [] and not (tmp_path / "records").exists()
    outcome = geneval.run(fake.Oracle(), AnalyticJudge(), **options)
    assert values(outcome) == values(judged[1])
    out = (tmp_path / outcome.records[0].evidence).parent
    for name in ("detections.jsonl", "results.jsonl", "detections.run.json"):
        assert (out / name).read_bytes() == (judged[2] / name).read_bytes()


def test_samples_lie_beside_the_records(judged):
    root, outcome, _ = judged
    kept = samples.read(root / "records", outcome.records[0])
    assert len(kept.ids) == 48 and kept.ids[0] == f"{SMALL[0]['id']}/0000"
    assert np.mean([np.mean([v for v, g in zip(kept.values, kept.groups, strict=True) if g == t]) for t in TASKS]) == (
        pytest.approx(outcome.records[0].value)
    )


# ------------------------------------------------------------------------------------------------- prompt variants


def test_prompt_variants_are_named():
    rewritten = [{**p, "prompt": f"{p['prompt']}, sharp"} for p in OFFICIAL]
    assert geneval.prompt_variant("geneval", OFFICIAL) == "official"
    assert geneval.prompt_variant("geneval", OFFICIAL[::50]) == "official"  # a part, and so partial
    named = geneval.prompt_variant("mine", rewritten, "rewritten-by-x")
    assert named.startswith("rewritten-by-x:") and len(named) == len("rewritten-by-x:") + 12
    assert geneval.prompt_variant("s42", geneval_prompts.prompts(42)).startswith("s42:")
    for suite, prompts, name in (("geneval", rewritten, None), ("mine", rewritten, "official")):
        with pytest.raises(ValueError, match="are not GenEval's own"):
            geneval.prompt_variant(suite, prompts, name)
    with pytest.raises(ValueError, match="names GenEval's own prompts"):
        geneval.prompt_variant("geneval", OFFICIAL, "better")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"tag": None}, "no 'tag'"),
        ({"include": None}, "no 'include'"),
        ({"prompt": None}, "no 'prompt'"),
        ({"tag": "texture"}, "tag 'texture'"),
        ({"tag": ["counting"]}, "tag \\['counting'\\]"),
        ({"include": []}, "list of clauses"),
        ({"exclude": 3}, "3 as exclude"),
        ({"include": [{"class": "cat", "count": 1, "color": ["red"]}]}, "color \\['red'\\]"),
        ({"include": [{"count": 1}]}, "without a class"),
        ({"include": [{"class": "cat"}]}, "asks for None of 'cat'"),
        ({"include": [{"class": "cat", "count": 0}]}, "asks for 0 of 'cat'"),
        ({"include": [{"class": "cat", "count": 1, "color": "teal"}]}, "color 'teal'"),
        ({"include": [{"class": "cat", "count": 1, "position": ["above", 0]}]}, "an earlier clause"),
    ],
)
def test_prompt_records_that_cannot_be_scored(change, match):
    prompt = {k: v for k, v in {**OFFICIAL[3], **change}.items() if v is not None}
    with pytest.raises(ValueError, match=f"prompt 1.*{match}"):
        check_prompts("mine", [OFFICIAL[0], prompt])


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("[1, 2]", "mine.jsonl, line 1: .* is no JSON object"),
        ('{"tag": "single_object", "include": [{"class": "star", "count": 1}], "exclude": null, "prompt": "a star"}',
         "None as exclude"),
        ("[" * 9999, "mine.jsonl, line 1: nested more than"),
        ("", "has no prompts"),
    ],
)  # fmt: skip
def test_a_suite_file_that_is_none_is_one_line(line, match, tmp_path, capsys):
    (tmp_path / "mine.jsonl").write_text(line + "\n")
    argv = ["eval", "geneval", "--subject", "fake:oracle", "--suite", str(tmp_path / "mine.jsonl"), "--out"]
    assert main([*argv, str(tmp_path / "w"), "--device", "cpu"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert re.search(match, said), said


# ------------------------------------------------------------------------------------------------ bad images


def test_a_folder_of_coco_images(tmp_path):
    """A corrupt PNG, a missing sample and one too many are counted; the official layout is read and judged."""
    prompts = OFFICIAL[:2]
    for index, prompt in enumerate(prompts):
        (tmp_path / "images" / f"{index:05d}" / "samples").mkdir(parents=True)
        (tmp_path / "images" / f"{index:05d}" / "metadata.jsonl").write_text(json.dumps({**prompt, "more": 1}) + "\n")
        for sample in range(2):
            path = tmp_path / "images" / f"{index:05d}" / "samples" / f"{sample:05d}.png"
            Image.fromarray(np.full((8, 9, 3), 10 * index + sample, np.uint8)).save(path)
    judge = Scripted([(prompts[0]["include"][0]["class"], 0.5, (0, 0, 5, 5))])
    options = {"suite": "geneval", "prompts": prompts, "images_per_prompt": 2, "work": tmp_path}
    whole = geneval.run(folder(tmp_path / "images"), judge, records=tmp_path / "a", **options)
    assert {r.metric: r.value for r in whole.records}["images-correct"] == 0.5
    assert whole.records[0].protocol == "geneval[scripted]" and whole.records[0].n_expected == 320
    (tmp_path / "images/00000/samples/00000.png").write_bytes(b"\x89PNG broken")
    (tmp_path / "images/00001/samples/00001.png").unlink()
    bad = geneval.run(folder(tmp_path / "images"), judge, records=tmp_path / "b", **options)
    assert all(r.value is None and r.n == 2 and r.n_failed == 1 for r in bad.records)
    assert "00000/samples/00000.png" in bad.records[0].note


# -------------------------------------------------------------------------------------------------------- agreement


def test_agreement_of_two_judges(imported, tmp_path):
    root, lines, _ = imported
    rng = np.random.default_rng(0)
    other = [{**x, "correct": bool(x["correct"] ^ (rng.random() < 0.1))} for x in lines]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(x) + "\n" for x in other[::-1]))
    options = {"records": tmp_path / "records", "names": ("ours", None)}
    found = {r.metric: r for r in agreement.of_results(root / "results.jsonl", tmp_path / "b.jsonl", **options).records}
    assert set(found) == {"kappa", "agreement", "difference", *(f"kappa-{t}" for t in TASKS)}
    a, b = ([x["correct"] for x in told] for told in (lines, other))
    assert found["kappa"].value == pytest.approx(cohen_kappa_score(a, b), abs=1e-12)
    task = [i for i, x in enumerate(lines) if x["tag"] == "colors"]
    expected = cohen_kappa_score([a[i] for i in task], [b[i] for i in task])
    assert found["kappa-colors"].value == pytest.approx(expected, abs=1e-12)
    assert found["kappa-colors"].n == found["kappa-colors"].n_expected == 4 * 94
    for r in found.values():
        assert r.low <= r.value <= r.high and r.name.startswith("ours~b/agreement/") and not r.partial
    shares = [[np.mean([x["correct"] for x in told if x["tag"] == t]) for t in TASKS] for told in (lines, other)]
    assert found["difference"].value == pytest.approx(np.mean(shares[0]) - np.mean(shares[1]))
    assert len(samples.read(tmp_path / "records", found["difference"]).ids) == 2212
    again = agreement.of_results(root / "results.jsonl", tmp_path / "b.jsonl", **options)
    assert (again.computed, again.reused) == (0, len(found))


def test_kappa_bounds_hold_in_simulation():
    """The interval of kappa covers the true one in most of 60 draws with prompts that hang together."""
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth = np.repeat(rng.random(60) < 0.5, 4)
        a, b = (truth ^ (rng.random(240) < 0.1) for _ in range(2))
        names = [str(i // 4) for i in range(240)]
        pairs = agreement.Pairs([str(i) for i in range(240)], ["colors"] * 240, names, a, b, 240, True)
        interval = pairs.kappa(seed)
        covered += interval.low <= 0.64 <= interval.high  # p_o 0.82, p_e 0.5
    assert 51 <= covered <= 60


def test_judges_that_always_agree_have_no_kappa(imported, tmp_path):
    same = [{**x, "correct": True} for x in imported[1][:8]]
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in same))
    outcome = agreement.of_results(tmp_path / "a.jsonl", tmp_path / "b.jsonl", records=tmp_path / "records")
    found = {r.metric: r for r in outcome.records}
    assert found["kappa"].value is None and "not defined" in found["kappa"].note
    assert found["agreement"].value == 1.0 and found["agreement"].n_expected == 2212


def test_agreement_needs_the_same_images(imported, judged, tmp_path):
    root, lines, _ = imported
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(json.dumps(x) + "\n" for x in lines[:-1]))
    records = tmp_path / "records"
    outcome = agreement.of_results(root / "results.jsonl", fewer, records=records)
    assert all(r.value is None and r.n_failed == 1 for r in outcome.records)
    assert agreement.of_results(root / "results.jsonl", fewer, records=records, partial_ok=True).records[0].value == 1.0
    with pytest.raises(ValueError, match="other prompt sets"):
        agreement.of_results(root / "results.jsonl", judged[2] / "results.jsonl", records=records)
    other = tmp_path / "other"
    shutil.copytree(judged[2], other, ignore=shutil.ignore_patterns("0*"))
    same = agreement.of_results(judged[2] / "results.jsonl", other / "results.jsonl", records=records)
    assert "same images" not in (same.records[0].note or "")
    entries = read_rows(other / "detections.jsonl")
    entries[0]["image"] = "0" * 64
    (other / "detections.jsonl").write_text("".join(map(row_line, entries)))
    with pytest.raises(ValueError, match="another image"):
        agreement.pair(*(agreement.read_results(f / "results.jsonl") for f in (judged[2], other)))
    with pytest.raises(ValueError, match="line 1: .. is no JSON object"):
        fewer.write_text("[]\n")
        agreement.read_results(fewer)


# ----------------------------------------------------------------------------------------------------- command line


def test_command_line(imported, judged, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root, _, stored = judged
    shutil.copytree(stored, "work/geneval/stored")
    argv = ["eval", "geneval", "-o", "work"]
    assert main([*argv, "--rescore", "work/geneval/stored", "--max-objects", "1", "--export", "out.jsonl"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "oracle/scenes-geneval+max_objects1/counting" in told["scores"]
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 48
    assert main([*argv, "--import", str(imported[0] / "results.jsonl"), "--name", "sdxl"]) == 0
    assert "sdxl/geneval/overall" in capsys.readouterr().out
    results = str(stored / "results.jsonl")
    assert main(["eval", "agreement", "-o", "work", "--a", results, "--b", results, "--names", "a", "b"]) == 0
    assert "a~b/agreement/difference" in capsys.readouterr().out
    assert main([*argv, "--rescore", "nowhere"]) == 2 and "nowhere" in capsys.readouterr().err
    assert main([*argv, "--threshold", "7", "--rescore", "work/geneval/stored"]) == 2


def test_a_run_with_other_thresholds_takes_the_same_evidence(judged):
    root, _, stored = judged
    before = (stored / "detections.jsonl").stat().st_mtime_ns
    options = {"work": root, "records": root / "records", "suite": "scenes-geneval", "prompts": SMALL, "batch": 8}
    rules = replace(OFFICIAL_RULES, position_threshold=0.5)
    outcome = geneval.run(fake.Oracle(), AnalyticJudge(), **options, rules=rules)
    assert outcome.records[0].suite == "scenes-geneval+position_threshold0.5"
    assert (stored / "detections.jsonl").stat().st_mtime_ns == before


def test_sampling_settings_survive_rescoring(tmp_path):
    class Sampled(fake.Oracle):
        settings = (("steps", 3),)  # what dict() reads, as it reads a vgt: subject's Sampling

    options = {"work": tmp_path, "records": tmp_path / "a", "suite": "scenes-geneval", "prompts": SMALL[:2]}
    outcome = geneval.run(Sampled(), AnalyticJudge(), images_per_prompt=1, batch=2, **options)
    stored = (tmp_path / outcome.records[0].evidence).parent
    again = geneval.rescore(stored, work=tmp_path, records=tmp_path / "b")
    assert again.records[0].extra == outcome.records[0].extra and again.records[0].extra["settings"] == {"steps": 3}


@pytest.mark.parametrize(
    "argv, told",
    [
        (["--rescore", "x", "--subject", "fake:noise"], "--subject fake:noise would do nothing: --rescore scores"),
        (["--rescore", "x", "--suite", "geneval"], "--suite geneval would do nothing"),
        (["--rescore", "x", "-n", "3"], "-n 3 would do nothing"),
        (["--rescore", "x", "--guidance", "3"], "--guidance 3.0 would do nothing"),
        (["--rescore", "x", "--seed", "3"], "--seed 3 would do nothing"),
        (["--import", "x", "--judge", "m2f-hf"], "--judge m2f-hf would do nothing: the images of --import"),
        (["--import", "x", "--subject", "fake:noise"], "--subject fake:noise would do nothing"),
        (["--subject", "fake:noise", "--clip", "c"], "--clip c would do nothing: judge-analytic needs no weights"),
        (["--subject", "fake:noise", "--import-judge", "c"], "--import-judge c would do nothing"),
        (["--subject", "fake:noise", "--accel", "4"], "--accel 4 would do nothing: fake:noise is no vgt: checkpoint"),
        (["--subject", "folder:x", "--guidance", "3"], "image folder x does not exist"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, capsys, monkeypatch, argv, told):
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "geneval", *argv]) == 2
    assert told in (said := capsys.readouterr().err) and said.count("\n") == 1


def test_a_folder_is_looked_at_before_weights_are_asked_for(tmp_path, capsys, monkeypatch):
    """Counts, layout and missing prompts of a folder of the benchmark's images, on a machine without the judge."""
    monkeypatch.chdir(tmp_path)
    for index, prompt in enumerate(OFFICIAL[:3]):
        for sample in range(4 - index):
            path = tmp_path / f"images/{index:05d}/samples/{sample:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(path)
        (tmp_path / f"images/{index:05d}/metadata.jsonl").write_text(json.dumps(prompt))
    Image.new("RGB", (8, 8)).save(tmp_path / "images/00000/samples/0007.png")
    command = ["eval", "geneval", "--suite", "geneval", "--subject", "folder:images"]
    assert main(command) == 2
    note, weights = capsys.readouterr().err.splitlines()
    assert "9 of 2212 images are there, 550 prompts have none (00003, 00004, 00005 and 547 more)" in note
    assert "1 images are none that the suite asks for (00000/samples/0007.png)" in note and "withheld" in note
    assert "mask2former" in weights.lower()
    (tmp_path / "images/00001/metadata.jsonl").write_text(json.dumps(OFFICIAL[0]))
    assert main(command) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "is this another suite's?" in told


def test_agreement_says_what_is_in_the_place_of_its_files(tmp_path, capsys):
    (tmp_path / "r").mkdir()
    for name, told in (
        ("r", "is a folder, not a file; give a results.jsonl"),
        ("no", "does not exist; give a results"),
    ):
        path = str(tmp_path / name)
        assert main(["eval", "agreement", "--a", path, "--b", path]) == 2
        assert told in capsys.readouterr().err
    (tmp_path / "a.jsonl").write_text('{"filename": "x", "tag": "colors", "prompt": "p", "correct": "no"}\n')
    path = str(tmp_path / "a.jsonl")
    assert main(["eval", "agreement", "--a", path, "--b", path]) == 2
    assert "a.jsonl, line 1, field 'correct': 'no' is not true or false" in capsys.readouterr().err
    assert main(["eval", "agreement", "--a", path, "--b", path, "--seed", "3"]) == 2
    assert "--seed 3 would do nothing" in capsys.readouterr().err
