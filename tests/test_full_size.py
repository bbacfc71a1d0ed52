"""The errand of a GPU, on the CPU with tiny presets: what it leaves as records."""

from __future__ import annotations

import pytest

from bench import full_size, training
from vgt.core import record


def test_training_steps_count_what_they_do():
    found = training.steps("smoke_mar_internvl", 2, 1)
    assert len(found.seconds) == 1 and found.rows == 2
    assert found.positions == 2 * (training.TEXT + 1 + 64), "text, start token, one slot per token"
    with pytest.raises(ValueError, match="is a vgt_ae; time a generator's"):
        training.steps("smoke_pixel_ae", 2, 1)


def test_the_errand_leaves_records(tmp_path):
    small = ["--generators", "smoke_query_ar_internvl", "--autoencoders", "smoke_vgt_ae_internvl", "--tiny"]
    sizes = ["--batch", "2", "--steps", "2", "--images", "2", "--accel", "16", "--device", "cpu"]
    assert full_size.main([*small, *sizes, "--out", str(tmp_path)]) == 0
    found = {(r.subject, r.metric): r for r in record.read(tmp_path / "records")}
    trained = found["random-smoke_query_ar_internvl", "step-seconds"]
    assert trained.n == 2 and trained.value > 0 and "random weights" in trained.note
    assert ("random-smoke_query_ar_internvl", "planned-memory-gib") in found
    assert ("random-smoke_vgt_ae_internvl", "encode-images-per-second") in found
    assert ("random-smoke_query_ar_internvl", "images-per-second") in found
