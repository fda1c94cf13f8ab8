"""Hand-computed cases, and coverage of the intervals on simulated data."""

from itertools import combinations

import numpy as np
import pytest

from dereason_utils import stats
from dereason_utils.errors import InputError


def rng(seed=0):
    return np.random.default_rng(seed)


def test_wilson_matches_the_textbook_example():
    # 10 of 20: centre 1/2, half-width z / (2 sqrt(n + z^2)) = 1.95996 / (2 sqrt(23.8415)) = 0.2007
    assert stats.wilson(10, 20) == pytest.approx((0.2993, 0.7007), abs=1e-4)
    assert stats.wilson(0, 20)[0] == 0.0


def test_pass_at_k_counts_the_draws_of_k_with_a_success():
    # 4 completions, 1 correct: of the 6 pairs 3 hold it
    assert stats.pass_at_k(4, np.array([0, 1, 4]), 2) == pytest.approx([0, 0.5, 1])
    outcomes = [True, True, False, False, False]
    share = np.mean([any(draw) for draw in combinations(outcomes, 3)])
    assert stats.pass_at_k(5, np.array([2]), 3)[0] == pytest.approx(share)
    with pytest.raises(InputError, match="1 to 4"):
        stats.pass_at_k(4, np.array([1]), 5)


@pytest.mark.parametrize(
    ("answers", "correct", "expected"),
    [
        (["7", "7", "8", None], [True, True, False, False], 1.0),
        (["7", "8", "8", "9"], [True, False, False, False], 0.0),
        (["7", "8"], [True, False], 0.5),  # a tie
        ([None, None, "3"], [False, False, True], 1.0),  # silence does not vote
        (["A b", "a B", "c"], [True, True, False], 1.0),
        ([None, float("nan")], [False, False], 0.0),
    ],
)
def test_maj_at_k(answers, correct, expected):
    assert stats.maj_at_k(answers, correct) == expected


def test_holm_on_a_worked_example():
    # sorted 0.01, 0.02, 0.04 times 3, 2, 1, made non-decreasing
    assert stats.holm([0.02, 0.01, 0.04]) == pytest.approx([0.04, 0.03, 0.04])
    assert stats.holm([]) == []


def test_mean_clusters_by_group():
    values, groups = [0, 0, 1, 1], ["a", "a", "b", "b"]
    estimate = stats.mean(values, groups)
    # Two groups with means 0 and 1: the standard error is sqrt(((0 - .5)^2 + (1 - .5)^2) / (2 * 1)) = 0.5
    assert estimate.value == 0.5 and estimate.se == pytest.approx(0.5)
    assert estimate.dof == 1 and estimate.groups == 2 and "one training seed" in estimate.covers


def test_benchmarks_weigh_alike_in_an_average():
    values, benchmarks = [1, 1, 1, 0], ["x", "x", "x", "y"]
    assert stats.mean(values, list("abca"), benchmarks).value == 0.5


def test_families_of_different_benchmarks_are_not_exchanged():
    values = rng().normal(size=60)
    groups = [f"m{i % 20}" for i in range(40)] + [f"r{i % 4}" for i in range(20)]
    benchmarks = ["m easy"] * 20 + ["m hard"] * 20 + ["r easy"] * 10 + ["r hard"] * 10
    both = stats.mean(values, groups, benchmarks)
    assert 3 <= both.dof <= 22  # between that of the 4 tasks alone and that of all 24 groups in two blocks


def test_a_lone_group_falls_back_to_its_questions():
    values = [0, 1, 0, 1, 1, 0, 1, 1]
    alone = stats.mean(values, ["a"] * 8)
    assert alone == stats.Estimate(**{**vars(stats.mean(values, range(8))), "groups": 1})


def test_the_standard_error_is_the_one_that_ever_more_draws_approach():
    values, groups = rng().normal(size=40), np.arange(40) % 8
    parts = np.bincount(groups, values - values.mean()) / 40
    draws = rng(1).multinomial(8, [1 / 8] * 8, size=100_000) @ parts
    assert stats.mean(values, groups).se == pytest.approx(draws.std() * np.sqrt(8 / 7), rel=0.01)


def test_paired_difference_uses_the_pairing():
    ease = rng(1).normal(size=200)
    groups = [i % 20 for i in range(200)]
    a, b = ease + 0.3 + rng(2).normal(0, 0.1, 200), ease + rng(3).normal(0, 0.1, 200)
    estimate = stats.paired_difference(a, b, groups)
    assert estimate.low < 0.3 < estimate.high and estimate.high - estimate.low < 0.1
    assert estimate.p_value < 1e-6
    with pytest.raises(InputError, match="same questions"):
        stats.paired_difference(a, b[:-1], groups)


def test_interval_and_p_value_agree():
    values, groups = rng(5).normal(0.2, 1, 60), [i % 12 for i in range(60)]
    for shift in (0.0, 0.1, 0.3, 0.5):
        estimate = stats.mean(values - shift, groups)
        assert (estimate.p_value < 0.05) == (estimate.low > 0 or estimate.high < 0)


def test_rate_stays_inside_zero_and_one():
    nothing = stats.rate(np.zeros(30), [i % 6 for i in range(30)])
    assert nothing.low == 0 and (nothing.low, nothing.high) == pytest.approx(stats.wilson(0, 30))
    rare = stats.rate([1] + [0] * 59, [i % 6 for i in range(60)])
    assert 0 < rare.low < rare.value < rare.high < 0.3


def test_a_rate_without_clustering_is_wilsons():
    values = (rng().random(4000) < 0.3).astype(float)
    estimate = stats.rate(values, range(4000))
    assert (estimate.low, estimate.high) == pytest.approx(stats.wilson(values.sum(), 4000), abs=2e-3)


def test_one_seed_has_no_training_seed_interval():
    one = np.ones((1, 6, 2))
    for function, arguments in (
        (stats.hierarchical_mean, (one,)),
        (stats.hierarchical_rate, (one,)),
        (stats.hierarchical_difference, (one, one)),
    ):
        with pytest.raises(InputError, match="One training seed"):
            function(*arguments, range(6))


def test_no_questions_is_an_input_error():
    with pytest.raises(InputError, match="no questions"):
        stats.mean([], [])


def simulated(generator, seeds, families, seed_sd, family_sd, question_sd, samples=4):
    """Completions [seeds, questions, samples] around 0.4 and the family of each question."""
    groups = np.repeat(np.arange(families), generator.integers(5, 15, families))
    questions = len(groups)
    middle = (
        0.4
        + seed_sd * generator.normal(size=(seeds, 1))
        + family_sd * generator.normal(size=families)[groups]
        + question_sd * generator.normal(size=questions)
        + 0.1 * generator.normal(size=(seeds, questions))
    )
    return middle[:, :, None] + 0.4 * generator.normal(size=(seeds, questions, samples)), groups


def test_variances_are_told_apart():
    found = []
    for i in range(60):
        samples, groups = simulated(rng(i), 6, 24, 0.05, 0.1, 0.3)
        found.append(stats.hierarchical_mean(samples, groups).variances)
    mean = {name: np.mean([each[name] for each in found]) for name in found[0]}
    # of the mean of 6 seeds, about 240 questions in 24 families, 4 samples
    assert mean["training seeds"] == pytest.approx(0.05**2 / 6, rel=0.3)
    assert mean["questions"] == pytest.approx(0.1**2 / 24 * 1.1 + 0.3**2 / 228, rel=0.3)
    assert mean["samples"] == pytest.approx(0.4**2 / (6 * 228 * 4), rel=0.1)


def coverage(interval, truth, repeats, *arguments):
    hits = 0
    for i in range(repeats):
        samples, groups = simulated(rng([7, i]), *arguments)
        estimate = interval(samples, groups)
        hits += estimate.low <= truth <= estimate.high
    return hits / repeats


@pytest.mark.parametrize("families", [10, 24])
def test_coverage_of_the_clustered_interval(families):
    def interval(samples, groups):
        return stats.mean(samples[0].mean(1), groups)

    assert 0.93 <= coverage(interval, 0.4, 1000, 1, families, 0.0, 0.1, 0.3) <= 0.97


@pytest.mark.parametrize(("seeds", "seed_sd"), [(5, 0.02), (5, 0.05), (20, 0.02)])
def test_coverage_over_training_seeds(seeds, seed_sd):
    def interval(samples, groups):
        return stats.hierarchical_mean(samples, groups)

    assert 0.93 <= coverage(interval, 0.4, 700, seeds, 24, seed_sd, 0.1, 0.3) <= 0.97


def test_no_interval_explodes_where_neither_seeds_nor_families_matter():
    """There the two variances may both come out below that of their interaction, and the degrees of freedom ran to 0."""
    seeds, families, hits = 3, 6, 0
    for i in range(400):
        generator = rng([5, i])
        both = 0.1 * generator.normal(size=(seeds, families)).repeat(10, axis=1)
        samples = 0.4 + both[:, :, None] + 0.3 * generator.normal(size=(seeds, families * 10, 2))
        groups = np.repeat(np.arange(families), 10)
        estimate = stats.hierarchical_mean(samples, groups)
        least = 1 / (1 / (seeds - 1) + 1 / (families - 1) + 1 / ((seeds - 1) * (families - 1)))
        assert estimate.dof >= least - 1e-9 and estimate.high - estimate.low < 1
        hits += estimate.low <= 0.4 <= estimate.high
    assert hits / 400 >= 0.95


def test_coverage_of_a_paired_difference_over_seeds():
    hits = 0
    for i in range(500):
        a, groups = simulated(rng([1, i]), 5, 24, 0.02, 0.05, 0.2)
        b = simulated(rng([2, i]), 5, 24, 0.02, 0.0, 0.0)[0]
        count = min(a.shape[1], b.shape[1])
        estimate = stats.hierarchical_difference(a[:, :count], b[:, :count], groups[:count])
        hits += estimate.low <= 0 <= estimate.high
    assert 0.93 <= hits / 500 <= 0.975


def test_coverage_of_rates_averaged_over_benchmarks():
    benchmarks = np.repeat(["m easy", "m hard", "r easy", "r hard"], [60, 60, 30, 30])
    families = np.array([f"m{i % 20}" for i in range(120)] + [f"r{i % 6}" for i in range(60)])
    chance = np.where([name.endswith("easy") for name in benchmarks], 0.30, 0.10)
    hits = 0
    for i in range(600):
        generator = rng([4, i])
        ease = {name: 2 * generator.beta(4, 4) for name in sorted(set(families))}
        solved = generator.binomial(4, np.clip(chance * [ease[name] for name in families], 0, 1)) / 4
        estimate = stats.rate(solved, families, benchmarks, samples=4)
        hits += estimate.low <= 0.2 <= estimate.high
    assert 0.93 <= hits / 600 <= 0.97


def curve(generator, n, rho, rise):
    noise = generator.normal(size=n)
    noise[0] /= np.sqrt(1 - rho**2)
    for i in range(1, n):
        noise[i] += rho * noise[i - 1]
    return rise * np.arange(n) + noise


@pytest.mark.parametrize(("n", "rho"), [(24, 0.0), (24, 0.2), (48, 0.3)])
def test_coverage_of_the_slope(n, rho):
    found = [stats.slope(curve(rng([5, i]), n, rho, 0.05)) for i in range(1500)]
    assert 0.925 <= np.mean([each.low <= 0.05 <= each.high for each in found]) <= 0.975


def test_slope_of_a_straight_line_and_of_its_unit():
    exact = stats.slope([1, 3, 5, 7, 9, 11, 13, 15])
    assert (exact.value, exact.low, exact.high) == pytest.approx((2, 2, 2))
    noisy = curve(rng(), 24, 0.2, 0.5)
    assert stats.slope(noisy, 10 * np.arange(24)).value == pytest.approx(stats.slope(noisy).value / 10)
    with pytest.raises(InputError, match="at least 8"):
        stats.slope([1, 2, 3])


def test_autocorrelation_widens_the_slope_interval():
    def width(rho):
        found = [stats.slope(curve(rng([6, i]), 48, rho, 0.0) * np.sqrt(1 - rho**2)) for i in range(60)]
        return np.mean([each.high - each.low for each in found])

    assert width(0.6) > 1.4 * width(0.0)
