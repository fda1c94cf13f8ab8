"""Replies over HTTP from a real server with a real, tiny model, and shards that survive a stop."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import small_policy

from dereason_utils import chat, generate, models, prompts
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
    """An address that speaks OpenAI's chat protocol; `busy` of its first requests are turned away."""
    model, tokenizer = policy
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                web.requests.append(asked)
                if len(web.requests) <= web.busy:
                    self.send_error(503)
                    return
                if asked["model"] != "tiny":
                    self.send_error(404, "no such model")
                    return
                text = prompts.render(asked["messages"], tokenizer, "plain")
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                [[drawn]] = generate.sample(
                    model, tokenizer, [ids], max_new_tokens=asked["max_tokens"], temperature=asked["temperature"],
                    seed=asked["seed"], batch_size=1,
                )  # fmt: skip
            message = {
                "role": "assistant",
                "content": tokenizer.decode(drawn.tokens, skip_special_tokens=True),
            }
            body = json.dumps({
                "id": "1", "object": "chat.completion", "created": 0, "model": "tiny", "system_fingerprint": "",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop" if drawn.ended else "length"}],
                "usage": {"prompt_tokens": len(ids), "completion_tokens": len(drawn.tokens),
                          "total_tokens": len(ids) + len(drawn.tokens)},
            }).encode()  # fmt: skip
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.requests, web.busy = [], 0
    web.address = f"http://127.0.0.1:{web.server_port}/v1"
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield web
    web.shutdown()


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
