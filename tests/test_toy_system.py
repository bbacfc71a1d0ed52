"""A system from outside the project in five files (ADDING_A_SYSTEM.md): trained, sampled, evaluated, timed,
reported."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import call

from vgt.core import record, text
from vgt.inference.generator import open_generator
from vgt.inference.load import load
from vgt.methods import registry

HERE = Path(__file__).parent / "toy_system"


def forget() -> None:
    """The next reading of the registry imports the plugin again, whichever test did before."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy_system"]:
        del sys.modules[name]
    registry._load.cache_clear()


@pytest.fixture(scope="module", autouse=True)
def plugin():
    """VGT_SYSTEMS=toy_system for this file alone."""
    forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_SYSTEMS", dict(registry._SYSTEMS))
        patch.setenv(registry.PLUGINS, "toy_system")
        yield
    forget()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder in which both have been trained by `vgt train`."""
    place = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        from vgt.__main__ import dispatch

        for name in ("toy_codebook", "toy_prior"):
            assert dispatch(["train", str(HERE / f"{name}.toml"), "--device", "cpu"])["step"] == 20
    return place


@pytest.fixture(autouse=True)
def there(work, monkeypatch):
    monkeypatch.chdir(work)


def test_it_takes_few_files():
    assert len([path for path in HERE.iterdir() if path.is_file()]) <= 6


def test_checkpoints_are_read_by_their_system(tmp_path):
    runs = Path("runs")
    found = load("toy_prior", runs)
    assert found.system == "toy_prior" and found.tokenizer is None and found.model.config.classes[0] == "circle"
    assert found.model.config.autoencoder == load("toy_codebook", runs).fingerprint
    assert "# toy_prior\n\nA toy_prior checkpoint of 2,048 parameters" in (found.folder / "README.md").read_text()
    found.model.save_pretrained(tmp_path / "copy")
    card = (tmp_path / "copy/README.md").read_text()
    assert "from toy_system.prior import Prior\n" in card and "Prior.from_pretrained" in card


def test_generate_by_class(capsys):
    status, result, out, _ = call(capsys, "generate", "star", "--model", "toy_prior", "-n", "3", "-o", "a.png")
    assert status == 0 and result == {"files": ["a.png"]} and "toy_prior" in out
    with Image.open("a.png") as sheet:
        assert sheet.size == (3 * 32 + 4, 32)
    status, _, _, err = call(capsys, "generate", "dog", "--model", "toy_prior")
    assert status == 2 and "class 'dog' is unknown; choose one of circle" in err
    status, _, _, err = call(capsys, "generate", "star", "--model", "toy_prior", "--guidance", "2")
    assert status == 2 and "guidance" in err


def test_an_image_depends_on_its_label_and_seed_alone():
    made = open_generator("toy_prior", {"temperature": 0.5}, Path("runs"))
    together = made.generate([3, 4, 3], [1, 2, 3])
    assert np.array_equal(made.generate([4], [2])[0], together[1])
    assert not np.array_equal(together[0], together[2])


def scores(capsys, *argv) -> dict:
    status, result, out, err = call(capsys, *argv)
    assert status == 0, err
    return result


def test_eval_reconstruction(capsys):
    found = scores(capsys, "eval", "recon", "--subject", "vgt:toy_codebook", "--data", "scenes", "-n", "8")
    assert found["computed"] > 0 and any("psnr" in name for name in found["scores"])


def test_eval_fidelity_of_classes(capsys):
    argv = ["eval", "fidelity", "--subject", "vgt:toy_prior", "--real", "scenes"]
    argv += ["--metrics", "kid,prdc", "--batch", "8", "-n", "16"]
    found = scores(capsys, *argv)
    assert found["computed"] > 0 and any("kid" in name for name in found["scores"])
    assert found["partial"], "16 images must not pass for the 50,000 of the protocol"
    assert scores(capsys, *argv)["computed"] == 0


def test_a_setting_is_swept_with_the_same_labels_and_seeds(capsys):
    argv = ["eval", "fidelity", "--subject", "vgt:toy_prior", "--real", "scenes", "--labels", "uniform", "-o", "swept"]
    argv += ["--metrics", "adm", "--allow-few", "--batch", "9", "-n", "9", "--sweep", "temperature=0.5,2"]
    status, found, out, err = call(capsys, *argv)
    assert status == 0 and found["computed"] == 6, err
    assert "temperature" in out and "not measured: sfid" in err and "[" in out
    rows = list(text.csv_rows(Path("swept/sweeps/toy_prior-temperature.csv")))
    assert [(r["temperature"], r["metric"]) for r in rows] == [
        (t, f"{m}-efflite2") for t in ("0.5", "2") for m in ("fd", "precision", "recall")
    ]
    assert rows[0]["value"] != rows[3]["value"] and rows[0]["subject"] != rows[3]["subject"]
    assert {r.extra["settings"]["temperature"] for r in record.read(Path("swept/records"))} == {0.5, 2.0}
    labels = {p.read_text() for p in Path("swept/classes").glob("toy_prior*/*/00003/metadata.jsonl")}
    assert len(labels) == 1, "both have the same labels"
    assert scores(capsys, *argv)["computed"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sweep", "temperature=1"], "two or more different values"),
        (["--sweep", "temperature=1,1.0"], "two or more different values"),
        (["--sweep", "guidance=1,2"], "guidance"),
        (["--sweep", "temperature=1,2", "--temperature", "3"], "contradict"),
        (["--sweep", "temperature=1,2", "--export", "a.npz"], "--export"),
        (["--labels", "balanced", "-n", "9"], "9 images do not divide among 8 classes"),
        (["--metrics", "sfid"], "sfid is defined on the Inception network"),
        (["--real", "none.npz"], "none.npz cannot be read as npz"),
    ],
)
def test_what_cannot_be_swept_or_shared_is_refused(capsys, options, message):
    argv = ["eval", "fidelity", "--subject", "vgt:toy_prior", "--real", "scenes", "-n", "8", "-o", "refused"]
    status, _, _, err = call(capsys, *argv, *options)
    assert status == 2 and message in err and not Path("refused/classes").exists()


def test_class_accuracy_by_shape(capsys):
    found = scores(capsys, "eval", "classes", "--subject", "vgt:toy_prior", "-n", "8", "--batch", "8", "-o", "judged")
    assert list(found["scores"]) == ["toy_prior/classes-8/accuracy"] and found["partial"]


def test_a_part_of_a_run_makes_its_images_alone(capsys):
    argv = ["eval", "fidelity", "--subject", "vgt:toy_prior", "--real", "scenes", "--batch", "8", "-o", "parts"]
    part = scores(capsys, *argv, "-n", "16", "--shards", "1/2")
    assert not part["scores"] and len(list(Path("parts").rglob("samples/*.png"))) == 8


def test_a_suite_of_prompts_is_refused(capsys):
    status, _, _, err = call(capsys, "eval", "geneval", "--subject", "vgt:toy_prior", "-n", "6")
    assert status == 2 and "labels" in err


def test_bench_and_report(capsys):
    found = scores(capsys, "bench", "toy_prior", "toy_codebook", "--accel", "1", "--smoke")
    assert {row["model"].partition("@")[0] for row in found["rows"]} == {"toy_prior", "toy_codebook"}
    report = scores(capsys, "report", "--work", "runs/tiny")
    assert "toy_prior" in Path(report["report"]).read_text(encoding="utf-8")


def test_it_is_planned_for_by_its_own_job():
    from vgt.training.job import read
    from vgt.training.plan import plan, render

    made = plan(read(str(HERE / "toy_codebook.toml"), []), Path("no-runs"), device="cpu", throughput=1.0)
    model = load("toy_codebook", Path("runs")).model
    assert made.parameters["model"] == made.parameters["total"] == sum(p.numel() for p in model.parameters())
    assert made.problems == [] and "toy_codebook on 1 x cpu" in render(made)
