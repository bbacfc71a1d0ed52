"""DPG's rules on stored answers, and whole runs."""

from __future__ import annotations

import json

import pytest

from evals import dpg
from evals.judges.analytic import AnalyticJudge
from evals.subjects import fake
from vgt.core import record, suites

JUDGE = AnalyticJudge()
PROMPTS = suites.dpg_prompts(n=6)


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
    raw, zeroed = dpg.score_tile({1: "no", 2: "yes", 3: "yes"}, CHAIN)
    assert list(raw.values()) == [0, 1, 1] and sum(zeroed.values()) == 0
    raw, zeroed = dpg.score_tile({1: "yes", 2: "no", 3: "yes"}, CHAIN)
    assert list(raw.values()) == [1, 0, 1] and sum(zeroed.values()) / 3 == pytest.approx(1 / 3)


def test_zeroing_follows_the_graph_not_the_file():
    """The official walk in file order would leave question 3 at 1 here (spec evaluators 3.3)."""
    _, zeroed = dpg.score_tile({1: "no", 2: "yes", 3: "yes"}, [CHAIN[2], CHAIN[1], CHAIN[0]])
    assert set(zeroed.values()) == {0.0}


def test_cycles_missing_parents_and_answers_are_errors():
    with pytest.raises(ValueError, match="cycle"):
        dpg.order([question(1, 2), question(2, 1)])
    with pytest.raises(ValueError, match="question 2 depends on question 9"):
        dpg.order([question(1), question(2, 9)])
    with pytest.raises(ValueError, match="not all different"):
        dpg.order([question(1), question(1)])
    with pytest.raises(ValueError, match="question 3 has no answer"):
        dpg.score_tile({1: "yes", 2: "yes"}, CHAIN)


@pytest.mark.parametrize(
    ("words", "meaning"),
    [("yes", True), (" Yes. ", True), ("NO!", False), ("no", False), ("yes, it is", None), ("maybe", None), ("", None)],
)
def test_answers_are_normalized(words, meaning):
    assert dpg.verdict(words) is meaning


def test_categories():
    assert [dpg.category(question(1, category=c)) for c in ("entity - whole", "global -", "other - count")] == [
        "entity",
        "global",
        "other",
    ]
    with pytest.raises(ValueError, match="category 'mood'"):
        dpg.metrics([{"questions": [question(1, category="mood - calm")]}])


def test_measures_pool_questions_and_average_items():
    """Two items by hand: one question of one, three of the other, with a chain zeroed from its root."""
    prompts = [{"id": "a", "questions": [question(1)]}, {"id": "b", "questions": CHAIN}]
    evidence = {
        (0, 0): {"answers": {"1": "yes"}, "unparsed": 0},
        (0, 1): {"answers": {"1": "no"}, "unparsed": 0},
        (1, 0): {"answers": {"1": "no", "2": "yes", "3": "maybe"}, "unparsed": 1},
        (1, 1): {"answers": {"1": "yes", "2": "yes", "3": "no"}, "unparsed": 0},
    }
    found = dpg.measures(prompts, 2, evidence)
    assert sum(found["dpg"].values) / 2 == pytest.approx((0.5 + (0 + 2 / 3) / 2) / 2)
    assert sum(found["entity"].values) / len(found["entity"].values) == pytest.approx(4 / 8)
    assert sum(found["entity-adjusted"].values) / 8 == pytest.approx(3 / 8)
    assert found["dpg"].extra == {"unparsed": 1} and found["dpg"].clusters == ["a", "b"]
    assert (found["dpg"].n, found["dpg"].n_expected) == (4, 8)


def test_oracle_noise_and_records(tmp_path):
    outcome = dpg.run(fake.Oracle(), JUDGE, **options(tmp_path))
    scores = {r.metric: r for r in outcome.records}
    assert list(scores) == ["dpg", *dpg.CATEGORIES, *(f"{c}-adjusted" for c in dpg.CATEGORIES)]
    assert scores["dpg"].value >= 99 and scores["dpg"].n == 24 and scores["dpg"].judge.startswith("judge-analytic")
    noise = dpg.run(fake.Noise(), JUDGE, **options(tmp_path, images_per_prompt=1))
    assert noise.records[0].value < 25

    again = dpg.run(fake.Oracle(), JUDGE, **options(tmp_path))
    assert (again.computed, again.reused) == (0, 11)
    (tmp_path / "records" / scores["relation-adjusted"].path).unlink()
    evidence = (tmp_path / scores["dpg"].evidence).read_bytes()
    third = dpg.run(fake.Oracle(), JUDGE, **options(tmp_path))
    assert (third.computed, third.reused) == (1, 10)
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
    assert scores["global"].value == 0 and scores["entity"].value == 100
    assert scores["dpg"].extra["unparsed"] == 6  # two questions about the background a picture
    lines = (tmp_path / scores["dpg"].evidence).read_text().splitlines()
    assert "perhaps" in json.loads(lines[0])["answers"].values()


def test_another_judge_asks_again_but_draws_nothing(tmp_path):
    one = options(tmp_path, images_per_prompt=1, prompts=PROMPTS[:3], check_judge=lambda judge: None)
    first = dpg.run(fake.Oracle(), JUDGE, **one)
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "dpg").rglob("*.png")}
    second = dpg.run(fake.Oracle(), Mumbling(), **one)
    assert second.computed == len(first.records)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "dpg").rglob("*.png")} == times


def test_unknown_protocol_and_bad_graph(tmp_path):
    with pytest.raises(ValueError, match="protocol 'dpg-ella'"):
        dpg.run(fake.Oracle(), JUDGE, **options(tmp_path, protocol="dpg-ella"))
    bad = [{"id": "a", "prompt": "There is one object.", "questions": [question(1, 2), question(2, 1)]}]
    with pytest.raises(ValueError, match="cycle"):
        dpg.run(fake.Oracle(), JUDGE, **options(tmp_path, prompts=bad))
