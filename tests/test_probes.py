"""Latent probes: closed forms of the numbers, and the run over planted latents."""

from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from evals import probes
from evals.metrics import latents as space
from vgt.core import scenes

N = 160


def test_spectral_closed_forms():
    eye = np.eye(8)
    assert space.effective_rank(eye) == pytest.approx(8)
    assert space.participation_ratio(eye) == pytest.approx(8)
    assert space.first_component_share(eye) == pytest.approx(1 / 8)
    one = np.zeros((8, 8))
    one[0, 0] = 5
    assert space.effective_rank(one) == pytest.approx(1) and space.participation_ratio(one) == pytest.approx(1)
    # Standard deviations 3 and 1 are singular values in the ratio 3 : 1.
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert space.effective_rank(np.diag([9.0, 1.0])) == pytest.approx(np.exp(entropy))
    assert space.participation_ratio(np.diag([9.0, 1.0])) == pytest.approx(100 / 82)
    assert space.effective_rank(np.zeros((3, 3))) == 0


def test_effective_rank_is_that_of_the_singular_values():
    x = np.random.default_rng(0).normal(size=(50, 6)) * np.arange(1, 7)
    s = np.linalg.svd(x - x.mean(0), compute_uv=False)
    p = s / s.sum()
    assert space.effective_rank(np.cov(x, rowvar=False)) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    np.testing.assert_allclose(space.correlation(np.cov(x, rowvar=False)), np.corrcoef(x, rowvar=False))


def test_collapse_and_standardizing():
    assert space.collapsed_share(np.diag([1.0, 1.0, 1.0, 1e-6])) == 0.25
    assert space.collapsed_share(np.zeros((4, 4))) == 1
    x = space.standardize(np.array([[1.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_array_equal(x, [[-1, 0], [1, 0]])


def test_nearest_neighbors_agree_with_scikit_learn():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 120)
    x = space.standardize(rng.normal(size=(120, 5)) + labels[:, None])
    wanted = []
    for i in range(120):
        rest = np.arange(120) != i
        model = KNeighborsClassifier(5, metric="cosine").fit(x[rest], labels[rest])
        wanted.append(model.predict(x[i : i + 1])[0] == labels[i])
    found = space.knn_correct(x, labels, k=5, temperature=None)
    assert (found == np.array(wanted)).mean() > 0.98  # ties may fall differently
    assert space.knn_correct(x, labels).mean() > 0.6


def test_linear_probe_needs_enough_of_each_class():
    with pytest.raises(ValueError, match="has 2 images"):
        space.linear_correct(np.zeros((12, 2)), np.array([0] * 10 + [1] * 2))


def test_smoothness_of_a_ramp_and_of_noise():
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(20, 64, 8))
    assert abs(space.spatial_smoothness(noise, np.random.default_rng(0)).mean()) < 0.05
    ramp = np.sin(np.linspace(0, 3, 64))[None, :, None] * rng.normal(size=(20, 1, 8))
    assert space.spatial_smoothness(ramp, np.random.default_rng(0)).mean() > 0.5
    with pytest.raises(ValueError, match="63 tokens"):
        space.spatial_smoothness(noise[:, :63], rng)


@dataclass
class Planted:
    """Latents that hold the color of an image exactly, or nothing at all (evals.api.Tokenizer)."""

    informed: bool
    size: int | None = 64
    calls: int = 0

    @property
    def name(self) -> str:
        return "informed" if self.informed else "blind"

    fingerprint = name

    def reconstruct(self, images):
        return images

    def encode(self, images):
        self.calls += 1
        rng = np.random.default_rng(len(images) + self.calls)
        tokens = rng.normal(size=(len(images), 16, 6)).astype(np.float32)
        if self.informed:
            first = (self.calls - 1) * probes.BATCH
            names = [scenes.scene("test", first + i, "colors").objects[0].color for i in range(len(images))]
            codes = np.array([list(scenes.COLORS).index(c) for c in names])
            tokens += 4 * np.stack([np.sin(codes * k) for k in range(1, 7)], 1)[:, None]
        return tokens


def score(model, tmp_path, n=N):
    outcome = probes.run(model, work=tmp_path, records=tmp_path / "records", n=n)
    return outcome, {r.metric: r for r in outcome.records}


def test_planted_color_is_found_and_noise_is_at_chance(tmp_path):
    _, informed = score(Planted(True), tmp_path)
    _, blind = score(Planted(False), tmp_path)
    for metric in ("knn-accuracy-color", "linear-probe-color"):
        assert informed[metric].value > 0.9
        assert informed[metric].extra["chance"] < 0.3
        assert blind[metric].value < 0.25
    assert informed["silhouette-color"].value > 0.3 > blind["silhouette-color"].value
    assert informed["knn-accuracy"].value < 0.35  # shape was not planted
    assert blind["effective-rank"].value > 5.5 and blind["token-effective-rank"].value > 5.9
    assert blind["collapse"].value == 0
    for one in informed.values():
        assert one.suite == "scenes-latents" and one.partial and one.n == N
        assert one.value is None or one.low is None or one.low <= one.value <= one.high


def test_tsne_record_holds_the_picture(tmp_path):
    _, found = score(Planted(True), tmp_path)
    tsne = found["tsne"]
    assert 0 < tsne.value <= 1 and "no meaning" in tsne.note
    assert len(tsne.extra["points"]) == len(tsne.extra["labels"]) == len(tsne.extra["colors"]) == N
    assert set(tsne.extra["labels"]) <= set(scenes.SHAPES) and set(tsne.extra["colors"]) <= set(scenes.COLORS)
    assert len(tsne.extra["points"][0]) == 2


def test_one_deleted_record_is_made_again_from_stored_latents(tmp_path):
    model = Planted(True)
    _, before = score(model, tmp_path)
    calls = model.calls
    (tmp_path / "records" / before["effective-rank"].path).unlink()
    again, after = score(model, tmp_path)
    assert (again.computed, again.reused) == (1, len(before) - 1) and model.calls == calls
    assert after["effective-rank"].score() == before["effective-rank"].score()
    assert (tmp_path / after["effective-rank"].evidence).is_file()


def test_too_few_images(tmp_path):
    with pytest.raises(ValueError, match="n = 20"):
        score(Planted(False), tmp_path, n=20)
    _, found = score(Planted(False), tmp_path, n=60)
    assert found["linear-probe-color"].value is None and "too few" in found["linear-probe-color"].note
