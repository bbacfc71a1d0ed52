"""``vgt eval recon``: two folders, several protocols side by side, weights by option."""

import json

import numpy as np
import pytest
import torch
from parity.fidelity import random_inception
from PIL import Image

from evals.recon import run as reconstruction
from vgt.__main__ import main
from vgt.core import photos, record, samples


@pytest.fixture
def folders(tmp_path):
    for i in range(4):
        image = Image.fromarray(photos.crop("test", i, 64).image)
        for name, options in (("real", {"format": "PNG"}), ("made", {"format": "JPEG", "quality": 60})):
            (tmp_path / name).mkdir(exist_ok=True)
            image.save(tmp_path / name / f"{i}.{options['format'].lower()}", **options)
    return [str(tmp_path / "real"), str(tmp_path / "made")]


def call(capsys, tmp_path, *argv):
    status = main(["eval", "recon", "-o", str(tmp_path / "out"), "--device", "cpu", "--batch", "4", *argv])
    out, err = capsys.readouterr()
    lines = out.splitlines()
    return status, json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None, lines, err


def test_protocols_stand_side_by_side(capsys, tmp_path, folders):
    names = ["default", "vgt", "vfmtok", "lightningdit"]
    metrics = ["psnr-mean", "ssim-wang", "ssim-taming", "ssim-tm-signed"]
    status, result, lines, _ = call(
        capsys, tmp_path, "--pairs", *folders, "--protocol", ",".join(names), "--metrics", ",".join(metrics)
    )
    assert status == 0 and result["computed"] == 16 and not result["partial"]
    assert lines[0].split() == names
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:10]}
    stored = {(r.protocol_params["pipeline"], r.metric): r for r in record.read(tmp_path / "out" / "records")}
    for metric in metrics:
        for name, cell in zip(names, rows[metric], strict=True):
            assert float(cell.rstrip("*")) == pytest.approx(stored[name, metric].value, abs=1e-4)
    assert [cell.endswith("*") for cell in rows["ssim-taming"]] == [False, True, True, False]
    assert [cell.endswith("*") for cell in rows["ssim-tm-signed"]] == [False, False, False, True]
    assert rows["eval_res"] == ["64", "37", "49", "64"]
    assert len(samples.read(tmp_path / "out" / "records", stored["vgt", "psnr-mean"]).values) == 4


def test_parts_then_the_rest(capsys, tmp_path, folders):
    options = ["--pairs", *folders, "--metrics", "psnr-mean", "--batch", "1"]
    for part in ("1/2", "2/2"):
        status, result, lines, _ = call(capsys, tmp_path, *options, "--shards", part)
        assert (status, result["scores"], len(lines)) == (0, {}, 1)
    status, result, _, err = call(capsys, tmp_path, *options)
    assert result["scores"]["pairs-made/pairs/psnr-mean"]["n"] == 4 and "image" not in err


def test_what_lacks_weights_is_said_and_what_has_them_is_measured(capsys, tmp_path, folders, monkeypatch):
    monkeypatch.setenv("VGT_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    status, result, _, err = call(capsys, tmp_path, "--pairs", *folders)
    assert status == 0 and not any("rfid" in name or "lpips" in name for name in result["scores"])
    for metric, file in (("lpips-vgg-v0.1", "vgg16-397923af"), ("rfid-tf-compat", "inception-2015-12-05-6726825d")):
        (said,) = (line for line in err.splitlines() if file in line)  # once, not for every metric that needs it
        assert said.startswith("not measured: ") and f" {metric}" in said and "`curl -L -O https://" in said
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(random_inception().state_dict(), tmp_path / "inception.pth")
    ours = ["--metrics", "rfid-tf-compat", "--weights", f"tf-compat={tmp_path / 'inception.pth'}"]
    status, _, _, err = call(capsys, tmp_path, "--pairs", *folders, *ours)
    assert status == 2 and "sha256" in err and "--any-weights" in err
    status, result, _, _ = call(capsys, tmp_path, "--pairs", *folders, *ours, "--any-weights")
    (one,) = (r for r in record.read(tmp_path / "out" / "records") if r.metric == "rfid-tf-compat")
    assert status == 0 and one.value > 0 and "not verified" in one.protocol_params["weights_label"]
    status, _, _, _ = call(capsys, tmp_path, "--pairs", folders[0], folders[0], *ours, "--any-weights")
    same = next(r for r in record.read(tmp_path / "out" / "records") if r.subject == "pairs-real")
    assert same.value < 1e-6 * max(1.0, one.value)


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["-n", "2"], "-n 2"),
        (["--size", "32"], "--size 32"),
        (["--subject", "vgt:no_such_model"], "--subject vgt:no_such_model"),
        (["--data", "/no/such/folder"], "--data /no/such/folder"),
        (["--data", "scenes"], "--data scenes"),
        (["--seed", "7"], "--seed 7"),
        (["--metrics", "psnr-mean", "--weights", "lpips-alex=a.pth"], "--weights lpips-alex"),
        (["--metrics", "psnr-mean", "--any-weights"], "--any-weights"),
    ],
)
def test_options_that_would_do_nothing_are_refused(capsys, tmp_path, folders, argv, named):
    status, result, _, err = call(capsys, tmp_path, "--pairs", *folders, *argv)
    assert (status, result) == (2, None) and err.count("\n") == 1
    assert f"{named}" in err and "would do nothing" in err and "leave it out" in err
    assert not (tmp_path / "out").exists()


def test_more_images_than_there_are_make_the_record_partial(capsys, tmp_path, folders):
    options = ["--subject", "fake:identity", "--data", folders[0], "--metrics", "psnr-mean", "--size", "32"]
    scores = []
    for n in (["-n", "4"], ["-n", "9"], []):
        status, result, _, _ = call(capsys, tmp_path, *options, *n)
        (one,) = record.read(tmp_path / "out" / "records")
        scores.append((status, result["partial"], one.n, one.n_expected, result["computed"]))
    assert scores == [(0, False, 4, 4, 1), (0, True, 4, 9, 1), (0, False, 4, 4, 1)]


def test_a_folder_of_a_built_in_name_must_be_told_apart(capsys, tmp_path, folders, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").rename(tmp_path / "photos")
    options = ["--subject", "fake:identity", "--metrics", "psnr-mean", "--size", "32", "-n", "2"]
    status, _, _, err = call(capsys, tmp_path, *options, "--data", "photos")
    assert status == 2 and "built-in:photos or folder:photos" in err
    for data, suite in (
        ("folder:photos", "folder-photos"),
        ("./photos", "folder-photos"),
        ("built-in:photos", "photos"),
    ):
        status, result, _, _ = call(capsys, tmp_path, *options, "--data", data)
        assert status == 0 and list(result["scores"]) == [f"identity/{suite}/psnr-mean"]
    status, _, _, err = call(capsys, tmp_path, *options, "--data", "built-in:pictures")
    assert status == 2 and "built-in:scenes or built-in:photos" in err


def test_what_is_left_out_is_not_said_before_an_error(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("VGT_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for wrong in (["--subject", "vgt:none"], ["--subject", "fake:identity", "--data", "none"]):
        status, _, _, err = call(capsys, tmp_path, *wrong)
        assert status == 2 and "not measured" not in err and err.count("\n") == 1


def test_our_own_models_give_what_the_decoder_gives(tmp_path):
    """Unclamped, and from the floats that a protocol feeds; rounded they are the ordinary reconstruction."""
    from evals.subjects import load_tokenizer

    subject = load_tokenizer("vgt:pixel_ae")
    images = photos.images("test", range(2), 64)
    made = subject.reconstruct_float(images)
    assert made.dtype == np.float32 and (made.min() < 0 or made.max() > 1)
    np.testing.assert_array_equal(np.rint(made.clip(0, 1) * 255).astype(np.uint8), subject.reconstruct(images))
    np.testing.assert_allclose(subject.reconstruct_float(images.astype(np.float32) / 255), made, atol=1e-5)
    arguments = {"work": tmp_path, "records": tmp_path / "r", "data": "photos", "n": 2, "metrics": ["psnr-mean"]}
    for name, fed in (("vgt", "bfloat16"), ("llamagen", None), ("lightningdit", "float")):
        (one,) = reconstruction.run(subject, protocol=name, **arguments).records
        assert one.protocol_params["reconstruction"] == "float" and one.protocol_params.get("input") == fed


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--protocol", "default,titok"], "'titok' is unknown"),
        (["--weights", "lpips-alex"], "ID=PATH"),
        (["--weights", "vgg=x.pth"], "lpips-vgg"),
        (["--metrics", "psnr"], "'psnr' is unknown"),
        (["--metrics", ","], "',' names nothing"),
        (["--metrics", ""], "'' names nothing"),
        (["--protocol", ","], "',' names nothing"),
        (["--metrics", "lpips-alex-v0.1", "--weights", "lpips-alex=absent.pth"], "no file absent.pth"),
        (["--shards", "3/2"], "3/2"),
    ],
)
def test_bad_options_are_one_line_and_status_2(capsys, tmp_path, folders, argv, named):
    status, result, _, err = call(capsys, tmp_path, "--pairs", *folders, *argv)
    lines = [line for line in err.splitlines() if line.startswith("vgt")]
    assert status == 2 and result is None and len(lines) == 1 and named in lines[0]
    assert not (tmp_path / "out").exists()


def test_shards_of_images_are_data(capsys, tmp_path):
    import io
    import tarfile

    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for i in range(3):
            content = io.BytesIO()
            Image.fromarray(photos.crop("test", i, 80).image).save(content, "PNG")
            entry = tarfile.TarInfo(f"{i}.png")
            entry.size = content.tell()
            content.seek(0)
            archive.addfile(entry, content)
    options = ["--subject", "fake:identity", "--data", str(tmp_path / "set.tar"), "--metrics", "psnr-mean"]
    status, result, _, _ = call(capsys, tmp_path, *options, "--size", "32")
    one = record.read(tmp_path / "out" / "records")[0]
    assert status == 0 and one.name == "identity/folder-set/psnr-mean" and one.value == 100
    assert one.protocol_params["model_res"] == 32 and np.isfinite(one.value)


def test_pairs_of_which_none_fits_are_an_error(tmp_path, capsys):
    """As sheets beside their originals: 96 x 64 and 64 x 64."""
    for name, width in (("real", 64), ("sheets", 96)):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (width, 64)).save(tmp_path / name / f"{i}.png")
    words = ["eval", "recon", "--pairs", str(tmp_path / "real"), str(tmp_path / "sheets"), "-o", str(tmp_path / "w")]
    assert main([*words, "--metrics", "psnr-mean"]) == 2
    told = capsys.readouterr().err
    assert "nothing could be measured" in told and "96" in told


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "much"])
def test_a_limit_of_memory_is_above_zero(capsys, given):
    with pytest.raises(SystemExit) as stop:
        main(["eval", "recon", "--subject", "x", f"--memory={given}"])
    assert stop.value.code == 2 and f"'{given}' is no number above 0" in capsys.readouterr().err
