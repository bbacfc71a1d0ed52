"""``from_pretrained`` and ``save_pretrained``: folders and hub ids, precisions, places."""

from __future__ import annotations

import json

import pytest
import torch

from vgt.checkpoints import checkpoint, pretrained
from vgt.inference.load import load
from vgt.methods.vgt_ae import VGTAE
from vgt.methods.visual_lm import VisualLM
from vgt.vlm.vlm import VLM, hf_config, whole_model


def same(one, other) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.fixture(scope="module")
def models(vlms, visual_lms, pixel_autoencoder) -> dict:
    """name -> (model, tokenizer): one of each system, a VLM of each family."""
    made = {"ae": (pixel_autoencoder, None), "ar": (visual_lms["internvl"], vlms["internvl"].tokenizer)}
    return made | {f"vlm_{family}": (vlm, None) for family, vlm in vlms.items()}


@pytest.mark.parametrize("name", ["ae", "ar", "vlm_internvl", "vlm_qwen2_5_vl"])
@pytest.mark.parametrize("size", ["5GB", 3000])
def test_round_trip(tmp_path, models, name, size):
    model, words = models[name]
    rng = torch.random.get_rng_state()
    mark = model.save_pretrained(tmp_path / name, tokenizer=words, max_shard_size=size)
    back = type(model).from_pretrained(tmp_path / name)
    assert same(model, back) and not back.training and not any(p.requires_grad for p in back.parameters())
    assert not any(t.is_meta for t in (*back.parameters(), *back.buffers()))
    assert torch.equal(torch.random.get_rng_state(), rng)
    found = load(tmp_path / name)
    assert same(model, found.model) and (found.name, found.fingerprint) == (name, mark)
    assert (tmp_path / name / "model.safetensors.index.json").exists() == (size == 3000)


@torch.no_grad()
def test_what_comes_back_computes_the_same(tmp_path, models):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for name, (model, words) in models.items():
        model.save_pretrained(tmp_path / name, tokenizer=words)
        back = type(model).from_pretrained(tmp_path / name)
        if name == "ae":
            assert torch.equal(back(images), model(images))
        elif name == "ar":
            assert torch.equal(back.queries(), model.queries())
            assert torch.equal(back.latent_mean, model.latent_mean) and torch.equal(back.latent_std, model.latent_std)
        else:
            assert back.answer(images, ["Is there a star?"] * 2) == model.answer(images, ["Is there a star?"] * 2)
            assert back.hf.lm_head.weight is back.language.get_input_embeddings().weight  # tied, as it was


def test_precision(tmp_path, models):
    model, words = models["ar"]
    model.save_pretrained(tmp_path / "m", tokenizer=words)
    narrow = VisualLM.from_pretrained(tmp_path / "m", dtype=torch.bfloat16)
    assert {p.dtype for p in narrow.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in narrow.buffers()} == {torch.float32}  # the standardisation, rotary frequencies
    assert torch.equal(narrow.grid_embed, model.grid_embed.bfloat16())
    narrow.save_pretrained(tmp_path / "n", tokenizer=words)
    assert checkpoint.read_state(tmp_path / "n", None)["grid_embed"].dtype == torch.bfloat16
    assert same(narrow, VisualLM.from_pretrained(tmp_path / "n", dtype=torch.bfloat16))
    for wrong in (torch.int8, torch.float64, "bf16"):
        with pytest.raises(ValueError, match="is not for models; choose one of bfloat16, float16, float32"):
            VisualLM.from_pretrained(tmp_path / "m", dtype=wrong)


@torch.no_grad()
@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])
def test_encoders_run_in_bf16(tmp_path, vlms, family):
    vlms[family].save_pretrained(tmp_path / "m")
    vlm = VLM.from_pretrained(tmp_path / "m", dtype=torch.bfloat16)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    wide, narrow = vlms[family].encoder(images), vlm.encoder(images)
    assert narrow.dtype == torch.bfloat16
    assert (narrow.float() - wide).norm() < 0.05 * wide.norm()


def test_casting_keeps_statistics(models):
    import copy

    model = pretrained.place(copy.deepcopy(models["ar"][0]), "cpu", torch.float16)
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert {b.dtype for b in model.buffers()} == {torch.float32}


def test_what_cannot_be_saved(tmp_path, models):
    import copy

    with pytest.raises(ValueError, match="a query_ar is saved with its tokenizer; give tokenizer="):
        models["ar"][0].save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match="a Linear is no system of this project"):
        pretrained.save(torch.nn.Linear(2, 2), tmp_path / "m")
    with pytest.raises(ValueError, match="a model in float64 cannot be saved; cast it to one of bfloat16, float16"):
        copy.deepcopy(models["ae"][0]).double().save_pretrained(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_the_wrong_class_or_folder(tmp_path, models):
    models["ae"][0].save_pretrained(tmp_path / "ae", name="mine")
    assert isinstance(pretrained.Pretrained.from_pretrained(tmp_path / "ae"), VGTAE)
    assert checkpoint.read_header(tmp_path / "ae")["name"] == "mine"
    with pytest.raises(ValueError, match="ae is a vgt_ae checkpoint; load it with VGTAE, not VisualLM"):
        VisualLM.from_pretrained(tmp_path / "ae")
    with pytest.raises(ValueError, match="no checkpoint at .*: config.json is missing; give a folder or a "):
        VGTAE.from_pretrained(tmp_path)
    header = json.loads((tmp_path / "ae/config.json").read_text())
    header["config"]["decoder"]["layers"] = [0, 1, 1, 2]
    (tmp_path / "ae/config.json").write_text(json.dumps(header))
    with pytest.raises(ValueError, match=r"ae do not fit its configuration: decoder\S* has \d blocks, the weights \d"):
        VGTAE.from_pretrained(tmp_path / "ae")


def test_hub_ids(tmp_path, models, monkeypatch):
    import huggingface_hub

    models["ae"][0].save_pretrained(tmp_path / "snapshot")
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or tmp_path / "snapshot"
    )
    assert same(VGTAE.from_pretrained("someone/an-ae.v1"), models["ae"][0]) and asked == ["someone/an-ae.v1"]

    def offline(name, **_):
        raise OSError("cannot reach the hub\nand more lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ValueError) as error:
        VGTAE.from_pretrained("someone/an-ae.v1")
    assert "\n" not in str(error.value)
    assert "someone/an-ae.v1 is neither a directory here nor to be had from the hub" in str(error.value)
    assert "`hf download someone/an-ae.v1" in str(error.value)
    for path in ("no/such/folder", "/nowhere", "../up"):
        with pytest.raises(ValueError, match="config.json is missing"):
            VGTAE.from_pretrained(path)


def test_devices(tmp_path, models):
    models["ae"][0].save_pretrained(tmp_path / "ae")
    assert VGTAE.from_pretrained(tmp_path / "ae", device_map="cpu").batch_mean.device.type == "cpu"
    with pytest.raises(ValueError, match="device 'abacus' is unknown"):
        VGTAE.from_pretrained(tmp_path / "ae", device_map="abacus")
    absent = torch.cuda.device_count()
    with pytest.raises(ValueError, match=f"device 'cuda:{absent}' is not there: torch sees {absent} GPUs; use cpu"):
        VGTAE.from_pretrained(tmp_path / "ae", device_map=f"cuda:{absent}")
    assert pretrained.single_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def test_a_backbone_with_spare_embeddings(tmp_path, vlms):
    """A VLM of Hugging Face's comes in by its own folder, and goes out and in again as a checkpoint of ours, with more
    embeddings than its tokenizer has tokens and with its three-dimensional positions."""
    tiny = vlms["qwen2_5_vl"]
    values = tiny.config.to_dict()
    values["text_config"]["vocab_size"] += 30
    with torch.random.fork_rng(devices=[]):
        hf = whole_model(hf_config(values))
    hf.save_pretrained(tmp_path / "hf")
    tiny.tokenizer.save_pretrained(tmp_path / "hf")
    vlm = VLM.from_pretrained(tmp_path / "hf")
    assert len(vlm.language.get_input_embeddings().weight) == len(tiny.tokenizer) + 30
    assert vlm.mrope and torch.equal(vlm.hf.lm_head.weight, hf.lm_head.weight)
    vlm.save_pretrained(tmp_path / "ours", max_shard_size=3000)
    back = VLM.from_pretrained(tmp_path / "ours")
    assert same(vlm, back) and back.mrope and back.image_size == vlm.image_size
    narrow = VLM.from_pretrained(tmp_path / "hf", dtype=torch.bfloat16)
    assert {p.dtype for p in narrow.parameters()} == {torch.bfloat16}
