"""Several processes train the same policy as one: the same losses and the same weights, within rounding."""

import json

import pandas as pd
import pytest
import small_policy
import torch

from dereason_utils import profiles, sft, sharded
from dereason_utils.errors import InputError

CPU = profiles.load("smoke").hardware


@pytest.fixture(scope="module")
def policy_folder(tmp_path_factory):
    return small_policy.build(tmp_path_factory.mktemp("policy"))


def load(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def trained(policy_folder, tmp_path_factory):
    """(curve, weights) of the same SFT in one, two and four processes."""
    results = {}
    for processes in (1, 2, 4):
        model, tokenizer = load(policy_folder)
        rows = pd.DataFrame(
            {
                "question": [f"How many {'more ' * (i % 7)}?" for i in range(32)],
                "response": [f"3 + {i} = 7. " * (1 + i % 5) + f"\\boxed{{{i}}}" for i in range(32)],
            }
        )
        examples, dropped = sft.tokenise(rows, tokenizer, small_policy.settings(policy_folder))
        assert dropped == 0
        settings = profiles.load("smoke").sft.model_copy(
            update={"batch_size": 8, "micro_batch_size": 8 // processes, "epochs": 2}
        )
        hardware = CPU.model_copy(update={"processes": processes})
        folder = tmp_path_factory.mktemp(f"processes{processes}") / "checkpoints"
        curve = sft.train(model, tokenizer, examples, examples[:4], settings, folder, 0, hardware)
        results[processes] = curve, {name: weight.clone() for name, weight in model.state_dict().items()}
    return results


@pytest.mark.parametrize("processes", [2, 4])
def test_the_losses_are_those_of_one_process(trained, processes):
    one, several = trained[1][0], trained[processes][0]
    assert len(one) == 8 and several["step"].tolist() == one["step"].tolist()
    for column in ("loss", "grad_norm", "learning_rate"):
        assert several[column].tolist() == pytest.approx(one[column].tolist(), rel=2e-3), column
    assert one["loss"].iloc[-1] < one["loss"].iloc[0] - 0.1
    measured = one["validation_loss"].notna()
    assert several["validation_loss"][measured].tolist() == pytest.approx(
        one["validation_loss"][measured].tolist(), rel=2e-3
    )


@pytest.mark.parametrize("processes", [2, 4])
def test_the_trained_weights_come_back_into_the_kernels_model(trained, policy_folder, processes):
    start = load(policy_folder)[0].state_dict()
    one, several = trained[1][1], trained[processes][1]
    moved = torch.cat([(one[name] - start[name]).flatten() for name in one])
    apart = torch.cat([(one[name] - several[name]).flatten() for name in one])
    assert apart.norm() < 0.02 * moved.norm()


@pytest.mark.fault
def test_weights_that_do_not_fit_are_refused(policy_folder, tmp_path):
    from safetensors.torch import save_file

    model, _ = load(policy_folder)
    with pytest.raises(InputError, match="lacks weights"):
        sharded.load_weights(model, tmp_path)
    save_file({"odd.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="odd.weight"):
        sharded.load_weights(model, tmp_path)


@pytest.mark.fault
def test_processes_that_fail_are_one_sentence(policy_folder, tmp_path):
    model, tokenizer = load(policy_folder)
    hardware = CPU.model_copy(update={"processes": 2})
    job = {"examples": [], "validation": [], "settings": json.loads("{}"), "seed": 0}
    with pytest.raises(InputError, match="in 2 processes failed") as caught:
        sharded.run("sft", model, tokenizer, hardware, tmp_path / "checkpoints", job)
    assert "\n" not in str(caught.value)
