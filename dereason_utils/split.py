"""The split: which problems each arm sees in SFT and which in RL (paper, section 2.2 and Table 1)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from dereason_utils.errors import InputError

Selection = Literal["all", "easy", "hard", "random_easy_sized", "random_hard_sized"]


@dataclass(frozen=True)
class Arm:
    """One row of the paper's tables: which selection of the pool each training stage sees (None: no such stage)."""

    sft: Selection | None
    rl: Selection | None
    about: str


ARMS = {
    "base": Arm(None, None, "the untrained policy"),
    "sft_only": Arm("all", None, "SFT on the whole pool"),
    "rl_only": Arm(None, "all", "RL on the whole pool, from the base model"),
    "random_split": Arm("random_easy_sized", "random_hard_sized", "a random split with dereason's sizes"),
    "dereason": Arm("easy", "hard", "easy problems to SFT, hard problems to RL"),
}


def select(problems: pd.DataFrame, threshold: int, seed: int) -> dict[str, pd.DataFrame]:
    """Every named selection of the pool.

    problems: one row per problem with a column `score` (1-5); rows without a score are in no selection.
    The two random selections are disjoint and have the sizes of easy and hard. Raises InputError when easy or hard
    is empty, because then the experiment compares nothing.
    """
    pool = problems[problems["score"].notna()].reset_index(drop=True)
    easy = pool[pool["score"] <= threshold]
    hard = pool[pool["score"] > threshold]
    if easy.empty or hard.empty:
        side = "at most" if easy.empty else "above"
        raise InputError(
            f"No problem is scored {side} {threshold}: the split has an empty side; "
            "check 01_score's histogram or change split.threshold."
        )
    order = np.random.default_rng([seed, 2]).permutation(len(pool))
    shuffled = pool.iloc[order]
    return {
        "all": pool,
        "easy": easy.reset_index(drop=True),
        "hard": hard.reset_index(drop=True),
        "random_easy_sized": shuffled.iloc[: len(easy)].sort_index().reset_index(drop=True),
        "random_hard_sized": shuffled.iloc[len(easy) :].sort_index().reset_index(drop=True),
    }


def arm_sets(
    selections: dict[str, pd.DataFrame], arm: str
) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    """The arm's SFT problems and RL problems (None where the arm has no such stage)."""
    if arm not in ARMS:
        raise InputError(f"Unknown arm {arm!r}: choose one of {', '.join(ARMS)}.")
    sft, rl = ARMS[arm].sft, ARMS[arm].rl
    return (selections[sft] if sft else None), (selections[rl] if rl else None)


def sizes(sets: dict[str, tuple[pd.DataFrame | None, pd.DataFrame | None]]) -> pd.DataFrame:
    """One row per arm: problems in SFT and RL, shared problems, mean true steps, share of mathematics in each."""
    rows = []
    for arm, (sft, rl) in sets.items():
        ids = [set() if part is None else set(part["id"]) for part in (sft, rl)]
        row = {"arm": arm, "sft": len(ids[0]), "rl": len(ids[1]), "shared": len(ids[0] & ids[1])}
        for name, part in (("sft", sft), ("rl", rl)):
            known = None if part is None else part["steps"].where(part["steps"] > 0)
            row[f"{name}_mean_steps"] = None if part is None else known.mean()
            row[f"{name}_mathematics"] = None if part is None else (part["subject"] == "mathematics").mean()
        rows.append(row)
    return pd.DataFrame(rows)
