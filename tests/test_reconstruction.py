"""Reconstruction scores from end to end: identity, evidence, resuming, folders, pairs, the PCA baseline."""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from evals.compare import contrasts
from evals.engine.api import Tokenizer, named
from evals.engine.images import adm_crop
from evals.engine.protocol import Protocol
from evals.engine.store import read_rows
from evals.metrics import pixels
from evals.recon import metrics as recon_metrics
from evals.recon import run as reconstruction
from evals.recon.protocol import PIPELINES
from evals.subjects import pca
from vgt.__main__ import main
from vgt.core import photos, record, samples, scenes

N = 20  # two batches of 10


@dataclass
class Blur:
    """Averages ``by`` x ``by`` blocks; ``by`` = 1 changes nothing.  Counts the images that it saw."""

    by: int = 1
    size: int | None = 64
    seen: int = 0

    @property
    def name(self) -> str:
        return f"blur{self.by}"

    @property
    def fingerprint(self) -> str:
        return self.name

    def encode(self, images):
        raise NotImplementedError

    def reconstruct(self, images):
        self.seen += len(images)
        n, h, w, _ = images.shape
        means = images.reshape(n, h // self.by, self.by, w // self.by, self.by, 3).mean((2, 4))
        return np.rint(means).astype(np.uint8).repeat(self.by, 1).repeat(self.by, 2)


def score(tokenizer, tmp_path, data="scenes", n=N, **options):
    outcome = reconstruction.run(
        tokenizer, work=tmp_path, records=tmp_path / "records", data=data, n=n, batch=10, **options
    )
    return outcome, {r.metric: r for r in outcome.records}


def test_identity_reconstruction_is_perfect(tmp_path):
    outcome, found = score(Blur(1), tmp_path, agreement=lambda a, b: (a == b).all((1, 2, 3)), judge="equal-1")
    assert found["psnr-mean"].value == found["psnr-global"].value == 100
    assert found["psnr-mean"].extra["capped"] == N
    for variant in pixels.SSIM:
        assert found[variant].value == pytest.approx(1.0, abs=1e-12)
    assert found["fd-efflite2"].value < 1e-6
    assert found["judge-agreement"].value == 1.0 and found["judge-agreement"].judge == "equal-1"
    assert outcome.computed == len(outcome.records) == len(found) and outcome.reused == 0


def test_a_lossy_model_is_scored_with_intervals_and_provenance(tmp_path):
    _, found = score(Blur(4), tmp_path, data="photos")
    for metric, one in found.items():
        assert one.low <= one.value <= one.high, metric
        assert (one.subject, one.suite, one.protocol) == ("blur4", "photos", metric)
        assert one.partial and (one.n, one.n_expected, one.n_failed) == (N, 256, 0)
        assert one.protocol_params["quantize"] == "round" and one.protocol_params["cluster"] == "photo"
        assert (tmp_path / one.evidence).exists() and str(tmp_path) not in one.model_dump_json()
    assert found["psnr-global"].value <= found["psnr-mean"].value < 40
    assert found["ssim-taming"].value > found["ssim-sk"].value
    assert "over 4 clusters" in found["psnr-mean"].interval and "jackknife" in found["fd-efflite2"].interval
    assert "definition" in found["ssim-wang"].protocol_params
    assert found["psnr-mean"].protocol_params["model_res"] == found["psnr-mean"].protocol_params["eval_res"] == 64
    assert "a training loss also uses" in found["fd-efflite0"].protocol_params["caution"]
    rows = [json.loads(line) for line in (tmp_path / found["psnr-mean"].evidence).read_text().splitlines()]
    assert found["psnr-mean"].value == pytest.approx(np.mean([r["psnr"] for r in rows]))
    assert found["psnr-global"].value == pytest.approx(-10 * np.log10(np.mean([r["mse"] for r in rows])))
    assert rows[0]["id"] == "test-00000" and rows[0]["cluster"] == "cat"
    with Image.open(tmp_path / found["psnr-mean"].extra["image"]) as image:
        assert image.size == (64 * 10, 128)


def test_worse_models_score_worse(tmp_path):
    metrics = ["psnr-mean", *pixels.SSIM, "fd-efflite2"]
    (_, fine), (_, coarse) = (score(Blur(by), tmp_path, metrics=metrics) for by in (2, 8))
    for metric in ("psnr-mean", *pixels.SSIM):
        assert fine[metric].value > coarse[metric].value
    assert fine["fd-efflite2"].value < coarse["fd-efflite2"].value


def test_one_deleted_record_is_made_again_from_evidence_alone(tmp_path):
    model = Blur(4)
    _, before = score(model, tmp_path)
    assert model.seen == N
    again, _ = score(model, tmp_path)
    assert (again.computed, again.reused) == (0, len(before)) and model.seen == N
    for metric in ("ssim-wang", "fd-efflite2"):
        (tmp_path / "records" / before[metric].path).unlink()
        again, after = score(model, tmp_path)
        assert (again.computed, again.reused) == (1, len(before) - 1)
        assert after[metric].score() == before[metric].score() and model.seen == N
    (tmp_path / before["psnr-mean"].evidence).unlink()
    (tmp_path / "records" / before["psnr-mean"].path).unlink()
    again, after = score(model, tmp_path)
    assert again.computed == 1 and model.seen == 2 * N and after["psnr-mean"].score() == before["psnr-mean"].score()


def test_a_changed_model_judge_or_data_set_is_measured_again(tmp_path):
    same = {"agreement": lambda a, b: np.ones(len(a), bool), "metrics": ["psnr-mean", "judge-agreement"]}
    first, _ = score(Blur(4), tmp_path, judge="a-1", **same)
    assert first.computed == 2
    assert score(Blur(4), tmp_path, judge="a-2", **same)[0].computed == 1
    assert score(Blur(4), tmp_path, judge="a-2", n=N + 1, **same)[0].computed == 2

    class Other(Blur):
        fingerprint = "retrained"

    with pytest.raises(ValueError, match="records of another model as 'blur4': blur4.* would be of retrained"):
        score(Other(4), tmp_path, judge="a-2", n=N + 1, **same)
    assert score(named(Other(4), "retrained"), tmp_path, judge="a-2", n=N + 1, **same)[0].computed == 2
    assert score(Blur(4), tmp_path, judge="a-2", n=N + 1, **same)[0].reused == 2


def test_the_result_does_not_depend_on_the_batch(tmp_path):
    outcomes = [
        reconstruction.run(
            Blur(4), work=tmp_path / str(b), records=tmp_path / str(b) / "r", data="scenes", n=N, batch=b,
            metrics=["psnr-mean", "psnr-global", *pixels.SSIM],
        )
        for b in (5, 12)
    ]  # fmt: skip
    assert [r.score() for r in outcomes[0].records] == [r.score() for r in outcomes[1].records]


def test_broken_files_of_a_folder_are_counted_not_dropped(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    for i in range(6):
        Image.fromarray(photos.crop("test", i, 80).image).save(mine / f"{i}.png")
    (mine / "3.png").write_bytes(b"\x89PNG broken")
    _, found = score(Blur(4), tmp_path, data=str(mine), n=None)
    assert {(r.n, r.n_failed, r.n_expected, r.partial) for r in found.values()} == {(5, 1, 6, True)}
    assert {(r.value, r.low) for r in found.values()} == {(None, None)}, "withheld: an image is missing"
    assert "3.png cannot be read" in found["psnr-mean"].note and "5 of 6 samples" in found["psnr-mean"].note
    assert samples.read(tmp_path / "records", found["psnr-mean"]) is None
    _, found = score(Blur(4), tmp_path, data=str(mine), n=None, partial_ok=True)
    assert all(r.value is not None and r.partial and "3.png" in r.note for r in found.values())
    assert found["psnr-mean"].suite == "folder-mine"
    rows = [json.loads(line) for line in (tmp_path / found["psnr-mean"].evidence).read_text().splitlines()]
    assert "3.png" in rows[3]["error"] and "psnr" not in rows[3]
    for i in range(6):
        (mine / f"{i}.png").write_bytes(b"broken")
    _, found = score(Blur(4), tmp_path, data=str(mine), n=None)
    assert {(r.value, r.n, r.n_failed) for r in found.values()} == {(None, 0, 6)}


def test_a_model_always_sees_one_batch_shape(tmp_path):
    shapes = set()

    class Watching(Blur):
        def reconstruct(self, images):
            shapes.add(images.shape)
            return super().reconstruct(images)

    _, found = score(Watching(4), tmp_path, n=13, metrics=["psnr-mean"])
    assert shapes == {(10, 64, 64, 3)} and found["psnr-mean"].n == 13


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "titok"}, "protocol 'titok'"),
        ({"protocol": "vgt", "metrics": ["lpips-vgg-v0.1"]}, "vgg16-397923af.*sha256 397923af.*VGT_WEIGHTS"),
        ({"metrics": ["rfid-tf-compat"]}, "2015-12-05.*sha256"),
        ({"metrics": ["codebook-usage"]}, "quantised tokenizer"),
        ({"size": 32}, "blur4 takes 64 px images"),
        ({"metrics": ["ssim"]}, "'ssim' is unknown.*ssim-wang"),
        ({"metrics": ["judge-agreement"]}, "needs a judge"),
        ({"agreement": lambda a, b: a}, "without a judge"),
        ({"data": "nowhere"}, "no folder nowhere"),
    ],
)
def test_impossible_requests_are_refused_before_any_work(tmp_path, monkeypatch, options, message):
    monkeypatch.setenv("VGT_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = Blur(4)
    with pytest.raises(ValueError, match=message):
        score(model, tmp_path, **options)
    assert model.seen == 0


def test_a_model_that_changes_shapes_is_named(tmp_path):
    class Shrinks(Blur):
        def reconstruct(self, images):
            return images[:, ::2, ::2]

    with pytest.raises(ValueError, match=r"blur1 turned uint8 \(10, 64, 64, 3\)"):
        score(Shrinks(), tmp_path)


# -------------------------------------------------------------------------------------------------------- pairs


@pytest.fixture
def two_folders(tmp_path):
    for i in range(4):
        original = photos.crop("test", i, 48).image
        noise = np.random.default_rng(i).integers(-9, 10, original.shape)
        for folder, image, suffix in (("real", original, "png"), ("made", np.clip(original + noise, 0, 255), "png")):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(image.astype(np.uint8)).save(tmp_path / folder / f"{i}.{suffix}")
    return tmp_path / "real", tmp_path / "made"


def compare(folders, work, batch=4, **options):
    outcome = reconstruction.pairs(*folders, work=work, records=work / "records", batch=batch, **options)
    return outcome, {r.metric: r for r in outcome.records}


def test_pairs_of_folders(two_folders, tmp_path):
    outcome, found = compare(two_folders, tmp_path)
    assert [r.metric for r in outcome.records][: 2 + len(pixels.SSIM)] == ["psnr-mean", "psnr-global", *pixels.SSIM]
    assert {"fd-efflite2", "fd-efflite0"} <= set(found)
    errors = [
        np.square((np.asarray(Image.open(a), float) - np.asarray(Image.open(b), float)) / 255).mean()
        for a, b in zip(*(sorted(f.iterdir()) for f in two_folders), strict=True)
    ]
    assert outcome.records[0].value == pytest.approx(np.mean(-10 * np.log10(errors)))
    assert outcome.records[1].value == pytest.approx(-10 * np.log10(np.mean(errors)))
    assert outcome.records[0].n == 4 and not outcome.records[0].partial
    assert outcome.records[0].protocol_params["model_res"] == 48
    assert record.read(tmp_path / "records") == sorted(outcome.records, key=lambda r: r.name)
    again, _ = compare(two_folders, tmp_path)
    assert (again.computed, again.reused) == (0, len(outcome.records))


def test_a_live_model_and_the_folder_of_its_pngs_score_alike(tmp_path):
    model, originals = Blur(4), photos.images("test", range(6))
    for name, images in (("real", originals), ("made", model.reconstruct(originals))):
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / f"test-{i:05d}.png")
    _, live = score(model, tmp_path, data=str(tmp_path / "real"), n=None)
    _, stored = compare((tmp_path / "real", tmp_path / "made"), tmp_path, batch=10)
    for metric, one in live.items():
        assert stored[metric].score() == one.score(), metric


def test_pairs_count_what_does_not_fit(two_folders, tmp_path):
    real, made = two_folders
    Image.new("RGB", (48, 40)).save(made / "2.png")
    (made / "1.png").unlink()
    (real / "3.png").write_bytes(b"broken")
    Image.new("RGB", (48, 48)).save(made / "extra.png")
    for name in ("small", "wide"):
        for folder in two_folders:
            Image.new("RGB", (9, 9) if name == "small" else (64, 32)).save(folder / f"{name}.png")
    _, found = compare(two_folders, tmp_path, metrics=["psnr-mean"])
    one = found["psnr-mean"]
    assert (one.value, one.n, one.n_failed, one.n_expected) == (None, 3, 4, 7), "9 x 9 pixels are enough for PSNR"
    _, found = compare(two_folders, tmp_path, partial_ok=True, metrics=["psnr-mean"])
    assert found["psnr-mean"].value is not None and found["psnr-mean"].partial
    rows = [json.loads(line) for line in (tmp_path / one.evidence).read_text().splitlines()]
    reasons = {row["id"]: row.get("error", "") for row in rows}
    assert "no counterpart in" in reasons["1"] and "no counterpart in" in reasons["extra"]
    assert "48x48 and 48x40" in reasons["2"] and "3.png cannot be read" in reasons["3"]
    assert reasons["small"] == reasons["0"] == reasons["wide"] == ""


def test_pairs_of_other_names_or_nothing_are_refused(two_folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no"):
        compare((two_folders[0], tmp_path / "empty"), tmp_path)
    (tmp_path / "other").mkdir()
    Image.new("RGB", (48, 48)).save(tmp_path / "other" / "x.png")
    with pytest.raises(ValueError, match="no image of .*real has a counterpart in .*other: 0, x"):
        compare((two_folders[0], tmp_path / "other"), tmp_path)


# ---------------------------------------------------------------------------------------------------- protocols


def test_protocols_have_records_of_their_own(tmp_path):
    metrics = ["psnr-mean", "psnr-global", "ssim-wang", "ssim-taming"]
    found = {name: score(Blur(4), tmp_path, data="photos", protocol=name, metrics=metrics)[1] for name in PIPELINES}
    assert found["default"]["psnr-mean"].name == "blur4/photos/psnr-mean"
    assert found["vgt"]["psnr-mean"].name == "blur4/photos@vgt/psnr-mean"
    names = [r.name for records in found.values() for r in records.values()]
    assert len(set(names)) == len(names) == len(record.read(tmp_path / "records"))
    for name, records in found.items():
        for one in records.values():
            assert one.protocol == (one.metric if name == "default" else name)
            assert {"model_res", "eval_res", "resampler", "antialias", "quantize"} <= set(one.protocol_params)
    assert found["vgt"]["ssim-taming"].protocol_params["reported_by_its_papers"] is True
    assert found["vgt"]["ssim-wang"].protocol_params["reported_by_its_papers"] is False
    assert found["vgt"]["psnr-mean"].protocol_params["nominal"] == "448 -> 256"
    psnrs = {name: records["psnr-mean"].value for name, records in found.items()}
    assert min(psnrs["vgt"], psnrs["vfmtok"]) > psnrs["default"], "a low-pass filter on both sides flatters"
    assert psnrs["llamagen"] == pytest.approx(psnrs["lightningdit"]) == pytest.approx(psnrs["default"])


def test_float_pixels_are_used_where_a_model_has_them(tmp_path):
    class Floats(Blur):
        name = fingerprint = "floats"

        def reconstruct_float(self, images):
            return ((super().reconstruct(images).astype(np.float32) + 0.3) / 255).clip(0, 1)

    _, exact = score(Floats(4), tmp_path, n=10, protocol="vgt", metrics=["psnr-mean"])
    _, rounded = score(Blur(4), tmp_path, n=10, protocol="vgt", metrics=["psnr-mean"])
    assert exact["psnr-mean"].protocol_params["reconstruction"] == "float"
    assert rounded["psnr-mean"].protocol_params["reconstruction"] == "uint8"
    assert exact["psnr-mean"].value != rounded["psnr-mean"].value
    _, default = score(Floats(4), tmp_path, n=10, metrics=["psnr-mean"])
    assert default["psnr-mean"].protocol_params["reconstruction"] == "uint8"


# ------------------------------------------------------------------------------------------- samples, codebook


def test_samples_lie_beside_records_and_average_to_them(tmp_path):
    metrics = ["psnr-mean", "psnr-global", *pixels.SSIM, "fd-efflite2"]
    _, found = score(Blur(4), tmp_path, data="photos", metrics=metrics)
    for metric in ("psnr-mean", *pixels.SSIM):
        stored = samples.read(tmp_path / "records", found[metric])
        assert np.mean(stored.values) == pytest.approx(found[metric].value, abs=1e-12)
        assert stored.ids[:2] == ["test-00000", "test-00001"] and stored.clusters[0] == "cat"
    for metric in ("psnr-global", "fd-efflite2"):
        assert samples.read(tmp_path / "records", found[metric]) is None
    assert len(found["fd-efflite2"].extra[samples.REPLICATES]) == 10
    even = {"agreement": lambda a, b: np.arange(len(a)) % 2 == 0, "judge": "even-1", "metrics": ["judge-agreement"]}
    _, found = score(Blur(4), tmp_path, **even)
    assert np.mean(samples.read(tmp_path / "records", found["judge-agreement"]).values) == 0.5


def test_codebook_of_a_quantised_tokenizer(tmp_path):
    class Coded(Blur):
        codebook_size = 8

        def indices(self, images):
            return np.tile([0, 0, 1, 2], (len(images), 1)).reshape(len(images), 2, 2)

    usage = ["codebook-usage", "codebook-dead", "codebook-entropy", "codebook-perplexity"]
    _, found = score(Coded(4), tmp_path, n=13, metrics=usage)
    assert found["codebook-usage"].value == 3 / 8 and found["codebook-usage"].n == 13
    assert found["codebook-dead"].value == 5 and "shrinks" in found["codebook-dead"].interval
    assert found["codebook-entropy"].value == pytest.approx(1.5, abs=1e-6)
    assert found["codebook-perplexity"].value == pytest.approx(2**1.5, abs=1e-5)
    assert found["codebook-usage"].extra["indices"] == 13 * 4
    with pytest.raises(ValueError, match="quantised tokenizer"):
        score(Blur(4), tmp_path, n=13, metrics=usage)

    class Wrong(Coded):
        fingerprint = "wrong"

        def indices(self, images):
            return np.full((len(images), 4), 8)

    with pytest.raises(ValueError, match="index 8 is outside the codebook of 8"):
        score(named(Wrong(4), "wrong"), tmp_path, n=13, metrics=usage)


# ----------------------------------------------------------------------------------------------- one metric more


def test_a_further_metric_is_one_row_of_the_table(tmp_path, monkeypatch, capsys):
    """Registered in one place, it has a record with its samples, a direction and a choice on the command line."""
    mae = recon_metrics.PerImage(
        name="mae",
        protocol=Protocol("mae", "recon", "mean absolute error"),
        direction="lower",
        unit="levels",
        defined=lambda tools: {"scale": 255},
        measure=lambda tools: lambda seen: {"value": (255 * (seen.a - seen.b).abs()).double().mean((1, 2, 3))},
    )
    monkeypatch.setitem(recon_metrics.METRICS, "mae", mae)
    options = ["--subject", "fake:identity", "-n", "4", "--size", "32", "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["eval", "recon", "--metrics", "mae,psnr-mean", *options]) == 0
    assert "identity/scenes/mae" in capsys.readouterr().out
    _, found = score(Blur(4), tmp_path, metrics=["mae"])
    one = found["mae"]
    assert (one.unit, one.protocol, one.protocol_params["scale"]) == ("levels", "mae", 255) and one.low <= one.value
    kept = samples.read(tmp_path / "records", one)
    assert len(kept.values) == N and np.mean(kept.values) == pytest.approx(one.value) and one.value > 1
    assert contrasts.better(one) == "lower"
    assert "mae" in score(Blur(2), tmp_path)[1], "measured by default, for it lacks nothing"


# ---------------------------------------------------------------------------------------------------------- PCA


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return pca.pca(tmp_path_factory.mktemp("pca"), count=128)


def test_patches_go_back_to_the_image():
    images = scenes.images("val", range(3))
    np.testing.assert_array_equal(pca.from_patches(pca.to_patches(images), 64, 64), images)
    with pytest.raises(ValueError, match="60x60"):
        pca.to_patches(images[:, :60, :60])


def test_pca_is_a_tokenizer_of_1024_numbers_and_beats_random_directions(fitted, tmp_path):
    images = scenes.images("test", range(20))
    assert isinstance(fitted, Tokenizer) and fitted.name == "pca"
    assert fitted.encode(images).shape == (20, 16, 64) and fitted.encode(images).dtype == np.float32
    np.testing.assert_allclose(fitted.axes.T @ fitted.axes, np.eye(64), atol=1e-5)
    variance = fitted.encode(images).var((0, 1))
    assert variance[0] > variance[5] > variance[40]
    errors = [np.square(t.reconstruct(images).astype(float) - images).mean() for t in (fitted, pca.random_projection())]
    assert errors[0] < errors[1] / 10
    assert pca.pca(tmp_path, count=128).fingerprint == fitted.fingerprint
    assert pca.pca(tmp_path, count=128).fingerprint == fitted.fingerprint  # from disk
    assert fitted.fingerprint != pca.random_projection().fingerprint


# -------------------------------------------------------------------------------------------------- sizes and memory


def test_a_metric_leaves_out_only_the_images_that_are_too_small_for_it(tmp_path):
    rng = np.random.default_rng(0)
    folders = tmp_path / "real", tmp_path / "made"
    for folder in folders:
        folder.mkdir()
        for i, (height, width) in enumerate(((64, 64), (8, 64), (5, 9))):
            Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{i}.png")
    _, found = compare(folders, tmp_path, metrics=["psnr-mean", "psnr-global", "ssim-sk", "ssim-wang"])
    assert {m: (r.n, r.n_failed) for m, r in found.items()} == {
        "psnr-mean": (3, 0), "psnr-global": (3, 0), "ssim-sk": (2, 1), "ssim-wang": (1, 2),
    }  # fmt: skip
    assert found["psnr-mean"].value is not None and not found["psnr-mean"].partial and not found["psnr-mean"].note
    assert found["ssim-wang"].value is None and "1: 64x8 pixels are too few, 11 a side" in found["ssim-wang"].note
    assert "2: 9x5 pixels are too few, 7 a side" in found["ssim-sk"].note
    _, small = score(Blur(1, size=8), tmp_path, data="photos", n=2, metrics=["psnr-mean"])
    assert small["psnr-mean"].value == 100
    with pytest.raises(ValueError, match="8 px; 11 or more"):
        score(Blur(1, size=8), tmp_path, data="photos", n=2, metrics=["psnr-mean", "ssim-wang"])


def test_only_what_is_asked_is_computed(two_folders, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("nobody asked for SSIM")

    monkeypatch.setattr(pixels, "ssim_batch", never)
    monkeypatch.setattr(reconstruction.recon_source.Compared, "a", property(never))
    _, found = compare(two_folders, tmp_path, metrics=["psnr-mean"])
    assert found["psnr-mean"].value is not None


def test_large_pairs_pass_one_at_a_time_and_what_needs_too_much_memory_is_refused(two_folders, tmp_path, monkeypatch):
    groups = []
    original = reconstruction.recon_source.compare
    monkeypatch.setattr(
        reconstruction.recon_source, "compare", lambda *a: groups.append(len(a[1])) or original(*a)
    )  # fmt: skip
    _, together = compare(two_folders, tmp_path / "1", metrics=["psnr-mean", "ssim-wang"])
    assert groups == [4]
    monkeypatch.setattr(reconstruction.recon_source, "GROUP_PIXELS", 48 * 48)
    _, apart = compare(two_folders, tmp_path / "2", metrics=["psnr-mean", "ssim-wang"])
    assert groups == [4, 1, 1, 1, 1]
    assert [r.score() for r in apart.values()] == [r.score() for r in together.values()]
    with pytest.raises(ValueError, match="0 has 0 million pixels, for which psnr-mean.*--metrics.*--memory 1"):
        compare(two_folders, tmp_path / "3", metrics=["psnr-mean"], memory=1e-6)
    assert not (tmp_path / "3").exists()


def test_references_of_llamagen_above_256_are_cropped_from_the_files(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    file = Image.fromarray(photos.crop("test", 1, 448).image).resize((700, 560), Image.Resampling.BICUBIC)
    file.save(mine / "0.png")
    _, found = score(Blur(1, size=384), tmp_path, data=str(mine), n=None, protocol="llamagen", metrics=["psnr-mean"])
    (row,) = read_rows((tmp_path / found["psnr-mean"].evidence).with_name("images.jsonl"))
    assert row["pixels"] == hashlib.sha256(adm_crop(file, 256).tobytes()).hexdigest()
    twice = adm_crop(Image.fromarray(adm_crop(file, 384)), 256)
    assert row["pixels"] != hashlib.sha256(twice.tobytes()).hexdigest()
    params = found["psnr-mean"].protocol_params
    assert (params["reference"], params["original"]) == ("cropped at the size of the comparison", "float")
    small = score(Blur(1, size=64), tmp_path, data=str(mine), n=None, protocol="llamagen", metrics=["psnr-mean"])[1]
    assert "reference" not in small["psnr-mean"].protocol_params, "nothing is resampled"
