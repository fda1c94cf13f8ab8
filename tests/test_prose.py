"""Numbers in hand-written sentences of the READMEs are those of the committed results."""

import pandas as pd
import pytest

from dereason_utils import claims, comparisons, manifest, paths, profiles, results, split, tables, verdicts

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
    (rl, random), (rl_here, random_here) = averages
    said = f"random split has {random} there and {random_here} here, RL only {rl} and {rl_here}."
    assert said in prose("results/README.md")


def split_minus(arm, profile, scope=comparisons.GENERAL):
    """A row of effects.csv, as dereason minus the arm."""
    effects = pd.read_csv(COMMITTED / profile / "06_figures" / "effects.csv")
    return comparisons.of(effects[effects["scope"] == scope], "dereason").set_index("b").loc[arm]


def interval(row):
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*row[["difference", "low", "high"]])


def test_the_effects_of_nano_reach_that_are_named():
    text = prose("README.md")
    behind, second = (split_minus(arm, "nano_reach") for arm in ("random_split", "sft_then_hard_sft"))
    assert f"behind the random split in `nano_reach` ({interval(behind)})" in text
    assert f"a second SFT on the same hard problems ({interval(second)})" in text
    table = pd.read_csv(COMMITTED / "nano_reach" / "06_figures" / "open.csv")
    lacking = comparisons.of_the_split(table)
    assert set(lacking.index) == {"reversed", "sft_easy"} and (lacking["p_holm"] < claims.ALPHA).all()
    assert f"the split by difficulty minus it is {interval(lacking.loc['reversed'])}." in text
    assert f"add to SFT on easy ones there ({interval(lacking.loc['sft_easy'])})." in text


def test_the_verdicts_that_are_named():
    whole = {
        name: pd.read_csv(COMMITTED / name / "06_figures" / "claims.csv").set_index("id")
        for name in ("nano", "nano_reach", "study")
    }
    ledgers = {name: ledger["verdict"] for name, ledger in whole.items()}
    near = {
        f"{whole[name].loc[claim, 'p fails']:.3f}" for name, claim in (("nano_reach", "C2"), ("study", "C10"))
    }
    assert near == {"0.042"} and "`study` (Holm's p 0.042 each)" in prose("REPORT.md")
    assert set(ledgers["nano_reach"][["C2", "C13", "C14"]]) == {claims.CONTRADICTED}
    assert set(ledgers["nano_reach"][["C4", "C5", "C6", "C8"]]) == {claims.UNDECIDED}
    assert set(ledgers["nano"][["C5", "C6"]]) == {claims.UNDECIDED}
    assert ledgers["study"]["C10"] == claims.CONTRADICTED


def test_arms_of_nano_sweeps_are_trainings_of_nano():
    for arm, seed in [
        ("base", 0),
        *((arm, seed) for arm in ("sft_only", "rl_only", "dereason") for seed in range(5)),
    ]:
        one, other = (
            manifest.load(paths.manifest_path(profile, "05_eval", arm, seed)).outputs["items.parquet"]
            for profile in ("nano", "nano_sweeps")
        )
        assert one == other
    for name in ("README.md", "results/README.md"):
        assert "first five seeds" in prose(name) or "trainings of seeds 0 to 4" in prose(name)


def test_sft_alone_with_as_many_tokens():
    text = prose("results/README.md")
    passes = [
        pd.read_csv(steps)["epoch"].iloc[-1]
        for steps in sorted(COMMITTED.glob("study/03_sft/sft_only_tokens/seed*/steps.csv"))
    ]
    assert f"makes {min(passes):.1f} to {max(passes):.1f} passes over all problems" in text
    lead = -split_minus("sft_only_tokens", "study")[["difference", "high", "low"]].astype(float)
    assert "of the split by {:.0f} points [{:.0f}, {:.0f}],".format(*lead) in text
    apart = [
        split_minus("sft_only_tokens", "study", f"Avg. {table}")["p_holm"] < claims.ALPHA
        for table in ("general", "mathematics")
    ]
    assert apart == [False, True] and "stays apart on mathematics alone" in prose("README.md")
    ahead = -split_minus("sft_only_tokens", "nano")["difference"]
    assert f"the same arm is ahead by {ahead:.0f} points" in text
    fewer = split_minus("reversed", "nano")
    assert fewer["high"] < 0 and fewer["p_holm"] > claims.ALPHA and fewer["seeds"] == 4
    assert "In `nano` the reverse is ahead too, by estimate, with four of its twenty seeds." in prose(
        "README.md"
    )


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


def test_how_many_problems_rl_draws_and_how_many_updates_sft_makes():
    text = prose("results/README.md")
    for profile, said in (("nano", "640 of 1600 in the `nano` profiles"), ("cpu", "192 of 1200 in `cpu`")):
        settings = profiles.load(profile)
        drawn = settings.grpo.steps * settings.grpo.prompts_per_step
        rollouts = pd.read_parquet(
            COMMITTED / profile / "04_grpo/rl_only/seed0/rollouts.parquet", columns=["id"]
        )
        assert rollouts["id"].nunique() == drawn and said in text
        assert said.startswith(f"{drawn} of {settings.corpus.train_size} ")
    few, all_ = (
        len(pd.read_csv(COMMITTED / "nano_sweeps/03_sft" / arm / "seed0/steps.csv"))
        for arm in ("sft_1_in_16", "sft_only")
    )
    assert f"{few} updates with 100 problems, {all_} with 1600." in text


def test_the_share_of_groups_from_which_the_splits_rl_learns_nothing():
    shares = [
        pd.concat(map(pd.read_csv, sorted(COMMITTED.glob(f"{profile}/04_grpo/dereason/seed*/steps.csv"))))
        for profile in ("nano", "study")
    ]
    said = "{:.0%} of dereason's in `nano`, {:.0%} in `study`".format(
        *(s["zero_variance_share"].mean() for s in shares)
    )
    assert said in prose("README.md")


def test_the_arms_of_the_paper_have_their_names_in_tables():
    text = prose("README.md")
    for arm in split.PAPER:
        assert f"| `{arm}` | {results.label(arm)} |" in text
    assert split.ARMS["sft_then_hard_sft"].sft == ("easy", "hard") and "| easy, then hard | - |" in text
