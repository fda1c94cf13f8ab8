"""What a comparison can show: its smallest detectable effect, and how many training seeds would settle it.

Apart from `stats`, because the training notebooks import that one: a change here trains nothing again.
"""

import math

import numpy as np
from scipy import stats as distributions
from scipy.special import stdtrit
from statsmodels.stats.proportion import proportion_confint

from dereason_utils.errors import InputError
from dereason_utils.stats import ALL_LEVELS, Estimate

POWER = 0.8  # the usual chance of seeing an effect that is there
MOST_SEEDS = 1000
SEEDS_ONLY = "training seeds"


def detectable(estimate: Estimate, level: float = 0.95, power: float = POWER) -> float:
    """The smallest true effect that a repetition of this comparison would find with the given power.

    (t[1 - alpha/2] + t[power]) x standard error, with the estimate's degrees of freedom, in its own unit (Cohen 1988,
    section 2.4, with t in place of the normal). What it covers is what the estimate covers.
    """
    if not math.isfinite(estimate.se):
        return math.nan
    return float(_quantiles(estimate.dof, level, power) * estimate.se)


def seeds_needed(estimate: Estimate, effect: float, level: float = 0.95, power: float = POWER) -> int | None:
    """The fewest training seeds with which `detectable` would fall to `effect`, the questions staying the same.

    The part of the variance that seeds bring shrinks with their number, that of the questions does not; None: not even
    MOST_SEEDS are enough, it takes more questions. Raises InputError when the spread between seeds was not measured.
    """
    if estimate.seeds < 2:
        raise InputError(
            "One training seed does not tell how much trainings differ, so not how many are needed: train a second one."
        )
    fixed = estimate.variances.get("questions", 0.0)
    shrinking = max(estimate.se**2 - fixed, 0.0) * estimate.seeds
    for seeds in range(2, MOST_SEEDS + 1):
        moving = shrinking / seeds
        total = fixed + moving
        if total == 0:
            return seeds
        of_questions = fixed**2 / estimate.question_dof if fixed else 0.0
        dof = total**2 / (of_questions + moving**2 / (seeds - 1))  # Satterthwaite
        if _quantiles(dof, level, power) * math.sqrt(total) <= effect:
            return seeds
    return None


def tail(estimate: Estimate, bar: float) -> float:
    """One-sided p-value of the hypothesis that the true value is at most `bar`; 1 without any variation to judge by."""
    if not math.isfinite(estimate.se) or estimate.se == 0:
        return 1.0
    return float(distributions.t.sf((estimate.value - bar) / estimate.se, estimate.dof))


def over_seeds(values, level: float = 0.95) -> Estimate:
    """Mean of one number per training seed with its t interval. Raises InputError for a single seed."""
    values = np.asarray(values, float)
    if len(values) < 2:
        raise InputError("One training seed gives no interval over training seeds: train more.")
    se = float(values.std(ddof=1) / math.sqrt(len(values)))
    half = distributions.t.ppf(0.5 + level / 2, len(values) - 1) * se
    middle = float(values.mean())
    seeds = len(values)
    return Estimate(middle, middle - half, middle + half, se, seeds - 1.0, SEEDS_ONLY, 0, 0, seeds)


def lone(value: float) -> Estimate:
    """A number of one training run, which has no interval over training seeds."""
    return Estimate(
        float(value), math.nan, math.nan, math.nan, math.nan, "nothing (one training seed)", 0, 0, 1
    )


def share_difference(a: tuple[int, int], b: tuple[int, int], level: float = 0.95) -> Estimate:
    """Difference of two independent shares, each (successes, trials): Newcombe's interval from two of Wilson's (1998)."""
    shares, ends = [], []
    for successes, trials in (a, b):
        shares.append(successes / trials)
        ends.append(proportion_confint(successes, trials, alpha=1 - level, method="wilson"))
    value = shares[0] - shares[1]
    below = math.hypot(shares[0] - ends[0][0], ends[1][1] - shares[1])
    above = math.hypot(ends[0][1] - shares[0], shares[1] - ends[1][0])
    se = (below + above) / 2 / distributions.norm.ppf(0.5 + level / 2)
    total = a[1] + b[1]
    return Estimate(
        value, value - below, value + above, se, total - 2.0, "problems of one rating", total, total
    )


def correlation(x, y, level: float = 0.95) -> Estimate:
    """Spearman's rank correlation; interval on Fisher's scale with Bonett and Wright's error (2000)."""
    value, n = float(distributions.spearmanr(x, y).statistic), len(x)
    error = math.sqrt((1 + value**2 / 2) / (n - 3))
    half = distributions.norm.ppf(0.5 + level / 2) * error
    middle = math.atanh(np.clip(value, -0.999999, 0.999999))
    low, high = math.tanh(middle - half), math.tanh(middle + half)
    return Estimate(value, low, high, error * (1 - value**2), n - 2.0, "problems of one rating", n, n)


def covers_seeds(estimate: Estimate) -> bool:
    return estimate.covers in (ALL_LEVELS, SEEDS_ONLY)


def _quantiles(dof: float, level: float, power: float) -> float:
    # What t.ppf returns, without its checks: this is asked for ten thousands of numbers of seeds.
    return stdtrit(dof, 0.5 + level / 2) + stdtrit(dof, power)
