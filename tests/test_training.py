"""Checkpoints: only whole ones of the same experiment are gone on from."""

import json

import pandas as pd
import pytest
import torch

from dereason_utils import training
from dereason_utils.errors import InputError


def checkpoint(folder, step, whole=True):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "weights").write_text(str(step))
    if whole:
        (path / training._WHOLE).write_text(json.dumps({"step": step}))
    return str(path)


@pytest.mark.fault
def test_the_newest_whole_checkpoint_is_chosen_never_a_half_written_one(tmp_path):
    checkpoint(tmp_path, 2)
    newest_whole = checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 12, whole=False)
    assert training.last_whole_checkpoint(tmp_path) == newest_whole
    assert training.last_whole_checkpoint(tmp_path / "none") is None


def test_the_same_experiment_goes_on_and_another_starts_afresh(tmp_path):
    folder = tmp_path / "checkpoints"
    assert training.resume_point(folder, seed=0, data=["a"]) is None
    made = checkpoint(folder, 4)
    assert training.resume_point(folder, data=["a"], seed=0) == made
    assert training.resume_point(folder, data=["a"], seed=1) is None
    assert not (folder / "checkpoint-4").exists()


def test_hash_of_trainable_weights_ignores_frozen_ones():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[0].requires_grad_(False)
    before = training.trainable_hash(model)
    with torch.no_grad():
        model[0].weight += 1
    assert training.trainable_hash(model) == before
    with torch.no_grad():
        model[1].weight += 1
    assert training.trainable_hash(model) != before


@pytest.mark.fault
@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_training(loss):
    state = type("State", (), {"global_step": 3})
    with pytest.raises(InputError, match="step 3"):
        training.stop_on_nan().on_log(None, state, None, logs={"loss": loss})
    training.stop_on_nan().on_log(None, state, None, logs={"loss": 0.5})


def test_phases_share_the_steps_and_their_tables_count_on():
    assert training.share_out(7, 2) == [4, 3] and training.share_out(6, 1) == [6]
    tables = [
        pd.DataFrame({"step": [1, 2], "reward": [0.1, 0.2]}),
        pd.DataFrame({"step": [1, 1, 2], "reward": [0.3, 0.4, 0.5]}),  # rollouts: several rows a step
    ]
    joined = training.one_after_the_other(tables)
    assert joined["step"].tolist() == [1, 2, 3, 3, 4]
    assert joined["phase"].tolist() == [1, 1, 2, 2, 2]
    assert joined["reward"].tolist() == [0.1, 0.2, 0.3, 0.4, 0.5]


@pytest.mark.fault
def test_fewer_steps_than_phases_are_refused():
    with pytest.raises(InputError, match=r"raise grpo.steps"):
        training.share_out(1, 2)
