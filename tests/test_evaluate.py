"""Evaluation: the reward's checker, and summaries that hold what the rows hold."""

import pandas as pd
import pytest

from dereason_utils import corpora, evaluate, profiles
from dereason_utils.benchmarks import BenchmarkItem
from dereason_utils.generate import Completion
from dereason_utils.schema import Problem

PROBLEM = Problem(
    id="p", question="How many?", answer="7", answer_type="number", subject="physics", family="f", steps=2
)
ITEM = BenchmarkItem("mini_stem easy", "general", PROBLEM)


def rows(*texts):
    made = [evaluate._row(ITEM, i, text, Completion([1, 2, 3], True, 0.5)) for i, text in enumerate(texts)]
    return evaluate.check(pd.DataFrame(made), [ITEM])


def test_rows_carry_the_checkers_verdict():
    table = rows("\\boxed{7}", "\\boxed{8}", "I do not know")
    assert table["correct"].tolist() == [True, False, False]
    assert table["parse_failure"].tolist() == [False, False, True]
    assert table["extracted"].tolist()[:2] == ["7", "8"]


def test_summary_is_the_mean_of_the_rows():
    summary = evaluate.summarise(rows("\\boxed{7}", "\\boxed{7}", "\\boxed{8}", "none")).iloc[0]
    assert summary["pass@1"] == 0.5 and summary["maj@k"] == 1.0
    assert summary["parse_failures"] == 0.25 and summary["items"] == 1 and summary["samples"] == 4


def test_prospects_count_informative_groups():
    table = pd.DataFrame(
        {
            "id": ["a"] * 4 + ["b"] * 4 + ["c"] * 4,
            "correct": [True] * 4 + [False] * 4 + [True, False, False, False],
            "entropy": [0.5] * 12, "tokens": [10] * 12, "parse_failure": [False] * 12, "ended": [True] * 12,
        }
    )  # fmt: skip
    found = evaluate.prospects(table)
    assert found["pass@1"] == pytest.approx(5 / 12) and found["pass@4"] == pytest.approx(2 / 3)
    assert found["informative groups"] == pytest.approx(1 / 3)


def test_corpus_splits_share_no_question_and_no_id():
    corpus = corpora.load(profiles.load("smoke").corpus)
    assert corpus["id"].is_unique and corpus["question"].is_unique
    assert corpus["split"].value_counts().to_dict() == {"train": 240, "test": 48, "validation": 32}
    assert corpora.problems(corpus.head(3))[0].id == corpus["id"][0]


def test_teacher_without_slips_is_right_and_with_slips_worse_on_long_problems():
    settings = profiles.load("cpu").corpus.model_copy(update={"train_size": 600, "max_steps": 8})
    train = corpora.load(settings).query("split == 'train'")
    assert corpora.teacher_answers(train.head(100), 0.0, 0)["response_correct"].all()
    slipping = corpora.teacher_answers(train, 0.15, 0).groupby("steps")["response_correct"].mean()
    assert slipping.loc[:2].mean() > slipping.loc[7:].mean() + 0.2
