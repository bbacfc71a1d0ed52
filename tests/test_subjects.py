"""Fake subjects, folders of images, and subjects by name."""

from __future__ import annotations

import json
import shutil
import string
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from evals.engine.api import Generator, Tokenizer
from evals.geneval import run as geneval
from evals.judges import canary
from evals.judges.analytic import AnalyticJudge
from evals.subjects import fake, load_generator, load_tokenizer, parse_settings
from evals.subjects.diffusers import PipelineSubject
from evals.subjects.folder import Folder, folder
from vgt.core import samples, suites
from vgt.core.images import read_image

PROMPTS = [p["prompt"] for p in suites.geneval_prompts(per_task=4)]


def test_fakes_keep_the_protocols():
    for subject in (fake.Oracle(), fake.Noise(), fake.shuffled(PROMPTS), fake.through(fake.Identity(), fake.Oracle())):
        assert isinstance(subject, Generator)
        images = subject.generate(PROMPTS[:3], [1, 2, 3])
        assert images.shape == (3, 64, 64, 3) and images.dtype == np.uint8
        assert np.array_equal(images[1:2], subject.generate(PROMPTS[1:2], [2]))  # own prompt and seed only
    assert isinstance(fake.Identity(), Tokenizer)
    names = {s.fingerprint for s in (fake.Oracle(), fake.Oracle(32), fake.Noise(), fake.shuffled(PROMPTS))}
    assert len(names) == 4


def test_oracle_draws_the_prompt_and_refuses_others():
    image = fake.Oracle(128).generate(["a photo of a green moon"], [5])[0]
    assert image.shape == (128, 128, 3)
    assert dict(canary.pairs(AnalyticJudge(), image)) == {("moon", "green"): 1}
    with pytest.raises(ValueError, match="grammar"):
        fake.Oracle().generate(["a photo of a dog"], [0])


def test_shuffled_is_a_derangement_fixed_by_seed():
    one, same, other = (fake.shuffled(PROMPTS, seed) for seed in (0, 0, 1))
    assert one.other == same.other != other.other
    assert sorted(one.other) == sorted(one.other.values()) == sorted(set(PROMPTS))
    assert all(a != b for a, b in one.other.items())
    with pytest.raises(ValueError, match="two different prompts"):
        fake.shuffled(["a photo of a star"])
    with pytest.raises(ValueError, match="not in the suite"):
        one.generate(["a photo of nothing"], [0])


def test_through_is_named_and_fingerprinted_by_both():
    both = fake.through(fake.Identity(), fake.Oracle())
    assert both.name == "oracle+identity"
    assert both.fingerprint not in (fake.Identity().fingerprint, fake.Oracle().fingerprint)
    assert np.array_equal(both.generate(PROMPTS[:2], [1, 2]), fake.Oracle().generate(PROMPTS[:2], [1, 2]))


def test_the_published_way_of_decoding_says_that_batches_matter():
    """There the first image's order is that of its whole batch."""
    marked = [load_generator("vgt:query_ar_internvl", settings={"compat": c}) for c in ("none", "reference")]
    assert [subject.batch_matters for subject in marked] == [False, True]
    assert [fake.through(fake.Identity(), subject).batch_matters for subject in marked] == [False, True]
    assert not fake.through(fake.Identity(), fake.Oracle()).batch_matters
    pipelines = [PipelineSubject("p", "f", settings, None, {}) for settings in ({}, {"compat": "reference"})]
    assert [subject.batch_matters for subject in pipelines] == [False, True]


def test_identity_latents_are_the_pixels():
    images = fake.Oracle().generate(PROMPTS[:2], [0, 1])
    latents = fake.Identity().encode(images)
    assert latents.shape == (2, 256, 48) and latents.dtype == np.float32
    assert np.allclose(latents.mean((1, 2)) * 255, images.mean((1, 2, 3)), atol=1e-3)


def test_flat_folder_is_sorted_and_must_be_complete(tmp_path):
    for k, suffix in enumerate((".png", ".jpg", ".jpeg", ".png")):
        Image.fromarray(np.full((8, 8, 3), 50 * k, np.uint8)).save(tmp_path / f"{k}{suffix}")
    found = folder(tmp_path)
    assert (found.layout, found.name) == ("flat", f"folder:{tmp_path.name}")
    prompts = [{"prompt": "a"}, {"prompt": "b"}]
    samples, extra = found.samples(prompts, 2)
    assert extra == ()
    assert {job: path.name for job, path in samples.items()} == {
        (0, 0): "0.png", (0, 1): "1.jpg", (1, 0): "2.jpeg", (1, 1): "3.png",
    }  # fmt: skip
    with pytest.raises(ValueError, match="holds 4 images"):
        found.samples(prompts, 4)


def test_folder_errors_name_the_folder(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        folder(tmp_path / "absent")
    with pytest.raises(ValueError, match="holds no images"):
        folder(tmp_path)


def test_images_are_turned_upright(tmp_path):
    pixels = np.zeros((4, 8, 3), np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (8, 4, 3)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").shape == (4, 8, 3)


def test_what_is_read_and_what_is_refused(tmp_path):
    """What has an unambiguous RGB of 8 bits is converted as everywhere, everything else names the file."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 5, 3), np.uint8)
    img = Image.fromarray(pixels)
    opaque = Image.fromarray(np.dstack([pixels, np.full((6, 5), 255, np.uint8)]))
    seen_through = opaque.copy()
    seen_through.putpixel((2, 3), (9, 9, 9, 254))
    palette = Image.fromarray(pixels // 128 * 255).quantize(8)
    good = {"plain": (img, pixels), "opaque": (opaque, pixels), "palette": (palette, pixels // 128 * 255)}
    for name, (image, expected) in good.items():
        image.save(tmp_path / f"{name}.png")
        assert np.array_equal(read_image(tmp_path / f"{name}.png"), expected), name
    deep = rng.integers(0, 2**16, (6, 5), np.uint16)
    Image.fromarray(deep).save(tmp_path / "grey16.png")
    assert np.array_equal(
        read_image(tmp_path / "grey16.png"), np.rint(deep / 257).astype(np.uint8)[..., None].repeat(3, 2)
    )
    colors = rng.integers(0, 2**16, (6, 5, 3))
    (tmp_path / "color16.png").write_bytes(png16(colors))
    assert np.abs(read_image(tmp_path / "color16.png") - colors / 257).max() <= 1
    img.convert("CMYK").save(tmp_path / "print.jpg")
    assert read_image(tmp_path / "print.jpg").shape == (6, 5, 3)
    seen_through.save(tmp_path / "glass.png")
    palette.save(tmp_path / "glass8.png", transparency=0)
    whole = (tmp_path / "plain.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_bytes(b"no image")
    (tmp_path / "flipped.png").write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
    for name, words in {
        "glass.png": "transparent", "glass8.png": "transparent", "cut.png": "cannot be read",
        "text.png": "cannot be read", "flipped.png": "cannot be read", "absent.png": "",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=f"{name}.*{words}"):
            read_image(tmp_path / name)


def png16(pixels: np.ndarray) -> bytes:
    """A PNG file of 16 bits a channel, which Pillow reads but does not write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def numbered(root, index: int, names: list[str]) -> None:
    """One prompt's folder in GenEval's layout."""
    (root / f"{index:05d}" / "samples").mkdir(parents=True)
    (root / f"{index:05d}" / "metadata.jsonl").write_text(json.dumps({"prompt": f"p{index}"}))
    for k, name in enumerate(names):
        Image.fromarray(np.full((8 + k, 8, 3), 40 * k, np.uint8)).save(root / f"{index:05d}" / "samples" / name)


def test_a_gap_stays_a_gap_and_spare_images_are_named(tmp_path):
    numbered(tmp_path, 0, ["0000.png", "0002.png", "0003.png"])
    numbered(tmp_path, 1, ["11.png", "12.png", "13.png", "14.png", "15.png", "grid.png"])
    numbered(tmp_path, 2, ["0000.png"])
    found, extra = folder(tmp_path).samples([{"prompt": "p0"}, {"prompt": "p1"}], 4)
    assert sorted(found) == [(0, 0), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)]
    assert found[1, 3].name == "14.png"
    assert extra == ("00001/samples/15.png", "00001/samples/grid.png", "00002/samples/0000.png")
    (tmp_path / "00001").rename(tmp_path / "0")
    with pytest.raises(ValueError, match="are both prompt 0"):
        folder(tmp_path).samples([{"prompt": "p0"}, {"prompt": "p1"}], 4)


def test_a_part_of_a_suite_is_taken_from_a_folder_of_the_whole(tmp_path, capsys):
    """Or is the folder's own, where that shows the part alone; nothing is guessed."""
    suite = [{"prompt": f"p{k}"} for k in range(6)]
    part = [suite[0], suite[2], suite[4]]
    for k in range(6):
        numbered(tmp_path / "whole", k, ["0000.png"])
        Image.new("RGB", (8, 8)).save(tmp_path / f"{k}.png")
    found, extra = folder(tmp_path / "whole", whole=6).samples(part, 1)
    assert [found[k, 0].parent.parent.name for k in range(3)] == ["00000", "00002", "00004"] and not extra
    found, _ = folder(tmp_path, whole=6).samples(part, 1)
    assert [found[k, 0].name for k in range(3)] == ["0.png", "2.png", "4.png"]
    for k in range(3):  # what `vgt eval -n 3` makes
        numbered(tmp_path / "part", k, ["0000.png"])
        (tmp_path / "part" / f"{k:05d}/metadata.jsonl").write_text(json.dumps(part[k]))
    found, _ = folder(tmp_path / "part", whole=6).samples(part, 1)
    assert [found[k, 0].parent.parent.name for k in range(3)] == ["00000", "00001", "00002"]
    for k in range(3, 6):  # the first three of the suite are not those that -n 3 asks for
        shutil.rmtree(tmp_path / "whole" / f"{k:05d}")
        (tmp_path / f"{k}.png").unlink()
    assert sorted(folder(tmp_path / "whole", whole=6).samples(part, 1)[0]) == [(0, 0), (1, 0)]
    found, _ = folder(tmp_path, whole=6).samples(part, 1)
    assert [found[k, 0].name for k in range(3)] == ["0.png", "1.png", "2.png"]
    told = capsys.readouterr().err
    assert "does not say which prompts its 3 images show; they are taken for 3 from all over the suite" in told
    assert "('p0', then 'p2', ...)" in told and "with --suite FILE and without -n" in told
    assert len(folder(tmp_path).samples(suite[:3], 1)[0]) == 3


def test_prompts_beside_flat_images_must_be_those_of_the_suite(tmp_path):
    suite = [{"prompt": f"p{k}"} for k in range(6)]
    rows = [{"file": f"{k}.png", "prompt": f"p{k}", "seed": 0} for k in range(3)]
    for row in rows:
        Image.new("RGB", (8, 8)).save(tmp_path / row["file"])
    (tmp_path / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(folder(tmp_path).samples(suite[:3], 1)[0]) == 3
    with pytest.raises(ValueError, match="has 'p1' for 1.png, which would be judged by 'p2'; .* --suite FILE"):
        folder(tmp_path, whole=6).samples(suite[::2], 1)
    (tmp_path / "images.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    with pytest.raises(ValueError, match="has no prompt for 2.png"):
        folder(tmp_path).samples(suite[:3], 1)


def test_missing_metadata_is_said_to_be_missing(tmp_path):
    numbered(tmp_path, 1, ["0000.png"])
    (tmp_path / "00001/metadata.jsonl").unlink()
    with pytest.raises(ValueError, match="metadata.jsonl is missing; .* line 2 of `vgt prompts SUITE`"):
        folder(tmp_path).samples([{"prompt": "p0"}, {"prompt": "p1"}], 1)


def test_what_is_no_sample_in_genevals_layout(tmp_path, capsys):
    """Hidden files and other folders are left out and said; a link to nothing is a failed image, a folder none;
    other suffixes and two files of one number are refused."""
    prompts = [{"prompt": f"p{k}"} for k in range(2)]
    numbered(tmp_path, 0, ["0.png", "1.png", "\u00b2.png"])
    numbered(tmp_path, 1, ["10.png"])
    (tmp_path / "00000/samples/._0.jpg").write_bytes(b"")
    (tmp_path / "00001/samples/2.png").mkdir()
    (tmp_path / "00001/samples/9.png").symlink_to("/nowhere")
    for name in ("notes", "\u00b2"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "all.png")
    found, extra = folder(tmp_path).samples(prompts, 2)
    assert {job: path.name for job, path in found.items()} == {
        (0, 0): "0.png", (0, 1): "1.png", (1, 0): "9.png", (1, 1): "10.png",
    }  # fmt: skip
    assert extra == ("00000/samples/\u00b2.png",)
    assert f"{tmp_path}: left out 2 x folder, 1 x hidden file, 1 x image outside of the folders of prompts" in (
        capsys.readouterr().err
    )
    assert len(folder(tmp_path).fingerprint) == 64
    for name, said in (("3.PNG", "00001/samples/3.PNG: GenEval's layout scores"), ("009.png", "are both sample 9")):
        (tmp_path / "00001/samples" / name).write_bytes(b"")
        with pytest.raises(ValueError, match=said):
            folder(tmp_path).samples(prompts, 2)
        (tmp_path / "00001/samples" / name).unlink()


def test_fingerprint_follows_the_pixels(tmp_path):
    for index in range(2):
        (tmp_path / f"{index:05d}" / "samples").mkdir(parents=True)
        (tmp_path / f"{index:05d}" / "metadata.jsonl").write_text(json.dumps({"prompt": "p"}))
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"{index:05d}" / "samples" / "0000.png")
    before = folder(tmp_path).fingerprint
    assert before == folder(tmp_path).fingerprint
    Image.fromarray(np.ones((8, 8, 3), np.uint8)).save(tmp_path / "00001" / "samples" / "0000.png")
    assert folder(tmp_path).fingerprint != before


def test_subjects_by_name(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    assert isinstance(load_generator(f"folder:{tmp_path}"), Folder)
    assert load_generator("fake:oracle", settings={"size": 32}).size == 32
    for wrong in ({"size": "large"}, {"size": 1}, {"steps": 3}):
        with pytest.raises(ValueError, match="is not for fake: subjects; they have size"):
            load_generator("fake:noise", settings=wrong)
    assert load_generator("fake:noise").name == "noise"
    assert load_generator("fake:shuffled", prompts=PROMPTS).name == "shuffled"
    assert load_tokenizer("fake:identity").name == "identity"
    assert parse_settings(["steps=20", "negative_prompt=a blur", "sigmas=null"]) == {
        "steps": 20, "negative_prompt": "a blur", "sigmas": None,
    }  # fmt: skip
    for pairs in (["steps"], ["=3"], ["steps=2", "steps=3"]):
        with pytest.raises(ValueError, match="key=value"):
            parse_settings(pairs)
    for spec in ("fake:dream", "oracle", "vgt:", "diffusers:", "", "http://x"):
        with pytest.raises(ValueError, match="give vgt:<checkpoint>"):
            load_generator(spec)
    with pytest.raises(ValueError, match="not an autoencoder"):
        load_tokenizer("fake:oracle")


# ----------------------------------------------------------------------------------------------- diffusers pipelines


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """The folder of a small random Stable Diffusion pipeline that draws 16 x 16 pixels."""
    import torch
    from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = string.ascii_lowercase
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    ids = {word: number for number, word in enumerate(words)}
    blocks = {"layers_per_block": 1, "norm_num_groups": 4, "sample_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = CLIPTextModel(CLIPTextConfig(
            vocab_size=len(ids), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=48, bos_token_id=52, eos_token_id=53, pad_token_id=53,
        ))  # fmt: skip
        unet = UNet2DConditionModel(
            block_out_channels=(8, 8), cross_attention_dim=16, attention_head_dim=4, **blocks,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(8, 8), latent_channels=4, **blocks,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip
    made = StableDiffusionPipeline(
        vae=vae, text_encoder=text, unet=unet, scheduler=EulerAncestralDiscreteScheduler(steps_offset=1),
        tokenizer=CLIPTokenizer(vocab=ids, merges=[], model_max_length=48),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("pipelines") / "tiny-sd"
    made.save_pretrained(path)
    return path


def test_a_pipeline_draws_by_prompt_and_seed_alone(pipeline):
    subject = load_generator(f"diffusers:{pipeline}", settings={"steps": 2, "guidance": 4.0})
    assert isinstance(subject, Generator) and subject.name == "tiny-sd"
    assert subject.settings == {"dtype": "float32", "steps": 2, "guidance": 4.0}
    images = subject.generate(["a red star", "two moons", "a ring"], [1, 2, 3])
    assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8 and images.std() > 1
    again = subject.generate(["two moons", "x", "a red star"], [2, 9, 1])  # an ancestral sampler draws at every step
    assert np.array_equal(again[[2, 0]], images[:2]) and not np.array_equal(again[1], images[2])
    assert not np.array_equal(subject.generate(["two suns"] * 3, [2, 2, 1])[0], images[1])
    same = subject.pipeline(
        prompt=["two moons"] * 3, generator=[torch_generator(2)] * 1 + [torch_generator(8), torch_generator(9)],
        num_inference_steps=2, guidance_scale=4.0,
    )  # fmt: skip
    assert np.array_equal(np.asarray(same.images[0]), images[1])  # its own conversion to 8 bits


def torch_generator(seed: int):
    import torch

    return torch.Generator("cpu").manual_seed(seed)


def test_a_pipeline_is_known_by_its_files_and_settings(pipeline, tmp_path):
    def mark(path, **settings) -> str:
        return load_generator(f"diffusers:{path}", settings=settings).fingerprint

    copy = tmp_path / "copy"
    shutil.copytree(pipeline, copy)
    assert mark(copy, steps=2) == mark(pipeline, steps=2) != mark(pipeline, steps=3)
    assert mark(copy, num_inference_steps=2) == mark(copy, steps=2)  # the same in other words, and what it does anyway
    assert mark(copy, steps=50) == mark(copy, guidance_scale=7.5) == mark(copy) != mark(copy, size=16)
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace('"beta_end": 0.02', '"beta_end": 0.03'))
    assert mark(copy, steps=2) != mark(pipeline, steps=2)


def test_pipelines_that_cannot_be_used(pipeline, tmp_path, monkeypatch):
    for settings, words in (
        ({"stpes": 2}, "no setting 'stpes'; it has .*num_inference_steps.*steps"),
        ({"prompt": "x"}, "no setting 'prompt'"),
        ({"steps": 2, "num_inference_steps": 3}, "'num_inference_steps' gives num_inference_steps twice"),
        ({"dtype": "int8"}, "dtype 'int8'"),
    ):
        with pytest.raises(ValueError, match=words):
            load_generator(f"diffusers:{pipeline}", settings=settings)
    with pytest.raises(ValueError, match="model_index.json is missing"):
        load_generator(f"diffusers:{tmp_path}")
    index = json.loads((pipeline / "model_index.json").read_text())
    for kind, words in (("DDPMPipeline", "takes no prompt"), ("NextYearsPipeline", "does not have; install")):
        (tmp_path / "model_index.json").write_text(json.dumps(index | {"_class_name": kind}))
        with pytest.raises(ValueError, match=words):
            load_generator(f"diffusers:{tmp_path}")
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_generator(f"diffusers:{tmp_path}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="neither a folder nor to be had"):
        load_generator("diffusers:nobody/nothing")
    subject = load_generator(f"diffusers:{pipeline}", settings={"steps": 1})
    subject.pipeline.vae.decoder.conv_out.bias.data[:] = float("nan")
    with pytest.raises(ValueError, match="no numbers"):
        subject.generate(["a"], [0])


@pytest.mark.parametrize("kind", ["oracle", "pipeline"])
def test_a_live_model_and_the_folder_of_its_images_give_the_same_records(kind, pipeline, tmp_path):
    prompts = [p for p in suites.prompts("scenes-geneval") if p["tag"] in ("colors", "counting")][::8]
    live = fake.Oracle() if kind == "oracle" else load_generator(f"diffusers:{pipeline}", settings={"steps": 1})

    def score(subject, work) -> dict:
        shared = {"suite": "scenes-geneval", "prompts": prompts, "images_per_prompt": 2, "batch": 3}
        outcome = geneval.run(subject, AnalyticJudge(), work=work, records=work / "records", **shared)
        fields = ("value", "low", "high", "interval", "n", "n_expected", "n_failed", "judge", "suite_hash", "note")
        found = {r.metric: [getattr(r, f) for f in fields] for r in outcome.records}
        kept = {r.metric: samples.read(work / "records", r) for r in outcome.records}
        names = {(r.subject, r.fingerprint) for r in outcome.records}
        return {"records": found, "samples": kept, "names": names}

    one = score(live, tmp_path / "live")
    (made,) = [p for p in (tmp_path / "live" / "geneval" / live.name).iterdir() if not p.name.startswith(".")]
    other = score(folder(made), tmp_path / "folder")
    assert one["records"] == other["records"] and one["samples"] == other["samples"]
    assert one["names"].isdisjoint(other["names"]) and len(one["names"]) == 1


@pytest.mark.parametrize("entry", [["own", "Own"], ["transformers", "AutoTokenizer"]])
def test_code_in_a_pipelines_folder_is_refused(entry, tmp_path, monkeypatch):
    """A class in a Python file of the folder, by name or by transformers' auto_map."""
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'was here')!r})\n")
    auto = {"auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / "tokenizer/tokenizer_config.json").write_text(json.dumps(auto))
    index = {"_class_name": "StableDiffusionPipeline", "tokenizer": entry}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ValueError, match="component 'tokenizer' asks for code of the folder's own, which is never run"):
        load_generator(f"diffusers:{tmp_path}")
    assert not (tmp_path / "was here").exists()
    for broken in ("[]", "null", "[" * 20_000):
        (tmp_path / "model_index.json").write_text(broken)
        with pytest.raises(ValueError, match="is no diffusers pipeline: model_index.json is missing or broken"):
            load_generator(f"diffusers:{tmp_path}")


def test_our_models_in_another_precision(tmp_path):
    """--dtype reaches the weights of both networks, the name, the fingerprint and the settings in records."""
    fast = {"flow_steps": 2, "order": "raster", "schedule": "equal"}
    plain, same, half = (
        load_generator("vgt:mar_internvl", accel=16, settings={**fast, "dtype": dtype})
        for dtype in (None, "fp32", "bf16")
    )
    assert (same.name, same.fingerprint, same.settings) == (plain.name, plain.fingerprint, plain.settings)
    assert half.name == f"{plain.name}+bf16" and half.fingerprint != plain.fingerprint
    assert {**half.settings} == {**plain.settings, "dtype": "bf16"} and plain.settings["schedule"] == "equal"
    for part in (half.made.loaded, half.made.decoder):
        assert {p.dtype for p in part.model.parameters()} == {torch.bfloat16}
    prompts = suites.prompts("scenes-geneval")[:1]
    shared = {"work": tmp_path, "records": tmp_path / "r", "suite": "s", "prompts": prompts, "accel": 16}
    shared |= {"images_per_prompt": 1, "batch": 1, "check_judge": lambda judge: None}
    record = geneval.run(half, AnalyticJudge(), partial_ok=True, **shared).records[0]
    assert record.model == "mar_internvl+sde-2+equal+raster+bf16@16x" and record.extra["settings"]["dtype"] == "bf16"
    assert {"order", "schedule", "flow_steps", "guidance"} <= record.extra["settings"].keys()
    with pytest.raises(ValueError, match="dtype 'int8' is unknown; choose one of fp32, bf16, fp16"):
        load_generator("vgt:mar_internvl", settings={"dtype": "int8"})


def test_an_autoencoder_in_another_precision():
    plain, half = (load_tokenizer("vgt:vgt_ae_internvl", dtype=dtype) for dtype in ("fp32", "bf16"))
    assert plain.fingerprint == load_tokenizer("vgt:vgt_ae_internvl").fingerprint != half.fingerprint
    assert (plain.name, half.name, half.params) == ("vgt_ae_internvl", "vgt_ae_internvl+bf16", {"dtype": "bf16"})
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    a, b = plain.reconstruct(image).astype(int), half.reconstruct(image).astype(int)
    assert 0 < np.abs(a - b).mean() < 4
    assert half.encode(image).dtype == np.float32


def test_pca_is_fitted_in_the_size_that_is_asked_for(tmp_path):
    from evals.subjects.pca import pca

    small = pca(tmp_path, count=8, size=32)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    assert small.size == 32 and small.reconstruct(images).shape == images.shape
    assert small.fingerprint != pca(tmp_path, count=8, size=64).fingerprint
    with pytest.raises(ValueError, match="patches of 16 px; 40 is no multiple"):
        pca(tmp_path, size=40)
