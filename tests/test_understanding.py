"""Understanding benchmarks imported from other harnesses: definitions, readers, and what is refused."""

from __future__ import annotations

import csv
import json

import pytest

from evals.understanding import rules
from evals.understanding import run as understanding
from vgt.__main__ import main
from vgt.core import record, samples

# ----------------------------------------------------------------------------- definitions (docs/evaluators.md 8)


def test_mme_one_image():
    assert [i.score for i in rules.mme_images([("color", "a", 1), ("color", "a", 0)])] == [50]
    assert [i.score for i in rules.mme_images([("color", "a", 1), ("color", "a", 1)])] == [200]
    assert [i.score for i in rules.mme_images([("color", "a", 0), ("color", "a", 0)])] == [0]
    with pytest.raises(ValueError, match="image a of color has 1 questions"):
        rules.mme_images([("color", "a", 1)])


def test_ten_perfect_subtasks_give_two_thousand():
    answers = [(subtask, f"{n}", 1) for subtask in rules.PERCEPTION for n in range(3) for _ in range(2)]
    assert rules.mme_total(rules.mme_images(answers)) == 2000


@pytest.mark.parametrize(("matches", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_textvqa_leaves_each_answer_out(matches, score):
    assert rules.soft_accuracy("x", ["x"] * matches + ["y"] * (10 - matches)) == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "alike"),
    [("The Stop Sign.", "stop sign"), ("two", "2"), ("1,000", "1000"), ("dont walk", "don't walk"), ("3.5", "3.5"),
     ("coca-cola", "coca cola"), ("yes , please!", "yes please"), ("a\nb", "b")],
)  # fmt: skip
def test_answers_are_made_alike(text, alike):
    assert rules.normalized(text) == alike


def test_mmbench_wants_all_rotations():
    million = rules.ROTATION
    rows = [(5, True), (5 + million, True), (6, True), (6 + million, False), (7, None), (7 + million, True), (8, None)]
    assert rules.circular([*rows, (8 + million, False)]) == {5: True, 6: False, 7: None, 8: False}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("B", "B"), ("B.", "B"), ("(B) a cat", "B"), ("B: a cat", "B"), ("A cat on a mat", None), ("A. or B.", None),
     ("the second", None), ("", None), ("Because", None)],
)  # fmt: skip
def test_only_clear_choices_count(answer, letter):
    assert rules.choice(answer) == letter


# ------------------------------------------------------------------------------------------------------ lmms-eval

PROMPT = {"pre_prompt": "", "post_prompt": "\nAnswer the question using a single word or phrase."}


def mme_answers(images=3):
    """(sub-task, image, right): every third image has one wrong answer."""
    return [
        (subtask, f"{subtask}/{n}.png", float(not (n % 3 == 0 and second)))
        for subtask in (*rules.PERCEPTION, "code_reasoning")
        for n in range(images)
        for second in (0, 1)
    ]


def lmms_run(root, task, metric, own, rows, prompt=PROMPT, version="0.7.3"):
    """A folder as ``lmms_eval --log_samples`` leaves it."""
    root.mkdir(parents=True, exist_ok=True)
    told = {
        "results": {task: {"alias": task, f"{metric},none": own, f"{metric}_stderr,none": "N/A"}},
        "configs": {task: {"task": task, "lmms_eval_specific_kwargs": prompt, "generation_kwargs": {"temperature": 0}}},
        "n-samples": {task: {"original": len(rows), "effective": len(rows)}},
        "git_hash": "abc1234",
        **({"lmms_eval_version": version} if version else {}),
    }
    (root / "20261122_101010_results.json").write_text(json.dumps(told))
    lines = [json.dumps({"doc_id": n, "target": "x", **row}) + "\n" for n, row in enumerate(rows)]
    (root / f"20261122_101010_samples_{task}.jsonl").write_text("".join(lines))
    return root


def lmms_mme(root, own, name="mme_perception_score", **more):
    rows = []
    for subtask, image, right in mme_answers():
        key = name if subtask in rules.PERCEPTION else "mme_cognition_score"
        rows.append({key: {"question_id": image, "category": subtask, "score": right}})
    return lmms_run(root, "mme", name, own, rows, **more)


MME = 10 * (50 + 200 + 200) / 3


def load(tmp_path, root, harness="lmms-eval", model="net", **more):
    return understanding.run(
        root, harness=harness, model=model, work=tmp_path / "out", records=tmp_path / "out/records", **more
    )


@pytest.mark.parametrize("name", ["mme_perception_score", "mme_percetion_score"])
def test_mme_of_lmms_eval(tmp_path, name):
    outcome = load(tmp_path, lmms_mme(tmp_path / "logs/model", MME, name))
    scores = {r.metric: r for r in outcome.records}
    one = scores["mme-perception"]
    assert one.name == "net/MME-P/mme-perception" and one.value == pytest.approx(MME) and one.unit == "of 2000"
    assert one.low < MME < one.high and "30 clusters in 10 groups" in one.interval
    assert (one.n, one.n_expected, one.partial) == (60, 2114, True)
    assert scores["mme-OCR"].value == pytest.approx(150) and len(scores) == 11
    assert one.protocol.startswith("lmms-eval/0.7.3/mme/") and one.protocol_params["prompt"] == PROMPT
    stored = samples.read(tmp_path / "out/records", one)
    assert len(stored.values) == 30 and set(stored.values) <= {500.0, 2000.0}
    assert load(tmp_path, tmp_path / "logs").reused == 11


def test_other_prompts_are_another_protocol_and_never_replace_the_first(tmp_path):
    first = load(tmp_path, lmms_mme(tmp_path / "a", MME)).records[0]
    other = lmms_mme(tmp_path / "b", MME, prompt={"pre_prompt": "", "post_prompt": " Yes or no?"})
    with pytest.raises(ValueError, match="holds lmms-eval/0.7.3/mme/.*, which is not lmms-eval/0.7.3/mme/"):
        load(tmp_path, other)
    second = load(tmp_path, other, model="again").records[0]
    assert first.protocol != second.protocol and first.value == second.value


def test_a_number_that_the_samples_do_not_give_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"mme: .*samples_mme.jsonl gives 1500.0000, but .* reports 1450.0000"):
        load(tmp_path, lmms_mme(tmp_path / "a", 1450.0))
    assert not (tmp_path / "out").exists()


def test_what_lmms_eval_did_not_write_is_named(tmp_path):
    with pytest.raises(ValueError, match="does not say which version of lmms-eval"):
        load(tmp_path, lmms_mme(tmp_path / "a", MME, version=None))
    assert load(tmp_path, tmp_path / "a", version="0.7.3").computed == 11
    (tmp_path / "a/20261122_101010_samples_mme.jsonl").unlink()
    with pytest.raises(ValueError, match="run lmms-eval with --log_samples"):
        load(tmp_path, tmp_path / "a")
    with pytest.raises(ValueError, match="nowhere does not exist"):
        load(tmp_path, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds 0 results files"):
        load(tmp_path, tmp_path / "empty")
    with pytest.raises(ValueError, match="has none of the tasks"):
        load(tmp_path, lmms_run(tmp_path / "c", "pope", "pope_f1", 0.5, [{}]))
    with pytest.raises(ValueError, match="line 1: the field 'exact_match' is missing; give the file as"):
        load(tmp_path, lmms_run(tmp_path / "d", "ai2d", "exact_match", 0.5, [{"other": 1}]))
    with pytest.raises(ValueError, match="--from 'helm' is unknown"):
        load(tmp_path, tmp_path / "a", harness="helm")


def test_ai2d_and_textvqa_of_lmms_eval(tmp_path):
    rows = [{"exact_match": score} for score in (1.0, 0.0, 1.0, 1.0)]
    (ai2d,) = load(tmp_path, lmms_run(tmp_path / "a", "ai2d", "exact_match", 0.75, rows)).records
    assert (ai2d.name, ai2d.value, ai2d.n, ai2d.n_expected) == ("net/AI2D/accuracy", 75.0, 4, 3088)
    rows = [{"exact_match": score, "submission": {}} for score in (0.3, 0.9, 1.0)]
    (tqa,) = load(tmp_path, lmms_run(tmp_path / "b", "textvqa_val", "exact_match", 2.2 / 3, rows)).records
    assert tqa.suite == "TextVQA" and tqa.value == pytest.approx(220 / 3) and tqa.n_expected == 5000


def mmbench_rows(predictions):
    """Two rotations of each question; ``predictions``: (first, second), right is A."""
    return [
        {"gpt_eval_score": {"index": q + r * rules.ROTATION, "answer": "A", "prediction": words, "A": "x", "B": "y"}}
        for q, pair in enumerate(predictions)
        for r, words in enumerate(pair)
    ]


def test_mmbench_of_lmms_eval_with_and_without_a_language_model(tmp_path):
    clear = mmbench_rows([("A", "A."), ("A", "B"), ("(A) x", "A"), ("B", "A")])
    (one,) = load(tmp_path, lmms_run(tmp_path / "a", "mmbench_en_dev", "gpt_eval_score", 50.0, clear)).records
    assert one.value == 50 and one.low is not None and (one.n, one.n_expected) == (4, 1164)

    vague = mmbench_rows([("A", "A."), ("A", "it is x"), ("the first", "A"), ("perhaps x", "B")])
    root = lmms_run(tmp_path / "b", "mmbench_en_dev", "gpt_eval_score", 50.0, vague)
    (two,) = load(tmp_path, root, model="vague").records
    assert two.value == 50 and two.low is None and "no interval: 2 answers" in two.note
    assert two.extra["possible"] == [25.0, 75.0]
    root = lmms_run(tmp_path / "c", "mmbench_en_dev", "gpt_eval_score", 80.0, vague)
    with pytest.raises(ValueError, match="gives 25.0000 to 75.0000, but .* reports 80"):
        load(tmp_path, root, model="wrong")


# ----------------------------------------------------------------------------------------------------- VLMEvalKit


def write(path, rows, how="csv"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.with_suffix(f".{how}")
    if how == "json":
        path.write_text(json.dumps(rows))
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            lines = csv.DictWriter(file, list(rows[0]), delimiter="\t" if how == "tsv" else ",")
            lines.writeheader()
            lines.writerows(rows)


def kit_folder(root, how="tsv"):
    """One model's folder as VLMEvalKit leaves it, all four benchmarks."""
    table = [
        {
            "index": n,
            "category": subtask,
            "image_path": image,
            "answer": "Yes",
            "extracted": "Yes",
            "score": bool(right),
        }
        for n, (subtask, image, right) in enumerate(mme_answers())
    ]
    write(root / "Net_MME_auxmatch", table, how)
    write(root / "Net_MME_score", [{"perception": MME, "reasoning": 150.0, "OCR": 150.0}])
    hits = [{"index": n, "hit": int(n % 4 > 0)} for n in range(8)]
    for task in ("MMBench_DEV_EN", "AI2D_TEST"):
        write(root / f"Net_{task}_exact_matching_result", hits, how)
        write(root / f"Net_{task}_acc", [{"split": "none", "Overall": 0.75}])
    rows = [
        {"index": 0, "prediction": "Stop.", "answer": str(["stop"] * 3 + ["go"] * 7)},
        {"index": 1, "prediction": "two", "answer": str(["2"] * 10)},
    ]
    write(root / "Net_TextVQA_VAL", rows, how)
    write(root / "Net_TextVQA_VAL_acc", [{"Overall": 95.0}])
    return root


@pytest.mark.parametrize("how", ["tsv", "json", "csv"])
def test_a_folder_of_vlmevalkit(tmp_path, how):
    root = kit_folder(tmp_path / "Net/T20261122_Gabcdef12", how)
    scores = {r.name: r for r in load(tmp_path, root, "vlmevalkit").records}
    assert scores["net/MME-P/mme-perception"].value == pytest.approx(MME)
    assert scores["net/MMBench-EN/accuracy"].value == 75 and scores["net/AI2D/accuracy"].value == 75
    assert scores["net/TextVQA/accuracy"].value == pytest.approx(95)
    assert scores["net/AI2D/accuracy"].protocol.startswith("vlmevalkit/Gabcdef12/AI2D_TEST/")


def test_vlmevalkit_files_that_do_not_agree_or_are_too_many(tmp_path):
    root = kit_folder(tmp_path / "Net")
    with pytest.raises(ValueError, match="does not say which version of vlmevalkit"):
        load(tmp_path, root, "vlmevalkit")
    write(root / "Net_AI2D_TEST_acc", [{"split": "none", "Overall": 0.5}])
    with pytest.raises(ValueError, match="AI2D_TEST: .* gives 75.0000, but .* reports 50.0000"):
        load(tmp_path, root, "vlmevalkit", version="0.2")
    write(root / "Net_AI2D_TEST_acc", [{"split": "none", "Overall": 0.75}])
    write(root / "Other_AI2D_TEST_acc", [{"split": "none", "Overall": 0.75}])
    with pytest.raises(ValueError, match=r"holds 2 files \*_AI2D_TEST_acc"):
        load(tmp_path, root, "vlmevalkit", version="0.2")
    (root / "Other_AI2D_TEST_acc.csv").unlink()
    write(root / "Net_AI2D_TEST_NO_MASK_acc", [{"split": "none", "Overall": 0.75}])
    write(
        root / "Net_AI2D_TEST_NO_MASK_exact_matching_result", [{"index": n, "hit": int(n > 0)} for n in range(4)], "tsv"
    )
    with pytest.raises(ValueError, match="has AI2D as AI2D_TEST and AI2D_TEST_NO_MASK"):
        load(tmp_path, root, "vlmevalkit", version="0.2")


def test_xlsx_needs_openpyxl(tmp_path):
    path = tmp_path / "table.xlsx"
    try:
        import openpyxl
    except ImportError:
        with pytest.raises(ValueError, match="needs openpyxl"):
            understanding.read_table(path)
        return
    book = openpyxl.Workbook()
    for row in (["index", "hit"], [1, 0], [2, 1]):
        book.active.append(row)
    book.save(path)
    assert understanding.read_table(path) == [{"index": 1, "hit": 0}, {"index": 2, "hit": 1}]


def test_the_command(tmp_path, capsys):
    out = tmp_path / "out"
    command = ["eval", "understanding", "--from", "lmms-eval", "--out", str(out)]
    assert main([*command, "--import", str(lmms_mme(tmp_path / "a", MME)), "--model", "net"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shown["scores"]["net/MME-P/mme-perception"]["value"] == pytest.approx(MME) and shown["partial"]
    assert len(record.read(out / "records")) == 11
    for more, why in ((["--model", "net"], "--import is missing"), (["--import", "x"], "--model is missing")):
        assert main([*command, *more]) == 2
        assert why in capsys.readouterr().err


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 2, -1, "high", None, [1], "nan"])
def test_scores_that_are_none_name_file_line_and_field(tmp_path, score):
    rows, fault = [{"exact_match": 1.0}, {"exact_match": score}], "(finite number|outside 0..1)"
    with pytest.raises(ValueError, match=f"samples_ai2d.jsonl, line 2, field 'exact_match': .*{fault}"):
        load(tmp_path, lmms_run(tmp_path / "a", "ai2d", "exact_match", 0.5, rows))
    root = kit_folder(tmp_path / "Net", "json")
    write(root / "Net_AI2D_TEST_exact_matching_result", [{"index": 1, "hit": 1}, {"index": 2, "hit": score}], "json")
    with pytest.raises(ValueError, match=f"result.json, row 2, field 'hit': .*{fault}"):
        load(tmp_path, root, "vlmevalkit", version="0.2")


def test_broken_files_of_harnesses_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="results.json, field 'exact_match,none': nan is not a finite number"):
        load(tmp_path, lmms_run(tmp_path / "a", "ai2d", "exact_match", float("nan"), [{"exact_match": 1}]))
    lmms_run(tmp_path / "a", "ai2d", "exact_match", 1.0, [{"exact_match": 1}])
    for content, fault in (("5\n", "line 1: 5 is no JSON object"), ("[" * 9999, "line 1: nested more than 100")):
        (tmp_path / "a/20261122_101010_samples_ai2d.jsonl").write_text(content)
        with pytest.raises(ValueError, match=f"samples_ai2d.jsonl, {fault}"):
            load(tmp_path, tmp_path / "a")
    (tmp_path / "a/20261122_101010_results.json").write_text("[" * 9999)
    with pytest.raises(ValueError, match="results.json: nested more than 100"):
        load(tmp_path, tmp_path / "a")
    root, ragged = kit_folder(tmp_path / "Net", "json"), '{"a": {"0": 1}, "b": {}}'
    for content, fault in (("5", "holds 5, no rows"), (ragged, "columns differ"), ("[5]", "row 1: 5 is no JSON")):
        (root / "Net_AI2D_TEST_exact_matching_result.json").write_text(content)
        with pytest.raises(ValueError, match=f"result.json.*{fault}"):
            load(tmp_path, root, "vlmevalkit", version="0.2")
