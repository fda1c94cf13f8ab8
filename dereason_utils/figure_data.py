"""The numbers behind each figure, as tidy tables: exactly what is drawn and written beside each picture."""

import pandas as pd

from dereason_utils import stats, tables
from dereason_utils.results import Results
from dereason_utils.split import ARMS

SMOOTHED_OVER = 5  # steps of the centred running mean
STARTS = ("from SFT", "from base")


def training_size(read: Results) -> pd.DataFrame:
    """Figure 1: accuracy of SFT and of RL on the same problems against their number; the base model at 0.

    Columns table, method, problems, accuracy, low, high (percent).
    """
    rows = []
    for name, table in tables.TABLES.items():
        ours = tables.main_table(read, name).set_index("arm")
        for arm, method, column in (("sft_only", "SFT", "sft"), ("rl_only", "RL", "rl")):
            points = [("base", 0)] if "base" in read.arms else []
            if arm in read.arms:
                points.append((arm, int(read.sizes.loc[read.sizes["arm"] == arm, column].iloc[0])))
            for run, problems in points:
                value = ours.loc[run]
                rows.append(
                    (
                        table,
                        method,
                        problems,
                        value[tables.AVERAGE],
                        value[f"{tables.AVERAGE} low"],
                        value[f"{tables.AVERAGE} high"],
                    )
                )
    return pd.DataFrame(rows, columns=["table", "method", "problems", "accuracy", "low", "high"])


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
                    "smoothed": values.rolling(window, center=True, min_periods=1).mean(),
                    "slope": fitted.value if fitted else float("nan"),
                    "slope_low": fitted.low if fitted else float("nan"),
                    "slope_high": fitted.high if fitted else float("nan"),
                }
            )
        )
    return _joined(
        parts, ["start", "arm", "seed", "step", "value", "smoothed", "slope", "slope_low", "slope_high"]
    )


def accuracy_by_steps(read: Results) -> pd.DataFrame:
    """Accuracy against the true number of steps: columns arm, steps, accuracy, low, high, questions."""
    return tables.by_group(read, "steps")[["arm", "steps", "accuracy", "low", "high", "questions"]]


def sft_curve(read: Results) -> pd.DataFrame:
    """SFT learning curves: columns arm, seed, step, loss, validation_loss (empty where not measured)."""
    columns = ["arm", "seed", "step", "loss", "validation_loss"]
    return read.sft.reindex(columns=columns).reset_index(drop=True)


def _joined(parts: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({name: [] for name in columns})
