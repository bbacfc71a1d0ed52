"""Question answering about the world, and training logs as records."""

import json

import numpy as np
import pytest

from evals import training, vqa
from vgt.core import captions, scenes


class Scripted:
    """Knows the truth about the first scenes; wrong on every question of the scenes in ``blind``."""

    fingerprint = "scripted"

    def __init__(self, name="scripted", blind=()):
        self.name, self.asked = name, 0
        self.blind = set(blind)
        self.truth = {scenes.item("test", i).image.tobytes(): i for i in range(20)}

    def answers(self, images, questions):
        self.asked += len(questions)
        found = []
        for image, question in zip(images, questions, strict=True):
            index = self.truth[np.asarray(image).tobytes()]
            right = captions.answer(captions.sight(scenes.scene("test", index)), question)
            found.append("perhaps" if index in self.blind else right)
        return found


def test_truth_scores_one_and_is_partial_for_few_scenes(tmp_path):
    outcome = vqa.run(Scripted(), work=tmp_path, records=tmp_path / "records", n=20)
    (record,) = outcome.records
    assert record.value == 1.0 and record.n == 100 and record.partial and record.name == "scripted/scenes-vqa/accuracy"
    kinds = record.extra["by_kind"]
    assert sum(n for _, n in kinds.values()) == 100 and {share for share, _ in kinds.values()} == {1.0}


def test_half_blind_scores_half_with_an_interval_over_scenes(tmp_path):
    (record,) = vqa.run(Scripted(blind=range(10)), work=tmp_path, records=tmp_path / "records", n=20).records
    assert record.value == 0.5
    assert record.low < 0.35 and record.high > 0.65  # 20 scenes, not 100 independent answers


def test_answers_are_stored_and_records_reused(tmp_path):
    judge = Scripted()
    vqa.run(judge, work=tmp_path, records=tmp_path / "records", n=5)
    rows = [json.loads(line) for line in (tmp_path / "vqa/scripted.jsonl").read_text().splitlines()]
    assert len(rows) == 25 and all(row["answer"] == row["expected"] for row in rows)
    again = vqa.run(judge, work=tmp_path, records=tmp_path / "records", n=5)
    assert (again.computed, again.reused) == (0, 1) and judge.asked == 25


ROWS = [{"step": s, "samples": 4 * s, "loss": 1 / s} for s in range(1, 41)]


def test_training_log_becomes_one_record(tmp_path):
    rows = [*ROWS[:-1], {**ROWS[-1], "minutes": 2.5}]
    (record,) = training.run("net", "mark", rows, 7, records=tmp_path).records
    assert record.name == "net/training/loss"
    assert record.value == pytest.approx(sum(1 / s for s in range(37, 41)) / 4)
    assert record.extra["samples"] == 160 and record.extra["minutes"] == 2.5 and record.extra["parameters"] == 7
    assert record.extra["curve"][0] == [1, 1.0] and len(record.extra["curve"]) == 40
    assert training.run("net", "mark", rows, 7, records=tmp_path).reused == 1
    assert training.run("net", "mark", rows[:30], 7, records=tmp_path).computed == 1


def test_an_empty_log_is_refused(tmp_path):
    with pytest.raises(ValueError, match="net is empty"):
        training.run("net", "mark", [], 7, records=tmp_path)
