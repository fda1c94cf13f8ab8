"""The model-based verifier on the rows of an evaluation, with a real (tiny) model and with replies written by hand."""

import pandas as pd
import pytest
import small_policy

from dereason_utils import evaluate, profiles, second_opinion
from dereason_utils.benchmarks import BenchmarkItem
from dereason_utils.generate import Completion
from dereason_utils.schema import Problem

ITEMS = [
    BenchmarkItem(
        "mini_stem easy", "general",
        Problem(id=name, question="How many?", answer=gold, answer_type="number", subject="s", family="f", steps=1),
    )
    for name, gold in (("a", "7"), ("b", "8"))
]  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    texts = {"a": ["\\boxed{7}", "\\boxed{9}"], "b": ["none", "\\boxed{8.0}"]}
    made = [
        evaluate._row(item, i, text, Completion([1], True, 0.1))
        for item in ITEMS
        for i, text in enumerate(texts[item.problem.id])
    ]
    return evaluate.check(pd.DataFrame(made), ITEMS)


def always(reply):
    return lambda prompts: [reply] * len(prompts)


def test_every_extracted_answer_has_both_verdicts(rows):
    opinions = second_opinion.ask(rows, ITEMS, always("They agree.\nFinal Decision: Yes"))
    assert opinions["item_id"].tolist() == ["a", "a", "b"]
    assert opinions["verdict"].tolist() == ["correct", "incorrect", "correct"]
    assert opinions["model"].tolist() == ["correct"] * 3
    table = second_opinion.agreement(opinions)
    assert table.loc["incorrect", "correct"] == 1 and table.loc["correct", "correct"] == 2
    assert table.to_numpy().sum() == 3 and table.shape == (2, 3)
    assert second_opinion.disagreements(opinions)["extracted"].tolist() == ["9"]


def test_a_reply_that_cannot_be_read_is_undecided_and_counted(rows):
    opinions = second_opinion.ask(rows, ITEMS, always("I cannot say"))
    assert second_opinion.agreement(opinions)[second_opinion.UNDECIDED].tolist() == [2, 1]
    assert second_opinion.disagreements(opinions).empty


def test_nothing_extracted_is_an_empty_table(rows):
    opinions = second_opinion.ask(rows[rows["extracted"].isna()], ITEMS, always("no one is asked"))
    assert opinions.empty and second_opinion.agreement(opinions).to_numpy().sum() == 0


def test_a_real_model_answers_every_request(rows, tmp_path):
    folder = small_policy.build(tmp_path / "verifier", chat=True)
    model, tokenizer, settings = second_opinion.load(str(folder), profiles.load("smoke").model)
    assert settings.prompt_style == "chat" and settings.name == str(folder)
    generate = second_opinion.replies(model, tokenizer, settings, max_reply=4)
    opinions = second_opinion.ask(rows, ITEMS, generate)
    assert len(opinions) == 3 and set(opinions["model"]) <= {"correct", "incorrect", "undecided"}
    assert generate(["word " * 2100, "short"])[0] == ""  # never cut: not asked, so undecided


def test_every_profile_says_whether_there_is_one():
    for name in profiles.names():
        assert profiles.load(name).eval.model_verifier is None
    assert profiles.load("smoke", {"eval.model_verifier": "tiny"}).eval.model_verifier == "tiny"
