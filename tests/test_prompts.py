"""Prompts within the token budget, one seed per image."""

from __future__ import annotations

import pytest
import torch

from vgt.core.seeds import image_seed
from vgt.inference.pipeline import image_seeds
from vgt.vlm.prompts import conditional, prompt_list, within_budget

LONG = "a photo of " + "a red star left of " * 100 + "a blue ring"


def test_prompts_as_a_list():
    assert prompt_list("a star") == ["a star"] and prompt_list(("a", "b")) == ["a", "b"]
    for wrong, message in (
        ("", "prompt 0 is empty"), (["a", " \n"], "prompt 1 is empty; describe the image"),
        ([], "no prompt; give a text"), (["a", None], "prompt 1 is a NoneType, not a text"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            prompt_list(wrong)


@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])
def test_long_prompts(vlms, family):
    words = vlms[family].tokenizer
    count = len(words(conditional(LONG))["input_ids"])
    with pytest.raises(ValueError, match=f"prompt of {count} tokens is longer than the 256 .*truncate=True"):
        within_budget(words, LONG)
    for budget in (256, 40, 15):
        cut = within_budget(words, LONG, budget, truncate=True)
        ids = words(conditional(cut))["input_ids"]
        assert len(ids) == budget and LONG.startswith(cut) and cut == cut.strip()
        tail = words(conditional("star"))["input_ids"][-5:]
        assert ids[-5:] == tail  # the template is whole: end of turn, header of the answer
    assert within_budget(words, LONG, count) == LONG
    commas = "a red-hot, blue-ish star, " * 20  # cut between words only
    for budget in range(20, 40):
        cut = within_budget(words, commas, budget, truncate=True)
        assert commas.split()[: len(cut.split())] == cut.split()
        assert budget - 6 <= len(words(conditional(cut))["input_ids"]) <= budget
    with pytest.raises(ValueError, match="a budget of 8 tokens leaves no room for a caption"):
        within_budget(words, LONG, 8, truncate=True)


def test_seeds_of_an_integer():
    """The rule of ``vgt generate``; a repeated prompt goes on counting, so no two images are equal."""
    seeds = image_seeds(3, ["a", "a", "b", "a"])
    assert seeds == [image_seed(3, "a", 0), image_seed(3, "a", 1), image_seed(3, "b", 0), image_seed(3, "a", 2)]
    assert seeds != image_seeds(4, ["a", "a", "b", "a"])


def test_seeds_of_generators():
    rng = torch.Generator().manual_seed(5)
    first, second = image_seeds(rng, "ab"), image_seeds(rng, "ab")
    assert len({*first, *second}) == 4  # it moves on
    assert image_seeds(torch.Generator().manual_seed(5), "abcd") == [*first, *second]
    mixed = image_seeds([torch.Generator().manual_seed(5), 17, torch.Generator().manual_seed(5)], "abc")
    assert mixed == [first[0], 17, first[0]]


def test_seeds_of_the_system():
    state = torch.random.get_rng_state()
    assert len({*image_seeds(None, "abc"), *image_seeds(None, "abc")}) == 6
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([1, 2], "2 generators for 3 images; give one per image, or a single one"),
        ([1, 2, "x"], "generator 'x' is a str; give integers or torch.Generators"),
        ([1, 2, True], "generator True is a bool"),
        ("seed", "generator is a str; give an integer"),
        (1.5, "generator is a float; give an integer"),
    ],
)
def test_seeds_that_are_none(wrong, message):
    with pytest.raises(ValueError, match=message):
        image_seeds(wrong, "abc")
