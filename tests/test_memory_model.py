"""The memory model: its arithmetic against real models, its sums against measured peaks."""

import json

import measure_gpu
import measure_memory
import pandas as pd
import pytest
import torch

from dereason_utils import memory_model as memory
from dereason_utils import needs, paths, profiles, prompts

SMALL = memory.Shape(96, 3, 4, 2, 32, 160, 300, True)


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_model(tied):
    shape = memory.Shape(96, 3, 4, 2, 32, 160, 300, tied)
    model = measure_memory.build(shape, "float32", None)
    assert shape.parameters == sum(weight.numel() for weight in model.parameters())


def test_adapters_are_those_of_peft():
    model = measure_memory.build(SMALL, "bfloat16", 8)
    added = [weight for weight in model.parameters() if weight.requires_grad]
    assert {weight.dtype for weight in added} == {torch.float32}
    precision = memory.Precision(memory.BFLOAT16, 8)
    assert memory.adapters(SMALL, precision) == sum(weight.nbytes for weight in added)
    assert memory.optimizer(SMALL, precision) == 2 * memory.gradients(SMALL, precision)


def test_the_shape_is_read_from_the_models_own_config():
    config = measure_memory.build(SMALL, "float32", None).config
    assert memory.shape_from(json.loads(config.to_json_string())) == SMALL


def test_qwen_has_the_size_that_its_name_says():
    assert memory.QWEN3_4B.parameters == pytest.approx(4.02e9, rel=0.01)
    assert memory.kv_cache(memory.QWEN3_4B, 1) == 147_456


@pytest.mark.parametrize(
    ("name", "rank"),
    [("float32", None), ("float32", 8), ("bfloat16", None), ("bfloat16", 8), ("autocast", 8)],
)
def test_what_autograd_keeps_is_counted_to_a_few_percent(name, rank):
    """Every tensor that the forward pass saves, without memory's own noise."""
    model, kept = measure_memory.build(SMALL, name, rank), {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    body = (model.get_base_model() if rank else model).model
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    ids = torch.randint(0, SMALL.vocab, (4, 64))
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=name == "autocast"),
    ):
        body(input_ids=ids, attention_mask=torch.ones_like(ids))
    saved = sum(each.untyped_storage().nbytes() for place, each in kept.items() if place not in own)
    predicted = memory.activations(SMALL, measure_memory.precision_of(name, rank), ids.numel())
    assert predicted == pytest.approx(saved, rel=0.03)


@pytest.mark.parametrize(
    "case", [("sft", "deep", "float32", None, 2, 256), ("grpo", "smollm2", "autocast", 16, 4, 128)]
)
def test_a_measured_peak_is_within_15_percent(case):
    """Cases of some hundred MB: oneDNN keeps about 20 MB of kernels for a model's bfloat16 products, on AMX more."""
    row = measure_memory.compare(case)
    assert row["within_15_percent"], row["ratio"]


def test_the_committed_measurements_are_of_todays_model():
    table = pd.read_csv(paths.committed() / "robustness" / "memory_model.csv")
    assert len(table) == len(measure_memory.CASES)
    for case, row in zip(measure_memory.CASES, table.itertuples(), strict=True):
        assert sum(measure_memory.predicted(*case).values()) / 1e6 == pytest.approx(
            row.predicted_mb, abs=0.06
        )
        assert row.within_15_percent == (abs(row.predicted_mb / row.measured_mb - 1) <= 0.15)


def test_checkpoints_and_cards_make_it_smaller():
    precision = memory.Precision(memory.FLOAT32, None)
    whole = memory.training(memory.QWEN3_4B, precision, 8192, 256, True)
    shared = memory.training(memory.QWEN3_4B, precision, 8192, 256, True, cards=8, checkpointed=True)
    assert shared["optimizer"] == whole["optimizer"] / 8
    assert shared["activations"] < whole["activations"] / 10
    four_bit = memory.Precision(memory.BFLOAT16, 64, four_bit=True)
    assert memory.weights(memory.QWEN3_4B, four_bit) == pytest.approx(2.65e9, rel=0.01)


@pytest.mark.parametrize("preset", profiles.presets("single_gpu"))
def test_a_cards_measurement_keeps_the_presets_lengths_and_makes_whole_updates(preset, tmp_path):
    asked, measured = (
        profiles.load("single_gpu", {"preset": preset}),
        measure_gpu.settings_of(preset, tmp_path),
    )
    for stage in measure_gpu.STAGES:
        assert measure_gpu.rows_and_length(measured, stage) == measure_gpu.rows_and_length(asked, stage)
    rl = measured.grpo
    assert rl.prompts_per_step * rl.group_size == measure_gpu.MICRO_BATCHES * rl.micro_batch_size or (
        rl.prompts_per_step == 1
    )
    assert rl.max_completion == asked.grpo.max_completion


def test_a_cards_prompts_leave_room_for_a_completion_and_for_no_further_number(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(next(paths.base_policies().glob("nano-*")))
    profile = measure_gpu.settings_of("24gb", tmp_path)
    question = measure_gpu.problems_for(profile, tokenizer, 2)["question"].iloc[1]
    longer = "7 + " + question
    asked = prompts.fitting([question, longer], tokenizer, profile.model, profile.grpo.max_completion)
    assert asked == [True, False]


def test_the_committed_measurements_of_a_card_are_of_todays_plan():
    table = pd.read_csv(measure_gpu.TABLE)
    for row in table.itertuples():
        profile = profiles.load("single_gpu", {"preset": row.preset})
        assert (row.rows, row.length) == measure_gpu.rows_and_length(profile, row.stage)
        parts = measure_gpu.predicted(profile, row.stage, needs.Machine(needs.CARDS[-1], 1, 0, gpu=True))
        assert sum(parts.values()) / measure_gpu.GB == pytest.approx(row.predicted_gb, abs=0.001)


def test_sft_on_a_card_follows_that_on_a_cpu():
    table = pd.read_csv(measure_gpu.TABLE.with_name("gpu_sft.csv"))
    apart = (table["validation_loss_cpu"] - table["validation_loss_gpu"]).abs().dropna()
    assert len(apart) == 4 and apart.max() < 0.0002  # as profiles/README.md says


def test_grpo_on_a_card_follows_that_on_a_cpu():
    table = pd.read_csv(measure_gpu.TABLE.with_name("gpu_grpo.csv"))
    quarters = table.groupby((table["step"] - 1) // 10).mean()
    assert len(table) == 40  # every step of the profile
    assert (quarters["reward_cpu"] - quarters["reward_gpu"]).abs().max() < 0.05
    said = " ".join((profiles.FOLDER / "README.md").read_text(encoding="utf-8").split())
    for begin, where in (("its reward is", "gpu"), ("the CPU's with other random numbers", "cpu")):
        *first, last = [f"{reward:.2f}" for reward in quarters[f"reward_{where}"]]
        assert f"{begin} {', '.join(first)} and {last}" in said
    assert (table["importance_ratio_gpu"] - 1).abs().max() < 0.0005
