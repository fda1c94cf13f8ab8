"""The first minute: it passes, leaves the weights bit for bit, and says what is wrong in one sentence."""

import pandas as pd
import pytest
import small_policy
import torch

from dereason_utils import canary, generate, models, profiles
from dereason_utils.errors import InputError

PROBLEMS = pd.DataFrame(
    {
        "id": ["a", "b", "c"],
        "question": [
            "Ann has 3 pens.",
            "Ann has 3 pens and buys 4 more. How many pens has she?",
            "Heads or tails?",
        ],
        "answer": ["3", "7", "heads"],
        "answer_type": ["number", "number", "text"],
        "steps": [1, 2, 1],
    }
)


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory):
    return small_policy.build(tmp_path_factory.mktemp("policy"))


KINDS = {
    "float32": {"bfloat16": False},
    "bfloat16": {"bfloat16": True},
    "full": {"bfloat16": True, "full_finetuning": True},
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def loaded(policy_folder, request):
    own = small_policy.settings(policy_folder, max_length=1024, **request.param)
    settings = profiles.load("smoke", {"canary": True}).model_copy(update={"model": own})
    return *models.load_policy(str(policy_folder), own, 0, train=True), settings


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def assert_untouched(model, before):
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]), name
        assert weight.grad is None
    assert model.training


def examples(tokenizer, count=9):
    made = []
    for number in range(1, count):
        prompt = tokenizer("Ann has 3 pens." * number)["input_ids"]
        made.append({"input_ids": [*prompt, 5, 6, 7], "completion_mask": [0] * len(prompt) + [1] * 3})
    return made


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_it_passes_and_leaves_the_weights_and_the_draws_as_they_were(loaded, stage):
    model, tokenizer, settings = loaded
    asked = {"max_new_tokens": 8, "temperature": 1.0, "seed": 3, "batch_size": 4}
    drawn = generate.sample(model, tokenizer, [[5, 6, 7]], copies=4, **asked)
    before, random = weights(model), torch.get_rng_state()
    if stage == "sft":
        said = canary.before_sft(model, tokenizer, examples(tokenizer), PROBLEMS, settings, None)
    else:
        said = canary.before_grpo(model, tokenizer, PROBLEMS, settings, None)
    assert said.startswith("Canary: an update on the") and "weights restored" in said
    assert_untouched(model, before)
    assert torch.equal(random, torch.get_rng_state())
    assert generate.sample(model, tokenizer, [[5, 6, 7]], copies=4, **asked) == drawn


def test_the_longest_sequences_come_first(loaded, monkeypatch):
    model, tokenizer, settings = loaded
    seen = []
    monkeypatch.setattr(canary, "check", lambda model, tokenizer, rows, *rest, **options: seen.append(rows))
    settings = settings.model_copy(update={"sft": settings.sft.model_copy(update={"micro_batch_size": 2})})
    made = examples(tokenizer)
    canary.before_sft(model, tokenizer, made, PROBLEMS, settings, None)
    assert [prompt + done for prompt, done in seen[0]] == [made[-1]["input_ids"], made[-2]["input_ids"]]
    canary.before_grpo(model, tokenizer, PROBLEMS, settings, None)
    lengths = {len(done) for _, done in seen[1]}
    assert lengths == {settings.grpo.max_completion} and len(seen[1]) == settings.grpo.micro_batch_size
    assert len(seen[1][0][0]) == max(len(prompt) for prompt, _ in seen[1])


@pytest.mark.fault
@pytest.mark.parametrize("shift", [0.05, -0.05])
def test_a_sampler_with_other_probabilities_stops_the_run(loaded, shift):
    model, tokenizer, settings = loaded
    before = weights(model)

    def perturbed(*arguments):
        return [[value + shift for value in row] for row in canary.read_again(*arguments)]

    with pytest.raises(InputError, match="mean importance ratio") as caught:
        canary.before_grpo(model, tokenizer, PROBLEMS, settings, None, sampler_log_probabilities=perturbed)
    assert "\n" not in str(caught.value)
    assert_untouched(model, before)


@pytest.mark.fault
def test_a_sampler_that_was_not_given_the_new_weights_stops_the_run(loaded, monkeypatch):
    model, tokenizer, settings = loaded
    # This policy's weights are drawn ten times as wide as a pretrained model's.
    monkeypatch.setattr(canary, "FULL_LEARNING_RATE", 10 * canary.FULL_LEARNING_RATE)
    stale = weights(model)

    def old(model, *arguments):
        new = weights(model)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(stale[name])
            held = canary.read_again(model, *arguments)
            for name, weight in model.named_parameters():
                weight.copy_(new[name])
        return held

    with pytest.raises(InputError, match="does not have the trainer's weights"):
        canary.before_grpo(model, tokenizer, PROBLEMS, settings, None, sampler_log_probabilities=old)
    assert_untouched(model, stale)


@pytest.mark.fault
def test_weights_that_are_no_numbers_stop_the_run(loaded):
    model, tokenizer, settings = loaded
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        canary.before_grpo(model, tokenizer, PROBLEMS, settings, None)


@pytest.mark.fault
def test_too_little_memory_names_the_setting(loaded, monkeypatch):
    model, tokenizer, settings = loaded
    before = weights(model)

    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nAnd more.")

    monkeypatch.setattr(canary.grpo, "completion_log_probabilities", full)
    with pytest.raises(InputError, match="lower grpo.micro_batch_size or model.max_length"):
        canary.before_grpo(model, tokenizer, PROBLEMS, settings, None)
    assert_untouched(model, before)


def test_a_cpu_run_does_without_it_and_says_so():
    settings = profiles.load("smoke")
    assert canary.before_grpo(None, small_policy.tokenizer(False), PROBLEMS, settings, None) == (
        "No canary: this is a CPU (-o canary=true asks for it)."
    )


@pytest.fixture
def shared(policy_folder):
    """(model, tokenizer, settings) of a policy all of whose weights two processes train, on a CPU with our own sampler."""
    own = small_policy.settings(policy_folder, max_length=1024, bfloat16=False, full_finetuning=True)
    smoke = profiles.load("smoke", {"canary": True})
    changes = {
        "model": own,
        "hardware": smoke.hardware.model_copy(update={"processes": 2}),
        "sft": smoke.sft.model_copy(update={"batch_size": 4, "micro_batch_size": 2}),
        "grpo": smoke.grpo.model_copy(
            update={"group_size": 2, "micro_batch_size": 2, "updates_per_step": 2, "max_completion": 8}
        ),
    }
    settings = smoke.model_copy(update=changes)
    return *models.load_policy(str(policy_folder), own, 0, train=True), settings


def test_several_processes_make_an_update_on_the_longest_examples(shared, tmp_path):
    model, tokenizer, settings = shared
    before, made = weights(model), examples(tokenizer)
    said = canary.before_sft(model, tokenizer, made, PROBLEMS, settings, tmp_path / "canary")
    longest = sum(len(example["input_ids"]) for example in made[-4:])
    assert said.startswith(
        f"Canary: 2 processes made an update on the 4 longest sequences ({longest} tokens)"
    )
    assert_untouched(model, before)
    assert not list(tmp_path.iterdir())


def test_several_processes_make_two_steps_of_grpo(shared, tmp_path):
    model, tokenizer, settings = shared
    before = weights(model)
    said = canary.before_grpo(model, tokenizer, PROBLEMS, settings, tmp_path / "canary")
    assert said.startswith("Canary: 2 processes made two steps of 4 rollouts of the 2 longest prompts, ")
    assert "importance ratio not measured" in said  # our own sampler reads the trainer's very weights
    assert_untouched(model, before)
    assert not list(tmp_path.iterdir())


@pytest.mark.fault
def test_processes_that_learn_nothing_stop_the_run(shared, tmp_path):
    model, tokenizer, settings = shared
    settings = settings.model_copy(update={"sft": settings.sft.model_copy(update={"learning_rate": 1e-30})})
    with pytest.raises(InputError, match="changes no weight"):
        canary.before_sft(model, tokenizer, examples(tokenizer), PROBLEMS, settings, tmp_path / "canary")
    assert not list(tmp_path.iterdir())


def test_without_a_gpu_several_processes_do_without_it_too():
    settings = profiles.load("paper", {"model.prompt_style": "plain"})
    assert canary.before_grpo(None, None, PROBLEMS, settings, None) == (
        "No canary: this is a CPU (-o canary=true asks for it)."
    )
