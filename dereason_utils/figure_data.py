"""The numbers behind each figure, as tidy tables: exactly what is drawn and written beside each picture."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pandas as pd

from dereason_utils import comparisons, manifest, measures, stats, tables
from dereason_utils.results import Results
from dereason_utils.split import ARMS, sft_of

SMOOTHED_OVER = 5  # steps of the centred running mean
LOSS_SMOOTHED_OVER = 9  # an SFT batch of few examples has a loss of its own
STARTS = ("from SFT", "from base")
# (what was added, the arm with it, the arm without it): pairs of arms that differ in one training stage alone.
STAGES = (
    ("SFT, from base", "sft_only", "base"),
    ("RL, from base", "rl_only", "base"),
    ("SFT on easy, from base", "sft_easy", "base"),
    ("RL on hard, from SFT on easy", "dereason", "sft_easy"),
    ("RL, from SFT on all", "sft_all_then_rl_all", "sft_only"),
    ("RL on hard, from SFT on all", "sft_all_then_hard_rl", "sft_only"),
)


def training_size(read: Results) -> pd.DataFrame:
    """Figure 1: accuracy of SFT and of RL on the same problems against their number; the base model at 0.

    Columns table, method, problems, drawn, accuracy, low, high (percent). Sizes: the whole pool and the parts that were run.
    drawn: how many of them a training reads: SFT all, RL so many as its steps have prompts.
    """
    rows, drawn = [], {}
    sizes = read.sizes.drop_duplicates("arm").set_index("arm")
    for arm in ["rl_only", *(f"rl_1_in_{part}" for part in measures.SIZES)]:
        if arm in read.arms:
            drawn[arm] = measures.rollouts(read, arm, read.seeds_of(arm)[0])["id"].nunique()
    for name, table in tables.TABLES.items():
        ours = tables.main_table(read, name).set_index("arm")
        for method, column in (("SFT", "sft"), ("RL", "rl")):
            parts = [f"{column}_1_in_{part}" for part in measures.SIZES] + [f"{column}_only"]
            runs = [("base", 0)] * ("base" in read.arms)
            runs += [(arm, int(sizes.loc[arm, column])) for arm in parts if arm in read.arms]
            for arm, problems in runs:
                row = ours.loc[arm, [tables.AVERAGE, f"{tables.AVERAGE} low", f"{tables.AVERAGE} high"]]
                rows.append((table, method, problems, drawn.get(arm, problems), *row))
    return pd.DataFrame(rows, columns=["table", "method", "problems", "drawn", "accuracy", "low", "high"])


def subject_mix(read: Results) -> pd.DataFrame:
    """Figure 2: columns score, subject, problems, share (of that score's problems), scored problems only."""
    scored = read.scores.dropna(subset=["score"])
    counts = scored.groupby(["score", "subject"]).size().rename("problems").reset_index()
    totals = counts.groupby("score")["problems"].transform("sum")
    return counts.assign(score=counts["score"].astype(int), share=counts["problems"] / totals)


def training_curve(read: Results, column: str) -> pd.DataFrame:
    """Figures 3 to 5 and the share of informative groups: one row per arm, seed and RL step.

    Columns start ('from SFT' or 'from base'), arm, seed, step, value, smoothed (centred running mean), and
    the slope per step of the whole curve with its 95% interval. `column`: one of steps.csv, or
    'informative_share'.
    """
    steps = read.grpo
    if column == "informative_share" and not steps.empty:
        steps = steps.assign(informative_share=1 - steps["zero_variance_share"])
    parts = []
    for (arm, seed), run in steps.groupby(["arm", "seed"], sort=False):
        run = run.sort_values("step")
        values = run[column]
        enough = len(run) >= stats.SLOPE_POINTS  # shorter curves are drawn as they are
        fitted = stats.slope(values, run["step"]) if enough else None
        window = SMOOTHED_OVER if enough else 1
        parts.append(
            pd.DataFrame(
                {
                    "start": STARTS[0] if ARMS[arm].sft else STARTS[1],
                    "arm": arm,
                    "seed": seed,
                    "step": run["step"],
                    "value": values,
                    "smoothed": _running_mean(values, window),
                    "slope": fitted.value if fitted else float("nan"),
                    "slope_low": fitted.low if fitted else float("nan"),
                    "slope_high": fitted.high if fitted else float("nan"),
                }
            )
        )
    computed = ["smoothed", "slope", "slope_low", "slope_high"]
    curves = _joined(parts, ["start", "arm", "seed", "step", "value", *computed])
    # Processors differ in a computed number's last digits; the tables, and so the figures, shall not.
    return curves.round(dict.fromkeys(computed, 9))


def along_rl(read: Results) -> pd.DataFrame:
    """Figure 6: accuracy on held-out problems along RL, a mean over the seeds.

    Columns start, arm, seeds, step (0 = before RL), accuracy, low, high (percent).
    """
    rows = []
    for arm, run in read.along_rl.groupby("arm", sort=False):
        for step, part in run.groupby("step"):
            estimate = measures.held_out(part)
            start = STARTS[0] if ARMS[arm].sft else STARTS[1]
            shown = (100 * value for value in (estimate.value, estimate.low, estimate.high))
            rows.append((start, arm, estimate.seeds, step, *shown))
    return pd.DataFrame(rows, columns=["start", "arm", "seeds", "step", "accuracy", "low", "high"]).round(4)


def accuracy_by_steps(read: Results) -> pd.DataFrame:
    """Accuracy against the true number of steps: columns arm, steps, accuracy, low, high, questions."""
    return tables.by_group(read, "steps")[["arm", "steps", "accuracy", "low", "high", "questions"]]


def sft_curve(read: Results) -> pd.DataFrame:
    """SFT learning curves: columns arm, seed, step, loss, smoothed (its centred running mean), validation_loss.

    validation_loss is empty where it was not measured.
    """
    columns = ["arm", "seed", "step", "loss", "smoothed", "validation_loss"]
    curves = read.sft.reindex(columns=columns).reset_index(drop=True)
    phase = read.sft.get("phase", 1)  # a second SFT stage has a curve of its own
    stages = curves.assign(phase=phase).groupby(["arm", "seed", "phase"])
    smooth = stages["loss"].transform(_running_mean, LOSS_SMOOTHED_OVER)
    return curves.assign(smoothed=smooth.round(4))


def by_score(read: Results, column: str) -> pd.DataFrame:
    """Figures 3 and 4 as the paper draws them, a line per score: columns start, training, seed, score, step, value, smoothed.

    column: 'reward' or 'tokens', a mean over a step's rollouts. As in the paper from trainings on one score each
    (rl_score_1 ...), where they were run; else from one training on all scores, its problems taken apart.
    """
    names, parts = ["start", "training", "seed", "score", "step", "value", "smoothed"], []
    for start, single, pooled in zip(
        STARTS, ("sft_rl_score", "rl_score"), ("random_split", "rl_only"), strict=True
    ):
        alone = [f"{single}_{score}" for score in range(1, 6) if f"{single}_{score}" in read.arms]
        for arm in alone or [pooled] * (pooled in read.arms):
            for seed in read.seeds_of(arm):
                rows = measures.rollouts(read, arm, seed)
                curves = rows.groupby(["score", "step"])[column].mean().rename("value").reset_index()
                smooth = curves.groupby("score")["value"].transform(_running_mean, SMOOTHED_OVER)
                parts.append(curves.assign(start=start, training=arm, seed=seed, smoothed=smooth))
    return _joined(parts, names)[names].round(6)


def gains_by_steps(read: Results) -> pd.DataFrame:
    """What a training stage adds, per true number of steps: columns stage, a, b, steps, accuracy, low, high (points)."""
    stages = {(a, b): stage for stage, a, b in STAGES if {a, b} <= set(read.arms)}
    rows = [(stages[a, b], a, b, *rest) for a, b, *rest in _differences_by_steps(read, stages)]
    return pd.DataFrame(rows, columns=["stage", "a", "b", "steps", "accuracy", "low", "high"]).round(4)


def split_by_steps(read: Results) -> pd.DataFrame:
    """The split by difficulty minus each other trained arm on the same questions, per true number of steps.

    Columns arm, seeds, steps, difference, low, high (points); no rows without dereason. Not registered, and not corrected
    for their number.
    """
    ours = "dereason"
    others = [arm for arm in read.arms if arm != ours and (ARMS[arm].sft or ARMS[arm].rl)]
    found = _differences_by_steps(read, [(ours, arm) for arm in others if ours in read.arms])
    rows = [(arm, len(read.seeds_of(ours, arm)), *rest) for _, arm, *rest in found]
    return pd.DataFrame(rows, columns=["arm", "seeds", "steps", "difference", "low", "high"]).round(4)


def _differences_by_steps(read: Results, pairs: Collection[tuple[str, str]]) -> list[tuple]:
    """(a, b, steps, a minus b, low, high) in points: of each pair of arms, per true number of steps."""
    items = read.items[read.items["steps"] > 0].assign(benchmark="one")
    found = {steps: comparisons.gains(part, pairs) for steps, part in items.groupby("steps")}
    return [
        (a, b, steps, *gains[place].values())
        for place, (a, b) in enumerate(pairs)
        for steps, gains in found.items()
    ]


def pass_at_k_around_rl(read: Results) -> pd.DataFrame:
    """pass@k before and after RL on the seeds that both have, general benchmarks.

    Columns stage, when, arm, seeds, k, accuracy, low, high (percent).
    """
    general, parts = read.items[read.items["table"] == "general"], []
    for stage, after, before in STAGES:
        if stage.startswith("RL") and {after, before} <= set(read.arms):
            items = general[general["seed"].isin(read.seeds_of(after, before))]
            found = tables.pass_and_majority(replace(read, arms=(before, after), items=items))
            found = found[(found["table"] == "general") & found["measure"].str.startswith("pass@")]
            for when, arm in (("before", before), ("after", after)):
                own = found[found["arm"] == arm].rename(columns={"value": "accuracy"})
                k = own["measure"].str.removeprefix("pass@").astype(int)
                parts.append(own.assign(stage=stage, when=when, k=k))
    names = ["stage", "when", "arm", "seeds", "k", "accuracy", "low", "high"]
    return _joined(parts, names)[names]


def cost(read: Results) -> pd.DataFrame:
    """What an arm's training cost beside what it reached on the general average.

    Columns arm, sft_tokens (that carry loss), rl_tokens (sampled), both means over seeds, hours and core_hours (03_sft and
    04_grpo, from the manifests, medians over seeds, which may have run on processors of other speeds; core_hours is
    empty for steps made before they recorded their cores), seeds (how many), accuracy, low, high (percent).
    """
    ours = tables.main_table(read, "table1").set_index("arm")
    rows = []
    for arm in read.arms:
        seeds, trained = read.seeds_of(arm), {("03_sft", sft_of(arm)), ("04_grpo", arm)}
        steps = [step for step in read.manifests if (step.stage, step.arm) in trained and step.seed in seeds]
        tokens = {
            stage: sum(_tokens(read, s) for s in steps if s.stage == stage) for stage in ("03_sft", "04_grpo")
        }
        hours = [sum(s.wall_s for s in steps if s.seed == seed) / 3600 for seed in seeds]
        spent = [
            sum(s.wall_s * (s.cores or np.nan) for s in steps if s.seed == seed) / 3600 for seed in seeds
        ]
        row = ours.loc[arm, [tables.AVERAGE, f"{tables.AVERAGE} low", f"{tables.AVERAGE} high"]]
        means = [tokens[stage] / len(seeds) for stage in ("03_sft", "04_grpo")]
        rows.append((arm, *means, np.median(hours), np.median(spent), len(seeds), *row))
    names = ["arm", "sft_tokens", "rl_tokens", "hours", "core_hours", "seeds", "accuracy", "low", "high"]
    return pd.DataFrame(rows, columns=names).round(3)


def _tokens(read: Results, step: manifest.Manifest) -> float:
    """Tokens that one training step saw; runs from before cost.csv tell them in other files."""
    if "cost.csv" in step.outputs:
        return float(pd.read_csv(step.folder / "cost.csv")["tokens"].sum())
    if step.stage == "04_grpo" and "rollouts.parquet" in step.outputs:
        return float(pd.read_parquet(step.folder / "rollouts.parquet", columns=["tokens"])["tokens"].sum())
    own = read.sizes[(read.sizes["arm"] == step.arm) & (read.sizes["seed"] == step.seed)]
    if step.stage == "03_sft" and "sft_tokens" in own:
        return float(own["sft_tokens"].iloc[0] * step.parameters.get("sft", {}).get("epochs", 1))
    return float("nan")


def _running_mean(values: pd.Series, over: int) -> pd.Series:
    return values.rolling(over, center=True, min_periods=1).mean()


def _joined(parts: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({name: [] for name in columns})
