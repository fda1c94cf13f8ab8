"""The stages' own functions with SmolLM2-135M through vLLM's CPU build: 05 evaluates and asks the verifier, 01's judge
rates, the teacher of 02 and 03 answers.
"""

import weakref

import pytest

# This folder is not called vllm: TRL and Unsloth would take it for the package.
pytest.importorskip(
    "vllm", reason="vLLM is not installed: `make test-vllm` runs these in an environment of its own"
)

import unsloth  # noqa: F401 (before transformers)

import pandas as pd  # isort: skip

from dereason_utils import (
    chat,
    evaluate,
    generate,
    mini_stem,
    models,
    profiles,
    raters,
    second_opinion,
    teacher,
    vllm_sampling,
)
from dereason_utils.benchmarks import BenchmarkItem

LENGTH, SHARD = 24, 2
PROBLEMS = mini_stem.generate("train", 3, 3, (1, 2))
ITEMS = [BenchmarkItem("mini_stem easy", "general", problem, 2, 0.7) for problem in PROBLEMS]
SETTINGS = profiles.load(
    "cpu",
    {"hardware.sampler": "vllm", "eval.model_verifier": models.SMOLLM2, "eval.max_completion": LENGTH,
     "eval.batch_size": 4},
)  # fmt: skip
INSTRUCT = {
    "via": "vllm", "name": str(models.fetch_smollm2()), "revision": None, "temperature": 0.0, "top_p": 1.0, "top_k": 0,
    "max_tokens": LENGTH, "max_length": 512, "memory_share": SETTINGS.eval.memory_share, "shard_size": SHARD,
}  # fmt: skip


def test_05_evaluates_with_vllm_and_then_the_verifier_has_its_place(tmp_path, monkeypatch):
    """In the notebook's order: two engines in one process, the first released before the second starts."""
    where = models.locate(SETTINGS.model)
    model, tokenizer = models.load_policy(where, SETTINGS.model, 0, train=False, hardware=SETTINGS.hardware)
    drawn, sample = [], vllm_sampling.sample

    def counted(*arguments, **options):
        drawn.append(options["seed"])
        return sample(*arguments, **options)

    monkeypatch.setattr(vllm_sampling, "sample", counted)
    style, folder = SETTINGS.model.prompt_style, tmp_path / "checkpoints"
    rows = evaluate.evaluate(model, tokenizer, ITEMS, style, SETTINGS.eval, folder, "05", generate.sample)
    assert len(drawn) == 2 and drawn[1] == drawn[0] + 1
    assert rows["item_id"].tolist() == [problem.id for problem in PROBLEMS for _ in range(2)]
    assert rows["tokens"].between(1, LENGTH).all() and rows["completion"].str.len().gt(0).all()
    assert set(rows["verdict"]) <= {"correct", "incorrect"}

    engine = weakref.ref(model.vllm_engine)
    vllm_sampling.release(model)
    del model
    vllm_sampling.free_share()
    assert engine() is None  # so its cache and its weights are free
    monkeypatch.setattr(second_opinion, "MAX_REPLY", LENGTH)
    monkeypatch.setattr(second_opinion, "MAX_LENGTH", 1024)
    # Whatever the policy said: the verifier has three answers to compare.
    answered = rows.groupby("item_id", sort=False).head(1).assign(extracted="7", verdict="incorrect")
    answer = second_opinion.open_verifier(SETTINGS, folder / "verifier", "verifier")
    opinions = second_opinion.ask(answered, ITEMS, answer)
    assert len(opinions) == 3 and opinions["reply"].str.len().gt(0).all()
    assert set(opinions["model"]) <= {"correct", "incorrect", "undecided"}
    assert len(list((folder / "verifier").glob("shard-*.parquet"))) == 1
    # What is kept is not asked for again.
    monkeypatch.setattr(chat, "open_model", lambda *_: None)
    answer = second_opinion.open_verifier(SETTINGS, folder / "verifier", "verifier")
    pd.testing.assert_frame_equal(second_opinion.ask(answered, ITEMS, answer), opinions)


@pytest.fixture(scope="module")
def ask():
    return chat.open_model(profiles.Instruct(**INSTRUCT), 0, "judge")


def test_01s_judge_follows_the_rubric(ask, tmp_path):
    settings = profiles.ModelJudge(**INSTRUCT, split_by="llm", retries=1)
    questions = [*(problem.question for problem in PROBLEMS), "long " * 600]
    table, replies = raters.follow_rubric(ask, questions, settings, 0, tmp_path, "01")
    assert len(table) == 4 and table["rating"].dropna().between(1, 5).all()
    assert table["parse_status"].iloc[-1] == "too long" and table["attempts"].iloc[-1] == 0
    assert table["attempts"].iloc[:3].between(1, 2).all() and table["analysis"].iloc[:3].str.len().gt(0).all()
    again = table["attempts"] == 2
    assert len(replies) == 4 + again.sum()
    asked = replies[(replies["attempt"] == 0) & (replies["question"] < 3)]
    assert asked["tokens"].between(1, LENGTH).all() and (asked["prompt_tokens"] > 150).all()
    # Every shard is kept, so the same again asks nobody.
    pd.testing.assert_frame_equal(
        raters.follow_rubric(None, questions, settings, 0, tmp_path, "01")[0], table
    )


def test_the_teacher_answers(ask, tmp_path):
    settings = profiles.Instruct(
        **{**INSTRUCT, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "max_tokens": 160}
    )
    rows = pd.DataFrame([vars(p) for p in PROBLEMS])[["id", "question", "answer", "answer_type"]]
    answered, replies = teacher.by_model(ask, rows, settings, 0, tmp_path, "03")
    assert replies["id"].tolist() == rows["id"].tolist() and replies["text"].str.len().gt(0).all()
    unfinished = ~replies["ended"].to_numpy()
    assert (answered.loc[unfinished, "response_verdict"] == "unanswered").all()
    assert answered.loc[~unfinished, "response"].tolist() == [
        text.strip() for text in replies.loc[replies["ended"], "text"]
    ]
    assert ((answered["response_verdict"] == "correct") == answered["response_correct"]).all()
    again, _ = teacher.by_model(None, rows, settings, 0, tmp_path, "03")
    pd.testing.assert_frame_equal(again, answered)
