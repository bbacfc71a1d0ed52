"""Effects over seeds and prompts: closed forms, simulated false alarms, coverage and power, learning curves."""

import numpy as np
import pytest
from scipy import stats

from vgt.core.statistics import Part, effect, images_to_reach, jackknife_interval, jackknifed, pooled, speedup
from vgt.core.trainings import LEAST_P, between, half_width, p_value, seeds_part

TASKS, PROMPTS, IMAGES = 6, 120, 4
GROUPS = [f"task{i % TASKS}" for i in range(PROMPTS)]
CLUSTERS = [f"prompt{i}" for i in range(PROMPTS)]


def scores(rng, seeds: int, spread: float, prompts: np.ndarray, mean: float = 0.4) -> np.ndarray:
    """Shares of IMAGES correct images [seeds, prompts]: prompts are of unequal difficulty, in part for one system
    alone, and trainings differ by ``spread``."""
    own = rng.normal(0, 0.12, len(prompts))
    chance = mean + rng.normal(0, spread, (seeds, 1)) + prompts + own
    return rng.binomial(IMAGES, np.clip(chance, 0, 1)) / IMAGES


def decided(
    repeats: int, seeds: int, spread: float, other: float, gain: float = 0.0, alpha: float = 0.05, seed: int = 0
):
    """(share decided, share whose interval holds the truth) over simulated pairs of systems that differ by ``gain``."""
    rng = np.random.default_rng(seed)
    wrong = held = 0
    for _ in range(repeats):
        prompts = rng.normal(0, 0.1, PROMPTS)
        left = scores(rng, seeds, spread, prompts)
        right = scores(rng, seeds, other, prompts)
        found = effect([left + gain, -right], CLUSTERS, GROUPS)
        wrong += found.p_value <= alpha
        held += found.low <= gain <= found.high
    return wrong / repeats, held / repeats


def bound(rate: float, repeats: int) -> float:
    """What a count at its rate exceeds in one simulation of a thousand."""
    return stats.binom.ppf(0.999, repeats, rate) / repeats


# Spread of trainings: none, some, as large as the prompts', far larger; and one side alone.
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("spread", "other"), [(0, 0), (0.02, 0.02), (0.1, 0.1), (0.1, 0.01), (0.1, 0)])
def test_false_decisions_stay_at_their_level(seeds, spread, other):
    repeats = 300
    wrong, held = decided(repeats, seeds, spread, other)
    assert wrong <= bound(0.05, repeats) and held >= 1 - bound(0.05, repeats)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(
    ("spread", "other"),
    [(0, 0), (0.01, 0.01), (0.03, 0.03), (0.03, 0.01), (0.1, 0.1), (0.1, 0.05), (0.1, 0.025), (0.1, 0.01), (0.1, 0)],
)
def test_false_decisions_in_many_trials(seeds, spread, other):
    wrong, held = decided(4000, seeds, spread, other, seed=1)
    assert wrong <= bound(0.05, 4000) and held >= 1 - bound(0.05, 4000)


def test_a_bootstrap_over_few_seeds_would_decide_too_often():
    """Why there is a method of its own: percentiles of resampled seeds and prompts reject far above 5 %."""
    rng, wrong, repeats = np.random.default_rng(0), 0, 200
    for _ in range(repeats):
        prompts = rng.normal(0, 0.1, PROMPTS)
        left, right = (scores(rng, 3, 0.05, prompts) for _ in range(2))
        picked = [side[rng.integers(0, 3, (500, 3))].mean(1) for side in (left, right)]
        drawn = rng.integers(0, PROMPTS, (500, PROMPTS))
        found = np.take_along_axis(picked[0] - picked[1], drawn, 1).mean(1)
        low, high = np.quantile(found, [0.025, 0.975])
        wrong += not low <= 0 <= high
    assert wrong / repeats > 0.1


@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_the_detectable_effect_is_found_four_times_in_five(spread):
    """With variances as they are on average; too little power would make "not detectable" cheap."""
    rng = np.random.default_rng(2)
    trial = []
    for _ in range(60):
        prompts = rng.normal(0, 0.1, PROMPTS)
        trial.append(effect([scores(rng, 3, spread, prompts), -scores(rng, 3, spread, prompts)], CLUSTERS, GROUPS))
    least = np.mean([one.detectable() for one in trial])
    found, _ = decided(200, 3, spread, spread, gain=least, seed=3)
    assert found >= 0.72


def test_one_part_is_students_t():
    rng = np.random.default_rng(0)
    left, right = rng.normal(0.3, 1, 4), rng.normal(0, 1, 4)
    found = between([left - right], Part(0.0, np.inf))
    theirs = stats.ttest_rel(left, right)
    assert found.p_value == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))


def test_seeds_of_a_side_count_on_top_of_what_trainings_vary_by():
    left, right, third = [0.1, 0.4, 0.2, 0.3, 0.5], [0.2, 0.25, 0.1], [0.3, 0.3, 0.6]
    all_arms = pooled([left, right, third, [0.4]])
    assert all_arms == Part(pytest.approx(np.mean([np.var(a, ddof=1) for a in (left, right, third)])), 8)
    own = np.var(left, ddof=1) / 5 + np.var(right, ddof=1) / 3
    found = seeds_part([left, right], [all_arms, all_arms])
    assert found == Part(pytest.approx(own + all_arms.variance * (1 / 5 + 1 / 3)), 8)
    alone = seeds_part([left, right])
    assert alone.variance == pytest.approx(2 * own)
    assert alone.freedom == pytest.approx(stats.ttest_ind(left, right, equal_var=False).df)
    assert seeds_part([left, [0.2]]) == Part(pytest.approx(np.var(left, ddof=1) / 5), 4), "a baseline adds nothing"
    assert seeds_part([[0.2, 0.2], [0.1, 0.1]]) == Part(0.0, 1) and seeds_part([[0.2]]).variance == 0
    with pytest.raises(ValueError, match="no arm has two seeds"):
        pooled([[0.1], [0.2]])


def family(repeats: int, arms: int, seeds: int, spreads: float, alpha: float) -> float:
    """The share decided of comparisons of arms in pairs, whose trainings vary by unlike spreads: log-normal with
    ``spreads``, and whose prompts add little."""
    rng, wrong = np.random.default_rng(4), 0
    for _ in range(repeats):
        values = rng.normal(0, np.exp(rng.normal(0, spreads, (arms, 1))), (arms, seeds))
        common = [pooled(values)] * 2
        for a, b in values.reshape(-1, 2, seeds):
            parts = seeds_part([a, -b], common), Part(0.01, 114)
            wrong += abs(a.mean() - b.mean()) > half_width(parts, alpha)
    return wrong / (repeats * arms // 2)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spreads", [0.0, 0.7])
def test_false_decisions_among_arms_of_unlike_spread(seeds, spreads):
    assert family(100, 6, seeds, spreads, 0.05) <= bound(0.05, 300)


@pytest.mark.slow
@pytest.mark.parametrize(("arms", "seeds"), [(4, 2), (6, 3), (20, 3), (20, 5)])
@pytest.mark.parametrize("spreads", [0.0, 0.35, 0.7, 1.2])
def test_false_decisions_among_arms_in_many_trials(arms, seeds, spreads):
    assert family(6000 // arms, arms, seeds, spreads, 0.05) <= bound(0.05, 3000)
    if spreads < 0.7:
        assert family(24_000 // arms, arms, seeds, spreads, 0.0025) <= bound(0.0025, 12_000)


def test_effect_is_the_difference_of_means_of_group_means():
    groups = ["a", "a", "b"]
    left, right = np.array([[1, 0, 1], [1, 1, 0]]), np.array([[0, 0, 1], [0, 0, 0]])
    found = effect([left, -right], ["x", "y", "z"], groups)
    assert found.value == pytest.approx((0.75 + 0.5) / 2 - 0.25) and found.low < found.value < found.high
    swapped = effect([right, -left], ["x", "y", "z"], groups)
    assert swapped.value == -found.value and swapped.p_value == pytest.approx(found.p_value)


def test_seeds_of_one_parent_are_paired():
    """What two trainings owe to their parent drops out of their difference."""
    rng = np.random.default_rng(0)
    prompts = rng.normal(0, 0.1, PROMPTS)
    parent = rng.normal(0, 0.2, (5, 1))
    left, right = (0.4 + gain + parent + prompts + rng.normal(0, 0.05, (5, PROMPTS)) for gain in (0.05, 0.0))
    apart, paired = effect([left, -right], CLUSTERS, GROUPS), effect([left - right], CLUSTERS, GROUPS)
    assert apart.value == pytest.approx(paired.value)
    assert paired.p_value < 0.01 < apart.p_value


def test_p_value_and_interval_agree():
    parts = (Part(0.02, 2), Part(0.01, 114))
    for alpha in (0.5, 0.05, 0.001):
        assert p_value(half_width(parts, alpha), parts) == pytest.approx(alpha, rel=1e-6)
    assert p_value(1e9, (Part(1e-9, 500.0),)) == pytest.approx(LEAST_P)
    assert p_value(0.0, parts) == 1.0


def test_without_any_spread_nothing_is_decided():
    found = effect([np.full((3, 4), 0.5), np.zeros((3, 4))], list("abcd"))
    assert found.value == 0.5 and found.low is None and found.p_value == 1.0


@pytest.mark.parametrize(
    ("sides", "message"),
    [([], "at least one value"), ([[0.1, np.nan]], "finite"), ([[]], "at least one value")],
)
def test_sides_without_values_are_refused(sides, message):
    with pytest.raises(ValueError, match=message):
        between(sides, Part(0.0, np.inf))


def test_samples_of_another_length_are_refused():
    with pytest.raises(ValueError, match="3 samples"):
        effect([np.zeros((2, 4))], list("abc"))


def test_jackknife_over_common_blocks():
    rng = np.random.default_rng(0)
    a, b = rng.normal(5, 0.1, 20), rng.normal(4, 0.1, 20)
    part, theirs = jackknifed([a, -b]), jackknife_interval(1.0, a - b)
    half = stats.t.ppf(0.975, 19) * np.sqrt(part.variance)
    assert part.freedom == 19 and 1.0 + half == pytest.approx(theirs.high)
    with pytest.raises(ValueError, match="blocks"):
        jackknifed([a, b[:10]])


def test_images_to_reach_a_score():
    images, curve = [1000, 2000, 4000, 8000], [0.1, 0.3, 0.25, 0.5]
    assert images_to_reach(images, curve, 0.3) == pytest.approx(2000)
    assert images_to_reach(images, curve, 0.2) == pytest.approx(1000 * np.sqrt(2))
    assert images_to_reach(images, curve, 0.4) == pytest.approx(4000 * np.sqrt(2)), "the dip does not count"
    assert images_to_reach(images, curve, 0.05) == 1000 and images_to_reach(images, curve, 0.6) is None


def curves(rng, images: np.ndarray, faster: float, seeds: int) -> np.ndarray:
    """Scores [seeds, points, prompts] that rise with the log of images, of a system ``faster`` times as fast."""
    pace = faster * np.exp(rng.normal(0, 0.1, (seeds, 1)))
    mean = 0.15 * np.log(images * pace / 500)
    chance = np.clip(mean[..., None] + rng.normal(0, 0.1, PROMPTS), 0, 1)
    return rng.binomial(IMAGES, chance) / IMAGES


def test_ratio_of_images_is_covered():
    rng, images = np.random.default_rng(0), np.array([1000, 2000, 4000, 8000, 16000, 32000])
    held = []
    for _ in range(40):
        found = speedup(images, curves(rng, images, 4, 3), curves(rng, images, 1, 3), 0.45, CLUSTERS, GROUPS)
        held.append(np.exp(found.low) <= 4 <= np.exp(found.high))
        assert np.exp(found.high) / np.exp(found.low) < 10
    assert np.mean(held) >= 0.9
    left, right = curves(rng, images, 40, 3), curves(rng, images, 1, 3)
    assert speedup(images, left, right, 0.99, CLUSTERS, GROUPS) is None, "right does not get there"
    assert speedup(images, left, right, 0.4, CLUSTERS, GROUPS) is None, "left starts above"
    bound = speedup(images, left, right, 0.4, CLUSTERS, GROUPS, at_least=True)
    assert 1 < np.exp(bound.value) < 40
