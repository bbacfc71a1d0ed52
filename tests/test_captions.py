"""The grammar: captions say what scenes hold, questions have right answers, text leads back to a scene."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from vgt.core import captions, scenes, suites
from vgt.core.captions import SceneText, Seen, answer

WORDS = re.compile(r"[\w'-]+|[^\w\s]")

# A large red star left of a small blue circle above a small blue star, on an even sandy background.
SIGHT = SceneText(
    (
        Seen("star", "red", "large", (0, 0, 50, 50)),
        Seen("circle", "blue", "small", (100, 0, 130, 30)),
        Seen("star", "blue", "small", (100, 100, 130, 130)),
    ),
    "sandy",
    "none",
)


@pytest.mark.parametrize(
    ("word", "article", "plural"),
    [("orange", "an", "oranges"), ("star", "a", "stars"), ("cross", "a", "crosses"), ("red", "a", "reds")],
)
def test_articles_and_plurals(word, article, plural):
    assert captions.article(word) == article
    assert captions.plural(word) == plural


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Is there a star?", "yes"),
        ("Is there a ring?", "no"),
        ("Is there a red star?", "yes"),
        ("Is there a red circle?", "no"),
        ("How many stars are there?", "two"),
        ("How many rings are there?", "zero"),
        ("How many objects are there?", "three"),
        ("What color is the circle?", "blue"),
        ("What shape is the red object?", "star"),
        ("What size is the circle?", "small"),
        ("What color is the ring?", "none"),
        ("Is the red star large?", "yes"),
        ("Is the blue star large?", "no"),
        ("Is the circle blue?", "yes"),
        ("Is the red star left of the circle?", "yes"),
        ("Is the red star right of the circle?", "no"),
        ("Is the circle above the blue star?", "yes"),
        ("Is the circle above the red star?", "no"),
        ("Is the circle above the ring?", "no"),
        ("Are there exactly three objects?", "yes"),
        ("Are there exactly two objects?", "no"),
        ("Are there exactly two blue objects?", "yes"),
        ("Is there exactly one circle?", "yes"),
        ("What color is the background?", "sandy"),
        ("Is the background sandy?", "yes"),
        ("Is the background gray?", "no"),
        ("Is the background even?", "yes"),
        ("Is the background darker at the top?", "no"),
    ],
)
def test_answers(question, expected):
    assert answer(SIGHT, question) == expected


def test_background_answers_follow_the_shade():
    seen = SceneText((), "gray", "left")
    assert answer(seen, "Is the background darker at the left?") == "yes"
    assert answer(seen, "Is the background darker at the right?") == "no"
    assert answer(seen, "Is the background even?") == "no"
    assert answer(seen, "How many objects are there?") == "zero"


@pytest.mark.parametrize("question", ["What texture is it?", "Is there a dog?", "How many dogs are there?", "", "Why?"])
def test_unknown_questions_are_errors(question):
    with pytest.raises(ValueError, match="synthetic scenes"):
        answer(SIGHT, question)


def test_short_captions_describe_their_scene():
    for task in scenes.TASKS:
        for index in range(40):
            scene = scenes.scene("test", index, task)
            text = captions.short_caption(scene)
            assert text.startswith("a photo of ")
            named = Counter(word for word in WORDS.findall(text) if word in scenes.SHAPES)
            shapes = Counter(o.shape for o in scene.objects)
            if task == "counting":
                shape = scene.objects[0].shape
                assert text == f"a photo of {captions.NUMBERS[len(scene.objects)]} {captions.plural(shape)}"
            else:
                assert named == shapes
            told = [word for word in WORDS.findall(text) if word in scenes.COLORS]
            assert told == ([o.color for o in scene.objects] if task in ("colors", "color_attr") else [])
            if task == "position":
                first, second = (o.shape for o in scene.objects)
                assert re.search(rf"{first} {scene.relation} an? {second}$", text)


def test_dense_captions_tell_only_what_is_true():
    told = 0
    for index in range(150):
        scene = scenes.scene("val", index, "dense")
        seen, text = captions.scene_text(scene), captions.dense_caption(scene)
        assert text.count("object") == 1
        for size, color, shape in re.findall(r"an? (small|large) (\w+) (\w+)", text):
            assert answer(seen, f"Is the {color} {shape} {size}?") == "yes"
        assert len(re.findall(r"\b(?:small|large)\b", text)) == len(scene.objects)
        for a, relation, b in re.findall(r"The (\w+ \w+) is (left of|right of|above|below) the (\w+ \w+)\.", text):
            told += 1
            assert answer(seen, f"Is the {a} {relation} the {b}?") == "yes"
        assert answer(seen, "What color is the background?") in text
    assert told > 100


def test_every_question_can_be_answered_in_one_known_word():
    words, tally = set(captions.vocabulary()), Counter()
    for index in range(400):
        scene = scenes.scene("val", index)
        for question, reply in captions.questions(scene, scenes.Draws("questions", index), 6):
            assert reply == answer(captions.scene_text(scene), question)
            assert reply in words
            assert set(WORDS.findall(question)) <= words
            tally[reply] += 1
    assert 0.4 < tally["yes"] / (tally["yes"] + tally["no"]) < 0.6
    assert len(tally) > 30  # colours, shapes, numbers, sizes, tints


def test_vocabulary_holds_every_caption():
    words = captions.vocabulary()
    assert words == sorted(set(words))
    for index in range(200):
        for split in ("train", "test"):
            scene = scenes.scene(split, index)
            for text in (captions.short_caption(scene), captions.dense_caption(scene)):
                assert set(WORDS.findall(text)) <= set(words)
    prompts = [r["prompt"] for suite in suites.WORLD_SUITES for r in suites.prompts(suite)]
    assert {word for text in prompts for word in WORDS.findall(text)} <= set(words)
    asked = [q["question"] for r in suites.dpg_prompts() for q in r["questions"]]
    assert {word for text in asked for word in WORDS.findall(text)} <= set(words)


def fulfils(record: dict, scene: scenes.Scene) -> bool:
    """A GenEval record against the true scene: counts, colours, relation; nothing beside what was asked for."""
    kinds = Counter(o.shape for o in scene.objects)
    wanted: Counter = Counter()
    groups = []
    for clause in record["include"]:
        wanted[clause["class"]] += clause["count"]
        group = [o for o in scene.objects if o.shape == clause["class"] and o.color == clause.get("color", o.color)]
        if len(group) < clause["count"]:
            return False
        if "position" in clause:
            relation, target = clause["position"]
            if not all(relation in scenes.relations(a.extent, b.extent) for a in group for b in groups[target]):
                return False
        groups.append(group)
    return kinds == wanted


@pytest.mark.parametrize("seed", [43, 1, 2])
def test_every_geneval_prompt_leads_to_a_scene_that_fulfils_it(seed):
    for record in suites.geneval_prompts(seed):
        for sample in (0, 1):
            assert fulfils(record, captions.scene_from_text(record["prompt"], sample)), record["prompt"]


def test_every_dense_prompt_leads_to_a_scene_that_fulfils_it():
    for record in suites.dpg_prompts():
        drawn = captions.scene_from_text(record["prompt"], 5)
        seen = captions.scene_text(drawn)
        assert all(answer(seen, q["question"]) == "yes" for q in record["questions"]), record["prompt"]


def test_text_to_scene_is_pure_and_varied():
    text = "a photo of a red star"
    assert captions.scene_from_text(text, 3) == captions.scene_from_text(text, 3)
    assert len({captions.scene_from_text(text, seed).objects[0] for seed in range(8)}) == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a photo of a dog", "not in the grammar"),
        ("", "not in the grammar"),
        ("a red star", "not in the grammar"),
        ("There is one object: nothing.", "not in the grammar"),
        (
            "There are two objects: a small red star and a small blue ring. "
            "The red star is left of the blue ring. The blue ring is left of the red star.",
            "contradict",
        ),
        ("There is one object: a small red star. The red star is above the blue ring.", "blue ring .* does not list"),
    ],
)
def test_impossible_texts_are_errors(text, message):
    with pytest.raises(ValueError, match=message):
        captions.scene_from_text(text, 0)
