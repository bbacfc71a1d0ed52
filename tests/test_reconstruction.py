"""Reconstruction scores from end to end: identity, evidence, resuming, folders, pairs, the PCA baseline."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from evals import reconstruction
from evals.api import Tokenizer
from evals.metrics import ssim
from evals.subjects import pca
from vgt.core import photos, record, scenes

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
    for variant in ssim.VARIANTS:
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
        assert one.protocol_params["quantize"] == "round" and one.protocol_params["cluster"] == "picture"
        assert (tmp_path / one.evidence).is_file() and str(tmp_path) not in one.model_dump_json()
    assert found["psnr-global"].value <= found["psnr-mean"].value < 40
    assert found["ssim-taming"].value > found["ssim-sk"].value
    assert "over 4 clusters" in found["psnr-mean"].interval and "jackknife" in found["fd-efflite2"].interval
    assert "definition" in found["ssim-wang"].protocol_params
    rows = [json.loads(line) for line in (tmp_path / found["psnr-mean"].evidence).read_text().splitlines()]
    assert found["psnr-mean"].value == pytest.approx(np.mean([r["psnr"] for r in rows]))
    assert found["psnr-global"].value == pytest.approx(-10 * np.log10(np.mean([r["mse"] for r in rows])))
    assert rows[0]["id"] == "test-00000" and rows[0]["cluster"] == "cat"
    with Image.open(tmp_path / found["psnr-mean"].extra["picture"]) as picture:
        assert picture.size == (64 * 10, 128)


def test_worse_models_score_worse(tmp_path):
    (_, fine), (_, coarse) = (score(Blur(by), tmp_path) for by in (2, 8))
    for metric in ("psnr-mean", *ssim.VARIANTS):
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

    assert score(Other(4), tmp_path, judge="a-2", n=N + 1, **same)[0].computed == 2


def test_the_result_does_not_depend_on_the_batch(tmp_path):
    outcomes = [
        reconstruction.run(
            Blur(4), work=tmp_path / str(b), records=tmp_path / str(b) / "r", data="scenes", n=N, batch=b,
            metrics=reconstruction.PIXELS,
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
        ({"protocol": "vgt"}, "protocol 'vgt'"),
        ({"metrics": ["ssim"]}, "'ssim' is unknown.*ssim-wang"),
        ({"metrics": ["judge-agreement"]}, "needs a judge"),
        ({"agreement": lambda a, b: a}, "without a judge"),
        ({"data": "nowhere"}, "no folder nowhere"),
    ],
)
def test_impossible_requests_are_refused_before_any_work(tmp_path, options, message):
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


def test_pairs_of_folders(two_folders, tmp_path):
    outcome = reconstruction.pairs(*two_folders, work=tmp_path, records=tmp_path / "records")
    assert [r.metric for r in outcome.records] == ["psnr-mean", "psnr-global", *ssim.VARIANTS]
    errors = [
        np.square((np.asarray(Image.open(a), float) - np.asarray(Image.open(b), float)) / 255).mean()
        for a, b in zip(*(sorted(f.iterdir()) for f in two_folders), strict=True)
    ]
    assert outcome.records[0].value == pytest.approx(np.mean(-10 * np.log10(errors)))
    assert outcome.records[1].value == pytest.approx(-10 * np.log10(np.mean(errors)))
    assert outcome.records[0].n == 4 and not outcome.records[0].partial
    assert len(record.read(tmp_path / "records")) == 7
    assert reconstruction.pairs(*two_folders).records[0].value == outcome.records[0].value


def test_pairs_name_what_does_not_fit(two_folders):
    real, made = two_folders
    Image.new("RGB", (48, 40)).save(made / "2.png")
    with pytest.raises(ValueError, match="2: the two images are 48x48 and 48x40"):
        reconstruction.pairs(real, made)
    (made / "2.png").unlink()
    with pytest.raises(ValueError, match="2.png has no counterpart in .*made"):
        reconstruction.pairs(real, made)
    (real / "2.png").unlink()
    for folder in two_folders:
        Image.new("RGB", (9, 9)).save(folder / "3.png")
    with pytest.raises(ValueError, match="3: an image of 9x9 is too small"):
        reconstruction.pairs(real, made)


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
