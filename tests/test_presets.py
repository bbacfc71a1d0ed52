"""The presets at full size: valid, with complete chains of parents, split evenly over eight processes, as published."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from vgt.core import config as configs
from vgt.inference.load import bundled
from vgt.methods.vgt_ae import AELossConfig, VGTAEConfig
from vgt.training.job import Preset
from vgt.training.optim import learning_rate, micro_rows
from vgt.training.plan import build
from vgt.training.run import run
from vgt.vlm import known

FULL = sorted(
    name for name in configs.preset_names() if re.search(r"internvl3|qwen25vl|dcae|448", name)
)  # those of the published sizes
DC_AE = "mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers"


def preset(name: str) -> Preset:
    return configs.validated(Preset, configs.read_preset(name), f"preset {name}")


def text(name: str) -> str:
    return (resources.files("vgt.presets") / f"{name}.toml").read_text(encoding="utf-8")


def test_the_arms_of_the_paper_are_there():
    assert len(FULL) >= 20
    for backbone in ("internvl3", "qwen25vl"):
        for stage in ("stage1", "stage2"):
            assert {f"vgt_ae_{backbone}_{stage}", f"vgt_ae_{backbone}_{stage}_reference"} <= set(FULL)
    for size in ("internvl3_1b", "internvl3_2b", "qwen25vl_3b", "qwen25vl_06b"):
        assert {f"query_ar_{size}", f"query_ar_{size}_sft"} <= set(FULL)
    assert {"mar_internvl3_1b", "mar_qwen25vl_3b", "query_ar_dcae_1b", "vgt_ae_internvl3_stage1_nodistill"} <= set(FULL)


@pytest.mark.parametrize("name", configs.preset_names())
def test_every_preset_is_valid_and_named_after_its_file(name):
    read = preset(name)
    assert read.name == name
    if read.system == "vgt_ae":
        configs.validated(AELossConfig, read.losses, name)


@pytest.mark.parametrize("name", FULL)
def test_parents_are_presets_or_known_backbones(name):
    init = preset(name).init
    assert init.vlm is None or init.vlm in known.KNOWN
    assert init.decoder == (None if re.search("sdvae|vit_|query_ar|mar_", name) else DC_AE)
    for parent, systems in ((init.weights, None), (init.autoencoder, {"vgt_ae"})):
        if parent is not None:
            made = preset(parent)
            assert made.system in (systems or {preset(name).system})


@pytest.mark.parametrize("name", FULL)
def test_the_batch_can_be_dealt_to_one_and_to_eight_processes(name):
    train = preset(name).train
    for processes in (1, 8):
        assert micro_rows(train, processes) == train.micro > 0


@pytest.mark.parametrize("name", FULL)
def test_the_first_line_names_a_number_or_says_that_there_is_none(name):
    first = configs.preset_header(name)
    assert re.search(r"expect|no number|stands in", first), first
    assert re.search(r"paper|reference|model card|docs/", first), first


@pytest.mark.parametrize(("end", "name"), [(1e-4, "vgt_ae_internvl3_stage1"), (1e-5, "vgt_ae_internvl3_stage2"),
                                           (1e-4, "query_ar_internvl3_1b_reference")])  # fmt: skip
def test_schedules_end_where_they_are_published_to_end(end, name):
    train = preset(name).train
    assert learning_rate(train, train.steps) == pytest.approx(end, rel=1e-3)


def test_stages_of_the_autoencoder():
    """docs/vgt.md 1.8, 1.10: the paper freezes the encoder in stage 2, the reference freezes nothing."""
    for family in ("internvl3", "qwen25vl"):
        one, two, reference = (
            configs.validated(AELossConfig, preset(f"vgt_ae_{family}_{stage}").losses, stage)
            for stage in ("stage1", "stage2", "stage2_reference")
        )
        assert (one.distill, one.adversarial, one.adversarial_start, one.noise) == (1.0, 0.1, 30_000, 0.0)
        assert (two.distill, two.adversarial, two.noise, two.noise_mode) == (0.0, 0.0, 0.1, "fixed")
        assert two.freeze_encoder and not reference.freeze_encoder
        assert (reference.distill, reference.adversarial_start, reference.noise_mode) == (0.1, 10_000, "uniform_max")
        assert preset(f"vgt_ae_{family}_stage1").model["normalize"] == "none"
        assert preset(f"vgt_ae_{family}_stage2").model["normalize"] == "position"
        assert preset(f"vgt_ae_{family}_stage2").init.weights == f"vgt_ae_{family}_stage1"


def test_the_logits_term_is_the_references_alone():
    """docs/vgt.md 1.8, 3.1 P4."""
    for name in FULL:
        if preset(name).system == "vgt_ae":
            losses = configs.validated(AELossConfig, preset(name).losses, name)
            assert losses.logits == (0.1 if name.endswith("_reference") else 0.0)


def test_the_arm_without_distillation_differs_in_nothing_else():
    for name in ("vgt_ae_internvl3_stage1", "vgt_ae_internvl_stage1"):
        arm = name.replace("internvl3_stage1", "internvl3_stage1_nodistill").replace(
            "internvl_stage1", "internvl_nodistill_stage1"
        )
        with_it, without = preset(name).model_dump(), preset(arm).model_dump()
        assert with_it["losses"].pop("distill") > 0 == without["losses"].pop("distill")
        assert with_it | {"name": arm} == without


@pytest.mark.parametrize(("arm", "base"), [("mar_internvl3_1b", "query_ar_internvl3_1b"),
                                           ("mar_qwen25vl_3b", "query_ar_qwen25vl_3b"),
                                           ("mar_qwen25vl_3b_50k", "query_ar_qwen25vl_3b_50k")])  # fmt: skip
def test_mar_differs_in_its_method_alone(arm, base):
    """docs/mar.md 3.2: optimiser, schedule, batch, data and autoencoder are QueryAR's."""
    mar, query = preset(arm).model_dump(), preset(base).model_dump()
    assert mar == query | {"name": arm, "system": "mar"}


def test_generators_see_latents_as_they_are_published():
    for name in FULL:
        read = preset(name)
        if read.system in ("query_ar", "mar"):
            assert read.data.standardize == ("dcae" in name)  # whose latents have no norm that would give them a scale
            assert read.model["time_shift"] == (1.0 if "qwen" in name else 1.4)
            assert (read.train.batch, read.train.weight_decay) == (256, 0.05)


def test_pruning_of_qwen_and_what_is_not_published():
    assert preset("query_ar_qwen25vl_3b").init.layers == preset("mar_qwen25vl_3b").init.layers == 18
    assert preset("query_ar_qwen25vl_06b").init.layers == preset("query_ar_qwen25vl_06b_sft").init.layers == 8
    assert "not published" in text("query_ar_qwen25vl_06b")


def test_the_pixel_only_arm_has_no_backbone():
    read = preset("pixel_ae_448")
    assert read.init.vlm is None
    assert configs.validated(VGTAEConfig, {"vlm": None, **read.model}, "pixel_ae_448").pixel_stride == 32
    assert preset("query_ar_dcae_1b").init.autoencoder == "pixel_ae_448"


@pytest.mark.parametrize(
    ("name", "missing"),
    [("vgt_ae_internvl3_stage1", "ConvNeXt"), ("vgt_ae_internvl3_stage1_reference", "states in bf16"),
     ("query_ar_internvl3_1b_reference", "pure bf16"),
     ("query_ar_internvl3_1b_reference", "step 10,000"), ("pixel_ae_448", "Not the published DC-AE")],
)  # fmt: skip
def test_what_cannot_be_set_is_said(name, missing):
    assert missing in text(name)


@pytest.mark.parametrize("name", [name for name in configs.preset_names() if name.startswith("smoke_")])
def test_smoke_presets_need_nothing_that_is_not_bundled(name):
    init = preset(name).init
    assert {init.vlm, init.weights, init.autoencoder} <= {None, *bundled()} and init.decoder is None


def test_a_smoke_preset_runs_on_a_fresh_install(tmp_path):
    done = run("smoke_query_ar_internvl", ["train.steps=1", "train.batch=2"], None, tmp_path)
    assert done.result.step == 1 and done.folder == tmp_path / "smoke_query_ar_internvl" / "model"


def test_a_parent_that_is_not_trained_is_named_with_its_command(tmp_path):
    with pytest.raises(ValueError, match="not trained yet and not bundled; run `vgt train vgt_ae_qwen_stage1` first"):
        run("vgt_ae_qwen", [], None, tmp_path)


# -------------------------------------------------------------------------------- the numbers that a header expects

# rFID and PSNR of the autoencoder that a published row stands on (docs/vgt.md 5.3 - 5.9).
LOW, HIGH, QWEN = ("1.13", "23.95"), ("0.50", "26.67"), ("1.93", "20.12")
ROWS = {("0.72", "73.50"): LOW, ("0.71", "72.01"): HIGH, ("0.75", "74.43"): HIGH, ("0.83", "76.33"): HIGH,
        ("0.58", "73.05"): HIGH, ("0.72", "75.18"): QWEN, ("0.77", "78.73"): QWEN, ("0.83", "81.28"): QWEN,
        ("0.63", "78.02"): QWEN}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in FULL if preset(name).system in ("query_ar", "mar")])
def test_a_header_expects_the_numbers_of_its_own_autoencoder(name):
    found = re.search(r"expect GenEval ([\d.]+), DPG ([\d.]+)", configs.preset_header(name))
    if found and found.groups() in ROWS:
        ae = re.search(r"expect rFID ([\d.]+), PSNR ([\d.]+)", configs.preset_header(preset(name).init.autoencoder))
        assert ae and ae.groups() == ROWS[found.groups()]


def test_table_8_is_of_50k_steps():
    """Ablations are trained for 50K steps and not fine-tuned (the paper's 4.1)."""
    for name in FULL:
        if "Table 8" in configs.preset_header(name):
            assert preset(name).train.steps == 50_000 and preset(name).init.weights is None
    assert "Table 8" in configs.preset_header("mar_qwen25vl_3b_50k") + configs.preset_header("query_ar_qwen25vl_3b_50k")


@pytest.mark.parametrize(
    ("name", "millions"),
    [("vgt_ae_internvl3_sdvae_stage1", 363.0), ("vgt_ae_qwen25vl_sdvae_stage1", 743.6),
     ("vgt_ae_internvl3_vit_stage1", 467.7), ("vgt_ae_qwen25vl_vit_stage1", 848.3)],
)  # fmt: skip
def test_decoders_of_table_4_have_its_sizes(name, millions, tmp_path):
    """The paper has 362, 743, 464 and 845 M (docs/vgt.md 5.4).  Built on the meta device."""
    for stage in (name, name.replace("stage1", "stage2")):
        job, problems = build(preset(stage), tmp_path, 1)
        model = job.system.trainable_modules()["model"]
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
        assert not any("init.decoder" in problem for problem in problems)  # these start from nothing
    assert re.search(r"expect rFID [\d.]+, PSNR [\d.]+, SSIM [\d.]+", configs.preset_header(stage))


def test_the_second_stage_does_not_ask_for_a_decoder_that_it_never_loads(tmp_path):
    _, problems = build(preset("vgt_ae_internvl3_stage2"), tmp_path, 1)
    assert any("init.weights" in problem for problem in problems)
    assert not any("init.decoder" in problem for problem in problems)


def test_averages_of_paper_and_reference():
    """The paper: 0.9999; the reference: 0.9998 from step 10,000 (docs/vgt.md 2.6).  Neither has a ramp."""
    paper, reference = preset("query_ar_internvl3_1b").train, preset("query_ar_internvl3_1b_reference").train
    assert (paper.ema, paper.ema_ramp, paper.ema_start) == (0.9999, False, 0)
    assert (reference.ema, reference.ema_ramp, reference.ema_start) == (0.9998, False, 10_000)
    assert preset("query_ar_internvl").train.ema_ramp  # the tiny ones are as they were trained
