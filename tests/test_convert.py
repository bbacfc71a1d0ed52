"""``vgt convert``: a released file in, our folders out, exact to the bit; what goes wrong leaves the old in place."""

from __future__ import annotations

import argparse
import errno
import hashlib
import json

import numpy as np
import pytest
import released_checkpoints as rc
import torch
from conftest import FAMILIES, IMAGE

from vgt.checkpoints import checkpoint, released, shards
from vgt.commands import convert
from vgt.core.seeds import image_seed
from vgt.inference import generator
from vgt.inference.load import load, paired_autoencoder
from vgt.inference.pipeline import VGTPipeline
from vgt.methods.sampling import Sampling

FAST = Sampling(acceleration=8, flow_steps=2, guidance=2.0)


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def made(vlms, tmp_path_factory) -> dict:
    """family -> directory with the small VLM (``vlm``) and files in the published layout."""
    found = {}
    for name, vlm in vlms.items():
        folder = tmp_path_factory.mktemp(name)
        vlm.hf.save_pretrained(folder / "vlm")
        vlm.tokenizer.save_pretrained(folder / "vlm")
        sizes = rc.small(len(vlm.tokenizer), name)
        torch.save(rc.drawn(rc.whole(name, sizes) | rc.ballast(name, sizes)), folder / "a.pth")
        torch.save(rc.drawn(rc.generator(name, sizes)), folder / "bare.pth")
        torch.save(rc.drawn(rc.autoencoder(name, sizes), dtype=torch.float32), folder / "ae.pth")
        found[name] = folder
    return found


def run(*words) -> dict:
    parser = argparse.ArgumentParser()
    convert.arguments(parser)
    return convert.run(parser.parse_args([str(word) for word in words]))


def test_a_generator_becomes_a_pipeline_folder(made, family, tmp_path, capsys):
    source, target = made[family] / "a.pth", tmp_path / "vgt-small"
    result = run(source, target, "--vlm", made[family] / "vlm")
    table = torch.load(source, weights_only=True)
    assert result == {
        "checkpoint": str(target),
        "kept": released.load(source, made[family] / "vlm").taken,
        "dropped": len(table) - result["kept"],
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    index = json.loads((target / "model_index.json").read_text())
    assert index == {"_class_name": "VGTPipeline", "generator": ["vgt", "VisualLM"], "autoencoder": ["vgt", "VGTAE"]}
    told = capsys.readouterr().out
    assert "image_head.net -> image_head" in told and "left over 0" in told and "DINOv3" in told
    stored = checkpoint.read_state(target / "generator", None)
    assert torch.equal(stored["max_metaquery"], table["adaptive_metaquery.max_metaquery"])
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}
    for folder in (target, target / "generator", target / "autoencoder"):
        card = (folder / "README.md").read_text()
        assert result["sha256"] in card and "`a.pth`" in card and str(tmp_path) not in card
        assert "the file itself is a table of weights" in card
    header = checkpoint.read_header(target / "generator")
    assert header["name"] == "vgt-small" and header["config"]["autoencoder_name"] == "vgt-small_ae"


def test_what_was_written_generates(made, tmp_path):
    """By name, as a pipeline and as the published code does it."""
    target = tmp_path / "p"
    run(made["internvl"] / "a.pth", target, "--vlm", made["internvl"] / "vlm")
    found = load(target)
    decoder = paired_autoencoder(found, None)
    assert decoder.fingerprint == found.model.config.autoencoder
    prompts, seeds = ["a photo of a red star"], [image_seed(0, "a photo of a red star", 0)]
    images = generator.generate(found.model, decoder.model, found.tokenizer, prompts, seeds, FAST)
    assert images.shape == (1, IMAGE, IMAGE, 3)
    compat = FAST.model_copy(update={"compat": "reference"})
    other = generator.generate(found.model, decoder.model, found.tokenizer, prompts, seeds, compat)
    assert other.shape == images.shape and not np.array_equal(other, images)
    pipe = VGTPipeline.from_pretrained(target)
    assert torch.equal(pipe.generator.max_metaquery, found.model.max_metaquery)


def test_an_autoencoder_becomes_one_folder(made, family, tmp_path):
    """Without --vlm sizes would come from the table of published models, where these are not."""
    target = tmp_path / "ae"
    result = run(made[family] / "ae.pth", target, "--vlm", made[family] / "vlm")
    table = torch.load(made[family] / "ae.pth", weights_only=True)
    assert result["kept"] == len(table) and result["dropped"] == 0
    assert not (target / "model_index.json").exists() and load(target).system == "vgt_ae"
    stored = checkpoint.read_state(target, None)
    assert torch.equal(stored["down_mlp.1.weight"], table["down_mlp.1.weight"])
    assert stored["down_mlp.1.weight"].dtype == torch.float32


def test_an_autoencoder_from_a_second_file(made, family, tmp_path):
    """Each part in the precision that it came in."""
    vlm = made[family] / "vlm"
    result = run(made[family] / "bare.pth", tmp_path / "p", "--vlm", vlm, "--ae", made[family] / "ae.pth")
    assert result["sha256"] == hashlib.sha256((made[family] / "bare.pth").read_bytes()).hexdigest()
    parts = {name: checkpoint.read_state(tmp_path / "p" / name, None) for name in ("generator", "autoencoder")}
    assert parts["generator"]["grid_embed"].dtype == torch.bfloat16
    assert parts["autoencoder"]["decoder.conv_in.bias"].dtype == torch.float32
    card = (tmp_path / "p/README.md").read_text()
    assert all(f"`{name}`, sha256 `" in card for name in ("bare.pth", "ae.pth"))


def test_a_redundant_autoencoder_is_compared_and_named(made, tmp_path, capsys):
    """The command of README and docs, with a file that already has its autoencoder."""
    vlm, source = made["internvl"] / "vlm", made["internvl"] / "a.pth"
    ae = {k.removeprefix("vgt_ae."): v for k, v in torch.load(source).items() if k.startswith("vgt_ae.")}
    torch.save(ae, tmp_path / "ae.pth")
    plain = run(source, tmp_path / "plain", "--vlm", vlm)
    result = run(source, tmp_path / "both", "--vlm", vlm, "--ae", tmp_path / "ae.pth")
    assert (result["kept"], result["dropped"]) == (plain["kept"], plain["dropped"])
    told = "autoencoder: that of ae.pth, bit for bit"
    assert told in capsys.readouterr().out and told in (tmp_path / "both/README.md").read_text()
    parts = [checkpoint.read_state(tmp_path / name / "autoencoder", None) for name in ("plain", "both")]
    assert all(torch.equal(value, parts[1][key]) for key, value in parts[0].items())
    with pytest.raises(ValueError, match="differs from .*leave out --ae to take its own"):
        run(source, tmp_path / "wrong", "--vlm", vlm, "--ae", made["internvl"] / "ae.pth")
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize("storage", ["bf16", "fp32", "fp16"])
def test_storage(storage, made, tmp_path):
    source = made["internvl"] / "ae.pth"
    run(source, tmp_path / "ae", "--vlm", made["internvl"] / "vlm", "--storage", storage)
    stored = checkpoint.read_state(tmp_path / "ae", None)
    table = torch.load(source, weights_only=True)
    wanted = checkpoint.STORAGE[storage]
    assert torch.equal(stored["decoder.conv_in.weight"], table["decoder.conv_in.weight"].to(wanted))
    assert {t.dtype for t in stored.values()} == {wanted}


def test_a_number_that_half_precision_cannot_hold(made, tmp_path):
    table = torch.load(made["internvl"] / "ae.pth", weights_only=True)
    table["down_mlp.3.bias"][2] = 1e5
    torch.save(table, tmp_path / "ae.pth")
    vlm = made["internvl"] / "vlm"
    with pytest.raises(ValueError, match="down_mlp.3.bias holds values beyond the range of fp16; use --storage bf16"):
        run(tmp_path / "ae.pth", tmp_path / "ae", "--vlm", vlm, "--storage", "fp16")
    assert not (tmp_path / "ae").exists()


def test_the_copy_is_compared_to_the_bit(made, tmp_path, monkeypatch):
    """A writer that changes one value, or loses a tensor, is found out, and nothing is left behind."""
    vlm, write = made["internvl"] / "vlm", shards.write

    def wrong(folder, tensors, size):
        tensors["down_mlp.3.bias"] = tensors["down_mlp.3.bias"].clone()
        tensors["down_mlp.3.bias"][0] += 1e-6
        return write(folder, tensors, size)

    def short(folder, tensors, size):
        return write(folder, {k: v for k, v in tensors.items() if k != "batch_var"}, size)

    for writer, key in ((wrong, "down_mlp.3.bias"), (short, "batch_var")):
        monkeypatch.setattr(shards, "write", writer)
        with pytest.raises(ValueError, match=f"1 tensors differ from the source: {key}"):
            run(made["internvl"] / "ae.pth", tmp_path / "ae", "--vlm", vlm)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["a.pth", "ae.pth"])
def test_a_full_disk_leaves_the_old_folder(file, made, tmp_path, monkeypatch):
    vlm, target = made["internvl"] / "vlm", tmp_path / "p"
    run(made["internvl"] / file, target, "--vlm", vlm)
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards, "save_file", full)
    with pytest.raises(ValueError, match="cannot be written .*No space left on device.*free some space") as caught:
        run(made["internvl"] / file, target, "--vlm", vlm, "--storage", "fp32")
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_a_second_conversion_replaces_the_first(made, tmp_path):
    vlm, target = made["internvl"] / "vlm", tmp_path / "p"
    run(made["internvl"] / "a.pth", target, "--vlm", vlm)
    run(made["internvl"] / "a.pth", target, "--vlm", vlm, "--storage", "fp32")
    assert checkpoint.read_state(target / "generator", None)["grid_embed"].dtype == torch.float32


def test_bad_arguments(made, tmp_path, monkeypatch):
    source = made["internvl"] / "a.pth"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep me")
    with pytest.raises(ValueError, match="mine is there and is no checkpoint; choose a new folder"):
        run(source, tmp_path / "mine", "--vlm", made["internvl"] / "vlm")
    with pytest.raises(ValueError, match="notes.txt is there and is no checkpoint"):
        run(source, tmp_path / "mine/notes.txt", "--vlm", made["internvl"] / "vlm")
    assert (tmp_path / "mine/notes.txt").read_text() == "keep me"
    with pytest.raises(ValueError, match="no model directory .*nowhere"):
        run(source, tmp_path / "p", "--vlm", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="none.pth is not there"):
        run(tmp_path / "none.pth", tmp_path / "p")
    with pytest.raises(SystemExit):
        run(source, tmp_path / "p", "--storage", "int6")
    found = released.load(source, made["internvl"] / "vlm")
    monkeypatch.setattr(released, "load", lambda *args: released.Released(found.generator, found.autoencoder, ()))
    with pytest.raises(ValueError, match="is a generator and has no tokenizer; give with --vlm the folder"):
        run(source, tmp_path / "p")
    assert not (tmp_path / "p").exists()
