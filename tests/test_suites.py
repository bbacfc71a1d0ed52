"""The prompt suites: fixed by their seed, in GenEval's record format, with question graphs that hold on the truth."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from vgt.__main__ import main
from vgt.core import captions, geneval_prompts, scenes, suites

GOLDEN = Path(__file__).parent / "golden" / "suites.json"


def golden() -> dict[str, str]:
    """sha256 of each suite's JSON lines; made anew with ``python tests/test_suites.py > tests/golden/suites.json``."""
    return {s: hashlib.sha256(suites.lines(suites.prompts(s)).encode()).hexdigest() for s in suites.SUITES}


def test_golden_suites():
    assert golden() == json.loads(GOLDEN.read_text())


def test_other_seeds_are_other_suites():
    for suite in suites.SUITES:
        assert suites.prompts(suite, seed=1) != suites.prompts(suite, seed=2)


def test_the_benchmarks_own_prompts_byte_for_byte(capsysbinary):
    """Both published files, and what the command prints is the metadata file and nothing else."""
    records = geneval_prompts.prompts()
    prompts = "".join(r["prompt"] + "\n" for r in records)
    assert hashlib.sha256(prompts.encode()).hexdigest() == (
        "55b6e3650e980c13daf30569eb666e000faf19bfc2b7b4cbe999fcdb7aa9d680"
    )
    assert main(["prompts", "geneval"]) == 0
    assert hashlib.sha256(capsysbinary.readouterr().out).hexdigest() == (
        "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
    )
    assert Counter(r["tag"] for r in records) == {
        "single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100,
    }  # fmt: skip
    assert len(geneval_prompts.CLASSES) == 80 and geneval_prompts.CLASSES[64:67] == (
        "computer mouse", "tv remote", "computer keyboard",
    )  # fmt: skip


def test_other_seeds_of_the_benchmark_are_variants():
    assert [len(suites.prompts("geneval", seed)) for seed in (42, 0)] == [559, 548]
    official = geneval_prompts.prompts()
    assert geneval_prompts.is_official(official) and geneval_prompts.is_official(official[5::70])
    assert not geneval_prompts.is_official(geneval_prompts.prompts(42))
    assert not geneval_prompts.is_official(official[::-1])
    assert not geneval_prompts.is_official([{**official[0], "prompt": "a photograph of a bench"}])
    with pytest.raises(ValueError, match="seed -1"):
        geneval_prompts.prompts(-1)


def test_geneval_counts_and_ids():
    records = suites.geneval_prompts()
    assert Counter(r["tag"] for r in records) == dict.fromkeys(scenes.TASKS, 20)
    assert len({r["id"] for r in records}) == len(records) == 120
    repeated = {tag: 20 - len({r["prompt"] for r in records if r["tag"] == tag}) for tag in scenes.TASKS}
    assert repeated == {**dict.fromkeys(scenes.TASKS, 0), "single_object": 12}  # there are only 8 of them


def test_geneval_records_are_in_the_official_format():
    """Key order, counts, exclude and the reference clause first (docs/evaluators.md 2.1)."""
    for r in suites.geneval_prompts():
        keys = [k for k in r if k not in ("id", "held_out")]
        assert keys == ["tag", "include", *(["exclude"] if r["tag"] == "counting" else []), "prompt"]
        first, *rest = r["include"]
        a = captions.article
        if r["tag"] == "counting":
            n = first["count"]
            assert n in (2, 3, 4) and r["exclude"] == [{"class": first["class"], "count": n + 1}]
            text = f"{captions.NUMBERS[n]} {captions.plural(first['class'])}"
        elif r["tag"] == "position":
            (second,) = rest
            relation, target = second["position"]
            assert target == 0 and relation in scenes.RELATIONS
            text = f"{a(second['class'])} {second['class']} {relation} {a(first['class'])} {first['class']}"
        else:
            names = [f"{c['color']} {c['class']}" if "color" in c else c["class"] for c in r["include"]]
            text = " and ".join(f"{a(name)} {name}" for name in names)
        assert r["prompt"] == f"a photo of {text}"
        assert all(c["count"] == 1 for c in r["include"]) or r["tag"] == "counting"
        assert len({c["class"] for c in r["include"]}) == len(r["include"])
        assert json.loads(suites.lines([r])) == r


def test_held_out_flags():
    records = suites.geneval_prompts()
    for r in records:
        named = {(c["color"], c["class"]) for c in r["include"] if "color" in c}
        assert r["held_out"] == bool(named & scenes.HELD_OUT)
    share = Counter(r["tag"] for r in records if r["held_out"])
    assert set(share) == {"colors", "color_attr"} and min(share.values()) >= 5
    for r in suites.dpg_prompts():
        assert r["held_out"] == any(f"{c} {s}" in r["prompt"] for c, s in scenes.HELD_OUT)
    assert 0 < sum(r["held_out"] for r in suites.dpg_prompts()) < 40


@pytest.mark.parametrize("per_task", [1, 45, 130])
def test_any_number_of_prompts_a_task(per_task):
    """All of a task's prompts come once before one comes twice, and asking for more than there are does not hang."""
    records = suites.geneval_prompts(43, per_task)
    assert Counter(r["tag"] for r in records) == dict.fromkeys(scenes.TASKS, per_task)
    assert len({r["id"] for r in records}) == len(records)
    for tag in scenes.TASKS:
        times = Counter(r["prompt"] for r in records if r["tag"] == tag)
        assert max(times.values()) - min(times.values()) <= 1
        assert (
            max(times.values()) == 1
            or len(times) == {"single_object": 8, "two_object": 56, "counting": 24, "colors": 80}[tag]
        )


def test_a_larger_suite_starts_with_the_smaller_one():
    small, large = suites.geneval_prompts(43, 5), {r["id"]: r for r in suites.geneval_prompts(43, 20)}
    assert all(large[r["id"]] == r for r in small)
    assert suites.dpg_prompts(n=40)[:7] == suites.dpg_prompts(n=7)


def test_question_graphs():
    kinds: Counter = Counter()
    for index, r in enumerate(suites.dpg_prompts()):
        assert r["id"] == f"dense-{index:03d}"
        questions = r["questions"]
        assert [q["proposition_id"] for q in questions] == list(range(1, len(questions) + 1))
        for q in questions:
            assert list(q) == ["proposition_id", "dependency", "tuple", "question"]
            assert all(1 <= parent < q["proposition_id"] for parent in q["dependency"])  # so there is no cycle
            kinds[q["tuple"].split(" ")[0]] += 1
        assert len({q["question"] for q in questions}) == len(questions)
        assert all(q["dependency"] for q in questions if q["tuple"].startswith(("attribute", "relation")))
    assert set(kinds) == {"entity", "attribute", "relation", "global", "other"}
    assert min(kinds.values()) >= 30


def test_questions_are_answered_yes_on_the_truth_and_not_always_elsewhere():
    first = scenes.Draws("scenes-dpg", suites.DEFAULT_SEED).below(2**31)
    records = suites.dpg_prompts()
    elsewhere = []
    for k, r in enumerate(records):
        truth = scenes.scene("test", first + k, task="dense")
        assert captions.dense_caption(truth) == r["prompt"]
        assert all(captions.answer(captions.scene_text(truth), q["question"]) == "yes" for q in r["questions"])
        other = captions.scene_text(scenes.scene("test", first + k + 1, task="dense"))
        elsewhere += [captions.answer(other, q["question"]) == "yes" for q in r["questions"]]
    assert sum(elsewhere) / len(elsewhere) < 0.4


def test_dense_prompts_are_test_scenes_and_never_in_training():
    for r in suites.dpg_prompts():
        assert scenes.split_of(captions.scene_from_text(r["prompt"], 0)) in scenes.SPLITS
    first = scenes.Draws("scenes-dpg", suites.DEFAULT_SEED).below(2**31)
    assert scenes.split_of(scenes.scene("test", first, task="dense")) == "test"


def test_unknown_suite():
    with pytest.raises(ValueError, match="suite 'geneval9' .* scenes-geneval, scenes-dpg"):
        suites.prompts("geneval9")


if __name__ == "__main__":
    print(json.dumps(golden(), indent=1))
