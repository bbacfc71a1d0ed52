"""Intervals and comparisons against closed forms, other implementations and simulated coverage."""

import numpy as np
import pytest
from scipy import stats

from vgt.core.statistics import (
    cluster_interval,
    compare_pairs,
    design_effect,
    jackknife_interval,
    overall_variance,
    wilson,
)


def test_estimate_is_the_unweighted_mean_over_groups():
    values = [1, 1, 1, 0, 0, 1]
    groups = ["a", "a", "a", "a", "b", "b"]
    interval = cluster_interval(values, [0, 0, 1, 1, 2, 3], groups)
    assert interval.value == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert interval.low <= interval.value <= interval.high


def test_interval_depends_neither_on_order_nor_on_the_call():
    rng = np.random.default_rng(0)
    values, clusters, groups = rng.random(60), np.repeat(np.arange(15), 4), np.repeat(["x", "y", "z"], 20)
    order = rng.permutation(60)
    assert cluster_interval(values, clusters, groups) == cluster_interval(values, clusters, groups)
    shuffled = cluster_interval(values[order], clusters[order], groups[order])
    assert (shuffled.low, shuffled.high) == pytest.approx(
        (cluster_interval(values, clusters, groups).low, cluster_interval(values, clusters, groups).high)
    )
    assert cluster_interval(values, clusters, groups, seed=1).low != cluster_interval(values, clusters, groups).low


def test_many_independent_items_agree_with_the_normal_interval():
    values = np.random.default_rng(1).normal(2.0, 1.0, 2000)
    interval = cluster_interval(values, range(2000), draws=10_000)
    half = 1.96 * values.std(ddof=1) / 2000**0.5
    assert interval.low == pytest.approx(values.mean() - half, abs=0.004)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.004)


def test_clustered_items_widen_the_interval_by_the_design_effect():
    prompts = np.random.default_rng(2).random(500) < 0.5
    values, clusters = np.repeat(prompts, 4), np.repeat(np.arange(500), 4)
    clustered, naive = cluster_interval(values, clusters), cluster_interval(values, range(2000))
    ratio = (clustered.high - clustered.low) / (naive.high - naive.low)
    assert ratio == pytest.approx(design_effect(4, 1.0) ** 0.5, rel=0.08)


@pytest.mark.parametrize(("clusters", "least"), [(4, 0.8), (8, 0.9), (40, 0.92)])
def test_coverage_with_few_clusters(clusters, least):
    rng = np.random.default_rng(3)
    names = np.repeat(np.arange(clusters), 5)
    hits = 0
    for _ in range(300):
        values = np.repeat(rng.normal(size=clusters), 5) + 0.5 * rng.normal(size=5 * clusters)
        interval = cluster_interval(values, names, draws=400)
        hits += interval.low <= 0 <= interval.high
    assert least <= hits / 300 <= 0.99


def test_one_cluster_has_no_interval():
    interval = cluster_interval([1.0, 2.0], ["cat", "cat"])
    assert (interval.value, interval.low, interval.high) == (1.5, None, None)
    assert "cannot show a spread" in interval.method


@pytest.mark.parametrize(
    ("values", "clusters", "message"),
    [([], [], "at least one"), ([1.0], [1, 2], "one of each"), ([1.0, np.inf], [1, 2], "item 1 is not finite")],
)
def test_bad_input_is_named(values, clusters, message):
    with pytest.raises(ValueError, match=message):
        cluster_interval(values, clusters)


def test_wilson_known_values():
    interval = wilson(8, 10)
    assert (interval.low, interval.high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    reference = stats.binomtest(3, 40).proportion_ci(method="wilson")
    assert (wilson(3, 40).low, wilson(3, 40).high) == pytest.approx((reference.low, reference.high))
    assert wilson(500, 500).high == 1.0 and wilson(500, 500).low > 0.99
    with pytest.raises(ValueError, match="3 of 2"):
        wilson(3, 2)


def test_sign_flips_agree_with_scipy():
    rng = np.random.default_rng(4)
    a, b = rng.normal(0.35, 1, 25), rng.normal(0, 1, 25)
    reference = stats.permutation_test(
        (a, b),
        lambda x, y: np.mean(x - y),
        permutation_type="samples",
        n_resamples=10_000,
        rng=np.random.default_rng(5),
    )
    found = compare_pairs(a, b, range(25))
    assert found.p_value == pytest.approx(reference.pvalue, abs=0.02)
    assert found.difference.value == pytest.approx((a - b).mean())


def test_comparison_of_equal_and_of_clearly_different_models():
    clusters = np.repeat(np.arange(50), 4)
    a = np.random.default_rng(6).random(200)
    same = compare_pairs(a, a, clusters)
    assert same.p_value == 1.0 and same.difference.low == same.difference.high == 0.0
    better = compare_pairs(a + 0.1, a, clusters)
    assert better.p_value == pytest.approx(1 / 10_001) and better.difference.low > 0
    with pytest.raises(ValueError, match="pair them"):
        compare_pairs(a, a[1:], clusters)


def test_false_alarms_of_the_permutation_test_are_at_their_level():
    rng = np.random.default_rng(7)
    names = np.repeat(np.arange(30), 4)
    alarms = 0
    for _ in range(200):
        effect = np.repeat(rng.normal(size=30), 4)
        alarms += compare_pairs(effect + rng.normal(size=120), np.zeros(120), names, flips=500, draws=10).p_value < 0.05
    assert alarms / 200 <= 0.1


def test_jackknife_of_a_mean_is_the_t_interval():
    values = np.random.default_rng(8).normal(size=12)
    left = [np.delete(values, i).mean() for i in range(12)]
    interval = jackknife_interval(values.mean(), left)
    reference = stats.ttest_1samp(values, 0).confidence_interval()
    assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high))
    with pytest.raises(ValueError, match="at least 2"):
        jackknife_interval(0.0, [1.0])


def test_closed_form_variance_matches_simulation_and_the_published_table():
    prompts, rho = [99, 80, 80, 94, 100, 100], 0.5
    closed = overall_variance([0.56] * 6, prompts, 4, rho)
    rng = np.random.default_rng(9)
    # Beta-binomial prompts with intra-prompt correlation rho.
    strength = 1 / rho - 1
    draws = [
        np.mean([rng.binomial(4, rng.beta(0.56 * strength, 0.44 * strength, n)).mean() / 4 for n in prompts])
        for _ in range(2000)
    ]
    assert np.std(draws) == pytest.approx(closed**0.5, rel=0.06)
    assert overall_variance([0.56] * 6, prompts, 4, 0.0) < closed
