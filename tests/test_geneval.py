"""GenEval's rules on stored detections, and whole runs: resuming, rescoring, coverage."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from evals.engine.api import Detection
from evals.geneval import official, rules
from evals.geneval import run as geneval
from evals.judges.analytic import AnalyticJudge
from evals.judges.answering import JudgeLost
from evals.subjects import fake
from evals.subjects.folder import folder
from vgt.__main__ import main
from vgt.core import record, suites
from vgt.core.scenes import TASKS, relations

JUDGE = AnalyticJudge()
SUITE = "scenes-geneval"
PROMPTS = suites.geneval_prompts(per_task=4)
EMPTY = np.zeros((4, 4), bool)


def found(label: str, score: float, box=(0, 0, 10, 10)) -> Detection:
    return Detection(label, score, tuple(map(float, box)), EMPTY)


def options(root, **more) -> dict:
    return {"work": root, "records": root / "records", "suite": SUITE, "prompts": PROMPTS, "batch": 8, **more}


def everything(root) -> dict[str, bytes]:
    """Every file of a run but its records (they hold times)."""
    paths = [p for p in root.rglob("*") if p.is_file() and "records" not in p.parts]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in paths}


# ---------------------------------------------------------------------------------------------------- the rules


def test_positions_of_the_spec():
    assert relations((0, 0, 10, 10), (30, 0, 40, 10)) == ("left of",)
    assert relations((0, 0, 10, 10), (30, 30, 40, 40)) == ("left of", "above")
    assert relations((0, 0, 10, 10), (30, 12, 40, 22)) == ("left of",)
    assert relations((0, 0, 10, 10), (2, 0, 12, 10)) == ()


CLOCKS = {
    "tag": "counting",
    "include": [{"class": "clock", "count": 2}],
    "exclude": [{"class": "clock", "count": 3}],
    "prompt": "a photo of two clocks",
}


def test_exclude_of_the_spec():
    three = [found("clock", s) for s in (0.99, 0.95, 0.91)]
    assert rules.judge_image(three, CLOCKS, [None] * 3) == (False, "expected clock<3, found 3")
    third_below = [found("clock", s) for s in (0.99, 0.95, 0.85)]
    assert rules.judge_image(third_below, CLOCKS, [None] * 3) == (True, "")
    assert rules.judge_image(three[:1], CLOCKS, [None]) == (False, "expected clock>=2, found 1")


def test_threshold_is_strict_and_counting_has_its_own():
    star = {"tag": "single_object", "include": [{"class": "star", "count": 1}], "prompt": "a photo of a star"}
    assert rules.judge_image([found("star", 0.3)], star, [None])[0] is False
    assert rules.judge_image([found("star", 0.31)], star, [None])[0] is True
    assert rules.judge_image([found("star", s) for s in (0.9, 0.8, 0.7)], star, [None] * 3)[0] is True
    assert rules.select([found("star", 0.9)], "counting") == {}


@pytest.mark.parametrize(("tag", "threshold"), [("colors", 0.3), ("counting", 0.9), ("two_object", 0.35)])
def test_scores_are_compared_as_float32(tag, threshold):
    """As the official code, whose scores are float32; a threshold itself does not count, wherever it rounds to."""
    settings = rules.Thresholds() if threshold in (0.3, 0.9) else rules.Thresholds(threshold=threshold)
    at = np.float32(threshold)
    below, above = (float(np.nextafter(at, np.float32(to))) for to in (0, 1))
    for score, kept in ((below, False), (float(at), False), (threshold, False), (above, True)):
        assert bool(rules.select([found("star", score)], tag, settings)) == kept, score
    if not settings.variant:
        lines = [{"tag": tag, "details": {"star": [[0, 0, 9, 9, score] for score in (below, float(at), above)]}}]
        assert official.doubts(lines)[0].startswith(f"2 boxes score {threshold} or less")


def test_cap_and_suppression():
    many = [found("star", 0.4 + k / 100, (30 * k, 0, 30 * k + 10, 10)) for k in range(20)]
    assert rules.select(many, "colors")["star"] == list(range(19, 3, -1))
    same = [found("star", 0.9), found("star", 0.8), found("heart", 0.7)]
    assert len(rules.select(same, "colors")["star"]) == 2  # off by default, though the IoU is 1
    strict = rules.Thresholds(max_overlap=0.5)
    assert rules.select(same, "colors", strict) == {"star": [0], "heart": [2]}


def test_of_equal_scores_the_last_comes_first():
    stars = [found("star", s) for s in (0.5, 0.9, 0.9, 0.5, 0.7)]
    assert rules.select(stars, "colors")["star"] == [2, 1, 4, 3, 0]
    assert rules.select(stars, "colors", rules.Thresholds(max_objects=1))["star"] == [2]


def test_scores_are_kept_as_they_are(tmp_path):
    """One float32 step above the threshold counts; rounded to six digits it would be on the other side."""
    above = float(np.nextafter(np.float32(0.3), np.float32(1)))

    class Judge(AnalyticJudge):
        def detect(self, image):
            return [Detection("star", above, (0.0, 0.0, 9.0, 9.0), np.ones(image.shape[:2], bool))]

    prompts = [{"tag": "single_object", "include": [{"class": "star", "count": 1}], "prompt": "a photo of a star"}]
    given = options(tmp_path, prompts=prompts, suite="mine", images_per_prompt=1, check_judge=lambda judge: None)
    outcome = geneval.run(fake.Noise(), Judge(), **given)
    evidence = tmp_path / outcome.records[0].evidence
    assert json.loads(evidence.read_text())["detections"][0]["score"] == above > 0.3
    assert {r.metric: r.value for r in outcome.records}["images-correct"] == 1.0


def test_overlap_is_inclusive():
    assert rules.overlap((0, 0, 9, 9), (0, 0, 9, 9)) == 1.0
    assert rules.overlap((0, 0, 9, 9), (9, 0, 18, 9)) == pytest.approx(10 / 190)  # they share one column
    assert rules.overlap((0, 0, 9, 9), (20, 0, 29, 9)) == 0.0


def test_colors_of_the_most_confident_only():
    red = {
        "tag": "colors",
        "include": [{"class": "star", "count": 1, "color": "red"}],
        "prompt": "a photo of a red star",
    }
    stars = [found("star", 0.9), found("star", 0.8)]
    assert rules.judge_image(stars, red, ["red", "blue"]) == (True, "")
    right, reason = rules.judge_image(stars, red, ["blue", "red"])
    assert (right, reason) == (False, "expected red star>=1, found 0 red; and 1 blue")


PLACED = {
    "tag": "position",
    "include": [{"class": "star", "count": 1}, {"class": "ring", "count": 1, "position": ["left of", 0]}],
    "prompt": "a photo of a ring left of a star",
}


def test_positions_and_their_messages():
    ring, star = found("ring", 0.9), found("star", 0.9, (30, 0, 40, 10))
    assert rules.judge_image([ring, star], PLACED, [None, None]) == (True, "")
    below = found("ring", 0.9, (40, 30, 50, 40))
    right, reason = rules.judge_image([below, star], PLACED, [None, None])
    assert (right, reason) == (False, "expected ring left of target, found below target")
    right, reason = rules.judge_image([ring], PLACED, [None])
    assert (right, reason) == (False, "expected star>=1, found 0\nno target for ring to be left of")


def test_extra_objects_never_hurt():
    crowd = [found("ring", 0.9), found("star", 0.9, (30, 0, 40, 10)), found("moon", 0.99, (5, 5, 9, 9))]
    assert rules.judge_image(crowd, PLACED, [None] * 3)[0]


def test_masks_survive_storage():
    rng = np.random.default_rng(0)
    for mask in (rng.random((5, 7)) > 0.5, np.zeros((3, 4), bool), np.ones((3, 4), bool)):
        code = json.loads(json.dumps(official.encode_mask(mask)))
        assert np.array_equal(official.decode_mask(code), mask)
    assert official.encode_mask(np.array([[0, 1], [1, 1]], bool))["counts"] == "13"  # COCO: by column, zeros first
    with pytest.raises(ValueError, match="sum to 3"):
        official.decode_mask({"size": [2, 2], "counts": [3]})


# --------------------------------------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """A complete run of the oracle: its folder and its outcome."""
    root = tmp_path_factory.mktemp("oracle")
    return root, geneval.run(fake.Oracle(), JUDGE, **options(root))


def run_folder(root, model="oracle"):
    (path,) = [p for p in (root / "geneval" / model).iterdir() if not p.name.startswith(".")]
    return path


def test_oracle_noise_and_shuffled(oracle, tmp_path):
    scores = {r.metric: r for r in oracle[1].records}
    assert list(scores) == ["overall", *TASKS, "held_out", "images-correct", "prompts-any"]
    assert scores["overall"].value >= 0.99 and scores["overall"].n == 96
    assert scores["overall"].low <= scores["overall"].value <= scores["overall"].high
    assert scores["overall"].partial  # 24 prompts are not the suite of 120
    for subject, most in ((fake.Noise(), 0.05), (fake.shuffled([p["prompt"] for p in PROMPTS]), 0.2)):
        outcome = geneval.run(subject, JUDGE, **options(tmp_path, images_per_prompt=1))
        assert outcome.records[0].value <= most


def test_layout_and_official_results(oracle):
    folder_ = run_folder(oracle[0])
    assert sorted(p.name for p in folder_.iterdir() if p.is_dir()) == [f"{i:05d}" for i in range(24)]
    assert sorted(p.name for p in (folder_ / "00000" / "samples").iterdir()) == [f"000{j}.png" for j in range(4)]
    assert json.loads((folder_ / "00003" / "metadata.jsonl").read_text())["prompt"] == PROMPTS[3]["prompt"]
    lines = [json.loads(line) for line in (folder_ / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 96
    assert list(lines[0]) == ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]
    assert json.loads(lines[0]["metadata"])["id"] == PROMPTS[0]["id"]
    boxes = next(iter(json.loads(lines[0]["details"]).values()))
    assert len(boxes[0]) == 5


def test_run_again_reuses_and_one_deleted_record_is_one_computed(oracle):
    root, first = oracle
    again = geneval.run(fake.Oracle(), JUDGE, **options(root))
    assert (again.computed, again.reused) == (0, len(first.records))
    gone = first.records[3]
    (root / "records" / gone.path).unlink()
    before = everything(root)
    third = geneval.run(fake.Oracle(), JUDGE, **options(root))
    assert (third.computed, third.reused) == (1, len(first.records) - 1)
    assert record.scores(third.records) == record.scores(first.records)
    assert everything(root) == before


class Mortal:
    """A judge or generator that dies after some calls; its batches are as ours."""

    full_batches = True

    def __init__(self, of, lives: int):
        self.name, self.fingerprint, self.classes = of.name, of.fingerprint, getattr(of, "classes", ())
        self._of, self.lives = of, lives

    def _live(self):
        self.lives -= 1
        if self.lives < 0:
            raise KeyboardInterrupt

    def generate(self, prompts, seeds):
        self._live()
        assert len(prompts) == 8  # always a full batch
        return self._of.generate(prompts, seeds)

    def detect(self, image):
        self._live()
        return self._of.detect(image)

    def color(self, image, detection):
        return self._of.color(image, detection)


def test_killed_and_resumed_ends_with_the_same_bytes(oracle, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        geneval.run(Mortal(fake.Oracle(), 5), JUDGE, **options(tmp_path))
    folder_ = run_folder(tmp_path)
    (folder_ / "00002" / "samples" / ".0000.abcd1234.png").write_bytes(b"half")
    (folder_ / "00001" / "samples" / "0000.png").write_bytes(b"cut short")
    with pytest.raises(KeyboardInterrupt):
        geneval.run(Mortal(fake.Oracle(), 99), Mortal(JUDGE, 40), **options(tmp_path))
    with open(folder_ / "detections.jsonl", "a") as lines:
        lines.write('{"id": "00009/sam')
    outcome = geneval.run(Mortal(fake.Oracle(), 0), Mortal(JUDGE, 96 - 34 + 6), **options(tmp_path))
    assert everything(tmp_path) == everything(oracle[0])
    assert record.scores(outcome.records) == record.scores(oracle[1].records)


class Broken(Mortal):
    """A judge that breaks instead."""

    error: Exception = RuntimeError("CUDA error: an illegal memory access was encountered")

    def _live(self):
        self.lives -= 1
        if self.lives < 0:
            raise self.error


def test_a_judge_that_breaks_is_no_bad_sample(oracle, tmp_path):
    """The run ends where the judge does, records nothing, and goes on from there."""
    with pytest.raises(RuntimeError, match="CUDA error"):
        geneval.run(fake.Oracle(), Broken(JUDGE, 40), check_judge=lambda judge: None, **options(tmp_path))
    rows = [json.loads(x) for x in (run_folder(tmp_path) / "detections.jsonl").read_text().splitlines()]
    assert len(rows) == 40 and not any("error" in row for row in rows) and not (tmp_path / "records").exists()
    outcome = geneval.run(fake.Oracle(), Mortal(JUDGE, 96 - 40 + 6), **options(tmp_path))
    assert everything(tmp_path) == everything(oracle[0])
    assert record.scores(outcome.records) == record.scores(oracle[1].records)


def test_a_lost_judge_ends_the_command_with_2(tmp_path, monkeypatch, capsys):
    broken = Broken(JUDGE, 20)
    broken.error = JudgeLost("the judge's process ended")
    monkeypatch.setattr("evals.judges.analytic.AnalyticJudge", lambda: broken)
    assert main(["eval", "geneval", "--subject", "fake:oracle", "-n", "12", "--out", str(tmp_path)]) == 2
    assert "the judge's process ended" in capsys.readouterr().err.splitlines()[-1]
    (found,) = tmp_path.rglob("detections.jsonl")
    assert len(found.read_text().splitlines()) == 20 - 6  # the canary looks at six
    assert not (tmp_path / "records").exists()


def test_fewer_samples_are_a_prefix_of_more(oracle, tmp_path):
    geneval.run(fake.Oracle(), JUDGE, **options(tmp_path, images_per_prompt=2))
    outcome = geneval.run(Mortal(fake.Oracle(), 6), JUDGE, **options(tmp_path))  # two more samples, three batches each
    assert everything(tmp_path) == everything(oracle[0])
    assert record.scores(outcome.records) == record.scores(oracle[1].records)


def test_another_generator_of_the_same_name_never_replaces_the_first(tmp_path):
    small = {"prompts": PROMPTS[:2], "images_per_prompt": 1}
    geneval.run(fake.Oracle(), JUDGE, **options(tmp_path, **small))
    impostor = Mortal(fake.Noise(), 99)
    impostor.name = "oracle"
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    both = f"{fake.Oracle().fingerprint[:12]}.* would be of {fake.Noise().fingerprint[:12]}"
    with pytest.raises(ValueError, match=both):
        geneval.run(impostor, JUDGE, **options(tmp_path, **small))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    outcome = geneval.run(impostor, JUDGE, **options(tmp_path, **small), subject="noise")
    assert outcome.reused == 0 and {r.metric: r.value for r in outcome.records}["images-correct"] == 0
    stamps = [json.loads(p.read_text()) for p in (tmp_path / "geneval").glob("*/*/subject.json")]
    assert {s["fingerprint"] for s in stamps} == {fake.Noise().fingerprint, fake.Oracle().fingerprint}


def test_rescoring_stored_detections_needs_no_judge(oracle):
    folder_ = run_folder(oracle[0])
    lines = [json.loads(line) for line in (folder_ / "results.jsonl").read_text().splitlines()]
    entries = {e["id"]: e for e in map(json.loads, (folder_ / "detections.jsonl").read_text().splitlines())}
    for line in lines:
        prompt = json.loads(line["metadata"])
        assert official.result(line["filename"], prompt, entries[line["filename"]]) == line
    strict = rules.Thresholds(threshold=1.0, counting_threshold=1.0)
    assert not any(
        official.result("x", json.loads(x["metadata"]), entries[x["filename"]], strict)["correct"] for x in lines
    )


def test_a_folder_scores_as_its_generator(oracle, tmp_path):
    copy = tmp_path / "images"
    shutil.copytree(run_folder(oracle[0]), copy)
    outcome = geneval.run(folder(copy, "elsewhere"), JUDGE, **options(tmp_path))
    ours = {r.metric: (r.value, r.low, r.high, r.n) for r in oracle[1].records}
    assert {r.metric: (r.value, r.low, r.high, r.n) for r in outcome.records} == ours
    assert outcome.records[0].name == "elsewhere/scenes-geneval/overall"


def test_missing_and_unreadable_images_withhold_the_value(oracle, tmp_path):
    copy = tmp_path / "images"
    shutil.copytree(run_folder(oracle[0]), copy)
    (copy / "00000" / "samples" / "0001.png").unlink()
    (copy / "00004" / "samples" / "0002.png").write_bytes(b"not an image")
    for allowed in (False, True):
        outcome = geneval.run(folder(copy), JUDGE, **options(tmp_path, partial_ok=allowed))
        scores = {r.metric: r for r in outcome.records}
        overall = scores["overall"]
        assert (overall.n, overall.n_failed, overall.partial) == (94, 1, True)
        assert (overall.value is None) is not allowed
        assert "94 of 96" in overall.note
        assert scores["counting"].value == 1.0 and scores["counting"].n == 16  # untouched task
        assert scores["single_object"].n == 15 and scores["two_object"].n_failed == 1


def test_folders_that_are_not_the_suites(oracle, tmp_path):
    copy = tmp_path / "images"
    shutil.copytree(run_folder(oracle[0]), copy)
    with pytest.raises(ValueError, match="prompt 0 of the suite is"):
        geneval.run(folder(copy), JUDGE, **options(tmp_path, prompts=PROMPTS[::-1]))
    (copy / "00003" / "samples" / "0007.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="00003/samples/0007.jpg"):
        geneval.run(folder(copy), JUDGE, **options(tmp_path))


def test_a_part_of_the_tasks_gives_no_overall(tmp_path):
    outcome = geneval.run(fake.Oracle(), JUDGE, **options(tmp_path, prompts=PROMPTS[:4], images_per_prompt=1))
    assert [r.metric for r in outcome.records] == ["single_object", "images-correct", "prompts-any"]


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not know dog"):
        dog = {"id": "d", "tag": "colors", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}
        geneval.run(fake.Oracle(), JUDGE, **options(tmp_path, prompts=[dog]))
    with pytest.raises(ValueError, match="prompts 0 and 1 are the same"):
        geneval.run(fake.Oracle(), JUDGE, **options(tmp_path, prompts=[PROMPTS[0]] * 2))
    with pytest.raises(ValueError, match="two prompts with the id"):
        twice = [PROMPTS[0], {**PROMPTS[1], "id": PROMPTS[0]["id"]}]
        geneval.run(fake.Oracle(), JUDGE, **options(tmp_path, prompts=twice))
    with pytest.raises(ValueError, match="no prompts"):
        geneval.run(fake.Oracle(), JUDGE, **options(tmp_path, prompts=[]))
    short = Mortal(fake.Oracle(), 9)
    short.generate = lambda prompts, seeds: np.zeros((1, 64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="must give uint8"):
        geneval.run(short, JUDGE, **options(tmp_path))
    blind = Mortal(JUDGE, 0)
    blind.detect = lambda image: []
    with pytest.raises(ValueError, match="canary"):
        geneval.run(fake.Oracle(), blind, **options(tmp_path, prompts=PROMPTS[:1], images_per_prompt=1))


@pytest.mark.parametrize("option", ["--batch", "--images-per-prompt"])
@pytest.mark.parametrize("given", ["0", "-4", "many"])
def test_counts_below_one_are_refused_before_anything_is_loaded(option, given, monkeypatch, capsys):
    monkeypatch.setattr("evals.engine.options.Images.generator", lambda *_: pytest.fail("a subject was loaded"))
    with pytest.raises(SystemExit) as caught:
        main(["eval", "geneval", "--subject", "vgt:query_ar_internvl", option, given])
    assert caught.value.code == 2
    assert f"argument {option}: " in (told := capsys.readouterr().err) and given in told and "give 1 or more" in told


def test_acceleration_names_the_record(tmp_path):
    outcome = geneval.run(
        fake.Oracle(), JUDGE, **options(tmp_path, prompts=PROMPTS[:1], images_per_prompt=1, accel=4, subject="ar")
    )
    first = outcome.records[0]
    assert (first.subject, first.accel, first.name) == ("ar", 4, "ar@4x/scenes-geneval/single_object")
    assert first.evidence.startswith("geneval/ar@4x/scenes-geneval-")


@pytest.mark.parametrize(
    "changed, fault",
    [
        ({"prompt": 5}, "field 'prompt': 5 is not text"),
        ({"tag": ["colors"]}, "has the tag"),
        ({"include": [{"class": "star", "count": True}]}, "asks for True of 'star'"),
        ({"include": [{"class": "star", "count": 1, "color": ["red"]}]}, "asks for the color"),
        ({"exclude": 5}, "has 5 as exclude"),
        ({"id": {"a": 1}}, "has the id"),
        ({"held_out": "false"}, "'false' as held_out; give true or false"),
        ({"held_out": 1}, "has 1 as held_out"),
    ],
)
def test_suites_that_are_none_name_file_and_line(tmp_path, capsys, changed, fault):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n" + json.dumps({**PROMPTS[0], **changed}) + "\n")
    assert main(["eval", "geneval", "--suite", str(path), "--subject", "fake:noise", "-o", str(tmp_path / "w")]) == 2
    assert re.search(f"mine.jsonl, line 2[:,] .*{fault}", told := capsys.readouterr().err) and told.count("\n") == 1
