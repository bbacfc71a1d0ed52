"""Backbones from disk: native and original layouts, shards, earlier names, pruning, and readable complaints."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from conftest import FAMILIES, IMAGE, vlm_values, widen
from safetensors.torch import load_file, save_file
from small_vlms import further, original_config, original_state, untied, words, write_shards

from vgt.checkpoints import checkpoint, pretrained, shards
from vgt.inference.load import expect, load, locate, paired_autoencoder
from vgt.vlm import backbones, known, vlm
from vgt.vlm import layouts as internvl_layout

IMAGES = 2 * torch.rand(2, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(0)) - 1


def random_vlm(values: dict, tokenizer) -> vlm.VLM:
    with torch.random.fork_rng(devices=[]):
        made = vlm.VLM.build(vlm.VLMConfig(hf=values, image_size=IMAGE), tokenizer)
    return widen(made, 3).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def models() -> dict:
    """InternVL with a head of its own, Qwen2.5-VL with tied embeddings and its published image tokens."""
    return {
        "internvl": random_vlm(untied(), words("internvl")),
        "qwen2_5_vl": random_vlm(vlm_values("qwen2_5_vl"), words("qwen2_5_vl")),
    }


def save_native(model: vlm.VLM, folder, **more):
    model.hf.save_pretrained(folder, **more)
    model.tokenizer.save_pretrained(folder)
    return folder


def save_original(model: vlm.VLM, folder, shards: int = 1, dtype=torch.float32):
    folder.mkdir(parents=True)
    state = {k: v.to(dtype) for k, v in original_state(model.hf.state_dict()).items()}
    write_shards(folder, state, shards)
    (folder / "config.json").write_text(json.dumps(original_config(model.config)))
    model.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(models, tmp_path_factory) -> dict:
    """Never changed by a test: one native folder a family, and InternVL in its original layout."""
    root = tmp_path_factory.mktemp("backbones")
    made = {family: save_native(model, root / family) for family, model in models.items()}
    return made | {"original": save_original(models["internvl"], root / "original")}


@pytest.fixture
def copied(folders, tmp_path):
    def copy(name: str):
        return shutil.copytree(folders[name], tmp_path / name)

    return copy


def spoil(folder, change) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def ask(model: vlm.VLM, text: str = "What color is the star?") -> torch.Tensor:
    return torch.tensor([model.ids(model.question(text))] * 2)


def assert_equal(found: vlm.VLM, model: vlm.VLM) -> None:
    """Features, logits and parameters are the same to the bit."""
    assert torch.equal(found.encoder(IMAGES), model.encoder(IMAGES))
    ids = ask(found)
    running = vlm.VLM(found.hf, found.tokenizer, IMAGE)
    assert torch.equal(running.logits(running.hidden(ids, IMAGES)), model.logits(model.hidden(ids, IMAGES)))
    ours, theirs = found.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert not found.training


# ---------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("name", ["internvl", "qwen2_5_vl", "original"])
@torch.no_grad()
def test_a_backbone_comes_back_as_it_was(name, folders, models):
    state = torch.random.get_rng_state()
    found = backbones.load_backbone(folders[name], image_size=IMAGE)
    model = models["internvl" if name == "original" else name]
    assert_equal(found, model)
    tied = name == "qwen2_5_vl"
    assert found.config.tie_word_embeddings is tied
    assert (found.hf.lm_head.weight is found.language.embed_tokens.weight) is tied
    assert found.mrope is (name == "qwen2_5_vl")
    assert torch.equal(torch.random.get_rng_state(), state)
    if not tied:
        assert not torch.equal(found.hf.lm_head.weight, found.language.embed_tokens.weight)


@torch.no_grad()
def test_shards_of_both_layouts(models, tmp_path):
    native = save_native(models["internvl"], tmp_path / "native", max_shard_size="40KB")
    original = save_original(models["internvl"], tmp_path / "original", shards=3)
    for folder in (native, original):
        assert (folder / "model.safetensors.index.json").is_file() and len(shards.checked_files(folder)) > 1
        assert_equal(backbones.load_backbone(folder), models["internvl"])


@torch.no_grad()
def test_the_original_layout_equals_the_native_one_in_configuration(folders):
    native, original = (backbones.read_config(folders[name]) for name in ("internvl", "original"))
    for part in ("text_config", "vision_config"):
        ours, theirs = getattr(original, part).to_dict(), getattr(native, part).to_dict()
        for key in ("architectures", "transformers_version", "_name_or_path"):
            ours.pop(key, None), theirs.pop(key, None)
        assert ours == theirs
    assert original.downsample_ratio == 0.5 and original.image_seq_length == 16


def test_a_fused_matrix_is_queries_keys_values_in_this_order():
    fused = torch.arange(12.0).view(6, 2)
    key = "vision_model.encoder.layers.7.attn.qkv.weight"
    made = dict(internvl_layout.native_tensors([(key, fused)]))
    place = "model.vision_tower.encoder.layer.7.attention"
    assert [k.removeprefix(place) for k in made] == [".q_proj.weight", ".k_proj.weight", ".v_proj.weight"]
    assert torch.equal(torch.cat(list(made.values())), fused)
    with pytest.raises(ValueError, match="attn.qkv.weight has 5 rows"):
        list(internvl_layout.native_tensors([(key, fused[:5])]))


@pytest.mark.parametrize("hub", ["OpenGVLab/InternVL3-1B", "OpenGVLab/InternVL3-2B"])
def test_every_name_of_the_published_original_layout(hub):
    """The keys of docs/vgt.md 4.2 and 4.3 at full size name every native parameter once, with its shape."""
    values = known.hf_config_of(hub)
    with torch.device("meta"):
        native = {k: tuple(v.shape) for k, v in vlm.whole_model(vlm.hf_config(values)).state_dict().items()}
    text, c = values["text_config"], 1024
    d, f, n = text["hidden_size"], text["intermediate_size"], text["num_hidden_layers"]
    kv = text["num_key_value_heads"] * d // text["num_attention_heads"]
    shapes = {
        "class_embedding": (1, 1, c),
        "position_embedding": (1, 1025, c),
        "patch_embedding.weight": (c, 3, 14, 14),
        "patch_embedding.bias": (c,),
    }
    keys = {f"vision_model.embeddings.{k}": v for k, v in shapes.items()}
    block = {"attn.qkv": (3 * c, c), "attn.proj": (c, c), "mlp.fc1": (4 * c, c), "mlp.fc2": (c, 4 * c)}
    for i in range(24):
        at = f"vision_model.encoder.layers.{i}"
        for name, shape in block.items():
            keys |= {f"{at}.{name}.weight": shape, f"{at}.{name}.bias": shape[:1]}
        keys |= {f"{at}.{norm}.{kind}": (c,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
        keys |= {f"{at}.ls1": (c,), f"{at}.ls2": (c,)}
    keys |= {"mlp1.0.weight": (4 * c,), "mlp1.0.bias": (4 * c,), "mlp1.1.weight": (d, 4 * c), "mlp1.1.bias": (d,)}
    keys |= {"mlp1.3.weight": (d, d), "mlp1.3.bias": (d,)}
    lm = "language_model.model"
    keys |= {f"{lm}.embed_tokens.weight": (151674, d), f"{lm}.norm.weight": (d,)}
    keys |= {"language_model.lm_head.weight": (151674, d)}
    for i in range(n):
        at = f"{lm}.layers.{i}"
        for name, rows in (("q_proj", d), ("k_proj", kv), ("v_proj", kv)):
            keys |= {f"{at}.self_attn.{name}.weight": (rows, d), f"{at}.self_attn.{name}.bias": (rows,)}
        keys |= {f"{at}.self_attn.o_proj.weight": (d, d), f"{at}.mlp.down_proj.weight": (d, f)}
        keys |= {f"{at}.mlp.{name}.weight": (f, d) for name in ("gate_proj", "up_proj")}
        keys |= {f"{at}.{name}.weight": (d,) for name in ("input_layernorm", "post_attention_layernorm")}
    tensors = ((k, torch.empty(v, device="meta")) for k, v in keys.items())
    assert {k: tuple(v.shape) for k, v in internvl_layout.native_tensors(tensors)} == native


@torch.no_grad()
def test_earlier_names_of_qwen(models, tmp_path):
    """Files written before transformers 4.52, as those on the hub: ``visual.`` and ``model.``, a flat configuration."""
    model = models["qwen2_5_vl"]
    folder = save_native(model, tmp_path / "qwen")
    state = {
        k.replace("model.visual.", "visual.").replace("model.language_model.", "model."): v.clone()
        for k, v in model.hf.state_dict().items()
        if k != "lm_head.weight"
    }
    assert any(k.startswith("visual.blocks.0") for k in state) and any(k.startswith("model.layers.0") for k in state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((folder / "config.json").read_text())
    text = values.pop("text_config")
    rope = text.pop("rope_parameters")
    text.pop("model_type")
    flat = {**text, **values, "rope_theta": rope["rope_theta"]}
    flat["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    (folder / "config.json").write_text(json.dumps(flat))
    assert_equal(backbones.load_backbone(folder, image_size=IMAGE), model)
    cut = backbones.load_backbone(folder, layers=1, image_size=IMAGE)
    assert torch.equal(cut.language.layers[0].mlp.up_proj.weight, model.language.layers[0].mlp.up_proj.weight)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("names", ["in memory", "earlier"])
@torch.no_grad()
def test_names_that_files_have_had(family, names, models, tmp_path):
    """Those of the modules in memory, and the earlier ``language_model.model.`` with towers without ``model.``."""
    model = models[family]
    folder = save_native(model, tmp_path / family)
    state = {k: v.clone() for k, v in model.hf.state_dict().items()}
    if family == "qwen2_5_vl":
        state.pop("lm_head.weight")
    if names == "earlier" and family == "internvl":
        state = {
            k.removeprefix("model.").replace("language_model.", "language_model.model."): v for k, v in state.items()
        }
        state["language_model.lm_head.weight"] = state.pop("lm_head.weight")
    elif names == "earlier":
        state = {
            k.replace("model.visual.", "visual.").replace("model.language_model.", "model."): v
            for k, v in state.items()
        }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert_equal(backbones.load_backbone(folder, image_size=IMAGE), model)


@pytest.mark.parametrize("family", ["llava", "smolvlm", "gemma3"])
@torch.no_grad()
def test_further_families_load(family, tmp_path):
    model = further(family)
    found = backbones.load_backbone(save_native(model, tmp_path / family))
    assert found.image_size == IMAGE and found.family.name == family and not found.mrope
    assert_equal(found, model)


@torch.no_grad()
def test_dtypes(models, tmp_path):
    folder = save_original(models["internvl"], tmp_path / "original", dtype=torch.bfloat16)
    whole = backbones.load_backbone(folder)
    assert {p.dtype for p in whole.parameters()} == {torch.float32}
    narrow = backbones.load_backbone(folder, dtype=None)
    assert {p.dtype for p in narrow.parameters()} == {torch.bfloat16}
    assert narrow.encoder(IMAGES).dtype == torch.bfloat16
    assert all(torch.equal(v.float(), whole.state_dict()[k]) for k, v in narrow.state_dict().items())
    narrow.hf.save_pretrained(tmp_path / "native")
    narrow.tokenizer.save_pretrained(tmp_path / "native")
    again = backbones.load_backbone(tmp_path / "native", dtype=None)
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    for part in (again.config, again.config.text_config, again.config.vision_config):
        assert part.dtype is None  # it stays with the weights


def test_models_are_built_in_the_default_dtype():
    """Whatever a configuration remembers of the file that it came with."""
    values = vlm_values("qwen2_5_vl")
    values = {**values, "dtype": "bfloat16", "text_config": {**values["text_config"], "dtype": "bfloat16"}}
    with torch.random.fork_rng(devices=[]):
        encoder = vlm.VisionEncoder(vlm.hf_config(values))
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}


@torch.no_grad()
def test_a_configuration_that_ties_what_the_file_keeps_apart(models, copied):
    """The file decides, and the configuration says so afterwards, so that a model rebuilt from it has both."""
    folder = copied("internvl")
    values = json.loads((folder / "config.json").read_text())
    values["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(values))
    found = backbones.load_backbone(folder)
    assert_equal(found, models["internvl"])
    assert found.config.tie_word_embeddings is False
    values.pop("tie_word_embeddings")  # then the language model's own word counts, not the default of the class
    (folder / "config.json").write_text(json.dumps(values))
    assert backbones.read_config(folder).tie_word_embeddings is False


@pytest.mark.parametrize("stored", ["once", "twice", "apart"])
@torch.no_grad()
def test_tied_embeddings_of_the_original_layout(stored, tmp_path):
    """One parameter, whether the file holds it once or twice; two that differ are an error."""
    model = random_vlm(vlm_values("internvl"), words("internvl"))
    folder = save_original(model, tmp_path / "original")
    head = "language_model.lm_head.weight"
    if stored != "twice":
        spoil(folder, lambda s: s.pop(head) if stored == "once" else s[head].add_(1))
    if stored == "apart":
        with pytest.raises(ValueError, match="ties its embeddings by its configuration, but stores another lm_head"):
            backbones.load_backbone(folder)
        return
    found = backbones.load_backbone(folder)
    assert_equal(found, model)
    assert found.config.tie_word_embeddings and found.hf.lm_head.weight is found.language.embed_tokens.weight


# ----------------------------------------------------------------------------------------------------- pruning


@pytest.mark.parametrize("name", ["internvl", "qwen2_5_vl", "original"])
@torch.no_grad()
def test_the_first_layers(name, folders, models):
    """One of two decoder layers: equal to the whole model with the second one cut off; the tower stays whole."""
    model = models["internvl" if name == "original" else name]
    found = backbones.load_backbone(folders[name], layers=1, image_size=IMAGE)
    assert found.config.text_config.num_hidden_layers == len(found.language.layers) == 1
    assert torch.equal(found.encoder(IMAGES), model.encoder(IMAGES))
    ids, seen = ask(found), {}
    hook = model.language.layers[0].register_forward_hook(lambda m, i, o: seen.update(out=o))
    model.hidden(ids, IMAGES)
    hook.remove()
    first = seen["out"][0] if isinstance(seen["out"], tuple) else seen["out"]
    running = vlm.VLM(found.hf, found.tokenizer, IMAGE)
    assert torch.equal(running.hidden(ids, IMAGES), model.language.norm(first))


def test_pruned_configurations():
    text = known.hf_config_of("Qwen/Qwen2.5-VL-3B-Instruct")["text_config"]
    whole = vlm.hf_config(known.hf_config_of("Qwen/Qwen2.5-VL-3B-Instruct")).text_config.to_dict()
    cut = backbones.first_layers(whole, 18)
    assert cut["num_hidden_layers"] == len(cut["layer_types"]) == 18 and cut["max_window_layers"] <= 18
    assert {k: v for k, v in cut.items() if k in ("hidden_size", "vocab_size")} == {
        "hidden_size": 2048,
        "vocab_size": 151936,
    }
    assert backbones.first_layers(text, 36) == text
    for n in (0, 37):
        with pytest.raises(ValueError, match=f"has 36 layers; {n} of them are impossible, choose 1 .. 36"):
            backbones.first_layers(text, n)


def test_parameters_of_a_pruned_qwen():
    """18 of 36 layers: 1.387 B in layers, 1.699 B with the embeddings (docs/vgt.md 2.10)."""
    from transformers import AutoModel

    config = vlm.hf_config(known.hf_config_of("Qwen/Qwen2.5-VL-3B-Instruct")).text_config
    cut = type(config)(**backbones.first_layers(config.to_dict(), 18))
    with torch.device("meta"):
        language = AutoModel.from_config(cut)
    layers = sum(p.numel() for p in language.layers.parameters())
    assert round(layers / 1e9, 3) == 1.387
    assert round(sum(p.numel() for p in language.parameters()) / 1e9, 3) == 1.699


# -------------------------------------------------------------------------------------------------- complaints


@pytest.mark.parametrize("name", ["internvl", "qwen2_5_vl", "original"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(next(k for k in s if k.endswith("up_proj.weight"))), "1 missing: .*up_proj.weight"),
        (lambda s: s.update({"something.else": torch.zeros(2)}), "1 left over: .*something.else"),
        (
            lambda s: s.update({next(k for k in s if k.endswith("norm.weight")): torch.zeros(3)}),
            "1 of another shape: .*norm.weight",
        ),
    ],
)
def test_loading_is_strict(name, change, message, copied):
    folder = copied(name)
    spoil(folder, change)
    with pytest.raises(ValueError, match=f"weights in .* do not fit its configuration: {message}") as error:
        backbones.load_backbone(folder, image_size=IMAGE)
    assert "\n" not in str(error.value)


def test_layers_behind_the_configuration_are_left_over(copied):
    """Unlike with ``layers=``, a file deeper than its configuration is an error (docs/vgt.md 2.10)."""
    folder = copied("internvl")
    values = json.loads((folder / "config.json").read_text())
    values["text_config"] |= {"num_hidden_layers": 1, "layer_types": None}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="12 left over: .*layers.1."):
        backbones.load_backbone(folder)


@pytest.mark.parametrize("name", ["internvl", "original"])
def test_torn_and_absent_files(name, copied):
    folder = copied(name)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for broken in (whole[:-7], whole[:20], b"", b"\x80\x04pickle" * 9):
        weights.write_bytes(broken)
        with pytest.raises(ValueError, match="model.safetensors cannot be read .* again") as error:
            backbones.load_backbone(folder)
        assert "\n" not in str(error.value)
    weights.unlink()
    with pytest.raises(ValueError, match="has neither model.safetensors nor model.safetensors.index.json"):
        backbones.load_backbone(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match="as safetensors"):
        backbones.load_backbone(folder)


def test_missing_shards_and_faulty_indices(models, tmp_path):
    folder = save_original(models["internvl"], tmp_path / "original", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match="lacks 1 of 3 weight files: model-00002-of-00003.safetensors"):
        backbones.load_backbone(folder)
    for text in ("{", "{}", "[]", '{"weight_map": 3}'):
        (folder / "model.safetensors.index.json").write_text(text)
        with pytest.raises(ValueError, match="index.json is no index of safetensors files"):
            backbones.load_backbone(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"architectures": ["X"]}'])
def test_foreign_configurations(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    assert not pretrained.is_backbone(tmp_path)
    with pytest.raises(ValueError, match=r"config.json (cannot be read|is not the configuration of a Hugging Face)"):
        backbones.load_backbone(tmp_path)


def test_other_models_and_incomplete_ones(tmp_path):
    for text, message in (
        ('{"model_type": "llama"}', "'llama' has no adapter"),
        ('{"model_type": "nothing_known"}', "config.json: .*nothing_known"),
        ('{"model_type": "internvl_chat"}', "InternVL configuration without llm_config"),
        ('{"model_type": "internvl_chat", "llm_config": {"model_type": "qwen2"}, "vision_config": {"a": 1}}',
         "no complete configuration"),
    ):  # fmt: skip
        (tmp_path / "config.json").write_text(text)
        assert pretrained.is_backbone(tmp_path)
        with pytest.raises(ValueError, match=message) as error:
            backbones.read_config(tmp_path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ps_version": "v1"}, "ps_version 'v1' transposes the grid; only 'v2'"),
        ({"select_layer": -4}, "select_layer -4 takes an inner layer"),
        ({"llm_config": {"model_type": "internlm2"}}, "'internlm2' of an InternVL needs its authors' code"),
    ],
)
def test_variants_of_the_original_layout_that_are_unknown(change, message, folders):
    values = json.loads((folders["original"] / "config.json").read_text())
    with pytest.raises(ValueError, match=message):
        internvl_layout.native_config({**values, **change})


def test_code_of_a_checkpoint_never_runs(folders, copied):
    """config.json names files of code; they lie there, and are left alone."""
    folder = copied("original")
    for name in ("configuration_internvl_chat.py", "modeling_internvl_chat.py", "tokenization.py"):
        (folder / name).write_text("raise SystemExit('ran')")
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["tokenization.T", None]}}
    path.write_text(json.dumps(values))
    assert backbones.load_backbone(folder).image_size == IMAGE


def test_image_sizes(folders):
    with pytest.raises(ValueError, match="36 x 36 px: sides must be multiples of 8 px"):
        backbones.load_backbone(folders["internvl"], image_size=36)
    assert backbones.load_backbone(folders["internvl"], image_size=64).image_tokens == 64
    assert backbones.load_backbone(folders["qwen2_5_vl"]).image_size == 448


def test_tokenizers_that_do_not_fit(copied):
    folder = copied("internvl")
    words("qwen2_5_vl").save_pretrained(folder)
    with pytest.raises(ValueError, match="internvl: the tokenizer has no token <img>, </img>, which internvl needs"):
        backbones.load_backbone(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="has no tokenizer that can be read") as error:
        backbones.load_backbone(folder)
    assert "\n" not in str(error.value)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="internvl has no tokenizer: none of tokenizer.json, tokenizer.model, vocab"):
        backbones.load_backbone(folder)


def test_an_image_token_without_an_embedding(copied):
    folder = copied("original")
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values["llm_config"]["vocab_size"] = 3
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="image token is 4, but there are only 3 embeddings"):
        backbones.load_backbone(folder)


# --------------------------------------------------------------------------------------------------------- hub


def test_hub_ids(folders, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    asked = []

    def there(spec, allow_patterns):
        asked.append((spec, allow_patterns))
        return str(folders["original"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", there)
    found = load("OpenGVLab/InternVL3-1B")
    assert (found.system, found.name, found.folder) == ("vlm", "InternVL3-1B", folders["original"])
    assert asked and not any(p.endswith((".py", ".bin", "*")) for p in asked[0][1])
    (tmp_path / "runs").mkdir()
    with pytest.raises(ValueError, match="no checkpoint 'runs/mine': neither a folder"):
        load("runs/mine")
    assert len({spec for spec, _ in asked}) == 1

    def absent(spec, allow_patterns):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", absent)
    for function in (backbones.load_backbone, load, backbones.read_config):
        with pytest.raises(ValueError, match="hf download Qwen/Qwen2.5-VL-3B-Instruct --local-dir DIR") as error:
            function("Qwen/Qwen2.5-VL-3B-Instruct")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no model directory nowhere; give a directory .* or a hub id"):
        backbones.load_backbone("nowhere")


# ----------------------------------------------------------------------------------------- through vgt.inference


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_load_takes_a_backbone(family, folders, models):
    found = expect(load(folders[family]), "vlm")
    assert found.name == family and found.tokenizer is found.model.tokenizer
    assert torch.equal(found.model.encoder(IMAGES), models[family].encoder(IMAGES))
    assert not any(p.requires_grad for p in found.model.parameters())


def test_fingerprints_of_backbones(folders, copied):
    mark = pretrained.fingerprint(folders["internvl"])
    folder = copied("internvl")
    assert pretrained.fingerprint(folder) == mark == load(folder).fingerprint
    (folder / "README.md").write_text("a card")
    assert pretrained.fingerprint(folder) == mark
    spoil(folder, lambda s: next(iter(s.values())).view(-1)[0].add_(1e-3))
    assert pretrained.fingerprint(folder) != mark
    assert len({pretrained.fingerprint(folders[name]) for name in folders}) == 3


def test_a_checkpoint_of_ours_is_no_backbone(tmp_path, models, folders):
    model = models["internvl"]
    config = {"hf": model.config.to_dict(), "image_size": IMAGE}
    checkpoint.save(tmp_path / "ours", "vlm", "ours", config, model.state_dict(), model.tokenizer)
    assert not pretrained.is_backbone(tmp_path / "ours") and pretrained.is_backbone(folders["internvl"])
    assert not pretrained.is_backbone(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no model_type"):
        backbones.load_backbone(tmp_path / "ours")


@pytest.mark.parametrize("name", ["qwen2_5_vl", "original", "smolvlm"])
@torch.no_grad()
def test_a_backbone_saved_as_our_checkpoint(name, folders, tmp_path):
    """What training writes of one that it started from: the same answers, positions included."""
    folder = folders.get(name) or save_native(further(name), tmp_path / name)
    model = backbones.load_backbone(folder, image_size=IMAGE)
    config = vlm.VLMConfig(hf=model.config.to_dict(), image_size=IMAGE, mrope=model.mrope)
    checkpoint.save(
        tmp_path / "ours", "vlm", "ours", config.model_dump(mode="json"), model.state_dict(), model.tokenizer
    )
    found = load(tmp_path / "ours").model
    ids = ask(model)
    assert found.mrope is model.mrope and found.context_id == model.context_id
    assert torch.equal(found.hidden(ids, IMAGES), model.hidden(ids, IMAGES))


def test_pipeline_folders(tmp_path, visual_lms, vlms, pixel_autoencoder):
    """``generator`` and ``autoencoder`` side by side: the pair is found without a name."""
    config = pixel_autoencoder.config.model_dump(mode="json")
    folder = tmp_path / "pipe"
    ae = checkpoint.save(folder / "autoencoder", "vgt_ae", "elsewhere", config, pixel_autoencoder.state_dict())
    model = visual_lms["internvl"]
    named = model.config.model_copy(update={"autoencoder": ae, "autoencoder_name": "elsewhere"})
    state, words_ = model.state_dict(), vlms["internvl"].tokenizer
    checkpoint.save(folder / "generator", "query_ar", "g", named.model_dump(mode="json"), state, words_)
    assert locate(folder) == locate("pipe", tmp_path) == folder / "generator"
    found = load(folder)
    assert paired_autoencoder(found, None).folder == folder / "autoencoder"
    other = {k: v + 1e-3 if v.is_floating_point() else v for k, v in pixel_autoencoder.state_dict().items()}
    checkpoint.save(tmp_path / "other", "vgt_ae", "other", config, other)
    with pytest.raises(ValueError, match=re.escape("was trained on autoencoder elsewhere")):
        paired_autoencoder(found, str(tmp_path / "other"))
