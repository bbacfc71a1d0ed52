"""Trainings side by side: their order, their failures, what they leave."""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from pathlib import Path

import pytest

from bench.gpu import train_tiny
from bench.gpu.train_tiny import Job, chosen, jobs, side_by_side, table
from vgt.commands.options import RUNS
from vgt.commands.reproduce import TRAINING

WRITES = """
import json, pathlib, sys
run = pathlib.Path(sys.argv[1])
(run / "model").mkdir(parents=True)
(run / "model" / "config.json").write_text("{}")
rows = [{"step": s, "samples": 2 * s, "steps_per_second": 4.0, "loss": 1 / s} for s in (1, 2, 3, 4)]
(run / "metrics.jsonl").write_text("".join(json.dumps(row) + chr(10) for row in rows))
"""


def job(name: str, folder: Path, code: str, *after: str) -> Job:
    return Job(name, [sys.executable, "-c", code, str(folder / name)], folder / name, after)


def test_a_job_waits_for_what_it_needs_only_if_that_is_chosen():
    args = argparse.Namespace(workers=2, steps=10, batch=4, scenes=64, device="cpu", fresh=True, set=["train.seed=1"])
    chosen = {j.name: j for j in jobs(["vgt_ae_qwen", "query_ar_qwen"], args)}
    assert chosen["vgt_ae_qwen"].after == () and chosen["query_ar_qwen"].after == ("vgt_ae_qwen",)
    everything = {j.name: j for j in jobs(TRAINING, args)}
    assert everything["query_ar_pixel"].after == ("vlm_internvl", "pixel_ae")
    assert set(everything["vgt_ae_qwen"].after) == {"vlm_qwen", "vgt_ae_qwen_stage1"}
    assert all(set(j.after) <= set(TRAINING) - {j.name} for j in everything.values())
    assert "train.steps=10" in chosen["query_ar_qwen"].command and "train.seed=1" in chosen["query_ar_qwen"].command
    assert "train.steps=10" not in chosen["vgt_ae_qwen"].command


def test_settings_are_for_all_jobs_or_for_one():
    given = ["train.seed=1", "mar_internvl:init.weights=a:b=c"]
    assert chosen(given, "mar_internvl") == ["train.seed=1", "init.weights=a:b=c"]
    assert chosen(given, "pixel_ae") == ["train.seed=1"]
    with pytest.raises(ValueError, match="'mars', which is no job"):
        chosen(["mars:train.seed=1"], "pixel_ae")


def test_equal_computation_is_what_the_plan_counts():
    from vgt.training.job import read
    from vgt.training.plan import plan

    query, mar, longer = (read(name, []) for name in ("query_ar_internvl", "mar_internvl", "mar_internvl_compute"))
    counted = [plan(p, RUNS, 1, "h100", None).to_json()["flops_per_step"]["total"] for p in (query, mar)]
    assert counted[0] / counted[1] == pytest.approx(train_tiny.COMPUTE, rel=0.01)
    assert longer.train.steps / mar.train.steps == pytest.approx(train_tiny.COMPUTE, rel=0.01)


def test_jobs_run_in_order_and_leave_their_models(tmp_path, monkeypatch):
    monkeypatch.setattr(train_tiny, "POLL", 0.01)
    seen = f"import pathlib, sys; sys.exit(0 if pathlib.Path({str(tmp_path)!r}, 'a', 'model').exists() else 3)"
    todo = [
        job("b", tmp_path, seen, "a"),
        job("a", tmp_path, WRITES),
        job("bad", tmp_path, "raise SystemExit('no such preset')"),
        job("c", tmp_path, WRITES, "bad"),
    ]
    told: list[str] = []
    ended = side_by_side(todo, tmp_path / "out", 60, told.append)
    assert ended == {"a": 0, "b": 0, "bad": 1, "c": None}
    assert "c: not begun, bad failed" in told
    with tarfile.open(tmp_path / "out" / "a.tar") as tar:
        assert {"a/model/config.json", "a/metrics.jsonl"} <= set(tar.getnames())
    text = table(todo, ended)
    assert "step 4, 8 samples/s, loss 0.2500" in text and "no such preset" in text


def test_what_takes_too_long_is_ended_and_the_rest_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(train_tiny, "POLL", 0.01)
    todo = [job("slow", tmp_path, "import time; time.sleep(60)"), job("next", tmp_path, WRITES, "slow")]
    ended = side_by_side(todo, tmp_path / "out", 0.3, lambda _: None)
    assert ended["slow"] not in (0, None) and ended["next"] is None
    assert json.dumps(ended)  # plain values
