"""The analytic judge: what it sees on clean, degraded and senseless images, its answers, its calibration."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from evals.calibration import run as calibration
from evals.engine.api import Answerer, Detector
from evals.judges import analytic, canary
from evals.judges.analytic import AnalyticJudge, color_name, confidence
from evals.subjects.fake import Noise
from vgt.core import captions, record, suites
from vgt.core.scenes import COLORS, SHAPES, TINTS, Background, Draws, Object, Scene, item, render

JUDGE = AnalyticJudge()


def truth(drawn) -> Counter:
    return Counter((o.shape, o.color) for o in drawn.scene.objects)


def exact(condition: str, n: int = 100, size: int = 64) -> float:
    """Share of test scenes whose (class, color) multiset is found after a degradation."""
    rng = np.random.default_rng(0)
    degrade = calibration.CONDITIONS[condition]
    items = [item("test", index, size) for index in range(n)]
    return float(np.mean([canary.pairs(JUDGE, degrade(x.image, rng)) == truth(x) for x in items]))


def test_is_a_detector_and_an_answerer():
    assert isinstance(JUDGE, Detector) and isinstance(JUDGE, Answerer)
    assert JUDGE.classes == SHAPES and len(JUDGE.fingerprint) == 64


@pytest.mark.parametrize("size", [32, 64, 128])
def test_clean_scenes_are_seen_exactly(size):
    assert exact("clean", 60 if size != 64 else 100, size) == 1.0


@pytest.mark.parametrize(
    ("condition", "least"),
    [("blur1", 0.98), ("blur1.5", 0.95), ("noise10", 0.95), ("noise20", 0.95), ("jpeg50", 0.9), ("shrink32", 0.95)],
)
def test_degraded_scenes(condition, least):
    assert exact(condition, 60) >= least


def test_every_held_out_and_every_other_pair_is_named():
    ground = Background("gray", "none", (138, 138, 138), 0, (0,) * 25)
    for shape in SHAPES:
        for color, rgb in COLORS.items():
            image = render(Scene((Object(shape, color, 120, 131, 36, rgb),), ground, "colors")).image
            assert canary.pairs(JUDGE, image) == Counter([(shape, color)])


def test_boxes_masks_and_scores_of_clean_objects():
    for index in range(40):
        drawn = item("test", index)
        detections = JUDGE.detect(drawn.image)
        assert [d.score for d in detections] == sorted((d.score for d in detections), reverse=True)
        assert all(d.score > 0.9 for d in detections)
        for mask, box in zip(drawn.masks, drawn.boxes, strict=True):
            best = max(detections, key=lambda d: (d.mask & mask).sum())
            assert (best.mask & mask).sum() / (best.mask | mask).sum() > 0.75
            assert np.abs(np.subtract(best.box, box)).max() <= 2


def test_masks_have_the_size_of_the_image():
    image = np.kron(item("test", 3).image, np.ones((3, 3, 1), np.uint8))  # 192 x 192
    wide = np.concatenate([image, image[:, :50][:, ::-1]], 1)
    for img in (image, wide, item("test", 3, 32).image):
        for d in JUDGE.detect(img):
            assert d.mask.shape == img.shape[:2]
            x1, y1, x2, y2 = map(int, d.box)
            assert d.mask[y1:y2, x1:x2].sum() == d.mask.sum() > 0
    assert canary.pairs(JUDGE, image) == truth(item("test", 3))


def test_touching_objects_of_two_colors_are_two():
    ground = Background("gray", "none", (138, 138, 138), 0, (0,) * 25)
    objects = (
        Object("square", "red", 80, 128, 40, COLORS["red"]),
        Object("square", "blue", 152, 128, 40, COLORS["blue"]),
    )
    assert objects[0].extent[2] == objects[1].extent[0]
    seen = canary.pairs(JUDGE, render(Scene(objects, ground, "dense")).image)
    assert seen == Counter([("square", "red"), ("square", "blue")])


def test_senseless_images_show_nothing():
    rng = np.random.default_rng(0)
    flat = [np.full((64, 64, 3), level, np.uint8) for level in (0, 130, 255)]
    noise = list(Noise().generate(["x"] * 20, range(20)))
    fields = []
    for sigma in (2.0, 4.0):
        for _ in range(10):
            field = calibration.blurred(rng.normal(size=(64, 64, 3)), sigma)
            fields.append(np.clip(field / field.std() * 50 + 128, 0, 255).astype(np.uint8))
    seen = sum(d.score > 0.3 for image in (*flat, *noise, *fields) for d in JUDGE.detect(image))
    assert seen <= 1


def test_a_warped_shape_scores_between_a_clean_one_and_a_speck():
    image = render(item("test", 0, task="single_object").scene).image
    clean = JUDGE.detect(image)[0].score
    y, x = np.mgrid[:64, :64]
    for power, low, high in ((1.0, 0.9, 1.0), (9.0, 0.0, 0.9)):
        bent = np.clip(x + np.rint(power * np.sin(y / 3.0)).astype(int), 0, 63)
        score = max((d.score for d in JUDGE.detect(image[y, bent])), default=0.0)
        assert low <= score <= high and score <= clean


def test_confidence_grows_with_each_of_its_parts():
    plain = {"fit": 0.9, "margin": 0.02, "contrast": 25.0, "calm": 0.6}
    for name, more in (("fit", 0.95), ("margin", 0.04), ("contrast", 40.0), ("calm", 0.7)):
        assert confidence(**{**plain, name: more}) > confidence(**plain)
    assert confidence(0.84, 1.0, 60.0, 0.8) == pytest.approx(0.5, abs=1e-3)
    assert confidence(0.98, 0.05, 40.0, 0.7) > 0.99


def test_colors_are_named_by_the_palette():
    assert [color_name(np.array(rgb)) for rgb in COLORS.values()] == list(COLORS)


def test_answers_agree_with_the_scene():
    asked = right = 0
    for index in range(60):
        drawn = item("test", index)
        for question, answer in captions.questions(drawn.scene, Draws("test_judge", index), 8):
            asked += 1
            right += JUDGE.answer(drawn.image, question) == answer
    assert right >= 0.995 * asked
    with pytest.raises(ValueError, match="grammar"):
        JUDGE.answer(item("test", 0).image, "Who painted this?")


def test_background_is_named():
    for index in range(60):
        drawn = item("test", index)
        sight, ground = JUDGE.scene_text(drawn.image), drawn.scene.background
        assert (sight.tint, sight.shade) == (ground.tint, ground.shade)
        assert sight.tint in TINTS


def test_refuses_what_is_not_a_image():
    with pytest.raises(ValueError, match="uint8"):
        JUDGE.detect(np.zeros((64, 64, 3)))
    with pytest.raises(ValueError, match="8 pixels"):
        JUDGE.detect(np.zeros((4, 4, 3), np.uint8))


def test_noise_level_is_measured():
    rng = np.random.default_rng(0)
    clean = item("test", 1).image.astype(np.float32)
    assert analytic.noise_level(clean) < 2
    assert analytic.noise_level(clean + rng.normal(0, 15, clean.shape)) == pytest.approx(15, rel=0.15)


class Blind:
    """A detector and answerer that sees nothing: what a wrong configuration looks like."""

    name, fingerprint, classes = "blind", "blind", SHAPES

    def detect(self, image):
        return []

    def color(self, image, detection):
        return "red"

    def answer(self, image, question):
        return "no"


def test_canary_stops_a_blind_judge():
    canary.check_detector(JUDGE)
    canary.check_answerer(JUDGE)
    with pytest.raises(ValueError, match="canary"):
        canary.check_detector(Blind())
    with pytest.raises(ValueError, match="canary"):
        canary.check_answerer(Blind())


def test_agreement():
    originals = np.stack([item("test", index).image for index in range(6)])
    changed = originals.copy()
    changed[2] = item("test", 30).image
    assert calibration.agreement(JUDGE, originals, changed).tolist() == [True, True, False, True, True, True]


def test_calibration_records_and_recomputes_one(tmp_path):
    options = {
        "work": tmp_path,
        "records": tmp_path / "records",
        "n": 10,
        "prompts": suites.geneval_prompts(per_task=3),
        "images_per_prompt": 1,
        "conditions": ("clean", "jpeg25"),
    }
    first = calibration.run(JUDGE, **options)
    assert (first.computed, first.reused) == (16, 0)
    by_name = {r.name: r for r in first.records}
    assert by_name["judge-analytic/calibration-clean/overall"].value == 1.0
    assert by_name["judge-analytic/calibration-clean/exact-set"].value == 1.0
    assert all(r.partial for r in first.records)  # ten scenes are not the full calibration
    assert (tmp_path / by_name["judge-analytic/calibration-jpeg25/colors"].evidence).is_file()

    (tmp_path / "records" / by_name["judge-analytic/calibration-jpeg25/exact-set"].path).unlink()
    again = calibration.run(JUDGE, **options)
    assert (again.computed, again.reused) == (1, 15)
    assert record.scores(again.records) == record.scores(first.records)
    with pytest.raises(ValueError, match="condition 'fog'"):
        calibration.run(JUDGE, **{**options, "conditions": ("fog",)})


def test_an_original_is_judged_once_and_by_its_own_judge():
    agreement = calibration.agreement

    class Counting(AnalyticJudge):
        seen = 0

        def detect(self, image):
            type(self).seen += 1
            return super().detect(image)

    class Blind(AnalyticJudge):
        def detect(self, image):
            return []

    images = np.stack([item("test", i).image for i in (11, 12)])
    assert agreement(Counting(), images, images).all() and Counting.seen == 4
    assert agreement(Counting(), images, images).all() and Counting.seen == 6  # the originals are remembered
    assert agreement(Blind(), images, images).all()  # nothing found on either side, whatever others found
