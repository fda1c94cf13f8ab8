"""A policy that vLLM samples from on a CPU (`hardware.sampler: vllm`), as 04_grpo and 05_eval have it."""

import pytest

# This folder is not called vllm: TRL and Unsloth would take it for the package.
pytest.importorskip(
    "vllm", reason="vLLM is not installed: `make test-vllm` runs these in an environment of its own"
)

import unsloth  # noqa: F401 (before transformers)

import pandas as pd  # isort: skip
import torch

from dereason_utils import (
    canary,
    evaluate,
    generate,
    grpo,
    mini_stem,
    models,
    profiles,
    prompts,
    tiny,
    vllm_sampling,
)

LENGTH = 24
SETTINGS = profiles.load("smoke", {"hardware.sampler": "vllm", "canary": True, "grpo.max_completion": LENGTH})


@pytest.fixture(scope="module")
def policy():
    where = str(tiny.build("tiny"))
    return models.load_policy(where, SETTINGS.model, 0, train=True, hardware=SETTINGS.hardware)


@pytest.fixture(scope="module")
def problems():
    made = mini_stem.generate("train", 8, 3, (1, 2))
    rows = [(p.id, p.question, p.answer, p.answer_type, p.steps) for p in made]
    return pd.DataFrame(rows, columns=["id", "question", "answer", "answer_type", "steps"])


@pytest.fixture
def moved(policy):
    """The policy with an adapter that changes what it draws."""
    adapters = [p for name, p in policy[0].named_parameters() if "lora_B" in name]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    yield policy
    with torch.no_grad():
        for parameter in adapters:
            parameter.zero_()


def test_generate_draws_with_vllm_and_the_weights_of_the_moment(policy, problems, moved):
    model, tokenizer = moved
    ids = [prompts.tokenise_prompt(question, tokenizer, "plain") for question in problems["question"]]
    options = {"copies": 4, "max_new_tokens": LENGTH, "temperature": 1.0, "seed": 5, "batch_size": 8}
    drawn = generate.sample(model, tokenizer, ids, **options)
    assert drawn == generate.sample(model, tokenizer, ids, **options)
    ratios = []
    for prompt, group in zip(ids, drawn, strict=True):
        for one in group:
            row = torch.tensor([prompt + one.tokens])
            with torch.no_grad():
                own, _ = grpo.completion_log_probabilities(
                    model, row, torch.ones_like(row), len(one.tokens), 1.0
                )
            ratios.append((own[0] - torch.tensor(one.log_probabilities)).exp())
    assert torch.cat(ratios).mean().item() == pytest.approx(1.0, abs=0.01)


def test_the_canary_compares_vllm_with_the_trainer(policy, problems, monkeypatch):
    model, tokenizer = policy
    monkeypatch.setattr(canary, "read_again", None)  # the log-probabilities must be vLLM's own
    assert "importance ratio" in canary.before_grpo(model, tokenizer, problems, SETTINGS, None)
    vllm_sampling.refresh(
        model.vllm_engine, model
    )  # what the canary did is taken back, and now it cannot hand over
    monkeypatch.setattr(vllm_sampling, "refresh", lambda llm, model: None)
    with pytest.raises(canary.InputError, match="does not have the trainer's weights"):
        canary.before_grpo(model, tokenizer, problems, SETTINGS, None)


def test_grpo_counts_vllms_rollouts_by_the_ratio_of_trainer_to_sampler(
    policy, problems, tmp_path, monkeypatch
):
    model, tokenizer = policy
    trainers = []
    plain = vllm_sampling.let_trl_correct
    monkeypatch.setattr(vllm_sampling, "let_trl_correct", lambda t: (trainers.append(t), plain(t)))
    settings = SETTINGS.grpo.model_copy(
        update={"steps": 3, "prompts_per_step": 4, "group_size": 4, "micro_batch_size": 4, "learning_rate": 1e-2,
                "warmup_share": 0.0}
    )  # fmt: skip
    # Half of the rollouts are right, so that there is something to learn: the policy itself hardly ever is.
    monkeypatch.setattr(grpo, "rewards", lambda rows, completions: [float(i % 2) for i in range(len(rows))])
    before = generate.sample(
        model, tokenizer, [[5, 6]], max_new_tokens=8, temperature=1.0, seed=0, batch_size=1
    )
    curve = grpo.train(
        model,
        tokenizer,
        problems,
        "plain",
        settings,
        tmp_path,
        0,
        SETTINGS.hardware,
        SETTINGS.model.max_length,
    )
    assert curve["step"].tolist() == [1, 2, 3] and (curve["entropy"] > 0).all()
    assert curve["importance_ratio"].tolist() == pytest.approx([1.0] * 3, abs=0.01)
    assert trainers[0].vllm_importance_sampling_clip_max == SETTINGS.hardware.ratio_cap
    after = generate.sample(
        model, tokenizer, [[5, 6]], max_new_tokens=8, temperature=1.0, seed=0, batch_size=1
    )
    assert before != after


def test_an_evaluation_is_drawn_by_vllm(policy, problems):
    model, tokenizer = policy
    rows = evaluate.spot_check(
        model, tokenizer, problems, "plain", copies=2, max_completion=LENGTH, temperature=0.7, seed=0
    )
    assert len(rows) == 2 * len(problems) and rows["ended"].isin([True, False]).all()
