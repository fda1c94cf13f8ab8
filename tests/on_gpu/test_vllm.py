"""vLLM inside Unsloth on the trainer's own weights: what profile `single_gpu` samples with.

`make test-gpu` runs this twice, the second time with weights in 4 bits, as preset 24gb has them.
"""

import os

import pytest
import torch
from on_gpu import setting

pytest.importorskip("vllm", reason="vLLM is not installed: requirements-gpu.lock has it")

from dereason_utils import canary, evaluate, generate, grpo

FOUR_BITS = os.environ.get("FOUR_BITS") == "1"
PROFILE = setting.settings(**{"hardware.sampler": "vllm", "model.load_in_4bit": FOUR_BITS})
SAMPLE = {"copies": 4, "max_new_tokens": setting.LENGTH, "temperature": 1.0, "seed": 5, "batch_size": 8}


@pytest.fixture(scope="module")
def policy():
    return setting.load(PROFILE)


def rollouts(policy) -> list[tuple[list[int], list[generate.Completion]]]:
    """Every prompt with new completions of it."""
    ids = setting.asked(policy[1])
    return list(zip(ids, generate.sample(*policy, ids, **SAMPLE), strict=True))


def gap(policy, drawn) -> tuple[float, float]:
    """(mean importance ratio, nats a token) between trainer and sampler."""
    apart = torch.cat([setting.distances(policy[0], *pair) for pair in drawn])
    return apart.exp().mean().item(), apart.abs().mean().item()


def test_sampler_and_trainer_hold_the_same_probabilities(policy):
    ratio, distance = gap(policy, rollouts(policy))
    assert ratio == pytest.approx(1.0, abs=grpo.RATIO_TOLERANCE) and distance < grpo.DISTANCE_TOLERANCE


def test_a_changed_adapter_reaches_the_sampler(policy):
    weights = setting.adapters(policy[0])
    generator = torch.Generator(device="cuda").manual_seed(0)
    try:
        with torch.no_grad():
            for one in weights:
                one.copy_(torch.randn(one.shape, generator=generator, device="cuda") * 0.15)
        drawn = rollouts(policy)
        ratio, distance = gap(policy, drawn)
        assert ratio == pytest.approx(1.0, abs=grpo.RATIO_TOLERANCE) and distance < grpo.DISTANCE_TOLERANCE
        with torch.no_grad():
            for one in weights:
                one.zero_()
        stale = gap(policy, drawn)[1]
        assert stale > grpo.DISTANCE_TOLERANCE  # so that the change was one; 0.09 to 0.18 on a CPU
    finally:
        with torch.no_grad():
            for one in weights:
                one.zero_()


def test_the_canary_compares_vllm_with_the_trainer(policy, monkeypatch):
    model, tokenizer = policy
    monkeypatch.setattr(canary, "read_again", None)  # the log-probabilities must be vLLM's own
    assert "importance ratio" in canary.before_grpo(model, tokenizer, setting.problems(), PROFILE, None)


def test_completions_and_seeds(policy):
    model, tokenizer = policy
    ids = setting.asked(tokenizer)
    drawn = generate.sample(model, tokenizer, ids, **SAMPLE)
    assert [len(group) for group in drawn] == [4] * 8
    assert len({tuple(one.tokens) for group in drawn for one in group}) > 16
    for one in (each for group in drawn for each in group):
        assert one.ended == (one.tokens[-1] == tokenizer.eos_token_id)
        assert one.ended or len(one.tokens) == setting.LENGTH


def test_greedy_answers_are_evaluated(policy):
    model, tokenizer = policy
    answered = evaluate.spot_check(
        model, tokenizer, setting.problems(), "plain", copies=1, max_completion=setting.LENGTH, temperature=0.0, seed=0
    )  # fmt: skip
    assert len(answered) == 8 and answered["correct"].between(0, 1).all()


def test_grpo_weighs_rollouts_by_the_ratio_of_trainer_to_sampler(policy, tmp_path, monkeypatch):
    model, tokenizer = policy
    monkeypatch.setattr(grpo, "rewards", lambda rows, completions: [float(i % 2) for i in range(len(rows))])
    before = [weights.detach().clone() for weights in setting.adapters(model)]
    few = PROFILE.grpo.model_copy(update=setting.FEW)
    curve = grpo.train(
        model, tokenizer, setting.problems(), "plain", few, tmp_path, 0, PROFILE.hardware, PROFILE.model.max_length
    )  # fmt: skip
    assert curve["step"].tolist() == [1, 2, 3] and (curve["entropy"] > 0).all()
    assert curve["importance_ratio"].tolist() == pytest.approx([1.0] * 3, abs=grpo.RATIO_TOLERANCE)
    assert not any(torch.equal(old, new) for old, new in zip(before, setting.adapters(model), strict=True))
