"""The committed comparison with lm-evaluation-harness (tests/harness_agreement.py makes it)."""

import json

import pandas as pd
import pytest

from dereason_utils import paths
from dereason_utils.hub_benchmarks import lettered
from dereason_utils.verify import verify

FOLDER = paths.committed() / "agreement"
SHARED = paths.REPO.parent / "shared" / "data"
ITEMS = pd.read_csv(FOLDER / "harness_items.csv", dtype=str, keep_default_na=False)
SUMMARY = pd.read_csv(FOLDER / "harness_summary.csv").set_index("benchmark")


def test_the_verdicts_agree_on_98_percent_and_each_difference_is_explained():
    assert SUMMARY.loc["all", "share"] >= 0.98 and SUMMARY.loc["all", "items"] == 200
    assert ((ITEMS["correct"] == ITEMS["harness"]) == (ITEMS["agree"] == "True")).all()
    assert ((ITEMS["why"] == "") == (ITEMS["agree"] == "True")).all()


def test_the_summary_counts_the_items():
    for name, part in ITEMS.groupby("benchmark"):
        row = SUMMARY.loc[name]
        assert row["items"] == len(part) and row["agree"] == (part["agree"] == "True").sum()
        read = part[(part["extracted"] != "") | (part["harness_extracted"] != "[invalid]")]
        assert row["read_by_either"] == len(read)
        assert row["right_ours"] == (part["correct"] == "True").sum()
        assert row["right_harness"] == (part["harness"] == "True").sum()


def agrees_with_todays_checker(row, question, kind):
    verdict = verify(question, row.gold, f"The answer is {row.extracted}", kind).verdict
    return (verdict == "correct") == (row.correct == "True")


def test_todays_checker_says_the_same_of_the_extracted_numbers():
    numbers = ITEMS[(ITEMS["benchmark"] == "gsm8k") & (ITEMS["extracted"] != "")]
    assert len(numbers) > 20
    assert all(agrees_with_todays_checker(row, "", "number") for row in numbers.itertuples())


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data with mmlu_stem.jsonl")
def test_todays_checker_says_the_same_of_the_extracted_choices():
    rows = [json.loads(line) for line in (SHARED / "mmlu_stem.jsonl").read_text().splitlines()]
    choices = ITEMS[(ITEMS["benchmark"] == "mmlu_stem") & (ITEMS["extracted"] != "")]
    for row in choices.itertuples():
        asked = rows[int(row.item_id.rpartition("-")[2])]
        assert agrees_with_todays_checker(row, lettered(asked["question"], asked["choices"]), "choice"), row
