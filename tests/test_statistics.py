"""Intervals and comparisons against closed forms, other implementations and simulated coverage."""

from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from vgt.core.intervals import MANY
from vgt.core.statistics import (
    cluster_interval,
    compare_intervals,
    compare_pairs,
    compare_replicates,
    design_effect,
    fixed_interval,
    holm,
    holm_level,
    intracluster_correlation,
    jackknife_interval,
    mcnemar,
    minimum_detectable,
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
    ("values", "clusters", "groups", "value"),
    [
        ([1, 0, 0, 0], ["a", "a", "b", "c"], ["x", "x", "y", "y"], 0.25),  # one cluster, and two alike
        ([1, 1, 0, 0], "abcd", "xxyy", 0.5),  # constant in each group
        ([0.1] * 3, "abc", None, 0.1),
    ],
)
def test_without_any_spread_there_is_no_interval(values, clusters, groups, value):
    """Resampling gives the same number every time, which is not exactness."""
    found = cluster_interval(values, list(clusters), groups and list(groups))
    assert (found.value, found.low, found.high) == (pytest.approx(value), None, None)
    assert "show no spread" in found.method
    assert cluster_interval([*values, 1, 0], [*clusters, "p", "q"], groups and [*groups, "x", "x"]).low is not None


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


# ---------------------------------------------------------------------------------- docs/evaluators.md 7.1 to 7.4


def beta_binomial(rng, prompts, share, rho, images=4):
    """Correct images, float [prompts, images], of prompts whose own shares vary so that images correlate by rho."""
    strength = 1 / rho - 1
    shares = rng.beta(share * strength, (1 - share) * strength, prompts)
    return (rng.random((prompts, images)) < shares[:, None]).astype(float)


def any_share(share, rho, images=4):
    """Closed form: the share of prompts with any correct image, 1 - prod_j (b + j) / (a + b + j)."""
    strength = 1 / rho - 1
    j = np.arange(images)
    return 1 - np.prod(((1 - share) * strength + j) / (strength + j))


@pytest.mark.parametrize("rho", [0.3, 0.65])
def test_correlation_within_prompts_by_two_routes(rho):
    """rho from single images (analysis of variance) and from any-of-4 (beta-binomial) is the same
    (docs/evaluators.md 7.2)."""
    drawn = beta_binomial(np.random.default_rng(10), 6000, 0.5, rho)
    names = np.repeat(np.arange(6000), 4)
    assert intracluster_correlation(drawn.ravel(), names) == pytest.approx(rho, abs=0.02)
    found = optimize.brentq(lambda r: any_share(drawn.mean(), r) - drawn.any(1).mean(), 0.01, 0.99)
    assert found == pytest.approx(rho, abs=0.03)
    error = cluster_interval(drawn.ravel(), names)
    predicted = (design_effect(4, rho) * 0.25 / drawn.size) ** 0.5
    assert (error.high - error.low) / (2 * 1.96) == pytest.approx(predicted, rel=0.08)


def test_design_effect_of_the_spec():
    assert 2212 / design_effect(4, 0.64) == pytest.approx(760, rel=0.01)


def test_correlation_needs_items_that_share_a_cluster():
    assert np.isnan(intracluster_correlation([1.0, 0.0, 1.0], [1, 2, 3]))
    assert np.isnan(intracluster_correlation([1.0] * 4, [1, 1, 2, 2]))
    assert intracluster_correlation([1.0, 1.0, 0.0, 0.0], [1, 1, 2, 2]) == 1.0
    # Groups of different level do not count as correlation within clusters.
    values = np.random.default_rng(11).normal(size=4000) + np.repeat([0, 50], 2000)
    names, groups = np.repeat(np.arange(1000), 4), np.repeat(["a", "b"], 2000)
    assert abs(intracluster_correlation(values, names, groups)) < 0.05


def test_smallest_detectable_differences_of_the_spec():
    """The table of docs/evaluators.md 7.2, in points: from each row's half-width its three smallest detectable
    differences."""
    rows = [(2.5, 5.1, 3.6, 2.8), (2.0, 4.1, 2.9, 2.3), (2.3, 4.7, 3.3, 2.6), (2.6, 5.3, 3.7, 2.9)]
    for half, *published in rows:
        error = half / stats.norm.ppf(0.975)
        assert [minimum_detectable(error * (2 * (1 - r)) ** 0.5) for r in (0, 0.5, 0.7)] == pytest.approx(
            published, abs=0.1
        )
    # Six equal tasks are the worst case of its first row: p (1 - p) is concave.
    assert 1.3 < 100 * overall_variance([0.56] * 6, [99, 80, 80, 94, 100, 100], 4, 0.5) ** 0.5 < 1.7


def test_power_at_the_smallest_detectable_difference():
    rng = np.random.default_rng(12)
    least = minimum_detectable(1 / 40**0.5, 39)
    seen = [
        compare_pairs(rng.normal(least, 1, 40), np.zeros(40), range(40), None, 500, 10).p_value <= 0.05
        for _ in range(300)
    ]
    assert 0.72 <= np.mean(seen) <= 0.88
    assert minimum_detectable(1.0, sides=1) == pytest.approx(2.4865, abs=1e-3)
    assert minimum_detectable(1.0) == pytest.approx(2.8016, abs=1e-3)


@pytest.mark.parametrize(("prompts", "low", "high"), [(30, 0.45, 0.6), (120, 0.6, 0.75)])
def test_power_of_the_exact_test_of_one_image_a_prompt(prompts, low, high):
    """McNemar's test finds the smallest detectable difference less often than the formula says."""
    rng = np.random.default_rng(19)

    def pair(loss):
        shares = loss + (1 - loss) * rng.beta(0.6, 0.4, prompts)
        return rng.random(prompts) < shares, rng.random(prompts) < shares - loss

    spread = [np.subtract(*map(np.float64, pair(0.0))).std(ddof=1) / prompts**0.5 for _ in range(300)]
    least = minimum_detectable(np.mean(spread), prompts - 1, sides=1)
    assert low <= np.mean([mcnemar(*pair(least)[::-1], "less")[2] <= 0.05 for _ in range(1500)]) <= high


def test_which_n_finds_which_loss():
    """The table of docs/gate.md from the closed form: GenEval's prompts, or equal tasks of fewer."""
    page = (Path(__file__).parents[1] / "docs" / "gate.md").read_text(encoding="utf-8")
    for count, prompts in ((553, [99, 80, 80, 94, 100, 100]), (240, [40] * 6), (120, [20] * 6), (60, [10] * 6)):
        errors = [overall_variance([0.56] * 6, prompts, images, 0.64) ** 0.5 for images in (1, 4)]
        cells = [f"{minimum_detectable(error * (2 * (1 - 0.5)) ** 0.5, sides=1):.3f}" for error in errors]
        assert f"| {count} | {' | '.join(cells)} |" in page
    for images, found in ((22, "0.27"), (100, "0.12"), (1000, "0.04")):
        assert f"{minimum_detectable(0.5 / images**0.5, sides=1):.2f}" == found
        assert f"{images} find {found} dB" in page or f"{images} images find {found} dB" in page


def test_question_a_and_question_b():
    """Prompts fixed: only the draw of images varies.  Both intervals cover what they are about."""
    rng = np.random.default_rng(13)
    names = np.repeat(np.arange(30), 4)
    hits = {"a": 0, "b": 0, "b for a": 0}
    for _ in range(300):
        prompts = rng.normal(size=30)
        values = np.repeat(prompts, 4) + rng.normal(size=120)
        a, b = fixed_interval(values, names), cluster_interval(values, names, draws=300)
        hits["a"] += a.low <= prompts.mean() <= a.high
        hits["b"] += b.low <= 0 <= b.high
        hits["b for a"] += b.low <= prompts.mean() <= b.high
    assert 0.91 <= hits["a"] / 300 <= 0.99 and 0.91 <= hits["b"] / 300 <= 0.99
    assert hits["b for a"] / 300 > 0.99
    assert fixed_interval([1.0, 2.0, 3.0], [1, 1, 2]).low is None


def test_many_clusters_go_by_normal_theory():
    values = np.random.default_rng(14).exponential(size=MANY + 1)
    interval = cluster_interval(values, range(MANY + 1))
    reference = stats.ttest_1samp(values, 0).confidence_interval()
    assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high))
    few, many = (compare_pairs(values[:n] - 0.97, np.zeros(n), range(n)).p_value for n in (MANY, MANY + 1))
    assert many == pytest.approx(few, abs=0.02) and 0.001 < many < 0.9


def test_one_sided_p_values():
    rng = np.random.default_rng(15)
    a, b = rng.normal(-0.3, 1, 30), np.zeros(30)
    two, less = compare_pairs(a, b, range(30)), compare_pairs(a, b, range(30), alternative="less")
    assert less.p_value == pytest.approx(two.p_value / 2, abs=0.01)
    assert compare_pairs(-a, b, range(30), alternative="less").p_value > 0.9


def test_no_difference_at_all_still_leaves_room_for_one():
    a = [1.0, 0.0] * 10
    found = compare_pairs(a, a, range(20), level=0.9, span=1.0)
    # Wald's question: the largest share of differing clusters that shows none among 20 with 5 % probability.
    assert (1 - found.difference.high) ** 20 == pytest.approx(0.05)
    assert found.difference.low == -found.difference.high and found.p_value == 1.0


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (5, 0), (3, 11), (40, 52)])
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b):
    a, b = ([1] * only_a + [0] * only_b + [1, 0]), ([0] * only_a + [1] * only_b + [1, 0])
    discordant = only_a + only_b
    found = mcnemar(a, b)
    assert found[:2] == (only_a, only_b)
    assert found[2] == pytest.approx(stats.binomtest(only_a, discordant, 0.5).pvalue if discordant else 1.0)
    less = stats.binomtest(only_a, discordant, 0.5, alternative="less").pvalue if discordant else 1.0
    assert mcnemar(a, b, "less")[2] == pytest.approx(less)
    with pytest.raises(ValueError, match="pair them"):
        mcnemar([1, 0], [1])


def test_holm():
    # Holm 1979: sorted p times m, m - 1, ..., never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
    assert holm_level([0.01, 0.04, 0.03, 0.005]) == pytest.approx(0.025)
    rng = np.random.default_rng(16)
    p = rng.random((4000, 8))
    assert np.mean([min(holm(row)) <= 0.05 for row in p]) <= 0.06
    assert np.mean(p.min(1) <= 0.05) > 0.3  # what happens without


def test_difference_of_two_intervals_covers():
    rng = np.random.default_rng(17)
    hits = 0
    for _ in range(1000):
        a, b = wilson(rng.binomial(60, 0.9), 60), wilson(rng.binomial(60, 0.7), 60)
        d = compare_intervals(a, b).difference
        hits += d.low <= 0.2 <= d.high
    assert 0.93 <= hits / 1000 <= 0.98
    same = compare_intervals(wilson(30, 60), wilson(30, 60))
    assert same.p_value == 1.0 and same.difference.low == pytest.approx(-same.difference.high)
    with pytest.raises(ValueError, match="no interval"):
        compare_intervals(wilson(3, 6), cluster_interval([1.0], ["one"]))


def test_p_value_and_bounds_of_two_intervals_agree():
    a, b = wilson(45, 60), wilson(30, 60)
    found = compare_intervals(a, b)
    at_p = compare_intervals(a, b, level=1 - found.p_value)
    assert at_p.difference.low == pytest.approx(0, abs=1e-9)
    less = compare_intervals(b, a, alternative="less")
    assert less.p_value == pytest.approx(found.p_value / 2)


def test_jackknife_of_a_difference_on_common_blocks():
    """Of means it is the paired t-test; of distances, common images cancel and the interval is narrower."""
    rng = np.random.default_rng(18)
    shared = rng.normal(size=20)
    a, b = shared + 0.1 * rng.normal(size=20), shared + 0.1 * rng.normal(size=20)
    left_a, left_b = ([np.delete(x, i).mean() for i in range(20)] for x in (a, b))
    found = compare_replicates(a.mean(), b.mean(), left_a, left_b)
    reference = stats.ttest_rel(a, b)
    assert found.p_value == pytest.approx(reference.pvalue)
    bounds = reference.confidence_interval()
    assert (found.difference.low, found.difference.high) == pytest.approx((bounds.low, bounds.high))
    apart = compare_intervals(jackknife_interval(a.mean(), left_a), jackknife_interval(b.mean(), left_b))
    width = found.difference.high - found.difference.low
    assert apart.difference.high - apart.difference.low > 3 * width
    with pytest.raises(ValueError, match="19 blocks of A and 20"):
        compare_replicates(0.0, 0.0, left_a[1:], left_b)
