"""What goes wrong in training and sampling, with real trainers on a policy of a few thousand parameters."""

import pandas as pd
import pytest
import small_policy
from safetensors.torch import load_file

from dereason_utils import evaluate, generate, grpo, judge, models, profiles, prompts, sft, training
from dereason_utils.benchmarks import BenchmarkItem
from dereason_utils.errors import InputError
from dereason_utils.schema import Problem

pytestmark = pytest.mark.fault
SMOKE = profiles.load("smoke")
QUESTION = "Heads or tails?"
COIN = pd.DataFrame(
    {"id": list("abcd"), "question": QUESTION, "answer": "7", "answer_type": "number", "steps": 1}
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base model of Qwen3's kind: no padding token, and its end token is not the chat template's end of a turn."""
    return small_policy.build(tmp_path_factory.mktemp("base"), chat=True)


@pytest.fixture(scope="module")
def model_settings(base):
    return small_policy.settings(base, prompt_style="chat")


def load(model_settings, policy=None):
    return models.load_policy(models.locate(model_settings), model_settings, 0, train=True, policy=policy)


@pytest.fixture(scope="module")
def coin(model_settings, tmp_path_factory):
    """(folder, model, tokenizer) of a policy that was tuned to answer 7 as often as 8."""
    folder = tmp_path_factory.mktemp("coin")
    model, tokenizer = load(model_settings)
    rows = pd.DataFrame({"question": QUESTION, "response": ["\\boxed{7}", "\\boxed{8}"] * 8})
    examples, _ = sft.tokenise(rows, tokenizer, model_settings)
    tuning = SMOKE.sft.model_copy(update={"epochs": 80, "learning_rate": 2e-2})
    sft.train(model, tokenizer, examples, [], tuning, folder / "checkpoints", 0)
    models.save_policy(model, tokenizer, folder / "policy")
    return folder / "policy", model, tokenizer


def test_the_end_token_that_is_trained_is_the_one_that_sampling_stops_at(coin, model_settings):
    _, model, tokenizer = coin
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.eos_token_id == end
    (example,), _ = sft.tokenise(
        pd.DataFrame({"question": [QUESTION], "response": ["7"]}), tokenizer, model_settings
    )
    assert example["input_ids"][-1] == end and example["completion_mask"][-1] == 1
    base_end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert {end, base_end} <= set(generate.end_tokens(model, tokenizer))
    (drawn,) = generate.sample(
        model, tokenizer, [prompts.tokenise_prompt(QUESTION, tokenizer, "chat")], copies=16, max_new_tokens=30,
        temperature=1.0, seed=0, batch_size=16,
    )  # fmt: skip
    ended = [completion for completion in drawn if completion.ended]
    assert len(ended) >= 12 and sum(completion.tokens[-1] == end for completion in ended) >= 12


def test_a_model_without_a_padding_token_gets_one_that_is_not_its_end(coin):
    _, model, tokenizer = coin
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert tokenizer.pad_token_id < model.get_input_embeddings().num_embeddings


def test_a_model_without_a_chat_template_is_told_to_use_plain(tmp_path):
    folder = small_policy.build(tmp_path / "plain")
    _, tokenizer = load(small_policy.settings(folder, prompt_style="chat"))
    with pytest.raises(InputError, match=r"no chat template: set model\.prompt_style to plain"):
        prompts.tokenise_prompt(QUESTION, tokenizer, "chat")


def test_sft_that_diverges_stops_and_keeps_a_whole_checkpoint(model_settings, tmp_path):
    model, tokenizer = load(model_settings)
    rows = pd.DataFrame({"question": QUESTION, "response": ["\\boxed{7}"] * 16})
    examples, _ = sft.tokenise(rows, tokenizer, model_settings)
    # Warm-up: the first step changes nothing, the second one everything.
    wild = SMOKE.sft.model_copy(update={"epochs": 3, "learning_rate": 1e30, "warmup_share": 0.4})
    with pytest.raises(
        InputError, match=r"^(loss|grad_norm) is (nan|inf) at step \d: lower the learning rate"
    ) as caught:
        sft.train(model, tokenizer, examples, [], wild, tmp_path / "checkpoints", 0)
    assert "\n" not in str(caught.value)
    kept = load_file(training.last_whole_checkpoint(tmp_path / "checkpoints") + "/adapter_model.safetensors")
    assert all(weight.isfinite().all() for weight in kept.values())


def test_grpo_that_diverges_stops_and_keeps_a_whole_checkpoint(coin, model_settings, tmp_path):
    model, tokenizer = load(model_settings, coin[0])
    wild = SMOKE.grpo.model_copy(
        update={"steps": 4, "prompts_per_step": 4, "group_size": 4, "micro_batch_size": 16, "save_every": 1,
                "learning_rate": 1e30, "warmup_share": 0.5, "max_completion": 12}
    )  # fmt: skip
    with pytest.raises(InputError, match="nan|NaN|inf"):
        grpo.train(model, tokenizer, COIN, "chat", wild, tmp_path / "checkpoints", 0)
    rollouts = pd.read_parquet(tmp_path / "checkpoints" / "rollouts" / "step-00001.parquet")
    assert 0 < rollouts["reward"].mean() < 1
    kept = load_file(training.last_whole_checkpoint(tmp_path / "checkpoints") + "/adapter_model.safetensors")
    assert all(weight.isfinite().all() for weight in kept.values())


def test_a_policy_of_nan_is_refused_before_it_samples(base, model_settings):
    model, tokenizer = load(model_settings)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match="computes NaN"):
        generate.sample(model, tokenizer, [[5, 6]], max_new_tokens=2, temperature=1.0, seed=0, batch_size=1)


def test_a_judge_whose_replies_cannot_be_read_is_asked_again_then_marked(model_settings):
    model, tokenizer = load(model_settings)
    settings = SMOKE.judge.model_copy(update={"max_new_tokens": 8, "retries": 2})
    rated = judge.rate(model, tokenizer, [QUESTION, QUESTION + " " * 999 + "?"], "chat", settings, 0, 320)
    assert rated["rating"].isna().all()
    assert rated["parse_status"].tolist() == ["unparsed", "too long"]
    assert rated["attempts"].tolist() == [3, 0]
    assert rated["expected_rating"].isna().tolist() == [False, True]


def test_a_prompt_without_room_for_a_completion_is_left_out_of_rl(coin, model_settings):
    questions = [QUESTION, "word " * 300, QUESTION]
    assert prompts.fitting(questions, coin[2], model_settings, 40) == [True, False, True]
    with pytest.raises(
        InputError, match=r"No prompt leaves room for 320 tokens within model\.max_length = 320"
    ):
        prompts.fitting(questions, coin[2], model_settings, 320)


def test_an_item_without_room_for_a_completion_is_an_outcome_of_its_own(coin, model_settings, tmp_path):
    def item(name, question):
        problem = Problem(
            id=name, question=question, answer="7", answer_type="number", subject="s", family="f", steps=1
        )
        return BenchmarkItem("mini_stem easy", "general", problem, samples=2)

    settings = SMOKE.eval.model_copy(update={"max_completion": 20})
    _, model, tokenizer = coin
    asked, too_long = evaluate.askable(
        [item("a", QUESTION), item("b", "word " * 300)], tokenizer, model_settings, settings
    )
    assert [i.problem.id for i in asked] == ["a"] and [i.problem.id for i in too_long] == ["b"]
    rows = evaluate.evaluate(model, tokenizer, asked, "chat", settings, tmp_path, "05_eval")
    rows = evaluate.with_too_long(rows, too_long)
    unasked = rows[rows["item_id"] == "b"]
    assert unasked["reason"].tolist() == ["too long"] * 2 and not unasked["correct"].any()
    assert not unasked["parse_failure"].any() and not unasked["truncated"].any()
    summary = evaluate.summarise(rows).iloc[0]
    assert summary["items"] == 2 and summary["too_long"] == 0.5


def test_an_id_from_the_data_never_becomes_a_path(tmp_path):
    class State:
        global_step = 0

    settings = profiles.load("smoke").grpo.model_copy(update={"group_size": 2})
    reward = grpo.reward_function(tmp_path / "a" / "checkpoints", settings)
    reward(
        completions=["\\boxed{7}", "8"], completion_ids=[[1], [2]], trainer_state=State(), rollout_s=[1.0, 1.0],
        log_metric=lambda name, value: None, id=["../../x"] * 2, question=[QUESTION] * 2, answer=["7"] * 2,
        answer_type=["number"] * 2, sampled_entropy=[0.1, 0.1],
    )  # fmt: skip
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert files == ["a/checkpoints/rollouts/step-00001.parquet"]
