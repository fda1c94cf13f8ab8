"""Statistics of the comparison between arms.

Intervals here are value +- t * bootstrap standard error, with as many degrees of freedom as groups allow,
because percentile bootstrap intervals are too short with few question groups: on simulated data with 8 groups
the 95% percentile interval covered 88%, this one 94%. The resampled unit is the question group (a problem
family), which carries its questions and their samples with it; resampling those again would count their noise
twice (Davison and Hinkley 1997, section 3.8). The bootstrap's standard error of a sum has a closed form, the one
that ever more draws approach, so nothing is drawn and no interval depends on a random number.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import stats as distributions
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from dereason_utils.errors import InputError

SLOPE_POINTS = 8  # fewer steps do not show how alike neighbouring steps are
QUESTIONS_ONLY = "questions and samples (one training seed)"
ALL_LEVELS = "training seeds, questions and samples"


@dataclass(frozen=True)
class Estimate:
    """A value with its interval.

    `covers` says in words which kinds of chance the interval holds; `variances` are the parts of the squared
    standard error where they were told apart; `question_dof` the degrees of freedom of the part that questions bring.
    """

    value: float
    low: float
    high: float
    se: float
    dof: float
    covers: str
    questions: int
    groups: int
    seeds: int = 1
    variances: dict[str, float] = field(default_factory=dict)
    question_dof: float = math.nan

    @property
    def p_value(self) -> float:
        """Two-sided p-value of the hypothesis that the true value is 0, from the same t distribution.

        Without any variation there is nothing to judge by, and it is 1.
        """
        if self.se == 0:
            return 1.0
        return float(2 * distributions.t.sf(abs(self.value) / self.se, self.dof))


def wilson(successes: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a single rate; `trials` may be an effective sample size."""
    low, high = proportion_confint(successes, trials, alpha=1 - level, method="wilson")
    return float(low), float(high)


def pass_at_k(samples: int, correct: np.ndarray, k: int) -> np.ndarray:
    """Chance that at least one of k completions is correct, without bias (Chen et al. 2021, arXiv 2107.03374,
    Eq. 1).

    1 - C(n - c, k) / C(n, k) for each question with `correct` = c successes among n = `samples` completions.
    """
    if not 1 <= k <= samples:
        raise InputError(
            f"pass@{k} cannot be estimated from {samples} samples a question: k must be 1 to {samples}."
        )
    return np.array(
        [1 - math.comb(samples - int(c), k) / math.comb(samples, k) for c in np.atleast_1d(correct)]
    )


def maj_at_k(answers: list[str | None], correct: list[bool]) -> float:
    """Chance that the most frequent extracted answer of one question's samples is correct.

    Answers are compared as text without case and blanks, as a voter without the gold answer would; samples
    without an answer do not vote, and a tie is broken by chance.
    """
    votes: dict[str, int] = {}
    right: dict[str, bool] = {}
    for answer, is_correct in zip(answers, correct, strict=True):
        if isinstance(answer, str):  # pandas reads a missing answer as NaN
            key = "".join(answer.split()).casefold()
            votes[key] = votes.get(key, 0) + 1
            right[key] = right.get(key, False) or bool(is_correct)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [key for key, count in votes.items() if count == most]
    return sum(right[key] for key in winners) / len(winners)


def holm(p_values: list[float]) -> list[float]:
    """Holm's adjusted p-values of a family of tests, in the order given."""
    return multipletests(p_values, method="holm")[1].tolist() if len(p_values) else []


def mean(values, groups, benchmarks=None, *, level: float = 0.95) -> Estimate:
    """Mean over questions of one training seed, with a bootstrap interval clustered by question group.

    values [questions]: one number a question (its samples' mean, say). groups [questions]: the family of
    each. benchmarks [questions]: where given, the value is the plain mean of the benchmarks' means, as the
    paper's "avg".
    """
    values = np.asarray(values, float)
    design = _Design(groups, benchmarks, len(values))
    value, parts = design.linearise(values[None])
    variance, dof = design.variance(parts[0])
    return _interval(value, variance, dof, level, QUESTIONS_ONLY, design, dof)


def paired_difference(a, b, groups, benchmarks=None, *, level: float = 0.95) -> Estimate:
    """Mean of a - b over the same questions (both [questions], in the same order), clustered as in `mean`."""
    if len(a) != len(b):
        raise InputError(f"Paired arms need the same questions: one has {len(a)}, the other {len(b)}.")
    return mean(np.asarray(a, float) - np.asarray(b, float), groups, benchmarks, level=level)


def rate(values, groups, benchmarks=None, *, samples: int = 1, level: float = 0.95) -> Estimate:
    """Like `mean`, for values that are rates: Wilson's interval at the effective sample size, so inside [0,
    1].

    The effective size is that of independent trials with the bootstrap's standard error, shortened for few
    groups (Korn and Graubard 1998); without any variation it is the number of questions. `samples` =
    completions a question.
    """
    plain = mean(values, groups, benchmarks, level=level)
    return _as_rate(plain, samples, level)


def hierarchical_mean(samples, groups, benchmarks=None, *, level: float = 0.95) -> Estimate:
    """Mean over training seeds and questions, with chance from seeds, questions and samples.

    samples [seeds, questions, samples]: one number a completion; the questions are the same under every seed.
    Seeds and question groups are crossed, so the variance is that of resampling seeds, plus that of
    resampling groups, minus that of their interaction (with the samples' noise), which both hold: two-way
    clustering (Cameron, Gelbach and Miller 2011) with unbiased terms, and no less than any of the three. Satterthwaite's
    degrees of freedom. Raises InputError for a single seed.
    """
    samples = np.asarray(samples, float)
    seeds, questions, copies = samples.shape
    _need_seeds(seeds)
    within = samples.var(axis=2, ddof=1) / copies if copies > 1 else np.full((seeds, questions), np.nan)
    return _hierarchical(samples.mean(axis=2), within, groups, benchmarks, level)


def hierarchical_difference(a, b, groups, benchmarks=None, *, level: float = 0.95) -> Estimate:
    """Mean of a - b, both [seeds, questions, samples], paired by training seed and question.

    Otherwise as `hierarchical_mean`.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape[:2] != b.shape[:2]:
        raise InputError(
            f"Paired arms need the same seeds and questions, not {a.shape[:2]} and {b.shape[:2]}."
        )
    _need_seeds(len(a))
    within = sum(
        x.var(axis=2, ddof=1) / x.shape[2] if x.shape[2] > 1 else np.full(x.shape[:2], np.nan) for x in (a, b)
    )
    return _hierarchical(a.mean(axis=2) - b.mean(axis=2), within, groups, benchmarks, level)


def slope(y, x=None, level: float = 0.95) -> Estimate:
    """Slope of a training curve per unit of x (default: per step), by ordinary least squares.

    Steps are autocorrelated, and a Newey-West error is far too small at this length: on simulated curves of
    24 steps with autocorrelation 0 / 0.3 / 0.6 its 95% interval covered 90 / 85 / 72%, this one 96 / 93 /
    89%. The error here assumes first-order autocorrelation, estimated from the residuals and corrected for
    the bias that fitting a line brings (Kendall 1954: about -(2 + 4 rho) / n), with Satterthwaite's degrees
    of freedom.
    """
    y = np.asarray(y, float)
    n = len(y)
    if n < SLOPE_POINTS:
        raise InputError(f"A slope needs at least {SLOPE_POINTS} points to judge their likeness, not {n}.")
    x = np.arange(n, dtype=float) if x is None else np.asarray(x, float)
    centred = x - x.mean()
    weights = centred / (centred @ centred)
    value = float(weights @ y)
    residuals = y - y.mean() - value * centred
    if np.allclose(residuals, 0, atol=1e-12):
        return Estimate(value, value, value, 0.0, n - 2, "steps", n, n)
    raw = (residuals[1:] @ residuals[:-1]) / (residuals @ residuals)
    rho = float(np.clip((raw + 2 / n) / (1 - 4 / n), 0, 0.95))
    correlation = rho ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    fitted = np.column_stack([np.ones(n), x])
    shrunk = (np.eye(n) - fitted @ np.linalg.pinv(fitted)) @ correlation
    variance = (residuals @ residuals) / np.trace(shrunk) * (weights @ correlation @ weights)
    dof = np.trace(shrunk) ** 2 / np.sum(shrunk * shrunk.T)
    half = distributions.t.ppf(0.5 + level / 2, dof) * math.sqrt(variance)
    return Estimate(
        value, value - half, value + half, math.sqrt(variance), float(dof), "steps of one run", n, n
    )


class _Design:
    """Which question belongs to which group and benchmark, and which groups may be resampled for one another.

    Families of different benchmarks (mini_stem's and reasoning_gym's) are no draws from the same population,
    so resampling stays inside a block: groups connected by a shared benchmark. A block of a single group is
    broken up into its questions, since one group says nothing about the spread between groups.
    """

    def __init__(self, groups, benchmarks, questions: int):
        if questions == 0:
            raise InputError("There are no questions to average over: run 05_eval for this arm first.")
        names, group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        stratum = np.zeros(questions, int)
        if benchmarks is not None:
            stratum = np.unique(np.asarray(benchmarks, dtype=str), return_inverse=True)[1]
        if not len(group) == len(stratum) == questions:
            raise InputError("values, groups and benchmarks must have one entry for each question.")
        self.given_groups = len(names)
        group = self._break_up_lone_groups(group, stratum)
        self.questions, self.stratum = questions, stratum
        self.group, self.count = group, group.max() + 1
        block = self._blocks(group, stratum)
        self.block_of_group = np.zeros(self.count, int)
        self.block_of_group[group] = block
        self.blocks = [np.flatnonzero(self.block_of_group == b) for b in range(block.max() + 1)]

    @staticmethod
    def _blocks(group, stratum) -> np.ndarray:
        """Block of each question: connected components of the graph between groups and benchmarks."""
        offset = group.max() + 1
        size = offset + stratum.max() + 1
        graph = coo_matrix((np.ones(len(group)), (group, offset + stratum)), shape=(size, size))
        labels = connected_components(graph, directed=False)[1][group]
        return np.unique(labels, return_inverse=True)[1]

    @classmethod
    def _break_up_lone_groups(cls, group, stratum) -> np.ndarray:
        block = cls._blocks(group, stratum)
        alone = [b for b in range(block.max() + 1) if len(np.unique(group[block == b])) == 1]
        own = np.where(np.isin(block, alone), len(group) + np.arange(len(group)), group)
        return np.unique(own, return_inverse=True)[1]

    def linearise(self, values: np.ndarray) -> tuple[float, np.ndarray]:
        """The statistic and each group's part in it under each seed.

        values [seeds, questions]. The statistic is the mean over seeds of the mean over benchmarks of their
        questions' mean; parts [seeds, groups] are deviations that sum to 0 over both axes. Working with them
        keeps a draw without any question of some benchmark from being undefined.
        """
        sizes = np.bincount(self.stratum)
        means = np.bincount(self.stratum, values.mean(0)) / sizes
        share = 1 / (len(sizes) * sizes[self.stratum])
        deviations = (values - means[self.stratum]) * share
        parts = np.stack([np.bincount(self.group, row, minlength=self.count) for row in deviations])
        return float(means.mean()), parts

    def variance(self, parts: np.ndarray) -> tuple[float, float]:
        """Bootstrap variance of the statistic when groups are resampled, and its degrees of freedom."""
        each = [_resampled_variance(parts[members]) for members in self.blocks]
        total = sum(each)
        dofs = [len(members) - 1 for members in self.blocks]
        if total == 0 or not all(dofs):
            return total, float(max(1, min(dofs)))
        return total, total**2 / sum(v**2 / d for v, d in zip(each, dofs, strict=True))


def _resampled_variance(parts: np.ndarray) -> float:
    """Variance of the sum of n parts that are drawn n times with replacement, times n / (n - 1).

    Each draw has the variance of the parts around their mean, and draws are independent: n times that.
    """
    n = len(parts)
    return float(n * parts.var(ddof=1)) if n > 1 else math.nan


def _interaction_variance(parts: np.ndarray) -> float:
    """Variance of the sum over groups and mean over seeds of what is left without seed and group effects.

    parts [seeds, groups]; unbiased, by the degrees of freedom of a two-way table.
    """
    seeds, groups = parts.shape
    left = parts - parts.mean(0) - parts.mean(1, keepdims=True) + parts.mean()
    return float((left**2).sum() * groups / ((groups - 1) * seeds * (seeds - 1))) if groups > 1 else math.nan


def _hierarchical(values, within, groups, benchmarks, level) -> Estimate:
    """values, within [seeds, questions]: means over samples and the variances of those means."""
    seeds, questions = values.shape
    design = _Design(groups, benchmarks, questions)
    value, parts = design.linearise(values)
    of_seeds = _resampled_variance(parts.sum(1) / seeds)
    of_questions, question_dof = design.variance(parts.mean(0))
    of_cells = sum(_interaction_variance(parts[:, members]) for members in design.blocks)
    # The difference can come out below one of its parts by chance, which is no sensible variance.
    total = max(of_seeds + of_questions - of_cells, of_seeds, of_questions, of_cells)
    cell_dof = (seeds - 1) * question_dof
    spread = of_seeds**2 / (seeds - 1) + of_questions**2 / question_dof + of_cells**2 / cell_dof
    dof = total**2 / spread if spread > 0 else seeds - 1
    sizes = np.bincount(design.stratum)
    share = 1 / (len(sizes) * sizes[design.stratum])
    variances = {
        "training seeds": max(0.0, of_seeds - of_cells),
        "questions": max(0.0, of_questions - of_cells),
        "samples": float((within * share**2).sum() / seeds**2),
    }
    return _interval(value, total, dof, level, ALL_LEVELS, design, question_dof, seeds, variances)


def _interval(value, variance, dof, level, covers, design, question_dof, seeds=1, variances=None) -> Estimate:
    se = math.nan if math.isnan(variance) else math.sqrt(variance)
    half = distributions.t.ppf(0.5 + level / 2, dof) * se
    return Estimate(
        value,
        value - half,
        value + half,
        se,
        dof,
        covers,
        design.questions,
        design.given_groups,
        seeds,
        variances or {},
        question_dof,
    )


def _as_rate(plain: Estimate, samples: int, level: float) -> Estimate:
    p = min(max(plain.value, 0.0), 1.0)
    size = float(plain.questions)
    if plain.se > 0:
        few_groups = distributions.norm.ppf(0.5 + level / 2) / distributions.t.ppf(0.5 + level / 2, plain.dof)
        size = min(p * (1 - p) / plain.se**2 * few_groups**2, plain.questions * samples * plain.seeds)
    low, high = wilson(p * size, size, level)
    return replace(plain, low=low, high=high)


def hierarchical_rate(samples, groups, benchmarks=None, *, level: float = 0.95) -> Estimate:
    """`hierarchical_mean` for rates, with an interval inside [0, 1] as in `rate`."""
    plain = hierarchical_mean(samples, groups, benchmarks, level=level)
    return _as_rate(plain, np.shape(samples)[2], level)


def _need_seeds(seeds: int) -> None:
    if seeds < 2:
        raise InputError(
            "One training seed gives no interval over training seeds: train more, or report the interval "
            "over questions and samples, named as such."
        )
