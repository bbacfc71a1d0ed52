"""Reconstruction evidence after kills, in parts, and beside bad features: same bytes, nothing done twice."""

import json
import os
import shutil
import signal
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from PIL import Image

from evals.engine.store import Shard, read_rows, row_line, write_arrays
from evals.features import Extractor
from evals.recon import metrics as recon_metrics
from evals.recon import run as reconstruction
from vgt.core import record

METRICS = ("psnr-mean", "ssim-wang", "fd-efflite2", "judge-agreement")
N, BATCH = 50, 8


@dataclass
class Dim:
    """A tokenizer that darkens by two levels and kills its process at batch ``until``."""

    until: int | None = None
    name: str = "dim"
    fingerprint: str = "dim"
    size: int | None = 64
    batches: list[int] = field(default_factory=list)

    def encode(self, images):
        raise NotImplementedError

    def reconstruct(self, images):
        self.batches.append(len(images))
        if len(self.batches) == self.until:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.maximum(images, 2) - 2


def thumbnails(images):
    return {"pool": images[:, 2:34:8, 2:34:8, 0].reshape(len(images), -1).astype(np.float32)}


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    """A feature network of 16 pixels: fewer dimensions than images."""
    found = Extractor("efflite2", {"pool": 16}, {"features": "thumbnail", "weights": ""}, "", thumbnails)
    monkeypatch.setattr(recon_metrics.features, "load", lambda *_, **__: found)


def score(work, model=None, **options):
    options = {"metrics": METRICS, "n": N, "batch": BATCH, **options}
    return reconstruction.run(
        model or Dim(), work=work, records=work / "records", data="scenes",
        agreement=lambda a, b: (a.mean((1, 2, 3)) > 60), judge="bright-1", **options,
    )  # fmt: skip


def tree(work):
    """Everything but the records, which carry the time."""
    paths = sorted(p for p in (work / "recon").rglob("*") if p.is_file() and not p.name.endswith(".lock"))
    return {p.relative_to(work).as_posix(): p.read_bytes() for p in paths}


def values(outcome):
    return {r.metric: r.score() for r in outcome.records}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(work folder, outcome) of a run that nothing disturbed; made with the small network, as all others."""
    work = tmp_path_factory.mktemp("whole")
    patch = pytest.MonkeyPatch()
    found = Extractor("efflite2", {"pool": 16}, {"features": "thumbnail", "weights": ""}, "", thumbnails)
    patch.setattr(recon_metrics.features, "load", lambda *_, **__: found)
    yield work, score(work)
    patch.undo()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """A forked process has none of its parent's threads, and would wait for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def forked(*args, **options) -> int:
    """``score`` in a child process; its wait status."""
    child = os.fork()
    if not child:
        try:
            score(*args, **options)
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def killed(work, until):
    """Run in a child process that dies at batch ``until``."""
    status = forked(work, Dim(until))
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def test_a_killed_run_goes_on_where_it_was(tmp_path, whole):
    killed(tmp_path, 4)
    rows = {p.name: len(p.read_text().splitlines()) for p in (tmp_path / "recon" / "dim").rglob("*.jsonl")}
    assert rows["images.jsonl"] == rows["pixels.jsonl"] == rows["ssim-gaussian.jsonl"] == 3 * BATCH
    killed(tmp_path, 2)
    model = Dim()
    outcome = score(tmp_path, model)
    assert len(model.batches) == 7 - 3 - 1 and set(model.batches) == {BATCH}
    assert tree(tmp_path) == tree(whole[0]) and values(outcome) == values(whole[1])
    assert score(tmp_path, model).computed == 0 and len(model.batches) == 3


def test_what_a_kill_left_of_a_file_is_no_evidence(tmp_path, whole):
    """Neither torn nor whole hidden files of a writer that was killed enter a value, and the next run removes them."""
    score(tmp_path)
    first = next(p for p in (tmp_path / "recon" / "dim").rglob("00000000.npz"))
    first.with_name(".00000000.1a2b3c4d.npz").write_bytes(first.read_bytes())
    first.with_name(".00000008.1a2b3c4d.npz").write_bytes(first.read_bytes()[:100])
    first.parent.with_name(".pixels.1a2b3c4d.jsonl").write_text('{"id": ')
    for one in record.read(tmp_path / "records"):
        (tmp_path / "records" / one.path).unlink()
    model = Dim()
    assert values(score(tmp_path, model)) == values(whole[1]) and not model.batches
    assert tree(tmp_path) == tree(whole[0])


def _edited(path):
    path.write_text(path.read_text().replace('"psnr": ', '"psnr": 1', 1))


def _unsealed(change):
    """Rows that ``change`` has altered, all without their hash."""

    def alter(path):
        rows = [{k: v for k, v in json.loads(line).items() if k != "check"} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(change(row)) + "\n" for row in rows))

    return alter


def _sealed(change):
    """Rows that ``change`` has altered, as this program could have written them."""

    def alter(path):
        path.write_text("".join(row_line(change(row)) for row in read_rows(path)))

    return alter


def _without_hash(path):
    with np.load(path) as stored:
        held = {name: stored[name] for name in ("positions", "values")}
    np.savez(path, positions=held["positions"], values=held["values"] * 2)


def _of_value(path):
    told = json.loads(path.read_text())
    del told["check"]
    path.write_text(json.dumps({**told, "value": 99.0}))


@pytest.mark.parametrize(
    "pattern, alter",
    [
        ("recon/dim/*/pixels.jsonl", _unsealed(lambda row: {**row, "psnr": 2 * row["psnr"]})),
        ("recon/dim/*/pixels.jsonl", _unsealed(lambda row: {**row, "id": [1]})),
        ("recon/dim/*/pixels.jsonl", _sealed(lambda row: {**row, "psnr": "high"})),
        ("recon/dim/*/pixels.jsonl", _sealed(lambda row: {**row, "psnr": float("nan")})),
        ("recon/dim/*/pixels.jsonl", _sealed(lambda row: {"id": row["id"], "psnr": row["psnr"]})),
        ("recon/dim/*/images.jsonl", _sealed(lambda row: {"id": row["id"]})),
        ("recon/dim/*/images.jsonl", _sealed(lambda row: {**row, "pixels": 5})),
        ("recon/dim/*/*/00000008.npz", _without_hash),
        ("recon/dim/*/*/00000008.npz", lambda p: write_arrays(p, positions=np.arange(2), values=np.zeros((4, 3)))),
        ("recon/dim/*/*/00000008.npz", lambda p: write_arrays(p, positions=np.arange(8), values=np.zeros((8, 16)))),
        ("recon/dim/*/pairs.png.hash", lambda p: p.write_bytes(b"\xff\xfe\xfa")),
        ("records/dim/*/psnr-mean.json", _of_value),
    ],
    ids=[
        "doubled", "no id", "text", "nan", "no cluster", "no pixels", "no hash of pixels", "unsealed array",
        "another shape", "other positions", "bad hash", "unsealed record",
    ],
)  # fmt: skip
def test_what_lacks_its_hash_or_its_fields_is_made_again(tmp_path, whole, capsys, pattern, alter):
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "records").rglob("*.json") if pattern.startswith("recon/") else ():
        path.unlink()
    (path,) = tmp_path.glob(pattern)
    alter(path)
    outcome = score(tmp_path)
    assert values(outcome) == values(whole[1]) and tree(tmp_path) == tree(whole[0])
    assert path.suffix == ".hash" or f"{path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "pattern, alter",
    [
        ("recon/dim/*/pixels.jsonl", lambda p: p.write_bytes(b"")),
        ("recon/dim/*/pixels.jsonl", _edited),
        ("recon/dim/*/pixels.jsonl", lambda p: p.write_bytes(p.read_bytes().replace(b"cluster", b"clus\xffter", 1))),
        ("recon/dim/*/*/00000008.npz", lambda p: p.write_bytes(p.read_bytes()[:-40])),
        ("recon/dim/*/*/00000008.npz", lambda p: shutil.copy(p.with_name("00000000.npz"), p)),
        ("recon/dim/*/pairs.png", lambda p: Image.new("RGB", (64, 64)).save(p)),
        ("records/dim/*/psnr-mean.samples.csv", lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2])),
        ("records/dim/*/psnr-mean.json", lambda p: p.write_text(p.read_text().replace('"value": ', '"value": 1', 1))),
    ],
    ids=["emptied", "edited", "bad byte", "truncated", "another array", "another picture", "half", "edited record"],
)
def test_what_was_altered_is_made_again_and_said(tmp_path, whole, capsys, pattern, alter):
    """Whether the records stand or are gone, nothing torn or edited enters a value."""
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    assert score(tmp_path).computed == 0
    (path,) = tmp_path.glob(pattern)
    alter(path)
    capsys.readouterr()
    outcome = score(tmp_path)
    assert outcome.computed >= 1 and "note: " in capsys.readouterr().err
    assert values(outcome) == values(whole[1]) and tree(tmp_path) == tree(whole[0])
    assert score(tmp_path).computed == 0


def test_rows_cut_short_by_a_kill_are_measured_again(tmp_path, whole):
    killed(tmp_path, 4)
    rows = next(tmp_path.rglob("pixels.jsonl"))
    rows.write_bytes(rows.read_bytes()[:-50])
    next(tmp_path.rglob("judge-agreement-*.jsonl")).unlink()
    model = Dim()
    outcome = score(tmp_path, model)
    assert len(model.batches) == 7, "one kind had lost all of its rows"
    assert tree(tmp_path) == tree(whole[0]) and values(outcome) == values(whole[1])
    kept = next(tmp_path.rglob("pixels.jsonl")).read_text().splitlines()
    assert len({json.loads(row)["id"] for row in kept}) == len(kept) == N


def test_parts_measure_their_own_batches_and_a_whole_run_joins_them(tmp_path, whole):
    seen = []
    for index in (2, 0):
        model = Dim()
        part = score(tmp_path, model, shard=Shard(index, 3))
        assert (part.records, part.computed) == ([], 0)
        seen.append(len(model.batches))
    assert seen == [2, 3] and not list(tmp_path.rglob("pixels.jsonl"))
    model = Dim()
    outcome = score(tmp_path, model)
    assert len(model.batches) == 2, "what no part had done"
    assert tree(tmp_path) == tree(whole[0]) and values(outcome) == values(whole[1])
    assert not list(tmp_path.rglob("*-of-*.jsonl"))


def test_a_part_that_was_killed_is_finished_by_another_division(tmp_path, whole):
    forked(tmp_path, Dim(2), shard=Shard(1, 2))
    score(tmp_path, shard=Shard(0, 2))
    model = Dim()
    assert values(score(tmp_path, model)) == values(whole[1])
    assert len(model.batches) == 2 and tree(tmp_path) == tree(whole[0])


def test_many_images_go_through_block_moments(tmp_path, whole):
    """More images than dimensions: the same as from all features at once."""
    from evals.metrics import frechet
    from vgt.core import scenes

    images = scenes.images("test", range(N))
    a, b = (thumbnails(x)["pool"].astype(np.float64) for x in (images, np.maximum(images, 2) - 2))
    found = next(r for r in whole[1].records if r.metric == "fd-efflite2")
    assert found.value == pytest.approx(frechet.from_features(a, b), rel=1e-9)
    left = [frechet.from_features(a[keep], b[keep]) for keep in (np.arange(N) % 20 != k for k in range(20))]
    np.testing.assert_allclose(found.extra["replicates"], left, rtol=1e-7)
    assert found.extra["reference"]["count"] == N


def test_features_that_are_not_finite_name_their_image(tmp_path, monkeypatch):
    def broken(images):
        found = thumbnails(images)["pool"]
        found[np.arange(len(found)) == 3] = np.nan
        return {"pool": found}

    extractor = Extractor("efflite2", {"pool": 16}, {"features": "thumbnail", "weights": ""}, "", broken)
    monkeypatch.setattr(recon_metrics.features, "load", lambda *_, **__: extractor)
    with pytest.raises(ValueError, match="features of image test-00003 are not finite"):
        score(tmp_path)
    assert not list((tmp_path / "records").rglob("fd-*.json")) if (tmp_path / "records").exists() else True


def test_one_metric_more_measures_only_that(tmp_path):
    model = Dim()
    score(tmp_path, model, metrics=["psnr-mean"])
    assert len(model.batches) == 7
    assert not list(tmp_path.rglob("ssim*.jsonl")), "nobody asked"
    score(tmp_path, model, metrics=["psnr-mean", "psnr-global"])
    assert len(model.batches) == 7, "both come from the same rows"
    score(tmp_path, model, metrics=["psnr-mean", "ssim-wang"])
    assert len(model.batches) == 14
    score(tmp_path, model, metrics=["ssim-tm", "ssim-wang"])
    assert len(model.batches) == 14, "variants that share their windows come from the same rows"
    score(tmp_path, model, metrics=["fd-efflite2"])
    assert len(model.batches) == 21
    assert len(record.read(tmp_path / "records")) == 5
