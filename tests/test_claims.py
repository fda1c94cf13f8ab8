"""The ledger: every claim has a row, and the rules give the verdicts that they say."""

import math

import numpy as np
import pandas as pd
import pytest
import synthetic_results

from dereason_utils import claims, measures, paths, power, profiles, readme, render, results, stats, verdicts
from dereason_utils.claims import CONTRADICTED, NOT_TESTABLE, SUPPORTED, UNDECIDED

STRONG = {"sft_only": (0.5, 0.8), "random_split": (0.4, 0.75), "dereason": (0.95, 0.96), "base": (0.1, 0.6),
          "rl_only": (0.25, 0.7), "sft_then_hard_sft": (0.5, 0.8)}  # fmt: skip


def study(tmp_path, monkeypatch, arms, seeds, skill=None, **sizes):
    """(results, profile) of synthetic runs."""
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path))
    if skill:
        monkeypatch.setattr(synthetic_results, "SKILL", skill)
    sizes = {"test_size": 120, "gym_size": 48, "samples": 4, "train": 160, "rl_steps": 12} | sizes
    synthetic_results.write("cpu", arms, seeds, **sizes)
    profile = profiles.load("cpu", {"arms": list(arms), "seeds": list(seeds)})
    return results.load("cpu", arms, seeds), profile


def test_every_claim_of_the_paper_has_one_entry():
    assert [claim.id for claim in claims.CLAIMS] == list(claims.stated().index)
    assert all(claim.parts or claim.never(profiles.load("cpu")) for claim in claims.CLAIMS)


def test_the_papers_numbers_come_from_its_tables():
    papers = {claim.id: claim.paper for claim in claims.CLAIMS}
    assert papers["C5"] == "dereason minus random_split: WebInstruct-verified: Avg. +0.9"
    assert "Webscale-RL: Avg. +1.9" in papers["C6"] and "AIME25 -2.6" in papers["C10"]


def test_one_seed_decides_nothing_about_trained_arms(tmp_path, monkeypatch):
    arms = ("sft_only", "rl_only", "random_split", "dereason")
    read, profile = study(tmp_path, monkeypatch, arms, (0,), STRONG)
    ledger, parts = verdicts.assess(read, profile)
    ledger = ledger.set_index("id")
    assert set(ledger["verdict"]) == {UNDECIDED, NOT_TESTABLE}
    assert ledger.loc["C5", "why"] == "1 training seed; the rule asks for 3"
    assert "sft_rl_score_1" in ledger.loc["C11", "why"] and ledger.loc["C16", "verdict"] == NOT_TESTABLE
    assert (parts.loc[parts["id"] == "C5", "covers"] == stats.QUESTIONS_ONLY).all()
    assert set(parts.loc[parts["id"] == "C6", "seeds needed"]) == {"not known from one seed"}
    assert parts.loc[parts["id"] == "C14", ["low", "high"]].isna().all(axis=None)


def test_clear_effects_over_several_seeds_are_decided(tmp_path, monkeypatch):
    arms = ("sft_only", "rl_only", "random_split", "dereason")
    read, profile = study(tmp_path, monkeypatch, arms, (0, 1, 2), STRONG)
    ledger, parts = verdicts.assess(read, profile)
    ledger, numbers = ledger.set_index("id"), parts.set_index("id")
    assert ledger.loc[["C5", "C6"], "verdict"].tolist() == [SUPPORTED] * 2
    assert (
        ledger.loc["C1", "verdict"] == UNDECIDED and "not tested" in ledger.loc["C1", "why"]
    )  # no sweep was run
    gap = read.items[read.items["table"] == "general"].groupby(["arm", "benchmark"])["correct"].mean()
    expected = 100 * (gap["dereason"].mean() - gap["random_split"].mean())
    assert numbers.loc["C5", "value"] == pytest.approx(expected, abs=1e-3)
    assert numbers.loc["C5", "covers"] == stats.ALL_LEVELS
    ((*_, estimate),) = verdicts._measured(next(c for c in claims.CLAIMS if c.id == "C5"), read)
    tests = 2 * ledger["verdict"].ne(NOT_TESTABLE).sum()  # the level of Holm's first step, one-sided
    asked = power.detectable(estimate, 1 - 2 * claims.ALPHA / tests)
    assert numbers.loc["C5", "detectable"] == pytest.approx(asked, abs=1e-3) and asked > power.detectable(
        estimate
    )
    swapped = read.items["arm"].replace({"dereason": "random_split", "random_split": "dereason"})
    other = results.Results(**{**vars(read), "items": read.items.assign(arm=swapped)})
    assert verdicts.assess(other, profile)[0].set_index("id").loc["C5", "verdict"] == CONTRADICTED


def found(value, se, part, seeds=5):
    dof = 20.0
    half = 2.1 * se
    return (
        part,
        "x",
        stats.Estimate(value, value - half, value + half, se, dof, stats.ALL_LEVELS, 9, 9, seeds),
    )


GAIN = claims.Part("a gain", lambda read: [], smallest=0.5)
NO_GAIN = claims.Part("no gain", lambda read: [], smallest=0.5, gain=False)


@pytest.mark.parametrize(
    ("value", "se", "part", "holds", "fails"),
    [
        (3.0, 0.3, GAIN, True, False),
        (-3.0, 0.3, GAIN, False, True),
        (0.2, 0.05, GAIN, True, True),  # there, but too small to count: `fails` is looked at first
        (0.4, 1.0, GAIN, False, False),
        (-1.0, 0.3, NO_GAIN, True, False),
        (3.0, 0.3, NO_GAIN, False, True),
        (0.0, 0.0, GAIN, False, False),  # no variation to judge by
    ],
)
def test_the_two_p_values_of_a_test(value, se, part, holds, fails):
    chances = verdicts._chances([found(value, se, part)])
    assert (chances[0] < 0.05, chances[1] < 0.05) == (holds, fails)


def test_all_tests_of_a_claim_must_hold_and_one_that_fails_is_enough():
    good, bad, vague = found(3, 0.3, GAIN), found(-3, 0.3, GAIN), found(0.3, 1, GAIN)
    holds, fails = verdicts._chances([good, vague])
    assert holds > 0.05 and fails > 0.05
    holds, fails = verdicts._chances([good, bad])
    assert holds > 0.95 and fails == pytest.approx(2 * verdicts._chances([bad])[1])


def test_a_claim_of_which_a_part_is_untested_is_at_most_undecided():
    claim = next(claim for claim in claims.CLAIMS if claim.id == "C12")
    verdict, why = verdicts._verdict("", claim.untested, (0.001, 1.0), None, claim, [])
    assert verdict == UNDECIDED and "plateau" in why
    parts = [found(-3, 0.3, GAIN)]
    assert verdicts._verdict("", claim.untested, (1.0, 0.001), None, claim, parts)[0] == CONTRADICTED


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (
            ["held", "failed"],
            "'failed' of 0.5 points or more, as the claim says, is excluded (Holm's p = 0.01)",
        ),
        (
            ["gained", "failed"],
            "'gained' of 0.5 points or more, which the claim denies, is there (Holm's p = 0.01)",
        ),
    ],
)
def test_a_contradicted_claim_names_the_test_that_failed_most_clearly(parts, says):
    known = {"held": found(3, 0.3, GAIN), "failed": found(-3, 0.3, GAIN), "gained": found(9, 0.3, NO_GAIN)}
    claim = next(claim for claim in claims.CLAIMS if claim.id == "C13")
    named = [(known[name][0], name, known[name][2]) for name in parts]
    verdict, why = verdicts._verdict("", "", (1.0, 0.01), None, claim, named)
    assert verdict == CONTRADICTED and why == f"{says}; {claim.remark}" and "whether it grew" in why
    assert claim.remark not in verdicts._verdict("not run", "", None, None, claim, [])[1]


def test_no_difference_is_rarely_called_a_difference():
    """The family-wise error of the rule: arms that are alike, five seeds, all claims at once."""
    wrong = 0
    for i in range(300):
        generator = np.random.default_rng([11, i])
        pairs = []
        for _ in range(8):
            each = power.over_seeds(generator.normal(0, 1, 5))
            pairs.append(verdicts._chances([(GAIN, "x", each)])[0])
        corrected = stats.holm([p for chance in pairs for p in (chance, 1.0)])[::2]
        wrong += min(corrected) < claims.ALPHA
    assert wrong / 300 <= 0.07


def test_benchmarks_at_the_floor_are_left_out(tmp_path, monkeypatch):
    nothing = {name: (0.0, 0.5) for name in STRONG}
    read, _ = study(tmp_path, monkeypatch, ("sft_only", "rl_only"), (0,), nothing, test_size=60, gym_size=24)
    items = read.items.assign(correct=read.items["benchmark"].eq("mini_stem easy") & read.items["correct"])
    level = items["benchmark"].eq("mini_stem easy") & (items.index % 3 == 0)
    items.loc[level, "correct"] = True
    spoiled = results.Results(**{**vars(read), "items": items})
    names = [name for name, _ in measures.each_benchmark(spoiled, {"sft_only": 1, "rl_only": -1})]
    assert names == ["mini_stem easy"]


def test_the_ledger_is_written_in_three_formats_and_into_the_readme(tmp_path, monkeypatch):
    read, profile = study(tmp_path / "r", monkeypatch, ("base", "sft_only", "rl_only"), (0,), test_size=60)
    ledger, parts = verdicts.assess(read, profile)
    folder = paths.step_dir("cpu", "06_figures")
    names = render.write_claims(folder, ledger, parts, "cpu")
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "claims.csv"), ledger, check_dtype=False)
    for name in ("claims.md", "claims.html"):
        text = (folder / name).read_text()
        assert all(f"{id_}" in text for id_ in ledger["id"]) and "at the scale of profile cpu alone" in text
    command = (
        'python -m dereason_utils.run 06_figures --profile cpu -o \'arms=["base","sft_only","rl_only"]\''
    )
    assert (
        set(ledger["command"]) == {command} and f"Command: {command}." in (folder / "claims.md").read_text()
    )
    assert '<a href="figure10.png">' in (folder / "claims.html").read_text()
    block = readme.ledger("cpu")
    counts = ledger["verdict"].value_counts()
    assert f"{counts[NOT_TESTABLE]} {NOT_TESTABLE}" in block and all(f"{i}: " in block for i in ledger["id"])
    rows = (line.strip("| ").split(" | ") for line in block.splitlines())
    cells = {row[0].partition(":")[0]: row[-1].strip() for row in rows}
    first = ledger.set_index("id").loc["C1"]
    assert cells["C1"] == f"{first['verdict']}<br>{first['ours']}" and cells["C16"] == NOT_TESTABLE
    assert not any(math.isnan(x) for x in ledger["seeds"])
