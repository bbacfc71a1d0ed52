"""The numbers of ADM's evaluator (docs/evaluators.md 1.7), against an independent reading of its formulas on the same
features: a class-conditional generator with uniform labels and a reference file in ADM's layout."""

import zipfile
from functools import partial

import numpy as np
import pytest
from scipy import linalg

from evals import features
from evals.engine import generation
from evals.features import Source
from evals.fidelity import run as fidelity
from evals.metrics import entropy
from evals.recon import run as recon
from vgt.core import scenes

SIDE, N, D, S, K = 8, 120, 6, 5, 9
RNG = np.random.default_rng(0)
POOL, SPATIAL = RNG.normal(size=(SIDE * SIDE * 3, D)), RNG.normal(size=(SIDE * SIDE * 3, S))
LAST = RNG.normal(size=(K, D))  # weights of the last layer; its bias is no part of the score


def tiny_inception(images):
    step = images.shape[1] // SIDE
    flat = images[:, ::step, ::step].reshape(len(images), -1) / 255
    pool = flat @ POOL / 5
    return {"pool": pool, "spatial": flat @ SPATIAL, "logits": pool @ LAST.T}


class ByClass:
    name, fingerprint, conditions, classes = "by-class", "by-class-1", "labels", 7

    def __init__(self):
        self.labels = []

    def generate(self, asked, seeds):
        self.labels += list(asked)
        drawn = [np.random.default_rng(seed).integers(0, 40 + 30 * k, (SIDE, SIDE, 3)) for k, seed in
                 zip(asked, seeds, strict=True)]  # fmt: skip
        return np.array(drawn, np.uint8)


@pytest.fixture
def score(tmp_path, monkeypatch):
    weights = tmp_path / "tiny.weights"
    weights.write_bytes(b"weights")
    seen = []
    for name, dims in (("tf-compat", {"pool": D, "spatial": S, "logits": K}), ("efflite2", {"pool": D})):

        def build(path, device, strict, dims=dims):
            def embed(images):
                seen.append(len(images))
                return {view: tiny_inception(images)[view] for view in dims}

            return embed, dims

        monkeypatch.setitem(features.SOURCES, name, Source(name, build, locate=lambda: weights))
    features._loaded.cache_clear()
    made = partial(fidelity.run, work=tmp_path / "w", records=tmp_path / "w/records", extractors=["tf-compat"], batch=8)
    made.seen = seen
    yield made
    features._loaded.cache_clear()


def reference(path, side=SIDE, **left_out):
    """A file in ADM's layout: the statistics are of more images than lie beside them."""
    train = RNG.integers(0, 256, (300, side, side, 3)).astype(np.uint8)
    found = tiny_inception(train) if side == SIDE else {"pool": np.eye(D + 1)[:, :D], "spatial": np.eye(S + 1)[:, :S]}
    arrays = {"arr_0": train[:50]}
    for view, end in (("pool", ""), ("spatial", "_s")):
        arrays |= {f"mu{end}": found[view].mean(0), f"sigma{end}": np.cov(found[view], rowvar=False)}
    np.savez(path, **{name: array for name, array in arrays.items() if name not in left_out})
    return arrays


def adm_frechet(samples, mu, sigma):
    own, covariance = samples.mean(0), np.cov(samples, rowvar=False)
    root = linalg.sqrtm(covariance @ sigma).real
    return np.sum((own - mu) ** 2) + np.trace(covariance) + np.trace(sigma) - 2 * np.trace(root)


def adm_inception_score(pool, split):
    scores = []
    for start in range(0, len(pool), split):
        e = np.exp(pool[start : start + split] @ LAST.T)
        p = e / e.sum(1, keepdims=True)
        divergence = p * (np.log(p) - np.log(p.mean(0, keepdims=True)))
        scores.append(np.exp(divergence.sum(1).mean()))
    return np.mean(scores)


def adm_precision_recall(real, samples):
    def radii(x):
        return np.sort(np.linalg.norm(x[:, None] - x[None], axis=-1), axis=1)[:, 3]  # place 0 is the image itself

    between = np.linalg.norm(samples[:, None] - real[None], axis=-1)
    return (between <= radii(real)[None]).any(1).mean(), (between <= radii(samples)[:, None]).any(0).mean()


def test_every_number_is_adms(tmp_path, score, monkeypatch):
    monkeypatch.setattr(entropy, "CHUNK", 50)
    arrays = reference(tmp_path / "adm.npz")
    made = ByClass()
    run = generation.of_classes(made, N, seed=3, batch=8, labels="uniform")
    found = {r.metric: r for r in score(run, real=str(tmp_path / "adm.npz"), metrics=["adm"]).records}
    assert list(found) == [f"{m}-tf-compat" for m in ("fid", "sfid", "is-5000", "precision", "recall")]
    labels = [prompt["label"] for prompt in run.prompts]
    assert made.labels == labels
    seeds = [generation.image_seed(3, prompt["id"], 0) for prompt in run.prompts]
    samples, real = tiny_inception(ByClass().generate(labels, seeds)), tiny_inception(arrays["arr_0"])
    fid = adm_frechet(samples["pool"], arrays["mu"], arrays["sigma"])
    assert found["fid-tf-compat"].value == pytest.approx(fid, rel=1e-6)
    sfid = adm_frechet(samples["spatial"], arrays["mu_s"], arrays["sigma_s"])
    assert found["sfid-tf-compat"].value == pytest.approx(sfid, rel=1e-6)
    assert found["is-5000-tf-compat"].value == pytest.approx(adm_inception_score(samples["pool"], 50), rel=1e-5)
    precision, recall = adm_precision_recall(real["pool"], samples["pool"])
    assert 0 < recall < 1
    assert (found["precision-tf-compat"].value, found["recall-tf-compat"].value) == pytest.approx((precision, recall))
    assert found["recall-tf-compat"].extra["n_real"] == 50
    for r in found.values():
        assert r.low <= r.value <= r.high and r.partial and r.seed == 3
        assert r.protocol_params["labels"] == "uniform, seed 3"
    assert "unverified" in found["fid-tf-compat"].note and "chunks" not in (found["is-5000-tf-compat"].note or "")


def test_uniform_labels_are_drawn_from_the_seed_and_fewer_are_the_first_of_them():
    def labels(n, seed=0):
        return [p["label"] for p in generation.of_classes(ByClass(), n, seed, 8, "uniform").prompts]

    assert labels(40) == labels(700)[:40] != labels(40, seed=1)
    counts = np.bincount(labels(7000), minlength=7)
    assert len(counts) == 7 and len(set(counts)) > 1 and ((counts - 1000) ** 2 / 1000).sum() < 22.5  # p = 0.001


def test_balanced_labels_in_class_order_are_noted(tmp_path, score):
    reference(tmp_path / "adm.npz")
    run = generation.of_classes(ByClass(), 35, seed=0, batch=8)
    (found,) = score(run, real=str(tmp_path / "adm.npz"), metrics=["is-5000"]).records
    assert found.protocol_params["labels"] == "balanced" and "--labels uniform" in found.note


def test_what_a_network_does_not_define_stays_without_a_record(tmp_path, score, capsys):
    """Only as a part of the table; asked for by name it is refused."""
    run = generation.of_classes(ByClass(), 21, seed=0, batch=8, labels="uniform")
    np.savez(tmp_path / "real.npz", arr_0=RNG.integers(0, 256, (21, SIDE, SIDE, 3)).astype(np.uint8))
    asked = {"real": str(tmp_path / "real.npz"), "extractors": ["efflite2"]}
    found = score(run, metrics=["adm"], **asked).records
    assert {r.metric for r in found} == {"fd-efflite2", "precision-efflite2", "recall-efflite2"}
    assert "not measured: sfid" in capsys.readouterr().err
    with pytest.raises(ValueError, match="sfid is defined on the Inception network"):
        score(run, metrics=["sfid"], **asked)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: reference(path, side=16), r"ref\.npz is of images of 16x16 pixels, the subject's are 8x8"),
        (lambda path: reference(path, mu_s=None), "has no statistics of spatial features"),
        (lambda path: np.savez(path, mu=np.zeros(D + 1), sigma=np.eye(D + 1)), f"{D + 1} dimensions, tf-compat"),
        (lambda path: np.savez(path, mean=np.zeros(D)), "holds no arr_0"),
        (lambda path: path.write_bytes(b"PK no zip"), "cannot be read as npz"),
        (lambda path: zipfile.ZipFile(path, "w").writestr("mu.npy", b""), "statistics need mu and sigma"),
    ],
)
def test_a_wrong_reference_file_is_one_line(tmp_path, score, make, message):
    make(tmp_path / "ref.npz")
    run = generation.of_classes(ByClass(), 21, seed=0, batch=8, labels="uniform")
    metrics = ["fd", "sfid"] if "spatial" in message else ["fd"]
    with pytest.raises(ValueError, match=message) as caught:
        score(run, real=str(tmp_path / "ref.npz"), metrics=metrics)
    assert "\n" not in str(caught.value)


class Darker:
    name = fingerprint = "darker"
    size = 64

    def reconstruct(self, images):
        return images // 2

    encode = None


def test_inception_score_of_reconstructions(tmp_path, score, monkeypatch):
    """From the images of one pass that the distance needs too."""
    monkeypatch.setattr(entropy, "CHUNK", 20)
    metrics = ["rfid-tf-compat", "ris-5000-tf-compat"]
    where = {"work": tmp_path, "records": tmp_path / "records", "data": "scenes", "n": 45, "batch": 45}
    rfid, ris = recon.run(Darker(), metrics=metrics, **where).records
    rebuilt = np.stack([scenes.item("test", i, 64).image // 2 for i in range(45)])
    assert ris.value == pytest.approx(adm_inception_score(tiny_inception(rebuilt)["pool"], 20), rel=1e-5)
    assert ris.low < ris.value < ris.high and ris.partial and rfid.value > 0
    assert score.seen == [45, 45], "originals and reconstructions, once each"


def test_real_scenes_of_one_kind():
    from evals.fidelity.images import check_real, real
    from vgt.core import scenes

    some, whole = real("scenes:single_object", 4, 32, "work"), real("scenes", 4, 32, "work")
    assert some.name == "scenes-single_object" and some.fingerprint != whole.fingerprint
    assert np.array_equal(some.load(3), scenes.item("test", 3, 32, "single_object").image)
    for check in (lambda spec: real(spec, 4, 32, "work"), check_real):
        with pytest.raises(ValueError, match="task 'stars' is unknown; choose one of single_object"):
            check("scenes:stars")
    with pytest.raises(ValueError, match="--real 'nowhere' is not there"):
        check_real("nowhere")
