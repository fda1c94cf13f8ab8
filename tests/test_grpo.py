"""GRPO: rewards are the checker's, savings leave the gradient as it is."""

import pandas as pd
import pytest
import torch

from dereason_utils import grpo
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


def test_step_table_separates_rollout_and_update_time():
    history = [
        {"step": 1, "reward": 0.25, "loss": 0.1, "rollout_s": 3.0, "step_time": 5.0},
        {"train_runtime": 9.0},
    ]
    table = grpo.step_table(history)
    assert len(table) == 1
    assert table["update_s"][0] == pytest.approx(2.0) and table["reward"][0] == 0.25


@pytest.mark.fault
def test_missing_rollouts_are_named(tmp_path):
    (tmp_path / "rollouts").mkdir()
    pd.DataFrame({"step": [1]}).to_parquet(tmp_path / "rollouts" / "step-00001.parquet")
    with pytest.raises(InputError, match="step-00002.parquet"):
        grpo.collect_rollouts(tmp_path, 2)
