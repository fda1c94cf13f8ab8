"""vLLM's real engine on the CPU build: the judge's, teacher's and verifier's replies, and the policy's rollouts."""

import pytest

# This folder is not called vllm: TRL and Unsloth would take it for the package.
pytest.importorskip(
    "vllm", reason="vLLM is not installed: `make test-vllm` runs these in an environment of its own"
)

import unsloth  # noqa: F401 (before transformers)

import torch  # isort: skip

from dereason_utils import chat, generate, grpo, mini_stem, models, profiles, prompts, tiny, vllm_sampling
from dereason_utils.judge import RATING
from dereason_utils.verify import model_verifier

LENGTH = 24
MEMORY = 0.2  # of the machine's: the CPU build asks that it is free at the start


@pytest.fixture(scope="module")
def ask():
    return chat.in_process(str(models.fetch_smollm2()), None, 512, MEMORY, seed=0)


@pytest.fixture(scope="module")
def policy():
    settings = profiles.load("smoke").model
    return models.load_policy(str(tiny.build("tiny")), settings, 0, train=False)


@pytest.fixture(scope="module")
def llm():
    return vllm_sampling.engine(str(tiny.build("tiny")), max_length=512, memory_share=MEMORY, seed=0)


@pytest.fixture(scope="module")
def ids(policy):
    return [
        prompts.tokenise_prompt(p.question, policy[1], "plain")
        for p in mini_stem.generate("train", 8, 3, (1, 2))
    ]


ASKED = {
    "judge": f"Rate this problem's difficulty from 1 to 5 and end with '{RATING} <number>'. What is 3 + 4?",
    "teacher": "What is 3 + 4?",
    "verifier": model_verifier.build_prompt("What is 3 + 4?", "7", "seven"),
}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_judge_teacher_and_verifier_reply_the_same_when_asked_again(ask, temperature):
    conversations = [[{"role": "user", "content": text}] for text in ASKED.values()]
    decoding = chat.Decoding(max_tokens=LENGTH, temperature=temperature, seed=3)
    replies = ask(conversations, decoding)
    assert replies == ask(conversations, decoding)
    assert len(replies) == 3
    assert all(reply.text and 0 < reply.tokens <= LENGTH for reply in replies)
    assert all(reply.ended or reply.tokens == LENGTH for reply in replies)


def test_rollouts_have_the_form_of_generate_and_repeat_with_the_seed(llm, policy, ids):
    options = {"copies": 3, "max_new_tokens": LENGTH, "temperature": 1.0}
    drawn = vllm_sampling.sample(llm, [policy[1].eos_token_id], ids, seed=5, **options)
    assert [len(group) for group in drawn] == [3] * len(ids)
    assert drawn == vllm_sampling.sample(llm, [policy[1].eos_token_id], ids, seed=5, **options)
    assert drawn != vllm_sampling.sample(llm, [policy[1].eos_token_id], ids, seed=6, **options)
    for completion in (one for group in drawn for one in group):
        assert completion.ended == (completion.tokens[-1] == policy[1].eos_token_id)
        assert completion.ended or len(completion.tokens) == LENGTH


def test_the_entropy_estimate_agrees_with_the_exact_entropy(llm, policy, ids):
    model, tokenizer = policy
    options = {"copies": 24, "max_new_tokens": LENGTH, "temperature": 1.0, "seed": 1}
    exact = generate.sample(model, tokenizer, ids, batch_size=96, **options)
    assert mean_entropy(vllm_sampling.sample(llm, [tokenizer.eos_token_id], ids, **options)) == pytest.approx(
        mean_entropy(exact), rel=0.15
    )


def mean_entropy(drawn):
    flat = [completion for group in drawn for completion in group]
    return sum(c.entropy * len(c.tokens) for c in flat) / sum(len(c.tokens) for c in flat)


def ratios(llm, policy, ids, temperature):
    """exp(trainer's minus sampler's log-probability) of every drawn token."""
    model, tokenizer = policy
    out = vllm_sampling.draw(
        llm, [tokenizer.eos_token_id], ids, copies=4, max_new_tokens=LENGTH, temperature=temperature, seed=2
    )
    asked = [prompt for prompt in ids for _ in range(4)]
    differences = []
    for prompt, output in zip(asked, out, strict=True):
        row = torch.tensor([prompt + list(output.token_ids)])
        with torch.no_grad():
            trained, _ = grpo.completion_log_probabilities(
                model, row, torch.ones_like(row), len(output.token_ids), temperature
            )
        differences.append(trained[0] - torch.tensor(vllm_sampling.log_probabilities(output)))
    return torch.cat(differences).exp()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampler_and_trainer_agree_on_the_probabilities(llm, policy, ids, temperature):
    assert ratios(llm, policy, ids, temperature).mean().item() == pytest.approx(1.0, abs=0.01)


def test_a_changed_policy_reaches_the_sampler(llm, policy, ids):
    adapters = {name: p for name, p in policy[0].named_parameters() if "lora_B" in name}
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for parameter in adapters.values():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
        stale = ratios(llm, policy, ids, 1.0)
        vllm_sampling.refresh(llm, policy[0])
        fresh = ratios(llm, policy, ids, 1.0)
        assert fresh.mean().item() == pytest.approx(1.0, abs=0.01)
        assert fresh.log().abs().mean() < stale.log().abs().mean() / 4
    finally:
        with torch.no_grad():
            for parameter in adapters.values():
                parameter.zero_()
        vllm_sampling.refresh(llm, policy[0])
