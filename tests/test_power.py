"""Detectable effects, seeds that would settle a comparison, and the small estimates of the claims."""

import math

import numpy as np
import pytest
from scipy import stats as distributions

from dereason_utils import power, stats
from dereason_utils.errors import InputError


def estimate(value=1.0, se=0.5, dof=9.0, seeds=5, groups=40, questions_part=0.0):
    return stats.Estimate(value, value - se, value + se, se, dof, stats.ALL_LEVELS, 100, groups, seeds,
                          {"questions": questions_part}, groups - 1.0)  # fmt: skip


def test_an_effect_of_the_detectable_size_is_found_in_four_of_five_cases():
    generator, found = np.random.default_rng(1), 0
    size = power.detectable(estimate(se=1 / math.sqrt(10), dof=9))
    for _ in range(2000):
        each = power.over_seeds(generator.normal(size, 1, 10))
        found += each.p_value < 0.05
    assert found / 2000 == pytest.approx(0.8, abs=0.04)


def test_coverage_of_the_interval_over_seeds():
    generator = np.random.default_rng(2)
    found = [power.over_seeds(generator.normal(0.3, 1, 5)) for _ in range(2000)]
    assert 0.93 <= np.mean([each.low <= 0.3 <= each.high for each in found]) <= 0.97


def test_seeds_needed_is_the_fewest_that_reach_the_effect():
    pilot = estimate(se=1 / math.sqrt(5), seeds=5)  # one run of a difference has standard deviation 1
    needed = power.seeds_needed(pilot, 0.5)

    def reached(n):
        quantiles = distributions.t.ppf(0.975, n - 1) + distributions.t.ppf(0.8, n - 1)
        return quantiles / math.sqrt(n)

    assert reached(needed) <= 0.5 < reached(needed - 1)


def test_no_number_of_seeds_makes_up_for_few_questions():
    assert power.seeds_needed(estimate(se=1.0, questions_part=0.9), 0.5) is None
    with pytest.raises(InputError, match="train a second one"):
        power.seeds_needed(estimate(seeds=1), 0.5)


def test_a_fixed_part_counts_with_the_degrees_of_freedom_of_its_questions():
    few, many = (estimate(se=0.2, questions_part=0.02, groups=groups) for groups in (3, 60))
    assert power.seeds_needed(few, 0.5) is None and power.seeds_needed(many, 0.5) < 20
    assert power.seeds_needed(many, 0.6, level=0.99) > power.seeds_needed(many, 0.6)


def test_tail_agrees_with_the_two_sided_p_value():
    each = estimate(1.2)
    assert power.tail(each, 0) == pytest.approx(each.p_value / 2)
    assert power.tail(each, each.value) == pytest.approx(0.5)


def test_without_variation_or_interval_nothing_is_decided():
    assert power.tail(estimate(se=0.0), 0) == 1.0
    one = power.lone(3.0)
    assert power.tail(one, 0) == 1.0 and math.isnan(power.detectable(one)) and math.isnan(one.low)
    with pytest.raises(InputError, match="One training seed"):
        power.over_seeds([1.0])


def test_share_difference_is_newcombes():
    # Newcombe 1998, method 10, on 56/70 and 48/80: 0.2 with (0.0524, 0.3339)
    each = power.share_difference((56, 70), (48, 80))
    assert (each.value, each.low, each.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def test_correlation_of_ranks():
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(600):
        x = generator.normal(size=80)
        each = power.correlation(x, 0.5 * x + math.sqrt(0.75) * generator.normal(size=80))
        hits += each.low <= 6 / math.pi * math.asin(0.25) <= each.high
    assert 0.925 <= hits / 600 <= 0.975
