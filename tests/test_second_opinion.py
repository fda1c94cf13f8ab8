"""The model-based verifier on the rows of an evaluation, with a real (tiny) model and with replies written by hand."""

import chat_server
import pandas as pd
import pytest
import small_policy
import torch

from dereason_utils import chat, evaluate, profiles, second_opinion
from dereason_utils.benchmarks import BenchmarkItem
from dereason_utils.errors import InputError
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


def test_a_real_model_answers_every_request(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(second_opinion, "MAX_REPLY", 4)
    folder = small_policy.build(tmp_path / "verifier", chat=True)
    model, tokenizer, settings = second_opinion.load(str(folder), profiles.load("smoke").model)
    assert settings.prompt_style == "chat" and settings.name == str(folder)
    generate = second_opinion.replies(model, tokenizer, settings)
    opinions = second_opinion.ask(rows, ITEMS, generate)
    assert len(opinions) == 3 and set(opinions["model"]) <= {"correct", "incorrect", "undecided"}
    assert generate(["word " * 2100, "short"])[0] == ""  # never cut: not asked, so undecided


def opened(settings, tmp_path):
    return second_opinion.open_verifier(settings, tmp_path / "verifier", "verifier")


def test_without_vllm_it_runs_as_a_policy_does(tmp_path, monkeypatch):
    folder = small_policy.build(tmp_path / "model", chat=True)
    monkeypatch.setattr(second_opinion, "MAX_REPLY", 4)
    settings = profiles.load("smoke", {"eval.model_verifier": str(folder)})
    model, tokenizer, own = second_opinion.load(str(folder), settings.model)
    expected = second_opinion.replies(model, tokenizer, own)(["Heads or tails?"])
    assert opened(settings, tmp_path)(["Heads or tails?"]) == expected


def test_behind_an_address_a_stopped_run_asks_only_for_what_it_lacks(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(second_opinion, "SHARD", 2)
    said = "They agree.\nFinal Decision: Yes"
    with chat_server.serve(lambda asked: (said, 50, 9, True)) as server:
        name = f"tiny@{server.address}"
        settings = profiles.load("single_gpu", {"eval.model_verifier": name})
        opinions = second_opinion.ask(rows, ITEMS, opened(settings, tmp_path))
        assert opinions["model"].tolist() == ["correct"] * 3 and set(opinions["reply"]) == {said}
        assert len(server.requests) == 3
        sent = {(r["model"], r["max_tokens"], r["temperature"]) for r in server.requests}
        assert sent == {("tiny", 2048, 0.0)}  # General-Reasoner's
        (tmp_path / "verifier" / "shard-00001.parquet").unlink()
        second_opinion.ask(rows, ITEMS, opened(settings, tmp_path))
        assert len(server.requests) == 4


def test_the_host_of_a_server_is_in_no_manifest():
    for host in ("http://one:8000/v1", "https://two/v1"):
        settings = profiles.load("smoke", {"eval.model_verifier": f"name@{host}"})
        kept = profiles.stage_settings(settings, "05_eval")["eval"]["model_verifier"]
        assert kept == "name@address" and settings.eval.model_verifier == f"name@{host}"


def test_on_a_gpu_it_takes_what_the_released_policy_has_left(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(chat, "open_model", lambda settings, seed, section: asked.append(settings))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    settings = profiles.load("single_gpu", {"eval.model_verifier": f"a/b@{'0' * 40}"})
    for free, share in ((24, settings.eval.memory_share), (12, 0.475)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 24))
        opened(settings, tmp_path)
        assert asked[-1].memory_share == pytest.approx(share)
    assert (asked[0].via, asked[0].name, asked[0].revision) == ("vllm", "a/b", "0" * 40)
    assert (asked[0].max_tokens, asked[0].temperature) == (2048, 0.0)


@pytest.mark.fault
def test_a_verifier_without_a_commit_is_one_sentence(tmp_path):
    settings = profiles.load("single_gpu").eval.model_copy(update={"model_verifier": "some/model"})
    settings = profiles.load("single_gpu").model_copy(update={"eval": settings})
    with pytest.raises(InputError, match="some/model@<its 40 digits>.*http.*are kept") as caught:
        opened(settings, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.fault
@pytest.mark.parametrize("name", ["a/b@main", "a/b@http://user:word@host/v1", "@http://host/v1"])
def test_a_branch_or_a_password_is_refused(name):
    with pytest.raises(InputError, match=r"eval\.model_verifier"):
        profiles.load("smoke", {"eval.model_verifier": name})


def test_every_profile_says_whether_there_is_one():
    for name in profiles.names():
        assert profiles.load(name).eval.model_verifier is None
    assert profiles.load("smoke", {"eval.model_verifier": "tiny"}).eval.model_verifier == "tiny"
