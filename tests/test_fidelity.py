"""Fidelity of a set of images to a reference: evidence, resuming, shards, statistics files, bad input, the numbers."""

import argparse
import json
import os
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from parity.fidelity import tiny_network
from PIL import Image

from evals import features
from evals.engine import generation
from evals.engine.registry import protocols
from evals.engine.store import Shard
from evals.features import EXTRACTORS, Source
from evals.fidelity import cli as command
from evals.fidelity import images as sets
from evals.fidelity import run as fidelity
from evals.metrics import entropy, frechet, kernel, manifold
from vgt.core import record, samples

N, D, SIDE = 60, 12, 16
KNOWN = protocols()


# ------------------------------------------------------------------------------------------------ a tiny network


class Counter:
    """A tiny network that counts its images and fails or goes blind on demand."""

    def __init__(self):
        self.seen, self.stop_after, self.blind = 0, None, None

    def build(self, path, device, strict):
        def embed(images):
            self.seen += len(images)
            if self.stop_after is not None and self.seen > self.stop_after:
                raise KeyboardInterrupt
            found = tiny_network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
            if self.blind is not None:
                found[(images == self.blind).all((1, 2, 3))] = np.nan
            return {"pool": found}

        return embed, {"pool": D}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    counter = Counter()
    weights = tmp_path / "tiny.weights"
    weights.write_bytes(b"weights")
    for name in ("tiny", "tiny-2"):
        monkeypatch.setitem(features.SOURCES, name, Source(name, counter.build, locate=lambda: weights))
        monkeypatch.setitem(EXTRACTORS, name, {"side": None, "resize": "none", "layer": "pooled", "input": "x / 255"})
    features._loaded.cache_clear()
    yield counter
    features._loaded.cache_clear()


def sample_images(seed, n=N, top=256):
    """Images that differ in brightness, so that features spread."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, top, (n, SIDE, SIDE, 3)) * rng.uniform(0.2, 1, (n, 1, 1, 3))).astype(np.uint8)


def folder(path, images):
    path.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f"{i:04d}.png")
    return path


@pytest.fixture
def sides(tmp_path):
    """(generated, real): two folders, as a subject and as a reference."""
    return f"folder:{folder(tmp_path / 'generated', sample_images(1, top=200))}", str(
        folder(tmp_path / "real", sample_images(2))
    )


@pytest.fixture
def score(tmp_path, tiny):
    return partial(
        fidelity.run, work=tmp_path / "work", records=tmp_path / "work" / "records", extractors=["tiny"], batch=8
    )


def files_of(root):
    return {
        p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.suffix != ".lock"
    }


# ------------------------------------------------------------------------------------------------------ numbers


def test_every_metric_is_a_record_with_an_interval_or_a_reason(sides, score, tmp_path):
    outcome = score(sides[0], real=sides[1], metrics=["fd", "kid", "prdc", "cmmd"])
    found = {r.metric: r for r in outcome.records}
    assert set(found) == {f"{m}-tiny" for m in ("fd", "kid", "precision", "recall", "density", "coverage", "cmmd")}
    for r in outcome.records:
        assert r.model == "folder:generated" and r.suite == "folder-real" and not r.partial and r.n == N
        assert r.low <= r.value <= r.high and r.interval and r.protocol in KNOWN and r.extra["n_real"] == N
        assert r.protocol_params["features"] == "tiny" and r.protocol_params["preprocessing"] == f"adm-crop {SIDE}"
    assert found["fd-tiny"].protocol == "frechet-unpaired" and len(found["fd-tiny"].extra["replicates"]) == 20
    raw = [tiny_network(torch.from_numpy(x).permute(0, 3, 1, 2)).double().numpy() for x in
           (sample_images(1, top=200), sample_images(2))]  # fmt: skip
    assert found["fd-tiny"].value == pytest.approx(frechet.from_features(*raw), rel=1e-6)
    assert found["precision-tiny"].value == manifold.precision_recall(*raw)[0].mean()
    stored = samples.read(tmp_path / "work" / "records", found["recall-tiny"])
    assert len(stored.ids) == N and np.mean(stored.values) == pytest.approx(found["recall-tiny"].value)
    assert samples.read(tmp_path / "work" / "records", found["fd-tiny"]) is None


def test_equal_sets(tmp_path, score):
    spec = str(folder(tmp_path / "real", sample_images(2)))
    outcome = score(f"folder:{spec}", real=spec, paired=True, metrics=["fd", "kid", "prdc"])
    found = {r.metric: r.value for r in outcome.records}
    assert found["fd-tiny"] < 1e-6 and found["precision-tiny"] == found["recall-tiny"] == found["coverage-tiny"] == 1
    assert found["kid-tiny"] < 0
    assert outcome.records[0].protocol == "frechet-paired" and outcome.records[0].suite == "folder-real-paired"


def test_extrapolation_and_constants():
    rng = np.random.default_rng(0)
    x, true = rng.normal(size=(1000, 12)), frechet.Gaussian(np.zeros(12), np.eye(12))
    value, points = frechet.infinite(x, true, rng)
    assert len(points) == frechet.POINTS and (points[0][0], points[-1][0]) == (100, 1000)
    assert points[0][1] > 5 * points[-1][1] > 0  # FID falls with N
    assert abs(value) < 0.5 * points[-1][1]
    with pytest.raises(ValueError, match="129 images of 12 dimensions.*give 130"):
        frechet.infinite(x[:129], true, rng)
    settings = {name: p.settings for name, p in KNOWN.items()}
    assert (
        settings["kid-subsets"]["subsets"] == kernel.SUBSETS and settings["kid-subsets"]["size"] == kernel.SUBSET_SIZE
    )
    assert settings["is-10"]["splits"] == entropy.SPLITS and settings["is-5000"]["chunk"] == entropy.CHUNK
    assert settings["precision-recall"]["k"] == manifold.NEAREST_PR
    assert settings["density-coverage"]["k"] == manifold.NEAREST_DC and settings["cmmd"]["scale"] == kernel.SCALE


def test_inception_score_closed_forms():
    confident = np.eye(5).repeat(4, 0) * 1000  # every class equally often, each image certain
    blocks = np.arange(20) % 4
    assert entropy.inception_score(confident, "is-1", blocks)[0].value == pytest.approx(5)
    assert entropy.inception_score(np.zeros((20, 5)), "is-10", blocks)[0].value == pytest.approx(1)
    with pytest.raises(ValueError, match="is-10 of 9 images"):
        entropy.inception_score(np.zeros((9, 5)), "is-10", blocks[:9])


def test_jackknife_errors_are_about_right():
    rng = np.random.default_rng(0)
    blocks = np.arange(200) % 20
    draws = [rng.normal(size=(2, 200, 4)) for _ in range(40)]
    for measure in (kernel.kid, kernel.cmmd):
        found = [measure(a, b + 0.5, blocks, blocks) for a, b in draws]
        spread = np.std([f.value for f in found])
        widths = [(f.interval().high - f.interval().low) / 2 / 2.09 for f in found]
        assert 0.6 < np.mean(widths) / spread < 1.6


# --------------------------------------------------------------------------------------------- evidence, resuming


def test_records_come_from_evidence_that_stands(sides, score, tiny, tmp_path):
    score(sides[0], real=sides[1])
    seen = tiny.seen
    again = score(sides[0], real=sides[1])
    assert again.computed == 0 and again.reused == 6 and tiny.seen == seen
    (tmp_path / "work/records/folder-generated/folder-real/kid-tiny.json").unlink()
    third = score(sides[0], real=sides[1])
    assert third.computed == 1 and third.reused == 5 and tiny.seen == seen + 4  # the canaries alone


def test_a_killed_run_and_shards_end_with_the_same_bytes(sides, score, tiny, tmp_path):
    score(sides[0], real=sides[1], metrics=["fd", "kid"])
    whole = files_of(tmp_path / "work" / "fidelity")
    assert len(whole) == 2 * 20 * 3
    shutil.rmtree(tmp_path / "work")
    tiny.stop_after = tiny.seen + 40
    with pytest.raises(KeyboardInterrupt):
        score(sides[0], real=sides[1], metrics=["fd", "kid"])
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "work" / "fidelity").rglob("index-*.json")}
    assert 0 < len(kept) < 20
    tiny.stop_after = None
    score(sides[0], real=sides[1], metrics=["fd", "kid"])
    assert files_of(tmp_path / "work" / "fidelity") == whole
    first = next(p for p in (tmp_path / "work" / "fidelity").rglob("index-00.json") if "generated" in p.parent.name)
    assert first.stat().st_mtime_ns == kept["index-00.json"]  # not done twice

    shutil.rmtree(tmp_path / "work")
    for part in (Shard(1, 3), Shard(0, 3), Shard(2, 3)):
        assert score(sides[0], real=sides[1], metrics=["fd", "kid"], shard=part).records == []
    seen = tiny.seen
    score(sides[0], real=sides[1], metrics=["fd", "kid"])
    assert tiny.seen == seen + 4 and files_of(tmp_path / "work" / "fidelity") == whole


def test_features_that_are_not_finite_name_the_image(tmp_path, score, tiny):
    images = sample_images(1)
    images[45] = 7
    subject = f"folder:{folder(tmp_path / 'generated', images)}"
    real = str(folder(tmp_path / "real", sample_images(2)))
    tiny.blind = 7
    with pytest.raises(ValueError, match=r"image 0045 are not finite"):
        score(subject, real=real)
    assert list((tmp_path / "work" / "fidelity").rglob("index-00.json"))  # what was done stays


# -------------------------------------------------------------------------------------------------------- bad input


def test_unreadable_images_withhold_the_value(sides, score, tmp_path):
    (tmp_path / "generated" / "0007.png").write_bytes(b"\x89PNG broken")
    broken = score(sides[0], real=sides[1], metrics=["fd", "precision"]).records
    for r in broken:
        assert r.value is None and r.partial and (r.n, r.n_failed) == (N - 1, 1) and "0007.png" in r.note
    allowed = score(sides[0], real=sides[1], metrics=["fd", "precision"], partial_ok=True).records
    assert all(r.value is not None and r.partial for r in allowed)
    assert len(samples.read(tmp_path / "work" / "records", allowed[1]).ids) == N - 1
    with pytest.raises(ValueError, match="0007 can be read on one side alone"):
        score(sides[0], real=sides[1], metrics=["fd"], paired=True, partial_ok=True)
    with pytest.raises(ValueError, match="nothing exported"):
        score(sides[0], export=tmp_path / "s.npz")


def test_a_part_of_the_images_is_partial(sides, score):
    (found,) = score(sides[0], real=sides[1], metrics=["kid"], n=30).records
    assert found.partial and (found.n, found.n_expected) == (30, N) and found.value is not None


def test_more_images_than_there_are_and_parts_of_an_evaluators_images_are_partial(sides, score, tmp_path, made):
    (found,) = score(sides[0], real=sides[1], metrics=["kid"], n=N + 5).records
    assert found.partial and (found.n, found.n_expected) == (N, N + 5)
    (found,) = score(sides[0], real=sides[1], metrics=["kid"]).records
    assert not found.partial
    whole = made("star", "a-1-s0", n=N)  # 120 prompts of the suite, four images each
    (found,) = score("images:star", real=sides[1], metrics=["kid"]).records
    assert found.partial and (found.n, found.n_expected) == (N, 480)
    (found,) = score(sides[0], real=f"folder:{whole}", metrics=["kid"]).records
    assert found.partial and (found.n, found.n_expected) == (N, N)
    assert found.extra["n_real_expected"] == 480 and f"{N} of 480 real images" in found.note
    mine = made("odd", "a-1-s0", n=6, suite="my_prompts")
    for prompt in mine.glob("0*"):
        (prompt / "metadata.jsonl").write_text("{}")
    (found,) = score("images:odd", real=sides[1], metrics=["kid"]).records
    assert found.partial and (found.n, found.n_expected) == (6, 24)


def test_an_interval_of_a_distance_says_what_it_is_about(sides, score):
    found = {r.metric: r for r in score(sides[0], real=sides[1], metrics=["fd", "kid"]).records}
    assert frechet.FINITE in found["fd-tiny"].note and not found["kid-tiny"].note


def test_sizes(sides, score, tmp_path):
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "generated" / "zzz.png")
    with pytest.raises(ValueError, match="0000.png is 16 and zzz.png 20 pixels wide; give --size"):
        score(sides[0], real=sides[1])
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "generated" / "zzz.png")
    with pytest.raises(ValueError, match="zzz.png is 30x20 pixels; give --size"):
        score(sides[0], real=sides[1])
    (found,) = score(sides[0], real=sides[1], metrics=["kid"], size=8).records
    assert found.n == N + 1 and found.protocol_params["preprocessing"] == "adm-crop 8"


def test_fewer_images_than_dimensions(sides, score, tiny):
    with pytest.raises(ValueError, match="12 images are too few for a Frechet distance of 12 dimensions.*kid"):
        score(sides[0], real=sides[1], n=12)
    assert tiny.seen == 0
    (found,) = score(sides[0], real=sides[1], n=12, metrics=["fd"], allow_few=True).records
    assert "12 images for 12 dimensions" in found.note and found.value > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ["fid9"]}, "'fid9' is unknown; choose from fd"),
        ({"metrics": ["sfid"]}, "sfid is defined on the Inception network"),
        ({"metrics": ["is"]}, "is-10 is defined on the Inception network"),
        ({"metrics": ["kid-subsets"]}, "kid-subsets needs 1000 images, folder-generated has 60"),
        ({"extractors": ["vgg"]}, "'vgg' are unknown"),
        ({"real": "nowhere"}, "'nowhere' is not there"),
        ({"real": None}, "--real is missing"),
        ({"real": None, "metrics": ["kid"]}, "--real is missing"),
        ({"export": "s.npz", "extractors": ["tiny", "tiny-2"]}, "statistics of one extractor"),
    ],
)
def test_settings_that_cannot_be_measured(sides, score, tiny, settings, message):
    with pytest.raises(ValueError, match=message):
        score(sides[0], **{"real": sides[1], **settings})
    assert tiny.seen == 0


def test_paired_sets_have_the_same_names(sides, score, tmp_path):
    (tmp_path / "generated" / "0003.png").rename(tmp_path / "generated" / "other.png")
    with pytest.raises(ValueError, match="0003 is not on both sides"):
        score(sides[0], real=sides[1], paired=True)
    with pytest.raises(ValueError, match="holds no"):
        (tmp_path / "empty").mkdir()
        score(f"folder:{tmp_path / 'empty'}", real=sides[1])
    with pytest.raises(ValueError, match="is no set of images"):
        score("vgt:some", real=sides[1])


# ----------------------------------------------------------------------------------------------- statistics files


def test_exported_statistics_stand_in_for_their_images(sides, score, tmp_path):
    direct = score(sides[0], real=sides[1], metrics=["fd"]).records[0]
    path = tmp_path / "real.npz"
    assert score(f"folder:{sides[1]}", export=path).records == []
    with np.load(path) as stored:
        assert stored["mu"].shape == (D,) and stored["sigma"].shape == (D, D)
        assert json.loads(str(stored["fingerprint"]))["count"] == N
    found = score(sides[0], real=str(path), metrics=["fd"]).records[0]
    assert found.suite == "stats-real" and found.value == pytest.approx(direct.value, rel=1e-9)
    assert found.extra["n_real"] == N and found.high - found.low < direct.high - direct.low
    with pytest.raises(ValueError, match="kid needs the reference images themselves"):
        score(sides[0], real=str(path), metrics=["kid"])


def test_statistics_of_another_kind_are_refused(sides, score, tmp_path):
    path = tmp_path / "real.npz"
    score(f"folder:{sides[1]}", export=path)
    with pytest.raises(ValueError, match="preprocessing 'adm-crop 16'.*'adm-crop 8'"):
        score(sides[0], real=str(path), metrics=["fd"], size=8)
    with pytest.raises(ValueError, match="extractor 'tiny'.*'tiny-2'"):
        score(sides[0], real=str(path), metrics=["fd"], extractors=["tiny-2"])
    score(sides[0], real=str(path), metrics=["fd"], paired=True)  # the same names: these are its originals
    shutil.rmtree(tmp_path / "generated")
    training = f"folder:{folder(tmp_path / 'generated', sample_images(1, n=N + 1))}"
    with pytest.raises(ValueError, match="60 other images than the 61.*rFID compares"):
        score(training, real=str(path), metrics=["fd"], paired=True)


def test_statistics_made_elsewhere(sides, score, tmp_path):
    raw = tiny_network(torch.from_numpy(sample_images(2)).permute(0, 3, 1, 2)).double().numpy()
    arrays = {"mu": raw.mean(0), "sigma": np.cov(raw, rowvar=False)}
    np.savez(tmp_path / "adm.npz", **arrays, arr_0=sample_images(2))
    found = {r.metric: r for r in score(sides[0], real=str(tmp_path / "adm.npz"), metrics=["fd", "prdc"]).records}
    direct = {r.metric: r for r in score(sides[0], real=sides[1], metrics=["fd", "prdc"]).records}
    assert "unverified" in found["fd-tiny"].note and not found["recall-tiny"].note
    assert found["fd-tiny"].value == pytest.approx(direct["fd-tiny"].value, rel=1e-6)
    assert found["recall-tiny"].value == direct["recall-tiny"].value
    with pytest.raises(ValueError, match="no fingerprint.*not for rFID"):
        score(sides[0], real=str(tmp_path / "adm.npz"), metrics=["fd"], paired=True)
    np.savez(tmp_path / "other.npz", mu=np.zeros(5), sigma=np.eye(5))
    with pytest.raises(ValueError, match="5 dimensions, tiny features have 12: .*another extractor"):
        score(sides[0], real=str(tmp_path / "other.npz"), metrics=["fd"])


def test_damaged_statistics(tmp_path):
    for name, arrays, message in (
        ("shape", {"mu": np.zeros(4), "sigma": np.eye(5)}, "do not fit"),
        ("nan", {"mu": np.full(2, np.nan), "sigma": np.eye(2)}, "not finite"),
        ("empty", {"x": np.zeros(2)}, "need mu and sigma"),
        ("skew", {"mu": np.zeros(2), "sigma": np.array([[1, 0.5], [0.4, 1]])}, "skew.npz .* not symmetric"),
        ("negative", {"mu": np.zeros(2), "sigma": np.diag([1, -0.01])}, "negative.npz .* not positive semidefinite"),
        ("mixed", {"mu": np.zeros(2), "sigma": np.array([[1, 2], [2, 1]])}, "not positive semidefinite .eigenvalue -1"),
        ("words", {"mu": np.array(["1", "2"]), "sigma": np.eye(2)}, "words.npz: mu holds <U1 and not real numbers"),
        ("complex", {"mu": np.zeros(2), "sigma": np.eye(2) * 1j}, "complex.npz: sigma holds complex128"),
        ("flags", {"mu": np.zeros(2), "sigma": np.eye(2, dtype=bool)}, "flags.npz: sigma holds bool"),
        (
            "objects",
            {"mu": np.zeros(2), "sigma": np.array([{}, 1])},
            "objects.npz: sigma cannot be read .Object arrays",
        ),
    ):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(ValueError, match=message):
            sets.read_statistics(tmp_path / f"{name}.npz")
    rounded = np.cov(np.random.default_rng(0).standard_normal((3, 9)), rowvar=False).astype(np.float32)  # singular
    np.savez(tmp_path / "rounded.npz", mu=np.zeros(9, np.float32), sigma=rounded)
    assert sets.read_statistics(tmp_path / "rounded.npz").gaussians["pool"].covariance.shape == (9, 9)
    np.savez(tmp_path / "images.npz", arr_0=np.array([{}, 1]))
    with pytest.raises(ValueError, match=r"images\.npz: arr_0 cannot be read"):
        sets.subject(str(tmp_path / "images.npz"), None, None, tmp_path)
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(ValueError, match="cannot be read as npz"):
        sets.read_statistics(tmp_path / "text.npz")


def test_samples_as_npz(sides, score, tmp_path):
    np.savez(tmp_path / "samples.npz", arr_0=sample_images(1, top=200))
    (found,) = score(str(tmp_path / "samples.npz"), real=sides[1], metrics=["fd"]).records
    direct = score(sides[0], real=sides[1], metrics=["fd"]).records[0]
    assert found.subject == "npz:samples" and found.value == pytest.approx(direct.value, rel=1e-9)
    np.savez(tmp_path / "float.npz", arr_0=np.zeros((3, 4, 4, 3)))
    with pytest.raises(ValueError, match="arr_0 is float64"):
        score(str(tmp_path / "float.npz"), real=sides[1])


def test_overviews_of_genevals_layout_are_no_samples(tmp_path, score, sides):
    for i, image in enumerate(sample_images(1, n=15)):
        folder(tmp_path / "geneval" / f"{i:05d}" / "samples", [image])
        Image.fromarray(np.tile(image, (2, 2, 1))).save(tmp_path / "geneval" / f"{i:05d}" / "grid.png")
    (found,) = score(f"folder:{tmp_path / 'geneval'}", real=sides[1], metrics=["kid"]).records
    assert found.n == found.n_expected == 15


# ------------------------------------------------------------------------------------------------------ command


def test_the_command(sides, tiny, tmp_path, monkeypatch):
    parser = argparse.ArgumentParser()
    command.Options.add(parser)

    def run(*argv):
        return command.evaluate(command.Options.read(parser.parse_args([*texts, "--device", "cpu", *argv])))

    texts = ["--subject", sides[0], "--real", sides[1], "--features", "tiny", "--metrics", "fd,kid", "--batch", "8"]
    outcome = run("--out", str(tmp_path / "work"))
    assert [r.metric for r in outcome.records] == ["fd-tiny", "kid-tiny"]
    assert len(record.read(tmp_path / "work" / "records")) == 2
    part = run("--out", str(tmp_path / "part"), "--shards", "1/2")
    assert part.records == [] and list((tmp_path / "part").rglob("index-00.json"))
    assert command.weights(["tf-compat=a.pth", "clip=b"], ["tf-compat", "clip"]) == {
        "tf-compat": "a.pth",
        "clip": "b",
    }
    assert command.weights(["odd=name.pth"], ["clip"]) == {"clip": "odd=name.pth"}
    for given, features_asked, why in (
        (["clip=b"], ["dinov2"], "clip would do nothing: --features are dinov2"),
        (["efflite2=b"], ["efflite2"], "come with a package"),
        (["b"], ["efflite2"], "come with a package"),
    ):
        with pytest.raises(ValueError, match=why):
            command.weights(given, features_asked)
    with pytest.raises(ValueError, match="efflite2 come with a package; leave the weights other.pth out"):
        features.load("efflite2", "other.pth")
    with pytest.raises(ValueError, match="does not say for which features"):
        command.weights(["a.pth"], ["tf-compat", "clip"])


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--seed", "3"], "--seed 3"),
        (["--guidance", "2.0"], "--guidance 2.0"),
        (["--autoencoder", "x"], "--autoencoder x"),
    ],
)
def test_options_that_would_do_nothing_are_refused(sides, tiny, argv, named):
    parser = argparse.ArgumentParser()
    command.Options.add(parser)
    texts = ["--subject", sides[0], "--real", sides[1], "--features", "tiny", "--device", "cpu"]
    with pytest.raises(ValueError, match=f"{named} would do nothing.*made already"):
        command.evaluate(command.Options.read(parser.parse_args([*texts, *argv])))
    texts = ["--subject", sides[0], "--metrics", "is", "--features", "tiny", "--device", "cpu", "--paired"]
    with pytest.raises(ValueError, match="--paired would do nothing: there is no --real"):
        command.evaluate(command.Options.read(parser.parse_args(texts)))


def test_a_reference_folder_of_a_built_in_name(sides, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    command.Options.add(parser)

    def run(real):
        texts = ["--subject", sides[0], "--features", "tiny", "--metrics", "kid", "--device", "cpu", "--real", real]
        return command.evaluate(command.Options.read(parser.parse_args(texts))).records[0].suite

    assert run("photos") == "photos"
    (tmp_path / "real").rename("photos")
    with pytest.raises(ValueError, match="--real photos is both.*built-in:photos or folder:photos"):
        run("photos")
    assert [run(real) for real in ("folder:photos", "./photos", "built-in:photos")] == [
        *["folder-photos"] * 2,
        "photos",
    ]


def test_no_feature_depends_on_its_neighbours(tmp_path, score, sides):
    """One padded batch shape: fewer images, the same bytes for each."""
    score(sides[0], real=sides[1], metrics=["kid"])
    score(sides[0], real=sides[1], metrics=["kid"], n=3)
    root = tmp_path / "work" / "fidelity"
    found = {len(list(p.glob("index-*.json"))): p for p in root.iterdir() if "generated" in p.name}
    few, many = found[1], found[20]
    rows = [np.load(many / f"features-pool-{b:02d}.npz")["values"][0] for b in range(3)]
    np.testing.assert_array_equal(np.load(few / "features-pool-00.npz")["values"], rows)


def test_large_images_pass_one_at_a_time(sides, score, tiny, monkeypatch):
    shapes = []
    monkeypatch.setattr(features, "LARGE", SIDE * SIDE)
    monkeypatch.setattr(features, "padded", lambda images, batch: pytest.fail("padded"))
    stack = np.stack
    monkeypatch.setattr(np, "stack", lambda x: shapes.append(len(list(x))) or stack(x))
    (found,) = score(sides[0], real=sides[1], metrics=["kid"]).records
    assert found.n == N and sorted(set(shapes)) == [1, 4], "the canaries are four"


def test_moments_are_merged_in_a_fixed_order():
    parts = [frechet.moments(np.random.default_rng(i).normal(size=(5, 3))) for i in range(4)]
    assert [m.count for m in frechet.merged(parts, 2)] == [10, 10]
    np.testing.assert_array_equal(frechet.total(parts).outer, frechet.total(list(parts)).outer)


@pytest.fixture
def made(tmp_path):
    """What writes images as GenEval's evaluator leaves them: made(model, folder, seed, **identity)."""

    def write(model, name, seed=0, n=N, **identity):
        folder = tmp_path / "work/geneval" / model / name
        rng = np.random.default_rng(seed)
        for i in range(n):
            where = folder / f"{i:05d}/samples/0000.png"
            where.parent.mkdir(parents=True)
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(where)
        (folder / "subject.json").write_text(json.dumps({"model": model, "suite": "scenes-geneval", **identity}))
        return folder

    return write


def test_images_that_geneval_made(tiny, tmp_path, made):
    """They carry the generator's name and acceleration, and any other model's images can be the reference."""
    for seed, model in enumerate(("oracle", "star@4x")):
        made(model, "scenes-geneval-0-s0", seed)
    common = {"work": tmp_path / "work", "records": tmp_path / "records", "extractors": ["tiny"], "metrics": ["kid"]}
    (found,) = fidelity.run("images:star@4x", real="images:oracle", **common).records
    assert found.name == "star@4x/images-oracle/kid-tiny" and found.accel == 4 and found.n == N
    assert found.partial, "one image of half of the prompts"
    assert "settings" not in found.extra
    made("moon@4x", "scenes-geneval-0-s0", 1, settings={"guidance": 1.0})
    (told,) = fidelity.run("images:moon@4x", real="images:oracle", **common).records
    assert told.extra["settings"] == {"guidance": 1.0}, "what `vgt compare` and `vgt gate` look at"
    assert fidelity.run("images:star@4x", real="images:oracle", **common).reused == 1
    with pytest.raises(ValueError, match="holds no images; make them first"):
        fidelity.run("images:nobody", real="images:oracle", **common)


def test_of_several_sets_of_a_model_the_content_decides(tmp_path, made):
    """Neither the time of a folder nor its name: the prompts of the other side, and what the records were made from."""
    work = tmp_path / "work"
    of_star = made("star", "a-1-s0", n=2, suite_hash="one", seed=0)
    fitting = made("oracle", "a-1-s0", n=2, suite_hash="one", seed=0)
    newest = made("oracle", "b-2-s0", n=2, suite_hash="two", seed=0)
    os.utime(fitting / "subject.json", (1, 1))
    assert sets.generated("oracle", work, like=of_star) == fitting
    with pytest.raises(ValueError) as error:
        sets.generated("oracle", work)
    assert str(fitting) in str(error.value) and str(newest) in str(error.value)
    made("star", "b-2-s0", n=2, suite_hash="two", seed=0)
    judged = record.make(
        subject="star", suite="scenes-geneval", metric="overall", value=0.5, n=2, n_expected=2, protocol="geneval",
        fingerprint="f", suite_hash="one", key="k", evidence="geneval/star/a-1-s0/detections.jsonl",
    )  # fmt: skip
    record.write(judged, work / "records")
    assert sets.generated("star", work) == of_star
    found = sets.real("images:oracle", None, SIDE, work, "images:star")
    np.testing.assert_array_equal(found.load(0), np.asarray(Image.open(fitting / "00000/samples/0000.png")))


def test_a_class_conditional_generator_is_compared_by_equally_many_images_of_each_class(sides, score, tmp_path):
    class ByClass:
        name, fingerprint, conditions, classes = "by-class", "by-class-1", "labels", 4
        asked = 0

        def generate(self, asked, seeds):
            self.asked += len(asked)
            pairs = zip(asked, seeds, strict=True)
            return np.stack([sample_images([label, seed], 1, 60 * (label + 1))[0] for label, seed in pairs])

    made = ByClass()
    shared = {"real": sides[1], "metrics": ["kid"]}
    (found,) = score(generation.of_classes(made, N - N % 4, 0, 8), **shared).records
    assert (found.subject, found.n, found.n_expected, found.partial) == ("by-class", N - N % 4, 50_000, True)
    drawn = made.asked
    (fewer,) = score(generation.of_classes(made, 40, 0, 8), **shared).records
    assert fewer.n == 40 and made.asked == drawn, "a part of what is there: ten of each class"
    (again,) = score(generation.of_classes(ByClass(), 40, 0, 8), **{**shared, "work": tmp_path / "fresh"}).records
    assert again.value == fewer.value
