"""The front door: every verb on the bundled models, its closing JSON line, and its refusals."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evals.subjects import folder as image_folder
from vgt.__main__ import VERBS, main
from vgt.core import suites, weights
from vgt.inference import load
from vgt.inference.load import bundled, zoo

GENERATOR, AUTOENCODER = "query_ar_internvl", "vgt_ae_internvl"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(capsys, *argv):
    """Exit status, the closing JSON line, the text before it, stderr."""
    status = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    lines = out.splitlines()
    result = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None
    return status, result, "\n".join(lines[:-1]), err


def image(path):
    with Image.open(path) as opened:
        return np.asarray(opened)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"vgt {verb}" in capsys.readouterr().out.split("example:")[1]


def test_usage_names_every_verb(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)


def test_the_front_door_needs_no_torch():
    code = "import sys, vgt.__main__ as m; m.main(['list', 'suites']); m.main([]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["dance"], "dance"),
        (["train", "no_such_preset"], "no_such_preset"),
        (["train", "pixel_ae", "--set", "train.stepz=3"], "stepz"),
        (["train", "pixel_ae", "--set", "steps"], "'='"),
        (["generate", "a photo of a star", "--model", "nowhere"], "nowhere"),
        (["generate", "a photo of a star", "--accel", "65"], "65"),
        (["generate", "a photo of a star", "-o", "star.txt"], "star.txt"),
        (["generate", "a photo of a star", "--model", AUTOENCODER], "vgt_ae"),
        (["generate", "a photo of a star", "--autoencoder", "pixel_ae"], "trained on autoencoder"),
        (["generate", "a photo of a star", "--device", "abacus"], "abacus"),
        (["reconstruct", "absent.png"], "absent.png"),
        (["eval", "recon", "--subject", f"vgt:{AUTOENCODER}", "--data", "no_folder"], "no_folder"),
        (["eval", "recon", "--pairs", "a_dir", "b_dir"], "a_dir"),
        (["eval", "geneval"], "--subject"),
        (["eval", "geneval", "--subject", "folder:no_dir"], "no_dir"),
        (["eval", "geneval", "--subject", "magic:wand"], "magic"),
        (["eval", "geneval", "--subject", "fake:oracle", "--suite", "nothing"], "nothing"),
        (["prompts", "poems"], "poems"),
        (["prompts", "scenes-geneval", "--count", "3"], "--count 3 would do nothing: it is for scenes-dpg"),
        (["prompts", "geneval", "--per-task", "20"], "--per-task 20 would do nothing: it is for scenes-geneval"),
        (["prompts", "geneval", "--seed", "7"], "--seed 7 would give other prompts than the benchmark's"),
        (["generate", "a star", "--layout", "geneval"], "--layout geneval is of a folder"),
        (["generate", "a photo \udce9"], "UTF-8"),
        (["generate", "a photo of a star", "--device", "meta"], "meta"),
        (["train", "pixel_ae", "--set", "train.steps=-5"], "train.steps"),
        (["train", "pixel_ae", "--set", "train.lr=NaN"], "train.lr"),
        (["train", "pixel_ae", "--set", "data.photos=2"], "data.photos"),
        (["train", "pixel_ae", "--set", "losses.distill=-1"], "distill"),
        (["train", "pixel_ae", "--processes", "8"], "--processes"),
        (["train", "pixel_ae", "--throughput", "400"], "--throughput"),
        (["train", "pixel_ae", "--plan", "--processes", "0"], "--processes 0"),
        (["train", "pixel_ae", "--plan", "--throughput", "-1"], "--throughput -1"),
        (["train", "pixel_ae", "--plan", "--fresh", "--out", "x"], "--out, --fresh"),
        (["report", "--records", "no_records"], "no_records"),
        (["bench", "nothing_here"], "nothing_here"),
    ],
)
def test_bad_input_is_one_line_and_status_2(argv, named, capsys):
    status, result, _, err = call(capsys, *argv)
    lines = [line for line in err.splitlines() if line.startswith("vgt")]
    assert status == 2 and result is None
    assert len(lines) == 1 and named in lines[0], err


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["prompts", "scenes-dpg", "-o", "file/p.jsonl"], "file"),
        (["prompts", "scenes-dpg", "-o", "."], "."),
        (["generate", "a photo of a star", "-o", "file/star.png"], "file"),
        (["generate", "a photo of a star", "-o", "folder.png"], "folder.png"),
        (["generate", "a photo of a star", "-o", f"{'n' * 300}.png"], "too long"),
        (["generate", "a photo of a star", "-o", "/proc/star.png"], "/proc/star.png"),
        (["train", "pixel_ae", "-o", "file/run"], "file"),
        (["eval", "recon", "--subject", f"vgt:{AUTOENCODER}", "-o", "file/work"], "file"),
        (["eval", "recon", "--subject", f"vgt:{AUTOENCODER}", "-o", "file"], "file"),
        (["bench", GENERATOR, "-o", "file/work"], "file"),
        (["reproduce", "tiny", "--smoke", "-o", "file"], "file"),
        (["report", "--records", ".", "-o", "file/report"], "file"),
        (["report", "--records", ".", "--publish", "folder.jsonl"], "folder.jsonl"),
        (["convert", "file", "file/model"], "file"),
    ],
)
def test_where_nothing_can_be_written_is_one_line_before_the_work(argv, named, capsys, monkeypatch):
    """It was a traceback with exit status 1, often after all the work."""
    Path("file").touch()
    for name in ("folder.png", "folder.jsonl"):
        Path(name).mkdir()
    monkeypatch.setattr("vgt.inference.load.load", lambda *args: pytest.fail("loaded a model"))
    status, result, _, err = call(capsys, *argv)
    assert status == 2 and result is None
    assert len(err.splitlines()) == 1 and named in err, err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "No space left on device; free some space"),
        (PermissionError(13, "Permission denied", "place"), "place: Permission denied; choose"),
        (MemoryError(), "memory is full"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"), "memory is full"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (EOFError("Ran out of input"), "Ran out of input"),
        (pickle.UnpicklingError("not a pickle"), "not a pickle"),
        (ModuleNotFoundError("No module named 'abacus'", name="abacus"), "install abacus"),
        (ValueError("two\n  lines"), "two; lines"),
    ],
)
def test_what_the_machine_or_the_input_refuses_is_one_line(error, said, capsys, monkeypatch):
    monkeypatch.setattr("vgt.commands.list.run", lambda args: (_ for _ in ()).throw(error))
    status, _, _, err = call(capsys, "list", "suites")
    assert status == 2 and len(err.splitlines()) == 1 and said in err
    monkeypatch.setenv("VGT_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main(["list", "suites"])


@pytest.mark.parametrize("error", [TypeError("x"), ModuleNotFoundError("No module named 'vgt.x'", name="vgt.x")])
def test_an_error_of_the_program_keeps_its_traceback(error, monkeypatch):
    monkeypatch.setattr("vgt.commands.list.run", lambda args: (_ for _ in ()).throw(error))
    with pytest.raises(type(error)):
        main(["list", "suites"])


def shell(line: str, unbuffered: bool = False) -> tuple[int, str]:
    """Exit status of the first command of a shell line in which VGT stands for ours, and everything printed."""
    vgt = f"{sys.executable} {'-u ' if unbuffered else ''}-m vgt"
    line = line.replace("VGT", vgt) + "; exit ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists() or shutil.which("bash") is None, reason="a system without them")
@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("VGT list suites | head -1", 0, "scenes-geneval"),
        ("VGT list suites | true", 0, ""),
        ("VGT list nothing 2>&1 | true", 2, ""),
        ("VGT list suites >/dev/full", 2, "vgt list: stdout cannot be written (No space left on device)"),
        ("VGT prompts --help >/dev/full", 2, "stdout cannot be written"),
        ("VGT prompts scenes-dpg >&-", 2, "stdout cannot be written"),
        ("VGT list suites 2>&-", 0, "scenes-geneval"),
        ("VGT nothing 2>/dev/full", 2, ""),
        ("VGT prompts scenes-dpg --count 1 -o p.jsonl >&- 2>&- <&-; cat p.jsonl", 0, "dense-000"),
        ("VGT prompts scenes-dpg --count 1 -o /dev/stdout > p.txt; cat p.txt", 0, '"n": 1}'),
    ],
)
@pytest.mark.parametrize("unbuffered", [False, True])
def test_closed_full_and_unread_streams(line, status, said, unbuffered):
    found, text = shell(line, unbuffered)
    assert found == status, text
    assert said in text and "Traceback" not in text and "Exception ignored" not in text


def test_a_failing_verb_fails_whoever_reads_its_output(monkeypatch):
    """`vgt gate ... | true` ended with 0."""
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr("vgt.commands.list.run", lambda args: print("text", flush=True) or {"exit": 1})
    with open(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["list", "suites"]) == 1


@pytest.mark.parametrize("argv", [["generate", "--foo"], ["eval", "geneval", "--foo"], ["eval"], ["list", "things"]])
def test_a_usage_error_is_one_line_with_a_hint(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and len(err.splitlines()) == 1
    verb = " ".join(arg for arg in argv if arg in ("generate", "eval", "geneval", "list"))
    assert err.startswith(f"vgt {argv[0]}") and f"`vgt {verb} --help`" in err


def test_unreadable_checkpoint(tmp_path, capsys):
    shutil.copytree(zoo() / AUTOENCODER, tmp_path / "broken")
    weights = tmp_path / "broken/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    status, _, _, err = call(capsys, "reconstruct", "x.png", "--model", tmp_path / "broken")
    assert status == 2 and "x.png" in err
    Image.new("RGB", (64, 64)).save("x.png")
    status, _, _, err = call(capsys, "reconstruct", "x.png", "--model", tmp_path / "broken")
    assert status == 2 and "model.safetensors" in err


def test_list_and_doctor(capsys):
    for kind in ("presets", "models", "protocols", "suites"):
        status, result, text, _ = call(capsys, "list", kind)
        assert status == 0 and result[kind] and all(name in text for name in result[kind])
    status, result, _, _ = call(capsys, "doctor")
    assert status == 0 and result["ok"] is True and not {"torch", "efflite0", "bundled models"} & set(result["missing"])


def test_list_without_a_kind_lists_the_kinds(capsys):
    status, result, told, _ = call(capsys, "list")
    assert status == 0 and result["kinds"] == [line.split()[-1] for line in told.splitlines()]


def test_a_run_of_a_bundled_name_goes_first_and_is_said(capsys, tmp_path):
    shutil.copytree(zoo() / GENERATOR, tmp_path / "runs" / GENERATOR / "model")
    (tmp_path / f"runs/{GENERATOR}/model/training.jsonl").write_text('{"step": 40}\n{"step": 50}\n')
    shutil.copytree(zoo() / GENERATOR, tmp_path / "runs/mine/model")
    said = f"note: {GENERATOR} is runs/{GENERATOR} (step 50), not the bundled model"
    load._tell.cache_clear()
    runs = Path("runs")
    for _ in range(2):
        assert load.locate(GENERATOR, runs) == runs / GENERATOR / "model"
    for name in ("mine", AUTOENCODER, f"runs/{GENERATOR}", str(zoo() / GENERATOR)):
        load.locate(name, runs)
    load.locate(GENERATOR)
    assert capsys.readouterr().err.splitlines() == [said]
    status, result, told, _ = call(capsys, "list", "models")
    lines = {line.split()[0]: line for line in told.splitlines()}
    assert status == 0 and {f"runs/{GENERATOR}", "runs/mine"} <= {*result["models"]}
    assert "(step 50)" in lines[f"runs/{GENERATOR}"] and f"runs/{GENERATOR}" in lines[GENERATOR]
    assert "runs" not in lines[AUTOENCODER]
    shutil.copytree(zoo() / GENERATOR, tmp_path / GENERATOR)
    assert load.locate(GENERATOR, runs) == Path(GENERATOR)
    assert "not the bundled model" in capsys.readouterr().err


def test_generate_writes_genevals_layout_and_mixes_with_no_other_images(capsys):
    """What it writes is a folder: subject of these prompts."""
    rows = suites.geneval_prompts(per_task=1)[:2]
    Path("p.jsonl").write_text(suites.lines(rows))
    argv = ["generate", "--prompts", "p.jsonl", "--accel", 16, "--layout", "geneval", "-o", "made"]
    assert call(capsys, *argv, "-n", 2)[0] == 0
    assert [json.loads(Path(f"made/0000{k}/metadata.jsonl").read_text()) for k in range(2)] == rows
    found, extra = image_folder("made").samples(rows, 2)
    assert sorted(found) == [(0, 0), (0, 1), (1, 0), (1, 1)] and not extra
    status, _, _, err = call(capsys, *argv)
    assert status == 2 and "made holds 2 images that this call would not write, the first 00000/samples/0001.png" in err
    shutil.copytree("made/00000/samples", "flat")
    listed = Path("flat/images.jsonl")
    listed.write_text("of an earlier call")
    status, _, _, err = call(capsys, "generate", "a photo of a red star", "--accel", 16, "-o", "flat")
    assert status == 2 and "the first 0000.png; name another folder with -o" in err and listed.read_text()


def test_doctor_says_how_to_get_what_is_absent(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("VGT_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    _, result, told, _ = call(capsys, "doctor")
    lines = {line.split()[0]: line for line in told.splitlines()}
    assert {"inception", "lpips-alex", "lpips-vgg", "dinov2", "clip"} <= set(result["missing"])
    for name, wanted in weights.PUBLISHED.items():
        assert f"`{wanted.command}`" in lines[name] and wanted.option in lines[name] and wanted.sha256 in lines[name]


def test_published_weights_are_those_that_the_packages_name():
    """Addresses and checksums as torch-fidelity and torchvision have them; nothing is fetched."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    urls = {
        "inception": URL_INCEPTION_V3,
        "lpips-alex": AlexNet_Weights.IMAGENET1K_V1.url,
        "lpips-vgg": VGG16_Weights.IMAGENET1K_V1.url,
    }
    assert {name: w.url for name, w in weights.PUBLISHED.items() if w.url} == urls
    for name in urls:
        wanted = weights.PUBLISHED[name]
        assert wanted.url.endswith(f"/{wanted.file}") and wanted.file.endswith(f"-{wanted.sha256[:8]}.pth")


def test_bundled_models_are_small_and_documented():
    size = sum(p.stat().st_size for p in zoo().rglob("*") if p.is_file())
    assert size <= 20_000_000
    from vgt.commands.reproduce import AUTOENCODERS, GENERATORS, VLMS

    assert set(bundled()) == {*VLMS, *AUTOENCODERS, *GENERATORS}
    for name in bundled():
        card = (zoo() / name / "README.md").read_text()
        assert "vgt train" in card and "samples" in card
        assert (zoo() / name / "training.jsonl").stat().st_size > 0


def test_prompts_go_to_stdout_alone(capsys):
    assert main(["prompts", "scenes-dpg", "--count", "3"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["dense-000", "dense-001", "dense-002"]
    status, result, _, _ = call(capsys, "prompts", "scenes-geneval", "-o", "p.jsonl")
    assert status == 0 and result["n"] == 120
    assert Path("p.jsonl").read_text() == suites.lines(suites.geneval_prompts())


def test_generate_is_seeded_and_warns_of_unknown_words(capsys):
    images = []
    for name, seed in (("a.png", 3), ("b.png", 3), ("c.png", 4)):
        argv = ["generate", "a photo of a red zebra", "--accel", "16", "--seed", seed, "-o", name]
        status, result, _, err = call(capsys, *argv)
        assert status == 0 and result == {"files": [name]} and "'zebra'" in err
        images.append(image(name))
    assert images[0].shape == (64, 64, 3)
    assert np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])


def test_several_prompts_are_rows_of_a_sheet_or_images_of_a_folder(capsys):
    """An image depends on its own prompt and seed alone."""
    star, cross = "a photo of a red star", "a photo of a blue cross"
    Path("p.txt").write_text(f"\n{cross}\r\n", encoding="utf-8-sig")
    Path("p.jsonl").write_text(f'{{"prompt": "{cross}"}}\n')
    assert call(capsys, "generate", star, cross, "-n", 2, "--accel", 16, "-o", "sheet.png")[0] == 0
    assert call(capsys, "generate", star, "--prompts", "p.txt", "-n", 2, "--accel", 16, "-o", "images")[0] == 0
    assert call(capsys, "generate", "--prompts", "p.jsonl", "--accel", 16, "--scale", 2, "-o", "cross.png")[0] == 0
    sheet, rows = (
        image("sheet.png"),
        [json.loads(line) for line in Path("images/images.jsonl").read_text().splitlines()],
    )
    assert sheet.shape == (130, 130, 3)
    assert [row["prompt"] for row in rows] == [star, star, cross, cross] and len({row["seed"] for row in rows}) == 4
    for row, (y, x) in zip(rows, ((0, 0), (0, 66), (66, 0), (66, 66)), strict=True):
        assert np.abs(image(f"images/{row['file']}").astype(int) - sheet[y : y + 64, x : x + 64]).max() <= 1
    assert np.abs(image("cross.png")[::2, ::2].astype(int) - sheet[66:, :64]).max() <= 1


def test_a_file_of_prompts_that_is_none_is_one_line(capsys):
    Path("empty.txt").write_text("\n")
    Path("latin.txt").write_bytes(b"caf\xe9")
    Path("rows.jsonl").write_text('{"text": "a star"}\n')
    Path("many.txt").write_text("a star\n" * 65)
    for argv, named in (
        (["generate", "--prompts", "empty.txt"], "empty.txt has no prompts"),
        (["generate", "--prompts", "latin.txt"], "latin.txt is not UTF-8"),
        (["generate", "--prompts", "rows.jsonl"], "rows.jsonl, line 1: the field 'prompt' is missing"),
        (["generate", "--prompts", "many.txt"], "name a folder"),
        (["generate", "--prompts", "absent.txt"], "absent.txt does not exist"),
        (["generate"], "no prompt"),
        (["generate", "a star", " "], "prompt 1 is empty"),
    ):
        status, _, _, err = call(capsys, *argv)
        assert status == 2 and named in err and len(err.splitlines()) == 1


def test_a_deep_grey_image_keeps_its_levels(capsys):
    """16 bits a channel became white."""
    levels = np.linspace(40, 90, 64, dtype=np.uint16)[None].repeat(64, 0)
    Image.fromarray(levels * 257).save("deep.png")
    Image.fromarray(levels.astype(np.uint8)).save("plain.png")
    for name in ("deep", "plain"):
        assert call(capsys, "reconstruct", f"{name}.png", "-o", f"{name}-out.png")[0] == 0
    with Image.open("deep-out.png") as deep, Image.open("plain-out.png") as plain:
        assert np.array_equal(np.asarray(deep), np.asarray(plain)) and np.asarray(deep).max() < 150


def test_reconstruct_tiles_or_crops(capsys):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (70, 100, 3), dtype=np.uint8)).save("photo.jpg")
    assert call(capsys, "reconstruct", "photo.jpg", "-o", "t.png")[0] == 0
    assert image("t.png").shape == (70, 100, 3)
    assert call(capsys, "reconstruct", "photo.jpg", "--fit", "crop", "-o", "c.png")[0] == 0
    assert image("c.png").shape == (64, 64, 3)


def photographs(*names) -> list[np.ndarray]:
    """Different images of 64 px under these names."""
    made = [np.random.default_rng(k).integers(0, 256, (64, 64, 3), dtype=np.uint8) for k in range(len(names))]
    for name, pixels in zip(names, made, strict=True):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(name)
    return made


@pytest.mark.parametrize(
    ("inputs", "out", "said"),
    [
        (["a/1.png", "b/1.png"], "made", "a/1.png and b/1.png would both be written to made/1.png"),
        (["a/1.png", "c/1.webp"], "made", "would both be written"),
        (["a/1.png", "a/1.png"], "made", "would both be written"),
        (["a/one.png", "b/ONE.png"], "made", "would both be written"),
        (["a", "b/1.png"], "made", "would both be written"),
        (["a/1.png", "b/2.png"], "b", "b/2.png is one of the images to read"),
        (["a/1.png"], "a/1.png", "a/1.png is one of the images to read"),
        (["a"], "a/made", "lies in a"),
        (["a/1.png", "b/2.png"], "out.png", "out.png is the name of one image"),
        (["a/1.png", "b/2.png"], "b/2.png", "the name of one image"),
    ],
)
def test_no_reconstruction_takes_the_place_of_another_file(inputs, out, said, capsys):
    photographs("a/1.png", "a/one.png", "b/1.png", "b/2.png", "b/ONE.png", "c/1.webp")
    before = {path: path.read_bytes() for path in Path().rglob("*.*")}
    status, _, _, err = call(capsys, "reconstruct", *inputs, "-o", out, "--model", "no model is loaded")
    assert status == 2 and said in err and len(err.splitlines()) == 1
    assert {path: path.read_bytes() for path in Path().rglob("*.*")} == before


def test_reconstructions_of_a_folder_keep_its_names(capsys):
    photographs("in/1.png", "in/b/1.jpg", "in/v0.5.webp", "single.png")
    Path("in/._1.png").write_bytes(b"")
    status, result, _, err = call(capsys, "reconstruct", "in", "single.png", "-o", "made")
    assert status == 0 and "left out 1 x hidden file" in err
    assert set(result["files"]) == {"made/1.png", "made/b/1.png", "made/v0.5.png", "made/single.png"}
    status, result, _, _ = call(capsys, "reconstruct", "in/1.png", "single.png")
    assert status == 0 and result["files"] == ["out/1.png", "out/single.png"]
    assert np.array_equal(image("out/1.png"), image("made/1.png"))


def test_one_bad_image_loses_no_other(capsys):
    photographs("good.png")
    Path("torn.png").write_bytes(Path("good.png").read_bytes()[:200])
    Path("gone.png").symlink_to("nowhere.png")
    status, result, text, err = call(capsys, "reconstruct", "torn.png", "good.png", "gone.png", "-o", "made")
    assert status == 2 and result["files"] == ["made/good.png"] and "good.png" in text
    assert set(result["failed"]) == {"torn.png", "gone.png"} and "no image at gone.png" in err
    assert image("made/good.png").shape == (64, 64, 3)
    status, _, _, err = call(capsys, "reconstruct", "torn.png", "gone.png", "--model", "no model is loaded")
    assert status == 2 and "2 images, none of which can be read" in err.splitlines()[-1]


def test_names_that_are_not_utf8_reach_records_and_files(capsys, monkeypatch):
    folder = os.fsdecode(b"caf\xe9")
    photographs(f"{folder}/a\n.png", f"{folder}/{folder}.png")
    monkeypatch.setattr(sys, "argv", ["vgt", "eval", "recon", "--pairs", folder, folder])
    status, result, text, _ = call(capsys, "eval", "recon", "--pairs", folder, folder, "--metrics", "psnr-mean")
    assert status == 0 and result["scores"]["pairs-caf\\udce9/pairs/psnr-mean"]["n"] == 2 and text.isascii()
    Path("loop.png").symlink_to("loop.png")
    status, result, text, err = call(capsys, "reconstruct", folder, "loop.png", "-o", "made")
    assert status == 2 and len(result["files"]) == 2 and list(result["failed"]) == ["loop.png"]
    assert Path("made", f"{folder}.png").is_file() and Path("made/a\n.png").is_file() and "symbolic links" in err


def test_side_by_side_and_a_word_about_seams(capsys):
    (pixels,) = photographs("in.png")
    status, _, text, _ = call(capsys, "reconstruct", "in.png", "-o", "alone.png")
    assert status == 0 and "seams" not in text
    assert call(capsys, "reconstruct", "in.png", "--side-by-side", "-o", "both.png")[0] == 0
    both = image("both.png")
    assert np.array_equal(both[:, :64], pixels) and np.array_equal(both[:, -64:], image("alone.png"))
    Image.fromarray(pixels).resize((100, 70)).save("wide.png")
    assert "seams can show" in call(capsys, "reconstruct", "wide.png", "-o", "w.png")[2]
    assert "seams" not in call(capsys, "reconstruct", "wide.png", "--fit", "crop", "-o", "w.png")[2]


def test_eval_pairs_prints_psnr_mean_first_then_every_ssim(capsys):
    from evals.metrics import pixels

    rng = np.random.default_rng(0)
    for folder in ("real", "made"):
        for k in range(3):
            path = Path(folder, f"{k}.png")
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    status, result, text, _ = call(capsys, "eval", "recon", "--pairs", "real", "made")
    names = [line.split()[0].rsplit("/", 1)[1] for line in text.splitlines()]
    assert status == 0 and names[0] == "psnr-mean"
    assert [n for n in names if n.startswith("ssim")] == list(pixels.SSIM) and len(pixels.SSIM) == 6
    assert set(result) >= {"records", "partial", "scores"}


def main_job(capsys, least: int) -> None:
    """From nothing to the page, again with all of it reused, and once more where one record is gone."""
    status, first, _, err = call(capsys, "reproduce", "tiny", "--smoke")
    assert re.search(r"^    \d+ s; at most about \d+ (s|min) left$", err, re.MULTILINE)
    assert "%|" not in err, "a bar that is no terminal's"
    assert status == 0 and first["computed"] > least and first["reused"] == 0
    assert Path(first["report"]).read_text().lstrip().lower().startswith("<!doctype html>")
    name = f"{GENERATOR}@4x/scenes-geneval/overall"
    scores = json.loads(Path(first["result"]).read_text())["scores"]
    assert set(scores[name]) == {"value", "low", "high", "n"} and scores[name]["n"] == 6
    assert f"{AUTOENCODER}/photos/psnr-mean" in scores and len(json.dumps(first)) < 1000

    status, again, _, _ = call(capsys, "reproduce", "tiny", "--smoke")
    assert (again["computed"], again["reused"]) == (0, first["computed"])
    assert json.loads(Path(again["result"]).read_text())["scores"] == scores

    lost = Path(first["records"]) / f"{name}.json"
    before = json.loads(lost.read_text())
    lost.unlink()
    status, third, _, _ = call(capsys, "reproduce", "tiny", "--smoke")
    assert third["computed"] == 1 and json.loads(Path(third["result"]).read_text())["scores"] == scores
    assert json.loads(lost.read_text())["key"] == before["key"]


def test_time_left_is_that_of_the_steps_that_are_not_done():
    from vgt.commands import reproduce

    assert reproduce.time_left([], [3.0]) is None
    assert reproduce.time_left([(10, 5.0), (30, 15.0)], [20, 60]) == pytest.approx(40)
    assert reproduce.time_left([(10, 5.0)], []) == 0
    geneval = ["eval", "geneval", "--subject", "vgt:m", "--images-per-prompt", "4", "--accel"]
    assert reproduce.work([*geneval, "1"]) > reproduce.work([*geneval, "4"]) > reproduce.work(["eval", "dpg"]) > 0
    assert [reproduce.spoken(s) for s in (12.3, 754, 7500)] == ["12 s", "13 min", "2 h 5 min"]


@pytest.mark.slow
def test_main_job_from_nothing_to_the_page_and_again(capsys):
    main_job(capsys, least=700)


def test_main_job_of_one_model_of_each_kind(capsys, monkeypatch):
    from vgt.commands import reproduce

    for name, value in {
        "VLMS": (), "AUTOENCODERS": (AUTOENCODER,), "GENERATORS": (GENERATOR,), "ACCELERATIONS": (4,), "BASELINES": (),
        "RIVALS": (), "QUICK_CONDITIONS": "clean", "QUICK_PROTOCOLS": "vgt",
    }.items():  # fmt: skip
        monkeypatch.setattr(reproduce, name, value)
    main_job(capsys, least=100)
