"""Published checkpoints, written here with the keys and shapes of docs/vgt.md 4: nothing missing, nothing left over,
nothing run, and the same numbers."""

from __future__ import annotations

import os
import pickle
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import released_checkpoints as rc
import torch
from conftest import FAMILIES, IMAGE
from safetensors.torch import save_file
from small_vlms import original_state

from vgt.checkpoints import released, released_keys
from vgt.checkpoints.checkpoint import load_into
from vgt.methods import registry
from vgt.methods.pixel_decoder import DecoderConfig
from vgt.methods.vgt_ae import VGTAE
from vgt.methods.visual_lm import VisualLM


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folders(vlms, tmp_path_factory) -> dict:
    """family -> directory of the small VLM, as Hugging Face writes it."""
    made = {}
    for name, vlm in vlms.items():
        made[name] = tmp_path_factory.mktemp(name)
        vlm.hf.save_pretrained(made[name])
        vlm.tokenizer.save_pretrained(made[name])
    return made


@pytest.fixture
def sizes(family, vlms) -> rc.Sizes:
    return rc.small(len(vlms[family].tokenizer), family)


@pytest.fixture
def file(family, sizes, tmp_path):
    """A generator's file with its autoencoder and all that training leaves behind."""
    shapes = rc.ballast(family, sizes) | rc.whole(family, sizes)
    torch.save(rc.drawn(shapes), tmp_path / "iter_5000.pth")
    return tmp_path / "iter_5000.pth"


def damaged(file, change, name="other.pth"):
    """A copy of ``file`` after ``change(table)``."""
    table = torch.load(file, weights_only=True)
    change(table)
    torch.save(table, file.with_name(name))
    return file.with_name(name)


# ------------------------------------------------------------------------------------------- whole models


def test_every_tensor_has_its_place(file, folders, family, sizes):
    found = released.load(file, folders[family])
    generator, autoencoder = found.generator.build(), found.autoencoder.build()
    (report,) = found.reports
    table = torch.load(file, weights_only=True)
    told = [*report.kept, *report.renamed, *report.dropped]
    assert sorted(told) == sorted(table) and report.left_over == []
    assert report.taken == found.taken == len(table) - len(report.dropped)
    layers = len([k for k in table if k.startswith("lmm.language_model.")])
    twice = [k for k, why in report.dropped.items() if why == released_keys.TWICE]
    assert len(twice) == (layers if family == "qwen2_5_vl" else 0)
    for key in ("vgt_ae.teacher.", "image_head.net.repa_projector.", "dinov3_extractor.", "steps", "lmm.mlp1."):
        assert any(dropped.startswith(key) for dropped in report.dropped), key
    # The very numbers, in the precision of the file.
    state = generator.state_dict()
    assert torch.equal(state["max_metaquery"], table["adaptive_metaquery.max_metaquery"])
    assert torch.equal(state["grid_embed"], table["adaptive_metaquery.pos_encoding.grid_embed"])
    prefix = "lmm.language_model.model." if family == "internvl" else "lmm.model.language_model."
    for key in ("embed_tokens.weight", "norm.weight", "layers.1.self_attn.k_proj.bias"):
        assert torch.equal(state[f"language_model.{key}"], table[prefix + key])
    for key in ("time_embed.mlp.2.bias", "res_blocks.1.adaLN_modulation.1.weight", "final_layer.linear.weight"):
        assert torch.equal(state[f"image_head.{key}"], table[f"image_head.net.{key}"])
    state = autoencoder.state_dict()
    for key in ("down_blocks.2.mlp.3.weight", "down_mlp.1.weight", "decoder.up_blocks.1.0.attn.to_q.weight"):
        assert torch.equal(state[key], table[f"vgt_ae.{key}"])
    assert {t.dtype for k, t in state.items() if not k.startswith("batch_")} == {torch.bfloat16}


def test_sizes_are_read_from_the_tensors(file, folders, family):
    found = released.load(file, folders[family])
    config, ae = found.generator.config, found.autoencoder.config
    assert config.text["num_hidden_layers"] == 2 and config.text["num_attention_heads"] == 2
    assert (config.query_grid, config.d_z, config.head.width, config.head.depth) == (16, 8, 32, 2)
    assert config.latent_norm and config.method == "query_ar" and ae.normalize == "position" and not ae.kl
    assert ae.decoder == DecoderConfig(widths=(32, 32), layers=(1, 1), attention=1)
    assert len(config.start_ids) == (1 if family == "internvl" else 2)  # docs/vgt.md 2.3
    side = IMAGE // 8 if family == "internvl" else 16  # a tower of any size: 256 tokens, as published
    assert config.latent_grid == (side, side) and ae.image_size == 8 * side
    assert config.time_shift == (1.4 if family == "internvl" else 1.0)


def test_features_and_states_are_those_of_the_vlm(vlms, folders, family, sizes, tmp_path):
    """The weights of a VLM in the published layout: the same features, and the same hidden states of text."""
    vlm = vlms[family]
    native = vlm.hf.state_dict()
    table = rc.drawn(rc.whole(family, sizes), dtype=torch.float32)
    if family == "internvl":
        told = original_state(native)
        place = {"vision_model.": "vgt_ae.encoder.", "mlp1.": "vgt_ae.mlp1.", "language_model.": "lmm.language_model."}
    else:
        told, place = native, {"model.visual.": "vgt_ae.encoder.", "model.language_model.": "lmm.model.language_model."}
    for old, new in place.items():
        table |= {new + k.removeprefix(old): v for k, v in told.items() if k.startswith(old)}
    if family == "qwen2_5_vl":
        table |= {k.replace("lmm.model.", "lmm.", 1): v for k, v in table.items() if k.startswith("lmm.model.lang")}
    table = {k: v for k, v in table.items() if "lm_head" not in k}
    torch.save(table, tmp_path / "a.pth")
    found = released.load(tmp_path / "a.pth", folders[family])
    generator, ae = found.generator.build(), found.autoencoder.build()
    images = torch.rand(2, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ids = torch.tensor([[5, 9, 3, 12]])
    with torch.no_grad():
        assert torch.equal(ae.features(images), vlm.encoder(images))
        assert torch.equal(generator.language_model(ids).last_hidden_state, vlm.language(ids).last_hidden_state)


@pytest.mark.parametrize(
    ("name", "sizes", "family", "parameters"),
    [
        ("1B", rc.INTERNVL3_1B, "internvl", 472_577_475),
        ("2B", rc.INTERNVL3_2B, "internvl", 472_577_475),  # with the 1B model's autoencoder
        ("36 layers", rc.QWEN_3B, "qwen2_5_vl", 853_168_579),
        ("18 layers", rc.Sizes(**{**vars(rc.QWEN_3B), "layers": 18}), "qwen2_5_vl", 853_168_579),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_full_size_layouts(name, sizes, family, parameters):
    """The documented tables on the meta device, without any VLM at hand: onto the full-size modules, all of them."""
    table = rc.empty(rc.whole(family, sizes) | rc.ballast(family, sizes))
    found = released_keys.sort(table, name, released.BARE)
    config = released.autoencoder_config(found.autoencoder, found.tower, None, name)
    part = released.Part(registry.VGT_AE, config, found.autoencoder | released._buffers(config), name)
    assert sum(p.numel() for p in part.build().parameters()) == parameters
    generator = released._generator(found, config, None, name)
    model = generator.build()
    heads = {896: (14, 2), 1536: (12, 2), 2048: (16, 2)}[sizes.width]
    text = generator.config.text
    assert (text["num_attention_heads"], text["num_key_value_heads"]) == heads
    assert len(model.language_model.layers) == sizes.layers and generator.config.latent_grid == (16, 16)
    assert generator.config.start_ids == ((151665,) if family == "internvl" else (20092, 29))
    assert set(model.state_dict()) == set(found.generator) and config.image_size == 448
    notes = ["language model: the first 18 of 36 layers"] if name == "18 layers" else []
    assert found.report.notes == notes


# -------------------------------------------------------------------------------------------- autoencoders


@pytest.mark.parametrize("wrap", ["bare", "model", "state_dict", "module", "safetensors"])
def test_containers_of_an_autoencoder(wrap, family, sizes, folders, tmp_path):
    table = rc.drawn(rc.autoencoder(family, sizes), dtype=torch.float32)
    path = tmp_path / ("ae.safetensors" if wrap == "safetensors" else "ae.pth")
    if wrap == "safetensors":
        save_file(table, path)
    elif wrap == "module":
        torch.save({f"module.{k}": v for k, v in table.items()}, path)
    else:
        torch.save(table if wrap == "bare" else {wrap: table, "epoch": 3}, path)
    found = released.load(path, folders[family])
    assert found.generator is None and found.taken == len(table)
    assert torch.equal(found.autoencoder.state["down_mlp.0.bias"], table["down_mlp.0.bias"])
    assert found.reports[0].weights.split(":")[0] == {
        "model": "model", "state_dict": "state_dict"}.get(wrap, "the file itself is a table of weights")  # fmt: skip
    model = VGTAE(found.autoencoder.config)
    load_into(model, found.autoencoder.state, "x")
    with torch.no_grad():
        side = found.autoencoder.config.image_size
        assert model(torch.zeros(1, 3, side, side)).shape == (1, 3, side, side)


def test_kl_variant(sizes, family, folders, tmp_path):
    torch.save(rc.drawn(rc.autoencoder(family, sizes, kl=True)), tmp_path / "ae.pth")
    found = released.load(tmp_path / "ae.pth", folders[family])
    assert found.autoencoder.config.kl and found.autoencoder.config.d_z == 8
    assert found.autoencoder.build().down_mlp[3].weight.shape == (16, 16)


def test_an_autoencoder_of_another_width(vlms, folders, tmp_path):
    """The 1.6B InternVL3 has the autoencoder of the 1B model (docs/vgt.md 0)."""
    s = rc.small(len(vlms["internvl"].tokenizer), "internvl", ae=24)
    torch.save(rc.drawn(rc.whole("internvl", s)), tmp_path / "a.pth")
    found = released.load(tmp_path / "a.pth", folders["internvl"])
    assert found.autoencoder.build().encoder.projector.linear_2.weight.shape == (24, 24)
    assert found.generator.config.text["hidden_size"] == 32


def test_an_autoencoder_in_a_file_of_its_own(family, sizes, folders, tmp_path):
    table = rc.drawn(rc.generator(family, sizes))
    torch.save(table, tmp_path / "a.pth")
    other = rc.drawn(rc.autoencoder(family, sizes), seed=5)
    torch.save(other, tmp_path / "ae.pth")
    with pytest.raises(ValueError, match=r"a.pth has no autoencoder \(vgt_ae.\*\); give its file with --ae"):
        released.load(tmp_path / "a.pth", folders[family])
    found = released.load(tmp_path / "a.pth", folders[family], ae=tmp_path / "ae.pth")
    assert torch.equal(found.autoencoder.state["decoder.conv_in.bias"], other["decoder.conv_in.bias"])
    assert found.taken + found.dropped == len(table) + len(other) and len(found.reports) == 2
    with pytest.raises(ValueError, match="holds a whole generator; give with --ae"):
        torch.save(rc.drawn(rc.whole(family, sizes)), tmp_path / "b.pth")
        released.load(tmp_path / "a.pth", folders[family], ae=tmp_path / "b.pth")


def test_a_file_with_its_autoencoder_and_the_same_one_once_more(family, sizes, folders, tmp_path):
    """As the published class saves it: the copy inside is compared, and is the one that is taken."""
    whole, alone = tmp_path / "a.pth", tmp_path / "ae.pth"
    table = rc.drawn(rc.whole(family, sizes) | rc.ballast(family, sizes))
    ae = {k.removeprefix("vgt_ae."): v for k, v in table.items() if k.startswith("vgt_ae.")}
    torch.save(table, whole)
    plain = released.load(whole, folders[family])
    fine = {k: v.float() + (v.float() * 2**-12) for k, v in ae.items()}  # rounds to the bf16 inside
    for stored, how in ((ae, "bit for bit"), (fine, "but for rounding to another precision")):
        torch.save(stored, alone)
        found = released.load(whole, folders[family], ae=alone)
        assert (found.taken, found.dropped, len(found.reports)) == (plain.taken, plain.dropped, 1)
        assert found.reports[0].notes[-1] == f"autoencoder: that of ae.pth, {how}"
        key = "decoder.conv_in.bias"
        assert torch.equal(found.autoencoder.state[key], table[f"vgt_ae.{key}"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: change_one(t, "down_mlp.3.bias"), "differs from .*other.pth in 1 tensors, first down_mlp.3.bias;"),
        (lambda t: t.pop("decoder.conv_in.bias"), "differs from .*other.pth in 1 tensors, first decoder.conv_in.bias;"),
        (lambda t: t.update({"down_mlp.0.bias": torch.zeros(7)}), "in 1 tensors, first down_mlp.0.bias;"),
    ],
)
def test_another_autoencoder_than_the_one_inside(change, words, sizes, folders, family, tmp_path):
    table = rc.drawn(rc.whole(family, sizes))
    torch.save(table, tmp_path / "a.pth")
    torch.save({k.removeprefix("vgt_ae."): v for k, v in table.items() if k.startswith("vgt_ae.")}, tmp_path / "ae.pth")
    other = damaged(tmp_path / "ae.pth", change)
    with pytest.raises(ValueError, match=words + " leave out --ae to take its own"):
        released.load(tmp_path / "a.pth", folders[family], ae=other)


# ------------------------------------------------------------------------------------------ training files


def training_file(path, family, sizes, **more):
    """What mmengine writes: averaged weights as ``state_dict``, raw ones with a prefix as ``ema_state_dict``."""
    averaged, raw = (rc.drawn(rc.whole(family, sizes), seed) for seed in (1, 2))
    ema = OrderedDict({f"module.{k}": v for k, v in raw.items()}, steps=torch.tensor(7))
    torch.save({"meta": {"iter": 5000, "seed": None}, "state_dict": averaged, "ema_state_dict": ema, **more}, path)
    return averaged, raw


@pytest.mark.parametrize(
    ("weights", "which", "told"),
    [
        ("auto", 1, "ema_state_dict: the raw weights of the last step, not their average"),
        ("ema_state_dict", 1, "ema_state_dict: the raw weights of the last step, not their average"),
        ("state_dict", 0, "state_dict: the averaged weights"),
    ],
)
def test_which_weights(weights, which, told, family, sizes, folders, tmp_path):
    """The reference prefers ema_state_dict and so takes the raw weights; the report says so (docs/vgt.md 4.4, D7)."""
    both = training_file(tmp_path / "t.pth", family, sizes)
    found = released.load(tmp_path / "t.pth", folders[family], weights=weights)
    key = "image_in_projector.weight"
    assert torch.equal(found.generator.state[key], both[which][key])
    assert not torch.equal(both[0][key], both[1][key])
    assert found.reports[0].weights.startswith(told) and found.reports[0].lines()[0].startswith("t.pth: " + told)
    assert ("steps" in found.reports[0].dropped) == (which == 1)


def test_weights_that_are_not_there(file, folders, family):
    with pytest.raises(ValueError, match="has no ema_state_dict; it has bare weights only; leave the choice to auto"):
        released.load(file, folders[family], weights="ema_state_dict")
    with pytest.raises(ValueError, match="weights 'ema' is unknown; choose one of auto, state_dict, ema_state_dict"):
        released.load(file, folders[family], weights="ema")


def history(module: types.ModuleType) -> type:
    """A class like mmengine's HistoryBuffer, in ``module``: it pickles arrays, and methods by their names."""

    def forbidden(self, *args):
        raise AssertionError("bookkeeping was run")

    made = type("HistoryBuffer", (), {"__module__": module.__name__, "__setstate__": forbidden, "mean": forbidden})
    forbidden.__module__, forbidden.__qualname__ = module.__name__, "HistoryBuffer.mean"
    module.HistoryBuffer = made
    return made


def test_bookkeeping_of_the_training_framework_is_ignored(family, sizes, folders, tmp_path, monkeypatch):
    """message_hub holds objects of mmengine and numpy: they are read as nothing, where mmengine is not installed."""
    name = "mmengine.logging.history_buffer"
    modules = {part: types.ModuleType(part) for part in ("mmengine", "mmengine.logging", name)}
    one = history(modules[name])()
    one.log, one.methods = np.arange(3.0), {"mean": type(one).mean}
    with monkeypatch.context() as patch:
        for part, module in modules.items():
            patch.setitem(sys.modules, part, module)
        hub = {"log_scalars": {"train/loss": one}, "lr": np.float64(1e-4)}
        _, raw = training_file(tmp_path / "t.pth", family, sizes, message_hub=hub)
    with pytest.raises(pickle.UnpicklingError, match="HistoryBuffer"):
        torch.load(tmp_path / "t.pth", weights_only=True)
    found = released.load(tmp_path / "t.pth", folders[family])
    assert torch.equal(found.generator.state["image_in_projector.bias"], raw["image_in_projector.bias"])
    assert released._Ignored not in torch.serialization.get_safe_globals()


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_not_run(legacy, sizes, family, tmp_path):
    table = rc.drawn(rc.autoencoder(family, sizes))
    mark = tmp_path / "was here"
    torch.save({"state_dict": table, "meta": Bomb(mark)}, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    what = (
        "cannot be read as tensors" if legacy else r"run code when they are read \(posix.mkdir\); nothing of it was run"
    )
    with pytest.raises(ValueError, match=what) as caught:
        released.read_table(tmp_path / "a.pth")
    assert not mark.exists() and "\n" not in str(caught.value)


def test_files_of_old_versions_of_torch(sizes, family, tmp_path):
    table = rc.drawn(rc.autoencoder(family, sizes))
    torch.save(table, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert released.read(tmp_path / "a.pth").report.taken == len(table)


# ---------------------------------------------------------------------------------------------- bad files


def change_one(table, key):
    table[key] = table[key] + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(extra=torch.zeros(1)), "1 entries of no known place: extra"),
        (lambda t: t.update({"vgt_ae.encoder.more.bias": torch.zeros(1)}), "(known place|unexpected): .*more.bias"),
        (lambda t: t.update({"image_in_projector.bias": "text"}), "no known place: image_in_projector.bias"),
        (lambda t: t.pop("image_out_projector.bias"), "1 missing: image_out_projector.bias"),
        (lambda t: t.pop("vgt_ae.down_mlp.3.bias"), "1 missing: down_mlp.3.bias"),
        (lambda t: t.pop("vgt_ae.decoder.conv_in.weight"), "lacks decoder.conv_in.weight"),
        (lambda t: t.update({"image_out_projector.bias": torch.zeros(3)}), "another shape: image_out_projector.bias"),
        (lambda t: t.update({"module.steps": torch.zeros(())}), "'steps' both with and without the prefix 'module.'"),
        (lambda t: t.update({"vgt_ae.down_mlp.1.weight": torch.zeros(9, 32)}), "has 9 rows; a decoder of 8 channels"),
        (lambda t: t.update({"image_in_projector.weight": torch.zeros(32, 9)}), "generates 9 latent channels"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit(change, message, file, folders, family):
    with pytest.raises(ValueError, match=message) as caught:
        released.load(damaged(file, change), folders[family])
    assert "\n" not in str(caught.value) and file.parent.name in str(caught.value) or "other.pth" in str(caught.value)


def test_a_gap_in_the_layers(file, folders, family):
    def change(table):
        for key in [k for k in table if ".layers.0." in k and k.startswith("lmm.")]:
            del table[key]

    with pytest.raises(ValueError, match="lacks language_model.layers.0.mlp.gate_proj.weight"):
        released.load(damaged(file, change), folders[family])


def test_two_different_copies_of_the_language_model(vlms, folders, tmp_path):
    s = rc.small(len(vlms["qwen2_5_vl"].tokenizer), "qwen2_5_vl")
    torch.save(rc.drawn(rc.whole("qwen2_5_vl", s)), tmp_path / "a.pth")
    key = "lmm.language_model.layers.1.mlp.up_proj.weight"
    wrong = damaged(tmp_path / "a.pth", lambda t: change_one(t, key))
    with pytest.raises(ValueError, match=f"holds '{key}' twice with different values"):
        released.load(wrong, folders["qwen2_5_vl"])
    # Equal values in other memory, or one copy alone, are as good.
    equal = damaged(tmp_path / "a.pth", lambda t: t.update({key: t[key].clone()}))

    def keep_second(table):
        for k in [k for k in table if k.startswith("lmm.model.")]:
            del table[k]

    for path in (equal, damaged(tmp_path / "a.pth", keep_second, "second.pth")):
        assert len(released.load(path, folders["qwen2_5_vl"]).generator.build().language_model.layers) == 2


def test_depth_is_counted_and_not_believed(family, vlms, folders, tmp_path):
    """Fewer layers than the VLM has: a pruned model. More: another VLM (docs/vgt.md 2.10)."""
    words = len(vlms[family].tokenizer)
    torch.save(rc.drawn(rc.whole(family, rc.small(words, family, layers=1))), tmp_path / "one.pth")
    found = released.load(tmp_path / "one.pth", folders[family])
    assert len(found.generator.build().language_model.layers) == 1
    assert found.reports[0].notes == ["language model: the first 1 of 2 layers"]
    torch.save(rc.drawn(rc.whole(family, rc.small(words, family, layers=3))), tmp_path / "three.pth")
    with pytest.raises(ValueError, match="num_hidden_layers 3, but the VLM's configuration says 2; give with --vlm"):
        released.load(tmp_path / "three.pth", folders[family])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 48}, "the language model has hidden_size 48, but the VLM's configuration says 32"),
        ({"mlp": 80}, "the language model has intermediate_size 80, but the VLM's configuration says 64"),
        ({"kv": 32}, "the language model has num_key_value_heads 2, but the VLM's configuration says 1"),
        ({"tower": (16, 3, 32)}, r"the vision tower has (num_hidden_layers|depth) 3, but the VLM's .* says 2"),
        ({"patch": 5}, "the vision tower has patch_size"),
        ({"words": 20}, r"embeds 20 tokens, the tokenizer has \d+"),
    ],
)  # fmt: skip
def test_another_vlm_than_it_was_made_from(change, message, family, sizes, folders, tmp_path):
    torch.save(rc.drawn(rc.whole(family, rc.Sizes(**{**vars(sizes), **change}))), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message):
        released.load(tmp_path / "a.pth", folders[family])


def test_a_vlm_of_another_family(file, folders, family):
    other = next(name for name in FAMILIES if name != family)
    with pytest.raises(ValueError, match=f"is of family {family}, but .* is a {other}; give the VLM it was made from"):
        released.load(file, folders[other])
    with pytest.raises(ValueError, match=f"no {family} of width 32 was published; give the VLM's folder with --vlm"):
        found = released.read(file)
        released.text_config(found.generator, family, None, "x")


def test_a_vlm_without_the_start_token(file, folders, vlms, family, tmp_path):
    from transformers import PreTrainedTokenizerFast

    made = tmp_path / "vlm"
    vlms[family].hf.save_pretrained(made)
    words = vlms[family].tokenizer
    raw = words.backend_tokenizer.to_str().replace("<img", "<pic")
    from tokenizers import Tokenizer

    PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(raw), unk_token="<unk>").save_pretrained(made)
    with pytest.raises(ValueError, match="has no start token '<img>'"):
        released.load(file, made)


def test_files_that_are_none(tmp_path, file):
    with pytest.raises(ValueError, match="is not there; give a .pth or .safetensors file"):
        released.read(tmp_path / "none.pth")
    with pytest.raises(ValueError, match="is a folder; give a .pth or .safetensors file"):
        released.read(tmp_path)
    whole = file.read_bytes()
    for name in ("torn.pth", "torn.safetensors"):
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=f"{name} cannot be read as tensors .*download or copy the file again"):
            released.read(tmp_path / name)
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list, not a table of weights"):
        released.read(tmp_path / "list.pth")
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="is no released generator or autoencoder"):
        released.read(tmp_path / "other.pth")


def test_the_report_prints(file, folders, family):
    lines = released.load(file, folders[family]).reports[0].lines()
    assert lines[0] == "iter_5000.pth: the file itself is a table of weights"
    text = "\n".join(lines)
    for part in ("kept 4", "image_head.net -> image_head", "vgt_ae.decoder -> decoder", "left over 0",
                 "frozen copy of the original encoder", "DINOv3 network"):  # fmt: skip
        assert part in text, part
    assert ("q_proj, k_proj, v_proj" in text) == (family == "internvl")


def test_both_systems_are_ours(file, folders, family):
    found = released.load(file, folders[family])
    assert isinstance(found.generator.build(), VisualLM) and isinstance(found.autoencoder.build(), VGTAE)
    assert not found.generator.build().training
