"""Tables hold what the per-item files hold."""

import ast
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import synthetic_results

from dereason_utils import (
    comparisons,
    figure_data,
    manifest,
    measures,
    paths,
    processor,
    render,
    results,
    sources,
    stats,
    tables,
)
from dereason_utils.errors import InputError

ARM_NAMES = list(synthetic_results.SKILL)
TWO = ("base", "rl_only")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of two profiles: `cpu` with one seed, `smoke` with two."""
    root = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEREASON_RESULTS", str(root))
        synthetic_results.write("cpu", test_size=120, gym_size=48)
        synthetic_results.write(
            "smoke", TWO, (0, 1), test_size=48, gym_size=24, samples=2, train=64, rl_steps=3
        )
        yield root


@pytest.fixture(scope="module")
def read(folder):
    return results.load("cpu", ARM_NAMES, [0])


@pytest.fixture(scope="module")
def two_seeds(folder):
    return results.load("smoke", TWO, [0, 1])


@pytest.fixture(scope="module")
def table1(read):
    return tables.main_table(read, "table1")


def test_arms_stand_in_the_papers_order(read, table1):
    assert list(table1["arm"]) == ["base", "rl_only", "sft_only", "random_split", "dereason"]
    assert list(table1["row"])[1:] == [
        "RL only",
        "SFT only",
        "SFT then random RL",
        "SFT on easy + RL on hard",
    ]


@pytest.mark.parametrize("name", ["table1", "table2"])
def test_accuracy_is_the_mean_of_the_item_file(folder, read, name):
    table = tables.main_table(read, name).set_index("arm")
    for arm in ARM_NAMES:
        items = pd.read_parquet(folder / "cpu" / "05_eval" / arm / "seed0" / "items.parquet")
        items = items[items["table"] == tables.TABLES[name]]
        means = 100 * items.groupby("benchmark")["correct"].mean()
        for benchmark, value in means.items():
            assert table.loc[arm, benchmark] == pytest.approx(value, abs=0.006)
        assert table.loc[arm, "Avg."] == pytest.approx(means.mean(), abs=0.006)
        failed = 100 * items.groupby("benchmark")["parse_failure"].mean().mean()
        assert table.loc[arm, "parse failure"] == pytest.approx(failed, abs=0.006)


def test_intervals_hold_their_value_and_say_what_they_cover(table1):
    for column in [name for name in table1 if f"{name} low" in table1]:
        assert (table1[f"{column} low"] <= table1[column]).all()
        assert (table1[column] <= table1[f"{column} high"]).all()
    assert (table1["covers"] == "questions and samples (one training seed)").all()


def test_the_papers_numbers_stand_beside_ours(table1, read):
    row = table1.set_index("arm").loc["dereason"]
    assert row["paper webinstruct-verified gpqa_diamond"] == 50.0 and row["paper webscale-rl avg"] == 39.6
    assert np.isnan(table1.set_index("arm").loc["random_split", "paper webscale-rl avg"])
    assert (
        tables.main_table(read, "table2").set_index("arm").loc["sft_only", "paper webscale-rl aime25"] == 23.3
    )


def test_transcribed_averages_are_the_mean_of_their_row():
    paper = tables.reported("table1")
    means = paper[["mmlu_pro", "gpqa_diamond", "supergpqa", "bbeh"]].mean(axis=1)
    assert (means - paper["avg"]).abs().max() < 0.11  # as printed there, rounded


def test_every_format_shows_the_same_numbers(tmp_path, table1):
    shown = render.display(table1, "table1")
    names = render.write(tmp_path, "table1", table1, "Table 1", render.notes(table1, "table1"), shown)
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    again = pd.read_csv(tmp_path / "table1.csv")
    pd.testing.assert_frame_equal(again, table1, check_dtype=False)
    texts = {ending: (tmp_path / f"table1.{ending}").read_text() for ending in ("md", "tex", "html")}
    for _, row in again.iterrows():
        cell = f"{row['Avg.']:.1f} [{row['Avg. low']:.1f}, {row['Avg. high']:.1f}]"
        assert all(cell in text for text in texts.values())
    assert "compare the order of the arms, not the values" in texts["md"]
    assert "\\toprule" in texts["tex"] and "95\\%" in texts["tex"]
    assert texts["html"].startswith("<!doctype html>") and "SFT on easy + RL on hard" in texts["html"]


def test_order_line_sorts_by_value(table1):
    best = table1.loc[table1["Avg."].idxmax()]
    line = render.order_line(table1, "Avg.", "ours")
    assert line.startswith(f"Order, ours: {best['row']} ({best['Avg.']:.1f}) > ")
    few = table1.assign(seeds=[1 if row == best["row"] else 20 for row in table1["row"]])
    assert f" {best['row']} ({best['Avg.']:.1f}, 1 seed) > " in render.order_line(few, "Avg.", "ours")


def test_differences_are_paired_and_corrected(read):
    found = comparisons.differences(read).set_index(["a", "b", "scope"])
    a, _ = results.cube(read.items[read.items["benchmark"] == "mini_stem hard"], "dereason")
    b, _ = results.cube(read.items[read.items["benchmark"] == "mini_stem hard"], "sft_only")
    row = found.loc[("dereason", "sft_only", "mini_stem hard")]
    assert row["difference"] == pytest.approx(100 * (a.mean() - b.mean()), abs=0.006)
    assert {(x, y) for x, y, _ in found.index} == set(comparisons.PAIRS)
    assert (found["covers"] == stats.QUESTIONS_ONLY).all() and found["p_holm"].isna().all()
    shown = render.plain_display(found.reset_index())
    assert set(shown["p holm"]) == {"–"} and set(shown["seeds"]) == {1}
    assert "a second training may lie outside it" in " ".join(render.about_pairs(found))


def test_a_number_does_not_depend_on_which_arms_were_read(folder, table1):
    fewer = results.load("cpu", ["dereason", "base"], [0])
    own = tables.main_table(fewer, "table1").set_index("arm").loc["dereason"]
    pd.testing.assert_series_equal(own, table1.set_index("arm").loc["dereason"])


def test_by_group_counts_every_question_once(read):
    subjects = tables.by_group(read, "subject")
    assert subjects[subjects["arm"] == "base"]["questions"].sum() == read.items["item_id"].nunique()
    steps = tables.by_group(read, "steps")
    assert set(steps["steps"]) == set(range(1, 9))  # unknown steps are left out
    one = read.items[(read.items["arm"] == "dereason") & (read.items["steps"] == 3)]
    shown = steps[(steps["arm"] == "dereason") & (steps["steps"] == 3)]["accuracy"].item()
    assert shown == pytest.approx(100 * one["correct"].mean(), abs=0.006)


def test_scorings_hold_what_the_item_file_holds(tmp_path, monkeypatch):
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path))
    synthetic_results.write("cpu", TWO, paper_size=30, train=64, rl_steps=3)
    table = tables.scorings(results.load("cpu", TWO, [0])).set_index(["arm", "benchmark"])
    rows = pd.read_parquet(paths.step_dir("cpu", "05_eval", "base", 0) / "items.parquet")
    assert set(table.loc["base"].index) == set(rows["benchmark"])
    for name, part in rows.groupby("benchmark"):
        found, failed = table.loc["base", name], part["parse_failure"].mean()
        options = {"mmlu_pro": 10, "supergpqa": 10, "gpqa_diamond": 4}.get(name)
        guesses = failed / options if options else 0
        assert found["accuracy"] == pytest.approx(100 * part["correct"].mean(), abs=0.006)
        assert found["random_credit"] == pytest.approx(100 * (part["correct"].mean() + guesses), abs=0.006)
        assert found["macro"] == pytest.approx(
            100 * part.groupby("subject")["correct"].mean().mean(), abs=0.006
        )
        assert found["parse_failure"] == pytest.approx(100 * failed, abs=0.006) and found["subjects"] == 3
    assert "MMLU-Pro" in set(render.scorings_display(table.reset_index())["benchmark"])


def test_results_of_before_guesses_were_credited_can_still_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path))
    whole = synthetic_results.items
    monkeypatch.setattr(
        synthetic_results, "items", lambda *given: whole(*given).drop(columns="random_credit")
    )
    synthetic_results.write("cpu", ("base",), test_size=12, gym_size=12, train=64)
    items = results.load("cpu", ["base"], [0]).items
    assert items["random_credit"].tolist() == items["correct"].astype(float).tolist()


def test_pass_at_k_and_majority(read):
    table = tables.pass_and_majority(read).set_index(["arm", "table", "measure"])["value"]
    assert table["dereason", "general", "pass@1"] == pytest.approx(
        tables.main_table(read, "table1").set_index("arm").loc["dereason", "Avg."], abs=0.01
    )
    items = read.items[(read.items["arm"] == "sft_only") & (read.items["table"] == "mathematics")]
    any_right = items.groupby(["benchmark", "item_id"])["correct"].any().groupby("benchmark").mean().mean()
    assert table["sft_only", "mathematics", "pass@4"] == pytest.approx(100 * any_right, abs=0.01)
    votes = items.groupby(["benchmark", "item_id"])[["extracted", "correct"]].apply(
        lambda rows: stats.maj_at_k(list(rows["extracted"]), list(rows["correct"]))
    )
    assert table["sft_only", "mathematics", "maj@4"] == pytest.approx(
        100 * votes.groupby("benchmark").mean().mean(), abs=0.01
    )


def test_slopes_need_enough_steps(read, two_seeds):
    found = tables.training_slopes(read)
    assert set(found["arm"]) == {"rl_only", "random_split", "dereason"}
    rise = found[found["curve"] == "reward"]
    assert (rise["low"] > 0).all()  # the synthetic rewards rise
    assert tables.training_slopes(two_seeds).empty


def test_several_seeds_give_training_seed_intervals(two_seeds):
    table = tables.main_table(two_seeds, "table1")
    assert (table["covers"] == stats.ALL_LEVELS).all() and (table["seeds"] == 2).all()
    values = (
        two_seeds.items[two_seeds.items["benchmark"] == "mini_stem easy"].groupby("arm")["correct"].mean()
    )
    assert table.set_index("arm")["mini_stem easy"].sort_index().tolist() == pytest.approx(
        (100 * values.sort_index()).tolist(), abs=0.006
    )
    assert "2 training seeds" in render.notes(table, "table1")[0]


def test_plain_display_of_every_small_table(read):
    for table in (
        tables.by_group(read, "subject"),
        tables.by_group(read, "steps"),
        tables.pass_and_majority(read),
        comparisons.differences(read),
        tables.training_slopes(read),
    ):
        shown = render.plain_display(table)
        assert len(shown) == len(table) and shown.iloc[:, 0].str[0].str.isupper().all()
        assert shown.apply(lambda row: any("[" in str(cell) for cell in row), axis=1).all()


def test_reported_effects_stand_beside_ours(read):
    table = comparisons.side_by_side(read).set_index(["a", "b", "table", "corpus"])
    row = table.loc[("dereason", "random_split", "general", "WebInstruct-verified")]
    ours = (
        comparisons.differences(read)
        .set_index(["a", "b", "scope"])
        .loc[("dereason", "random_split", "Avg. general")]
    )
    assert row["reported"] == pytest.approx(0.9) and row["difference"] == ours["difference"]
    assert row["apart"] == pytest.approx(ours["difference"] - 0.9, abs=0.011)
    assert row["compatible"] == ("yes" if ours["low"] <= 0.9 <= ours["high"] else "(no)")
    assert (
        "dereason",
        "random_split",
        "general",
        "Webscale-RL",
    ) not in table.index  # the paper has no such arm there
    assert "SFT then random RL" in set(render.side_by_side_display(table.reset_index())["b"])


def test_every_pair_of_arms_is_compared_once(read, two_seeds):
    pairs = comparisons.effects(read).query("table == 'general'")
    assert len({frozenset(pair) for pair in zip(pairs["a"], pairs["b"], strict=True)}) == len(pairs) == 10
    assert tables.variances(read).empty
    parts = tables.variances(two_seeds)
    assert parts["arm"].tolist() == ["rl_only"] * 2 and (
        parts[["training_seeds", "questions", "samples"]] >= 0
    ).all(axis=None)


@pytest.mark.parametrize("name", ["read", "two_seeds"])
def test_a_pair_has_the_same_interval_whichever_arm_is_named_first(name, request):
    (_, one), (_, other) = comparisons.differences(
        request.getfixturevalue(name), [("base", "rl_only"), ("rl_only", "base")], averages_only=True
    ).groupby("a", sort=False)
    turned = other[["difference", "high", "low"]].to_numpy()
    assert one[["difference", "low", "high"]].to_numpy() == pytest.approx(-turned)
    assert one["p"].tolist() == other["p"].tolist()


@pytest.mark.parametrize("name", ["read", "two_seeds"])
def test_the_same_comparison_has_the_same_interval_wherever_it_stands(name, request):
    read = request.getfixturevalue(name)
    # With one benchmark a table's average is that benchmark.
    read = replace(read, items=read.items.assign(benchmark=read.items["table"].astype(str)))
    found = comparisons.differences(read, [("rl_only", "base")])
    found = found[found["scope"].isin(["general", comparisons.GENERAL])]
    assert len(found) == 2 and len(found.drop(columns="scope").drop_duplicates()) == 1
    weights = {"base": -1, "rl_only": 1}
    claimed = [*measures.average(read, weights), *measures.each_benchmark(read, weights)][:2]
    for _, estimate in claimed:
        shown = [estimate.value, estimate.low, estimate.high]
        assert shown == pytest.approx(found.iloc[0][["difference", "low", "high"]].tolist(), abs=1e-4)
    general = tables.accuracy(read, "general").drop(columns="benchmark")
    assert len(general) == 2 * len(read.arms) and len(general.drop_duplicates()) == len(read.arms)


def wrong_answers(each: int) -> pd.DataFrame:
    """Items of the base model, `each` in every one of two families, all answered wrong."""
    return pd.DataFrame(
        {
            "arm": "base",
            "seed": 0,
            "benchmark": "one",
            "table": "general",
            "subject": "physics",
            "steps": 1,
            "sample": 0,
            "item_id": [f"{family}-{i}" for family in ("easy", "odd") for i in range(each)],
            "family": ["easy"] * each + ["odd"] * each,
            "correct": False,
        }
    )


def test_a_shown_number_is_rounded_once():
    base = wrong_answers(480)
    after = base.assign(arm="sft_only", correct=[True] * 107 + [False] * 853)
    general = pd.concat([base, after])
    items = pd.concat([general, general.assign(table="mathematics", benchmark="two")])
    read = SimpleNamespace(items=items, arms=("base", "sft_only"))
    found = comparisons.differences(read, [("sft_only", "base")])
    shown = render.with_interval(found, "difference", "low", "high")
    assert all(cell.startswith("+11.1 ") for cell in shown)  # of 11.1458; by way of 11.15 it was 11.2


def test_a_difference_that_rounds_to_nothing_has_no_minus():
    found = pd.DataFrame(
        {"arm": ["base"], "difference": [-0.0], "slope": [-0.00001], "low": [-0.04], "high": [0.04]}
    )
    assert render.with_interval(found, "difference", "low", "high") == ["+0.0 [+0.0, +0.0]"]
    assert render.plain_display(found.drop(columns="slope"))["difference"].item() == "0.0 [0.0, 0.0]"
    assert render.named(found, 4)["slope"].item() == "0.0000"


def test_the_interval_of_a_gain_ends_at_a_hundred_points():
    base = wrong_answers(8)
    after = base.assign(arm="sft_only", correct=[True] * 8 + [True, False] * 4)
    items = pd.concat([base, after])
    gained, lost = comparisons.gains(items, [("sft_only", "base"), ("base", "sft_only")])
    assert gained["difference"] == pytest.approx(75) and gained["high"] == 100 and gained["low"] < 75
    assert lost["difference"] == pytest.approx(-75) and lost["low"] == -100 and lost["high"] > -75


def test_effects_on_these_families_resample_questions_and_not_families(read, two_seeds):
    narrow, wide = comparisons.effects_on_these_families(read), comparisons.effects(read)
    assert set(narrow["a"]) == {"dereason"} and len(narrow) == 2 * (len(read.arms) - 1)
    assert (narrow["groups"] == narrow["questions"]).all() and (wide["groups"] < wide["questions"]).any()
    both = narrow.merge(wide, on=["a", "b", "scope"])
    assert len(both) and (both["difference_x"] == both["difference_y"]).all()
    assert (both["high_x"] - both["low_x"] != both["high_y"] - both["low_y"]).any()
    assert comparisons.effects_on_these_families(two_seeds).empty  # which lacks dereason


def draw(tmp_path, monkeypatch, profile, arms, **sizes):
    """Run 06_figures on synthetic results; returns its step."""
    for name in ("RESULTS", "RUNS"):
        monkeypatch.setenv(f"DEREASON_{name}", str(tmp_path / name.lower()))
    synthetic_results.write(profile, arms=arms, train=60, **sizes)
    chosen = {"profile": profile, "overrides": {"arms": list(arms)}}
    cells = sources.notebook_code(paths.notebook_path("06_figures"))
    given = [node for node in cells.body if isinstance(node, ast.AnnAssign) and node.target.id in chosen]
    for node in given:
        node.value = ast.parse(repr(chosen[node.target.id]), mode="eval").body
    assert given
    exec(compile(ast.fix_missing_locations(cells), "06_figures", "exec"), {})  # noqa: S102 (our own notebook)
    return manifest.require(profile, "06_figures")


@pytest.mark.parametrize("arms", [("base",), ("base", "dereason"), ("rl_only", "sft_only")])
def test_the_notebook_draws_whatever_arms_were_run(tmp_path, monkeypatch, arms):
    step = draw(tmp_path, monkeypatch, "cpu", arms, test_size=30, gym_size=12)
    assert {"table1.html", "table2.tex", "differences.md", "training_slopes.csv", "figure7.png"} <= set(
        step.outputs
    )


def test_a_run_on_the_papers_benchmarks_is_drawn_beside_the_papers_numbers(tmp_path, monkeypatch):
    step = draw(tmp_path, monkeypatch, "single_gpu", ("base", "rl_only", "dereason"), paper_size=12)
    for name, table in (("table1", "general"), ("table2", "mathematics")):
        written = pd.read_csv(step.folder / f"{name}.csv")
        shown = render.display(written, name)
        ours = [column for group, column in shown.columns if group.startswith("Ours")]
        theirs = [column for group, column in shown.columns if group == "Paper, WebInstruct-verified"]
        assert [column for column in ours if column in theirs] == theirs
        assert set(ours) - set(theirs) <= {"no answer", "Avg."}
        text = (step.folder / f"{name}.md").read_text()
        assert "Qwen3-4B-Base on the same benchmarks" in text and "other benchmarks" not in text
        assert set(written["samples"]) == {"1 or 8" if name == "table1" else "1 or 32"}
        rows = pd.read_parquet(paths.step_dir("single_gpu", "05_eval", "dereason", 0) / "items.parquet")
        each = rows[rows["table"] == table].groupby("benchmark")["correct"].mean()
        row = written.set_index("arm").loc["dereason"]
        assert row["Avg."] == pytest.approx(100 * each.mean(), abs=0.006)
    beside = pd.read_csv(step.folder / "side_by_side.csv").query(
        "scope == 'gpqa_diamond' and corpus == 'Webscale-RL'"
    )
    alone = beside[beside["b"].isna()].set_index("a")
    table1 = pd.read_csv(step.folder / "table1.csv").set_index("arm")
    assert alone.loc["dereason", "reported"] == 43.7
    assert alone.loc["dereason", "difference"] == table1.loc["dereason", "gpqa_diamond"]
    assert beside.set_index(["a", "b"]).loc[("dereason", "rl_only"), "reported"].item() == pytest.approx(9.7)
    passed = pd.read_csv(step.folder / "pass_at_k.csv")
    assert "pass@32" in set(passed.loc[passed["table"] == "mathematics: aime24, aime25", "measure"])
    assert pd.read_csv(step.folder / "by_steps.csv").empty


def test_arms_with_fewer_seeds_are_named_under_the_table(table1):
    assert not any(line.startswith("Only") for line in render.notes(table1, "table1"))
    few = table1["arm"] == "dereason"
    table = table1.assign(seeds=6, covers="training seeds, questions and samples")
    table.loc[few, ["seeds", "covers"]] = 1, "questions and samples"
    [line] = [line for line in render.notes(table, "table1") if line.startswith("Only")]
    assert line == "Only 1 training seed, brackets over questions and samples: SFT on easy + RL on hard."


def test_missing_and_foreign_results_are_named(folder, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="05_eval base seed 5|02_split seed 5"):
        results.load("cpu", ["base"], [5])
    with pytest.raises(InputError, match="Unknown arm 'upside_down'"):
        results.load("cpu", ["upside_down"], [0])
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path))
    synthetic_results.write("cpu", arms=("base",), test_size=6, gym_size=6, samples=1, train=16)
    manifest = paths.manifest_path("cpu", "05_eval", "base", 0)
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format_version": 99}))
    with pytest.raises(InputError, match="format version 99"):
        results.load("cpu", ["base"], [0])


def test_uneven_or_contradictory_items_are_refused(read):
    with pytest.raises(InputError, match="Arm base, seed 0"):
        results.check_items(read.items.drop(read.items.index[read.items["arm"] == "base"][:1]))
    with pytest.raises(InputError, match="contradict"):
        results.check_items(read.items.assign(correct=~read.items["correct"]))
    with pytest.raises(InputError, match="none of correct"):
        results.check_items(read.items.assign(verdict="maybe"))


def test_unscorable_questions_count_for_no_arm(tmp_path, monkeypatch):
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path))
    whole = synthetic_results.items

    def spoiled(arm, seed, asked, samples):
        rows = whole(arm, seed, asked, samples)
        spoil = rows["item_id"] == rows["item_id"].iloc[0]
        return rows.assign(
            verdict=rows["verdict"].mask(spoil, "unscorable"), correct=rows["correct"].mask(spoil, False)
        )

    monkeypatch.setattr(synthetic_results, "items", spoiled)
    synthetic_results.write("cpu", arms=("base", "sft_only"), test_size=30, gym_size=12, train=64)
    assert results.load("cpu", ["base", "sft_only"], [0]).items["item_id"].nunique() == 41


# ---- arms with fewer seeds ----


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Three seeds for the paper's arms, two for `reversed`, and an SFT that two arms share."""
    arms = ("base", "sft_only", "dereason", "sft_all_then_rl_all", "reversed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEREASON_RESULTS", str(tmp_path_factory.mktemp("uneven")))
        sizes = {"test_size": 48, "gym_size": 24, "samples": 2, "train": 64, "rl_steps": 9}
        synthetic_results.write("smoke", arms, (0, 1, 2), other_seeds=2, **sizes)
        yield results.load("smoke", arms, (0, 1, 2), other_seeds=2)


def test_each_arm_has_its_own_seeds_and_the_base_model_stands_under_each(uneven):
    assert uneven.seeds_of("dereason") == uneven.seeds_of("base") == (0, 1, 2)
    assert uneven.seeds_of("dereason", "reversed") == (0, 1)
    assert tables.accuracy(uneven, "general").groupby("arm")["seeds"].first()["reversed"] == 2
    base = uneven.items[uneven.items["arm"] == "base"].groupby("seed")["correct"].mean()
    assert base.nunique() == 1


def test_arms_are_paired_by_the_seeds_that_both_have(uneven):
    found = comparisons.differences(uneven, [("dereason", "reversed"), ("dereason", "sft_only")])
    assert found.groupby("b")["seeds"].unique().map(list).to_dict() == {"reversed": [2], "sft_only": [3]}
    assert found.groupby("b")["p_holm"].count().eq(0).to_dict() == {"reversed": True, "sft_only": False}

    row = found[(found["b"] == "reversed") & (found["scope"] == "mini_stem easy")].iloc[0]
    items = uneven.items[(uneven.items["benchmark"] == "mini_stem easy") & (uneven.items["seed"] < 2)]
    means = 100 * items.groupby("arm")["correct"].mean()
    assert row["difference"] == pytest.approx(means["dereason"] - means["reversed"], abs=0.006)
    ((_, estimate),) = measures.average(uneven, {"dereason": 1, "reversed": -0.5, "base": -0.5})
    assert estimate.seeds == 2


def test_holms_family_is_the_pairs_with_enough_seeds(uneven):
    pairs = comparisons.effects(uneven).query("table == 'general'")
    known = pairs[pairs["seeds"] >= 3]
    assert 1 < len(known) < len(pairs) and pairs["p_holm"].notna().equals(pairs["seeds"] >= 3)
    assert known["p_holm"].tolist() == pytest.approx(stats.holm(known["p"].tolist()), abs=2e-3)


def test_an_arm_is_charged_for_the_sft_that_it_shares(uneven):
    assert set(uneven.sft["arm"]) == {"sft_only", "dereason", "reversed"}
    cost = figure_data.cost(uneven).set_index("arm")
    own = [m for m in uneven.manifests if m.arm == "sft_all_then_rl_all" and m.stage == "03_sft"]
    assert own == [] and cost.loc["sft_all_then_rl_all", "hours"] >= 0
    assert cost.loc["sft_all_then_rl_all", "rl_tokens"] > 0


def test_the_cost_names_processors_where_steps_recorded_them(tmp_path, monkeypatch):
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path))
    for seed, flags in ((0, {"avx2"}), (1, {"avx512_bf16", "avx2"}), (2, {"avx512_bf16", "avx2"})):
        monkeypatch.setattr(processor, "info", lambda flags=flags: ("Fast 9000", flags))
        manifest.finish(manifest.begin("03_sft", "cpu", "dereason", seed, parameters={}))
    line = render.cost_line(tmp_path / "cpu")
    assert line.startswith("3 steps, ") and line.endswith(
        " Training seeds by processor: 0 Fast 9000, AVX2; 1, 2 Fast 9000, AVX-512 with bfloat16. AVX2 alone computes in float32."
    )
    for path in tmp_path.rglob(paths.MANIFEST):  # as those are that were made before it was recorded
        path.write_text(json.dumps(json.loads(path.read_text()) | {"processor": None}))
    assert render.cost_line(tmp_path / "cpu").endswith("(from the steps' manifests).")
