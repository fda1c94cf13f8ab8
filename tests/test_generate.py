"""Sampling: the right distribution, the right order, nothing after the end token."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from dereason_utils import generate, tiny


@pytest.fixture(scope="module")
def tokenizer():
    return tiny._tokenizer(["abc 123"] * 4)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14], [15, 16, 17, 18, 19, 20, 21]]


def run(model, tokenizer, prompts=PROMPTS, **changes):
    settings = {"copies": 1, "max_new_tokens": 12, "temperature": 0.0, "seed": 0, "batch_size": 8} | changes
    return generate.sample(model, tokenizer, prompts, **settings)


def test_greedy_equals_transformers_generate_whatever_the_batch(model, tokenizer):
    for batch_size in (1, 3, 8):
        for prompt, (ours,) in zip(PROMPTS, run(model, tokenizer, batch_size=batch_size), strict=True):
            theirs = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[
                0, len(prompt) :
            ]
            assert ours.tokens == theirs.tolist()


def test_a_cache_that_runs_out_of_room_grows(model, tokenizer, monkeypatch):
    plain = run(model, tokenizer, temperature=1.0, copies=3, max_new_tokens=20)
    monkeypatch.setattr(generate.RoomyLayer, "ROOM", 3)
    monkeypatch.setattr(generate.cpu_llama.Keys, "ROOM", 3)
    assert run(model, tokenizer, temperature=1.0, copies=3, max_new_tokens=20) == plain


def test_prompts_that_begin_alike_are_read_once_and_give_the_same(model, tokenizer):
    prompts = [[9, 8, 7, 6, *prompt] for prompt in PROMPTS]
    for prompt, (ours,) in zip(prompts, run(model, tokenizer, prompts), strict=True):
        theirs = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :]
        assert ours.tokens == theirs.tolist()


def test_prompts_read_without_a_cache_as_on_a_gpu_give_the_same_logits(model, tokenizer, monkeypatch):
    monkeypatch.setattr(generate.cpu_llama, "is_readable", lambda model: False)
    prompts = [[9, 8, 7, 6, *prompt] for prompt in PROMPTS]
    read, new_cache = generate.reader(model)
    with torch.no_grad():
        cached, _, cache = generate.read_prompts(model, tokenizer, (read, new_cache), prompts)
        whole, _, none = generate.read_prompts(model, tokenizer, (read, lambda: None), prompts)
    assert cache is not None and none is None
    torch.testing.assert_close(whole, cached)


@pytest.fixture
def frozen(model):
    for weight in model.parameters():
        weight.requires_grad_(False)
    yield model
    for weight in model.parameters():
        weight.requires_grad_(True)


@pytest.mark.parametrize("copies", [1, 5])
@pytest.mark.parametrize("start", [[], [9], [9, 8, 7]])
def test_keys_that_rows_share_give_the_draws_of_keys_of_their_own(
    frozen, tokenizer, monkeypatch, copies, start
):
    """Rows end at different times, `own` grows, and prompts share a beginning or nothing."""
    prompts = [[*start, *prompt] for prompt in PROMPTS]
    settings = {"copies": copies, "temperature": 1.5, "max_new_tokens": 70, "batch_size": 64}
    with monkeypatch.context() as patch:
        patch.setattr(frozen, "forward", None)  # the library's pass is not called
        own = run(frozen, tokenizer, prompts, **settings)
    assert len({len(c.tokens) for group in own for c in group}) > 1
    monkeypatch.setattr(generate.cpu_llama, "is_readable", lambda model: False)
    plain = run(frozen, tokenizer, prompts, **settings)
    assert [c.tokens for group in own for c in group] == [c.tokens for group in plain for c in group]


def test_watched_logits_are_those_of_the_drawn_places(frozen, tokenizer):
    watch = [3, 200, 17]
    for prompt, group in zip(
        PROMPTS, run(frozen, tokenizer, copies=2, temperature=1.0, watch=watch), strict=True
    ):
        for completion in group:
            logits = frozen(torch.tensor([prompt + completion.tokens])).logits[0, len(prompt) - 1 : -1, watch]
            torch.testing.assert_close(torch.tensor(completion.watched), logits, rtol=1e-4, atol=1e-5)


def test_same_seed_same_tokens_and_another_seed_others(model, tokenizer):
    first, again, other = (run(model, tokenizer, temperature=1.0, copies=3, seed=s) for s in (1, 1, 2))
    assert first == again != other


def test_copies_come_grouped_and_in_order(model, tokenizer):
    drawn = run(model, tokenizer, temperature=1.0, copies=4, batch_size=8)
    assert [len(group) for group in drawn] == [4, 4, 4, 4]
    assert len({tuple(completion.tokens) for completion in drawn[0]}) > 1


def test_nothing_follows_the_end_token(model, tokenizer):
    drawn = run(model, tokenizer, temperature=3.0, copies=64, max_new_tokens=80, batch_size=256)
    ended = [c for group in drawn for c in group if c.ended]
    assert ended, "80 tokens at temperature 3 from 263 tokens: some completions end"
    assert all(c.tokens.index(tokenizer.eos_token_id) == len(c.tokens) - 1 for c in ended)
    assert all(len(c.tokens) == 80 for group in drawn for c in group if not c.ended)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_draw_follows_the_softmax(temperature):
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).repeat(40_000, 1)
    tokens, entropy = generate.draw(logits, temperature, torch.Generator().manual_seed(0))
    expected = torch.softmax(logits[0] / temperature, -1)
    shares = torch.bincount(tokens, minlength=4) / len(tokens)
    torch.testing.assert_close(shares, expected, atol=0.01, rtol=0)
    assert np.isclose(entropy[0].item(), -(expected * expected.log()).sum().item(), atol=1e-4)


def test_draw_never_takes_an_impossible_token():
    logits = torch.full((2000, 50), -float("inf"))
    logits[:, 7] = 0.0
    tokens, entropy = generate.draw(logits, 1.0, torch.Generator().manual_seed(0))
    assert set(tokens.tolist()) == {7}
    assert entropy.abs().max() == 0
