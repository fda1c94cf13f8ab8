"""The plan: what fits is shown, what does not is refused in one sentence with the setting to change."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from dereason_utils import doctor, needs, plan, profiles, workflow
from dereason_utils import memory_model as memory
from dereason_utils.errors import InputError

GB = needs.GB


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch):
    monkeypatch.setattr(plan, "found_gpus", list)
    monkeypatch.setattr(plan, "driver_cuda", lambda: None)
    monkeypatch.setattr(plan, "_token", lambda: False)


def with_share(share):
    """A profile whose vLLM, inside the training process, takes that part of the card."""
    return profiles.load("single_gpu", {"hardware.memory_share": share})


def card(gigabytes, cards=1):
    return replace(plan.machine_for(profiles.load("single_gpu"), gigabytes), cards=cards)


COMPUTER = needs.Machine(needs.CPU, 1, 8 * GB, gpu=False)


def by_stage(profile, machine):
    return {need.stage: need for need in needs.needs(profile, machine)}


@pytest.mark.parametrize("name", ["smoke", "cpu", "nano"])
def test_the_cpu_profiles_fit_and_every_step_counts(name, capsys):
    assert plan.main(["--profile", name]) == 0
    shown = capsys.readouterr().out
    profile = profiles.load(name)
    assert (
        f"Plan of profile {name}: {len(workflow.steps(profile))} steps. All numbers are estimates." in shown
    )
    machine = plan.machine_for(profile, None)
    assert sum(need.steps for need in needs.needs(profile, machine)) == len(workflow.steps(profile))
    assert "Assumed by us" in shown and "GPU           none found here" in shown


def test_qlora_on_one_card_by_its_parts():
    need = by_stage(profiles.load("single_gpu"), card(24))["03_sft"]
    assert need.parts["weights"] == pytest.approx(
        2.65 * GB, rel=0.01
    )  # 3.6e9 parameters in 4 bits, 0.4e9 in 16
    assert need.parts["optimizer"] == 2 * need.parts["adapters"]
    assert need.total < 24 * GB


def test_vllm_takes_its_share_and_no_more():
    machine = card(24)
    needed = by_stage(with_share(0.5), machine)
    assert needed["05_eval"].total == pytest.approx(0.85 * 24 * GB)
    assert needed["04_grpo"].parts["KV cache"] == pytest.approx(12 * GB - needed["04_grpo"].parts["weights"])


def test_cards_share_out_what_full_finetuning_keeps():
    profile = profiles.load("paper")
    one, eight = (by_stage(profile, card(80, cards))["03_sft"].parts for cards in (1, 8))
    for name in ("weights", "gradients", "optimizer"):
        assert one[name] == 8 * eight[name]
    assert one["activations"] == eight["activations"]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("profile", "memory_gb", "says"),
    [
        (profiles.load("cpu", {"grpo.group_size": 512}), None,
         "04_grpo needs .* lower grpo.prompts_per_step or grpo.group_size"),
        (with_share(0.12), 24, "one sequence .* raise hardware.memory_share"),
        (with_share(0.95), 24, "04_grpo needs .* or lower hardware.memory_share"),
        (profiles.load("single_gpu", {"sft.micro_batch_size": 128}), 24, "03_sft .* lower sft.micro_batch_size"),
        (profiles.load("single_gpu"), 8, "01_score leaves vLLM .* raise judge.memory_share"),
        (profiles.load("paper"), 80, "03_sft .* model.max_length, or share it out over more cards"),
        (profiles.load("single_gpu", {"model.load_in_4bit": False, "sft.micro_batch_size": 32}), 24,
         "03_sft .* or set model.load_in_4bit"),
    ],
)  # fmt: skip
def test_what_cannot_fit_is_refused_with_the_setting_to_change(profile, memory_gb, says):
    machine = card(memory_gb) if memory_gb else COMPUTER
    with pytest.raises(InputError, match=says) as caught:
        needs.refuse(profile, needs.needs(profile, machine), machine)
    assert "\n" not in str(caught.value)


@pytest.mark.fault
def test_exit_status_and_sentence(capsys):
    assert plan.main(["--profile", "single_gpu"]) == 2
    assert "needs a GPU and none is found here" in capsys.readouterr().err
    assert plan.main(["--profile", "single_gpu", "--card-memory", "12", "--price", "3"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("Error: 04_grpo needs") and captured.err.count("\n") == 1
    assert "at 3 per card and hour" in captured.out and "gpqa_diamond: no token found" in captured.out


@pytest.mark.fault
def test_gated_data_without_a_token_and_a_full_disk_are_refused(monkeypatch):
    profile = profiles.load("single_gpu")
    with pytest.raises(
        InputError, match=r"gpqa is gated.*accept its terms at .* set HF_TOKEN .*corpus\.benchmark"
    ):
        plan.check_access(profile)
    monkeypatch.setattr(plan, "_token", lambda: True)
    plan.check_access(profile)
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    with pytest.raises(InputError, match="1.0 GB free and the run needs about"):
        plan.check_disk(profile, gpu=True)


@pytest.mark.fault
def test_what_01_reads_needs_access_too_whatever_is_evaluated():
    """It compares a web corpus with all of the benchmarks."""
    profile = profiles.load("single_gpu", {"eval.benchmarks": ["math500"]})
    assert list(plan.gated(profile)) == [("gpqa_diamond", "corpus.benchmark_folder")]
    local = {"corpus.benchmark_folder": "shared"}
    with pytest.raises(InputError, match=r"or set eval\.benchmark_folder to a folder"):
        plan.check_access(profiles.load("single_gpu", local))
    plan.check_access(profiles.load("single_gpu", local | {"eval.benchmark_folder": "shared"}))
    assert not list(plan.gated(profiles.load("cpu")))


def test_the_disk_holds_what_is_fetched_and_a_policy_of_16_bits_per_training_on_a_gpu():
    profile = profiles.load("single_gpu")  # 3 SFTs, 3 RLs; judge and teacher are one model
    policy = memory.BFLOAT16 * memory.QWEN3_4B.parameters
    checkpoints = 9 * memory.adapters(memory.QWEN3_4B, needs.precision_of(profile.model, gpu=True))
    assert plan.disk_need(profile, gpu=True) == pytest.approx(8 * policy + checkpoints)
    elsewhere = profiles.load("single_gpu", {"judge.via": "http://a:1", "teacher.via": "http://a:1"})
    verified = profiles.load("single_gpu", {"eval.model_verifier": "some/verifier@" + "a" * 40})
    assert plan.disk_need(elsewhere, gpu=True) == plan.disk_need(profile, gpu=True) - policy
    assert plan.disk_need(verified, gpu=True) == plan.disk_need(profile, gpu=True) + policy


def test_on_a_cpu_a_policy_is_an_adapter():
    assert plan.disk_need(profiles.load("cpu"), gpu=False) < 1 * GB


def test_all_parameters_with_a_kl_term_need_a_reference_beside_the_policy():
    """TRL's GRPOTrainer loads none where it can switch an adapter off, or where the term has no weight."""
    paper = profiles.load("paper")
    parts = by_stage(paper, card(80, 8))["04_grpo"].parts
    assert parts["reference"] == memory.FLOAT32 * memory.QWEN3_4B.parameters / 8
    without = by_stage(profiles.load("paper", {"grpo.kl_weight": 0.0}), card(80, 8))["04_grpo"].parts
    adapter = by_stage(profiles.load("single_gpu", {"grpo.kl_weight": 0.1}), card(80))["04_grpo"].parts
    assert "reference" not in without and "reference" not in adapter


def test_a_gpus_versions_are_those_of_its_lock(capsys):
    plan.main(["--profile", "single_gpu", "--preset", "24gb"])
    shown = capsys.readouterr().out
    for name in ("torch", "vllm"):
        assert f"{name} {plan.gpu_pins()[name]}" in shown
    assert "to be installed, from requirements-gpu.lock" in shown and "not installed" not in shown


@pytest.mark.fault
@pytest.mark.parametrize(
    ("page", "cuda", "too_old"),
    [
        ("| NVIDIA-SMI 550.54  Driver Version: 550.54  CUDA Version: 12.4     |", "12.4", True),
        ("| NVIDIA-SMI 580.82  KMD Version: 580.82  CUDA UMD Version: 13.0  |", "13.0", False),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", None, False),
    ],
)
def test_a_driver_that_is_too_old_is_refused(page, cuda, too_old, tmp_path, monkeypatch):
    """A program that prints such a page stands in for NVIDIA's, which is not here."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "{page}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(plan, "driver_cuda", doctor.driver_cuda)
    assert doctor.driver_cuda() == cuda
    if not too_old:
        plan.check_driver(card(24))
        return
    plan.check_driver(COMPUTER)
    with pytest.raises(
        InputError, match=r"driver runs CUDA 12\.4 at most .* built for 13\.\d: update the driver"
    ):
        plan.check_driver(card(24))


@pytest.mark.fault
def test_a_model_of_unknown_shape_is_named(tmp_path):
    with pytest.raises(InputError, match="'some/model' cannot be read"):
        needs.shape_of("some/model")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be read"):
        needs.shape_of(str(tmp_path))


def test_a_local_models_shape_is_read_from_its_config(tmp_path):
    import small_policy

    shape = needs.shape_of(str(small_policy.build(tmp_path)))
    assert (shape.hidden, shape.layers, shape.kv_heads) == (64, 2, 1)
    assert needs.shape_of("Qwen/Qwen3-4B-Base") == memory.QWEN3_4B


@pytest.mark.parametrize("preset", profiles.presets("single_gpu"))
def test_every_preset_fits_the_card_that_it_is_named_after(preset, capsys):
    plan.main(["--profile", "single_gpu", "--preset", preset])
    assert f"planned for   1 x {preset.removesuffix('gb')} GB" in capsys.readouterr().out
    profile = profiles.load("single_gpu", {"preset": preset})
    machine = plan.machine_for(profile, None, preset)
    needs.refuse(profile, needs.needs(profile, machine), machine)


def test_the_paper_fits_eight_cards_of_80_gb():
    profile = profiles.load("paper")
    machine = plan.machine_for(profile, 80)
    assert machine.cards == 8
    needs.refuse(profile, needs.needs(profile, machine), machine)


def test_the_own_sampler_on_a_card_takes_no_more_rows_than_fit():
    profile = profiles.load("single_gpu", {"hardware.sampler": "own"})
    machine = card(24)
    needs.refuse(profile, needs.needs(profile, machine), machine)
    assert by_stage(profile, machine)["05_eval"].parts["KV cache"] < machine.memory / 2


@pytest.mark.fault
def test_fewer_cards_than_processes_are_refused(monkeypatch):
    monkeypatch.setattr(plan, "found_gpus", lambda: [("card", 80 * GB)] * 4)
    with pytest.raises(InputError, match=r"trains on 8 GPUs and 4 are found here: set hardware\.processes"):
        plan.machine_for(profiles.load("paper"), None)
    assert plan.machine_for(profiles.load("paper", {"hardware.processes": 4}), None).cards == 4


def test_a_second_card_halves_the_hours_of_training():
    profile = profiles.load("single_gpu")
    need = by_stage(profile, card(48))["03_sft"]
    one, two = (needs.hours(need, profile, card(48, cards)) for cards in (1, 2))
    assert one == pytest.approx(2 * two)
    # 6 operations a parameter and token (LoRA, blocks computed again) at the assumed share of the card's speed.
    speed = needs.CARDS[1].operations * needs.TRAINING_SHARE
    assert one * 3600 == pytest.approx(6 * memory.QWEN3_4B.parameters * need.trained / speed)


@pytest.mark.parametrize(
    ("begin", "name", "memory_gb", "preset"),
    [
        ("| 24gb ", "single_gpu", 24, "24gb"),
        ("| 48gb ", "single_gpu", 48, "48gb"),
        ("| 80gb ", "single_gpu", 80, "80gb"),
        ("| `paper`, 8 x", "paper", 80, None),
    ],
)
def test_the_readme_shows_what_the_plan_says(begin, name, memory_gb, preset):
    text = (profiles.FOLDER / "README.md").read_text(encoding="utf-8")
    [line] = [line for line in text.splitlines() if line.startswith(begin)]
    profile = profiles.load(name, {"preset": preset} if preset else {})
    machine = plan.machine_for(profile, memory_gb)
    made = plan.table(profile, needs.needs(profile, machine), machine, 0).set_index("stage")
    most, hours = made["GB"].astype(float), made["hours"]
    answering, training = ["01_score", "02_split"], ["03_sft", "04_grpo"]
    told = hours[answering].sum(), *hours[[*training, "05_eval"]], hours.sum()
    shown = [
        f"{most[training].max():.1f} / {most[answering].max():.1f}",
        *(f"{number:.1f}" for number in told),
        f"{plan.disk_need(profile, gpu=True) / GB:.0f}",
    ]
    assert [cell.strip().removesuffix(" a card") for cell in line.split("|")[2:-1]] == shown
