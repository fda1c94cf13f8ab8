"""GRPO: rewards are the checker's, savings leave the gradient as it is."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import small_policy
import torch

from dereason_utils import grpo, models, profiles, reward_audit, training
from dereason_utils.errors import InputError
from dereason_utils.verify import verify


def rows(*golds):
    return [{"question": "How many?", "answer": gold, "answer_type": "number"} for gold in golds]


def test_rewards_are_what_the_checker_says():
    completions = ["3 + 4 = 7. \\boxed{7}", "\\boxed{8}", "no idea", "The answer is 7."]
    values = grpo.rewards(rows("7", "7", "7", "7"), completions)
    assert values == [float(verify("How many?", "7", c, "number").verdict == "correct") for c in completions]
    assert values == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.fault
def test_unscorable_gold_gives_no_signal():
    assert grpo.rewards(rows(""), ["\\boxed{7}"]) == [None]


def micro_batch(advantages, lengths, width=6, prompt=(3, 2, 3, 1)):
    count = len(advantages)
    completion_mask = torch.tensor([[1] * n + [0] * (width - n) for n in lengths])
    prompt_mask = torch.tensor([[0] * (4 - prompt[i]) + [1] * prompt[i] for i in range(count)])
    return {
        "prompt_ids": torch.arange(count * 4).view(count, 4),
        "prompt_mask": prompt_mask,
        "completion_ids": torch.arange(count * width).view(count, width) + 100,
        "completion_mask": completion_mask,
        "advantages": torch.tensor(advantages),
        "num_items_in_batch": torch.tensor(17),
    }


def contents(batches):
    """What carries loss: (advantage, prompt tokens, completion tokens) of every row."""
    found = []
    for batch in batches:
        for i in range(len(batch["advantages"])):
            prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()].tolist()
            completion = batch["completion_ids"][i][batch["completion_mask"][i].bool()].tolist()
            found.append((batch["advantages"][i].item(), tuple(prompt), tuple(completion)))
    return sorted(found)


def test_sorting_keeps_every_row_and_gathers_the_zero_advantages():
    batches = [
        micro_batch([0.0, 1.0, 0.0, -1.0], [6, 2, 3, 4]),
        micro_batch([0.5, 0.0, -0.5, 0.0], [1, 5, 2, 6]),
    ]
    result = grpo.sort_window(batches)
    assert contents(result) == contents(batches)
    assert result[0]["advantages"].ne(0).all() and result[1]["advantages"].eq(0).all()
    assert all(batch["num_items_in_batch"] == 17 for batch in result)


def test_sorting_cuts_padding_that_no_row_needs():
    batches = [micro_batch([1.0, 1.0], [2, 6]), micro_batch([1.0, 1.0], [1, 5])]
    result = grpo.sort_window(batches)
    assert result[0]["completion_ids"].shape[1] == 2 and result[1]["completion_ids"].shape[1] == 6
    for batch in result:
        assert batch["completion_mask"].sum(1).max() == batch["completion_mask"].shape[1]
        assert batch["prompt_mask"].sum(1).max() == batch["prompt_mask"].shape[1]


def test_sorting_by_prompt_keeps_a_prompts_rows_together():
    """Rows 0 and 2 have one prompt, rows 1 and 3 the other, whose longest row is the shorter one."""
    batches = [micro_batch([1.0, 1.0], [6, 4]), micro_batch([1.0, 1.0], [1, 3])]
    for batch in batches:
        batch["prompt_ids"] = torch.tensor([[0, 1, 2, 3], [0, 0, 5, 6]])
        batch["prompt_mask"] = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 1]])
    result = grpo.sort_window(batches, by_prompt=True)
    assert contents(result) == contents(batches)
    assert [batch["completion_mask"].sum(1).tolist() for batch in result] == [[3, 4], [1, 6]]


def test_step_table_separates_rollout_and_update_time():
    history = [
        {"step": 1, "reward": 0.25, "loss": 0.1, "rollout_s": 3.0, "step_time": 5.0},
        {"train_runtime": 9.0},
    ]
    table = grpo.step_table(history, 1)
    assert len(table) == 1
    assert table["update_s"][0] == pytest.approx(2.0) and table["reward"][0] == 0.25


def test_step_table_keeps_the_importance_ratio_of_vllms_rollouts():
    entry = {"step": 1, "reward": 0.25, "loss": 0.1, "rollout_s": 3.0, "step_time": 5.0}
    assert "importance_ratio" not in grpo.step_table([entry], 1)
    table = grpo.step_table([{**entry, grpo.SAMPLERS_RATIO: 0.999}, {**entry, "step": 2}], 2)
    assert table["importance_ratio"].tolist() == [0.999]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("ratio", "distance"), [(0.98, 0.01), (1.02, 0.01), (1.0, 0.06), (float("nan"), 0.0)]
)
def test_a_sampler_that_is_not_the_trainer_stops_the_first_steps(ratio, distance):
    state = SimpleNamespace(global_step=1)
    logs = {grpo.SAMPLERS_RATIO: ratio, grpo.SAMPLERS_DISTANCE: distance}
    with pytest.raises(InputError, match="After update 1: .*does not have the trainer's weights") as caught:
        grpo.stop_on_another_sampler().on_log(None, state, None, logs)
    assert "\n" not in str(caught.value)
    later = grpo.stop_on_another_sampler()
    later.on_log(
        None, state, None, {"loss": 0.1}
    )  # our own sampler, or an update on rollouts that were looked at
    good = {grpo.SAMPLERS_RATIO: 1.005, grpo.SAMPLERS_DISTANCE: 0.02}
    later.on_log(None, state, None, good)
    with pytest.raises(InputError):  # the weights of after the first update did not arrive
        later.on_log(None, state, None, logs)
    latest = grpo.stop_on_another_sampler()
    for entry in (good, good, logs):  # later steps are in the curve
        latest.on_log(None, state, None, entry)


def test_trl_logs_the_samplers_measures_under_these_names():
    import trl.trainer.grpo_trainer as trainer

    source = Path(trainer.__file__).read_text()
    assert f'["{grpo.SAMPLERS_RATIO}"].append' in source and f'["{grpo.SAMPLERS_DISTANCE}"].append' in source


@pytest.mark.fault
def test_missing_rollouts_are_named(tmp_path):
    (tmp_path / "rollouts").mkdir()
    pd.DataFrame({"step": [1]}).to_parquet(tmp_path / "rollouts" / "step-00001.parquet")
    with pytest.raises(InputError, match="step-00002.parquet"):
        grpo.collect_rollouts(tmp_path, 2)


def test_groups_without_a_signal_are_all_right_all_wrong_or_unscorable():
    values = [1.0, 1.0, 0.0, 0.0, None, None, 1.0, 0.0, None, 1.0]
    assert grpo.uninformative_share(values, group_size=2) == 4 / 5


def test_the_audit_doubts_rewards_that_a_stricter_checker_calls_wrong():
    completions = [
        "So 7.\n\\boxed{7}",
        "\\boxed{7} or \\boxed{7}",
        "The answer is 7",
        "\\boxed{7}.",
        "\\boxed{8}",
    ]
    rollouts = pd.DataFrame({"step": [1, 1, 2, 2, 3], "answer": "7", "completion": completions})
    rollouts["reward"] = grpo.rewards(rows(*["7"] * 5), completions)
    assert rollouts["reward"].tolist() == [1, 1, 1, 1, 0]
    doubtful, steps = reward_audit.by_stricter_checker(rollouts)
    assert doubtful["completion"].tolist() == completions[1:3]
    assert steps[["step", "rewarded", "doubtful"]].to_numpy().tolist() == [[1, 2, 1], [2, 2, 1], [3, 0, 0]]
    assert steps["doubtful_share"].isna().tolist() == [False, False, True]


@pytest.mark.fault
def test_the_audit_of_a_run_without_a_single_reward_is_empty():
    rollouts = pd.DataFrame({"step": [1, 2], "answer": "7", "completion": "no idea", "reward": 0.0})
    doubtful, steps = reward_audit.by_stricter_checker(rollouts)
    assert doubtful.empty and list(doubtful.columns) == list(rollouts.columns)
    assert steps[["step", "rewarded", "doubtful"]].to_numpy().tolist() == [[1, 0, 0], [2, 0, 0]]


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory):
    return small_policy.build(tmp_path_factory.mktemp("policy"))


def train_on(texts, golds, folder, policy_folder, monkeypatch, trainer=None, **changes):
    """GRPO on scripted completions, `texts` per question; (curve, advantages by question, weights changed).

    trainer: another class than ours. changes: of the settings, which otherwise are one step of one update.
    """
    model, tokenizer = models.load_policy(
        str(policy_folder), small_policy.settings(policy_folder), 0, train=True
    )
    seen = {}

    def rollout_function(tokenizer, style, settings, seed):
        def rollout(batch, trainer):
            written = [text for question in batch[:: settings.group_size] for text in texts[question]]
            ids = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in written]
            prompts = [tokenizer(question)["input_ids"] for question in batch]
            return {"prompt_ids": prompts, "completion_ids": ids, "logprobs": None,
                    "sampled_entropy": [0.1] * len(ids), "rollout_s": [1.0] * len(ids)}  # fmt: skip

        return rollout

    class Watched(trainer or grpo.grpo_trainer_class()):
        def _generate_and_score_completions(self, inputs):
            out = super()._generate_and_score_completions(inputs)
            for row, advantage in zip(inputs, out["advantages"].tolist(), strict=True):
                seen.setdefault(row["question"], []).append(advantage)
            return out

    monkeypatch.setattr(grpo, "rollout_function", rollout_function)
    monkeypatch.setattr(grpo, "grpo_trainer_class", lambda: Watched)
    problems = pd.DataFrame({"question": list(texts), "answer": golds, "answer_type": "number"})
    problems["id"] = problems["question"]
    count = len(problems)
    settings = profiles.load("smoke").grpo.model_copy(
        update={"steps": 1, "prompts_per_step": count, "group_size": 4, "micro_batch_size": 4 * count}
        | changes
    )
    before = training.trainable_hash(model)
    curve = grpo.train(model, tokenizer, problems, "plain", settings, folder, 0)
    return curve, seen, training.trainable_hash(model) != before


def test_advantages_are_those_computed_by_hand_and_unscorable_groups_have_none(
    tmp_path, policy_folder, monkeypatch
):
    right, wrong = "\\boxed{7}", "\\boxed{8}"
    texts = {"Ann": [right, right, wrong, wrong], "Ben": [right, wrong, right, "no idea"], "Mia": [right] * 4}
    curve, advantages, changed = train_on(texts, ["7", "", "9"], tmp_path, policy_folder, monkeypatch)
    # Rewards 1 1 0 0: mean 1/2, standard deviation (unbiased) sqrt(1/3), and TRL adds 1e-4 to it.
    high = 0.5 / (3**-0.5 + 1e-4)
    assert advantages["Ann"] == pytest.approx([high, high, -high, -high], rel=1e-5)
    assert advantages["Ben"] == [0, 0, 0, 0]  # the gold answer is missing
    assert advantages["Mia"] == [0, 0, 0, 0]  # all wrong
    # The mean reward is that of the eight scorable rollouts.
    assert curve["reward"].tolist() == [pytest.approx(2 / 8)]
    assert curve["zero_variance_share"].tolist() == [pytest.approx(2 / 3)]
    assert changed and curve["grad_norm"][0] > 0


@pytest.mark.fault
def test_a_kl_term_that_would_have_no_effect_is_refused(tmp_path, policy_folder, monkeypatch):
    with pytest.raises(InputError, match="grpo.kl_weight above 0 would have no effect on a CPU"):
        train_on(["1"], ["1"], tmp_path, policy_folder, monkeypatch, kl_weight=0.1)


def test_groups_without_variance_have_no_gradient(tmp_path, policy_folder, monkeypatch):
    texts = {"Ann": ["\\boxed{7}"] * 4, "Ben": ["\\boxed{8}"] * 4}
    curve, advantages, changed = train_on(texts, ["7", "7"], tmp_path, policy_folder, monkeypatch)
    assert curve["grad_norm"].tolist() == [0] and not changed
    assert set(advantages["Ann"] + advantages["Ben"]) == {0}


def test_several_updates_on_the_same_rollouts_are_one_step(tmp_path, policy_folder, monkeypatch):
    texts = {"Ann": ["\\boxed{7}"] * 2 + ["\\boxed{8}"] * 2, "Ben": ["\\boxed{7}"] * 4}
    changes = {"steps": 3, "updates_per_step": 2, "micro_batch_size": 4, "save_every": 100}
    curve, _, _ = train_on(texts, ["7", "7"], tmp_path, policy_folder, monkeypatch, **changes)
    assert curve["step"].tolist() == [1, 2, 3]
    assert curve["reward"].tolist() == [pytest.approx(6 / 8)] * 3
    assert curve[["loss", "grad_norm", "update_s"]].notna().all(axis=None)
    rollouts = grpo.collect_rollouts(tmp_path, 3)
    assert rollouts.groupby("step").size().to_dict() == {1: 8, 2: 8, 3: 8}


def test_the_trajectory_is_that_of_plain_trl(tmp_path, policy_folder, monkeypatch):
    """Fixed rollouts of different lengths, one group in three without variance, four steps of two micro-batches."""
    from trl import GRPOTrainer

    class Plain(GRPOTrainer):
        def _get_train_sampler(self, dataset=None):
            return training.draw_order_by_epoch(super()._get_train_sampler(dataset), self.args.data_seed)

    right, wrong = "3 + 4 = 7. \\boxed{7}", "\\boxed{8}"
    texts = {
        "Ann has 3": [right, wrong, wrong, "no"],
        "Ben": [right, wrong, right, "Heads"],
        "Mia": [wrong] * 4,
    }
    changes = {"steps": 4, "micro_batch_size": 4, "save_every": 100, "learning_rate": 1e-2}
    curves = []
    for name, trainer in (("ours", None), ("plain", Plain)):
        with monkeypatch.context() as patch:
            curve, _, changed = train_on(
                texts, ["7"] * 3, tmp_path / name, policy_folder, patch, trainer, **changes
            )
        assert changed
        curves.append(curve[["loss", "grad_norm", "reward"]].to_numpy())
    np.testing.assert_allclose(curves[0], curves[1], rtol=2e-2, atol=2e-3)
    assert np.ptp(curves[0][:, 1]) > 1e-2, "the policy moves"
