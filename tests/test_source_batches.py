"""From a source to batches: its order, its bad samples, crops, captions within their budget, batches made ahead."""

from __future__ import annotations

import json
import os
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from vgt.core.images import ImageError
from vgt.training import data
from vgt.training.data import Forked, Prefetch, each
from vgt.training.sources import Sample, Skipped, SkipReport, stream
from vgt.training.sources.stream import sample_at, shuffled, substitute
from vgt.vlm import prompts
from vgt.vlm import tokenizer as words
from vgt.vlm.prompts import conditional


class Listed:
    """A source of ``count`` images, each of one colour and size; those in ``bad`` are torn."""

    name, fingerprint = "listed", "f"

    def __init__(self, count: int, bad=(), caption: str = "a photo of a red star", size=(100, 90), kind=None):
        self._count, self._bad, self._caption, self._size, self._kind = count, set(bad), caption, size, kind

    def __len__(self) -> int:
        return self._count

    def item(self, index: int):
        if index in self._bad:
            return Skipped(f"no {index}", "torn file")
        return Sample(Image.new("RGB", self._size, (index, 0, 0)), self._caption, f"no {index}", self._kind)


def quiet(**settings) -> SkipReport:
    return SkipReport(tell=None, **settings)


def numbers(source, positions, report=None, seed: int = 0) -> list[int]:
    report = report or quiet()
    return [sample_at(source, p, seed, lambda s, _: int(s.name.split()[1]), report) for p in positions]


def red(images: torch.Tensor) -> list[int]:
    """The number of each image of a ``Listed``: its red channel."""
    return ((images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


# ---------------------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 16, 30, 97, 100, 1000])
def test_every_pass_is_a_permutation_of_its_own(count):
    passes = [[shuffled(i, count, 5, turn) for i in range(count)] for turn in range(6)]
    assert all(sorted(one) == list(range(count)) for one in passes)
    assert count < 16 or len({tuple(one) for one in passes}) == 6
    assert count < 16 or passes[0] != [shuffled(i, count, 6, 0) for i in range(count)], "seeds have orders of their own"


def test_the_order_of_a_hundred_million_mixes_well():
    count = 100_000_000
    found = np.array([shuffled(i, count, 0, 0) for i in range(5000)])
    assert len(set(found.tolist())) == 5000 and found.min() >= 0 and found.max() < count
    steps = np.diff(found)
    assert len(set(steps.tolist())) > 4990, "an affine order has two or three strides"
    assert abs(np.abs(steps).mean() / count - 1 / 3) < 0.02
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.05
    tenths = np.histogram(found, 10, (0, count))[0]
    assert ((tenths - 500) ** 2 / 500).sum() < 30  # chi squared, 9 degrees of freedom
    assert ((np.bincount(found % 10, minlength=10) - 500) ** 2 / 500).sum() < 30


def test_the_order_is_fixed():
    """A resumed run must meet the order of its first part also with a newer version."""
    assert [shuffled(i, 1000, 0, 0) for i in range(6)] == [487, 368, 455, 751, 252, 454]


@pytest.mark.parametrize("count", [1, 2, 6, 10, 97, 256])
def test_substitutes_ask_every_place_once_and_far_ones_first(count):
    asked = [substitute(3 % count, attempt, count) for attempt in range(count)]
    assert sorted(asked) == list(range(count)) and asked[0] == 3 % count
    assert count < 20 or min((asked[1] - asked[0]) % count, (asked[0] - asked[1]) % count) > count // 4


def test_a_pass_shows_every_good_sample_and_fills_the_places_of_bad_ones():
    bad = {3, 7, 11}
    source = Listed(50, bad)
    report = quiet()
    first = numbers(source, range(50), report)
    assert set(first) == set(range(50)) - bad and len(first) == 50
    whole = numbers(Listed(50), range(50))
    assert [a for a, b in zip(first, whole, strict=True) if b not in bad] == [b for b in whole if b not in bad]
    assert numbers(source, range(50)) == first and numbers(source, [17, 49, 0]) == [first[i] for i in (17, 49, 0)]
    assert set(numbers(source, range(50, 100))) == set(first) and numbers(source, range(50, 100)) != first
    assert report.looked - report.skips == 50 and report.skips >= 3


# ---------------------------------------------------------------------------------------------------------- skips


def test_too_many_bad_samples_are_an_error_that_counts_them():
    with pytest.raises(
        ValueError, match=r"of 1,\d{3} samples looked at were skipped: \d+ x torn file \(no \d+, .*limit = 0.1"
    ):
        numbers(Listed(2000, range(0, 2000, 5)), range(2000))
    report = quiet()
    numbers(Listed(2000, range(0, 2000, 20)), range(2000), report)  # 5 %
    assert report.looked > 2000 and 80 < report.skips < 150
    with pytest.raises(ValueError, match="skip_limit = 0.01"):
        numbers(Listed(2000, range(0, 2000, 20)), range(2000), quiet(limit=0.01))
    numbers(Listed(900, range(0, 900, 3)), range(500), quiet())  # a third, but fewer than 1,000 looks
    with pytest.raises(ValueError, match="skipped"):
        numbers(Listed(900, range(0, 900, 3)), range(500), quiet(least=100))


def test_nothing_good_is_left():
    with pytest.raises(ValueError, match="none of the 3 samples of listed can be used: 3 of 3 .*3 x torn file"):
        numbers(Listed(3, range(3)), [0])


def test_a_report_counts_by_reason_keeps_first_names_and_tells_each_reason_once(tmp_path):
    told = []
    report = SkipReport(kept=2, tell=told.append)
    for k in range(4):
        report.skipped(Skipped(f"{k}.png", "torn file"))
    report.skipped(Skipped("x.png", "no caption"))
    report.skipped(Skipped("0.png", "torn file"))
    report.used()
    report.noted("truncated caption", "y.png")
    assert told == [
        f"skipped {n} (more of this kind are only counted)" for n in ("0.png: torn file", "x.png: no caption")
    ]
    assert report.summary() == (
        "6 of 7 samples looked at were skipped: 5 x torn file (0.png, 1.png); 1 x no caption (x.png)"
    )
    report.write(tmp_path / "run/skipped.json")
    assert json.loads((tmp_path / "run/skipped.json").read_text()) == {
        "looked": 7,
        "skipped": {
            "no caption": {"count": 1, "first": ["x.png"]},
            "torn file": {"count": 5, "first": ["0.png", "1.png"]},
        },
        "changed": {"truncated caption": {"count": 1, "first": ["y.png"]}},
    }
    assert quiet().summary() == "0 of 0 samples looked at were skipped"


# ----------------------------------------------------------------------------------------------------- crops


def fixed(**choices):
    """``below`` that answers ``choices`` and records what it was asked."""
    asked = {}

    def below(n: int, what: str) -> int:
        asked[what] = n
        return choices.get(what, 0)

    return below, asked


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 150, 3), dtype=np.uint8))


def test_the_autoencoder_sees_crops_of_the_reduced_image(photo):
    below, asked = fixed(x=5, mirror=0)
    plain = stream.autoencoder_crop(64)(photo, below)
    reduced = photo.resize((106, 64), Image.Resampling.BICUBIC)  # 64 * 150 / 90 = 106.7
    np.testing.assert_array_equal(plain, np.asarray(reduced)[:, 5:69])
    assert asked == {"x": 43, "y": 1, "mirror": 2}
    np.testing.assert_array_equal(stream.autoencoder_crop(64)(photo, fixed(x=5, mirror=1)[0]), plain[:, ::-1])
    below, asked = fixed(x=5)
    np.testing.assert_array_equal(stream.autoencoder_crop(64, flip=False)(photo, below), plain)
    assert "mirror" not in asked
    tall = stream.autoencoder_crop(64)(photo.rotate(90, expand=True), fixed(y=42)[0])
    assert tall.shape == (64, 64, 3)
    assert stream.autoencoder_crop(64)(Image.new("RGB", (9, 20)), fixed()[0]).shape == (64, 64, 3), "small ones grow"
    np.testing.assert_array_equal(stream.autoencoder_crop(90)(photo, fixed(x=60)[0]), np.asarray(photo)[:, 60:])


def test_the_generator_sees_squares_of_the_short_side_never_mirrored(photo):
    below, asked = fixed(x=60)
    found = stream.generator_crop(48)(photo, below)
    square = photo.crop((60, 0, 150, 90)).resize((48, 48), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(found, np.asarray(square))
    assert asked == {"x": 61, "y": 1}
    np.testing.assert_array_equal(stream.generator_crop(90)(photo, fixed(x=7)[0]), np.asarray(photo)[:, 7:97])


def test_images_that_must_not_be_trained_on():
    for size, reason in (((80, 200), "below 81 px"), ((200, 80), "below 81 px"), ((90, 901), "aspect beyond 1:10")):
        with pytest.raises(ImageError) as caught:
            stream.generator_crop(64)(Image.new("RGB", size), fixed()[0])
        assert caught.value.reason == reason
    for size in ((81, 81), (81, 810), (810, 81)):
        assert stream.generator_crop(64)(Image.new("RGB", size), fixed()[0]).shape == (64, 64, 3)
    assert stream.generator_crop(64, min_side=8)(Image.new("RGB", (20, 30)), fixed()[0]).shape == (64, 64, 3)
    with pytest.raises(ImageError, match="1 x 11 px is beyond 1:10"):
        stream.autoencoder_crop(64)(Image.new("RGB", (1, 11)), fixed()[0])


def test_choices_are_uniform_and_depend_on_seed_pass_index_and_kind():
    def drawn(seed=0, turn=0, index=0, what="x"):
        return stream.draws(seed, turn, index)(1 << 30, what)

    assert drawn() == drawn()
    assert len({drawn(), drawn(seed=1), drawn(turn=1), drawn(index=1), drawn(what="y")}) == 5
    shares = np.bincount([stream.draws(0, 0, i)(4, "x") for i in range(4000)], minlength=4) / 4000
    assert np.abs(shares - 0.25).max() < 0.03


# --------------------------------------------------------------------------------------------------------- captions

LONG = " ".join(["a photo of a red star left of a blue circle"] * 30)


@pytest.fixture(scope="module")
def vocabulary():
    return words.build("internvl")


def test_a_long_caption_is_cut_between_words_and_the_template_stays(vocabulary):
    caption, cut = prompts.fit(vocabulary, LONG, 64)
    assert cut and LONG.startswith(f"{caption} ")
    ids = vocabulary(conditional(caption)).input_ids
    assert len(ids) == 64  # words are tokens here: none is wasted
    end = vocabulary("<|im_end|>\n<|im_start|>assistant\n").input_ids
    assert ids[-len(end) :] == end
    for short in ("a red star", ""):
        assert prompts.fit(vocabulary, short, 64) == (short, False)
    exact = prompts.length(vocabulary, "a red star")
    assert prompts.fit(vocabulary, "a red star", exact) == ("a red star", False)
    assert prompts.fit(vocabulary, "a red star", exact - 1) == ("a red", True)


class Letters:
    """A tokenizer whose tokens are bytes."""

    def __call__(self, text: str):
        return type("Found", (), {"input_ids": list(text.encode())})


def test_captions_without_spaces_and_endless_ones_fit_too():
    room = prompts.length(Letters(), "")
    caption, cut = prompts.fit(Letters(), "星" * 500, room + 50)
    assert cut and caption == "星" * 16  # three bytes each
    assert prompts.fit(Letters(), "ab cd efgh", room + 8) == ("ab cd", True)
    assert prompts.fit(Letters(), "ab cd efgh", room + 5) == ("ab cd", True)
    caption, cut = prompts.fit(Letters(), "word " * 1_000_000, room + 20)
    assert cut and caption == "word word word word"


def test_a_budget_that_the_template_fills_is_refused(vocabulary):
    with pytest.raises(ValueError, match=r"data.caption_tokens = 12 leaves no room for captions; set \d+ or more"):
        data.source_caption_batches(
            Listed(4), stream.generator_crop(32), vocabulary, data.DataConfig(caption_tokens=12), 2, 0
        )


# ---------------------------------------------------------------------------------------------------------- batches


def test_batches_are_pure_functions_of_their_number_whatever_the_rows():
    make = lambda rows, seed=0: data.source_image_batches(  # noqa: E731
        Listed(60, {4, 9}, size=(50, 70)), stream.autoencoder_crop(32), rows, seed, quiet()
    )
    four, eight = make(4), make(8)
    assert four(3)["images"].shape == (4, 3, 32, 32) and four(3)["images"].abs().max() <= 1
    later = [four(k)["images"] for k in (5, 4, 0)]
    assert torch.equal(torch.cat([later[1], later[0]]), eight(2)["images"])
    assert torch.equal(make(4)(0)["images"], later[2]) and not torch.equal(make(4, 1)(0)["images"], later[2])
    shown = sum((red(four(k)["images"]) for k in range(15)), [])
    assert set(shown) == set(range(60)) - {4, 9}


def test_crops_change_from_pass_to_pass(photo):
    class One(Listed):
        def item(self, index: int):
            return Sample(photo, "x", "photo")

    at = data.source_image_batches(One(1), stream.autoencoder_crop(32), 1, 0, quiet())
    assert len({at(k)["images"].numpy().tobytes() for k in range(12)}) > 6


def test_caption_batches_pair_captions_with_their_images(vocabulary):
    class Captioned(Listed):
        def item(self, index: int):
            found = super().item(index)
            return found if isinstance(found, Skipped) else Sample(found.image, NAMES[index % 3], found.name)

    NAMES = ("a photo of a red star", "a photo of a blue ring", "a photo of two green moons")
    settings = data.DataConfig(unconditional=0.3)
    at = data.source_caption_batches(
        Captioned(90, {5}), stream.generator_crop(32), vocabulary, settings, 30, 0, quiet()
    )
    dropped = 0
    for k in range(6):
        batch = at(k)
        assert batch["images"].shape == (30, 3, 32, 32)
        for number, ids, mask in zip(red(batch["images"]), batch["ids"], batch["mask"], strict=True):
            told = vocabulary.decode(ids[mask]).replace(" ", "")
            named = NAMES[number % 3].replace(" ", "") in told
            dropped += not named
            assert named or int(mask.sum()) == 12  # the unconditional prompt
    assert 30 < dropped < 80  # of 180, at 0.3
    assert torch.equal(at(2)["ids"], at(2)["ids"])


def test_captions_are_skipped_for_markup_and_counted_when_cut(vocabulary):
    report = quiet()
    settings = data.DataConfig(caption_tokens=40, unconditional=0)
    source = Listed(4, caption=LONG, kind="CMYK")
    batch = data.source_caption_batches(source, stream.generator_crop(32), vocabulary, settings, 4, 0, report)(0)
    assert batch["ids"].shape == (4, 40)
    changed = report.to_dict()["changed"]
    assert {k: v["count"] for k, v in changed.items()} == {"truncated caption": 4, "converted from CMYK": 4}
    for caption in ("end <|im_end|> it", "an <img> tag"):
        at = data.source_caption_batches(
            Listed(4, caption=caption), stream.generator_crop(32), vocabulary, settings, 2, 0, quiet()
        )
        with pytest.raises(ValueError, match="none of the 4 samples .*4 x special token in the caption"):
            at(0)


def test_rejected_crops_are_skipped(vocabulary):
    at = data.source_image_batches(Listed(3, size=(64, 64)), stream.generator_crop(32), 2, 0, quiet())
    with pytest.raises(ValueError, match="3 x below 81 px"):
        at(0)


class Folded(torch.nn.Module):
    """An autoencoder whose latents are blocks of 4 x 4 pixels."""

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pixel_unshuffle(images, 4)


def test_statistics_of_a_source_are_those_of_its_latents():
    at = data.source_image_batches(Listed(60, size=(40, 40)), stream.autoencoder_crop(32), 8, 0, quiet())
    mean, std = data.source_statistics(Folded(), at, 20)
    z = Folded().encode(torch.cat([at(k)["images"] for k in range(3)])[:20])
    assert mean == pytest.approx(z.mean((0, 2, 3)).tolist(), abs=0.01)
    assert std == pytest.approx(z.permute(1, 0, 2, 3).flatten(1).std(1).tolist(), rel=0.01)
    assert len(mean) == 48 and len(set(std[::16])) > 1


# --------------------------------------------------------------------------------------------------------- prefetch


def test_prefetched_batches_are_the_same_in_any_order_and_made_once():
    made, lock = [], threading.Lock()

    def batches(index: int):
        with lock:
            made.append(index)
        if index == 9:
            raise ValueError("batch 9 is bad")
        return {"x": torch.tensor([index])}

    with Prefetch(batches, 3, stride=2, ahead=4) as ahead:
        assert [int(ahead(k)["x"]) for k in (1, 3, 5, 7)] == [1, 3, 5, 7]
        with pytest.raises(ValueError, match="batch 9 is bad"):
            ahead(9)
        assert len(made) == len(set(made)) and set(made) <= set(range(1, 19, 2))
        assert int(ahead(4)["x"]) == 4 and int(ahead(4)["x"]) == 4  # somewhere else, and again
    made.clear()
    with Prefetch(batches, 1, stride=2, ahead=4, end=4) as ahead:
        assert [int(ahead(k)["x"]) for k in (1, 3)] == [1, 3]
    assert made == [1, 3]  # a run's last step has no next one
    for settings in ((0, 1), (1, 0), (1, 1, -1)):
        with pytest.raises(ValueError, match="prefetch of"):
            Prefetch(batches, *settings)


def test_processes_make_the_same_batches_in_the_same_order():
    def batches(index: int) -> dict:
        if index == 9:
            raise ValueError("batch 9 is bad")
        return {"x": torch.tensor([index, os.getpid()])}

    with Forked(batches, 2, stride=2) as ahead:
        found = [ahead(k)["x"].tolist() for k in (1, 3, 5, 7)]
        assert [k for k, _ in found] == [1, 3, 5, 7]
        assert os.getpid() not in {process for _, process in found}
        with pytest.raises(ValueError, match="batch 9 is bad"):
            ahead(9)
        assert [int(ahead(k)["x"][0]) for k in (4, 4, 6)] == [4, 4, 6]  # somewhere else, again, and on
    assert list(each(lambda k: [k, "text"], range(5), 2)) == list(each(lambda k: [k, "text"], range(5), 0))


def test_prefetching_a_source_changes_nothing():
    source = Listed(40, {3, 30}, size=(60, 50))
    at = data.source_image_batches(source, stream.autoencoder_crop(32), 4, 0, quiet())
    with Prefetch(data.source_image_batches(source, stream.autoencoder_crop(32), 4, 0, quiet()), 4) as ahead:
        assert all(torch.equal(at(k)["images"], ahead(k)["images"]) for k in range(12))


def test_a_smaller_crop_shows_down_to_a_share_of_the_shorter_side():
    image = Image.fromarray(np.zeros((100, 100, 3), np.uint8))
    asked: list[tuple[int, str]] = []

    def below(n: int, what: str) -> int:
        asked.append((n, what))
        return n - 1

    assert stream.autoencoder_crop(80, min_crop=0.8)(image, below).shape == (80, 80, 3)
    assert asked[:3] == [(21, "edge"), (21, "x"), (21, "y")]
