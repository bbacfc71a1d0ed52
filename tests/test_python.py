"""The evaluators as functions: arrays and folders in, records out; models of one's own by name."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evals
from vgt.core import photos

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def stacks() -> tuple[np.ndarray, np.ndarray]:
    """(originals, reconstructions), uint8 [8, 64, 64, 3]."""
    originals = np.stack([photos.crop("test", i, 64).image for i in range(8)])
    return originals, (originals // 8) * 8 + 4


def test_the_example_of_the_page_runs(tmp_path):
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/python.md").read_text(encoding="utf-8"), re.M | re.S)
    (tmp_path / "example.py").write_text(code)
    environment = {"PYTHONPATH": str(Path(evals.__file__).resolve().parents[1]), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert re.match(r"3\d\.\d\d dB \[", found.stdout) and "kid-efflite2" in found.stdout and "overall" in found.stdout


def test_psnr_of_arrays_by_hand(stacks, tmp_path):
    originals, rebuilt = stacks
    (record,) = evals.reconstruction(originals, rebuilt, metrics=["psnr-mean"])
    errors = ((originals.astype(float) - rebuilt) ** 2).mean((1, 2, 3))
    assert record.value == pytest.approx((10 * np.log10(255**2 / errors)).mean()) and record.n == 8
    for name, images in zip("ab", stacks, strict=True):
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")
    (of_folders,) = evals.reconstruction(tmp_path / "a", tmp_path / "b", metrics=["psnr-mean"])
    assert of_folders.value == record.value and of_folders.low == record.low


def test_a_second_call_reuses_the_work_folder(tmp_path):
    asked = {"n": 6, "images_per_prompt": 1, "work": tmp_path}
    first = evals.geneval("fake:oracle", **asked)
    assert {r.metric: r.value for r in first}["overall"] == 1.0 and (tmp_path / "records").is_dir()
    assert [r.created for r in evals.geneval("fake:oracle", **asked)] == [r.created for r in first]


def test_packages_are_functions_and_packages():
    from evals.geneval import rules

    assert callable(evals.geneval) and inspect.ismodule(evals.geneval) and evals.geneval.rules is rules
    assert all(callable(getattr(evals, name)) for name in evals.__all__)
    with pytest.raises(AttributeError, match="no attribute 'genval'"):
        _ = evals.genval


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: evals.reconstruction(a, b[:3]), "8 originals and 3 reconstructions"),
        (lambda a, b: evals.reconstruction(a / 255.0, b / 255.0), r"images are float64 \[8, 64, 64, 3\]; give uint8"),
        (lambda a, b: evals.fidelity(a[0], b), r"images are uint8 \[64, 64, 3\]"),
        (lambda a, b: evals.fid(a, b, weights="nowhere.pth"), "there is no nowhere.pth"),
        (lambda a, b: evals.evaluate("genval"), "evaluator 'genval' is unknown; choose one of agreement"),
        (lambda a, b: evals.geneval("fake:oracle", prompts=3), "options of geneval: prompts: Extra inputs"),
        (lambda a, b: evals.reconstruction("here", "there"), "here"),
        (lambda a, b: evals.compare("nowhere", "there"), "nowhere"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(stacks, call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call(*stacks)
    assert "\n" not in str(caught.value)


class Model:
    """A generator of one's own."""

    name, fingerprint, size = "mine", "v1", None

    def generate(self, prompts, seeds):
        return np.zeros((len(prompts), 64, 64, 3), np.uint8)

    def reconstruct(self, images):
        return images


class Needy(Model):
    def __init__(self, weights):
        self.weights = weights


class Anonymous(Model):
    fingerprint = 7


needy = Needy("w")


def made() -> Model:
    return Model()


@pytest.mark.parametrize("name", ["Model", "made", "needy"])
def test_models_of_ones_own(name, tmp_path):
    records = evals.geneval(f"python:{__name__}:{name}", n=6, images_per_prompt=1)
    assert {r.subject for r in records} == {"mine"} and {r.metric: r.value for r in records}["overall"] == 0.0
    found = evals.evaluate("recon", subject=f"python:{__name__}:{name}", data="photos", n=4, metrics="psnr-mean")
    assert found[0].value == 100.0 and found[0].partial


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere_at_all:Model", "module 'nowhere_at_all' of subject .* cannot be imported"),
        (f"{__name__}:Gone", "has no object 'Gone'"),
        (f"{__name__}:Needy", "cannot be made without arguments"),
        (f"{__name__}:Anonymous", "has no text 'fingerprint'; give it one that changes with the weights"),
        (f"{__name__}:np", "has no text 'name'|has no text 'fingerprint'"),
        (__name__, "is not of the form python:MODULE:OBJECT"),
    ],
)
def test_other_objects_say_what_they_lack(place, message):
    with pytest.raises(ValueError, match=message):
        evals.geneval(f"python:{place}", n=6, images_per_prompt=1)
