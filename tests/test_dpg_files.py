"""DPG-Bench's own files: the questions CSV, the prompts, 2x2 grids, and the command that reads them."""

from __future__ import annotations

import csv
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from evals.dpg import data as dpg_data
from evals.dpg import rules as dpg_rules
from evals.dpg import run as dpg
from evals.judges.analytic import AnalyticJudge
from evals.judges.answering import Scripted
from evals.subjects import fake
from vgt.__main__ import main
from vgt.core import suites
from vgt.core.images import read_image

HEADER = (
    "item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed", "tuple",
    "question_natural_language",
)  # fmt: skip
ROWS = [
    ("partiprompts0", "A cube, on a table", "", "1", "0", "entity", "whole", "entity - whole (cube)", "Is it there?"),
    ("partiprompts0", "A cube, on a table", "", "2", "0", "entity", "whole", "entity - whole (table)", "A table?"),
    ("partiprompts0", "A cube, on a table", "", "3", "1,2", "relation", "spatial", "relation - spatial (on)", "On?"),
    ("7", "A sketch", "", "1", "0", "global", "", "global - (sketch)", "Is it a sketch?"),
]  # fmt: skip
SIZE = 8


def write_csv(path, rows=ROWS, header=HEADER):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def changed(row: int, **fields):
    """ROWS with some fields of one row changed."""
    cells = {HEADER.index(name): value for name, value in fields.items()}
    new = tuple(cells.get(i, cell) for i, cell in enumerate(ROWS[row]))
    return [new if i == row else each for i, each in enumerate(ROWS)]


# ------------------------------------------------------------------------------------------------------ questions


def test_the_csv_becomes_a_suite(tmp_path):
    items = dpg_data.load(write_csv(tmp_path / "dpg_bench.csv"))
    assert [i["id"] for i in items] == ["partiprompts0", "7"] and items[0]["prompt"] == "A cube, on a table"
    assert [q["dependency"] for q in items[0]["questions"]] == [[], [], [1, 2]]
    assert dpg_rules.order(items[0]["questions"])[-1] == 3
    names = [(dpg_rules.category(q), dpg_rules.subcategory(q)) for i in items for q in i["questions"]]
    assert names[2:] == [("relation", "relation-spatial"), ("global", "global")]


def test_l2_categories():
    for text, l2 in {
        "relation - non-spatial (on)": "relation-non-spatial",
        "other - count (x - y)": "other-count",
        "global - ": "global",
    }.items():
        assert dpg_rules.subcategory({"tuple": text}) == l2


@pytest.mark.parametrize("column", dpg_data.COLUMNS)
def test_a_csv_without_a_column_names_it(tmp_path, column):
    header = tuple("other" if name == column else name for name in HEADER)
    with pytest.raises(ValueError, match=f"has no column '{column}'"):
        dpg_data.load(write_csv(tmp_path / "bad.csv", header=header))


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (changed(1, proposition_id="two"), "line 3, field 'proposition_id': 'two' is not a whole number"),
        (changed(1, proposition_id="1.5"), "line 3, field 'proposition_id': '1.5' is not a whole number"),
        (changed(1, proposition_id="nan"), "line 3, field 'proposition_id': 'nan' is not a whole number"),
        (changed(2, dependency="1;2"), "line 4, field 'dependency': '1;2' is not a whole number"),
        (changed(2, dependency=""), "line 4, field 'dependency': '' is not a whole number"),
        (changed(2, item_id=" "), "line 4, field 'item_id': ' ' names no item"),
        ([*ROWS, (*ROWS[0], "more")], "line 6: 10 cells, the header has 9"),
        (changed(2, text="a\0b"), "line 4: holds a NUL byte"),
        ([], "has no questions"),
    ],
)
def test_broken_rows_are_named(tmp_path, rows, why):
    with pytest.raises(ValueError, match=why):
        dpg_data.load(write_csv(tmp_path / "bad.csv", rows))


def test_rows_are_taken_as_the_official_reader_takes_them(tmp_path, capsys):
    """Ids as spreadsheets write them; a repeated question takes the place of the first; rows apart replace the item."""
    numbers = [
        (f"{r[0]}.0" if r[0] == "7" else r[0], *r[1:3], f"{r[3]}.0", r[4].replace("1,2", "1.0, 2.0"), *r[5:])
        for r in ROWS
    ]
    assert dpg_data.load(write_csv(tmp_path / "numbers.csv", numbers)) == dpg_data.load(write_csv(tmp_path / "q.csv"))
    assert capsys.readouterr().err == ""
    again = (*ROWS[1][:8], "Another table?")
    items = dpg_data.load(write_csv(tmp_path / "again.csv", [*ROWS[:3], again, ROWS[3]]))
    assert [q["question"] for q in items[0]["questions"]] == ["Is it there?", "Another table?", "On?"]
    assert "1 row(s) of item partiprompts0 come again" in capsys.readouterr().err
    items = dpg_data.load(write_csv(tmp_path / "apart.csv", [*ROWS, ROWS[0]]))
    assert [(i["id"], len(i["questions"])) for i in items] == [("partiprompts0", 1), ("7", 1)]
    assert "3 row(s) of item partiprompts0 come again" in capsys.readouterr().err


def test_a_first_row_that_comes_again_is_not_lost_by_skipping_it(tmp_path):
    """The official script skips the first row of the file, not the first question of the first item."""
    ella = dpg_rules.RULES["dpg-ella"]
    for rows, scored in ((ROWS, 2), ([ROWS[0], *ROWS[:3], ROWS[3]], 3), ([*ROWS, ROWS[0]], 1)):
        items = dpg_data.load(write_csv(tmp_path / "q.csv", rows))
        assert len(dpg_rules.scored_questions(items, 0, ella)) == scored


def test_dangling_dependencies_name_item_and_question(tmp_path):
    items = dpg_data.load(write_csv(tmp_path / "bad.csv", changed(2, dependency="1,9")))
    with pytest.raises(ValueError, match="item partiprompts0: question 3 depends on question 9"):
        dpg_rules.check_graph(items)


def test_prompts_come_from_a_folder_or_from_json_lines(tmp_path):
    questions = write_csv(tmp_path / "q.csv")
    folder = tmp_path / "prompts"
    folder.mkdir()
    for name in ("partiprompts0", "7"):
        (folder / f"{name}.txt").write_text(f"prompt of {name}\n")
    lines = tmp_path / "prompts.jsonl"
    lines.write_text(
        "".join(json.dumps({"item_id": n, "text": f"prompt of {n}"}) + "\n" for n in ("7", "partiprompts0"))
    )
    assert dpg_data.load(questions, folder) == dpg_data.load(questions, lines)
    assert dpg_data.load(questions, folder)[1]["prompt"] == "prompt of 7"
    (folder / "7.txt").unlink()
    with pytest.raises(ValueError, match="item 7 has no prompt"):
        dpg_data.load(questions, folder)
    (folder / "7.txt").write_text("x")
    (folder / "8.txt").write_text("x")
    with pytest.raises(ValueError, match="item 8 has no questions"):
        dpg_data.load(questions, folder)
    (folder / "8.more.txt").write_text("x")
    with pytest.raises(ValueError, match="two prompts for item 8"):
        dpg_data.load(questions, folder)


# ---------------------------------------------------------------------------------------------------------- grids


def colored(value: int, size: int = SIZE) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


def test_tiles_come_in_reading_order():
    grid = dpg_data.join_tiles([colored(v) for v in (10, 20, 30, 40)])
    assert [int(grid[y, x, 0]) for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1))] == [10, 20, 30, 40]
    assert [int(t[0, 0, 0]) for t in dpg_data.split_grid(grid, SIZE)] == [10, 20, 30, 40]
    for wrong in (SIZE // 2, SIZE + 1, 2 * SIZE):
        with pytest.raises(ValueError, match="is 16x16 pixels; a 2x2 grid of"):
            dpg_data.split_grid(grid, wrong)


class Asked:
    """Says yes to bright images."""

    name, fingerprint = "bright", "bright"

    def answer(self, image, question):
        return "yes" if image[0, 0, 0] > 25 else "no"


def grids(root, names=("partiprompts0.v2.png", "7.png")):
    root.mkdir(exist_ok=True)
    for name in names:
        Image.fromarray(dpg_data.join_tiles([colored(v) for v in (10, 20, 30, 40)])).save(root / name)
    (root / "dpg_bench_results.txt").write_text("left by the official script")
    return root


def score(tmp_path, folder, items, **more):
    shared = {"work": tmp_path, "records": tmp_path / "records", "suite": "dpg-bench", "prompts": items}
    found = dpg.run(folder, Asked(), check_judge=lambda judge: None, **shared, **more).records
    return {r.metric: r for r in found}


def test_a_folder_of_grids_is_scored_tile_by_tile(tmp_path):
    items = dpg_data.load(write_csv(tmp_path / "q.csv"))
    folder = dpg_data.unpack_grids(grids(tmp_path / "shown"), items, tmp_path, SIZE)
    scores = score(tmp_path, folder, items, protocols=["dpg-fixed", "dpg-vgt"])
    assert scores["dpg[bright]"].value == 50 and scores["dpg-vgt[bright]"].value == 0
    assert (
        scores["dpg[bright]"].n == 8 and scores["dpg[bright]"].n_expected == 4 * 1065 and scores["dpg[bright]"].partial
    )
    assert folder.name == "folder:shown" and scores["dpg[bright]"].extra["headline"] == "DPG[bright]"
    again = dpg_data.unpack_grids(tmp_path / "shown", items, tmp_path, SIZE)
    assert again.root == folder.root and again.fingerprint == folder.fingerprint


def test_missing_broken_and_extra_grids_withhold_the_score(tmp_path):
    items = dpg_data.load(write_csv(tmp_path / "q.csv"))
    root = grids(tmp_path / "shown", ["7.png"])
    scores = score(tmp_path, dpg_data.unpack_grids(root, items, tmp_path, SIZE), items)
    assert scores["dpg[bright]"].value is None and "4 of 8 samples judged, 4 missing" in scores["dpg[bright]"].note
    (root / "partiprompts0.png").write_bytes(b"no image")
    scores = score(tmp_path, dpg_data.unpack_grids(root, items, tmp_path, SIZE), items)
    assert scores["dpg[bright]"].n_failed == 4 and "4 failed" in scores["dpg[bright]"].note
    grids(root, ["partiprompts0.png", "other.png"])
    scores = score(tmp_path, dpg_data.unpack_grids(root, items, tmp_path, SIZE), items)
    assert scores["dpg[bright]"].value is None and "1 that nobody asked for" in scores["dpg[bright]"].note
    assert (
        score(tmp_path, dpg_data.unpack_grids(root, items, tmp_path, SIZE), items, partial_ok=True)["dpg[bright]"].value
        == 50
    )
    (root / "other.png").unlink()
    assert score(tmp_path, dpg_data.unpack_grids(root, items, tmp_path, SIZE), items)["dpg[bright]"].value == 50


def test_wrong_grids_are_errors(tmp_path):
    items = dpg_data.load(write_csv(tmp_path / "q.csv"))
    root = grids(tmp_path / "shown")
    with pytest.raises(ValueError, match=r"7.png is 16x16 pixels; .* 8-pixel|a 2x2 grid of 16-pixel tiles"):
        dpg_data.unpack_grids(root, items, tmp_path, 16)
    grids(root, ["7.jpg"])
    with pytest.raises(ValueError, match="both grids of item 7"):
        dpg_data.unpack_grids(root, items, tmp_path, SIZE)
    with pytest.raises(ValueError, match="holds no grid of this suite"):
        dpg_data.unpack_grids(grids(tmp_path / "others", ["a.png"]), items, tmp_path, SIZE)
    with pytest.raises(ValueError, match="does not exist"):
        dpg_data.unpack_grids(tmp_path / "nowhere", items, tmp_path, SIZE)


def test_exported_grids_come_back_as_the_same_images(tmp_path):
    prompts = suites.dpg_prompts(n=2)
    shared = {"work": tmp_path, "suite": "scenes-dpg", "prompts": prompts, "batch": 2}
    live = dpg.run(fake.Oracle(), AnalyticJudge(), records=tmp_path / "records", **shared)
    written = dpg.export_grids(fake.Oracle(), tmp_path / "grids", **shared)
    assert [p.name for p in written] == ["dense-000.png", "dense-001.png"] and read_image(written[0]).shape == (
        128,
        128,
        3,
    )
    folder = dpg_data.unpack_grids(tmp_path / "grids", prompts, tmp_path, 64)
    seen = dpg.run(folder, AnalyticJudge(), records=tmp_path / "records", **shared)
    values = [[(r.metric, r.value, r.low, r.high) for r in outcome.records] for outcome in (live, seen)]
    assert values[0] == values[1]
    with pytest.raises(ValueError, match="takes 4 images of one size, not 1"):
        dpg.export_grids(fake.Oracle(), tmp_path / "one", images_per_prompt=1, **shared)


# -------------------------------------------------------------------------------------------------------- command


def table(path, answers):
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in answers.items()))
    return path


def test_the_command_reads_the_benchmarks_files_and_compares_two_judges(tmp_path, monkeypatch, capsys):
    write_csv(tmp_path / "q.csv")
    grids(tmp_path / "shown")
    yes = table(tmp_path / "yes.jsonl", {row[-1]: "yes" for row in ROWS})
    mixed = table(
        tmp_path / "mixed.jsonl", {row[-1]: a for row, a in zip(ROWS, ("Yes.", "no", "yes", "hm"), strict=True)}
    )
    out = tmp_path / "out"
    command = [
        "eval",
        "dpg",
        "--csv",
        str(tmp_path / "q.csv"),
        "--subject",
        f"folder:{tmp_path / 'shown'}",
        "--resolution",
    ]
    command += [str(SIZE), "--protocol", "all", "--judge", f"scripted:{yes}", "--against", f"scripted:{mixed}"]
    assert main([*command, "--out", str(out)]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]
    name = "folder:shown/dpg-bench/"
    assert scores[f"{name}dpg[yes]"]["value"] == 100 and scores[f"{name}dpg-vgt[yes]"]["n"] == 2
    assert scores[f"{name}dpg[mixed]"]["value"] == pytest.approx(100 * (1 / 3 + 0) / 2)
    assert scores[f"{name}bias[yes,mixed]"]["value"] == pytest.approx(100 / 6 - 100)
    assert scores[f"{name}bias-relation[yes,mixed]"]["value"] == 0  # raw answers: both say yes
    assert scores[f"{name}kappa[yes,mixed]"]["value"] == 0  # one judge always says yes: agreement by chance alone
    answers = next(out.rglob("answers-mixed.jsonl"))
    assert main(["eval", "dpg", "--answers", str(answers), "--protocol", "dpg-vgt", "--out", str(tmp_path / "b")]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]
    assert again[f"{name}dpg-vgt[mixed]"] == scores[f"{name}dpg-vgt[mixed]"]


DYING = """import json, sys
for number, line in enumerate(sys.stdin):
    if number == int(sys.argv[1]):
        sys.exit(3)
    print(json.dumps({"answer": "yes" if json.loads(line)["question"].startswith("Is it") else "no"}), flush=True)
"""


def test_a_judge_that_dies_ends_the_command_with_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("evals.judges.canary.check_plain", lambda judge: None)
    (tmp_path / "judge.py").write_text(DYING)
    command = ["eval", "dpg", "--csv", str(write_csv(tmp_path / "q.csv")), "--resolution", str(SIZE), "--subject"]
    command += [f"folder:{grids(tmp_path / 'shown')}", "--out", str(tmp_path), "--judge"]
    judge = f"process:{sys.executable} {tmp_path / 'judge.py'}"
    assert main([*command, f"{judge} 7"]) == 2
    assert "ended with status 3 after 7 answers" in capsys.readouterr().err.splitlines()[-1]
    (path,) = tmp_path.rglob("answers-process-judge.jsonl")
    assert len(path.read_text().splitlines()) == 2 and not (tmp_path / "records").exists()


def test_the_command_says_what_is_missing(tmp_path, capsys):
    write_csv(tmp_path / "q.csv")
    command = ["eval", "dpg", "--out", str(tmp_path), "--subject", "fake:noise"]
    for more, why in (
        (["--csv", str(tmp_path / "q.csv")], "--judge is missing"),
        (["--csv", str(tmp_path / "no.csv"), "--judge", "analytic"], "no.csv does not exist"),
        (["--judge", "oracle"], "judge 'oracle' is unknown"),
        (["--judge", "mplug"], "if you trust both, give --trust-judge-code"),
        (["--judge", "mplug", "--trust-judge-code"], "needs modelscope"),
        (["--judge", "mplug", "--trust-judge-code", "--judge-python", "nopython"], "'nopython' is not an interpreter"),
        (["--judge", "analytic", "--trust-judge-code"], "are for judge mplug, not analytic"),
        (["--judge", f"blip:{tmp_path}"], "has no config.json"),
        (["--judge", "process:nothing-there"], "'nothing-there' is not found"),
        (["--resolution", "8"], "is for a folder of grids"),
        (["--protocol", "dpg"], "protocol 'dpg' is unknown"),
        (["--prompts", str(tmp_path)], "--prompts goes with --csv"),
    ):
        assert main([*command, *more]) == 2
        assert why in capsys.readouterr().err.splitlines()[-1], more


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"id": None}, "field 'id' is missing"),
        ({"id": 3}, "field 'id': 3 is not text"),
        ({"prompt": " "}, "the prompt is empty"),
        ({"held_out": "false"}, "field 'held_out': 'false' is not true or false"),
        ({"questions": {}}, "are no questions"),
        ({"questions": ["Is it?"]}, "is no JSON object"),
        (
            {"questions": [{"tuple": "entity (a)", "question": "Is it?", "proposition_id": 1, "dependency": "0"}]},
            "whole",
        ),
        ({"questions": [{"question": "Is it?", "proposition_id": 1, "dependency": []}]}, "'tuple' is missing"),
    ],
)
def test_items_of_a_suite_file_that_are_none_are_named(change, match):
    good = {"id": "a", "prompt": "a cat", "questions": [
        {"tuple": "entity - whole (cat)", "question": "Is there a cat?", "proposition_id": 1, "dependency": []}
    ]}  # fmt: skip
    dpg_rules.check_prompts("mine", [good])
    bad = {k: v for k, v in {**good, "id": "b", **change}.items() if v is not None}
    with pytest.raises(ValueError, match=f"suite 'mine', item 1.*{match}"):
        dpg_rules.check_prompts("mine", [good, bad])
    with pytest.raises(ValueError, match="'a' is there twice"):
        dpg_rules.check_prompts("mine", [good, good])


def test_a_table_without_an_answer_fails_the_image_not_the_run(tmp_path):
    items = dpg_data.load(write_csv(tmp_path / "q.csv"))
    folder = dpg_data.unpack_grids(grids(tmp_path / "shown"), items, tmp_path, SIZE)
    judge = Scripted("short", {("", ROWS[3][-1]): "yes"})
    shared = {"work": tmp_path, "records": tmp_path / "r", "suite": "dpg-bench", "prompts": items}
    record = dpg.run(folder, judge, check_judge=lambda j: None, **shared).records[0]
    assert (record.n, record.n_failed, record.value) == (
        4,
        4,
        None,
    ) and "has no answer to 'Is it there?'" in record.note


def test_the_real_prompts_can_be_read(tmp_path):
    """With DPG-Bench's own prompts, where they are at hand (VGT_DPG_PROMPTS: a folder or JSON lines)."""
    import os

    path = os.environ.get("VGT_DPG_PROMPTS")
    if not path:
        pytest.skip("VGT_DPG_PROMPTS does not name DPG-Bench's prompts")
    assert len(dpg_data.read_prompts(path)) == dpg_data.ITEMS


@pytest.mark.parametrize("more", [["--subject", "fake:noise"], ["--judge", "analytic"], ["-n", "3"], ["--suite", "x"]])
def test_stored_answers_take_no_options_of_a_run(tmp_path, capsys, more):
    assert main(["eval", "dpg", "--answers", str(tmp_path / "answers.jsonl"), *more]) == 2
    assert f"{' '.join(more)} would do nothing: --answers scores what is stored" in capsys.readouterr().err


def test_a_folder_of_grids_is_looked_at_before_the_judge_is_asked_for(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "q.csv")
    grids(tmp_path / "shown", ["7.png"])
    command = ["eval", "dpg", "--csv", "q.csv", "--subject", "folder:shown", "--resolution", str(SIZE)]
    assert main([*command, "--judge", "blip:nowhere"]) == 2
    note, *_, weights = capsys.readouterr().err.splitlines()
    assert "4 of 8 images are there, 1 prompts have none (00000)" in note and "nowhere" in weights


@pytest.mark.parametrize(
    ("ids", "why"),
    [
        (("v1.a", "v1.b"), "'v1.a' and 'v1.b' are both 'v1' up to the first dot; rename one"),
        (("/escaped", "b"), "line 1, id '/escaped': '/escaped' is no file name"),
        (("a", "../b"), "line 2, id '../b': '' is no file name"),
        (("a\0b", "b"), r"'a\\x00b' is no file name"),
        ((".x", "b"), "'' is no file name"),
        (("a", "c\\b"), "is no file name"),
        (("a" * 300, "b"), "is no file name"),
    ],
)
def test_grids_have_names_of_their_own_inside_their_folder(tmp_path, capsys, ids, why):
    prompts = [{**prompt, "id": name} for prompt, name in zip(suites.dpg_prompts(n=2), ids, strict=True)]
    (tmp_path / "s.jsonl").write_text(suites.lines(prompts))
    command = ["eval", "dpg", "--suite", str(tmp_path / "s.jsonl"), "--subject", "fake:oracle"]
    command += ["-o", str(tmp_path / "work"), "--export-grids", str(tmp_path / "grids")]
    assert main(command) == 2
    assert re.search(why, said := capsys.readouterr().err) and said.count("\n") == 1
    assert not (tmp_path / "grids").exists() and not (tmp_path / "work/dpg").exists()
    with pytest.raises(ValueError, match="up to the first dot|is no file name"):
        dpg_data.unpack_grids(grids(tmp_path / "shown"), prompts, tmp_path, SIZE)


def test_two_items_of_a_csv_are_not_one(tmp_path):
    rows = [(f"v1.{end}", *row[1:]) for end, row in zip("aab", ROWS, strict=False)]
    with pytest.raises(ValueError, match=r"line 4, field 'item_id': 'v1.a' and 'v1.b' are both item 'v1'"):
        dpg_data.load(write_csv(tmp_path / "q.csv", rows))


def test_a_question_of_a_csv_is_named_by_its_line(tmp_path):
    for change, why in (
        ({"question_natural_language": " "}, "line 4, field 'question': the question is empty"),
        ({"tuple": "banana"}, "line 4, field 'tuple': category 'banana'"),
    ):
        with pytest.raises(ValueError, match=rf"q\.csv, {why}"):
            dpg_rules.check_prompts("dpg-bench", dpg_data.load(write_csv(tmp_path / "q.csv", changed(2, **change))))
