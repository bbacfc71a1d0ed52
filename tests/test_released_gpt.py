"""Published GPTs over codes, written here with the keys and shapes of docs/vfmtok.md 19.2: nothing missing, nothing
left over, nothing run, and the same numbers.

The tokenizer is the one of tests/toy_system: 4 x 4 tokens of 16 codes."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
import torch
from test_cli import call
from test_toy_system import HERE, forget

from vgt.checkpoints import released_gpt
from vgt.core import files
from vgt.inference.generator import open_generator
from vgt.inference.load import load
from vgt.methods import registry
from vgt.methods.code_gpt import CodeGPT, CodeGPTConfig
from vgt.training.run import run

SMALL = {"layers": 2, "width": 32, "ffn": 256, "classes": 5, "entries": 16}
FULL = {"layers": 24, "width": 1024, "ffn": 2816, "classes": 1000, "entries": 16384}


def shapes(layers: int, width: int, ffn: int, classes: int, entries: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "cls_embedding.embedding_table.weight": (classes + 1, width),
        "tok_embeddings.weight": (entries, width),
        "norm.weight": (width,),
        "output.weight": (entries, width),
    }
    for n in range(layers):
        found |= {
            f"layers.{n}.attention.wqkv.weight": (3 * width, width),
            f"layers.{n}.attention.wo.weight": (width, width),
            f"layers.{n}.feed_forward.w1.weight": (ffn, width),
            f"layers.{n}.feed_forward.w3.weight": (ffn, width),
            f"layers.{n}.feed_forward.w2.weight": (width, ffn),
            f"layers.{n}.attention_norm.weight": (width,),
            f"layers.{n}.ffn_norm.weight": (width,),
        }
    return found


def drawn(seed: int = 0, **sizes) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=rng) * 0.2 for key, shape in shapes(**{**SMALL, **sizes}).items()}


def file(path: Path, **tables) -> Path:
    torch.save(tables, path)
    return path


@pytest.fixture(scope="module", autouse=True)
def work(tmp_path_factory):
    """A folder with the tokenizer; two heads of width 16 count as a published size."""
    forget()
    place = tmp_path_factory.mktemp("released")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_SYSTEMS", dict(registry._SYSTEMS))
        patch.setenv(registry.PLUGINS, "toy_system")
        patch.setitem(released_gpt.HEADS, (2, 32), 2)
        patch.chdir(place)
        run(str(HERE / "toy_codebook.toml"), ["train.steps=2"], None, Path("runs"))
        yield place
    forget()


def test_keys_and_shapes_are_the_published_ones():
    with torch.device("meta"):
        config = CodeGPTConfig(classes=1000, grid=(16, 16), codebook_size=16384, layers=24, heads=16, width=1024)
        state = CodeGPT(config).state_dict()
    ours = {released_gpt.RENAMED.get(key, key): shape for key, shape in shapes(**FULL).items()}
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == ours
    assert round(sum(torch.Size(shape).numel() for shape in ours.values()) / 1e6, 1) == 342.9


def test_a_training_file_becomes_a_checkpoint_of_its_averaged_weights(tmp_path, capsys):
    ema, raw = drawn(1), drawn(2)
    script = argparse.Namespace(gpt_model="GPT-L", lr=1e-4)
    path = file(tmp_path / "GPT-L-300e.pt", model=raw, ema=ema, optimizer={"state": {}}, steps=7, args=script)
    status, result, out, err = call(
        capsys, "convert", str(path), str(tmp_path / "gpt"), "--autoencoder", "toy_codebook"
    )
    assert status == 0, err
    assert result["kept"] == len(ema) and result["dropped"] == 0 and result["sha256"] == files.digest_file(path)
    assert "ema: the averaged weights" in out and "cls_embedding.embedding_table" in out
    found = load(tmp_path / "gpt")
    config = found.model.config
    assert (config.layers, config.heads, config.width, config.inner, config.grid) == (2, 2, 32, 256, (4, 4))
    assert config.classes == ("0", "1", "2", "3", "4") and config.class_row == "zero"
    tokenizer = load("toy_codebook", Path("runs"))
    assert (config.autoencoder, config.autoencoder_name) == (tokenizer.fingerprint, "toy_codebook")
    for key, tensor in ema.items():
        assert torch.equal(found.model.state_dict()[released_gpt.RENAMED.get(key, key)], tensor), key
    assert "GPT-L-300e.pt" in (tmp_path / "gpt/README.md").read_text()
    images = open_generator(tmp_path / "gpt", {}, Path("runs")).generate([0, 4], [1, 2])
    assert images.shape == (2, 32, 32, 3)


@pytest.mark.parametrize(("tables", "weights", "taken"), [
    ({"model": 2}, "auto", 2), ({"model": 2, "ema": 1}, "model", 2), ({"module": 3}, "auto", 3), (None, "auto", 4),
])  # fmt: skip
def test_where_the_weights_are(tables, weights, taken, tmp_path):
    path = tmp_path / "a.pt"
    torch.save(drawn(4) if tables is None else {name: drawn(seed) for name, seed in tables.items()}, path)
    part, report = released_gpt.load(path, load("toy_codebook", Path("runs")), (4, 4), weights)
    assert torch.equal(part.state["output.weight"], drawn(taken)["output.weight"])
    assert report.taken == len(part.state) and set(part.state) == set(part.build().state_dict())


def without(key: str) -> dict:
    table = drawn()
    del table[key]
    return table


class Foreign:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(("tables", "argv", "said"), [
    ({"ema": drawn(entries=32)}, (), r"is over 32 codes and toy_codebook has 16; give with --autoencoder"),
    ({"ema": drawn(layers=3)}, (), r"has 3 layers of width 32; published are 12 x 768"),
    ({"ema": drawn() | {"freqs_cis": torch.zeros(3)}}, (), r"has 1 entries of no known place: freqs_cis"),
    ({"ema": without("norm.weight")}, (), r"norm.weight"),
    ({"ema": drawn() | {"norm.weight": torch.zeros(31)}}, (), r"norm.weight"),
    ({"ema": drawn()}, ("--weights", "module"), r"has no module; it has ema"),
    ({"ema": drawn()}, ("--vlm", "x"), r"--vlm has no effect"),
    ({"ema": drawn(), "args": Foreign()}, (), r"holds objects that run code"),
])  # fmt: skip
def test_what_does_not_fit_is_told_in_one_line(tables, argv, said, tmp_path, capsys):
    path = file(tmp_path / "a.pt", **tables)
    argv = ("convert", str(path), str(tmp_path / "out"), "--autoencoder", "toy_codebook", *argv)
    status, _, out, err = call(capsys, *argv)
    assert status == 2 and re.search(said, err) and len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "out").exists() and "run" not in out.split()


def test_the_tokenizer_must_be_named(tmp_path, capsys):
    path = file(tmp_path / "a.pt", ema=drawn())
    status, _, _, err = call(capsys, "convert", str(path), str(tmp_path / "out"))
    assert status == 2 and "give with --autoencoder the tokenizer that it belongs to" in err
