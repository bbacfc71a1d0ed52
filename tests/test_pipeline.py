"""VGTPipeline: diffusers' manners over the same generation as everywhere, on small random models."""

from __future__ import annotations

import copy
import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from conftest import CAPTIONS

from vgt.checkpoints import checkpoint
from vgt.inference import generator as reference
from vgt.inference.load import load, paired_autoencoder
from vgt.inference.pipeline import VGTPipeline
from vgt.methods.sampling import Sampling
from vgt.vlm.prompts import conditional

FAST = {"num_flow_steps": 3, "acceleration": 4, "guidance_scale": 2.0}
SETTINGS = Sampling(flow_steps=3, acceleration=4, guidance=2.0)


@pytest.fixture(scope="module")
def pipes(vlms, visual_lms, pixel_autoencoder) -> dict:
    """(family, method) -> a pipeline of small random models."""
    made = {}
    for family, vlm in vlms.items():
        for method in ("query_ar", "mar"):
            model = copy.deepcopy(visual_lms[family])
            model.config = model.config.model_copy(update={"method": method})
            made[family, method] = VGTPipeline(model, pixel_autoencoder, vlm.tokenizer, method, "pixels")
            made[family, method].set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def pipe(pipes) -> VGTPipeline:
    """One of them, to be changed at will."""
    one = pipes["internvl", "query_ar"]
    mine = VGTPipeline(copy.deepcopy(one.generator), copy.deepcopy(one.autoencoder), one.tokenizer, "small", "pixels")
    mine.set_progress_bar_config(disable=True)
    return mine


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


# ------------------------------------------------------------------------------------------ images


@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])
@pytest.mark.parametrize("method", ["query_ar", "mar"])
def test_the_same_images_as_generate(pipes, family, method):
    pipe = pipes[family, method]
    out = pipe(list(CAPTIONS), generator=[7, 8, 9], **FAST)
    wanted = reference.generate(pipe.generator, pipe.autoencoder, pipe.tokenizer, CAPTIONS, [7, 8, 9], SETTINGS)
    assert np.array_equal(pixels(out.images), wanted) and out.seeds == [7, 8, 9] and not out.interrupted
    assert len(np.unique(wanted.reshape(3, -1), axis=0)) == 3


def test_bundled_model_by_name():
    pipe = VGTPipeline.from_pretrained("query_ar_internvl")
    pipe.set_progress_bar_config(disable=True)
    out = pipe("a photo of a red star", generator=[3], num_flow_steps=2, acceleration=16)
    found = load("query_ar_internvl")
    decoder = paired_autoencoder(found, None)
    settings = Sampling(flow_steps=2, acceleration=16)
    wanted = reference.generate(found.model, decoder.model, found.tokenizer, ["a photo of a red star"], [3], settings)
    assert np.array_equal(pixels(out.images), wanted)
    assert (pipe.name, pipe.autoencoder_name) == (found.name, decoder.name)


def test_a_image_depends_on_its_own_seed_only(pipes):
    pipe = pipes["internvl", "query_ar"]
    settings = {**FAST, "output_type": "latent"}
    whole = pipe(list(CAPTIONS), num_images_per_prompt=2, generator=list(range(6)), **settings)
    alone = pipe(CAPTIONS[1], generator=[3], **settings).images
    assert torch.allclose(whole.images[3:4], alone, atol=1e-4)
    for size in (1, 4, 100):
        parts = pipe(list(CAPTIONS), num_images_per_prompt=2, generator=list(range(6)), batch_size=size, **settings)
        assert torch.allclose(parts.images, whole.images, atol=1e-4)
    other = pipe(CAPTIONS[1], generator=[4], **settings).images
    assert not torch.allclose(other, alone, atol=0.1)


def test_returned_seeds_repeat_the_images(pipes):
    pipe = pipes["internvl", "query_ar"]
    for generator in (None, 5, torch.Generator().manual_seed(1)):
        out = pipe(CAPTIONS[0], num_images_per_prompt=2, generator=generator, **FAST)
        assert len(set(out.seeds)) == 2
        again = pipe(CAPTIONS[0], num_images_per_prompt=2, generator=out.seeds, **FAST)
        assert np.array_equal(pixels(out.images), pixels(again.images))


def test_settings_reach_the_sampler(pipes):
    """Each argument that changes images changes them as Sampling does."""
    pipe, call = pipes["internvl", "mar"], {**FAST, "generator": [1], "output_type": "latent"}
    base = pipe(CAPTIONS[0], **call).images
    for ours, theirs in (
        ({"sampler": "ode"}, {"sampler": "ode"}), ({"time_schedule": "shift:2"}, {"time_schedule": "shift:2"}),
        ({"cfg_schedule": "constant"}, {"cfg_schedule": "constant"}),
        ({"order": "raster"}, {"order": "raster"}), ({"schedule": "equal"}, {"schedule": "equal"}),
        ({"order": "spread"}, {"order": "spread"}),
        ({"guidance_scale": 1.0}, {"guidance": 1.0}), ({"num_flow_steps": 4}, {"flow_steps": 4}),
        ({"acceleration": 8}, {"acceleration": 8}),
    ):  # fmt: skip
        changed = pipe(CAPTIONS[0], **{**call, **ours}).images
        settings = SETTINGS.model_copy(update=theirs)
        wanted = reference.latents(pipe.generator, pipe.tokenizer, CAPTIONS[:1], [1], settings)
        assert torch.equal(changed, wanted) and not torch.allclose(changed, base), ours


@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl"])
def test_as_the_published_code_decodes(pipes, family):
    pipe, settings = pipes[family, "query_ar"], SETTINGS.model_copy(update={"compat": "reference"})
    found = pipe(list(CAPTIONS), generator=[7, 8, 9], compat="reference", **FAST).images
    wanted = reference.generate(pipe.generator, pipe.autoencoder, pipe.tokenizer, CAPTIONS, [7, 8, 9], settings)
    assert np.array_equal(pixels(found), wanted)
    assert not np.array_equal(wanted, pixels(pipe(list(CAPTIONS), generator=[7, 8, 9], **FAST).images))
    with pytest.raises(ValueError, match="compat 'reference' is about the published QueryAR models; mar has no such"):
        pipes[family, "mar"](CAPTIONS[0], compat="reference", **FAST)
    with pytest.raises(ValueError, match="arguments of the pipeline: .*position_mode 'cumulative' is for compat"):
        pipe(CAPTIONS[0], position_mode="cumulative", **FAST)


def test_kinds_of_output(pipes):
    pipe = pipes["internvl", "query_ar"]
    kinds = {kind: pipe(list(CAPTIONS), generator=1, output_type=kind, **FAST).images for kind in
             ("pil", "np", "pt", "latent")}  # fmt: skip
    assert [image.size for image in kinds["pil"]] == [(32, 32)] * 3
    assert kinds["np"].shape == (3, 32, 32, 3) and kinds["np"].dtype == np.float32
    assert 0 <= kinds["np"].min() < kinds["np"].max() <= 1
    assert np.array_equal(pixels(kinds["pil"]), np.rint(255 * kinds["np"]))
    assert np.array_equal(kinds["pt"].permute(0, 2, 3, 1).numpy(), kinds["np"])
    assert kinds["latent"].shape == (3, 8, 4, 4) and kinds["latent"].dtype == torch.float32
    made = pipe.autoencoder.decode(kinds["latent"]).clamp(-1, 1)
    assert torch.allclose((made + 1) / 2, kinds["pt"])


# ----------------------------------------------------------------------------------------- callbacks


@pytest.mark.parametrize("method", ["query_ar", "mar"])
def test_callbacks_see_every_step(pipes, method):
    pipe, seen = pipes["internvl", method], []

    def on_step(caller, step, done, values):
        assert caller is pipe and values.keys() == {"latents"}
        seen.append((step, done, values["latents"]))
        return {"latents": values["latents"] * 0}  # not used

    out = pipe(list(CAPTIONS), generator=1, batch_size=2, output_type="latent", callback_on_step_end=on_step, **FAST)
    steps = len(seen) // 2
    assert [step for step, *_ in seen] == [*range(steps), *range(steps)] and steps in (3, 4)
    assert seen[steps - 1][1] == seen[-1][1] == 16 and [len(z) for *_, z in seen] == [2] * steps + [1] * steps
    for last, wanted in ((seen[steps - 1][2], out.images[:2]), (seen[-1][2], out.images[2:])):
        assert torch.equal(last, wanted.flatten(2).mT)
    known = (seen[0][2] - pipe.generator.latent_mean).abs().sum(-1) > 1e-6  # undecoded tokens are at the mean
    assert known.sum(1).tolist() == [seen[0][1]] * 2


def test_a_callback_may_stop(pipes):
    pipe = pipes["internvl", "query_ar"]

    def on_step(caller, step, done, values):
        calls.append(values["latents"])
        caller._interrupt = len(calls) == 6  # the second step of the second batch

    calls = []
    out = pipe(list(CAPTIONS), generator=1, batch_size=1, output_type="latent", callback_on_step_end=on_step, **FAST)
    assert out.interrupted and len(calls) == 6 and len(out.images) == len(out.seeds) == 2
    assert torch.equal(out.images[1:].flatten(2).mT, calls[-1])
    calls = []
    assert len(pipe(list(CAPTIONS), generator=1, callback_on_step_end=on_step, **FAST).images) == 3  # one batch
    calls = list(range(50))
    assert not pipe(CAPTIONS[0], callback_on_step_end=on_step, **FAST).interrupted

    def raising(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipe(CAPTIONS[0], callback_on_step_end=raising, **FAST)


def test_the_progress_bar(pipe, capsys):
    pipe(CAPTIONS[0], **FAST)
    assert capsys.readouterr() == ("", "")
    pipe.set_progress_bar_config()
    pipe([CAPTIONS[0]] * 3, batch_size=2, **FAST)
    shown = capsys.readouterr()
    assert shown.out == "" and "32/32" in shown.err


# ---------------------------------------------------------------------------------------- complaints


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"prompt": ""}, "prompt 0 is empty; describe the image"),
        ({"prompt": []}, "no prompt; give a text or a list of texts"),
        ({"prompt": "a star " * 300}, r"prompt of \d+ tokens is longer than the 256 .* truncate=True"),
        ({"output_type": "tiff"}, "output_type 'tiff' is unknown; choose one of pil, np, pt, latent"),
        ({"generator": [1, 2, 3]}, "3 generators for 2 images"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt 0 must be 1 or more"),
        ({"batch_size": 0}, "batch_size 0 must be 1 or more, or None"),
        ({"acceleration": 17}, "acceleration 17 is impossible with 16 image tokens; choose 1 .. 16"),
        ({"sampler": "euler"}, "arguments of the pipeline: sampler: .*'sde', 'sde2', 'ode', 'heun', 'ab2' or 'dpmpp'"),
        ({"num_flow_steps": 1}, "flow steps 1 is too few; use at least 2"),
        ({"sampler": "heun", "num_flow_steps": 8}, "flow steps 8 does not suit heun.* use an odd number"),
        ({"time_schedule": "cubic"}, "time schedule 'cubic' is unknown; choose one of linear, power:NUMBER"),
    ],
)
def test_bad_arguments(pipes, call, message):
    with pytest.raises(ValueError, match=message) as error:
        pipes["internvl", "query_ar"](**{"prompt": "a star", "num_images_per_prompt": 2, **FAST, **call})
    assert "\n" not in str(error.value)


def test_truncation(pipes):
    pipe, long = pipes["internvl", "query_ar"], "a red star left of " * 40
    call = {**FAST, "output_type": "latent", "generator": [1]}
    cut = pipe(long, truncate=True, max_prompt_tokens=20, **call).images
    words = " ".join(long.split()[:8])
    assert len(pipe.tokenizer(conditional(words))["input_ids"]) == 20
    assert torch.equal(cut, pipe(words, **call).images)


def test_unknown_words_are_warned_of(pipes):
    pipe = pipes["internvl", "query_ar"]
    with pytest.warns(UserWarning, match="query_ar does not know zebra and reads them as blanks"):
        pipe("a photo of a zebra", **FAST)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipe(CAPTIONS[0], **FAST)


def test_an_autoencoder_that_does_not_fit(pipe):
    pipe.autoencoder.config = pipe.autoencoder.config.model_copy(update={"d_z": 5})
    with pytest.raises(ValueError, match="a generator of 8 latent channels does not fit an autoencoder of 5"):
        VGTPipeline(pipe.generator, pipe.autoencoder, pipe.tokenizer)


# ----------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("method", ["query_ar", "mar"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_precision(pipes, method, dtype):
    """Half-precision networks, fp32 latents: near the fp32 images, and not equal to them."""
    wide = pipes["internvl", method]
    model, ae = copy.deepcopy(wide.generator), copy.deepcopy(wide.autoencoder)
    narrow = VGTPipeline(model, ae, wide.tokenizer).to(dtype)
    narrow.set_progress_bar_config(disable=True)
    assert narrow.dtype == dtype and narrow.generator.latent_std.dtype == torch.float32
    call = {**FAST, "generator": [1, 2, 3], "guidance_scale": 1.0, "sampler": "ode"}
    seen = []
    watch = {"callback_on_step_end": lambda *a: seen.append(a[-1]["latents"].dtype)}
    found = narrow(list(CAPTIONS), output_type="latent", **watch, **call).images
    exact = wide(list(CAPTIONS), output_type="latent", **call).images
    assert set(seen) == {torch.float32} and found.dtype == torch.float32
    assert 0 < (found - exact).square().mean().sqrt() < 0.3 * exact.std()
    assert pixels(narrow(list(CAPTIONS), **call).images).shape == (3, 32, 32, 3)


def test_overflow_is_an_error(pipe):
    pipe.to(torch.float16)
    with torch.no_grad():
        pipe.generator.image_out_projector.weight.mul_(1e4)
    with pytest.raises(ValueError, match=r"latents after step 0 \(4 of 16 tokens\) are not finite in float16; use"):
        pipe(CAPTIONS[0], **FAST)


def test_broken_numbers_are_an_error(pipe):
    with torch.no_grad():
        next(pipe.autoencoder.decoder.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="pixels of the autoencoder are not finite in float32; the weights or the"):
        pipe(CAPTIONS[0], **FAST)
    with torch.no_grad():
        pipe.generator.max_metaquery.fill_(float("inf"))
    with pytest.raises(ValueError, match="latents after step 0 .* are not finite in float32; the weights or the"):
        pipe(CAPTIONS[0], **FAST)


# --------------------------------------------------------------------------------------------- files


def test_folder_round_trip(pipe, tmp_path):
    folder = pipe.save_pretrained(tmp_path / "p", max_shard_size=20_000)
    index = json.loads((folder / "model_index.json").read_text())
    assert index == {"_class_name": "VGTPipeline", "generator": ["vgt", "VisualLM"], "autoencoder": ["vgt", "VGTAE"]}
    assert all((folder / "generator" / name).exists() for name in ("model.safetensors.index.json", "tokenizer.json"))
    header = checkpoint.read_header(folder / "generator")
    assert header["name"] == "small" and header["config"]["autoencoder_name"] == "pixels"
    assert header["config"]["autoencoder"] == checkpoint.fingerprint(folder / "autoencoder")
    assert "VGTPipeline.from_pretrained" in (folder / "README.md").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["p"]
    back = VGTPipeline.from_pretrained(folder)
    back.set_progress_bar_config(disable=True)
    one, other = (p(list(CAPTIONS), generator=1, **FAST) for p in (pipe, back))
    assert np.array_equal(pixels(one.images), pixels(other.images)) and one.seeds == other.seeds
    assert (back.name, back.autoencoder_name) == ("small", "pixels")
    assert back.components.keys() == {"generator", "autoencoder", "tokenizer"} and back.device.type == "cpu"


def test_precision_survives_the_disk(pipe, tmp_path):
    pipe.to(dtype=torch.bfloat16).save_pretrained(tmp_path / "p")
    assert checkpoint.read_state(tmp_path / "p/autoencoder", None)["down_mlp.1.weight"].dtype == torch.bfloat16
    call = {**FAST, "generator": 1, "output_type": "latent"}
    wanted = pipe(CAPTIONS[0], **call).images
    for name in ("dtype", "torch_dtype"):
        back = VGTPipeline.from_pretrained(tmp_path / "p", **{name: torch.bfloat16})
        back.set_progress_bar_config(disable=True)
        assert back.dtype == torch.bfloat16 and torch.equal(back(CAPTIONS[0], **call).images, wanted)


def test_other_ways_in(pipe, tmp_path, monkeypatch):
    """The generator's own folder finds the autoencoder beside it; a run by its name; a hub id."""
    import huggingface_hub

    folder = pipe.save_pretrained(tmp_path / "p")
    call = {**FAST, "generator": 1, "output_type": "latent"}
    wanted = pipe(CAPTIONS[0], **call).images
    for part in ("generator", "autoencoder"):
        shutil.copytree(folder / part, tmp_path / f"runs/{'pixels' if part == 'autoencoder' else part}/model")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: folder)
    for path, runs, ae in (
        (folder / "generator", None, None), ("generator", tmp_path / "runs", None), ("someone/small", None, None),
        (tmp_path / "runs/generator", None, str(folder / "autoencoder")),
    ):  # fmt: skip
        found = VGTPipeline.from_pretrained(path, runs=runs, autoencoder=ae)
        found.set_progress_bar_config(disable=True)
        assert torch.equal(found(CAPTIONS[0], **call).images, wanted), path


def test_faulty_folders(pipe, tmp_path):
    folder = pipe.save_pretrained(tmp_path / "p")
    with torch.no_grad():
        pipe.autoencoder.batch_mean += 1
    other = pipe.save_pretrained(tmp_path / "other")
    mixed = shutil.copytree(folder, tmp_path / "mixed")
    shutil.rmtree(mixed / "autoencoder")
    with pytest.raises(ValueError, match="no checkpoint '.*mixed/autoencoder'"):
        VGTPipeline.from_pretrained(mixed)
    shutil.copytree(other / "autoencoder", mixed / "autoencoder")
    with pytest.raises(ValueError, match="small was trained on autoencoder pixels"):
        VGTPipeline.from_pretrained(mixed)
    with pytest.raises(ValueError, match="vgt_ae checkpoint; give a query_ar or mar one"):
        VGTPipeline.from_pretrained(folder / "autoencoder")
    with pytest.raises(ValueError, match="no checkpoint 'nobody'"):
        VGTPipeline.from_pretrained("nobody")
    for text, message in (
        ("{", "no list of a pipeline's components"), ("[]", "no list of a pipeline's components"),
        ('{"_class_name": "FluxPipeline"}', "holds a FluxPipeline, not a VGTPipeline; load it with diffusers"),
    ):  # fmt: skip
        (folder / "model_index.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            VGTPipeline.from_pretrained(folder)


def test_a_full_disk_leaves_the_old_pipeline(pipe, tmp_path, monkeypatch):
    from vgt.checkpoints import shards

    folder = pipe.save_pretrained(tmp_path / "p")
    old = checkpoint.fingerprint(folder / "generator")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "save_file", full)
    with pytest.raises(
        ValueError, match=r"tmp\S*/p cannot be written .*No space left .* unchanged|/p cannot be written"
    ):
        pipe.save_pretrained(folder)
    assert checkpoint.fingerprint(folder / "generator") == old and [p.name for p in tmp_path.iterdir()] == ["p"]


def test_evaluators_drive_it_as_a_diffusers_pipeline(pipe, tmp_path):
    from evals.subjects import diffusers

    folder = pipe.save_pretrained(tmp_path / "p")
    settings = {"guidance": 2.0, "acceleration": 4, "num_flow_steps": 3}
    subject = diffusers.generator(str(folder), settings=settings)
    rngs = [torch.Generator().manual_seed(seed) for seed in (4, 5)]
    wanted = pipe(list(CAPTIONS[:2]), generator=rngs, **FAST).images
    assert np.array_equal(subject.generate(CAPTIONS[:2], [4, 5]), pixels(wanted))
    with pytest.raises(ValueError, match="no setting 'steps'; it has acceleration, attention, batch_size"):
        diffusers.generator(str(folder), settings={"steps": 3})


# -------------------------------------------------------------------------------------------- places


def test_device_maps(pipe, tmp_path):
    folder = pipe.save_pretrained(tmp_path / "p")
    found = VGTPipeline.from_pretrained(folder, device_map={"generator": "cpu", "autoencoder": torch.device("cpu")})
    assert found.device.type == "cpu" and found.to("cpu") is found
    VGTPipeline.from_pretrained(folder, device_map="auto")
    for wrong, message in (
        ({"generator": "cpu"}, "names 'generator'; it needs a device for each of 'generator', 'autoencoder'"),
        ({}, "device_map names nothing"),
        ({"generator": "cpu", "autoencoder": "cpu", "vae": "cpu"}, "'vae'"),
        ("abacus", "device 'abacus' is unknown"),
        ({"generator": "cpu", "autoencoder": "cuda:64"}, "device 'cuda:64' is not there"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            VGTPipeline.from_pretrained(folder, device_map=wrong)
    with pytest.raises(ValueError, match="dtype torch.int8 is not for models"):
        pipe.to(torch.int8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")])
def test_components_on_different_devices(pipe, tmp_path, devices):
    folder = pipe.save_pretrained(tmp_path / "p")
    call = {**FAST, "generator": [1], "output_type": "pt"}
    wanted = pipe(CAPTIONS[0], **call).images
    found = VGTPipeline.from_pretrained(
        folder, device_map=dict(zip(("generator", "autoencoder"), devices, strict=True))
    )
    found.set_progress_bar_config(disable=True)
    images = found(CAPTIONS[0], **call).images
    assert found.device.type == devices[0] and images.device.type == devices[1]
    assert torch.allclose(images.cpu(), wanted, atol=1e-2)
