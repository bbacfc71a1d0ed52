"""Checkpoints: strict, content-addressed, without pickle, and with readable complaints (docs/vgt.md 7, "loader")."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vgt.checkpoints import checkpoint, int6
from vgt.inference.load import bundled, load, locate, paired_autoencoder
from vgt.methods.flow_head import FREQUENCIES, time_features


def tiny(seed: int = 0) -> nn.Module:
    """Two linears that share one weight, and a buffer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "norm": nn.BatchNorm1d(4)})
    module["b"].weight = module["a"].weight
    return module


def save(folder, module=None, name="tiny", config=None, **rest) -> str:
    state = (module or tiny()).state_dict()
    return checkpoint.save(folder, "vlm", name, config or {"width": 4}, state, **rest)


def test_round_trip_with_ties(tmp_path):
    module = tiny()
    save(tmp_path / "m", module)
    header = json.loads((tmp_path / "m/config.json").read_text())
    assert header["system"] == "vlm" and header["config"] == {"width": 4} and header["ties"] == {"b.weight": "a.weight"}
    state = checkpoint.read_state(tmp_path / "m")
    assert state.keys() == module.state_dict().keys()
    other = tiny(1)
    checkpoint.load_into(other, state, "m")
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in module.state_dict().items())
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_transposed_views_are_not_ties(tmp_path):
    square = torch.arange(9.0).view(3, 3)
    checkpoint.save(tmp_path / "m", "vlm", "t", {}, {"a": square, "b": square.T})
    state = checkpoint.read_state(tmp_path / "m")
    assert torch.equal(state["a"], square) and torch.equal(state["b"], square.T)


@pytest.mark.parametrize(("storage", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_narrow_weights_come_back_in_fp32(tmp_path, storage, dtype):
    module = tiny()
    save(tmp_path / "m", module, storage=storage)
    state = checkpoint.read_state(tmp_path / "m")
    for key, value in module.state_dict().items():
        assert state[key].dtype == value.dtype
        assert torch.equal(state[key], value.to(dtype).float() if value.is_floating_point() else value)


def test_int6_comes_back_within_half_a_step(tmp_path):
    rng = torch.Generator().manual_seed(0)
    state = {
        "w": torch.randn(8, 5, 7, generator=rng),  # 280 numbers: three groups, the last one padded
        "grid": torch.randn(1, 32, 2, 2, generator=rng),
        "small": torch.randn(4, 5, generator=rng),
        "bias": torch.randn(300, generator=rng),
        "zero": torch.zeros(16, 16),
    }
    checkpoint.save(tmp_path / "m", "vlm", "t", {}, state, storage="int6")
    back = checkpoint.read_state(tmp_path / "m")
    assert back.keys() == state.keys() and all(back[k].shape == state[k].shape for k in state)
    for key in ("w", "grid"):
        lost = (back[key] - state[key]).flatten()
        reach = torch.cat([g.abs().max().expand(len(g)) for g in state[key].flatten().split(int6.GROUP)])
        assert 0 < lost.square().mean() <= 1.1 * (reach / 31 / 12**0.5).square().mean()  # uniform within a step
        assert (lost.abs() <= 0.41 * reach).all()  # the least scale cuts at 0.6 of the largest
    for key in ("small", "bias", "zero"):
        assert torch.equal(back[key], state[key].half().float())


def test_int6_leaves_the_time_embedding_what_it_is(tmp_path):
    """Neighbouring features of a time are nearly equal, so what it means lies in small differences of large weights."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(64, FREQUENCIES, generator=rng) * 0.02
    weight[:, :16] = torch.randn(64, 8, generator=rng).repeat_interleave(2, 1) * torch.tensor([2.0, -2.0]).repeat(8)
    features = time_features(torch.linspace(0, 1, 9))
    meant = features @ weight.T
    key = "image_head.time_embed.mlp.0.weight"
    checkpoint.save(tmp_path / "m", "vlm", "t", {}, {key: weight, "other": weight.clone()}, storage="int6")
    state = checkpoint.read_state(tmp_path / "m")
    moved = {name: ((features @ state[name].T - meant).std(0) / meant.std(0)).mean() for name in (key, "other")}
    assert moved[key] < 0.01 and moved["other"] > 0.1


def test_int6_writes_every_level_and_every_place():
    """All 63 levels, at all four places within three bytes; the scale of a group is its own."""
    levels = torch.arange(-31, 32).repeat(8)[: 3 * int6.GROUP].float()
    steps = torch.tensor([0.5, 2.0, 64.0]).repeat_interleave(int6.GROUP)
    packed, scale = int6.pack((levels * steps).view(24, 16))
    assert packed.dtype == torch.uint8 and len(packed) == 3 * int6.GROUP * 6 // 8
    assert scale.tolist() == [0.5, 2.0, 64.0]
    assert torch.equal(int6.unpack(packed, scale, (24, 16)), (levels * steps).view(24, 16))


def test_int6_storage_of_ties_and_torn_files(tmp_path):
    rng = torch.Generator().manual_seed(0)
    matrix = torch.randn(64, 96, generator=rng)
    checkpoint.save(tmp_path / "m", "vlm", "t", {}, {"a": matrix, "tied": matrix}, storage="int6")
    found = checkpoint.read_state(tmp_path / "m")
    assert found.keys() == {"a", "tied"} and torch.equal(found["tied"], found["a"])
    weights = tmp_path / "m/model.safetensors"
    assert weights.stat().st_size < matrix.numel() * 6.125 / 8 + 600  # once
    stored = load_file(weights)
    save_file(stored | {"a.scale": stored["a.scale"][:-1].clone()}, weights)
    with pytest.raises(ValueError, match="torn int6"):
        checkpoint.read_state(tmp_path / "m")


def test_fingerprints_follow_what_decides_the_output(tmp_path):
    base = save(tmp_path / "a")
    assert base == checkpoint.fingerprint(tmp_path / "a") == save(tmp_path / "b") == save(tmp_path / "c", name="other")
    assert base == save(tmp_path / "card", texts={"README.md": "# a model card"})
    module = tiny()
    with torch.no_grad():
        module["a"].bias[0] += 1e-6
    assert base not in {save(tmp_path / "w", module), save(tmp_path / "s", config={"width": 5})}


def test_fingerprint_covers_the_vocabulary(tmp_path, vlms):
    prints = [save(tmp_path / f"m{i}", tokenizer=v.tokenizer) for i, v in enumerate(vlms.values())]
    assert len({*prints, save(tmp_path / "none")}) == 3


def test_saving_replaces_the_whole_folder(tmp_path):
    save(tmp_path / "m", texts={"README.md": "# old"})
    save(tmp_path / "m", tiny(1))
    assert "# old" not in (tmp_path / "m/README.md").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("a.bias"), "1 missing: a.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 unexpected: extra"),
        (lambda s: s.update({"b.bias": torch.zeros(5)}), "1 of another shape: b.bias"),
    ],
)
def test_loading_is_strict(change, message):
    module, state = tiny(), dict(tiny(1).state_dict())
    before = {k: v.clone() for k, v in module.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=f"weights of here do not fit its configuration: .*{message}"):
        checkpoint.load_into(module, state, "here")
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


FOREIGN = (
    "",
    "{",
    "[]",
    "{}",
    '{"architectures": ["X"]}',
    '{"vgt_format": 99, "system": "vlm", "name": "n", "ties": {}, "config": {}}',
    '{"vgt_format": 1, "system": "gan", "name": "n", "ties": {}, "config": {}}',
    '{"vgt_format": 1, "system": "vlm", "name": "n", "config": {}}',
)


@pytest.mark.parametrize("text", FOREIGN)
def test_foreign_configurations_are_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json is not the configuration of a VGT checkpoint"):
        checkpoint.read_header(tmp_path)


def test_absent_and_torn_files(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint at .*nowhere.*config.json is missing"):
        checkpoint.read_header(tmp_path / "nowhere")
    save(tmp_path / "m")
    weights = tmp_path / "m/model.safetensors"
    whole = weights.read_bytes()
    for broken in (whole[:-7], whole[:20], b"", b"\x80\x04pickle" * 9):
        weights.write_bytes(broken)
        with pytest.raises(ValueError, match="model.safetensors cannot be read .* again"):
            checkpoint.read_state(tmp_path / "m")
    weights.unlink()
    with pytest.raises(ValueError, match="has neither model.safetensors nor"):
        checkpoint.read_state(tmp_path / "m")


def test_a_lost_tie_is_an_error(tmp_path):
    save(tmp_path / "m")
    path = tmp_path / "m/config.json"
    path.write_text(path.read_text().replace('"b.weight": "a.weight"', '"b.weight": "gone"'))
    with pytest.raises(ValueError, match="lacks tied weights: gone"):
        checkpoint.read_state(tmp_path / "m")


def test_bundled_generators_find_their_autoencoders():
    """The content hashes that the bundled generators carry are those of the bundled autoencoders."""
    named = {}
    for name in bundled():
        config = checkpoint.read_header(locate(name))["config"]
        if config.get("autoencoder"):
            named[name] = config["autoencoder"] == checkpoint.fingerprint(locate(config["autoencoder_name"]))
    assert len(named) >= 4 and all(named.values()), named


def test_precision_of_reading(tmp_path):
    save(tmp_path / "m", storage="bf16")
    for dtype, seen in ((None, torch.bfloat16), (torch.float16, torch.float16), (torch.float32, torch.float32)):
        state = checkpoint.read_state(tmp_path / "m", dtype)
        assert state["a.weight"].dtype == seen and state["norm.num_batches_tracked"].dtype == torch.int64
    assert checkpoint.read_state(tmp_path / "m")["a.weight"].dtype == torch.float32


def test_adopting_makes_no_copy(tmp_path):
    save(tmp_path / "m")
    state = torch.random.get_rng_state()
    with checkpoint.skeleton():
        module = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "norm": nn.BatchNorm1d(4)})
    assert torch.equal(torch.random.get_rng_state(), state)
    assert module["a"].weight.device.type == "meta" and module["norm"].running_var.device.type == "cpu"
    read = checkpoint.read_state(tmp_path / "m", None)
    places = {key: tensor.data_ptr() for key, tensor in read.items()}
    checkpoint.adopt(module, read, "m")
    assert not read and module["a"].weight is module["b"].weight  # the tie is one parameter again
    assert {key: tensor.data_ptr() for key, tensor in module.state_dict().items()} == places
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in tiny().state_dict().items())


def test_adopting_in_another_precision(tmp_path):
    save(tmp_path / "m")
    with checkpoint.skeleton():
        module = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "norm": nn.BatchNorm1d(4)})
    checkpoint.adopt(module, checkpoint.read_state(tmp_path / "m", None), "m", torch.bfloat16)
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16} and len(list(module.parameters())) == 5
    assert torch.equal(module["a"].weight, tiny()["a"].weight.bfloat16())
    assert module["norm"].running_var.dtype == torch.float32  # a statistic
    with pytest.raises(ValueError, match="weights of m do not fit its configuration: 8 missing"):
        checkpoint.adopt(module, {"a.bias": torch.zeros(4)}, "m")


def test_another_depth_is_named():
    deep, shallow = (nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(2, 2) for _ in range(n))}) for n in (3, 2))
    with pytest.raises(ValueError, match="of here .*: layers has 2 blocks, the weights 3; 2 unexpected: layers.2"):
        checkpoint.load_into(shallow, deep.state_dict(), "here")
    with pytest.raises(ValueError, match="layers has 3 blocks, the weights 2; 2 missing: layers.2"):
        checkpoint.load_into(deep, shallow.state_dict(), "here")


def test_every_checkpoint_has_a_card(tmp_path):
    config = {"autoencoder": "0123456789abcdef" * 4, "autoencoder_name": "ae"}
    checkpoint.save(tmp_path / "g", "query_ar", "gen", config, tiny().state_dict(), storage="bf16")
    card = (tmp_path / "g/README.md").read_text()
    assert card.startswith("---\nlibrary_name: vgt\npipeline_tag: text-to-image\ntags: [vgt, query_ar]\n---\n# gen\n")
    assert " with 40 weights" in card and "safetensors, bf16" in card  # the tie once, the counter not
    assert "autoencoder: ae (`0123456789abcdef`)" in card and "VisualLM.from_pretrained" in card
    save(tmp_path / "own", texts={"README.md": "# mine"})
    assert (tmp_path / "own/README.md").read_text() == "# mine"


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    import pickle

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    save(tmp_path / "m")
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert checkpoint.read_state(tmp_path / "m")


# -------------------------------------------------------------------------------------------- whole models


@pytest.fixture(scope="module")
def saved(tmp_path_factory, vlms, visual_lms, pixel_autoencoder):
    """A folder of runs: a VLM of each family, an autoencoder, a generator of each family on it."""
    runs = tmp_path_factory.mktemp("runs")
    ae = checkpoint.save(
        runs / "ae/model",
        "vgt_ae",
        "ae",
        pixel_autoencoder.config.model_dump(mode="json"),
        pixel_autoencoder.state_dict(),
    )
    for family, vlm in vlms.items():
        config = {"hf": vlm.config.to_dict(), "image_size": vlm.image_size}
        checkpoint.save(runs / f"vlm_{family}/model", "vlm", f"vlm_{family}", config, vlm.state_dict(), vlm.tokenizer)
        model = visual_lms[family]
        named = model.config.model_copy(update={"autoencoder": ae, "autoencoder_name": "ae"})
        folder = runs / f"ar_{family}/model"
        checkpoint.save(
            folder, "query_ar", f"ar_{family}", named.model_dump(mode="json"), model.state_dict(), vlm.tokenizer
        )
    return runs


@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])
@torch.no_grad()
def test_models_survive_the_disk(saved, family, vlms, visual_lms, pixel_autoencoder):
    state = torch.random.get_rng_state()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = load(f"vlm_{family}", saved)
    question = found.model.question("Is there a star?")
    ids = torch.tensor([found.tokenizer(question).input_ids] * 2)
    assert torch.equal(found.model.hidden(ids, images), vlms[family].hidden(ids, images))
    assert found.system == "vlm" and found.name == f"vlm_{family}" and not found.model.training
    ar = load(saved / f"ar_{family}", saved)
    assert torch.equal(ar.model.queries(), visual_lms[family].queries())
    assert ar.model.config.latent_mean == visual_lms[family].config.latent_mean
    assert torch.equal(ar.model.latent_std, visual_lms[family].latent_std)
    ae = paired_autoencoder(ar, None, saved)
    assert torch.equal(ae.model(images), pixel_autoencoder(images))
    assert not any(p.requires_grad for m in (found, ar, ae) for p in m.model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_wrong_autoencoder_is_refused(saved, pixel_autoencoder):
    other = {k: v + 1e-3 if v.is_floating_point() else v for k, v in pixel_autoencoder.state_dict().items()}
    config = pixel_autoencoder.config.model_dump(mode="json")
    checkpoint.save(saved / "other/model", "vgt_ae", "other", config, other)
    with pytest.raises(ValueError, match="ar_internvl was trained on autoencoder ae"):
        paired_autoencoder(load("ar_internvl", saved), "other", saved)
    with pytest.raises(ValueError, match="vlm checkpoint; give a vgt_ae or vfmtok one"):
        paired_autoencoder(load("ar_internvl", saved), "vlm_internvl", saved)


def test_faulty_model_folders(saved, tmp_path):
    import shutil

    with pytest.raises(ValueError, match="no checkpoint 'nobody': neither a folder, nor a trained run, nor a bundled"):
        locate("nobody", saved)
    copy = shutil.copytree(saved / "ar_internvl/model", tmp_path / "copy")
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="copy has no tokenizer.json"):
        load(copy)
    copy = shutil.copytree(saved / "ae/model", tmp_path / "ae")
    header = json.loads((copy / "config.json").read_text())
    header["config"]["latents"] = 3
    (copy / "config.json").write_text(json.dumps(header))
    with pytest.raises(ValueError) as error:
        load(copy)
    assert "latents" in str(error.value) and "\n" not in str(error.value)
    header["config"].pop("latents")
    header["config"]["pixel_width"] = 8
    (copy / "config.json").write_text(json.dumps(header))
    with pytest.raises(ValueError, match="do not fit its configuration"):
        load(copy)
