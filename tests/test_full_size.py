"""Benchmarks for a GPU, on the CPU with tiny presets: what they leave as records."""

from __future__ import annotations

import json

import pytest

from bench import run, timing, workloads
from bench.gpu import decode, full_size
from bench.workloads import Conditions, Training
from vgt.core import record


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Nothing is measured twice here, however busy the machine is, and no step waits for Muon's bf16, which takes
    seconds on many CPUs."""
    monkeypatch.setattr(timing, "busy", lambda *_: None)
    real = workloads.optimizers
    adamw = lambda model, train, scale: real(model, train.model_copy(update={"optimizer": "adamw"}), scale)  # noqa: E731
    monkeypatch.setattr(workloads, "optimizers", adamw)


def test_training_steps_count_what_they_do():
    work = Training("smoke_mar_internvl", Conditions(2, 1))
    found = run.measure([work], {})[work.name]["step"]
    assert len(found["seconds"]) == 1 and found["images"] == 1
    assert found["positions"] == 2 * (work.TEXT + 1 + 64), "text, start token, one slot per token"
    with pytest.raises(ValueError, match="is a vgt_ae; time a generator's"):
        Training("smoke_pixel_ae", Conditions(2, 1))


def test_full_size_leaves_records(tmp_path):
    small = ["--generators", "smoke_query_ar_internvl", "--autoencoders", "smoke_vgt_ae_internvl", "--tiny"]
    sizes = ["--batch", "2", "--steps", "2", "--images", "2", "--accel", "16", "--device", "cpu"]
    assert full_size.main([*small, *sizes, "--out", str(tmp_path)]) == 0
    found = {(r.subject, r.metric): r for r in record.read(tmp_path / "records")}
    trained = found["random-smoke_query_ar_internvl", "step-seconds"]
    assert trained.n == 2 and trained.value > 0 and "random weights" in trained.note
    assert ("random-smoke_query_ar_internvl", "planned-memory-gib") in found
    assert ("random-smoke_vgt_ae_internvl", "encode-images-per-second") in found
    assert ("random-smoke_query_ar_internvl", "images-per-second") in found


@pytest.mark.parametrize("name", ["query_ar_internvl", "mar_internvl"])
def test_the_engine_makes_the_images_of_the_reference_implementation(name):
    (row,) = decode.same_images(f"random:smoke_{name}", [16], "cpu", {"flow_steps": 2})
    assert row["equal"] and row["acceleration"] == 16 and row["psnr_bf16_engine"] > 20


@pytest.mark.slow
def test_decode_leaves_few_files(tmp_path, capsys):
    assert decode.main(["--tiny", "--device", "cpu", "--out", str(tmp_path)]) == 0
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["decode.json", "decode.jsonl", "decode.txt", "profile-tiny-b1.txt", "profile-tiny-b2.txt"]
    found = record.read(tmp_path / "decode.jsonl")
    assert {r.suite for r in found} == {"bench-b1", "bench-b2", "bench-b1-n3"}
    assert len({r.subject for r in found}) == 2 and all("random weights" in r.note for r in found)
    told = json.loads((tmp_path / "decode.json").read_text())
    assert [row["equal"] for row in told["correctness"]] == [True, True] and told["left_out"] == []
    assert all(row["psnr_bf16_engine"] > 20 for row in told["correctness"])
    part = next(row for row in told["rows"] if row["steps"])
    assert part["ratio"] > 0 and part["images_per_second"] is None
    assert all(row["from_steps"] == 3 and row["of"] == 4 for row in told["extrapolated"])
    assert "addmm" in (tmp_path / "profile-tiny-b1.txt").read_text()
    assert "first 3 steps only" in capsys.readouterr().out


def test_decode_says_what_it_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "same_images", lambda *_: [])
    scope = decode.Scope(("tiny",), (16,), (1,), (), {"flow_steps": 3}, 1)
    report = decode.run(tmp_path, "cpu", scope, seconds=0)
    assert not report.found and len(report.left_out) == 4
    assert "left out: random-query_ar_internvl 16x bench-b1 needs about" in (tmp_path / "decode.txt").read_text()


def test_slow_groups_time_their_first_steps():
    scope = decode.Scope()
    found = {(a, how.batch, how.eager): how.steps for a, how, _ in decode.groups("mar", "0.6b", scope)}
    assert found[1, 64, False] == 8 and found[1, 1, False] is None and found[16, 64, False] is None
    assert found[1, 1, True] == 8, "the reference implementation, extrapolated from its first steps"
    assert sum(seconds for *_, seconds in decode.groups("query-ar", "0.6b", scope)) < 200
