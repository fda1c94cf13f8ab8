"""A GPU without vLLM: ratings, rollouts of Hugging Face's `generate`, GRPO on them."""

import pytest
import torch
from on_gpu import setting

from dereason_utils import canary, generate, grpo, judge

PROFILE = setting.settings()


@pytest.fixture(scope="module")
def policy():
    return setting.load(PROFILE)


def test_a_rating_does_not_depend_on_its_batch(policy):
    """Alone a prompt has no padding, and with the others it has."""
    model, tokenizer = policy
    ids = setting.asked(tokenizer)
    analyses = ["step " * (1 + i % 3) for i in range(len(ids))]
    together = judge.expected_ratings(model, tokenizer, ids, analyses)
    alone = [
        judge.expected_ratings(model, tokenizer, [one], [said])[0]
        for one, said in zip(ids, analyses, strict=True)
    ]
    assert together == pytest.approx(alone, abs=0.1)  # bfloat16: 0.06 on a CPU
    assert len({round(value, 3) for value in together}) > 4


def test_the_canary_finds_one_policy_in_sampler_and_trainer(policy):
    model, tokenizer = policy
    assert "importance ratio" in canary.before_grpo(model, tokenizer, setting.problems(), PROFILE, None)


def test_grpo_trains_on_rollouts_of_generate(policy, tmp_path, monkeypatch):
    model, tokenizer = policy
    monkeypatch.setattr(grpo, "rewards", lambda rows, completions: [float(i % 2) for i in range(len(rows))])
    before = [weights.detach().clone() for weights in setting.adapters(model)]
    few = PROFILE.grpo.model_copy(update=setting.FEW)
    curve = grpo.train(model, tokenizer, setting.problems(), "plain", few, tmp_path, 0, PROFILE.hardware)
    assert curve["step"].tolist() == [1, 2, 3] and curve["reward"].tolist() == [0.5] * 3
    assert (curve["grad_norm"] > 0).all() and curve["response_length"].between(1, setting.LENGTH).all()
    assert not any(torch.equal(old, new) for old, new in zip(before, setting.adapters(model), strict=True))
    rollouts = grpo.collect_rollouts(tmp_path, 3)
    assert len(rollouts) == 48 and rollouts["tokens"].between(1, setting.LENGTH).all()


def test_completions_end_where_the_policy_ends_them(policy):
    model, tokenizer = policy
    drawn = generate.sample(
        model, tokenizer, setting.asked(tokenizer), copies=3, max_new_tokens=setting.LENGTH, temperature=1.0, seed=5,
        batch_size=8,
    )  # fmt: skip
    assert [len(group) for group in drawn] == [3] * 8
    for one in (each for group in drawn for each in group):
        assert one.ended == (one.tokens[-1] == tokenizer.eos_token_id)
        assert one.ended or len(one.tokens) == setting.LENGTH
