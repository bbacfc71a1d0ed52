"""Fake subjects, folders of images, and subjects by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from evals.api import Generator, Tokenizer
from evals.judges import canary
from evals.judges.analytic import AnalyticJudge
from evals.subjects import fake, load_generator, load_tokenizer
from evals.subjects.folder import Folder, folder, read_image
from vgt.core import suites

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
    samples = found.samples(prompts, 2)
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
    assert load_generator("fake:oracle", size=32).size == 32
    assert load_generator("fake:noise").name == "noise"
    assert load_generator("fake:shuffled", prompts=PROMPTS).name == "shuffled"
    assert load_tokenizer("fake:identity").name == "identity"
    for spec in ("fake:dream", "oracle", "vgt:", "", "http://x"):
        with pytest.raises(ValueError, match="give vgt:<checkpoint>"):
            load_generator(spec)
    with pytest.raises(ValueError, match="not an autoencoder"):
        load_tokenizer("fake:oracle")
