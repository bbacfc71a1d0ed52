"""Numbers about latent spaces: closed forms, agreement with independent implementations, bad input."""

import inspect

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import silhouette_score

from evals.engine.registry import protocols
from evals.metrics import latents
from evals.probes import catalogue, data


def test_spectral_closed_forms():
    eye = np.eye(8)
    assert latents.effective_rank(eye) == pytest.approx(8)
    assert latents.participation_ratio(eye) == pytest.approx(8)
    assert latents.first_component_share(eye) == pytest.approx(1 / 8)
    one = np.zeros((8, 8))
    one[0, 0] = 5
    assert latents.effective_rank(one) == pytest.approx(1) and latents.participation_ratio(one) == pytest.approx(1)
    # Standard deviations 3 and 1 are singular values in the ratio 3 : 1.
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert latents.effective_rank(np.diag([9.0, 1.0])) == pytest.approx(np.exp(entropy))
    assert latents.participation_ratio(np.diag([9.0, 1.0])) == pytest.approx(100 / 82)
    assert latents.effective_rank(np.zeros((3, 3))) == 0
    assert latents.mean_correlation(np.array([[1, -0.5], [-0.5, 1]])) == pytest.approx(0.5)
    assert latents.mean_correlation(np.ones((1, 1))) == 0


def test_collapse_and_standardizing():
    assert latents.collapsed_share(np.diag([1.0, 1.0, 1.0, 1e-6])) == 0.25
    assert latents.collapsed_share(np.zeros((4, 4))) == 1
    x = latents.standardize(np.array([[1.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_array_equal(x, [[-1, 0], [1, 0]])
    np.testing.assert_array_equal(
        latents.standardize(np.array([[5.0, 5.0]]), like=np.array([[1.0, 5.0], [3.0, 5.0]])), [[3, 0]]
    )


def test_sums_of_powers_merge_and_shrink():
    x = np.random.default_rng(0).exponential(size=(90, 4)) * [1, 5, 0.1, 30] + [0, 100, 3, -8]
    about = x.mean(0), x.std(0)
    parts = [latents.powers(x[b::3], *about) for b in range(3)]
    rest = sum(parts[1:], parts[0]) - parts[1]
    kept = np.concatenate([x[0::3], x[2::3]])
    np.testing.assert_allclose(rest.mean, kept.mean(0))
    np.testing.assert_allclose(rest.variance, kept.var(0))
    np.testing.assert_allclose(latents.excess_kurtosis(rest), stats.kurtosis(kept))


def test_gaussian_latents_look_gaussian_and_a_constant_dimension_does_not():
    x = np.random.default_rng(1).normal(size=(40_000, 3))
    of = latents.powers(x, np.zeros(3), np.ones(3))
    assert np.abs(latents.skewness(of)).max() < 0.05 and np.abs(latents.excess_kurtosis(of)).max() < 0.1
    assert latents.kl_to_normal(of).max() < 1e-3
    x[:, 1] = 2.0
    constant = latents.powers(x, np.zeros(3), np.ones(3))
    assert np.isinf(latents.kl_to_normal(constant)[1]) and latents.skewness(constant)[1] == 0


def test_neighbors_of_ones_own_group_do_not_vote():
    """Three identical tokens an image, random labels: without groups every token is told by its twins."""
    rng = np.random.default_rng(2)
    points = np.repeat(rng.normal(size=(60, 4)), 3, axis=0)
    labels = np.repeat(rng.integers(0, 4, 60), 3)
    groups = np.repeat(np.arange(60), 3)
    assert latents.knn_correct(points, labels, k=2).mean() == 1
    assert latents.knn_correct(points, labels, groups=groups).mean() < 0.5
    assert latents.linear_correct(points, labels, tune=False, groups=groups).mean() < 0.5
    assert latents.smallest_class(labels, groups) == np.bincount(labels).min() // 3


def test_neighbors_in_chunks_are_the_same(monkeypatch):
    rng = np.random.default_rng(3)
    points, labels = rng.normal(size=(50, 4)), rng.integers(0, 3, 50)
    whole = latents.knn_correct(points, labels)
    monkeypatch.setattr(latents, "_ROWS", 7)
    np.testing.assert_array_equal(latents.knn_correct(points, labels), whole)


def test_linear_probe_needs_enough_of_each_class():
    with pytest.raises(ValueError, match="has 2 images"):
        latents.linear_correct(np.zeros((12, 2)), np.array([0] * 10 + [1] * 2))


def test_silhouette_of_a_class_of_one_and_of_one_class():
    x = np.random.default_rng(4).normal(size=(30, 5))
    labels = np.array([0] * 15 + [1] * 14 + [2])
    found = latents.silhouettes(x, labels)
    assert found[-1] == 0
    assert found.mean() == pytest.approx(silhouette_score(latents.standardize(x), labels, metric="cosine"))
    with pytest.raises(ValueError, match="two labels"):
        latents.silhouettes(x, np.zeros(30))


def test_smoothness_of_a_ramp_and_of_noise():
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(20, 64, 8))
    assert abs(latents.spatial_smoothness(noise, np.random.default_rng(0)).mean()) < 0.05
    ramp = np.sin(np.linspace(0, 3, 64))[None, :, None] * rng.normal(size=(20, 1, 8))
    assert latents.spatial_smoothness(ramp, np.random.default_rng(0)).mean() > 0.5
    with pytest.raises(ValueError, match="63 tokens"):
        latents.spatial_smoothness(noise[:, :63], rng)


def test_alignment_and_uniformity_at_their_ends():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(300, 16))
    np.testing.assert_allclose(latents.alignment(x, x[:40]), 0, atol=1e-12)
    assert latents.alignment(x, rng.normal(size=(300, 16))).mean() == pytest.approx(latents.strangers(x), abs=0.1)
    near = latents.closeness(x)
    keep = np.arange(300) % 4 != 0
    half = near[np.ix_(keep, keep)]
    assert latents.uniformity(near, keep) == pytest.approx(np.log(half.sum() / (225 * 224)))
    crowded = np.concatenate([x[:150] * 0.01 + 3, x[150:] * 0.01 - 3])
    assert latents.uniformity(latents.closeness(crowded)) > latents.uniformity(near) + 1


def test_trustworthiness_needs_points():
    x = np.random.default_rng(6).normal(size=(10, 3))
    with pytest.raises(ValueError, match="10 points are too few"):
        latents.trustworthiness(x, x[:, :2])


def test_k_means_numbers_clusters_from_the_largest():
    x = np.concatenate([np.full((5, 2), 9.0), np.zeros((20, 2)), np.full((9, 2), -9.0)])
    found, centres = latents.k_means(x + np.random.default_rng(7).normal(size=x.shape) * 0.1, 3)
    assert np.bincount(found).tolist() == [20, 9, 5]
    np.testing.assert_allclose(centres, [[0, 0], [-9, -9], [9, 9]], atol=0.2)
    with pytest.raises(ValueError, match="4 points cannot form 6 clusters"):
        latents.k_means(np.zeros((4, 2)), 6)


def test_many_tokens_are_clustered_in_mini_batches(monkeypatch):
    monkeypatch.setattr(latents, "MINI_BATCH_ABOVE", 10)
    x = np.concatenate([np.full((30, 2), 9.0), np.zeros((60, 2))])
    assert np.bincount(latents.k_means(x, 2)[0]).tolist() == [60, 30]


def test_cluster_maps_find_a_planted_object():
    """Tokens of the object point one way, the background two others: three clusters tell and explain everything."""
    rng = np.random.default_rng(8)
    covered = rng.random((10, 16)) < 0.3
    kind = np.where(covered, 0, 1 + (np.arange(10) % 2)[:, None])
    tokens = np.eye(3)[kind] @ rng.normal(size=(3, 5))
    maps = latents.cluster_maps(tokens, 3)
    assert latents.object_homogeneity(maps.labels, covered) == pytest.approx(1)
    assert 1 - maps.within.sum() / maps.total.sum() == pytest.approx(1)
    assert latents.object_homogeneity(np.zeros_like(maps.labels), covered) == pytest.approx(0)


def test_cka_of_copies_and_of_strangers():
    rng = np.random.default_rng(9)
    x = rng.normal(size=(60, 20))
    rotation = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    stranger = rng.normal(size=(60, 30))
    assert latents.linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1)
    assert latents.unbiased_cka(latents.gram(x), latents.gram(3 * x @ rotation + 5)) == pytest.approx(1)
    # The plain estimate of nothing shared is far above 0 when images are few; the unbiased one is not.
    assert (
        latents.linear_cka(x, stranger) > 0.2 > 0.1 > abs(latents.unbiased_cka(latents.gram(x), latents.gram(stranger)))
    )
    assert (
        latents.linear_cka(np.ones((9, 2)), x[:9])
        == 0
        == latents.unbiased_cka(latents.gram(np.ones((9, 2))), latents.gram(x[:9]))
    )
    with pytest.raises(ValueError, match="3 images"):
        latents.hsic(np.eye(3), np.eye(3))


def test_blocks_keep_clusters_whole():
    cluster = np.array([0, 0, 1, 1, 2, 0])
    parts = catalogue.blocks(cluster)
    assert len(parts) == 3 and np.array_equal(np.sum(parts, 0), np.ones(6))
    assert all(len(set(cluster[p])) == 1 for p in parts)
    assert len(catalogue.blocks(np.arange(100))) == catalogue.BLOCKS
    alone = catalogue.jackknife(lambda keep: float(keep.sum()), np.zeros(5, int))
    assert alone.value == 5 and alone.low is None and "one cluster" in alone.method


def test_protocols_say_what_the_code_does():
    known = {p.removeprefix("probe-"): dict(protocol.settings) for p, protocol in protocols().items()}
    assert known["linear"]["C"] == list(latents.GRID)
    assert (known["linear"]["folds"], known["linear"]["inner_folds"]) == (latents.FOLDS, latents.INNER_FOLDS)
    defaults = {k: p.default for k, p in inspect.signature(latents.knn_correct).parameters.items()}
    assert known["knn"]["k"] == defaults["k"] and str(defaults["temperature"]) in known["knn"]["weights"]
    pairs = inspect.signature(latents.spatial_smoothness).parameters["pairs"].default
    assert known["smoothness"]["random_pairs"] == pairs
    assert known["tsne"]["neighbors"] == inspect.signature(latents.trustworthiness).parameters["k"].default
    assert known["tsne"]["most_points"] == data.TOKENS and known["alignment"]["most_pairs"] == data.PAIRS
    maps = known["cluster-maps"]
    assert (maps["most_images"], maps["shown"]) == (catalogue.BATCH, catalogue.SHOWN)
    assert maps["mini_batch_above"] == latents.MINI_BATCH_ABOVE
    assert str(catalogue.BLOCKS) in known["silhouette"]["interval"]
