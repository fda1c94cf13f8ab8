"""The README shows what the tables hold, and its command notices where it does not."""

import re

import pandas as pd
import pytest
import synthetic_results

from dereason_utils import claims, comparisons, figure_data, paths, readme, report, results, tables
from dereason_utils.errors import InputError

ARM_NAMES = list(synthetic_results.SKILL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEREASON_RESULTS", str(root))
        synthetic_results.write("cpu", test_size=120, gym_size=48)
        yield root


@pytest.fixture(scope="module")
def read(folder):
    return results.load("cpu", ARM_NAMES, [0])


@pytest.fixture(scope="module")
def table1(read):
    return tables.main_table(read, "table1")


@pytest.fixture
def drawn(tmp_path, monkeypatch, read, table1):
    """06_figures of two profiles, as far as the README needs it."""
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path / "results"))
    made = {
        "table1": table1,
        "effects": comparisons.effects(read),
        "open": comparisons.differences(read, claims.OPEN, averages_only=True),
        "effects_on_these_families": comparisons.effects_on_these_families(read),
        "figure14": figure_data.split_by_steps(read),
    }
    for profile, verdict in (("nano", "contradicted"), ("cpu", "undecided")):
        where = paths.step_dir(profile, "06_figures")
        where.mkdir(parents=True)
        rows = [
            {"id": "C5", "claim": "It is better", "verdict": verdict, "why": "so", "ours": "Avg. -2 points"},
            {"id": "C6", "claim": "It is best", "verdict": "undecided", "why": "as yet", "ours": "0"},
        ]
        for name, table in (made | {"claims": pd.DataFrame(rows)}).items():
            table.to_csv(where / f"{name}.csv", index=False)
    return paths.step_dir("nano", "06_figures")


def marked(tmp_path, *parts):
    path = tmp_path / "README.md"
    lines = [f"{readme.BEGIN.format(part)}\nold\n{readme.END.format(part)}\n\n" for part in parts]
    path.write_text("# Title\n\n" + "".join(lines) + "after\n")
    return path


@pytest.mark.parametrize(
    "part",
    [
        "headline of nano",
        "headline of nano, cpu",
        "table1 of cpu",
        "findings of nano",
        "effects of cpu",
        "steps of cpu",
        "claims of cpu",
        "claims of nano, cpu",
    ],
)
def test_each_part_stands_between_its_own_markers(tmp_path, drawn, part):
    path = marked(tmp_path, part)
    assert not readme.is_current(path)
    readme.write(path)
    text = path.read_text()
    assert text.startswith(f"# Title\n\n{readme.BEGIN.format(part)}\n") and "\nold\n" not in text
    assert text.endswith(f"\n{readme.END.format(part)}\n\nafter\n") and readme.is_current(path)
    path.write_text(text.replace(readme.END.format(part), ""))
    with pytest.raises(InputError, match=f"{part}:end"):
        readme.write(path)


def test_several_parts_stand_in_one_readme(tmp_path, drawn):
    path = marked(tmp_path, "table1 of cpu", "findings of nano")
    readme.write(path)
    assert readme.table1("cpu") in path.read_text() and readme.findings("nano") in path.read_text()


@pytest.mark.parametrize(
    ("within", "link"), [(".", "results/nano/"), ("results", "./nano/"), ("docs", "../results/nano/")]
)
def test_links_are_those_of_the_readmes_own_folder(tmp_path, drawn, within, link):
    (tmp_path / within).mkdir(exist_ok=True)
    path = marked(tmp_path / within, "claims of nano")
    readme.write(path)
    assert f"[nano]({link}06_figures/claims.md)" in path.read_text() and readme.is_current(path)


def test_table1_holds_the_tables_numbers(tmp_path, drawn, table1):
    path = marked(tmp_path, "table1 of nano")
    readme.write(path)
    text = path.read_text()
    row = table1.set_index("arm").loc["dereason"]
    assert f"{row['Avg.']:.1f} [{row['Avg. low']:.1f}, {row['Avg. high']:.1f}]" in text
    assert "**Profile `nano`: Table 1" in text and "left no manifests" in text
    path.write_text(text.replace(f"{row['Avg.']:.1f} [", f"{row['Avg.'] + 1:.1f} ["))
    assert not readme.is_current(path)


def test_the_readme_says_whether_the_reward_rose(tmp_path):
    path = tmp_path / "training_slopes.csv"
    assert readme.learning_line(path) == []
    path.write_text(
        "arm,seed,curve,slope,low,high,p,steps,first_quarter,last_quarter\n"
        "rl_only,0,reward,0.00183,-0.0001,0.0036,0.04,24,0.0026,0.0364\n"
        "rl_only,0,entropy,-0.1,-0.2,0.1,0.4,24,2.0,1.0\n"
    )
    [line] = readme.learning_line(path)
    assert line.endswith(
        ": RL only 0.003 to 0.036 (slope +0.0018 per step, 95% interval -0.0001 to +0.0036)."
    )


def test_the_training_reward_of_several_seeds_is_one_line(tmp_path):
    path = tmp_path / "training_slopes.csv"
    path.write_text(
        "arm,seed,curve,slope,low,high,p,steps,first_quarter,last_quarter\n"
        "rl_only,0,reward,0.002,0.001,0.003,0.01,24,0.1,0.3\n"
        "rl_only,1,reward,0.001,-0.001,0.003,0.3,24,0.2,0.2\n"
    )
    [line] = readme.learning_line(path)
    assert line.endswith(
        ": RL only 0.150 to 0.250 (slope +0.0015 per step, its 95% interval above 0 in 1 of 2 seeds)."
    )
    assert readme.learning_line(path, only=["dereason"]) == []


def test_the_ledger_sets_profiles_side_by_side(drawn):
    text = readme.ledger("nano", "cpu")
    told = "profile `nano`: none supported, 1 contradicted (C5), 1 undecided, none not testable here."
    assert told in text and "profile `cpu`: none supported, none contradicted, 2 undecided" in text
    [row] = [line for line in text.splitlines() if line.startswith("| C5: It is better")]
    assert row.index("**contradicted**<br>Avg.") < row.index("| undecided<br>Avg.")


def test_the_readme_command(tmp_path, drawn, capsys):
    path = marked(tmp_path, "claims of nano")
    assert readme.main([str(path), "--check"]) == 2 and "not what the results" in capsys.readouterr().err
    assert readme.main([str(path)]) == 0 and readme.main([str(path), "--check"]) == 0
    (drawn / "claims.csv").unlink()
    assert readme.main([str(path)]) == 2 and "run 06_figures" in capsys.readouterr().err
    path.write_text("no markers")
    assert readme.main([str(path)]) == 2 and "holds no line such as" in capsys.readouterr().err


def test_findings_name_seeds_and_decided_claims(drawn):
    text = readme.findings("nano")
    begin = "- Training seeds, of 20 in the profile: 1 for 5 arms. The study is under way, and its verdicts are interim.\n"
    assert text.startswith(begin)
    assert "1 for 5 arms.\n" in readme.findings("cpu")
    assert "Claims decided: C5 contradicted (Avg. -2 points); so." in text
    assert "Claims decided: none." in readme.findings("cpu")


def test_what_the_paper_lacks_is_named_where_it_stays_apart(drawn):
    assert "that the paper lacks" not in readme.findings("nano")
    row = {"a": "dereason", "b": "reversed", "difference": -4.0, "low": -7.0, "high": -1.0}
    rows = [
        row | {"scope": "Avg. general", "p_holm": 0.016},
        row | {"scope": "Avg. mathematics", "p_holm": 0.2},
    ]
    pd.DataFrame(rows).to_csv(drawn / "open.csv", index=False)
    [line] = [line for line in readme.findings("nano").splitlines() if "that the paper lacks" in line]
    named = "SFT on easy + RL on hard minus SFT on hard + RL on easy -4.0 [-7.0, -1.0] (Avg. general, Holm's p = 0.016)."
    assert line.startswith("- Of 2 comparisons ") and line.endswith(f"1 stays apart: {named}")
    pd.DataFrame(rows[1:]).to_csv(drawn / "open.csv", index=False)
    assert "open.md)), none stay apart." in readme.findings("nano")


def test_pairs_that_stay_apart_are_named_where_they_are_few(drawn, monkeypatch):
    assert "No pair of trained arms has the 3 training seeds" in readme.findings("nano")
    table = pd.read_csv(drawn / "effects.csv").assign(p_holm=1.0)
    table.to_csv(drawn / "effects.csv", index=False)
    said = "Of 6 pairs of trained arms with at least 3 training seeds none stay apart"
    assert said in readme.findings("nano")
    table.loc[(table["a"] == "dereason") & (table["b"] == "rl_only"), "p_holm"] = 0.01
    table.to_csv(drawn / "effects.csv", index=False)
    [line] = [line for line in readme.findings("nano").splitlines() if " 1 stays apart" in line]
    assert ": SFT on easy + RL on hard minus RL only " in line
    monkeypatch.setattr(readme, "MOST_NAMED", 0)
    assert "SFT on easy" not in readme.findings("nano") and "effects.md" in readme.findings("nano")


def test_the_headline_is_how_the_report_begins(tmp_path, drawn):
    path = marked(tmp_path, "headline of nano, cpu")
    readme.write(path)
    assert report.in_short("nano", "cpu") in path.read_text()


def test_effects_show_dereason_beside_every_other_trained_arm(drawn):
    text = readme.effects("nano")
    table = pd.read_csv(drawn / "effects.csv").query("scope == 'Avg. general'")
    [row] = table[(table["a"] == "dereason") & (table["b"] == "sft_only")].itertuples()
    [shown] = [line for line in text.splitlines() if line.startswith("| SFT only ")]
    assert f"{row.difference:+.1f} [{row.low:+.1f}, {row.high:+.1f}]" in shown
    assert [line.split("|")[1].strip() for line in text.splitlines()][2:] == [
        "RL only",
        "SFT only",
        "SFT then random RL",
    ]
    turned = table.assign(
        a=table["b"], b=table["a"], difference=-table["difference"], low=-table["high"], high=-table["low"]
    )
    turned.to_csv(drawn / "effects.csv", index=False)
    assert readme.effects("nano") == text


def test_steps_show_dereason_beside_every_other_trained_arm_at_each_number_of_steps(drawn):
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in readme.steps("nano").splitlines()]
    table = pd.read_csv(drawn / "figure14.csv")
    assert rows[0][1:] == [f"{steps} step{'s' * (steps > 1)}" for steps in sorted(set(table["steps"]))]
    assert [row[0] for row in rows[2:]] == ["RL only", "SFT only", "SFT then random RL"]
    [cell] = table.query("arm == 'sft_only' and steps == 3").itertuples()
    assert rows[3][3] == f"{cell.difference:+.1f} [{cell.low:+.1f}, {cell.high:+.1f}]"


@pytest.mark.parametrize(
    ("begin", "measure", "column"),
    [
        ("| GRPO step of 64 rollouts", "step", "with_all_groups_least"),
        ("| the same, groups without variance skipped", "step", "ours_is_least"),
        ("| SFT |", "sft", "ours_is_least"),
        ("| evaluation |", "evaluation", "ours_is_least"),
        ("| rating |", "rating", "ours_is_least"),
    ],
)
def test_the_readmes_speeds_are_those_of_the_bench(begin, measure, column):
    text = (paths.REPO / "README.md").read_text(encoding="utf-8")
    text = text[text.index("| | plain TRL in float32 |") :]
    line = next(line for line in text.splitlines() if line.startswith(begin))
    bench = pd.read_csv(paths.committed() / "bench" / "summary.csv").set_index(["measure", "variant"])
    shown = [float(number) for number in re.findall(r"(\d+\.\d)\D", line)]
    ratios = [bench.loc[(measure, variant), column] for variant in ("trl_float32", "trl_bfloat16")]
    assert shown == [round(ratio, 1) for ratio in ratios]


def test_the_readmes_million_problems_are_those_of_the_bench():
    text = (paths.REPO / "README.md").read_text(encoding="utf-8")
    table = pd.read_csv(paths.committed() / "bench" / "million.csv")
    most = table[table["problems"] == 1_000_000].set_index("stage")
    said = [
        f"{most.loc[stage, 'seconds']:.0f} s and {most.loc[stage, 'peak_mb'] / 1000:.1f} GB"
        for stage in ("02_split", "06_figures")
    ]
    assert f"02 took {said[0]} for a million problems with ready answers, 06 {said[1]}" in text
