"""Reads a profile's finished steps into tidy tables: a row per completion, step or problem. No torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from pyarrow import parquet

from dereason_utils import manifest, paths, profiles
from dereason_utils.errors import InputError
from dereason_utils.split import ARMS, seeds_of, sft_of

# The arms in the order and wording of the paper's Table 1, then those that it lacks.
LABELS = {
    "base": "Base model",
    "rl_only": "RL only",
    "sft_only": "SFT only",
    "sft_then_hard_sft": "SFT then selected SFT",
    "random_split": "SFT then random RL",
    "dereason": "SFT on easy + RL on hard",
    "sft_easy": "SFT on easy",
    "easy_rl_then_hard_rl": "RL on easy, then RL on hard",
    "reversed": "SFT on hard + RL on easy",
    "sft_all_then_rl_all": "SFT on all + RL on all",
    "sft_all_then_hard_rl": "SFT on all + RL on hard",
    "subject_matched_random": "SFT + RL, random with hard's subjects",
    "passrate_split": "SFT + RL, split by pass rate",
    "threshold_2": "SFT on scores 1-2 + RL on 3-5",
    "threshold_4": "SFT on scores 1-4 + RL on 5",
    "filtered_teacher": "SFT on easy (right answers) + RL on hard",
    "sft_only_updates": "SFT only, DeReason's updates",
    "sft_only_tokens": "SFT only, DeReason's tokens",
}
for _method, _part in (arm.split("_1_in_") for arm in ARMS if "_1_in_" in arm):
    LABELS[f"{_method}_1_in_{_part}"] = f"{_method.upper()} on 1 problem in {_part}"
# Arms with RL on one score alone (Figures 3, 4 and 6), and the score.
ONE_SCORE = {f"{start}_score_{score}": score for score in range(1, 6) for start in ("rl", "sft_rl")}
LABELS |= {
    arm: f"{'SFT on easy + ' * arm.startswith('sft')}RL on score {score}" for arm, score in ONE_SCORE.items()
}
VERDICTS = ("correct", "incorrect", "unscorable")
ITEM_COLUMNS = (
    "benchmark",
    "table",
    "item_id",
    "subject",
    "family",
    "steps",
    "sample",
    "gold",
    "completion",
    "extracted",
    "verdict",
    "reason",
    "correct",
    "parse_failure",
    "tokens",
    "truncated",
    "random_credit",
)
# Of a million problems, what the figures need: not the judge's words.
_SCORES_READ = ["id", "subject", "steps", "rating", "score"]
_FEW = ["arm", "benchmark", "table", "item_id", "subject", "family"]  # the same few words in many rows
# Small enough to be handy while drawing, and all that the tables need.
_ITEMS_READ = [name for name in ITEM_COLUMNS if name not in ("gold", "completion", "reason")]


@dataclass(frozen=True, eq=False)  # one object is one reading: tables keep what they computed of it
class Results:
    """What 06_figures reads. Every table carries the columns arm and seed, except `scores`.

    Arms may differ in their number of seeds (`seeds_of`); the base model's one run stands under each. In `sft` an SFT that
    several arms share stands once, under the first one's name.

    items: 05_eval's rows; grpo, sft: training curves; scores: 01_score's ratings; sizes: 02_split's sizes.csv.
    along_rl: accuracy on held-out problems along RL, empty where `grpo.evaluate_every` was 0. manifests: of every step that
    was read.
    """

    profile: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    items: pd.DataFrame
    grpo: pd.DataFrame
    sft: pd.DataFrame
    scores: pd.DataFrame
    sizes: pd.DataFrame
    manifests: tuple[manifest.Manifest, ...]
    along_rl: pd.DataFrame = field(default_factory=pd.DataFrame)

    def seeds_of(self, *arms: str) -> tuple[int, ...]:
        """The training seeds that all these arms have."""
        own = [set(self.items.loc[self.items["arm"] == arm, "seed"]) for arm in arms]
        return tuple(seed for seed in self.seeds if all(seed in seeds for seeds in own))

    @property
    def commit(self) -> str:
        """The commit, or commits, that the runs were made with; a redrawn figure names the same ones."""
        return ", ".join(sorted({_short(step.commit) for step in self.manifests}))


def load(profile: str, arms: Sequence[str], seeds: Sequence[int], other_seeds: int | None = None) -> Results:
    """Read all steps of a profile. Raises InputError, with the command to run, where one is missing.

    other_seeds: how many of the seeds the arms have that the paper lacks (None: all).
    """
    arms = in_order(arms)
    steps: list[manifest.Manifest] = []

    def read(
        stage: str, name: str, arm: str | None = None, seed: int | None = None, columns=None
    ) -> pd.DataFrame:
        steps.append(manifest.require(profile, stage, arm, seed, outputs=[name]))
        path = paths.step_dir(profile, stage, arm, seed) / name
        if columns is not None:
            columns = sorted(set(columns) & set(parquet.read_schema(path).names), key=columns.index)
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path, columns=columns)
        return table if arm is None else table.assign(arm=arm, seed=seed)

    def own_seeds(arm: str) -> tuple[int, ...]:
        return seeds_of(arm, seeds, other_seeds)

    def all_runs(stage: str, name: str, runs: Iterable[tuple[str, int]], columns=None) -> pd.DataFrame:
        tables = [read(stage, name, arm, seed, columns) for arm, seed in runs]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"arm": [], "seed": []})

    scores = read("01_score", "scores.parquet", columns=_SCORES_READ)
    sizes = pd.concat(
        [read("02_split", "sizes.csv", seed=seed).assign(seed=seed) for seed in seeds], ignore_index=True
    )
    runs = [(arm, seed) for arm in arms for seed in own_seeds(arm)]
    trained = dict.fromkeys((sft_of(arm), seed) for arm, seed in runs if ARMS[arm].sft)
    sft = all_runs("03_sft", "steps.csv", trained)
    grpo = all_runs("04_grpo", "steps.csv", [run for run in runs if ARMS[run[0]].rl])
    looked = [(s.arm, s.seed) for s in steps if s.stage == "04_grpo" and "curve.parquet" in s.outputs]
    along_rl = all_runs("04_grpo", "curve.parquet", looked)
    items = all_runs("05_eval", "items.parquet", runs, _ITEMS_READ)
    alone = [arm for arm in arms if not (ARMS[arm].sft or ARMS[arm].rl)]
    again = [items[items["arm"].isin(alone)].assign(seed=seed) for seed in seeds[1:] if alone]
    items = pd.concat([items, *again], ignore_index=True).astype(dict.fromkeys(_FEW, "category"))
    if "random_credit" not in items:  # older files hold open questions alone, where nothing is to be guessed
        items["random_credit"] = items["correct"].astype(float)
    check_items(items)
    # 'unscorable' speaks of the gold answer alone, so such a question is out for every arm.
    items = items[items["verdict"] != "unscorable"].reset_index(drop=True)
    unique = {(s.stage, s.arm, s.seed): s for s in steps}
    return Results(
        profile, arms, tuple(seeds), items, grpo, sft, scores, sizes, tuple(unique.values()), along_rl
    )


def redraw(settings: profiles.Profile) -> str:
    """The command that draws these settings again: 06_figures with what they replace in the profile."""
    return manifest.command(settings.name, "06_figures", overrides=profiles.replaced(settings, "06_figures"))


def in_order(arms: Sequence[str]) -> tuple[str, ...]:
    """The arms in the paper's order, those the paper lacks at the end."""
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise InputError(f"Unknown arm {unknown[0]!r}: choose among {', '.join(ARMS)}.")
    rank = list(LABELS)
    return tuple(
        sorted(arms, key=lambda arm: (rank.index(arm) if arm in rank else len(rank), list(ARMS).index(arm)))
    )


def label(arm: str) -> str:
    """The arm's name in tables and figures."""
    return LABELS.get(arm, arm.replace("_", " "))


def source(benchmark: str) -> str:
    """Who wrote a benchmark's questions: 'mini_stem', 'reasoning_gym', or the name of one of the paper's."""
    return benchmark.split()[0]


def check_items(items: pd.DataFrame) -> None:
    """Raise InputError unless all arms and seeds answered the same questions equally often."""
    if bad := sorted(set(items["verdict"]) - set(VERDICTS)):
        raise InputError(
            f"05_eval has the verdict {bad[0]!r}, which is none of {', '.join(VERDICTS)}: run it again."
        )
    if (items["correct"] != (items["verdict"] == "correct")).any():
        raise InputError("05_eval's columns correct and verdict contradict each other: run 05_eval again.")
    counts = items.groupby(["item_id", "arm", "seed"]).size().unstack(["arm", "seed"])
    uneven = counts.ne(counts.max(axis=1), axis=0)  # benchmarks may differ in their number of samples
    if uneven.any(axis=None):
        lacking = counts.columns[uneven.any()][0]
        raise InputError(
            f"Arm {lacking[0]}, seed {lacking[1]} has not answered the others' questions as often: "
            "run 05_eval again for every arm."
        )


def cube(items: pd.DataFrame, arm: str, value: str = "correct") -> tuple[np.ndarray, pd.DataFrame]:
    """One arm's values as an array [seeds, questions, samples], and one row per question (the array's middle
    axis).

    items: rows of the wanted benchmarks. Questions in the order of benchmark and id, so that arms can be
    paired. Where benchmarks differ in their number of samples, each question has one value: its samples' mean.
    A question without a family is a group of its own.
    """
    about = ["benchmark", "table", "item_id", "subject", "family", "steps"]
    rows = items.loc[items["arm"] == arm, ["seed", "sample", *about, value]]
    if rows.empty:
        raise InputError(f"No evaluation of arm {arm!r} was read: run 05_eval for it first.")
    if rows.groupby(["seed", "item_id"]).size().nunique() > 1:
        rows = rows.groupby(["seed", *about], dropna=False)[value].mean().reset_index().assign(sample=0)
    rows = rows.sort_values(["seed", "benchmark", "item_id", "sample"], kind="stable")
    questions = rows[rows["seed"] == rows["seed"].iloc[0]].drop_duplicates("item_id").reset_index(drop=True)
    shape = (rows["seed"].nunique(), len(questions), -1)
    questions = questions[about]
    family = questions["family"].astype(object).fillna(questions["item_id"].astype(object))
    group = questions["benchmark"].astype(object).map(source) + " " + family
    return rows[value].to_numpy(float).reshape(shape), questions.assign(group=group)


def _short(commit: str) -> str:
    head, _, dirty = commit.partition("-")
    return head[:10] + (f"-{dirty}" if dirty else "")
