"""The plan of a run: exact parameter counts, memory and work of a traced step against measurements and closed forms,
and what it says is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import GRID, IMAGE, vlm_values
from torch import nn

from vgt.core import config as configs
from vgt.methods import mar, query_ar
from vgt.methods.flow_head import FlowHead, FlowHeadConfig
from vgt.methods.pixel_decoder import DecoderConfig
from vgt.methods.vgt_ae import VGTAE, AELossConfig, VGTAEConfig, VGTAETraining
from vgt.methods.visual_lm import VisualLM, VisualLMConfig
from vgt.training.job import Preset, read
from vgt.training.plan import (
    COMPONENTS,
    DEVICES,
    FP32,
    Sizes,
    build,
    components,
    data_problems,
    disk_problems,
    memory,
    plan,
    render,
)
from vgt.training.plan.trace import Fakes, Traced, inference, recomputed, step
from vgt.vlm import known

GIB = 2**30
ROWS, LENGTH = 2, 12  # rows and padded text length of the small generators here


def preset(name: str, *settings: str) -> Preset:
    return configs.validated(Preset, configs.override(configs.read_preset(name), list(settings)), name)


def model_of(job) -> nn.Module:
    return job.system.trainable_modules()["model"]


def on_meta(config):
    with torch.device("meta"):
        return (VisualLM if isinstance(config, VisualLMConfig) else VGTAE)(config)


def generator_config(family: str = "internvl", layers: int = 2) -> VisualLMConfig:
    """Wide enough that what grows with the width outweighs the rest."""
    text = vlm_values(family)["text_config"] | {
        "vocab_size": 60, "num_hidden_layers": layers, "hidden_size": 128, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 320,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
    }  # fmt: skip
    return VisualLMConfig(
        method="query_ar", text=text, start_ids=(6,), query_grid=8, latent_grid=GRID, d_z=8,
        head=FlowHeadConfig(width=96, depth=3),
    )  # fmt: skip


def autoencoder_config() -> VGTAEConfig:
    decoder = DecoderConfig(widths=(8, 16, 16), layers=(0, 1, 1), attention=1, head_dim=8, upsample="pixel_shuffle")
    vlm = vlm_values("internvl")
    vlm["vision_config"]["num_hidden_layers"] = 1
    return VGTAEConfig(vlm=vlm, image_size=IMAGE, d_z=8, decoder=decoder)


def attention(module: nn.Module, kind: str) -> nn.Module:
    for part in module.modules():
        if hasattr(part, "set_attn_implementation"):
            part.set_attn_implementation(kind)
    return module.train()


def ids_and_mask(rows: int = ROWS) -> dict:
    ids = torch.zeros(rows, LENGTH, dtype=torch.long)
    return {"ids": ids, "mask": ids == 0}


def traced_generator(config: VisualLMConfig, loss_fn, rules: str, kind: str = "sdpa", rows: int = ROWS) -> Traced:
    fakes = Fakes()
    model = attention(fakes.imitate(on_meta(config)), kind)
    batch = {**ids_and_mask(rows), "latents": fakes.tensor(rows, model.tokens, config.d_z)}
    rng = torch.Generator().manual_seed(0)
    return step(lambda: loss_fn(model, batch, rng), model.parameters(), True, rules)


def measured(loss, module: nn.Module) -> int:
    """Bytes that a real forward pass under bf16 autocast saves for its backward pass; a storage counts once, the
    weights themselves do not count."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    found: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        value = loss()  # kept, with all that it saves
    assert value.requires_grad
    return sum(found.values())


# ---------------------------------------------------------------------------------------------------- parameters

INTERNVL3_AE = {"tower": 304_012_288, "projector": 4_482_816, "residual_projection": 4_859_200, "decoder": 159_223_171}


@pytest.mark.parametrize(
    ("name", "parts", "beside", "total"),
    [
        (
            "vgt_ae_internvl3_stage1", INTERNVL3_AE,
            {"teacher": 308_495_104, "discriminator": 1_909_889, "perceptual": 14_716_160}, 472_577_475,
        ),
        ("vgt_ae_internvl3_stage2", INTERNVL3_AE, {"perceptual": 14_716_160}, 472_577_475),
        (
            "vgt_ae_qwen25vl_stage1",
            {"tower": 668_684_288, "residual_projection": 25_261_120, "decoder": 159_223_171},
            {"teacher": 668_684_288, "discriminator": 1_909_889, "perceptual": 14_716_160}, 853_168_579,
        ),
    ],
)  # fmt: skip
def test_autoencoders_have_the_published_parameters(name, parts, beside, total, tmp_path):
    job, _ = build(preset(name), tmp_path, 1)
    own, others = components(job)
    assert own == parts
    assert others == pytest.approx(beside, rel=1e-3)  # LPIPS' small heads are its package's business
    assert {k: v for k, v in others.items() if k != "perceptual"} == {
        k: v for k, v in beside.items() if k != "perceptual"
    }
    assert sum(own.values()) == total == sum(p.numel() for p in model_of(job).parameters())


@pytest.mark.parametrize(
    ("name", "width", "head", "layers_only"),
    [
        ("query_ar_internvl3_1b", 896, 150_641_696, 357.9e6),
        ("query_ar_internvl3_2b", 1536, 151_624_736, 1310.3e6),
        ("query_ar_qwen25vl_3b", 2048, 152_411_168, 1387.5e6),
        ("query_ar_qwen25vl_06b", 2048, 152_411_168, 616.6e6),
    ],
)
def test_generators_have_the_published_parameters(name, width, head, layers_only, tmp_path):
    """docs/vgt.md 2.7, 2.10: two grids of 4096 D, 33 D and D (D + 1) of projectors, flow head, pruned layers."""
    job, _ = build(preset(name), tmp_path, 1)
    parts, _ = components(job)
    assert parts["flow_head"] == head
    assert parts["queries"] == 2 * 4096 * width
    assert parts["projectors"] == 33 * width + width * (width + 1)
    table = model_of(job).config.text["vocab_size"] * width
    assert parts["language_model"] - table == pytest.approx(layers_only, rel=1e-3)
    assert sum(parts.values()) == sum(p.numel() for p in model_of(job).parameters())
    # The pruned models' "1.56 B" and "0.79 B" count layers, grids, projectors and head, but no embeddings.
    published = {"query_ar_qwen25vl_3b": 1.560e9, "query_ar_qwen25vl_06b": 0.790e9}
    if name in published:
        assert sum(parts.values()) - table == pytest.approx(published[name], rel=1e-3)


def test_a_caller_may_change_a_known_configuration():
    known.hf_config_of("OpenGVLab/InternVL3-1B")["text_config"]["hidden_size"] = 1
    assert known.hf_config_of("OpenGVLab/InternVL3-1B-hf")["text_config"]["hidden_size"] == 896
    assert known.hf_config_of("somebody/else") is None


# ------------------------------------------------------------------------------------ a traced step, against others


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("family", "loss_fn"), [("internvl", query_ar.loss), ("qwen2_5_vl", query_ar.loss), ("internvl", mar.loss)]
)
def test_traced_activations_are_those_of_a_real_step(family, loss_fn, kind):
    config = generator_config(family)
    with torch.random.fork_rng(devices=[]):
        model = attention(VisualLM(config), kind)
    batch = {**ids_and_mask(), "latents": torch.ones(ROWS, model.tokens, config.d_z)}
    saved = measured(lambda: loss_fn(model, batch, torch.Generator().manual_seed(0)), model)
    traced = traced_generator(config, loss_fn, "cpu", kind)
    assert traced.activations + traced.autocast == pytest.approx(saved, rel=0.1)
    linear = [p for m in model.modules() if isinstance(m, nn.Linear) for p in m.parameters()]
    assert traced.autocast == 2 * sum(p.numel() for p in linear)  # a bf16 copy of each, once


def test_traced_activations_of_an_autoencoder_are_those_of_a_real_step():
    config = autoencoder_config()
    with torch.random.fork_rng(devices=[]):
        ae = attention(VGTAE(config), "eager")
    saved = measured(lambda: ae(torch.ones(ROWS, 3, IMAGE, IMAGE)).square().mean(), ae)
    fakes = Fakes()
    fake = attention(fakes.imitate(on_meta(config)), "eager")
    traced = step(lambda: fake(fakes.tensor(ROWS, 3, IMAGE, IMAGE)).square().mean(), fake.parameters(), True, "cpu")
    assert traced.activations + traced.autocast == pytest.approx(saved, rel=0.1)


def test_a_step_on_fakes_is_the_step_on_real_tensors():
    config = generator_config()
    with torch.random.fork_rng(devices=[]):
        model = attention(VisualLM(config), "eager")
    batch = {**ids_and_mask(), "latents": torch.ones(ROWS, model.tokens, config.d_z)}
    rng = torch.Generator().manual_seed(0)
    real = step(lambda: query_ar.loss(model, batch, rng), model.parameters(), True, "cpu")
    traced = traced_generator(config, query_ar.loss, "cpu", "eager")
    assert (traced.forward, traced.backward, traced.autocast) == (real.forward, real.backward, real.autocast)
    assert traced.activations == pytest.approx(real.activations, rel=0.01)
    assert traced.peak == pytest.approx(real.peak, rel=0.01)


def layer_bytes(text: dict, rows: int, length: int) -> int:
    """What one decoder layer keeps on a GPU under bf16 autocast with fp32 weights, operation by operation.

    Each of the two norms keeps its fp32 input, its fp32 normalised output and one number a row; every projection casts
    its input anew (3 for q, k, v; 1 for o; 2 for gate, up; 1 for down); attention keeps q, k and v over all heads, the
    output, one fp32 number per head and its own bf16 mask; the MLP keeps gate, up, silu(gate) and their product."""
    d, f, heads = text["hidden_size"], text["intermediate_size"], text["num_attention_heads"]
    norms = 2 * (4 * d + 4 * d + 4) + 2 * (3 + 2) * d
    attended = 4 * 2 * d + 4 * heads + 2 * length
    mlp = 4 * 2 * f
    return rows * length * (norms + attended + mlp)


def head_bytes(config: FlowHeadConfig, tokens: int) -> int:
    """What one block of the flow head keeps on a GPU: fp32 input and output of the norm, bf16 silu(y), 1 + scale, input
    of the MLP, its SiLU's input and output, its result, and the modulation (three widths, through the gate)."""
    return tokens * config.width * (4 + 4 + 2 + 2 + 2 + 2 + 2 + 2 + 3 * 2)


def test_a_decoder_layer_keeps_what_its_closed_form_says():
    two, three = (traced_generator(generator_config(layers=n), query_ar.loss, "cuda") for n in (2, 3))
    length = LENGTH + 1 + 2 * GRID[0] * GRID[1] - 1
    expected = layer_bytes(generator_config().text, ROWS, length)
    assert three.activations - two.activations == pytest.approx(expected, rel=0.02)


def test_a_block_of_the_flow_head_keeps_what_its_closed_form_says():
    def traced(depth: int) -> Traced:
        fakes = Fakes()
        config = FlowHeadConfig(width=96, depth=depth)
        with torch.device("meta"):
            head = FlowHead(config, 8, 128)
        fakes.imitate(head)
        x, c, rng = fakes.tensor(40, 8), fakes.tensor(40, 128), torch.Generator().manual_seed(0)
        return step(lambda: head.loss(x, c, 1.0, 1, rng).mean(), head.parameters(), True, "cuda")

    expected = head_bytes(FlowHeadConfig(width=96, depth=1), 40)
    assert traced(4).activations - traced(3).activations == pytest.approx(expected, rel=0.02)


def test_work_is_six_operations_per_trained_weight_and_position():
    """2 forward and 4 backward per weight and position, and attention's two products: 4 S^2 D forward."""
    two, three = (traced_generator(generator_config(layers=n), query_ar.loss, "cpu", "eager") for n in (2, 3))
    text = generator_config().text
    d, f = text["hidden_size"], text["intermediate_size"]
    matrices = 2 * d * d + 2 * d * d // 2 + 3 * d * f  # q, o; k, v of half the heads; gate, up, down
    length = LENGTH + 1 + 2 * GRID[0] * GRID[1] - 1
    forward = ROWS * (2 * matrices * length + 4 * length**2 * d)
    assert three.forward - two.forward == forward
    assert three.backward - two.backward == 2 * forward


def test_checkpointing_keeps_less_and_computes_the_layers_once_more():
    config = generator_config(layers=3)
    fakes = Fakes()
    model = attention(fakes.imitate(on_meta(config)), "sdpa")
    batch = {**ids_and_mask(), "latents": fakes.tensor(ROWS, model.tokens, config.d_z)}

    def traced() -> Traced:
        rng = torch.Generator().manual_seed(0)
        return step(lambda: query_ar.loss(model, batch, rng), model.parameters(), True, "cuda")

    plain = traced()
    language = model.language_model
    enable = getattr(language, "activation_checkpointing_enable", None) or language.gradient_checkpointing_enable
    enable(recomputed("cuda"))
    again = traced()
    assert again.activations < plain.activations
    assert again.peak < plain.peak
    assert again.forward == plain.forward
    assert plain.backward < again.backward <= plain.backward + plain.forward


def test_a_frozen_network_keeps_nothing_and_works_forward_only():
    fakes = Fakes()
    ae = fakes.imitate(on_meta(autoencoder_config())).eval()
    frozen = inference(lambda: ae.encode(fakes.tensor(ROWS, 3, IMAGE, IMAGE)), True, "cuda")
    trained = step(lambda: ae.encode(fakes.tensor(ROWS, 3, IMAGE, IMAGE)).mean(), ae.parameters(), True, "cuda")
    assert frozen.forward == trained.forward > 0
    assert frozen.backward == frozen.activations == 0 < frozen.peak < trained.peak


def test_two_rows_extend_exactly_to_more():
    """An autoencoder's step with discriminator, teacher and depth-wise convolutions is linear in its rows."""
    config = autoencoder_config()
    with torch.device("meta"):
        ae = VGTAE(config)
        losses = AELossConfig(perceptual=0.0, adversarial_start=0, discriminator={"widths": (8, 16), "grid": 4})
        teacher = VGTAE(config).encoder
    fakes = Fakes()
    system = VGTAETraining(ae, losses, teacher, None)
    for module in (*system.trainable_modules().values(), teacher):
        fakes.imitate(module)

    def traced(rows: int) -> Traced:
        batch = {"images": fakes.tensor(rows, 3, IMAGE, IMAGE)}
        rng = torch.Generator().manual_seed(0)
        return step(lambda: system.loss("model", batch, 0, rng)[0], ae.parameters(), True, "cuda")

    one, two, four = traced(1), traced(2), traced(4)
    found = one.extended(two, 4)
    assert (found.forward, found.backward, found.autocast) == (four.forward, four.backward, four.autocast)
    assert found.activations == pytest.approx(four.activations, rel=0.01)
    assert found.peak == pytest.approx(four.peak, rel=0.02)


def test_a_tied_weight_stays_tied():
    module = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    module["b"].weight = module["a"].weight
    Fakes().imitate(module)
    assert module["a"].weight is module["b"].weight
    assert module["a"].bias is not module["b"].bias


# ---------------------------------------------------------------------------------------------------------- memory

SIZES = Sizes(weights=1000, trained=800, muon=0, averaged=900, frozen=300, layer=200, rest=100)
TRACED = Traced(activations=5000, autocast=700, peak=6000, forward=1, backward=2)


def test_memory_of_one_process_is_what_lives_at_its_highest_moment():
    found = memory(SIZES, TRACED, "single", 1, accumulating=False)
    resident = FP32 * (1000 + 2 * 800 + 900 + 300)
    assert found["total"] == resident + max(6000, 2 * FP32 * 800)
    assert found["peak buffers"] == 6000 - 5000 - 700
    assert set(found) == {*COMPONENTS, "total"}
    small = Traced(activations=10, autocast=0, peak=20)
    assert memory(SIZES, small, "single", 1, False)["total"] == resident + 2 * FP32 * 800


def test_accumulated_gradients_stand_beside_activations():
    once = memory(SIZES, TRACED, "single", 1, accumulating=False)
    more = memory(SIZES, TRACED, "single", 1, accumulating=True)
    assert more["total"] == once["total"] - 2 * FP32 * 800 + 6000 + FP32 * 800


def test_ddp_adds_buckets_and_fsdp_divides():
    ddp, fsdp = (memory(SIZES, TRACED, s, 4, False) for s in ("ddp", "fsdp"))
    assert ddp["buckets"] == FP32 * 800
    assert (fsdp["weights"], fsdp["optimizer"], fsdp["ema"]) == (1000, 2 * 800, 900)
    assert fsdp["frozen networks"] == ddp["frozen networks"] == FP32 * 300
    assert fsdp["gathered layers"] == FP32 * (100 + 2 * 200)


def test_muon_keeps_one_number_per_weight():
    muon = memory(Sizes(1000, 800, 600, 0, 0, 0, 0), TRACED, "single", 1, False)
    assert muon["optimizer"] == FP32 * (2 * 800 - 600)


# ----------------------------------------------------------------------------------------------------------- plans


@pytest.fixture(scope="module")
def tiny():
    """The plan of a bundled generator's preset, two processes on a GPU."""
    return plan(preset("query_ar_internvl", "train.optimizer=adamw"), Path("no-runs"), processes=2)


def test_the_plan_of_a_tiny_preset_has_no_problems(tiny):
    assert tiny.problems == []
    assert list(tiny.memory_gib) == ["ddp", "ddp + checkpointing", "fsdp", "fsdp + checkpointing"]
    assert tiny.column == "ddp"
    assert (tiny.micro, tiny.accumulated) == (16, 1)
    flops = tiny.flops_per_step
    assert flops["total"] == flops["forward"] + flops["backward"]
    # Weights that take part at every position: what is neither an embedding nor in the flow head.
    assert 6 * 1.5e6 * tiny.tokens_per_step < flops["total"] < 20 * 1.5e6 * tiny.tokens_per_step
    assert tiny.step_seconds == pytest.approx(flops["total"] / 2 / (0.4 * DEVICES["h100"].bf16 * 1e12))


def test_a_plan_is_json_and_text(tiny):
    read = json.loads(json.dumps(tiny.to_json()))
    assert read["parameters"]["total"] == tiny.parameters["total"]
    text = render(tiny)
    parts = tiny.parameters.keys() - {"total", "trainable"}
    for name in (*parts, "buckets", "activations", "total", "ddp *", "problems: none"):
        assert name in text, name
    assert f"{tiny.parameters['total']:,} saved" in text
    assert max(map(len, text.splitlines())) < 250


def test_a_plan_without_a_peak_has_no_time_and_freezes_what_the_preset_freezes():
    frozen = preset("vgt_ae_internvl", "init.weights=vgt_ae_internvl", "losses.perceptual=0", "train.batch=1")
    made = plan(frozen, Path("no-runs"), device="cpu")
    assert made.problems == []
    assert made.step_seconds is None and "--throughput" in render(made)
    encoder = made.parameters["tower"] + made.parameters["projector"]
    assert made.parameters["trainable"] == made.parameters["total"] - encoder > 0


def test_a_given_throughput_replaces_the_peak():
    values = preset("smoke_mar_internvl", "init.vlm=vlm_internvl", "init.autoencoder=vgt_ae_internvl")
    timed = plan(values, Path("no-runs"), device="cpu", throughput=0.05)
    assert timed.step_seconds == pytest.approx(timed.flops_per_step["total"] / 0.05e12)
    assert "as given" in render(timed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["query_ar_internvl3_1b", "mar_internvl3_1b", "vgt_ae_internvl3_stage1"])
def test_full_size_plans_fit_their_device(name, tmp_path):
    made = plan(preset(name), tmp_path, processes=8)
    assert made.memory_gib[made.column]["total"] < DEVICES["h100"].memory
    assert not [p for p in made.problems if p.startswith("memory")]
    assert any("hf download OpenGVLab/InternVL3-1B" in p for p in made.problems)


# -------------------------------------------------------------------------------------------------------- problems


def problems(name: str, tmp_path, *settings: str) -> str:
    """Problems of building a preset and of its data, in one text."""
    given = preset(name, *settings)
    return "\n".join([*build(given, tmp_path, 1)[1], *data_problems(given)])


def test_absent_parents_are_problems_and_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    found = problems("query_ar_internvl3_1b_sft", tmp_path)
    assert (
        "init.vlm: OpenGVLab/InternVL3-1B is not in the hub's cache; run `hf download OpenGVLab/InternVL3-1B`" in found
    )
    assert (
        "init.autoencoder: vgt_ae_internvl3_stage2 is not trained yet; run `vgt train vgt_ae_internvl3_stage2`" in found
    )
    assert "init.weights: query_ar_internvl3_1b is not trained yet" in found
    assert "data.source" in found and "sharegpt-4o-image" in found


def test_a_present_folder_of_shards_is_no_problem(tmp_path):
    (tmp_path / "a-000.tar").write_bytes(b"")
    (tmp_path / "images").mkdir()
    for source in (f"webdataset:{tmp_path}/a-000.tar", f"folder:{tmp_path}/images", "scenes"):
        assert "data.source" not in problems("query_ar_internvl", tmp_path, f"data.source={source}")
    assert "there is no folder" in problems("query_ar_internvl", tmp_path, f"data.source=folder:{tmp_path}/none")


def test_a_backbone_folder_without_weights_or_tokenizer(tmp_path):
    folder = tmp_path / "backbone"
    folder.mkdir()
    values = vlm_values("internvl")
    values["text_config"]["vocab_size"] = 60
    (folder / "config.json").write_text(json.dumps(values))
    settings = [f"init.vlm={folder}", "init.autoencoder=vgt_ae_internvl"]
    found = problems("query_ar_internvl", tmp_path, *settings)
    assert "model.safetensors" in found and "tokenizer" in found


def test_a_trained_run_is_read_from_its_folder(tmp_path, monkeypatch):
    """The autoencoder's own configuration decides, not its preset."""
    from vgt.inference.load import zoo

    monkeypatch.setattr("vgt.vlm.known.KNOWN", {})
    shutil.copytree(zoo() / "vgt_ae_internvl", tmp_path / "mine" / "model")
    job, problems = build(preset("query_ar_internvl", "init.autoencoder=mine"), tmp_path, 1)
    assert problems == []
    assert model_of(job).config.d_z == 16


def test_a_full_disk_is_a_problem(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=GIB))
    assert disk_problems(0.5 * GIB, tmp_path / "not" / "yet") == []
    (found,) = disk_problems(3 * GIB, tmp_path / "not" / "yet")
    assert "take 3.0 GiB" in found and "1.0 free" in found


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("query_ar_internvl", ["model.query_grid=4"], r"8 x 8 does not fit the query grid of side 4; set"),
        ("query_ar_internvl", ["model.latent_grid=[4, 4]"], r"latent_grid \(4, 4\).*not the autoencoder's \(8, 8\)"),
        ("query_ar_internvl", ["model.head.width=0"], "model.head of width 0"),
        ("query_ar_internvl", ["init.layers=9"], "has 4 layers; 9 of them are impossible"),
        ("query_ar_internvl", ["init.vlm=somebody/else"], "somebody/else is not in the hub's cache.*InternVL3-1B"),
        ("query_ar_internvl", ["init.vlm=pixel_ae"], "pixel_ae is a vgt_ae checkpoint; give a vlm one"),
        ("query_ar_internvl", ["init.autoencoder=nothing"], "init.autoencoder: there is no nothing"),
        ("pixel_ae", ["model.image_size=60"], "image_size 60 is not a multiple .* 8; choose 56"),
        ("pixel_ae", ["losses.distill=1"], "there is no teacher"),
        ("pixel_ae", ["losses.perceptual_network=squeeze"], "squeeze"),
        ("vgt_ae_internvl_stage1", ["model.d_z=24"], "d_z 24 does not divide"),
        ("vgt_ae_internvl_stage1", ["model.decoder.widths=[32, 64, 96, 128]"], "96 after 64.*choose 64 or 128"),
        ("vgt_ae_internvl_stage1", ["model.decoder.widths=[32, 64, 128]"], "as many of one as of the other"),
        ("vgt_ae_internvl_stage1", ["model.decoder.layers=[0, 2, 0, 2]"], "only the first stage may have 0"),
        ("vgt_ae_internvl_stage1", ["model.decoder.attention=9"], "attention 9 is impossible with 4 stages"),
        ("vgt_ae_internvl_stage1", ["model.decoder.attention=1", "model.decoder.head_dim=48"], "head_dim 48 does not"),
        ("vgt_ae_internvl_stage1", ["model.decoder.kind=kl", "model.decoder.widths=[48, 64]"], "for kind kl"),
        ("vgt_ae_internvl_stage1", ["model.decoder.kind=vit", "model.decoder.vit_heads=7"], "vit_heads 7 does not"),
        ("vgt_ae_internvl_stage1", ["model.decoder.kind=vit", "model.decoder.vit_patch=0"], "vit_patch: .*equal to 1"),
        ("vgt_ae_internvl_stage1", ["losses.discriminator.widths=[32, 48]"], r"discriminator of widths \(32, 48\)"),
        ("vgt_ae_internvl_stage1", ["losses.distill=-1"], "distill: .*equal to 0"),
        ("vgt_ae_internvl_stage1", ["losses.noise=NaN"], "noise: .*finite"),
        ("pixel_ae_448", ["model.decoder.kind=vit"], "init.decoder is for model.decoder.kind dc, not vit"),
        ("pixel_ae", ["model.pixel_width=96"], "pixel_width 96 does not divide"),
        ("pixel_ae", ["model.pixel_stride=16"], "has stride 8; set pixel_stride"),
        ("pixel_ae", ["model.decoder.widths=[32, 66, 66, 66]", "model.pixel_width=66"], "multiples of 4"),
        ("query_ar_internvl", ["model.start_ids=[]"], "start_ids: .*at least 1 item"),
        ("query_ar_internvl", ["model.text={}"], "model.text of the preset is impossible"),
        ("query_ar_internvl", ["model.time_shift=0"], "time_shift: .*greater than 0"),
        ("vlm_internvl", ["model.hf.text_config.hidden_size=190"], "190 cannot have 6 heads"),
        ("vlm_internvl", ["model.image_size=62"], "62"),
        ("vlm_internvl", ["model.hf.vision_config.patch_size=[5, 5]"], "impossible"),
        ("vlm_internvl", ["model.hf.vision_config.num_attention_heads=5"], "128 cannot have 5 heads"),
        ("vlm_internvl", ["model.hf.text_config.num_key_value_heads=4"], "6 heads cannot share 4 keys"),
        ("vlm_qwen", ["model.hf.vision_config.num_heads=5"], "128 cannot have 5 heads"),
        ("vlm_qwen", ["model.hf.model_type=nothing"], "nothing"),
    ],
)  # fmt: skip
def test_what_could_not_be_built_is_an_error(name, settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        build(preset(name, *settings), tmp_path, 1)


@pytest.mark.parametrize(
    "setting",
    ["train.steps=0", "train.steps=-5", "train.batch=0", "train.lr=0", "train.lr=-1e-3",
     "train.lr=NaN", "train.lr=Infinity", "train.warmup=-1", "train.final_lr=-0.1", "train.betas=[0.9, 1.0]",
     "train.weight_decay=NaN", "train.clip=-1", "train.ema=1.0", "train.save_every=0", "train.log_every=0",
     "train.sample_every=-1", "train.rest_lr=-1", "repeats=0", "init.layers=0", "data.scenes=0", "data.dense=1.5",
     "data.unconditional=-0.1", "data.workers=-1", "data.caption_tokens=0", "data.skip_limit=2", "data.turns=0",
     "data.photos=NaN"],
)  # fmt: skip
def test_numbers_that_no_training_can_have_are_refused_in_one_line(setting):
    name = setting.partition("=")[0]
    with pytest.raises(ValueError, match=rf"preset query_ar_internvl: {name}") as refused:
        read("query_ar_internvl", [setting])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["train.ema=0", "train.ema_start=5"], "train.ema_start 5 has no effect with train.ema 0"),
        (["train.ema=0", "train.ema_ramp=false"], "train.ema_ramp false has no effect with train.ema 0"),
        (["train.steps=8", "train.ema_start=8"], r"train.ema_start 8 is never reached in 8 steps \(train.steps\)"),
    ],
)
def test_settings_of_an_average_that_would_do_nothing(settings, words):
    with pytest.raises(ValueError, match=words) as refused:
        read("query_ar_internvl", settings)
    assert "\n" not in str(refused.value)
    assert read("query_ar_internvl", ["train.steps=8", "train.ema_start=7"]).train.ema_start == 7


def test_absurd_factors_are_refused_in_one_line(tmp_path):
    """However the system's own configuration is reached."""
    for setting in ("train.lr=1e30", "train.weight_decay=1000", "train.clip=1e9"):
        with pytest.raises(ValueError, match=rf"{setting.partition('=')[0]}: Input should be less than 1000"):
            read("query_ar_internvl", [setting])
    for name, setting in (
        ("query_ar_internvl", "model.grid_start=1e30"),
        ("query_ar_internvl", "model.time_shift=1e6"),
        ("query_ar_internvl", "losses.repa=1e300"),
        ("vgt_ae_internvl", "losses.kl=1e30"),
    ):
        with pytest.raises(ValueError, match=f"{setting.partition('=')[0].split('.')[1]}: .*less than 1000") as refused:
            build(preset(name, setting), tmp_path, 1)
        assert "\n" not in str(refused.value)


def test_requests_that_make_no_plan(tmp_path):
    small = preset("query_ar_internvl")
    with pytest.raises(ValueError, match="device 'tpu' is not one to plan for; choose one of h100"):
        plan(small, tmp_path, device="tpu")
    with pytest.raises(ValueError, match=r"throughput -1 TFLOP/s is impossible"):
        plan(small, tmp_path, throughput=-1)
    with pytest.raises(ValueError, match="0 processes are impossible"):
        plan(small, tmp_path, processes=0)
    with pytest.raises(ValueError, match="train.batch 32 .*3 process"):
        plan(small, tmp_path, processes=3)
    with pytest.raises(ValueError, match=r"data.source 'images' is unknown; write scenes, folder:DIR"):
        plan(preset("query_ar_internvl", "data.source=images"), tmp_path, device="cpu")
    with pytest.raises(ValueError, match="preset: .*train.stepz"):
        plan({**configs.read_preset("query_ar_internvl"), "train": {"stepz": 1}}, tmp_path)
