"""DPG's rules on stored answers, and whole runs."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from evals.agreement import run as agreement
from evals.dpg import rules as dpg_rules
from evals.dpg import run as dpg
from evals.engine.store import Shard, read_rows, row_line
from evals.judges.analytic import AnalyticJudge
from evals.judges.answering import JudgeLost
from evals.subjects import fake
from vgt.__main__ import main
from vgt.core import files, record, suites

JUDGE = AnalyticJudge()
PROMPTS = suites.dpg_prompts(n=6)


@pytest.fixture(scope="module")
def stored_run(tmp_path_factory):
    """The answers of a small run."""
    root = tmp_path_factory.mktemp("stored")
    return root / dpg.run(fake.Oracle(), JUDGE, **options(root, images_per_prompt=1)).records[0].evidence


def question(number: int, *parents: int, category: str = "entity - whole") -> dict:
    return {
        "proposition_id": number,
        "dependency": list(parents),
        "tuple": f"{category} (x)",
        "question": f"Question {number}?",
    }


CHAIN = [question(1, 0), question(2, 1), question(3, 2)]


def options(root, **more) -> dict:
    return {"work": root, "records": root / "records", "suite": "scenes-dpg", "prompts": PROMPTS, "batch": 4, **more}


def test_zeroing_of_the_spec():
    raw, zeroed = dpg_rules.score_tile({1: "no", 2: "yes", 3: "yes"}, CHAIN)
    assert list(raw.values()) == [0, 1, 1] and sum(zeroed.values()) == 0
    raw, zeroed = dpg_rules.score_tile({1: "yes", 2: "no", 3: "yes"}, CHAIN)
    assert list(raw.values()) == [1, 0, 1] and sum(zeroed.values()) / 3 == pytest.approx(1 / 3)


def test_zeroing_follows_the_graph_not_the_file():
    """The official walk in file order would leave question 3 at 1 here (docs/evaluators.md 3.3)."""
    _, zeroed = dpg_rules.score_tile({1: "no", 2: "yes", 3: "yes"}, [CHAIN[2], CHAIN[1], CHAIN[0]])
    assert set(zeroed.values()) == {0.0}


def test_cycles_missing_parents_and_answers_are_errors():
    with pytest.raises(ValueError, match="cycle"):
        dpg_rules.order([question(1, 2), question(2, 1)])
    with pytest.raises(ValueError, match="question 2 depends on question 9"):
        dpg_rules.order([question(1), question(2, 9)])
    with pytest.raises(ValueError, match="not all different"):
        dpg_rules.order([question(1), question(1)])
    with pytest.raises(ValueError, match="question 3 has no answer"):
        dpg_rules.score_tile({1: "yes", 2: "yes"}, CHAIN)


@pytest.mark.parametrize(
    ("words", "meaning"),
    [("yes", True), (" Yes. ", True), ("NO!", False), ("no", False), ("yes, it is", None), ("maybe", None), ("", None)],
)
def test_answers_are_normalized(words, meaning):
    assert dpg_rules.verdict(words) is meaning


def test_categories():
    assert [dpg_rules.category(question(1, category=c)) for c in ("entity - whole", "global -", "other - count")] == [
        "entity",
        "global",
        "other",
    ]
    with pytest.raises(ValueError, match="category 'mood'"):
        dpg_rules.metrics([{"questions": [question(1, category="mood - calm")]}])


def test_measures_pool_questions_and_average_items():
    """Two items by hand: one question of one, three of the other, with a chain zeroed from its root."""
    prompts = [{"id": "a", "questions": [question(1)]}, {"id": "b", "questions": CHAIN}]
    evidence = {
        (0, 0): {"answers": {"1": "yes"}, "unparsed": 0},
        (0, 1): {"answers": {"1": "no"}, "unparsed": 0},
        (1, 0): {"answers": {"1": "no", "2": "yes", "3": "maybe"}, "unparsed": 1},
        (1, 1): {"answers": {"1": "yes", "2": "yes", "3": "no"}, "unparsed": 0},
    }
    found = dpg_rules.measures(prompts, 2, evidence)
    assert sum(found["dpg"].values) / 2 == pytest.approx((0.5 + (0 + 2 / 3) / 2) / 2)
    assert sum(found["entity"].values) / len(found["entity"].values) == pytest.approx(4 / 8)
    assert sum(found["entity-adjusted"].values) / 8 == pytest.approx(3 / 8)
    assert found["dpg"].extra == {"unparsed": 1} and found["dpg"].clusters == ["a", "b"]
    assert (found["dpg"].n, found["dpg"].n_expected) == (4, 8)


def test_oracle_noise_and_records(tmp_path):
    outcome = dpg.run(fake.Oracle(), JUDGE, **options(tmp_path))
    scores = {r.metric: r for r in outcome.records}
    main = ["dpg", *dpg_rules.CATEGORIES, *(f"{c}-adjusted" for c in dpg_rules.CATEGORIES)]
    assert list(scores)[:11] == main and "attribute-color" in scores and "relation-spatial-adjusted" in scores
    assert scores["dpg"].value >= 99 and scores["dpg"].n == 24 and scores["dpg"].judge.startswith("judge-analytic")
    noise = dpg.run(fake.Noise(), JUDGE, **options(tmp_path, images_per_prompt=1))
    assert noise.records[0].value < 25

    again = dpg.run(fake.Oracle(), JUDGE, **options(tmp_path))
    assert (again.computed, again.reused) == (0, len(scores))
    (tmp_path / "records" / scores["relation-adjusted"].path).unlink()
    evidence = (tmp_path / scores["dpg"].evidence).read_bytes()
    third = dpg.run(fake.Oracle(), JUDGE, **options(tmp_path))
    assert (third.computed, third.reused) == (1, len(scores) - 1)
    assert record.scores(third.records) == record.scores(outcome.records)
    assert (tmp_path / scores["dpg"].evidence).read_bytes() == evidence


class Mumbling:
    """An answerer that says neither yes nor no to questions about the background."""

    name, fingerprint = "mumbling", "mumbling"

    def answer(self, image, question):
        return "perhaps" if "background" in question else JUDGE.answer(image, question)


def test_unparsed_answers_count_as_no_and_are_counted(tmp_path):
    one = options(tmp_path, images_per_prompt=1, prompts=PROMPTS[:3], check_judge=lambda judge: None)
    scores = {r.metric: r for r in dpg.run(fake.Oracle(), Mumbling(), **one).records}
    assert scores["global[mumbling]"].value == 0 and scores["entity[mumbling]"].value == 100
    assert scores["dpg[mumbling]"].extra["unparsed"] == 6  # two questions about the background of an image
    assert scores["dpg[mumbling]"].extra["headline"] == "DPG[mumbling]"
    lines = (tmp_path / scores["dpg[mumbling]"].evidence).read_text().splitlines()
    assert "perhaps" in json.loads(lines[0])["answers"].values()


def test_another_judge_asks_again_but_draws_nothing(tmp_path):
    one = options(tmp_path, images_per_prompt=1, prompts=PROMPTS[:3], check_judge=lambda judge: None)
    first = dpg.run(fake.Oracle(), JUDGE, **one)
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "dpg").rglob("*.png")}
    second = dpg.run(fake.Oracle(), Mumbling(), **one)
    assert second.computed == len(first.records)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "dpg").rglob("*.png")} == times


def test_two_judges_keep_their_own_answers_and_records(tmp_path):
    one = options(tmp_path, images_per_prompt=1, prompts=PROMPTS[:3], check_judge=lambda judge: None)
    first = dpg.run(fake.Oracle(), JUDGE, **one)
    dpg.run(fake.Oracle(), Mumbling(), **one)
    assert dpg.run(fake.Oracle(), JUDGE, **one).reused == len(first.records)


class Breaking:
    """The analytic judge, which breaks after some questions."""

    name, fingerprint = JUDGE.name, JUDGE.fingerprint

    def __init__(self, lives: int, error: Exception):
        self.lives, self.error = lives, error

    def answer(self, image, question):
        self.lives -= 1
        if self.lives < 0:
            raise self.error
        return JUDGE.answer(image, question)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), JudgeLost("the judge's process ended")])
def test_a_judge_that_breaks_is_no_bad_sample(tmp_path, error):
    """The run ends where the judge does, records nothing, and asks only the rest when it goes on."""
    one = options(tmp_path, images_per_prompt=1, check_judge=lambda judge: None)
    asked = [len(prompt["questions"]) for prompt in PROMPTS]
    with pytest.raises(type(error), match=str(error)):
        dpg.run(fake.Oracle(), Breaking(sum(asked[:4]) + 1, error), **one)
    (path,) = tmp_path.rglob("answers.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 4 and not any("error" in row for row in rows) and not (tmp_path / "records").exists()
    outcome = dpg.run(fake.Oracle(), Breaking(sum(asked[4:]), error), **one)
    assert record.scores(outcome.records) == record.scores(
        dpg.run(fake.Oracle(), JUDGE, **options(tmp_path / "whole", images_per_prompt=1)).records
    )


def test_unknown_protocol_and_bad_graph(tmp_path):
    with pytest.raises(ValueError, match="protocol 'dpg-best' is unknown"):
        dpg.run(fake.Oracle(), JUDGE, **options(tmp_path, protocols=["dpg-best"]))
    bad = [{"id": "a", "prompt": "There is one object.", "questions": [question(1, 2), question(2, 1)]}]
    with pytest.raises(ValueError, match="item a: .* cycle"):
        dpg.run(fake.Oracle(), JUDGE, **options(tmp_path, prompts=bad))
    dangling = [{"id": "a", "prompt": "There is one object.", "questions": [question(1, 7)]}]
    with pytest.raises(ValueError, match="item a: question 1 depends on question 7"):
        dpg.run(fake.Oracle(), JUDGE, **options(tmp_path, prompts=dangling))


# ------------------------------------------------------------------------------------------------- the protocols


def tile(*words: str) -> dict:
    return {"answers": {str(n): w for n, w in enumerate(words, 1)}}


def test_file_order_zeroing_is_the_official_walk():
    """A parent that comes later in the file has not been zeroed yet when its child is looked at."""
    ella = dpg_rules.RULES["dpg-ella"]
    answers = {1: "no", 2: "yes", 3: "yes"}
    _, forwards = dpg_rules.score_tile(answers, CHAIN, ella)
    _, backwards = dpg_rules.score_tile(answers, CHAIN[::-1], ella)
    assert forwards == {1: 0, 2: 0, 3: 0} and backwards == {1: 0, 2: 0, 3: 1}


def test_a_dangling_parent_drops_the_item_only_where_it_is_looked_at():
    ella = dpg_rules.RULES["dpg-ella"]
    graph = [question(1), question(2, 1, 9)]
    with pytest.raises(dpg_rules.Dropped, match="question 2 depends on question 9"):
        dpg_rules.score_tile({1: "yes", 2: "yes"}, graph, ella)
    assert dpg_rules.score_tile({1: "no", 2: "yes"}, graph, ella)[1] == {1: 0, 2: 0}


def test_the_published_scripts_match_exactly():
    assert dpg_rules.verdict("Yes.") is True and dpg_rules.verdict("Yes.", "exact") is None
    raw = {
        name: dpg_rules.score_tile({1: "Yes."}, [question(1)], rules)[0][1] for name, rules in dpg_rules.RULES.items()
    }
    assert raw == {"dpg-fixed": 1.0, "dpg-ella": 0.0, "dpg-vgt": 0.0, "dpg-vgt-normalized": 1.0}


def test_only_a_literal_lower_case_yes_counts_in_the_papers_protocol():
    prompts = [{"id": str(i), "questions": [question(1)]} for i in range(5)]
    evidence = {(i, 0): tile(words) for i, words in enumerate(("yes", "Yes", "yes.", " yes", "no"))}
    shares = {
        name: mean(dpg_rules.measures(prompts, 1, evidence, None, dpg_rules.RULES[name])["dpg"])
        for name in ("dpg-vgt", "dpg-vgt-normalized")
    }
    assert shares == {"dpg-vgt": pytest.approx(1 / 5), "dpg-vgt-normalized": pytest.approx(4 / 5)}


def mean(measure) -> float:
    return sum(measure.values) / len(measure.values)


def test_the_three_protocols_on_the_same_answers():
    """By hand: item a loses its first question to D1; the categories of dpg-ella are those of the last tile."""
    prompts = [
        {"id": "a", "questions": [question(1), question(2, category="global - ")]},
        {"id": "b", "questions": [question(1, 0), question(2, 1)]},
    ]
    evidence = {(i, s): tile("yes", "no") for i in range(2) for s in range(4)}
    evidence[0, 3] = tile("yes", "yes")
    evidence[1, 3] = tile("no", "yes")
    found = {name: dpg_rules.measures(prompts, 4, evidence, None, rules) for name, rules in dpg_rules.RULES.items()}
    fixed, ella, vgt = found["dpg-fixed"], found["dpg-ella"], found["dpg-vgt"]
    assert mean(fixed["dpg"]) == pytest.approx(((0.5 * 3 + 1) / 4 + (0.5 * 3 + 0) / 4) / 2)
    assert mean(ella["dpg"]) == pytest.approx(((0 + 0 + 0 + 1) / 4 + (0.5 * 3 + 0) / 4) / 2)
    assert mean(vgt["dpg"]) == pytest.approx(0.5)
    assert mean(fixed["global"]) == 1 / 4 and mean(ella["global"]) == 1 and mean(vgt["global"]) == 0
    assert mean(fixed["entity"]) == pytest.approx((4 + 3 + 1) / 12) and mean(ella["entity"]) == 0.5
    assert mean(fixed["entity-adjusted"]) == pytest.approx((4 + 3) / 12) and "entity-adjusted" not in ella
    assert (fixed["dpg"].n, ella["dpg"].n, vgt["dpg"].n) == (8, 8, 2)
    assert (fixed["dpg"].n_expected, ella["dpg"].n_expected, vgt["dpg"].n_expected) == (8, 8, 2)
    assert len(set(fixed["entity"].ids)) == 12 and fixed["dpg"].ids == ["a", "b"]


def test_d1_drops_the_whole_first_item_where_its_children_need_the_lost_question():
    prompts = [{"id": "a", "questions": CHAIN}, {"id": "b", "questions": CHAIN}]
    evidence = {(i, s): tile("yes", "yes", "yes") for i in range(2) for s in range(4)}
    ella = dpg_rules.measures(prompts, 4, evidence, None, dpg_rules.RULES["dpg-ella"])["dpg"]
    assert ella.ids == ["b"] and ella.extra["dropped"] == ["a"] and (ella.n, ella.asked, ella.n_expected) == (4, 4, 4)
    assert "1 item(s) dropped by the rules of dpg-ella" in ella.note
    del evidence[1, 2]
    lacking = dpg_rules.measures(prompts, 4, evidence, None, dpg_rules.RULES["dpg-ella"])["dpg"]
    assert (lacking.n, lacking.asked) == (3, 4)  # a missing image is never dropped in silence


def test_a_run_computes_all_protocols_from_the_same_answers_and_rescoring_needs_no_judge(tmp_path):
    every = list(dpg_rules.RULES)
    outcome = dpg.run(fake.Oracle(), JUDGE, **options(tmp_path, protocols=every))
    scores = {r.metric: r for r in outcome.records}
    assert {scores[m].protocol for m in ("dpg", *(f"dpg{x}" for x in ("-ella", "-vgt", "-vgt-normalized")))} == set(
        every
    )
    assert scores["dpg-vgt"].n == 6 and scores["dpg-vgt"].protocol_params["tiles"] == 1
    assert len(scores) == len(outcome.records) and scores["dpg"].extra["samples"] == 6
    samples = (tmp_path / "records" / scores["entity-ella"].path).with_suffix(".samples.csv")
    assert len(samples.read_text().splitlines()) == scores["entity-ella"].extra["samples"] + 1

    answers = tmp_path / scores["dpg"].evidence
    again = dpg.rescore(answers, work=tmp_path, records=tmp_path / "again", protocols=every)
    assert record.scores(again.records) == record.scores(outcome.records)
    assert [r.key for r in again.records] == [r.key for r in outcome.records]
    assert dpg.rescore(answers, work=tmp_path, records=tmp_path / "records", protocols=every).computed == 0

    copy = shutil.copytree(answers.parent, tmp_path / "other") / "answers.jsonl"  # the same, with other answers
    rows = read_rows(copy)
    for row in rows:
        row["answers"] = dict.fromkeys(row["answers"], "no")
    copy.write_text("".join(map(row_line, rows)))
    where = {"work": tmp_path, "records": tmp_path / "records"}
    assert dpg.rescore(copy, **where).records[0].value == 0 != scores["dpg"].value
    assert dpg.rescore(copy, **where).computed == 0
    assert dpg.run(fake.Oracle(), JUDGE, **options(tmp_path)).records[0].value == scores["dpg"].value
    about = json.loads(copy.with_suffix(".run.json").read_text())
    copy.write_text(answers.read_text())
    copy.with_suffix(".run.json").write_text(json.dumps({**about, "extra": ["one more.png"]}))
    assert dpg.rescore(copy, **where).records[0].value is None, "an image too many withholds the value"

    answers.with_suffix(".run.json").unlink()
    with pytest.raises(ValueError, match="run.json does not exist"):
        dpg.rescore(answers, work=tmp_path, records=tmp_path / "again")


def test_parts_ask_their_own_images_and_the_whole_asks_nothing_more(tmp_path):
    whole = dpg.run(fake.Oracle(), JUDGE, **options(tmp_path / "whole"))
    asked = []

    class Counting:
        name, fingerprint = JUDGE.name, JUDGE.fingerprint

        def answer(self, image, question):
            asked.append(question)
            return JUDGE.answer(image, question)

    split = options(tmp_path / "parts", check_judge=lambda judge: None)
    for index in range(2):
        part = dpg.run(fake.Oracle(), Counting(), **split, shard=Shard(index, 2))
        assert part.records == [] and not (tmp_path / "parts/records").exists()
    before = len(asked)
    joined = dpg.run(fake.Oracle(), Counting(), **split)
    assert before == 4 * sum(len(p["questions"]) for p in PROMPTS) == len(asked)
    assert record.scores(joined.records) == record.scores(whole.records)
    evidence = whole.records[0].evidence
    assert (tmp_path / "parts" / evidence).read_bytes() == (tmp_path / "whole" / evidence).read_bytes()


def test_what_two_judges_do_not_share_is_withheld_alike(tmp_path):
    """One image that a judge could not see: kappa is as partial as the bias."""
    outcome = dpg.run(fake.Oracle(), JUDGE, **options(tmp_path))
    first = tmp_path / outcome.records[0].evidence
    second = first.with_name("answers-other.jsonl")
    rows = [json.loads(line) for line in first.read_text().splitlines()]
    for row in rows:
        row.pop(files.CHECK)
    rows[0] = {"id": rows[0]["id"], "error": "cannot be read"}
    second.write_text("".join(map(row_line, rows)))
    about = json.loads(first.with_suffix(".run.json").read_text())
    about["judge"] = {"name": "other", "fingerprint": "f" * 64}
    second.with_suffix(".run.json").write_text(json.dumps(about))
    where = {"work": tmp_path, "records": tmp_path / "agreement"}
    found = agreement.of_answers(first, second, **where).records
    assert {r.metric.partition("[")[0] for r in found} >= {"kappa", "bias", "bias-entity"}
    assert all(r.value is None and "value withheld" in r.note for r in found)
    found = agreement.of_answers(first, second, partial_ok=True, **where).records
    assert all(r.partial and (r.value is not None or "not defined" in r.note) for r in found)


@pytest.mark.parametrize(
    "changed, fault",
    [
        ({"answers": {"1": 5}}, "field '1': 5 is not text"),
        ({"answers": {"one": "yes"}}, "'one' is not a whole number"),
        ({"answers": None}, "field 'answers': None is no JSON object"),
        ({"yes_share": {"1": float("nan")}}, "field '1': nan is not a finite number"),
        ({"yes_share": {"1": 1.5}}, "field '1': 1.5 is outside 0..1"),
    ],
)
def test_stored_answers_are_checked(tmp_path, changed, fault):
    stored = tmp_path / "answers.jsonl"
    row = {"id": "00000/samples/0000.png", "answers": {"1": "yes"}}
    stored.write_text(row_line({**row, **changed}))
    about = {
        "subject": {"name": "x", "fingerprint": "0"}, "judge": {"name": "j", "fingerprint": "1"}, "accel": None,
        "suite": "mine", "prompts": [{"id": "a", "prompt": "p", "questions": [question(1)]}], "seed": 0,
        "images_per_prompt": 1, "batch": 1, "images": {row["id"]: [0, 0]}, "extra": [], "about": {}, "note": None,
    }  # fmt: skip
    stored.with_suffix(".run.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=f"answers.jsonl, line 1, .*{fault}"):
        dpg.rescore(stored, work=tmp_path, records=tmp_path / "records")


@pytest.mark.parametrize(
    "changed, fault",
    [
        ({"images_per_prompt": None}, "field 'images_per_prompt': None is no such whole number"),
        ({"seed": "x"}, "field 'seed': 'x' is no such whole number"),
        ({"prompts": []}, "field 'prompts': .. are no prompts"),
        ({"suite": [1]}, "field 'suite': .1. is not text"),
        ({"judge": {"name": 5, "fingerprint": ""}}, "field 'judge', field 'name': 5 is not text"),
        ({"subject": {"name": "x", "fingerprint": "", "settings": 5}}, "field 'settings': 5 is no JSON object"),
        ({"images": {"x": [6, 0]}}, "field 'images', field 'x': .6, 0. is none of 6 x"),
        ({"images": {"x": [0]}}, "field 'x': .0. is none of"),
        ({"about": None}, "field 'about': None is no JSON object"),
    ],
)
def test_what_says_whose_answers_these_are_is_checked(stored_run, tmp_path, changed, fault):
    shutil.copy(stored_run, tmp_path)
    about = json.loads(stored_run.with_suffix(".run.json").read_text())
    path = tmp_path / stored_run.name
    path.with_suffix(".run.json").write_text(json.dumps({**about, **changed}))
    with pytest.raises(ValueError, match=f"answers.run.json, .*{fault}"):
        dpg.rescore(path, work=tmp_path, records=tmp_path / "records")


@pytest.mark.parametrize(
    "changed, fault",
    [
        ({"prompt": 5}, "field 'prompt': 5 is not text"),
        ({"questions": None}, "field 'questions': None are no questions"),
        ({"questions": []}, "are no questions"),
        ({"questions": [5]}, "field 'questions': 5 is no JSON object"),
        ({"questions": [{"proposition_id": "1"}]}, "the field 'dependency' is missing"),
        ({"questions": [{**question(1), "proposition_id": 1.5}]}, "1.5 is no question's id"),
        ({"questions": [{**question(1), "dependency": "0"}]}, "'0' is no question's id"),
        ({"questions": [{**question(1), "tuple": None}]}, "field 'tuple': None is not text"),
        ({"questions": [{**question(1), "tuple": "mood - (x)"}]}, "category 'mood' is not one of entity"),
        ({"id": [1]}, "field 'id': .1. is not text"),
    ],
)
def test_suites_that_are_none_name_file_line_and_field(tmp_path, capsys, changed, fault):
    path = tmp_path / "mine.jsonl"
    good = {"id": "a", "prompt": "a star", "questions": [question(1)]}
    path.write_text("\n" + json.dumps({**good, **changed}) + "\n")
    assert main(["eval", "dpg", "--suite", str(path), "--subject", "fake:noise", "-o", str(tmp_path / "w")]) == 2
    assert re.search(f"mine.jsonl, line 2[:,] .*{fault}", told := capsys.readouterr().err) and told.count("\n") == 1
