"""Evaluation: the reward's checker, and summaries that hold what the rows hold."""

import pandas as pd
import pytest
import small_policy

from dereason_utils import corpora, evaluate, models, profiles
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


def test_a_look_at_problems_shows_how_far_it_is(tmp_path, capsys):
    folder = small_policy.build(tmp_path)
    model, tokenizer = models.load_policy(str(folder), small_policy.settings(folder), 0, train=False)
    about = {"steps": 1, "answer": "7", "answer_type": "number"}
    problems = pd.DataFrame([{"id": f"p{i}", "question": f"Is it {i}?", **about} for i in range(3)])
    capsys.readouterr()
    table = evaluate.spot_check(
        model, tokenizer, problems, "plain", copies=2, max_completion=4, temperature=1.0, seed=0
    )
    assert table["id"].tolist() == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert capsys.readouterr().out.startswith("samples [####################] 3/3")


QUESTION = "Which particle of Zyxwv decays?\nA) muon\nB) the tau of Zyxwv\nC) quark\nD) gluon"


def choice(name, **changes):
    problem = Problem(
        id=name, question=QUESTION, answer="B", answer_type="choice", subject=name, family="", steps=0
    )
    return BenchmarkItem("gpqa_diamond", "general", problem, **{"options": 4, **changes})


def judged(item, *texts):
    made = [evaluate._row(item, i, text, Completion([1], True, 0.5)) for i, text in enumerate(texts)]
    return evaluate.check(pd.DataFrame(made), [item])


def test_an_unreadable_choice_is_wrong_and_has_a_guesss_expected_credit():
    table = judged(choice("a"), "\\boxed{B}", "\\boxed{C}", "none", "\\boxed{B} \\boxed{C}")
    assert table["correct"].tolist() == [True, False, False, False]
    assert table["random_credit"].tolist() == [1.0, 0.0, 0.25, 0.25]
    assert judged(choice("a", options=0), "none")["random_credit"].tolist() == [0.0]
    assert table["family"].isna().all()
    summary = evaluate.summarise(table).iloc[0]
    assert summary["pass@1"] == 0.25 and summary["random_credit"] == 0.375


def test_macro_is_the_mean_of_the_subjects():
    three = [judged(choice(name), *texts) for name, texts in (("a", ["\\boxed{B}"] * 3), ("b", ["none"]))]
    summary = evaluate.summarise(pd.concat(three)).iloc[0]
    assert summary["pass@1"] == 0.75 and summary["macro"] == 0.5


def test_of_a_secret_item_only_verdict_letter_and_tokens_remain():
    said = ["I quote Zyxwv \\boxed{the tau of Zyxwv}", "\\boxed{c}", "\\boxed{Zyxwv}", "Zyxwv"]
    item = choice("gpqa_diamond-0123", secret=True)
    table = evaluate.conceal(judged(item, *said), [item])
    assert "Zyxwv" not in table.to_csv()
    assert table["extracted"].tolist()[:3] == ["B", "C", "other"] and pd.isna(table["extracted"][3])
    assert table["correct"].tolist() == [True, False, False, False] and table["parse_failure"].tolist()[3]
    assert table["completion"].isna().all() and table["gold"].isna().all()
    shown = judged(choice("open"), *said)
    pd.testing.assert_frame_equal(evaluate.conceal(shown, [choice("open")]), shown)


def test_each_item_is_asked_as_its_benchmark_says_and_nothing_secret_reaches_the_disk(tmp_path):
    model, tokenizer = small_policy.load(tmp_path / "model")
    items = [
        *(BenchmarkItem("mini_stem easy", "general", PROBLEM.model_copy(update={"id": f"p{i}"}), 2, 0.7) for i in range(3)),
        choice("once"),
        *(choice(f"often{i}", samples=8, temperature=0.7, secret=True) for i in range(3)),
    ]  # fmt: skip
    asked = []

    def quoting(model, tokenizer, prompts, *, copies, temperature, batch_size, **_):
        asked.append((len(prompts), copies, temperature))
        assert len(prompts) * copies <= max(batch_size, copies)
        text = tokenizer(QUESTION)["input_ids"]
        return [[Completion(text, True, 0.1)] * copies for _ in prompts]

    settings = profiles.load("smoke").eval.model_copy(update={"batch_size": 4})
    folder = tmp_path / "checkpoints"
    rows = evaluate.evaluate(model, tokenizer, items, "plain", settings, folder, "eval", sample=quoting)
    assert asked == [(2, 2, 0.7), (1, 2, 0.7), (1, 1, 0.0), *[(1, 8, 0.7)] * 3]
    assert rows.groupby("item_id", sort=False).size().tolist() == [2, 2, 2, 1, 8, 8, 8]
    assert rows["item_id"].unique().tolist() == [item.problem.id for item in items]
    kept = pd.concat([pd.read_parquet(file) for file in folder.glob("*.parquet")])
    assert kept["completion"].str.contains("Zyxwv").sum() == 3 * 2 + 1
    assert "Zyxwv" not in kept[kept["item_id"].str.startswith("often")].to_csv()
    again = evaluate.evaluate(model, tokenizer, items, "plain", settings, folder, "eval", sample=None)
    pd.testing.assert_frame_equal(again, rows)  # read back: nothing is drawn
    other = settings.model_copy(update={"model_verifier": "another"})  # which is asked when all is drawn
    again = evaluate.evaluate(model, tokenizer, items, "plain", other, folder, "eval", sample=None)
    pd.testing.assert_frame_equal(again, rows)
    model.vllm_engine, drawn = None, len(asked)  # another sampler begins anew
    evaluate.evaluate(model, tokenizer, items, "plain", settings, folder, "eval", sample=quoting)
    assert len(asked) == 2 * drawn


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
