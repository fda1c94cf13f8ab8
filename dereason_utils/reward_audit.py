"""Is the reward earned? A policy can learn to please the checker instead of solving problems (reward hacking)."""

import pandas as pd

from dereason_utils.verify import is_strictly_right


def by_stricter_checker(rollouts: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Look for reward hacking: rewarded rollouts that a stricter second checker calls wrong.

    rollouts: from `grpo.collect_rollouts`. Returns (the doubtful rollouts, one row per step: step, rewarded, doubtful,
    doubtful_share of the rewarded). The second checker wants one box, at the very end, with the gold answer letter
    for letter; it errs on the strict side, so what counts is whether its share rises while the reward does.
    """
    rewarded = rollouts[rollouts["reward"] == 1]
    strict = [
        is_strictly_right(*pair) for pair in zip(rewarded["answer"], rewarded["completion"], strict=True)
    ]
    # Named as bool: without a single rewarded rollout the list is empty, and would not select rows.
    marked = rewarded.assign(doubtful=[not ok for ok in strict]).astype({"doubtful": bool})
    steps = pd.DataFrame({"step": sorted(rollouts["step"].unique())})
    counts = marked.groupby("step")["doubtful"].agg(rewarded="size", doubtful="sum").reset_index()
    table = steps.merge(counts, how="left").fillna(0).astype(int)
    table["doubtful_share"] = table["doubtful"] / table["rewarded"].where(table["rewarded"] > 0)
    return marked[marked["doubtful"]].drop(columns="doubtful"), table
