"""The README shows what the tables hold, and its command notices where it does not."""

import re

import pandas as pd
import pytest
import synthetic_results

from dereason_utils import comparisons, paths, readme, results, tables
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


def marked(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n\n{readme.BEGIN}\nold\n{readme.END}\n\nafter\n")
    return path


def test_the_readme_shows_table1(tmp_path, table1):
    csv, path = tmp_path / "results" / "06_figures" / "table1.csv", marked(tmp_path)
    csv.parent.mkdir(parents=True)
    table1.to_csv(csv, index=False)
    assert not readme.is_current(path, [csv])
    readme.write(path, [csv])
    text = path.read_text()
    assert text.startswith("# Title\n\n") and text.endswith("\n\nafter\n") and "old" not in text
    assert readme.is_current(path, [csv])
    row = table1.set_index("arm").loc["dereason"]
    assert f"{row['Avg.']:.1f} [{row['Avg. low']:.1f}, {row['Avg. high']:.1f}]" in text
    path.write_text(text.replace(f"{row['Avg.']:.1f} [", f"{row['Avg.'] + 1:.1f} ["))
    assert not readme.is_current(path, [csv])


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


def test_the_readme_shows_the_ledger_where_it_has_its_markers(tmp_path, table1):
    csv, path = tmp_path / "results" / "cpu" / "06_figures" / "table1.csv", marked(tmp_path)
    csv.parent.mkdir(parents=True)
    table1.to_csv(csv, index=False)
    path.write_text(path.read_text() + f"{readme.CLAIMS_BEGIN}\nstale\n{readme.CLAIMS_END}\nend\n")
    with pytest.raises(InputError, match="claims.csv is missing"):
        readme.write(path, [csv])
    ledger = {
        "id": ["C5"],
        "claim": ["It is better"],
        "ours": ["+1 points"],
        "verdict": ["undecided"],
        "why": ["one seed"],
    }
    pd.DataFrame(ledger).to_csv(csv.with_name("claims.csv"), index=False)
    assert not readme.is_current(path, [csv])
    readme.write(path, [csv])
    text = path.read_text()
    assert readme.is_current(path, [csv]) and "stale" not in text and text.endswith("\nend\n")
    assert "C5: It is better" in text and "1 undecided" in text
    path.write_text(text.replace("**undecided**", "**supported**"))
    assert not readme.is_current(path, [csv])


def test_the_readme_sets_profiles_side_by_side(tmp_path, table1):
    path, csvs = marked(tmp_path), []
    path.write_text(path.read_text() + f"{readme.CLAIMS_BEGIN}\nstale\n{readme.CLAIMS_END}\nend\n")
    for profile, verdict in (("nano", "supported"), ("cpu", "undecided")):
        csvs.append(tmp_path / "results" / profile / "06_figures" / "table1.csv")
        csvs[-1].parent.mkdir(parents=True)
        table1.to_csv(csvs[-1], index=False)
        ledger = pd.DataFrame(
            [{"id": "C5", "claim": "It is better", "ours": "+1 points", "verdict": verdict, "why": "so"}]
        )
        ledger.to_csv(csvs[-1].with_name("claims.csv"), index=False)
    readme.write(path, csvs)
    text = path.read_text()
    assert text.index("**Profile `nano`: Table 1") < text.index("**Profile `cpu`: Table 1")
    [row] = [line for line in text.splitlines() if line.startswith("| C5")]
    assert row.index("**supported**: so<br>+1") < row.index("**undecided**: so<br>+1")
    assert readme.is_current(path, csvs) and not readme.is_current(path, csvs[::-1])


def test_the_readme_command(tmp_path, folder, table1, capsys):
    path = marked(tmp_path)
    assert readme.main([str(path)]) == 2 and "run 06_figures" in capsys.readouterr().err
    csv = paths.step_dir("cpu", "06_figures") / "table1.csv"
    csv.parent.mkdir(exist_ok=True)
    table1.to_csv(csv, index=False)
    assert readme.main([str(path), "--check"]) == 2 and "differs" in capsys.readouterr().err
    assert readme.main([str(path)]) == 0 and readme.main([str(path), "--check"]) == 0
    (tmp_path / "bare.md").write_text("no markers")
    assert readme.main([str(tmp_path / "bare.md")]) == 2 and "must hold the line" in capsys.readouterr().err


@pytest.fixture
def drawn(tmp_path, monkeypatch, read, table1):
    """06_figures of a profile, as far as its findings need it."""
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path / "results"))
    where = paths.step_dir("nano", "06_figures")
    where.mkdir(parents=True)
    effects = comparisons.effects(read)
    narrow = comparisons.effects_on_these_families(read)
    ledger = {"id": ["C5", "C6"], "verdict": ["contradicted", "undecided"], "ours": ["Avg. -2 points", "0"]}
    made = {"table1": table1, "effects": effects, "effects_on_these_families": narrow, "claims": ledger}
    for name, table in made.items():
        pd.DataFrame(table).to_csv(where / f"{name}.csv", index=False)
    return where


def test_findings_name_seeds_decided_claims_and_dereason_beside_every_other_arm(drawn):
    text = readme.findings(drawn, registered=20)
    assert text.startswith("- Training seeds, of 20 in the profile: 1 for 5 arms.")
    assert "Claims decided: C5 contradicted (Avg. -2 points)." in text
    table = pd.read_csv(drawn / "effects.csv").query("scope == 'Avg. general'")
    [row] = table[(table["a"] == "dereason") & (table["b"] == "sft_only")].itertuples()
    [shown] = [line for line in text.splitlines() if line.startswith("| SFT only ")]
    assert f"{row.difference:+.1f} [{row.low:+.1f}, {row.high:+.1f}]" in shown
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    assert rows[2:] == ["RL only", "SFT only", "SFT then random RL"]


def test_an_effect_is_turned_when_dereason_comes_second(drawn):
    before = readme.findings(drawn, 1)
    table = pd.read_csv(drawn / "effects.csv")
    turned = table.assign(
        a=table["b"], b=table["a"], difference=-table["difference"], low=-table["high"], high=-table["low"]
    )
    turned.to_csv(drawn / "effects.csv", index=False)
    assert readme.findings(drawn, 1).split("\n\n")[1] == before.split("\n\n")[1]


def test_pairs_that_stay_apart_are_named(drawn):
    table = pd.read_csv(drawn / "effects.csv").assign(p_holm=1.0)
    table.to_csv(drawn / "effects.csv", index=False)
    assert "Of 6 pairs of trained arms none stay apart" in readme.findings(drawn, 1)
    table.loc[(table["a"] == "dereason") & (table["b"] == "rl_only"), "p_holm"] = 0.01
    table.to_csv(drawn / "effects.csv", index=False)
    assert (
        "1 stays apart on the general average after Holm's correction: SFT on easy + RL on hard minus RL only "
        in readme.findings(drawn, 1)
    )


def test_findings_stand_between_their_own_markers(drawn, tmp_path):
    begin, end = readme.FINDINGS_BEGIN.format("nano"), readme.FINDINGS_END.format("nano")
    path, csv = marked(tmp_path), drawn / "table1.csv"
    path.write_text(path.read_text() + f"{begin}\nstale\n{end}\nlast\n")
    assert not readme.is_current(path, [csv])
    readme.write(path, [csv])
    text = path.read_text()
    assert readme.is_current(path, [csv]) and "stale" not in text and text.endswith(f"{end}\nlast\n")
    assert readme.findings(drawn, 20) in text
    path.write_text(text.replace(end, ""))
    with pytest.raises(InputError, match="findings of nano:end"):
        readme.write(path, [csv])


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
    bench = pd.read_csv(paths.REPO / "results" / "bench" / "summary.csv").set_index(["measure", "variant"])
    shown = [float(number) for number in re.findall(r"(\d+\.\d)\D", line)]
    ratios = [bench.loc[(measure, variant), column] for variant in ("trl_float32", "trl_bfloat16")]
    assert shown == [round(ratio, 1) for ratio in ratios]


def test_the_readmes_million_problems_are_those_of_the_bench():
    text = (paths.REPO / "README.md").read_text(encoding="utf-8")
    table = pd.read_csv(paths.REPO / "results" / "bench" / "million.csv")
    most = table[table["problems"] == 1_000_000].set_index("stage")
    said = [
        f"{most.loc[stage, 'seconds']:.0f} s and {most.loc[stage, 'peak_mb'] / 1000:.1f} GB"
        for stage in ("02_split", "06_figures")
    ]
    assert f"02 took {said[0]} for a million problems with ready answers, 06 {said[1]}" in text
