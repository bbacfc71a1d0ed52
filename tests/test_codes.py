"""A GPT over codes from data to images: kept codes of scenes, labelled images of one's own, the job, the verbs.

The tokenizer is the one of tests/toy_system: 4 x 4 tokens of 16 codes at 32 px."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import call
from test_toy_system import HERE, forget

from bench import roofline
from vgt.core import scenes
from vgt.inference.generator import open_generator
from vgt.inference.images import to_float
from vgt.inference.load import load
from vgt.inference.tokenizer import token_grid
from vgt.methods import registry
from vgt.methods.sampling import CodeSampling
from vgt.training import codes as codes_of
from vgt.training.codes import SceneCodes, class_numbers
from vgt.training.job import Place, read
from vgt.training.run import run
from vgt.training.sources import SkipReport, open_source

PRESET = """
system = "code_gpt"
name = "gpt"

[init]
autoencoder = "toy_codebook"

[model]
layers = 1
heads = 2
width = 32
ffn = 32

[data]
scenes = 24

[train]
steps = 4
batch = 8
lr = 1e-2
final_lr = 1.0
warmup = 0
ema = 0.9
save_every = 2
sample_every = 4
"""


@pytest.fixture(scope="module", autouse=True)
def plugin():
    forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_SYSTEMS", dict(registry._SYSTEMS))
        patch.setenv(registry.PLUGINS, "toy_system")
        yield
    forget()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with the tokenizer and a GPT on scenes."""
    place = tmp_path_factory.mktemp("codes")
    (place / "gpt.toml").write_text(PRESET)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run(str(HERE / "toy_codebook.toml"), ["train.steps=4"], None, Path("runs"))
        run("gpt.toml", [], None, Path("runs"))
    return place


@pytest.fixture(autouse=True)
def there(work, monkeypatch):
    monkeypatch.chdir(work)


def job(*settings: str, load_it: bool = True):
    from vgt.training.distributed import team

    preset = read("gpt.toml", list(settings))
    return registry.get("code_gpt").part("job")(preset, Place(Path("runs"), team(), 8, load=load_it))


def refused(said: str, *settings: str, load_it: bool = True) -> None:
    with pytest.raises(ValueError, match=said) as error:
        job(*settings, load_it=load_it)
    assert "\n" not in str(error.value)


# -------------------------------------------------------------------------------------------------- kept codes


def test_codes_of_scenes_are_those_of_the_tokenizer_seen_both_ways():
    tokenizer = load("toy_codebook", Path("runs"))
    kept = SceneCodes(tokenizer.model, "mark", 6, 32, Path("other"), 2, batch=4)
    images = np.stack([scenes.item("train", i, 32, "single_object").image for i in range(6)])
    for view, seen in ((0, images), (1, images[:, :, ::-1])):
        wanted = tokenizer.model.encode(to_float(np.ascontiguousarray(seen))).flatten(1)
        assert torch.equal(kept.take([2 * i + view for i in range(6)]).long(), wanted)
    assert not torch.equal(kept.take([0, 2, 4]), kept.take([1, 3, 5]))

    class Other:  # another run finds them and encodes nothing
        config = tokenizer.model.config

    again = SceneCodes(Other(), "mark", 6, 32, Path("other"), 2, batch=4)
    assert torch.equal(again.take(range(12)), kept.take(range(12)))
    assert SceneCodes(Other(), "mark", 6, 32, Path("other"), 1, batch=4).folder != kept.folder

    class Wild:
        config = tokenizer.model.config
        eval = to = lambda self, *_: self
        encode = staticmethod(lambda images: torch.full((len(images), 4, 4), 16))

    with pytest.raises(ValueError, match="index 16 of 16"):
        SceneCodes(Wild(), "wild", 6, 32, Path("other"), 1, batch=4).take([0])


def test_labels_are_colour_and_shape_and_held_out_pairs_never_appear():
    assert len(scenes.CLASSES) == 80 and len(set(scenes.CLASSES)) == 80 and "red circle" in scenes.CLASSES
    seen = {codes_of.scene_class(i) for i in range(2000)}
    held = {scenes.CLASSES.index(" ".join(pair)) for pair in scenes.HELD_OUT}
    assert len(held) == 8 and not seen & held and len(seen) == 72
    only = scenes.scene("train", 7, "single_object").objects[0]
    assert scenes.CLASSES[codes_of.scene_class(7)] == f"{only.color} {only.shape}"


def test_batches_are_a_function_of_their_number():
    first = job()
    batch = first.batches(3)
    assert batch["codes"].shape == (8, 16) and batch["codes"].dtype == torch.long and batch["labels"].shape == (8,)
    again = job().batches(3)
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    order = [codes_of.shuffled(place, 48) for place in range(24, 32)]
    assert batch["labels"].tolist() == [codes_of.scene_class(number // 2) for number in order]
    assert set(first.parents) == {"autoencoder"} and first.frozen == {}


# ----------------------------------------------------------------------------------------------- trained, sampled


def test_a_run_ends_with_the_same_bits_after_a_kill(work):
    whole = load("gpt", Path("runs"))
    config = whole.model.config
    assert config.grid == (4, 4) == token_grid(load("toy_codebook", Path("runs")).model)
    assert config.codebook_size == 16 and config.classes == scenes.CLASSES
    assert config.autoencoder == load("toy_codebook", Path("runs")).fingerprint
    assert (work / "runs/gpt/samples/00000004.png").is_file()
    rows = [json.loads(line) for line in (work / "runs/gpt/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["nats"] == pytest.approx(16 * rows[-1]["loss"], rel=1e-5)

    def killed(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vgt.training.loop.learning_rate", lambda c, step: killed() if step == 3 else c.lr)
        with pytest.raises(KeyboardInterrupt):
            run("gpt.toml", [], work / "runs/part", Path("runs"))
    run("gpt.toml", [], work / "runs/part", Path("runs"))
    assert load("part", Path("runs")).fingerprint == whole.fingerprint


def test_generate_by_name_and_by_number(capsys):
    status, result, out, _ = call(capsys, "generate", "red circle", "7", "--model", "gpt", "-n", "2", "-o", "a.png")
    assert status == 0 and "gpt" in out
    with Image.open("a.png") as sheet:
        assert sheet.size == (2 * 32 + 2, 2 * 32 + 2)
    for argv, said in (
        (("dog",), "class 'dog' is unknown; choose one of"), (("80",), "class '80' is unknown"),
        (("red circle", "--accel", "4"), "one token a step"), (("red circle", "--flow-steps", "5"), "flow_steps"),
        (("red circle", "--guidance-until", "3"), "guidance_until 3 has no effect"),
    ):  # fmt: skip
        status, _, _, err = call(capsys, "generate", *argv, "--model", "gpt")
        assert status == 2 and said in err


def test_an_image_depends_on_its_class_and_seed_alone():
    made = open_generator("gpt", {"guidance": 2.0}, Path("runs"))
    together = made.generate([3, 4, 3], [1, 2, 3])
    assert together.dtype == np.uint8 and together.shape == (3, 32, 32, 3)
    assert np.array_equal(made.generate([4], [2])[0], together[1])
    assert not np.array_equal(together[0], together[2])
    assert made.read("7") == 7 and made.read(scenes.CLASSES[7]) == 7
    with pytest.raises(ValueError, match="class 80 is outside the table; give numbers from 0 to 79"):
        made.generate([80], [1])


def test_it_is_evaluated_with_labels(capsys):
    argv = ["eval", "fidelity", "--subject", "vgt:gpt", "--real", "scenes", "--metrics", "prdc", "--batch", "16"]
    status, found, _, err = call(capsys, *argv, "-n", "80", "--guidance", "1.5", "--guidance-until", "3")
    assert status == 0 and found["computed"] > 0, err
    assert all("gpt+cfg1.5-until3" in name for name in found["scores"])


def test_it_is_timed_with_and_without_guidance(capsys):
    argv = ("bench", "gpt", "--smoke", "--against", "eager", "--guidance", "1.5", "--guidance-until", "4")
    status, found, _, err = call(capsys, *argv)
    assert status == 0, err
    (row,) = found["rows"]
    assert row["model"] == "gpt+cfg1.5-until4@1x" and row["bound_ms"] > 0 and row["ratio"] > 0
    value = {key.rpartition("/")[2]: each["value"] for key, each in found["scores"].items()}
    assert value["tokens-per-second"] == pytest.approx(16 * value["images-per-second"])
    model = load("gpt", Path("runs")).model
    layers, output, cache = roofline.code_sizes(model)
    image = roofline.image_of_codes(load("toy_codebook", Path("runs")).model, (4, 4))
    assert (image.parameters, image.values) == (0, 16 + 3 * 32 * 32)
    for given, passes in (({}, 16), ({"guidance": 1.5, "guidance_until": 4}, 20)):
        settings = CodeSampling.of(model, given)
        branches = [settings.branches(t) for t in range(16)]
        pairs = sum(copies * (t + 1) for t, copies in enumerate(branches))
        wanted = 2 * passes * (layers + output) + 2 * cache * pairs
        bound = roofline.code_bound(model, 8, branches, 4, roofline.Limits("slow", 1.0, 1e30, ""), image)
        assert bound.operations == wanted and bound.total == pytest.approx(1000 * wanted)
    status, _, _, err = call(capsys, "bench", "gpt", "--smoke", "--accel", "4")
    assert status == 2 and "one token a step" in err
    status, _, _, err = call(capsys, "bench", "gpt", "--smoke", "--steps", "4")
    assert status == 2 and "leave --steps out" in err


def test_what_does_not_fit_is_refused():
    refused("needs init.autoencoder", "init.autoencoder=")
    refused(r"model.grid \(8, 8\) is not the tokenizer's \(4, 4\)", "model.grid=[8, 8]")
    refused("model.codebook_size 32 is not the tokenizer's 16", "model.codebook_size=32")
    refused("model.classes are not those of the scenes", "model.classes=3")
    refused("data.min_crop 0.8 has no effect on scenes", "data.min_crop=0.8")
    refused("losses", 'losses={"a": 1}')
    refused("is a code_gpt checkpoint; give a", "init.autoencoder=gpt")
    made = open_generator("gpt", {}, Path("runs"))
    other = load("toy_codebook", Path("runs"))
    object.__setattr__(other.model, "config", other.model.config.model_copy(update={"codebook_size": 32}))
    with pytest.raises(ValueError, match="gpt has 16 codes and toy_codebook 32"):
        type(made)(made.loaded, other, made.settings)


def test_it_is_planned_without_weights(tmp_path):
    from vgt.training.plan import plan, render

    for settings, positions in (([], 16 * 8), (["data.source=folder:images", "model.classes=3"], 16 * 8)):
        made = plan(read("gpt.toml", settings), Path("runs"), device="h100")
        assert made.tokens_per_step == positions and made.flops_per_step["total"] > 0
        assert made.parameters["total"] == made.parameters["trainable"]
        assert ("autoencoder" in made.parameters) == bool(settings)
        assert "code_gpt on 1 x h100" in render(made)
    whole = sum(p.numel() for p in load("gpt", Path("runs")).model.parameters())
    assert plan(read("gpt.toml", []), Path("runs"), device="cpu").parameters["total"] == whole
    refused("does not tell its classes", "data.source=folder:images", load_it=False)


# -------------------------------------------------------------------------------------------- images of one's own


def coloured(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 48), (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def write(root: Path, **contents) -> Path:
    for name, value in contents.items():
        path = root / name.replace("__", "/")
        path = path.with_name(f"{path.name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(coloured(value))
    return root


def shard(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def labels(source) -> list:
    return [getattr(source.item(k), "label", None) or source.item(k).reason for k in range(len(source))]


def test_class_folders_are_labels(tmp_path):
    root = write(tmp_path / "f", b__x=1, a__deep__y=2, b__z=3)
    source = open_source(f"folder:{root}", tmp_path, labels=True)
    assert source.classes == ("a", "b") and labels(source) == ["a", "b", "b"]
    assert open_source(f"folder:{root}", tmp_path).classes is None
    write(root, loose=4)
    with pytest.raises(ValueError, match="has no labels: loose.png is in no folder of a class"):
        open_source(f"folder:{root}", tmp_path, labels=True)


def test_a_field_of_the_json_file_is_the_label(tmp_path):
    path = shard(
        tmp_path / "a.tar", ("0.png", coloured(1)), ("0.json", b'{"label": 7, "kind": "cat"}'),
        ("1.png", coloured(2)), ("1.json", b'{"kind": "dog"}'), ("2.png", coloured(3)), ("2.json", b"["),
        ("3.png", coloured(4)),
    )  # fmt: skip
    source = open_source(f"webdataset:{path}", tmp_path, labels=True)
    assert source.classes is None and labels(source) == ["7", "no label", "label is not valid JSON", "no label"]
    named = open_source(f"webdataset:{path}", tmp_path, labels=True, label_column="kind")
    assert labels(named)[:2] == ["cat", "dog"]
    bare = shard(tmp_path / "b.tar", ("0.png", coloured(1)))
    with pytest.raises(ValueError, match="b.tar has no labels; add KEY.json"):
        open_source(f"webdataset:{bare}", tmp_path, labels=True)


def test_a_column_of_a_data_set_is_the_label(tmp_path):
    datasets = pytest.importorskip("datasets")
    table = {"image": [coloured(1), coloured(2), coloured(3)], "label": [1, 0, 1], "kind": ["x", "y", "x"]}
    features = datasets.Features({
        "image": datasets.Value("binary"), "label": datasets.ClassLabel(names=["cat", "dog"]),
        "kind": datasets.Value("string"),
    })  # fmt: skip
    datasets.Dataset.from_dict(table, features).save_to_disk(str(tmp_path / "d"))
    name = f"datasets:{tmp_path / 'd'}"
    source = open_source(name, tmp_path, image_column="image", labels=True)
    assert source.classes == ("cat", "dog") and labels(source) == ["dog", "cat", "dog"]
    other = open_source(name, tmp_path, image_column="image", labels=True, label_column="kind")
    assert other.classes == ("x", "y") and labels(other) == ["x", "y", "x"]
    for column, said in (("none", "set data.label_column to one of"), (None, "set data.label_column to the one")):
        bare = datasets.Dataset.from_dict({"image": table["image"]})
        bare.save_to_disk(str(tmp_path / f"bare-{column}"))
        with pytest.raises(ValueError, match=said):
            open_source(
                f"datasets:{tmp_path / f'bare-{column}'}", tmp_path, image_column="image", labels=True,
                label_column=column,
            )  # fmt: skip


def test_numbers_of_classes(tmp_path):
    source = open_source(f"folder:{write(tmp_path / 'f', n07__x=1, n03__y=2)}", tmp_path, labels=True)
    assert class_numbers(("n07", "n03"), source) == {"n07": 0, "n03": 1}
    assert class_numbers(("0", "1"), source) == {"n03": 0, "n07": 1}, "in the order of the folders"
    assert class_numbers(("n03", "n07", "n99"), source)["n07"] == 1
    with pytest.raises(ValueError, match="has 2 classes, 'n03' among them, and model.classes 3 without it"):
        class_numbers(("0", "1", "2"), source)
    numbered = open_source(
        f"folder:{write(tmp_path / 'g', **{f'{k}__x': k for k in range(11)})}", tmp_path, labels=True
    )
    assert numbered.classes == tuple(map(str, range(11)))


def test_images_of_ones_own_are_encoded_as_they_come(tmp_path):
    root = write(tmp_path / "f", a__x=1, b__y=120, b__z=250)
    made = job(f"data.source=folder:{root}", "data.min_crop=0.8")
    assert made.config["classes"] == ["a", "b"] and "source" in made.parents and "autoencoder" in made.frozen
    batch = made.batches(0)
    assert batch["images"].shape == (8, 3, 32, 32)
    red = ((batch["images"][:, 0, 0, 0] + 1) * 127.5).round().tolist()
    assert batch["labels"].tolist() == [0 if value < 50 else 1 for value in red]
    encoded = made.system.encode(batch)
    tokenizer = load("toy_codebook", Path("runs")).model
    assert torch.equal(encoded["codes"], tokenizer.encode(batch["images"]).flatten(1))
    loss, logged = made.system.loss("model", batch, 0, torch.Generator().manual_seed(0))
    assert logged["nats"] == pytest.approx(16 * float(loss.detach()), rel=1e-5)
    with pytest.raises(ValueError, match="scenes have labels only by themselves"):
        job(f"data.source=folder:{root}+scenes")
    few = codes_of.source_label_batches(
        open_source(f"folder:{root}", tmp_path, labels=True), lambda image, below: np.asarray(image), {"b": 0}, 4, 0,
        report := SkipReport(tell=None),
    )(0)  # fmt: skip
    assert few["labels"].tolist() == [0] * 4 and "class outside the table" in report.summary()


@pytest.mark.parametrize(
    ("name", "grid", "entries"), [("micro_code_gpt", (6, 6), 512), ("code_gpt_b", (16, 16), 16384)]
)
def test_presets_take_grid_and_codebook_from_their_tokenizer(name, grid, entries):
    from vgt.training.plan import build

    made, problems = build(read(name, []), Path("no-runs"), 1)
    config = made.system.model.config
    assert (config.grid, config.codebook_size) == (grid, entries)
    assert any(f"init.autoencoder: {config.autoencoder_name} is not trained yet" in problem for problem in problems)
    assert config.classes == (scenes.CLASSES if name.startswith("micro") else tuple(map(str, range(1000))))


def test_presets_of_the_published_sizes():
    """docs/vfmtok.md 11, 12: constant learning rate, 300 or 200 epochs of 1,281,167 images."""
    from vgt.training.optim import learning_rate, micro_rows

    sizes = {}
    for size in ("b", "l", "xl", "xxl", "2b", "3b", "l_256"):
        preset = read(f"code_gpt_{size}", [])
        sizes[size] = tuple(preset.model[part] for part in ("layers", "heads", "width"))
        train, epochs = preset.train, preset.train.steps * preset.train.batch / 1_281_167
        assert learning_rate(train, 0) == learning_rate(train, train.steps) == 1e-4
        assert round(epochs) == (300 if size in ("b", "l", "l_256") else 200)
        assert micro_rows(train, 8) == micro_rows(train, 1) == train.micro
        assert preset.init.autoencoder == ("vfmtok_256" if size == "l_256" else "vfmtok_336")
    assert sizes == {
        "b": (12, 12, 768), "l": (24, 16, 1024), "l_256": (24, 16, 1024), "xl": (36, 20, 1280),
        "xxl": (48, 24, 1536), "2b": (48, 32, 1920), "3b": (24, 32, 3200),
    }  # fmt: skip
