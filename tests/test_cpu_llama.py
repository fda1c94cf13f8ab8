"""The CPU's own way through a Llama: the library's hidden states and gradient, the common beginning read once."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from dereason_utils import cpu_llama, cpu_ops, generate
from dereason_utils.cpu_llama import causal_model, quick_training
from dereason_utils.grpo import completion_log_probabilities

PREFIX = [5, 9, 2, 7]
ROWS = [PREFIX + [11, 12, 13, 14, 15], PREFIX + [21, 22], PREFIX + [31, 32, 33]]


MODULES = {
    "some": ["q_proj", "k_proj", "v_proj", "down_proj"],
    "all": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


@pytest.fixture(params=MODULES)
def model(request):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=4, target_modules=MODULES[request.param]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    return model


def padded(rows, left=False):
    width = max(map(len, rows))
    blank = [[0] * (width - len(row)) for row in rows]
    ids = [b + row if left else row + b for b, row in zip(blank, rows, strict=True)]
    mask = [b + [1] * len(row) if left else [1] * len(row) + b for b, row in zip(blank, rows, strict=True)]
    return torch.tensor(ids), torch.tensor(mask)


def gradient(model, value):
    model.zero_grad()
    value.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def test_hidden_states_and_gradient_are_those_of_the_plain_pass(model):
    ids, mask = padded(ROWS)
    backbone = causal_model(model).base_model
    read = []
    backbone.embed_tokens.register_forward_hook(lambda *args: read.append(args[1][0].numel()))
    assert cpu_llama.is_readable(model)

    def run():
        states = backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        states = (
            states * mask[..., None] * torch.arange(states.shape[-1])
        )  # a plain norm is fixed by the last layer
        return states.detach(), gradient(model, states.sum())

    def distance(a, b):
        return (a - b).norm() / b.norm()

    plain = run()
    with quick_training(model):
        shared = run()
    assert read == [ids.numel(), len(PREFIX), ids.numel() - len(PREFIX) * len(ROWS)]
    assert [distance(a, b).item() < 1e-5 for a, b in zip(shared, plain, strict=True)] == [True, True]
    assert "forward" not in vars(backbone)


def test_a_batch_with_another_beginning_is_read_row_by_row(model):
    ids, mask = padded([[1, 2, 3, 4, 5, 6], *ROWS])
    plain = model(input_ids=ids, attention_mask=mask).logits
    with quick_training(model):
        torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, plain)


def test_a_groups_prompt_is_read_once(model):
    prompt = [*PREFIX, 41, 42, 43]
    ids, mask = padded([[*prompt, 11, 12, 13], [*prompt, 12], [*prompt, 13, 14]])
    read = []
    backbone = causal_model(model).base_model
    backbone.embed_tokens.register_forward_hook(lambda *args: read.append(args[1][0].numel()))
    plain = model(input_ids=ids, attention_mask=mask).logits
    with quick_training(model):
        shared = model(input_ids=ids, attention_mask=mask).logits
    assert read[1:] == [len(prompt), 3 * 3]
    torch.testing.assert_close(shared * mask[..., None], plain * mask[..., None])


def test_equal_rows_are_read(model):
    ids, mask = padded([PREFIX] * 3)
    plain = model(input_ids=ids, attention_mask=mask).logits
    with quick_training(model):
        torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, plain)


def test_weights_are_packed_only_for_a_processor_with_bfloat16_products(monkeypatch):
    """Packing them for another is an error of oneDNN's."""
    weight, x = torch.randn(16, 32, dtype=torch.bfloat16), torch.randn(4, 32, dtype=torch.bfloat16)
    assert cpu_ops.Packed(weight).is_packed == cpu_ops.multiplies_bfloat16()
    torch.testing.assert_close(cpu_ops.Packed(weight)(x), F.linear(x, weight))
    monkeypatch.setattr(cpu_ops, "multiplies_bfloat16", lambda: False)
    assert torch.equal(cpu_ops.Packed(weight)(x), F.linear(x, weight))


@pytest.mark.parametrize("start", [[], [60]])
def test_bfloat16_stays_near_float32_as_the_library_does(model, start):
    ids, mask = padded([row * 4 for row in ROWS] + [start * 9] * len(start))
    kept = mask[..., None]
    exact = causal_model(model).base_model(input_ids=ids, attention_mask=mask).last_hidden_state * kept
    half = model.to(torch.bfloat16)
    theirs = causal_model(half).base_model(input_ids=ids, attention_mask=mask).last_hidden_state * kept
    with quick_training(half):
        ours = causal_model(half).base_model(input_ids=ids, attention_mask=mask).last_hidden_state * kept
    assert ours.dtype == torch.bfloat16
    # Attention scores are rounded here, as in the library's eager attention, and not in its fused kernel.
    assert (ours - exact).norm() < 2 * (theirs - exact).norm()


def test_a_model_whose_own_weights_are_trained_takes_the_plain_way(model):
    causal_model(model).base_model.embed_tokens.weight.requires_grad_(True)
    with quick_training(model):
        assert "forward" not in vars(causal_model(model).base_model)


@pytest.mark.parametrize("frozen", [True, False])
def test_log_probabilities_are_those_of_the_full_logits(model, frozen):
    causal_model(model).base_model.norm.weight.requires_grad_(
        not frozen
    )  # then `Body` does not compute the model
    prompts, _ = padded(ROWS, left=True)
    completions = torch.tensor([[40, 41, 42], [43, 0, 0], [44, 45, 0]])
    kept = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]])
    ids = torch.cat([prompts, completions], 1)
    mask = torch.cat([padded(ROWS, left=True)[1], kept], 1)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -4:-1] / 0.7
    everything = logits.log_softmax(-1)
    expected = everything.gather(-1, completions[..., None]).squeeze(-1) * kept
    entropy = -(everything.exp() * everything).sum(-1) * kept
    slope = gradient(model, expected.sum())
    with quick_training(model):
        found, found_entropy = completion_log_probabilities(model, ids, mask, 3, 0.7)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found_entropy, entropy, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            gradient(model, found.sum()), slope, check_dtype=False, rtol=1e-4, atol=1e-5
        )
    assert not found_entropy.requires_grad


def test_sampler_and_trainer_hold_the_same_probabilities(model):
    """In bfloat16, of tokens that were really drawn: the mean importance ratio is 1 within 1%."""
    half = model.to(torch.bfloat16)
    half.generation_config.eos_token_id = 63
    words = SimpleNamespace(pad_token_id=0, eos_token_id=63)
    with torch.no_grad():
        drawn = generate.sample(
            half, words, ROWS, copies=40, max_new_tokens=24, temperature=1.0, seed=0, batch_size=120, watch=range(64)
        )  # fmt: skip
    pairs = [(row, c) for row, group in zip(ROWS, drawn, strict=True) for c in group]
    assert len({len(c.tokens) for _, c in pairs}) > 5, "rows end at different times"
    left, left_mask = padded([row for row, _ in pairs], left=True)
    right, right_mask = padded([c.tokens for _, c in pairs])
    with quick_training(half), torch.no_grad():
        trainers, _ = completion_log_probabilities(
            half, torch.cat([left, right], 1), torch.cat([left_mask, right_mask], 1), right.shape[1], 1.0
        )
    logits = [torch.tensor(c.watched).log_softmax(-1) for _, c in pairs]
    held = torch.cat(
        [x.gather(-1, torch.tensor(c.tokens)[:, None]) for x, (_, c) in zip(logits, pairs, strict=True)]
    )
    difference = trainers[right_mask.bool()] - held.squeeze(-1)
    assert difference.exp().mean().item() == pytest.approx(1, abs=0.01)
    assert difference.abs().mean() < 0.03


def test_attention_in_parts_is_the_same_arithmetic(monkeypatch):
    torch.manual_seed(0)
    query, key, value = (torch.randn(5, heads, 12, 8, dtype=torch.bfloat16) for heads in (6, 2, 2))
    known = torch.ones(5, 12, dtype=torch.long)
    known[1, 9:] = 0
    mask = cpu_ops.causal_mask(known, 12, torch.bfloat16)

    def read():
        inputs = [each.clone().requires_grad_() for each in (query, key, value)]
        out = cpu_ops.grouped_attention(*inputs, mask, 0.3)
        out.float().square().sum().backward()
        return [out.detach(), *(each.grad for each in inputs)]

    whole = read()
    monkeypatch.setattr(cpu_ops, "SCORES_AT_ONCE", 2 * 6 * 12 * 12)
    for one, other in zip(whole, read(), strict=True):
        assert torch.equal(one, other)
