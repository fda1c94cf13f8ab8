"""Numbers in hand-written sentences of the READMEs are those of the committed results."""

import pandas as pd
import pytest

from dereason_utils import claims, comparisons, manifest, paths, profiles, results, tables, verdicts

COMMITTED = paths.committed()


def prose(name):
    """A README's text with single spaces between words."""
    return " ".join((paths.REPO / name).read_text(encoding="utf-8").split())


def table1(profile):
    return pd.read_csv(COMMITTED / profile / "06_figures" / "table1.csv").set_index("arm")


def solved_before_rl(profile):
    """Percent of the hard test problems that the policy solves after SFT on easy ones."""
    return f"{table1(profile).loc['sft_easy', 'mini_stem hard']:.0f}%"


def test_the_share_of_hard_problems_that_is_solved_before_rl():
    text = prose("README.md")
    assert f"after SFT on easy problems the policy solves {solved_before_rl('nano')} of them" in text
    assert (
        f"in `nano_reach` it has five or six, and the policy solves {solved_before_rl('nano_reach')}." in text
    )
    assert (
        f"RL on hard problems, of which the policy solves {solved_before_rl('study')}, adds nothing" in text
    )


def test_how_far_one_seed_moves_between_two_processors():
    arms, averages = ["rl_only", "random_split"], []
    for profile in ("cpu", "study"):
        table = tables.main_table(results.load(profile, arms, [0]), "table1").set_index("arm")
        averages.append([f"{table.loc[arm, tables.AVERAGE]:.1f}" for arm in arms])
    (rl, split), (rl_here, split_here) = averages
    said = f"random split has {split} there and {split_here} here, RL only {rl} and {rl_here}."
    assert said in prose("results/README.md")


def lead_of_as_many_tokens(profile):
    """Points by which SFT only with dereason's tokens is ahead of dereason, with its interval."""
    effects = pd.read_csv(COMMITTED / profile / "06_figures" / "effects.csv")
    row = comparisons.of_the_split(effects).loc["sft_only_tokens"]
    return -row["difference"], -row["high"], -row["low"]


def test_sft_alone_with_as_many_tokens():
    text = prose("results/README.md")
    passes = [
        pd.read_csv(steps)["epoch"].iloc[-1]
        for steps in sorted(COMMITTED.glob("study/03_sft/sft_only_tokens/seed*/steps.csv"))
    ]
    assert f"makes {min(passes):.1f} to {max(passes):.1f} passes over all problems" in text
    assert "of the split by {:.0f} points [{:.0f}, {:.0f}],".format(*lead_of_as_many_tokens("study")) in text
    assert f"the same arm is ahead by {lead_of_as_many_tokens('nano')[0]:.0f} points" in text


def test_the_split_by_pass_rate_of_study():
    scores = pd.read_parquet(COMMITTED / "study" / "01_score" / "scores.parquet")
    sizes = pd.concat(map(pd.read_csv, sorted(COMMITTED.glob("study/02_split/seed*/sizes.csv"))))
    steps = sizes.set_index("arm").loc["passrate_split", ["sft_mean_steps", "rl_mean_steps"]].mean()
    text, tries = prose("results/README.md"), profiles.load("study").pass_rate.samples
    assert tries == 4 and f"{(scores['pass_rate'] > 0).sum()} of the {len(scores)} problems" in text
    assert (
        f"({steps['sft_mean_steps']:.1f} steps in SFT and {steps['rl_mean_steps']:.1f} in RL, on average)"
        in text
    )


@pytest.mark.parametrize(
    ("seeds", "verdict"), [(3, claims.CONTRADICTED), (4, claims.UNDECIDED), (5, claims.CONTRADICTED)]
)
def test_c14_of_study_with_its_first_seeds(seeds, verdict):
    made = manifest.load(COMMITTED / "study" / "06_figures" / "manifest.json").parameters
    given = {"arms": made["arms"], "seeds": list(range(seeds)), "other_seeds": made["other_seeds"]}
    ledger, _ = verdicts.assess(results.load("study", *given.values()), profiles.load("study", given))
    assert ledger.set_index("id").loc["C14", "verdict"] == verdict
    said = "C14 was contradicted with three seeds, undecided with four, and is contradicted with all."
    assert said in prose("results/README.md")
