"""The judge's rubric, its replies and its agreement with the truth."""

import numpy as np
import pandas as pd
import pytest

from dereason_utils import judge, tiny
from dereason_utils.generate import Completion
from dereason_utils.schema import Problem


@pytest.mark.parametrize(
    ("steps", "score"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (8, 4), (9, 5), (12, 5)]
)
def test_rubric_follows_the_papers_scale(steps, score):
    assert judge.rubric(steps) == score


def test_the_reference_has_no_score_where_the_steps_are_unknown():
    scores = judge.reference_scores(pd.Series([0, 1, 5, 9]))
    assert scores.tolist() == [pd.NA, 1, 4, 5] and scores.dtype == "Int64"
    assert judge.reference_scores(pd.Series([0, 0])).isna().all()


@pytest.mark.parametrize(("threshold", "steps"), [(1, 2), (2, 3), (3, 5), (4, 9)])
def test_first_hard_steps(threshold, steps):
    assert judge.first_hard_steps(threshold) == steps


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("It takes 4 steps.\nReasoningRequired: 3", 3),
        ("ReasoningRequired: 1\nOn reflection:\nReasoningRequired: 5", 5),
        ("**ReasoningRequired: 2**", 2),
        ("ReasoningRequired: <4>", 4),
        ("ReasoningRequired: 7", None),
        ("ReasoningRequired: 35", None),
        ("ReasoningRequired: 3 or 4", None),
        ("I would say 3.", None),
        ("", None),
    ],
)
def test_parse_rating(reply, rating):
    assert judge.parse_rating(reply) == rating


def test_calibration_reply_parses_to_the_rubric():
    for steps in range(1, 11):
        problem = Problem(
            id="x", question="q", answer="1", answer_type="number", subject="s", family="f", steps=steps
        )
        assert judge.parse_rating(judge.calibration_reply(problem)) == judge.rubric(steps)


@pytest.mark.parametrize(
    ("reply", "place"),
    [("It takes 2 steps.\nReasoningRequired: 3", -1), ("ReasoningRequired: 3\nor 4", None), ("None.", None)],
)
def test_the_ratings_logits_are_those_where_it_was_drawn(reply, place):
    tokenizer = tiny._tokenizer(["It takes 2 steps. ReasoningRequired: 3"] * 4)
    digits = judge._digits(tokenizer)
    tokens = tokenizer(reply)["input_ids"]
    watched = tuple([float(i)] * 5 for i in range(len(tokens)))
    found = judge.logits_of_rating(Completion(tokens, True, 0.1, watched=watched), tokenizer, digits)
    assert found == (watched[place] if place else None)


def test_agreement_sees_a_perfect_judge_and_a_blind_one():
    steps = np.tile(np.arange(1, 9), 25)
    rng = np.random.default_rng(0)
    scores = pd.DataFrame(
        {
            "steps": steps,
            "subject": rng.choice(["physics", "biology"], len(steps)),
            "rating": pd.array([judge.rubric(s) for s in steps], dtype="Int64"),
            "expected_rating": rng.normal(size=len(steps)),
        }
    )
    table = judge.agreement(scores, ["x" * int(s) for s in rng.permutation(steps)]).set_index("predictor")
    assert table.loc["judge: rating", "spearman"] > 0.9
    assert table.loc["judge: expected rating", "low"] < 0 < table.loc["judge: expected rating", "high"]
    assert abs(table.loc["baseline: question length", "spearman"]) < 0.3


def test_confusion_counts_unparsed_replies():
    scores = pd.DataFrame({"steps": [1, 1, 2], "rating": pd.array([1, None, 2], dtype="Int64")})
    table = judge.confusion(scores)
    assert table.loc[1, "unparsed"] == 1 and table.loc[2, "2"] == 1 and table.to_numpy().sum() == 3
