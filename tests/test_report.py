"""The report holds what the tables hold, names every departure, and its page sorts and fits."""

import shutil

import pandas as pd
import pytest

from dereason_utils import claims, comparisons, manifest, paths, profiles, report

COMMITTED = paths.committed() / "cpu" / "06_figures"
needs_results = pytest.mark.skipif(
    not (COMMITTED / "claims.csv").exists(), reason="results/cpu is made by `make reproduce`"
)


def test_every_value_of_the_paper_that_a_profile_changes_is_a_departure_with_a_reason():
    table = report.departures(profiles.load("cpu", {"seeds": [0]})).set_index("setting")
    assert table.loc["sft.batch_size"].tolist() == ["128", "8", report.WHY["sft.batch_size"]]
    assert table.loc["grpo.temperature", "paper"] == "GR: 0.7"
    assert "split.threshold" not in table.index  # as in the paper
    assert table.loc["grpo.clip_high", "paper"] == "silent"
    assert table.loc["score", "ours"].startswith("the true number of steps")
    assert "trainings of each arm" not in table.index  # one, as in the paper
    more = report.departures(profiles.load("cpu", {"seeds": [0, 1, 2]})).set_index("setting")
    assert more.loc["trainings of each arm", ["paper", "ours"]].tolist() == ["1", "3"]
    for name in profiles.names():
        changed = report.departures(profiles.load(name)).set_index("setting")
        given = changed[changed.index.isin(report.WHY)]
        assert (given["why"] != "").all(), given


def test_comments_of_a_profile_are_found_by_setting():
    said = report.comments("cpu")
    assert said["sft.batch_size"] == "the paper: 128" and said["judge.via"].startswith("it is tuned")


def test_page_has_sortable_tables_and_fits_a_phone():
    page = report.page("# Title\n\n| a | b |\n|---|---|\n| 2 | x |\n", "Title")
    assert '<div class="wide"><table>' in page and "addEventListener" in page and "width=device-width" in page


@needs_results
def test_the_report_of_the_committed_results(tmp_path, capsys):
    path = tmp_path / "REPORT.md"
    assert report.main([str(path), "--check"]) == 2 and "without --check" in capsys.readouterr().err
    assert report.main([str(path)]) == 0 and report.main([str(path), "--check"]) == 0
    text = path.read_text()
    assert "$" not in text.replace("$\\", "") and all(claim.id in text for claim in claims.CLAIMS)
    for line in (COMMITTED / "table1.md").read_text().splitlines():
        assert line in text


@needs_results
def test_two_profiles_stand_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path))
    for name in ("cpu", "nano"):
        shutil.copytree(COMMITTED, tmp_path / name / "06_figures")
    ledger = tmp_path / "nano" / "06_figures" / "claims.csv"
    ledger.write_text(ledger.read_text().replace(",undecided,", ",contradicted,"))
    text = report.text(["cpu", "nano"])
    assert "## The verdicts side by side" in text and "## Profile `nano`" in text
    assert "| undecided" in text and "contradicted" in text


@needs_results
def test_the_report_begins_with_the_split_beside_the_papers_arms():
    text = report.text(["cpu"])
    part = text[text.index("## In short") : text.index("## The method")]
    rows = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in part.splitlines()
        if line.startswith("|")
    }
    named = dict(zip(rows["SFT on easy + RL on hard minus"], rows["`cpu`, 1 seed"], strict=True))
    effects = pd.read_csv(COMMITTED / "effects.csv").query("scope == 'Avg. general' and a == 'dereason'")
    [gain] = effects[effects["b"] == "sft_only"].itertuples()
    assert named["SFT only"] == f"{gain.difference:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"
    assert named["SFT then selected SFT"] == "", "an arm that cpu does not run"
    assert "SFT on hard + RL on easy" not in named
    both = report.in_short("study", "cpu")
    reverse = comparisons.of_the_split(
        pd.read_csv(COMMITTED.parents[1] / "study/06_figures/effects.csv")
    ).loc["reversed"]
    said = "{:+.1f} [{:+.1f}, {:+.1f}] ({} seeds)".format(*reverse[["difference", "low", "high", "seeds"]])
    assert said in both and "the reverse split, the last column" in both
    paper = dict(
        zip(rows["SFT on easy + RL on hard minus"], rows["the paper, WebInstruct-verified"], strict=True)
    )
    assert paper["SFT only"] == "+2.0" and paper["SFT then random RL"] == "+0.9", "43.8 - 41.8, 43.8 - 42.9"
    assert "- Of the paper's 17 claims, at the scale of profile `cpu`" in part


@needs_results
def test_the_report_tells_trainings_that_two_profiles_share():
    told = report._shared("nano_sweeps", ["study", "nano"])
    assert told.startswith(
        "The very trainings of `nano`, so no second sample, are, by seed: `base` (0); `dereason` (0 to 4);"
    )
    assert report._shared("nano", ["study"]) == ""


@needs_results
def test_a_claim_with_an_untested_part_is_told_to_need_a_test_and_no_seeds():
    ledger = pd.DataFrame(
        {"id": ["C5", "C12"], "verdict": [claims.UNDECIDED] * 2, "untested": ["–", "the plateau"]}
    )
    parts = pd.read_csv(COMMITTED.parents[1] / "nano/06_figures/claim_parts.csv")
    text = report._mind(ledger, parts)
    assert "| C5 " in text and "| C12 " not in text
    assert text.endswith("- C12 cannot be supported here whatever the seeds: not tested is the plateau.")


@needs_results
def test_departures_of_several_profiles_are_one_table_that_names_them(tmp_path, monkeypatch):
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path))
    for name in ("cpu", "nano"):
        shutil.copytree(COMMITTED, tmp_path / name / "06_figures")
    text = report.text(["cpu", "nano"])
    assert "Generated from the results of profiles `cpu`, `nano` by" in text
    departs, silent = (part for part in text.split("## ") if "| setting" in part)
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in (departs + silent).splitlines()
        if "|" in line
    ]
    assert [row[2:] for row in rows if row[0] == "sft.batch_size"] == [
        ["8", report.WHY["sft.batch_size"], "`cpu`"],
        ["16", report.WHY["sft.batch_size"], "`nano`"],
    ]
    assert [row[-1] for row in rows if row[0] == "reward"] == ["all"]
    assert "| grpo.clip_low" in silent and "| grpo.clip_low" not in departs
    alone = report.text(["cpu"])
    assert "| profiles" not in alone and "of profile `cpu` by" in alone


@needs_results
def test_of_the_pairs_the_report_shows_those_with_the_split_by_difficulty():
    text = report.text(["cpu"])
    part = text[text.index("**The difficulty split minus each other arm**") :].split("**")[2]
    table = pd.read_csv(COMMITTED / "effects.csv")
    pairs = [line for line in part.splitlines() if line.startswith("| SFT on easy + RL on hard")]
    assert len(pairs) == len(table[(table["a"] == "dereason") | (table["b"] == "dereason")])
    assert "[All pairs](results/cpu/06_figures/effects.md)" in part


@needs_results
def test_the_departures_are_those_of_what_ran(tmp_path, monkeypatch):
    """After a run of a preset, or with overrides, of which the figures' own command knows nothing."""
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path))
    shutil.copytree(COMMITTED, tmp_path / "single_gpu" / "06_figures")
    corpus = profiles.load("cpu").corpus.model_dump()
    overrides = {"preset": "80gb", "corpus": corpus, "teacher.via": "http://inside:8000/v1"}
    other = profiles.load("single_gpu", overrides)
    for stage, arm, seed in (("01_score", None, None), ("02_split", None, 0), ("04_grpo", "dereason", 0)):
        settings = profiles.stage_settings(other, stage)
        manifest.finish(manifest.begin(stage, "single_gpu", arm, seed, parameters=settings))
    shown = report.departures(report.ran("single_gpu")).set_index("setting")["ours"]
    assert "grpo.max_completion" not in shown.index  # 8192, as in the paper; the profile itself has 3072
    assert shown["grpo.micro_batch_size"] == "4" and shown["model.load_in_4bit"] == "False"
    assert shown["corpus.name"] == "mini_stem" and shown["corpus.max_steps"] == str(corpus["max_steps"])
    assert "| model.load_in_4bit" in report.text(["single_gpu"]) and "http://inside" not in report.text(
        ["single_gpu"]
    )


@pytest.mark.fault
def test_missing_results_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path))
    assert report.main([str(tmp_path / "REPORT.md")]) == 2
    assert "run 06_figures for this profile first" in capsys.readouterr().err
