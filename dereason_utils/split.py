"""The split: which problems each arm sees in SFT and which in RL (paper, section 2.2 and Table 1)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from dereason_utils.errors import InputError


@dataclass(frozen=True)
class Arm:
    """One row of the comparison: the selections that SFT and then RL see, each one phase after the other (none: ()).

    matched: SFT goes on until it has cost what MATCHED_TO's SFT and RL cost together, in optimizer updates or in
    tokens that carry loss.
    """

    sft: tuple[str, ...]
    rl: tuple[str, ...]
    about: str
    matched: Literal["updates", "tokens"] | None = None


MATCHED_TO = "dereason"
PAPER = (
    "base",
    "rl_only",
    "sft_only",
    "sft_then_hard_sft",
    "random_split",
    "dereason",
)  # the arms of its tables
ARMS = {
    # The paper's Table 1, and an arm that its text mentions.
    "base": Arm((), (), "the untrained policy"),
    "sft_only": Arm(("all",), (), "SFT on the whole pool"),
    "rl_only": Arm((), ("all",), "RL on the whole pool, from the base model"),
    "sft_then_hard_sft": Arm(("easy", "hard"), (), "SFT on easy, then SFT on hard problems"),
    "random_split": Arm(
        ("random_easy_sized",), ("random_hard_sized",), "a random split with dereason's sizes"
    ),
    "dereason": Arm(("easy",), ("hard",), "easy problems to SFT, hard problems to RL"),
    "easy_rl_then_hard_rl": Arm(
        (), ("easy", "hard"), "RL on easy, then RL on hard problems, from the base model"
    ),
    # What the paper lacks.
    "sft_easy": Arm(("easy",), (), "dereason before its RL: SFT on easy problems alone"),
    "reversed": Arm(("hard",), ("easy",), "hard problems to SFT, easy problems to RL"),
    "sft_all_then_rl_all": Arm(("all",), ("all",), "the whole pool to SFT, and again to RL"),
    "sft_all_then_hard_rl": Arm(("all",), ("hard",), "the whole pool to SFT, its hard problems again to RL"),
    "subject_matched_random": Arm(
        ("subject_matched_rest",), ("subject_matched",), "dereason's subjects and sizes, difficulty at random"
    ),
    "passrate_split": Arm(
        ("passrate_easy",),
        ("passrate_hard",),
        "dereason's sizes, difficulty = the base policy's own pass rate",
    ),
    "threshold_2": Arm(("upto_2",), ("above_2",), "dereason with scores 1 and 2 as easy"),
    "threshold_4": Arm(("upto_4",), ("above_4",), "dereason with scores 1 to 4 as easy"),
    "filtered_teacher": Arm(("easy_right",), ("hard",), "dereason with the teacher's right answers alone"),
    "sft_only_updates": Arm(("all",), (), "SFT on the whole pool for as many updates as dereason", "updates"),
    "sft_only_tokens": Arm(("all",), (), "SFT on the whole pool for as many tokens as dereason", "tokens"),
}
# Figure 1: the same problems, a half, a quarter, ... of the pool, for SFT and for RL; each part holds the next.
for _part in (2, 4, 8, 16):
    ARMS[f"sft_1_in_{_part}"] = Arm((f"1_in_{_part}",), (), f"SFT on 1 in {_part} problems")
    ARMS[f"rl_1_in_{_part}"] = Arm(
        (), (f"1_in_{_part}",), f"RL on 1 in {_part} problems, from the base model"
    )
# Figures 3, 4 and 6: RL on one score alone, from the base model and from dereason's SFT.
for _score in range(1, 6):
    ARMS[f"rl_score_{_score}"] = Arm((), (f"score_{_score}",), f"RL on score {_score}, from the base model")
    ARMS[f"sft_rl_score_{_score}"] = Arm(
        ("easy",), (f"score_{_score}",), f"SFT on easy, RL on score {_score}"
    )


def sft_of(arm: str) -> str | None:
    """The arm under whose name an arm's SFT policy is trained: the first with the same SFT, so that it is trained once.

    None for an arm without SFT.
    """
    wanted = (ARMS[arm].sft, ARMS[arm].matched)
    same = (name for name, other in ARMS.items() if (other.sft, other.matched) == wanted)
    return next(same) if ARMS[arm].sft else None


def seeds_of(arm: str, seeds: Sequence[int], other_seeds: int | None) -> tuple[int, ...]:
    """The training seeds of an arm: all for the paper's arms, the first `other_seeds` (None: all) for the others.

    An arm without training has one run, under the first seed: the others would repeat it.
    """
    if not (ARMS[arm].sft or ARMS[arm].rl):
        return tuple(seeds[:1])
    return tuple(seeds if arm in PAPER else seeds[:other_seeds])


def select(problems: pd.DataFrame, name: str, threshold: int, seed: int) -> pd.DataFrame:
    """One selection of the pool, in the pool's order; `membership` says which problems it needs and has."""
    return problems[membership(problems, name, threshold, seed)].reset_index(drop=True)


def membership(problems: pd.DataFrame, name: str, threshold: int, seed: int) -> np.ndarray:
    """Whether each problem is in a selection: booleans in the order of `problems`.

    problems: one row per problem with the columns id, subject and score (1-5; rows without one are in no selection);
    `easy_right` needs response_correct and `passrate_...` needs pass_rate too. easy is score <= threshold, hard the
    rest. The random selections, and those by pass rate, have the sizes of easy and hard and share nothing; they depend
    on the seed alone. Raises InputError for an unknown name and for a selection, or a side of the split, without problems.
    """
    found = problems["score"].notna().to_numpy(copy=True)
    pool = problems[found].reset_index(drop=True)
    hard = pool["score"] > threshold
    if hard.all() or not hard.any():
        side = "at most" if hard.all() else "above"
        raise InputError(
            f"No problem is scored {side} {threshold}: the split has an empty side; "
            "check 01_score's histogram or change split.threshold."
        )
    found[found] = _chosen(pool, name, hard, seed).to_numpy(bool)
    if not found.any():
        raise InputError(f"The selection {name!r} has no problems: leave out the arms that use it.")
    return found


def _chosen(pool: pd.DataFrame, name: str, hard: pd.Series, seed: int) -> pd.Series:
    """Whether each problem of the pool belongs to the selection."""
    kind, _, number = name.rpartition("_")
    match kind if number.isdigit() else name:
        case "all":
            return hard.notna()
        case "easy":
            return ~hard
        case "hard":
            return hard
        case "easy_right":
            return ~hard & pool["response_correct"]
        case "score":
            return pool["score"] == int(number)
        case "upto":
            return pool["score"] <= int(number)
        case "above":
            return pool["score"] > int(number)
        case "1_in":
            return _places(pool, seed, 2) < len(pool) // int(number)
        case "random_easy_sized":
            return _places(pool, seed, 2) < (~hard).sum()
        case "random_hard_sized":
            return _places(pool, seed, 2) >= (~hard).sum()
        case "subject_matched":
            return _subject_matched(pool, hard, seed)
        case "subject_matched_rest":
            return ~_subject_matched(pool, hard, seed)
        case "passrate_easy":
            return ~_rarely_solved(pool, hard.sum(), seed)
        case "passrate_hard":
            return _rarely_solved(pool, hard.sum(), seed)
    raise InputError(f"There is no selection {name!r}.")


def _places(pool: pd.DataFrame, seed: int, stream: int) -> pd.Series:
    """Each problem's place (from 0) in a random order; `stream` keeps the draws of different purposes apart."""
    order = np.random.default_rng([seed, stream]).permutation(len(pool))
    return pd.Series(np.argsort(order), index=pool.index)


def _subject_matched(pool: pd.DataFrame, hard: pd.Series, seed: int) -> pd.Series:
    """Of each subject as many problems as are hard, whatever their score."""
    places = _places(pool, seed, 3).groupby(pool["subject"]).rank()
    return places <= hard.groupby(pool["subject"]).transform("sum")


def _rarely_solved(pool: pd.DataFrame, size: int, seed: int) -> pd.Series:
    """The `size` problems that the policy solves least often; the seed decides between equals."""
    if "pass_rate" not in pool or pool["pass_rate"].isna().all():
        raise InputError("No pass rates were measured: set pass_rate.samples and run 01_score again.")
    rates = pd.DataFrame({"rate": pool["pass_rate"].fillna(0.0), "place": _places(pool, seed, 4)})
    return pool.index.to_series().isin(rates.sort_values(["rate", "place"]).index[:size])


def selections(
    problems: pd.DataFrame, threshold: int, seed: int, needed: Collection[str] = ()
) -> pd.DataFrame:
    """Every selection that some arm names: a row per problem (id), a column per selection that says whether it is in it.

    A selection that the pool cannot give (no problem has that score, say) has no column, and InputError if it is `needed`.
    """
    columns = {"id": problems["id"]}
    for name in dict.fromkeys(name for arm in ARMS for name in names_of(arm)):
        try:
            columns[name] = membership(problems, name, threshold, seed)
        except InputError:
            if name in needed:
                raise
    return pd.DataFrame(columns)


def names_of(arm: str) -> tuple[str, ...]:
    """The selections that an arm sees, SFT's and then RL's. Raises InputError for an unknown arm."""
    if arm not in ARMS:
        raise InputError(f"Unknown arm {arm!r}: choose one of {', '.join(ARMS)}.")
    return (*ARMS[arm].sft, *ARMS[arm].rl)


def arm_set(
    problems: pd.DataFrame, drawn: pd.DataFrame, arm: str, use: Literal["sft", "rl"]
) -> pd.DataFrame | None:
    """An arm's problems for SFT or for RL (None where it has no such stage), `phase` (1, 2, ...) by `phase`.

    drawn: what `selections` gave; problems of it that are not in `problems` are left out. Raises InputError where 02_split
    could not draw a selection.
    """
    names = getattr(ARMS[arm], use)
    if missing := set(names) - set(drawn):
        raise InputError(
            f"02_split has no selection {min(missing)!r}, which the arm {arm!r} needs: run it again, and see what it says."
        )
    parts = [
        problems[problems["id"].isin(drawn.loc[drawn[name], "id"])].assign(phase=phase)
        for phase, name in enumerate(names, 1)
    ]
    return pd.concat(parts, ignore_index=True) if parts else None


def sizes(problems: pd.DataFrame, drawn: pd.DataFrame) -> pd.DataFrame:
    """One row per arm whose selections were drawn: problems in SFT and RL, shared ones, mean true steps, share of
    mathematics and tokens of each.

    problems: columns id, subject, steps, answered (whether the teacher did: else it is not in SFT), prompt_tokens and
    answer_tokens. SFT's tokens are those of prompts and answers, RL's those of prompts.
    """
    rows = []
    for arm in (arm for arm in ARMS if set(names_of(arm)) <= set(drawn)):
        sft, rl = (
            arm_set(problems[problems["answered"]], drawn, arm, "sft"),
            arm_set(problems, drawn, arm, "rl"),
        )
        ids = [set() if part is None else set(part["id"]) for part in (sft, rl)]
        row = {"arm": arm, "sft": len(ids[0]), "rl": len(ids[1]), "shared": len(ids[0] & ids[1])}
        for name, part, texts in (
            ("sft", sft, ["prompt_tokens", "answer_tokens"]),
            ("rl", rl, ["prompt_tokens"]),
        ):
            known = None if part is None else part["steps"].where(part["steps"] > 0)
            row[f"{name}_mean_steps"] = None if part is None else known.mean()
            row[f"{name}_mathematics"] = None if part is None else (part["subject"] == "mathematics").mean()
            row[f"{name}_tokens"] = 0 if part is None else int(part[texts].sum().sum())
        rows.append(row)
    return pd.DataFrame(rows)
