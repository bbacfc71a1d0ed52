"""Weights in several files: Hugging Face's index, lazy reading, torn shards, full disks."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from test_checkpoint import save, tiny

from vgt.checkpoints import checkpoint
from vgt.checkpoints import shards as shard_files


@pytest.mark.parametrize("storage", ["fp32", "bf16", "int6"])
def test_shards_hold_what_one_file_holds(tmp_path, storage):
    module, state = tiny(), {}
    rng = torch.Generator().manual_seed(0)
    state = {**module.state_dict(), "wide": torch.randn(8, 32, generator=rng), "count": torch.tensor(7)}
    checkpoint.save(tmp_path / "one", "vlm", "t", {}, state, storage=storage)
    checkpoint.save(tmp_path / "many", "vlm", "t", {}, state, storage=storage, max_shard_size=150)
    names = sorted(p.name for p in (tmp_path / "many").glob("model*"))
    shards = [name for name in names if name.endswith(".safetensors")]
    assert len(shards) > 1 and names == [*shards, "model.safetensors.index.json"]
    assert shards == [f"model-{k + 1:05d}-of-{len(shards):05d}.safetensors" for k in range(len(shards))]
    index = json.loads((tmp_path / "many/model.safetensors.index.json").read_text())
    stored = {name: load_file(tmp_path / "many" / name) for name in shards}
    assert index["weight_map"] == {key: name for name in shards for key in stored[name]}
    assert index["metadata"]["total_size"] == sum(t.nbytes for tensors in stored.values() for t in tensors.values())
    assert all(sum(t.nbytes for t in tensors.values()) <= 150 or len(tensors) == 1 for tensors in stored.values())
    one, many = checkpoint.read_state(tmp_path / "one"), checkpoint.read_state(tmp_path / "many")
    assert len({path.stat().st_mode for path in (tmp_path / "many").iterdir()}) == 1  # who may read one may read all
    assert one.keys() == many.keys() == state.keys() and all(torch.equal(one[k], many[k]) for k in one)


@pytest.mark.parametrize("size", ["5 parsecs", "big", "GB"])
def test_a_shard_size_that_is_none(tmp_path, size):
    with pytest.raises(ValueError, match=f"max_shard_size '{size}' is no size; write for example '5GB'"):
        save(tmp_path / "m", max_shard_size=size)
    assert not list(tmp_path.iterdir())


def sharded(folder) -> list:
    """A checkpoint in several files; returns their paths."""
    save(folder, max_shard_size=40)
    return sorted(folder.glob("model-*.safetensors"))


def test_faulty_shards(tmp_path):
    first, second, *_ = sharded(tmp_path / "m")
    whole = second.read_bytes()
    second.write_bytes(whole[:-3])
    with pytest.raises(ValueError, match=f"{second.name} cannot be read .* again"):
        checkpoint.read_state(tmp_path / "m")
    held = load_file(first)
    save_file(held | {"stray": torch.zeros(1)}, first)
    with pytest.raises(ValueError, match=f"{first.name} holds besides what .*index.json lists: stray"):
        checkpoint.read_state(tmp_path / "m")
    save_file({"stray": torch.zeros(1)}, first)
    with pytest.raises(ValueError, match=f"{first.name} lacks what .*index.json lists: {next(iter(held))}"):
        checkpoint.read_state(tmp_path / "m")
    second.unlink()
    for read in (checkpoint.read_state, checkpoint.fingerprint):
        with pytest.raises(ValueError, match=rf"lacks 1 of \d weight files: {second.name}"):
            read(tmp_path / "m")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../x.safetensors"}}',
                                  '{"weight_map": {"a": "code.py"}}', '{"weight_map": {"a": 3}}'])  # fmt: skip
def test_foreign_indices_are_refused(tmp_path, text):
    sharded(tmp_path / "m")
    (tmp_path / "m/model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match="index.json is no index of safetensors files"):
        checkpoint.read_state(tmp_path / "m")


def test_fingerprints_of_shards(tmp_path):
    module = tiny()
    base = save(tmp_path / "a", module, max_shard_size=40)
    assert base == checkpoint.fingerprint(tmp_path / "a") == save(tmp_path / "b", module, max_shard_size=40)
    with torch.no_grad():
        module["norm"].running_var[0] += 1e-6
    assert base != save(tmp_path / "c", module, max_shard_size=40)


def test_reading_a_part(tmp_path):
    """Only the files of the wanted keys are opened; ties and int6 triples come along."""
    shards = sharded(tmp_path / "m")
    index = json.loads((tmp_path / "m/model.safetensors.index.json").read_text())["weight_map"]
    for path in shards:
        if path.name != index["a.weight"]:
            path.write_bytes(b"torn")
    found = checkpoint.read_state(tmp_path / "m", only=lambda key: key == "b.weight")
    assert found.keys() == {"b.weight"} and torch.equal(found["b.weight"], tiny()["a"].weight)
    wide = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    checkpoint.save(tmp_path / "6", "vlm", "t", {}, {"wide": wide, "other": torch.zeros(3)}, storage="int6")
    found = checkpoint.read_state(tmp_path / "6", only=lambda key: key == "wide")
    assert found.keys() == {"wide"} and torch.equal(found["wide"], checkpoint.read_state(tmp_path / "6")["wide"])


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, error):
    old = save(tmp_path / "m")
    written = []

    def full(tensors, path, metadata):
        if written:
            raise error
        written.append(path)
        save_file(tensors, path, metadata)

    monkeypatch.setattr(shard_files, "save_file", full)
    with pytest.raises(ValueError, match="m cannot be written .*No space left .*; free some space .*unchanged"):
        save(tmp_path / "m", tiny(1), max_shard_size=40)
    assert len(written) == 1 and checkpoint.fingerprint(tmp_path / "m") == old
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
