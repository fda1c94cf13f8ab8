"""Replies over HTTP from a real server with a real, tiny model, and shards that survive a stop."""

import dataclasses

import chat_server
import pandas as pd
import pytest
import small_policy

from dereason_utils import chat, generate, models, profiles, prompts
from dereason_utils.errors import InputError

GREEDY = chat.Decoding(max_tokens=8, temperature=0.0)
ASKED = [
    [{"role": "user", "content": text}] for text in ("Heads or tails?", "What is 3 + 4?", "Ann has 3 pens.")
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = small_policy.build(tmp_path_factory.mktemp("model"))
    return models.load_policy(str(folder), small_policy.settings(folder), 0, train=False)


@pytest.fixture
def server(policy):
    """An address that speaks OpenAI's chat protocol, with a real model behind it."""
    model, tokenizer = policy

    def answer(asked):
        text = prompts.render(asked["messages"], tokenizer, "plain")
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) > 200:
            raise ValueError(f"This model's maximum context length is 200 tokens. You sent {len(ids)}.")
        [[drawn]] = generate.sample(
            model, tokenizer, [ids], max_new_tokens=asked["max_tokens"], temperature=asked["temperature"],
            seed=asked["seed"], batch_size=1,
        )  # fmt: skip
        said = tokenizer.decode(drawn.tokens, skip_special_tokens=True)
        return said, len(ids), len(drawn.tokens), drawn.ended

    with chat_server.serve(answer) as web:
        yield web


def by_hand(policy, decoding):
    """The replies without any server."""
    model, tokenizer = policy
    replies = []
    for number, messages in enumerate(ASKED):
        ids = tokenizer(prompts.render(messages, tokenizer, "plain"), add_special_tokens=False)["input_ids"]
        [[drawn]] = generate.sample(
            model, tokenizer, [ids], max_new_tokens=decoding.max_tokens, temperature=decoding.temperature,
            seed=decoding.seed + number, batch_size=1,
        )  # fmt: skip
        text = tokenizer.decode(drawn.tokens, skip_special_tokens=True)
        replies.append(chat.Reply(text, len(drawn.tokens), drawn.ended))
    return replies


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_replies_come_back_in_order_with_the_decoding_asked_for(server, policy, temperature):
    decoding = chat.Decoding(max_tokens=8, temperature=temperature, seed=5)
    assert chat.at_address(server.address, "tiny")(ASKED, decoding) == by_hand(policy, decoding)
    assert {(r["max_tokens"], r["temperature"], r["top_p"]) for r in server.requests} == {
        (8, temperature, 1.0)
    }


@pytest.mark.fault
def test_a_busy_server_is_asked_again(server, policy, monkeypatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    server.busy = 2
    assert chat.at_address(server.address, "tiny")(ASKED, GREEDY) == by_hand(policy, GREEDY)
    assert len(server.requests) == len(ASKED) + 2


@pytest.mark.fault
def test_a_wrong_model_name_is_one_sentence_at_once(server):
    with pytest.raises(InputError, match="does not answer for other .*check the address, the model's name"):
        chat.at_address(server.address, "other")(ASKED[:1], GREEDY)
    assert len(server.requests) == 1


@pytest.mark.fault
def test_no_server_is_one_sentence(monkeypatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    with pytest.raises(InputError, match="finished shards are kept"):
        chat.at_address("http://127.0.0.1:9/v1", "tiny")(ASKED[:1], GREEDY)


def test_a_stopped_run_asks_only_for_the_shards_that_it_lacks(server, policy, tmp_path):
    asks = []

    def ask(conversations, decoding):
        asks.append(len(conversations))
        if len(asks) == 2:
            raise KeyboardInterrupt
        return chat.at_address(server.address, "tiny")(conversations, decoding)

    run = (ASKED, ask, GREEDY, tmp_path / "replies", 2, "judge")
    with pytest.raises(KeyboardInterrupt):
        chat.in_shards(*run)
    assert chat.in_shards(*run) == by_hand(policy, GREEDY)
    assert asks == [2, 1, 1]
    assert chat.in_shards(*run) == by_hand(policy, GREEDY)
    assert asks == [2, 1, 1]
    chat.in_shards(*run, model="another")
    assert asks == [2, 1, 1, 2, 1]


@pytest.mark.fault
def test_a_conversation_that_is_too_long_is_an_empty_reply_and_stops_nobody(server, policy):
    asked = [*ASKED[:1], [{"role": "user", "content": "long " * 300}], *ASKED[1:]]
    replies = chat.at_address(server.address, "tiny")(asked, GREEDY)
    assert replies[1] == chat.TOO_LONG
    assert [replies[0], *replies[2:]] == by_hand(policy, GREEDY)
    assert len(server.requests) == len(asked)


def test_the_bill_counts_what_the_server_counted(server, tmp_path):
    ask = chat.at_address(server.address, "tiny")
    replies = chat.in_shards(ASKED, ask, GREEDY, tmp_path / "replies", 2, "judge")
    row = chat.bill(pd.DataFrame(map(dataclasses.asdict, replies)), "tiny").iloc[0]
    assert row["replies"] == 3 and row["tokens"] == sum(reply.tokens for reply in replies)
    assert row["prompt_tokens"] == sum(reply.prompt_tokens for reply in replies) > 30
    assert row["tokens_per_s"] == pytest.approx(row["tokens"] / (3600 * row["hours"]))


@pytest.mark.fault
def test_a_model_of_this_process_needs_a_commit_and_vllm(monkeypatch):
    judge = profiles.load("single_gpu").judge.model_copy(update={"revision": None})
    with pytest.raises(InputError, match="`make pins` or as judge.revision"):
        chat.open_model(judge, 0, "judge")
    monkeypatch.setattr(chat, "find_spec", lambda name: None)
    pinned = judge.model_copy(update={"revision": "0" * 40})
    with pytest.raises(
        InputError, match="judge.via is vllm, which is not installed.*the address of a server"
    ):
        chat.open_model(pinned, 0, "judge")
