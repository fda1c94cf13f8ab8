"""The common beginning read once: same hidden states, same gradient, for SFT's and GRPO's batches."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from dereason_utils.generate import GROUPED
from dereason_utils.grpo import completion_log_probabilities
from dereason_utils.shared_prefix import causal_model, shared_prefix

PREFIX = [5, 9, 2, 7]
ROWS = [PREFIX + [11, 12, 13, 14, 15], PREFIX + [21, 22], PREFIX + [31, 32, 33]]


@pytest.fixture(params=["sdpa", GROUPED])
def model(request):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attn_implementation=request.param,
    )  # fmt: skip
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
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

    def run():
        states = backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        states = (
            states * mask[..., None] * torch.arange(states.shape[-1])
        )  # a plain norm is fixed by the last layer
        return states.detach(), gradient(model, states.sum())

    def distance(a, b):
        return (a - b).norm() / b.norm()

    plain = run()
    with shared_prefix(model, ROWS):
        shared = run()
    assert read == [ids.numel(), len(PREFIX), ids.numel() - len(PREFIX) * len(ROWS)]
    assert [distance(a, b).item() < 1e-5 for a, b in zip(shared, plain, strict=True)] == [True, True]
    assert "forward" not in vars(backbone)


def test_a_batch_with_another_beginning_takes_the_plain_way(model):
    ids, mask = padded([[1, 2, 3, 4, 5, 6], *ROWS])
    plain = model(input_ids=ids, attention_mask=mask).logits
    with shared_prefix(model, ROWS):
        torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, plain)


def test_log_probabilities_are_those_of_the_full_logits(model):
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
    with shared_prefix(model, ROWS):
        found, found_entropy = completion_log_probabilities(model, ids, mask, 3, 0.7)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found_entropy, entropy, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            gradient(model, found.sum()), slope, check_dtype=False, rtol=1e-5, atol=1e-6
        )
    assert not found_entropy.requires_grad
