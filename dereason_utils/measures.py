"""What the claims are tested with: each measure takes the results and returns pairs (name, stats.Estimate).

Accuracies and their differences are in percentage points (stats' shares times 100), rewards too; lengths are relative
changes in percent, entropies in nats per token. Every measure is written so that the claim predicts a positive value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from dereason_utils import manifest, paths, power, results, tables
from dereason_utils.results import Results
from dereason_utils.stats import Estimate

Found = list[tuple[str, Estimate]]
SIZES = (16, 8, 4, 2)  # the sweep's parts of the pool, 1 in so many
# The benchmarks that ask for reasoning, and those that ask for knowledge or a single step (claim C7).
REASONING = ("gpqa_diamond", "bbeh", "mini_stem hard", "reasoning_gym hard")
FLOOR = 0.02  # where all arms are right less often than this, or wrong, a benchmark cannot tell them apart
KNOWLEDGE = ("mmlu_pro", "mini_stem easy", "reasoning_gym easy")


def average(read: Results, weights: Mapping[str, float], table: str = "general") -> Found:
    """A weighted sum of arms' accuracies, e.g. {"dereason": 1, "random_split": -1}, on a table's average."""
    items = read.items[read.items["table"] == table]
    return [(tables.AVERAGE, _contrast(items, weights))]


def each_benchmark(read: Results, weights: Mapping[str, float]) -> Found:
    """The same on every benchmark, without those on which all these arms lie at the floor or at the ceiling."""
    chosen = read.items[read.items["arm"].isin(weights)]
    means = chosen.groupby(["benchmark", "arm"])["correct"].mean().groupby("benchmark")
    telling = (means.max() > FLOOR) & (means.min() < 1 - FLOOR)
    return [(name, _contrast(part, weights)) for name, part in chosen.groupby("benchmark") if telling[name]]


def reasoning_minus_knowledge(read: Results, weights: Mapping[str, float]) -> Found:
    """The sum on the benchmarks that ask for reasoning, minus the sum on the others (a difference of differences)."""
    heavy, light = (
        [name for name in read.items["benchmark"].unique() if name in names]
        for names in (REASONING, KNOWLEDGE)
    )
    if not heavy or not light:
        return []
    both = len(heavy) + len(light)
    scale = {name: both / len(heavy) for name in heavy} | {name: -both / len(light) for name in light}
    items = read.items[read.items["benchmark"].isin(scale)]
    return [("reasoning minus knowledge", _contrast(items, weights, scale))]


def sft_minus_rl_by_size(read: Results, table: str) -> Found:
    """SFT minus RL on the same problems, at every size of the pool for which both arms were run."""
    items = read.items[read.items["table"] == table]
    pairs = {f"1 in {part}": (f"sft_1_in_{part}", f"rl_1_in_{part}") for part in SIZES}
    pairs["all problems"] = ("sft_only", "rl_only")
    return [
        (size, _contrast(items, {sft: 1, rl: -1}))
        for size, (sft, rl) in pairs.items()
        if {sft, rl} <= set(read.arms)
    ]


def growth_with_size(read: Results, table: str) -> Found:
    """SFT minus RL on all problems, minus the same on the smallest part that was run; nothing where no part was."""
    items = read.items[read.items["table"] == table]
    for part in SIZES:
        sft, rl = f"sft_1_in_{part}", f"rl_1_in_{part}"
        if {sft, rl} <= set(read.arms):
            weights = {"sft_only": 1, "rl_only": -1, sft: -1, rl: 1}
            return [(f"all minus 1 in {part}", _contrast(items, weights))]
    return []


def curve(read: Results, column: str, quarter: str, weights: Mapping[str, float], scale: float = 1) -> Found:
    """A weighted sum of arms' training curves: their mean in the `first` or `last` quarter of the steps, or its `gain`."""
    per_arm = [factor * _quarters(read, arm, column, quarter) for arm, factor in weights.items()]
    values = scale * sum(series for series in per_arm)
    return [(f"{column}, {quarter}", _of_seeds(values.dropna()))]  # of the seeds that all these arms have


def shortening(read: Results, arm: str) -> Found:
    """By how many percent of the first quarter's length an arm's responses get shorter under RL."""
    first, last = (_quarters(read, arm, "response_length", which) for which in ("first", "last"))
    return [(f"{results.label(arm)}: shorter by", _of_seeds(100 * (first - last) / first))]


def hard_minus_easy_length(read: Results, arm: str, threshold: int) -> Found:
    """In the last quarter of an arm's RL steps: by how many percent responses to hard problems are longer than to easy ones."""
    gaps = {}
    for seed in read.seeds_of(arm):
        rows = rollouts(read, arm, seed)
        rows = rows[rows["step"] > 0.75 * rows["step"].max()]
        means = rows.groupby(rows["score"] > threshold)["tokens"].mean()
        if len(means) < 2:
            return []
        gaps[seed] = 100 * (means[True] / means[False] - 1)
    return [(f"{results.label(arm)}: hard longer by", _of_seeds(pd.Series(gaps)))]


def held_out(rows: pd.DataFrame) -> Estimate:
    """Accuracy of one look along RL, a share: rows with seed, id, family and correct, one of each seed and problem."""
    values, groups = _looks(rows)
    return tables.accuracy_of(values[:, :, None], groups)


def fall_along_rl(read: Results, arms: Sequence[str]) -> Found:
    """By how many points the arms' accuracy on held-out problems is lower at the end of RL than before it, their mean.

    Nothing where the policy was not evaluated along RL.
    """
    if read.along_rl.empty or not set(arms) <= set(read.along_rl["arm"]):
        return []
    before, after, groups, seeds = 0.0, 0.0, None, len(read.seeds_of(*arms))
    for arm in arms:
        own = read.along_rl[read.along_rl["arm"] == arm]
        last = own.groupby("seed")["step"].transform("max")
        first, groups = _looks(own[own["step"] == 0])
        before = before + first[:seeds] / len(arms)
        after = after + _looks(own[own["step"] == last])[0][:seeds] / len(arms)
    found = tables.difference_of(before[:, :, None], after[:, :, None], groups)
    return [("first minus last", _points(found))]


def _looks(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """[seeds, problems] of right answers, and each problem's group: its family, or itself where it has none."""
    table = rows.pivot(index="seed", columns="id", values="correct").astype(float)
    family = rows.drop_duplicates("id").set_index("id")["family"].reindex(table.columns)
    return table.to_numpy(), family.where(family.fillna("") != "", table.columns.to_series()).to_numpy()


def mathematics_at_hard_scores(read: Results, threshold: int) -> Found:
    """Share of mathematics and physics among problems scored above the threshold, minus the share among the others."""
    scored = read.scores.dropna(subset=["score"])
    mathematical = scored["subject"].str.lower().isin(["mathematics", "physics"])
    hard = scored["score"] > threshold
    if hard.all() or not hard.any():
        return []
    counts = [(int(mathematical[side].sum()), int(side.sum())) for side in (hard, ~hard)]
    return [("hard minus easy", _points(power.share_difference(*counts)))]


def judge_agreement(read: Results) -> Found:
    """Spearman's correlation between the judge's rating and the true number of steps, where it is known."""
    known = read.scores[(read.scores["steps"] > 0) & read.scores["rating"].notna()]
    if len(known) < 10:
        return []
    return [
        (
            "rating with true steps",
            power.correlation(known["rating"].astype(float), known["steps"].astype(float)),
        )
    ]


def rollouts(read: Results, arm: str, seed: int) -> pd.DataFrame:
    """An arm's RL rollouts with the score of their problems: columns id, step, reward, tokens, score."""
    made = manifest.require(read.profile, "04_grpo", arm, seed, outputs=["rollouts.parquet"])
    path = paths.step_dir(made.profile, made.stage, arm, seed) / "rollouts.parquet"
    rows = pd.read_parquet(path, columns=["id", "step", "reward", "tokens"])
    return rows.merge(read.scores[["id", "score"]].dropna(), on="id")


def _contrast(
    items: pd.DataFrame, weights: Mapping[str, float], scale: Mapping[str, float] | None = None
) -> Estimate:
    """The sum of weight x accuracy over arms, paired by question; plain mean over benchmarks, each times its `scale`."""
    plus, minus, questions = 0.0, 0.0, None
    seeds = items[items["arm"].isin(weights)].groupby("arm")["seed"].nunique().min()  # as far as all arms go
    for arm, weight in weights.items():
        correct, questions = results.cube(items, arm)
        if weight > 0:
            plus = plus + weight * correct[:seeds]
        else:
            minus = minus - weight * correct[:seeds]
    if scale is not None:
        factor = questions["benchmark"].map(scale).to_numpy(float)[None, :, None]
        plus, minus = plus * factor, minus * factor
    return _points(tables.difference_of(plus, minus, questions["group"], questions["benchmark"]))


def _quarters(read: Results, arm: str, column: str, which: str) -> pd.Series:
    """Index: training seed. Mean of a curve's first or last quarter of steps, or the last minus the first."""
    values = {}
    for seed, steps in read.grpo[read.grpo["arm"] == arm].groupby("seed"):
        steps = steps.sort_values("step")[column]
        length = max(1, len(steps) // 4)
        first, last = steps.head(length).mean(), steps.tail(length).mean()
        values[seed] = {"first": first, "last": last, "gain": last - first}[which]
    return pd.Series(values)


def _of_seeds(values: pd.Series) -> Estimate:
    return power.over_seeds(values) if len(values) > 1 else power.lone(values.iloc[0])


def _points(estimate: Estimate) -> Estimate:
    """Shares as percentage points."""
    return replace(
        estimate,
        value=100 * estimate.value,
        low=100 * estimate.low,
        high=100 * estimate.high,
        se=100 * estimate.se,
        variances={name: 1e4 * part for name, part in estimate.variances.items()},
    )
