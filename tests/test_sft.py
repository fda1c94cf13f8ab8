"""SFT: what carries loss, and that nothing is cut silently."""

import math

import numpy as np
import pandas as pd
import pytest
import small_policy

from dereason_utils import models, profiles, prompts, sft, tiny
from dereason_utils.errors import InputError

SETTINGS = profiles.load("smoke").model


@pytest.fixture(scope="module")
def tokenizer():
    return tiny._tokenizer(["3 + 4 = 7. How many pens has Ann? Answer in boxed."] * 4)


ROWS = pd.DataFrame(
    {"question": ["How many?", "How many more?"], "response": ["3 + 4 = 7. \\boxed{7}", "\\boxed{2}"]}
)


def test_loss_covers_the_completion_and_its_end_token_only(tokenizer):
    examples, dropped = sft.tokenise(ROWS, tokenizer, SETTINGS)
    assert dropped == 0
    for example, row in zip(examples, ROWS.itertuples(), strict=True):
        learned = [t for t, m in zip(example["input_ids"], example["completion_mask"], strict=True) if m]
        assert learned[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(learned[:-1]) == row.response
        prompt = prompts.tokenise_prompt(row.question, tokenizer, SETTINGS.prompt_style)
        assert example["input_ids"][: len(prompt)] == prompt


@pytest.mark.fault
def test_long_examples_are_dropped_and_counted_never_cut(tokenizer):
    rows = pd.concat([ROWS, pd.DataFrame({"question": ["How many?"], "response": ["1 + 1 = 2. " * 200]})])
    examples, dropped = sft.tokenise(rows, tokenizer, SETTINGS)
    assert (len(examples), dropped) == (2, 1)


@pytest.mark.fault
def test_nothing_left_is_an_error(tokenizer):
    short = SETTINGS.model_copy(update={"max_length": 5})
    with pytest.raises(InputError, match="model.max_length = 5"):
        sft.tokenise(ROWS, tokenizer, short)


@pytest.mark.fault
def test_an_end_token_in_the_teachers_text_does_not_end_the_example(tokenizer):
    rows = pd.DataFrame({"question": ["How many?"], "response": ["7<end> and more \\boxed{7}"]})
    (example,), _ = sft.tokenise(rows, tokenizer, SETTINGS)
    assert example["input_ids"].count(tokenizer.eos_token_id) == 1


def test_step_table_puts_validation_losses_at_their_steps():
    history = [
        {"step": 1, "loss": 2.0, "epoch": 0.5, "grad_norm": 1.0, "learning_rate": 0.1},
        {"step": 2, "loss": 1.0, "epoch": 1.0, "grad_norm": 1.0, "learning_rate": 0.1},
        {"step": 2, "eval_loss": 1.5},
        {"step": 2, "train_runtime": 3.0},
    ]
    table = sft.step_table(history)
    assert table["loss"].tolist() == [2.0, 1.0]
    assert table["validation_loss"].isna().tolist() == [True, False] and table["validation_loss"][1] == 1.5


def test_batches_are_of_like_length_in_random_order_and_every_example_comes_once():
    lengths = np.random.default_rng(0).integers(50, 400, 1003)
    sampler = sft.LikeLength(lengths, 8, seed=3)
    order = list(sampler)
    assert sorted(order) == list(range(1003))
    batches = [lengths[order[i : i + 8]] for i in range(0, 1003, 8)]
    padding = 1 - lengths.sum() / sum(len(batch) * batch.max() for batch in batches)
    assert padding < 0.05
    means = [batch.mean() for batch in batches[:-1]]
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.25, "neighbouring batches are not of like length"


def test_the_order_depends_on_seed_and_epoch_alone():
    sampler = sft.LikeLength([5, 3, 9, 1] * 30, 4, seed=0)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    again = sft.LikeLength([5, 3, 9, 1] * 30, 4, seed=0)
    again.set_epoch(1)
    assert list(again) == list(sampler)


@pytest.mark.parametrize(
    ("unit", "amount", "updates"),
    [("updates", 37, 37), ("updates", 3, 3), ("tokens", 300, 18), ("tokens", 1, 1)],
)
def test_a_matched_training_has_exactly_the_updates_that_its_cost_asks_for(unit, amount, updates):
    settings = profiles.load("smoke").sft.model_copy(update={"batch_size": 4, "epochs": 2})
    examples = [{"completion_mask": [0, 0, 1, 1, 1, 1, 1]}] * 10  # an epoch: 3 updates, 50 tokens with loss
    tuned = sft.matched(settings, examples, unit, amount)
    assert math.ceil(tuned.epochs * 3) == updates
    assert tuned.model_copy(update={"epochs": 2}) == settings


def test_the_trajectory_is_that_of_plain_trl(tmp_path, monkeypatch):
    from trl import SFTTrainer

    class Plain(SFTTrainer):
        _get_train_sampler = sft.sft_trainer_class()._get_train_sampler

    folder = small_policy.build(tmp_path / "policy")
    own = small_policy.settings(folder)
    texts = pd.DataFrame({"question": [f"Ann has {n} pens." for n in range(20)]})
    texts["response"] = [f"{'3 + 4 = 7. ' * (n % 5)}\\boxed{{{n}}}" for n in range(20)]
    settings = profiles.load("smoke").sft.model_copy(
        update={"batch_size": 4, "micro_batch_size": 2, "epochs": 1, "learning_rate": 1e-2}
    )
    curves = []
    for trainer in (sft.sft_trainer_class(), Plain):
        monkeypatch.setattr(sft, "sft_trainer_class", lambda trainer=trainer: trainer)
        model, tokenizer = models.load_policy(str(folder), own, 0, train=True)
        examples, _ = sft.tokenise(texts, tokenizer, own)
        curve = sft.train(model, tokenizer, examples, examples[:3], settings, tmp_path / trainer.__name__, 0)
        curves.append(curve[["loss", "grad_norm", "validation_loss"]].to_numpy())
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-2)
    assert curves[0][-1, 0] < curves[0][0, 0]
