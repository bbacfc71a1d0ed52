"""The synthetic scenes is the same everywhere, its splits are apart, and its images show what its scenes say."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from skimage.color import rgb2lab

from vgt.core import scenes

GOLDEN = Path(__file__).parent / "golden" / "scenes.json"
ITEMS = (
    ("train", 0, None),
    ("train", 20_000, "counting"),
    ("val", 3, "color_attr"),
    ("test", 1, None),
    ("test", 5, "dense"),
    ("test", 12, "position"),
)


def golden() -> dict[str, str]:
    """sha256 of the rendered bytes; written anew with ``python tests/test_scenes.py > tests/golden/scenes.json``."""
    return {
        f"{split}/{index}/{task or 'any'}/{size}": hashlib.sha256(
            scenes.item(split, index, size, task).image.tobytes()
        ).hexdigest()
        for (split, index, task), size in itertools.product(ITEMS, scenes.SIZES)
    }


def content(scene: scenes.Scene) -> tuple:
    return tuple(sorted((o.shape, o.color, o.cx, o.cy, o.radius) for o in scene.objects))


def test_golden_images():
    assert golden() == json.loads(GOLDEN.read_text())


def test_items_do_not_depend_on_the_process():
    code = (
        "from vgt.core import scenes; import hashlib; "
        "print(hashlib.sha256(scenes.images('val', range(9, 5, -1)).tobytes()).hexdigest())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = np.stack([scenes.item("val", i).image for i in (6, 7, 8, 9)])[::-1]
    assert other.stdout.strip() == hashlib.sha256(here.tobytes()).hexdigest()


def test_items_are_pure():
    first = scenes.item("train", 11)
    for other in range(5):
        scenes.item("train", other, 128)
    scenes._coverage.cache_clear()
    scenes._shape_mask.cache_clear()
    again = scenes.item("train", 11)
    assert first.scene == again.scene
    assert np.array_equal(first.image, again.image)
    assert len({scenes.item("train", i).image.tobytes() for i in range(200)}) == 200


def test_splits_are_apart_by_content():
    found = {split: {content(scenes.scene(split, i)) for i in range(300)} for split in scenes.SPLITS}
    for a, b in itertools.combinations(scenes.SPLITS, 2):
        assert not found[a] & found[b]
    for split in scenes.SPLITS:
        assert all(scenes.split_of(scenes.scene(split, i)) == split for i in range(100))


def test_split_follows_from_content_alone():
    """The same objects on another background, in another order, belong to the same split."""
    scene = scenes.scene("test", 4, "dense")
    other = scenes.Scene(scene.objects[::-1], scenes.scene("train", 9).background, "counting")
    assert scenes.split_of(other) == "test"


def test_training_never_shows_a_held_out_pair():
    train = [scenes.scene("train", i) for i in range(2000)]
    assert not {o.pair for s in train for o in s.objects} & scenes.HELD_OUT
    assert not any(s.held_out for s in train)
    test = [scenes.scene("test", i) for i in range(2000)]
    assert {o.pair for s in test for o in s.objects} >= scenes.HELD_OUT


def test_training_shows_everything_else():
    """Each shape and colour is seen, and every pair that is not held out."""
    pairs = {o.pair for i in range(2500) for o in scenes.scene("train", i).objects}
    assert pairs == set(itertools.product(scenes.COLORS, scenes.SHAPES)) - scenes.HELD_OUT
    assert len(scenes.SHAPES) >= 8 and len(scenes.COLORS) == 10


@pytest.mark.parametrize("size", scenes.SIZES)
def test_masks_boxes_and_paint_agree(size):
    step = scenes.CANVAS // size
    for index in range(60):
        item = scenes.item("val", index, size)
        assert item.image.shape == (size, size, 3) and item.image.dtype == np.uint8
        assert len(item.masks) == len(item.boxes) == len(item.scene.objects)
        for o, mask, box in zip(item.scene.objects, item.masks, item.boxes, strict=True):
            rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert box == (cols[0], rows[0], cols[-1] + 1, rows[-1] + 1)
            assert (
                np.abs(np.array(box) - np.array(o.extent) / step).max() <= 2
            )  # sharp tips cover less than half a pixel
            top, left = o.cy - o.radius, o.cx - o.radius
            units = np.zeros((scenes.CANVAS, scenes.CANVAS), bool)
            units[top : top + 2 * o.radius, left : left + 2 * o.radius] = scenes._shape_mask(o.shape, o.radius)
            cover = units.reshape(size, step, size, step).mean((1, 3))  # the share of each pixel that is covered
            assert np.array_equal(mask, cover >= 0.5)
            assert (item.image[cover == 1] == o.rgb).all() and (cover == 1).any()


@pytest.mark.parametrize("size", scenes.SIZES)
def test_edges_are_blends_and_the_rest_is_background(size):
    item = scenes.item("test", 2, size)
    background = scenes._render_background(item.scene.background, size)
    grown = np.zeros((size, size), bool)
    for x1, y1, x2, y2 in item.boxes:
        grown[max(0, y1 - 1) : y2 + 1, max(0, x1 - 1) : x2 + 1] = True
    assert (item.image[~grown] == background[~grown]).all()


def test_objects_keep_their_distance():
    for index in range(400):
        item = scenes.item("train", index, 32)
        assert np.sum(item.masks, axis=0).max() == 1
        for o in item.scene.objects:
            assert o.radius <= o.cx <= scenes.CANVAS - o.radius and o.radius <= o.cy <= scenes.CANVAS - o.radius
        for a, b in itertools.combinations(item.scene.objects, 2):
            assert max(abs(a.cx - b.cx), abs(a.cy - b.cy)) >= a.radius + b.radius + scenes.GAP


def test_every_color_stands_out_from_every_background():
    """Lab distance between each painted object and the background pixels of its own image, and between any two of
    the ten colours, whatever their jitter."""
    nearest: dict[str, float] = {}
    for index in range(500):
        item = scenes.item("train", index, 32)
        background = scenes._render_background(item.scene.background, 32).astype(np.uint8)
        lab = rgb2lab(background).reshape(-1, 3)
        for o in item.scene.objects:
            distance = np.linalg.norm(lab - rgb2lab(np.array(o.rgb, np.uint8)), axis=1).min()
            nearest[o.color] = min(nearest.get(o.color, 1e9), float(distance))
    assert set(nearest) == set(scenes.COLORS)
    assert min(nearest.values()) > 18, nearest
    palette = [rgb2lab(np.array(rgb, np.uint8)) for rgb in scenes.COLORS.values()]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(palette, 2)) > 25


@pytest.mark.parametrize("size", scenes.SIZES)
def test_position_scenes_fulfil_genevals_rule(size):
    seen = set()
    for index in range(120):
        item = scenes.item("test", index, size, "position")
        assert item.scene.relation in scenes.relations(item.boxes[0], item.boxes[1])
        seen.add(item.scene.relation)
    assert seen == set(scenes.RELATIONS)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [  # docs/evaluators.md 8
        ((0, 0, 10, 10), (30, 0, 40, 10), {"left of"}),
        ((0, 0, 10, 10), (30, 30, 40, 40), {"left of", "above"}),
        ((0, 0, 10, 10), (30, 12, 40, 22), {"left of"}),
        ((0, 0, 10, 10), (2, 0, 12, 10), set()),
        ((30, 0, 40, 10), (0, 0, 10, 10), {"right of"}),
        ((0, 0, 10, 10), (3.5, 0, 13.5, 10), set()),  # shrunk by 2 of 3.5: dx = -0.43
        ((0, 0, 10, 10), (4.5, 0, 14.5, 10), {"left of"}),  # shrunk by 2 of 4.5: dx = -0.56
        ((0, 30, 10, 40), (0, 0, 10, 10), {"below"}),
        ((0, 0, 10, 10), (0, 0, 10, 10), set()),
    ],
)
def test_relations(a, b, expected):
    assert set(scenes.relations(a, b)) == expected


@pytest.mark.parametrize("task", [*scenes.TASKS, "dense"])
def test_tasks_lay_out_what_they_name(task):
    for index in range(60):
        scene = scenes.scene("test", index, task)
        kinds = [o.pair for o in scene.objects]
        shapes = {shape for _, shape in kinds}
        assert scene.task == task
        assert (scene.relation is not None) == (task == "position")
        if task in ("single_object", "colors"):
            assert len(kinds) == 1
        elif task == "counting":
            assert 2 <= len(kinds) <= 4 and len(shapes) == 1
        elif task == "dense":
            assert 1 <= len(kinds) <= 4 and len(set(kinds)) == len(kinds)
        else:
            assert len(kinds) == len(shapes) == 2 and len({color for color, _ in kinds}) == 2


def test_errors_name_the_value_and_the_remedy():
    with pytest.raises(ValueError, match="size 100 .* 32, 64, 128"):
        scenes.item("train", 0, 100)
    with pytest.raises(ValueError, match="split 'dev' .* train, val, test"):
        scenes.scene("dev", 0)
    with pytest.raises(ValueError, match="index -1"):
        scenes.scene("train", -1)
    with pytest.raises(ValueError, match="task 'juggling' .* counting"):
        scenes.scene("train", 0, "juggling")
    with pytest.raises(ValueError, match="5 objects .* fewer"):
        scenes.compose(scenes.Draws("test"), [("red", "star")] * 5, sizes=["large"] * 5)
    with pytest.raises(ValueError, match="contradict"):
        both = [(0, "left of", 1), (1, "left of", 0)]
        scenes.compose(scenes.Draws("test"), [("red", "star"), ("blue", "ring")], sizes=["small"] * 2, holds=both)


def test_draws_are_uniform_and_keyed():
    draws = scenes.Draws("a", 1)
    counts = np.bincount([draws.below(7) for _ in range(14_000)], minlength=7)
    assert len(counts) == 7 and abs(counts - 2000).max() < 200
    assert [scenes.Draws("a", 1).below(1000) for _ in range(3)] == [scenes.Draws("a", 1).below(1000)] * 3
    assert len({tuple(scenes.Draws(*key).below(10**6) for _ in range(1)) for key in ((0, 1), (1, 0), ("0", 1))}) == 3
    assert sorted(scenes.Draws("b").some(range(6), 6)) == list(range(6))


if __name__ == "__main__":
    print(json.dumps(golden(), indent=1))
