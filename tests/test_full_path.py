"""The README's path to a VLM of one's own, on stand-ins: a Hugging Face folder of the same class, a diffusers decoder,
tar shards with bad samples among them, the full-size presets made small by settings, and images at the end."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from conftest import IMAGE
from PIL import Image

from vgt.core import captions, scenes
from vgt.inference.load import load
from vgt.inference.pipeline import VGTPipeline
from vgt.training import run

DECODER = {"widths": [8, 16, 16, 16], "layers": [1, 1, 1, 1], "attention": 0}
SMALL = ("train.batch=4", "train.micro=2", "train.steps=2", "train.warmup=1", "train.save_every=1", "train.log_every=1",
         "train.precision=fp32", "data.workers=2", "data.skip_limit=1")  # fmt: skip


def write_shard(path: Path, count: int) -> None:
    """Images of scenes with captions; number 1 is torn, number 2 has an empty caption, number 3 a very long one."""
    with tarfile.open(path, "w") as archive:
        for i in range(count):
            scene = scenes.item("train", i, 128)
            png = io.BytesIO()
            Image.fromarray(scene.image).save(png, "png")
            image = png.getvalue()[:200] if i == 1 else png.getvalue()
            caption = {2: "", 3: "a red star " * 400}.get(i, captions.dense_caption(scene.scene))
            for end, content in (("png", image), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{i:04d}.{end}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def place(tmp_path_factory, vlms) -> Path:
    """``vlm/`` a Hugging Face folder, ``dc/`` an AutoencoderDC, ``shard-000.tar``."""
    from diffusers import AutoencoderDC

    folder = tmp_path_factory.mktemp("full_path")
    vlms["internvl"].hf.save_pretrained(folder / "vlm")
    vlms["internvl"].tokenizer.save_pretrained(folder / "vlm")
    plain = {"block_types": ("ResBlock",) * 4, "block_out_channels": tuple(DECODER["widths"]),
             "layers_per_block": tuple(DECODER["layers"]), "qkv_multiscales": ((),) * 4}  # fmt: skip
    both = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in plain.items()}
    AutoencoderDC(3, 8, upsample_block_type="interpolate", **both).save_pretrained(folder / "dc")
    write_shard(folder / "shard-000.tar", 12)
    return folder


@pytest.fixture(scope="module")
def trained(place) -> Path:
    """The runs of both stages and of a generator, by the full-size presets."""
    shard = f'data.source="webdataset:{place}/shard-{{000..000}}.tar"'
    common = [*SMALL, f"init.vlm={place / 'vlm'}", shard]
    decoder = [f"init.decoder={place / 'dc'}", f"model.decoder={json.dumps(DECODER)}", f"model.image_size={IMAGE}"]
    losses = ["losses.perceptual=0", "losses.adversarial=0", "model.d_z=8"]
    runs = place / "runs"
    for stage in ("vgt_ae_internvl3_stage1", "vgt_ae_internvl3_stage2"):
        run.run(stage, [*common, *decoder, *losses], None, runs)
    head = ["model.query_grid=8", 'model.head={"width": 32, "depth": 1}']
    whole_pass = ["train.steps=4", "data.workers=0"]  # 16 places of 12 samples
    settings = [*common, *head, *whole_pass, "init.layers=1", "data.caption_tokens=64"]
    run.run("query_ar_internvl3_1b", settings, None, runs)
    return runs


def test_the_generator_is_aligned_with_image_features(trained, place, tmp_path):
    """REPA (docs/vgt.md 2.5) by the published preset, with a small random DINOv3."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vit = DINOv3ViTModel(DINOv3ViTConfig(**sizes, num_register_tokens=4))
    vit.save_pretrained(tmp_path / "vit")
    shard = f'data.source="webdataset:{place}/shard-{{000..000}}.tar"'
    settings = [*SMALL, f"init.vlm={place / 'vlm'}", shard, "model.query_grid=8", "init.layers=1", "train.ema_start=1",
                "data.caption_tokens=64", "data.workers=0", 'model.head={"width": 32, "depth": 2}',
                f"init.autoencoder={trained / 'vgt_ae_internvl3_stage2'}"]  # fmt: skip
    name = "query_ar_internvl3_1b_reference"
    runs = [run.run(name, [*settings, f"init.repa={tmp_path / 'vit'}", *more], tmp_path / f"r{i}", tmp_path)
            for i, more in enumerate(([], ["losses.repa=2.0"]))]  # fmt: skip
    assert abs(runs[0].result.loss - runs[1].result.loss) > 1e-3  # 1.5 times the cosine
    made = load(runs[0].folder).model
    assert made.config.head.repa == 16 and made.image_head.repa_projector[4].out_features == 16
    (image,) = VGTPipeline.from_pretrained(
        runs[0].folder, autoencoder=str(trained / "vgt_ae_internvl3_stage2" / "model")
    )("a red star", acceleration=4, generator=0).images
    assert image.size == (IMAGE, IMAGE)
    with pytest.raises(ValueError, match=r"losses.repa 0.5 and init.repa None belong together"):
        run.run(name, [*settings, "init.repa="], tmp_path / "none", tmp_path)
    with pytest.raises(ValueError, match="init.repa: there is no nothing"):
        run.run(name, [*settings, "init.repa=nothing"], tmp_path / "none", tmp_path)
    with pytest.raises(ValueError, match="losses.repa needs the images"):
        run.run(name, [*settings, f"init.repa={tmp_path / 'vit'}", "data.source=scenes"], tmp_path / "none", tmp_path)


def test_features_are_those_of_the_patches_on_the_latent_grid():
    import torch
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    from vgt.methods.visual_lm import ImageFeatures

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vit = DINOv3ViTModel(DINOv3ViTConfig(**sizes, num_register_tokens=4)).eval()
    images = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    shown = ((images + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        states = vit(pixel_values=shown).last_hidden_state[:, 5:]  # one class token, four registers
    torch.testing.assert_close(ImageFeatures(vit, (16, 16))(images), states, rtol=1e-3, atol=1e-3)
    assert ImageFeatures(vit, (14, 14))(images).shape == (2, 196, 16)


def test_every_stage_is_a_checkpoint_that_names_its_data(trained):
    for name in ("vgt_ae_internvl3_stage1", "vgt_ae_internvl3_stage2", "query_ar_internvl3_1b"):
        card = (trained / name / "model" / "README.md").read_text()
        assert "webdataset:" in card and "synthetic scenes" not in card
    ae = load("vgt_ae_internvl3_stage2", trained)
    assert ae.model.config.image_size == IMAGE and ae.model.stride == 8


def test_the_decoder_starts_from_the_published_one(place, trained):
    from diffusers import AutoencoderDC

    start = AutoencoderDC.from_pretrained(place / "dc").decoder.state_dict()
    found = load("vgt_ae_internvl3_stage1", trained).model.decoder.state_dict()
    assert start.keys() == found.keys()
    assert all((found[key] - value).abs().max() < 2e-3 for key, value in start.items()), "two small steps away"


def test_the_generator_keeps_the_first_layers(trained, vlms):
    model = load("query_ar_internvl3_1b", trained).model
    assert len(model.language_model.layers) == 1 and len(vlms["internvl"].language.layers) == 2
    assert model.config.latent_mean is None, "published models see latents as they are"


def test_bad_samples_are_counted(trained):
    report = json.loads((trained / "query_ar_internvl3_1b" / "skipped.json").read_text())
    assert set(report["skipped"]) == {"torn file", "no caption"} and set(report["changed"]) == {"truncated caption"}
    assert report["skipped"]["torn file"]["first"] == ["shard-000.tar:0001.png"]
    assert report["looked"] == 16 + sum(entry["count"] for entry in report["skipped"].values())


def test_the_pipeline_draws_with_what_was_trained(place, trained, tmp_path):
    autoencoder = trained / "vgt_ae_internvl3_stage2" / "model"
    pipe = VGTPipeline.from_pretrained(trained / "query_ar_internvl3_1b" / "model", autoencoder=autoencoder)
    asked = {"num_flow_steps": 2, "acceleration": 4, "generator": 5}
    first = pipe("a photo of a red star", **asked)
    assert first.images[0].size == (IMAGE, IMAGE)
    pipe.save_pretrained(tmp_path / "pipeline")
    again = VGTPipeline.from_pretrained(tmp_path / "pipeline")("a photo of a red star", **asked)
    assert list(first.images[0].getdata()) == list(again.images[0].getdata())


def test_absent_weights_are_one_line(place, tmp_path):
    shard = f'data.source="webdataset:{place}/shard-000.tar"'
    with pytest.raises(ValueError, match=r"init.decoder .*cannot be had"):
        decoder = [f"init.decoder={tmp_path / 'none'}", f"model.decoder={json.dumps(DECODER)}", "model.image_size=32"]
        settings = [*SMALL, f"init.vlm={place / 'vlm'}", shard, *decoder, "model.d_z=8"]
        run.run("vgt_ae_internvl3_stage1", settings, None, tmp_path)
    with pytest.raises(ValueError, match="OpenGVLab/InternVL3-1B"):
        run.run("vgt_ae_internvl3_stage1", [*SMALL, shard], None, tmp_path)
