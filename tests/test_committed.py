"""What is committed agrees with itself: README, tables, per-item files, and the checker of today."""

import re

import pandas as pd
import pytest

from dereason_utils import (
    comparisons,
    disk,
    figure_data,
    manifest,
    paths,
    profiles,
    readme,
    report,
    results,
    tables,
    verdicts,
)
from dereason_utils.verify import extract_answer

COMMITTED = paths.committed()
DRAWN = [name for name in profiles.names() if (COMMITTED / name / "06_figures" / "manifest.json").exists()]
needs_results = pytest.mark.skipif(
    "cpu" not in DRAWN, reason="results/cpu is made by `make reproduce`, that of other profiles with PROFILE"
)


@pytest.fixture(scope="module", params=DRAWN)
def read(request):
    made = made_of(request.param)
    return results.load(request.param, made["arms"], made["seeds"], made["other_seeds"])


def made_of(profile):
    return manifest.load(COMMITTED / profile / "06_figures" / "manifest.json").parameters


@needs_results
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("table1", lambda read: tables.main_table(read, "table1")),
        ("table2", lambda read: tables.main_table(read, "table2")),
        ("differences", comparisons.differences),
        ("effects", comparisons.effects),
        ("effects_on_these_families", comparisons.effects_on_these_families),
        ("side_by_side", comparisons.side_by_side),
        ("variances", tables.variances),
        ("scorings", tables.scorings),
        ("pass_at_k", tables.pass_and_majority),
        ("training_slopes", tables.training_slopes),
        ("by_subject", lambda read: tables.by_group(read, "subject")),
        ("by_steps", lambda read: tables.by_group(read, "steps")),
        ("figure1", figure_data.training_size),
        ("figure2", figure_data.subject_mix),
        ("figure3", lambda read: figure_data.training_curve(read, "reward")),
        ("figure3_scores", lambda read: figure_data.by_score(read, "reward")),
        ("figure4", lambda read: figure_data.training_curve(read, "response_length")),
        ("figure4_scores", lambda read: figure_data.by_score(read, "tokens")),
        ("figure5", lambda read: figure_data.training_curve(read, "entropy")),
        ("figure7", figure_data.accuracy_by_steps),
        ("figure8", figure_data.sft_curve),
        ("figure9", lambda read: figure_data.training_curve(read, "informative_share")),
        ("figure11", figure_data.gains_by_steps),
        ("figure12", figure_data.pass_at_k_around_rl),
        ("figure13", figure_data.cost),
        ("figure14", figure_data.split_by_steps),
    ],
)
def test_every_committed_table_is_what_the_results_give(read, name, make):
    made = make(read).reset_index(drop=True)
    shown = pd.read_csv(COMMITTED / read.profile / "06_figures" / f"{name}.csv")
    pd.testing.assert_frame_equal(shown, made, check_dtype=False, atol=0.011)


@needs_results
def test_the_committed_ledger_is_what_the_results_give(read):
    ledger, parts = verdicts.assess(read, profiles.load(read.profile, made_of(read.profile)))
    for name, table in (("claims", ledger), ("claim_parts", parts)):
        shown = pd.read_csv(
            COMMITTED / read.profile / "06_figures" / f"{name}.csv", dtype={"seeds needed": str}
        )
        pd.testing.assert_frame_equal(shown, table, check_dtype=False, atol=1e-3)


@needs_results
def test_a_committed_report_is_what_the_tables_give():
    path = paths.REPO / "REPORT.md"
    if not path.is_file():
        pytest.skip("REPORT.md is made by `python -m dereason_utils.report REPORT.md`")
    named = [name for name in profiles.names() if f"## Profile `{name}`" in path.read_text(encoding="utf-8")]
    named.sort(key=lambda name: path.read_text(encoding="utf-8").index(f"## Profile `{name}`"))
    assert report.text(named) == path.read_text(encoding="utf-8")


@needs_results
@pytest.mark.parametrize(
    ("name", "part"), [("README.md", "headline of nano, "), ("results/README.md", "table1 of cpu:")]
)
def test_the_readmes_show_what_the_tables_hold(name, part):
    path = paths.REPO / name
    assert f"<!-- {part}" in path.read_text(encoding="utf-8")
    assert readme.is_current(path)


def anchors(text):
    """What the headings of a Markdown text are linked by."""
    titles = re.findall(r"(?m)^#+ (.+)$", text)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "REPORT.md",
        "LOG.md",
        "CHANGELOG.md",
        "results/README.md",
        "dereason_utils/profiles/README.md",
    ],
)
def test_links_lead_somewhere(name):
    path = paths.REPO / name
    text = path.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), f"{name} links to {link}"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{name} links to {link}"


@needs_results
@pytest.mark.parametrize("profile", DRAWN)
def test_committed_tables_hold_what_the_item_files_hold(profile):
    seeds = [f"seed{seed}" for seed in made_of(profile)["seeds"]]
    for name, table in (("table1", "general"), ("table2", "mathematics")):
        shown = pd.read_csv(COMMITTED / profile / "06_figures" / f"{name}.csv").set_index("arm")
        for arm in sorted((COMMITTED / profile / "05_eval").iterdir()):
            files = [arm / seed / "items.parquet" for seed in seeds]
            rows = pd.concat([pd.read_parquet(file) for file in files if file.exists()])
            for benchmark, part in rows[rows["table"] == table].groupby("benchmark"):
                assert shown.loc[arm.name, benchmark] == pytest.approx(
                    100 * part["correct"].mean(), abs=0.006
                )


@needs_results
@pytest.mark.parametrize("profile", DRAWN)
def test_committed_files_are_those_of_their_manifests(profile):
    for path in sorted((COMMITTED / profile).rglob("manifest.json")):
        step = manifest.load(path)
        for name, recorded in step.outputs.items():
            file = path.parent / name
            if file.is_file() and name != "problems.parquet":  # models and the corpus are not committed
                assert disk.sha256_file(file) == recorded.sha256, file


@needs_results
@pytest.mark.parametrize("profile", DRAWN)
def test_todays_checker_extracts_what_the_committed_rows_say(profile):
    for path in sorted((COMMITTED / profile / "05_eval").glob("*/seed0/items.parquet")):
        rows = pd.read_parquet(path, columns=["completion", "extracted"])
        for completion, extracted in zip(rows["completion"], rows["extracted"], strict=True):
            assert extract_answer(completion)[0] == (None if pd.isna(extracted) else extracted)
