"""Question answering about the world, and training logs as records."""

import copy
import json
import sys

import numpy as np
import pytest
from conftest import FAMILIES, IMAGE, widen

from evals.engine.store import SampleError, Shard, read_rows
from evals.judges.answering import Reply
from evals.training import run as training
from evals.vqa import run as vqa
from vgt.__main__ import main
from vgt.core import captions, scenes
from vgt.inference.images import to_float


class Scripted:
    """Knows the truth about the first scenes; wrong on every question of the scenes in ``blind``."""

    fingerprint = "scripted"

    def __init__(self, name="scripted", blind=(), size=64):
        self.name, self.asked, self.size = name, 0, size
        self.blind = set(blind)
        self.truth = {scenes.item("test", i, size).image.tobytes(): i for i in range(20)}

    def replies(self, image, questions):
        self.asked += len(questions)
        found = []
        for question in questions:
            index = self.truth[np.asarray(image).tobytes()]
            right = captions.answer(captions.scene_text(scenes.scene("test", index)), question)
            found.append(Reply("perhaps" if index in self.blind else right))
        return found


def test_truth_scores_one_and_is_partial_for_few_scenes(tmp_path):
    outcome = vqa.run(Scripted(), work=tmp_path, records=tmp_path / "records", n=20)
    (record,) = outcome.records
    assert record.value == 1.0 and record.n == 100 and record.partial and record.name == "scripted/scenes-vqa/accuracy"
    kinds = record.extra["by_kind"]
    assert sum(n for _, n in kinds.values()) == 100 and {share for share, _ in kinds.values()} == {1.0}


def test_scenes_are_drawn_in_the_size_that_the_model_takes(tmp_path):
    small = vqa.run(Scripted(size=32), work=tmp_path, records=tmp_path / "records", n=20).records[0]
    assert small.value == 1.0 and small.protocol_params["size"] == 32  # it knows its own scenes alone


def test_half_blind_scores_half_with_an_interval_over_scenes(tmp_path):
    (record,) = vqa.run(Scripted(blind=range(10)), work=tmp_path, records=tmp_path / "records", n=20).records
    assert record.value == 0.5
    assert record.low < 0.35 and record.high > 0.65  # 20 scenes, not 100 independent answers


def test_answers_are_stored_and_records_reused(tmp_path):
    judge = Scripted()
    vqa.run(judge, work=tmp_path, records=tmp_path / "records", n=5)
    rows = [json.loads(line) for line in (tmp_path / "vqa/scripted.jsonl").read_text().splitlines()]
    asked = [one for row in rows for one in row["asked"]]
    assert len(rows) == 5 and len(asked) == 25 and all(one["answer"] == one["expected"] for one in asked)
    again = vqa.run(judge, work=tmp_path, records=tmp_path / "records", n=5)
    assert (again.computed, again.reused) == (0, 1) and judge.asked == 25


def test_a_killed_run_asks_only_what_is_missing_and_parts_make_the_same(tmp_path):
    whole = vqa.run(Scripted(blind=[1]), work=tmp_path / "a", records=tmp_path / "a/records", n=5)
    path = tmp_path / "a/vqa/scripted.jsonl"
    before = path.read_bytes()
    path.write_bytes(before[: len(before) // 2])
    (tmp_path / "a/records/scripted/scenes-vqa/accuracy.json").unlink()
    judge = Scripted(blind=[1])
    vqa.run(judge, work=tmp_path / "a", records=tmp_path / "a/records", n=5)
    assert path.read_bytes() == before and judge.asked == 15

    for index in range(2):
        part = vqa.run(
            Scripted(blind=[1]), work=tmp_path / "b", records=tmp_path / "b/records", n=5, shard=Shard(index, 2)
        )
        assert part.records == []
    last = Scripted(blind=[1])
    joined = vqa.run(last, work=tmp_path / "b", records=tmp_path / "b/records", n=5)
    assert last.asked == 0 and joined.records[0].score() == whole.records[0].score()


def test_replies_may_be_sentences_of_one_word():
    assert vqa.same(" Yes. ", "yes") and vqa.same("Red", "red") and not vqa.same("red star", "red")


def test_a_scene_that_cannot_be_asked_about_withholds_the_value(tmp_path):
    class Failing(Scripted):
        def replies(self, image, questions):
            if self.truth[image.tobytes()] == 2:
                raise SampleError("too dark")
            return super().replies(image, questions)

    (record,) = vqa.run(Failing(), work=tmp_path, records=tmp_path / "records", n=4).records
    assert record.value is None and record.n_failed == 5 and "too dark" in record.note


CHILD = """import sys
for number, line in enumerate(sys.stdin):
    if number == 25:
        print("out of memory", file=sys.stderr)
        sys.exit(3)
    print('{"answer": "yes"}', flush=True)
"""


def test_a_lost_judge_ends_the_run_and_loses_nothing(tmp_path, capsys):
    (tmp_path / "judge.py").write_text(CHILD)
    command = f"process:{sys.executable} {tmp_path / 'judge.py'}"
    argv = ["eval", "vqa", "--subject", command, "-n", "8", "--device", "cpu", "-o", str(tmp_path / "out")]
    assert main(argv) == 2
    out, err = capsys.readouterr()
    told = [line for line in err.splitlines() if line.startswith("vgt eval: ")]
    assert len(told) == 1 and "ended with status 3 after 25 answers (its last words: out of memory)" in told[0]
    assert not out and not list((tmp_path / "out").rglob("*.json"))
    assert len(read_rows(tmp_path / "out/vqa/process-judge.jsonl")) == 5


def test_a_programming_error_is_no_bad_sample(tmp_path):
    class Broken(Scripted):
        def replies(self, image, questions):
            if self.asked == 10:
                raise AttributeError("no such thing")
            return super().replies(image, questions)

    with pytest.raises(AttributeError, match="no such thing"):
        vqa.run(Broken(), work=tmp_path, records=tmp_path / "records", n=4)
    assert len(read_rows(tmp_path / "vqa/scripted.jsonl")) == 2 and not (tmp_path / "records").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tuned_encoder_takes_the_place_of_the_vlms_own(family, vlms, tmp_path):
    """With its own encoder nothing changes; with another one the same VLM sees something else."""
    import torch

    from evals.subjects.vgt import AutoencoderSubject, VLMSubject
    from vgt.methods.pixel_decoder import DecoderConfig
    from vgt.methods.vgt_ae import VGTAE, VGTAEConfig

    decoder = DecoderConfig(widths=(8, 16, 16, 16), layers=(0, 1, 1, 1), attention=0, upsample="pixel_shuffle")
    with torch.random.fork_rng(devices=[]):
        config = VGTAEConfig(vlm=vlms[family].hf.config.to_dict(), image_size=IMAGE, d_z=8, decoder=decoder)
        ae = VGTAE(config).eval()
    subject = VLMSubject("tiny", "mark", copy.deepcopy(vlms[family]))
    images = np.stack([scenes.item("test", i, IMAGE).image for i in range(3)])
    hidden = lambda: subject.model.encoder(to_float(images, "cpu"))  # noqa: E731
    own = hidden()
    ae.encoder.load_state_dict(subject.model.encoder.state_dict())
    tuned = vqa.with_encoder(subject, AutoencoderSubject("ae", "ae-mark", IMAGE, ae))
    assert tuned.name == "tiny+ae" and tuned.fingerprint != subject.fingerprint and torch.equal(hidden(), own)
    widen(ae.encoder, 9)
    vqa.with_encoder(subject, AutoencoderSubject("ae", "ae-mark", IMAGE, ae))
    assert not torch.allclose(hidden(), own, atol=1e-2) and len(tuned.replies(images[0], ["Is there a star?"] * 3)) == 3


def test_another_encoder_is_refused(vlms, pixel_autoencoder):
    from evals.subjects.vgt import AutoencoderSubject, VLMSubject

    subject = VLMSubject("tiny", "mark", vlms["internvl"])
    with pytest.raises(ValueError, match="pixel has no VLM's vision encoder"):
        vqa.with_encoder(subject, AutoencoderSubject("pixel", "mark", IMAGE, pixel_autoencoder))


ROWS = [{"step": s, "samples": 4 * s, "loss": 1 / s} for s in range(1, 41)]


def test_training_log_becomes_one_record(tmp_path):
    rows = [{**ROWS[0], "minutes": 1.0}, *ROWS[1:-1], {**ROWS[-1], "minutes": 2.5}]  # two rounds
    (record,) = training.run("net", "mark", rows, 7, records=tmp_path).records
    assert record.name == "net/training/loss"
    assert record.value == pytest.approx(sum(1 / s for s in range(37, 41)) / 4)
    assert record.extra["samples"] == 160 and record.extra["minutes"] == 3.5 and record.extra["parameters"] == 7
    assert record.extra["curve"][0] == [1, 1.0] and len(record.extra["curve"]) == 40
    assert training.run("net", "mark", rows, 7, records=tmp_path).reused == 1
    assert training.run("net", "mark", rows[:30], 7, records=tmp_path).computed == 1
    (record,) = training.run("net", "mark", rows, 7, "a GPU", records=tmp_path).records
    assert record.extra["device"] == "a GPU"


def test_an_empty_log_is_refused(tmp_path):
    with pytest.raises(ValueError, match="net is empty"):
        training.run("net", "mark", [], 7, records=tmp_path)


def test_our_vlm_in_another_precision(tmp_path, capsys):
    """--dtype reaches the weights, the name and the record; another kind of subject refuses it."""
    assert (
        main(["eval", "vqa", "--subject", "vgt:vlm_internvl", "--dtype", "bf16", "-n", "2", "--out", str(tmp_path)])
        == 0
    )
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "records").rglob("*.json"))
    assert record["subject"] == "vlm_internvl+bf16" and record["protocol_params"]["dtype"] == "bf16"
    assert main(["eval", "vqa", "--subject", "vlm:x", "--dtype", "bf16", "--out", str(tmp_path)]) == 2
    assert "--dtype bf16 would do nothing: vlm:x is no vgt: checkpoint" in capsys.readouterr().err
