"""What a GPU will be asked, held against the sources of the releases in requirements-gpu.lock.

`make test-contracts` runs them: vLLM's wheel has 315 MB. Nothing of the wheels is imported or run, but Unsloth's own
checks of trainer settings (their text is constant in its source), which must leave ours as they are.
"""

import ast
import inspect
import os

import pytest
import wheels

from dereason_utils import gpu, grpo, paths, profiles, run, sft

pytestmark = pytest.mark.skipif(
    "DEREASON_CONTRACTS" not in os.environ, reason="downloads 350 MB of wheels: make test-contracts"
)
GPU_PROFILES = [("single_gpu", preset) for preset in profiles.presets("single_gpu")] + [("paper", None)]
LOADER, LLAMA = "unsloth/models/loader.py", "unsloth/models/llama.py"
RL, REPLACED = "unsloth/models/rl.py", "unsloth/models/rl_replacements.py"


class Policy:
    """What trainer_settings asks of a model: its precision, and the device (no tensor is made)."""

    import torch

    dtype, device = torch.bfloat16, torch.device("cuda")


def gpu_fields(name, preset, monkeypatch):
    """(fields of SFTConfig, fields of GRPOConfig) as a GPU would get them."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    profile = profiles.load(name, {"preset": preset})
    rl = grpo.trainer_settings(Policy, profile.grpo, 0)
    rl |= gpu.rollout_settings(profile.hardware, profile.model.max_length, [1, 2])
    return sft.trainer_settings(Policy, 1000, True, profile.sft, 0), rl


def text_of(package, path, name):
    return ast.unparse(wheels.find(wheels.module(package, path), name))


# ---- Unsloth: loading, merging, sampling ----


def test_loading_a_policy_binds():
    (call,) = wheels.own_calls("models.py", "from_pretrained")[-1:]
    tree = wheels.module("unsloth", LOADER)
    loader = wheels.find(tree, "FastLanguageModel.from_pretrained")
    positional, names, takes_more = wheels.parameters(loader)
    given = {keyword.arg for keyword in call.keywords if keyword.arg}
    passed_on = {"use_safetensors"}  # Hugging Face's, which Unsloth hands through
    assert given - passed_on <= names and takes_more and positional[0] == "model_name"
    hardware = profiles.load("single_gpu").hardware
    assert set(gpu.engine_settings(hardware, 64)) <= names
    (call,) = wheels.own_calls("models.py", "get_peft_model")
    wheels.bind(
        call, wheels.find(wheels.module("unsloth", LLAMA), "FastLlamaModel.get_peft_model"), method=False
    )


def test_vllm_inside_unsloth_reads_no_revision_so_a_folder_is_given():
    """The reason of gpu.local_copy; when this fails, the hub id and its commit may be passed instead."""
    source = wheels.wheel("unsloth").read(LLAMA).decode()
    assert "Ignoring revision" in source
    source = ast.parse((paths.REPO / "dereason_utils" / "models.py").read_text())
    load = ast.unparse(wheels.find(source, "load_policy"))
    assert (
        "local_copy(where, settings.revision)" in load
        and "revision=None if gpu else settings.revision" in load
    )


def test_merging_binds():
    (call,) = wheels.own_calls("models.py", "save_pretrained_merged")
    function = wheels.find(wheels.module("unsloth", "unsloth/save.py"), "unsloth_save_pretrained_merged")
    wheels.bind(call, function, method=True)
    assert "merged_16bit" in ast.unparse(function)
    assert "merged_16bit" in ast.unparse(call)


def test_sampling_with_unsloths_vllm_binds():
    source = wheels.wheel("unsloth").read(LLAMA).decode()
    assert "model.fast_generate = model.vllm_engine.generate" in source
    (call,) = wheels.own_calls("gpu.py", "fast_generate")
    engine = wheels.find(wheels.module("vllm", "vllm/entrypoints/llm.py"), "LLM")
    wheels.bind(call, wheels.find(engine, "generate"), method=True)
    (call,) = wheels.own_calls("gpu.py", "load_lora")
    lora = wheels.find(wheels.module("unsloth-zoo", "unsloth_zoo/vllm_utils.py"), "load_lora")
    wheels.bind(call, lora, method=True)  # its first parameter is the model
    # The log-probabilities are those of the tempered distribution, as the entropy of our own sampler is.
    assert "'processed_logprobs' if training" in text_of(
        "unsloth-zoo", "unsloth_zoo/vllm_utils.py", "load_vllm"
    )


def test_unsloth_samples_rollouts_from_the_adapter_and_not_from_the_base_model():
    """The fault before August 2026: rollouts came from the base model, silently."""
    patch = text_of("unsloth", REPLACED, "vllm_generation_init_patch")
    assert "lora_request" in patch and "load_lora(lora_name, load_tensors=True)" in patch


# ---- vLLM ----


def test_sampling_arguments_are_vllms():
    known = wheels.fields(wheels.module("vllm", "vllm/sampling_params.py"), "SamplingParams")
    for file in ("gpu.py", "chat.py", "vllm_sampling.py"):
        (call,) = wheels.own_calls(file, "SamplingParams")
        assert {keyword.arg for keyword in call.keywords} <= known and not call.args
    rollouts = gpu.rollout_settings(profiles.load("single_gpu").hardware, 4096, [1])
    assert set(rollouts["generation_kwargs"]) <= known


def test_engine_arguments_are_vllms():
    engine = wheels.find(wheels.module("vllm", "vllm/entrypoints/llm.py"), "LLM")
    names = wheels.parameters(wheels.find(engine, "__init__"))[1]
    names |= wheels.fields(wheels.module("vllm", "vllm/engine/arg_utils.py"), "EngineArgs")
    (call,) = wheels.own_calls("vllm_sampling.py", "LLM")
    assert {keyword.arg for keyword in call.keywords if keyword.arg} <= names
    (call,) = wheels.own_calls("chat.py", "chat")
    mixins = [
        wheels.module("vllm", path)
        for path in wheels.wheel("vllm").namelist()
        if path.endswith("offline_utils.py")
    ]
    owner = next(
        tree for tree in [wheels.module("vllm", "vllm/entrypoints/llm.py"), *mixins] if _has(tree, "chat")
    )
    wheels.bind(call, wheels.find(owner, "chat"), method=True)


def test_an_engine_can_be_shut_down_and_gives_its_memory_back():
    """What vllm_sampling.release calls, whether the engine runs in this process or beside it."""
    clients = wheels.module("vllm", "vllm/v1/engine/core_client.py")
    for client in ("InprocClient", "MPClient"):
        wheels.find(clients, f"{client}.shutdown")
    assert "static_forward_context.clear()" in text_of(
        "vllm", "vllm/v1/worker/gpu_model_runner.py", "GPUModelRunner.shutdown"
    )
    source = wheels.wheel("unsloth").read(LLAMA).decode()
    assert "model.fast_generate_batches = functools.partial(generate_batches, model.vllm_engine)" in source


def _has(tree, name):
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in ast.walk(tree))


def test_what_we_read_of_a_reply_is_there():
    known = wheels.fields(wheels.module("vllm", "vllm/outputs.py"), "CompletionOutput")
    assert {"token_ids", "finish_reason", "logprobs", "text"} <= known
    prompt = wheels.module("vllm", "vllm/inputs/llm.py")
    assert "prompt_token_ids" in wheels.fields(prompt, "TokensPrompt")


# ---- TRL ----


def config_fields(package_class):
    """The fields of a TRL config: its own, its base's and transformers' (installed, the same release on both scales)."""
    import transformers

    path = "trl/trainer/sft_config.py" if package_class == "SFTConfig" else "trl/trainer/grpo_config.py"
    known = wheels.fields(wheels.module("trl", path), package_class)
    known |= wheels.fields(wheels.module("trl", "trl/trainer/base_config.py"), "_BaseConfig")
    return known | set(inspect.signature(transformers.TrainingArguments).parameters)


@pytest.mark.parametrize(("name", "preset"), GPU_PROFILES)
def test_every_field_that_is_set_exists(name, preset, monkeypatch):
    for_sft, for_grpo = gpu_fields(name, preset, monkeypatch)
    assert set(for_sft) <= config_fields("SFTConfig") and set(for_grpo) <= config_fields("GRPOConfig")


def test_the_parts_of_trls_trainers_that_are_replaced_are_there():
    tree = wheels.module("trl", "trl/trainer/grpo_trainer.py")
    names, trainer = (
        wheels.parameters(wheels.find(tree, "GRPOTrainer.__init__"))[1],
        wheels.find(tree, "GRPOTrainer"),
    )
    assert {
        "model",
        "processing_class",
        "args",
        "train_dataset",
        "reward_funcs",
        "rollout_func",
        "callbacks",
    } <= names
    own = {node.name: node for node in trainer.body if isinstance(node, ast.FunctionDef)}
    assert wheels.parameters(own["_generate"])[0] == ["self", "prompts"]
    returned = [node.value for node in ast.walk(own["_generate"]) if isinstance(node, ast.Return)][-1]
    assert [ast.unparse(part) for part in returned.elts][-4:] == [
        "logprobs",
        "extra_fields",
        "images",
        "tool_images",
    ]
    # What _generate adds reaches the reward function.
    assert "extra_fields.items()" in ast.unparse(own["_generate_and_score_completions"])


def test_vllms_stop_tokens_reach_its_sampling_arguments():
    source = text_of("trl", "trl/generation/vllm_generation.py", "VLLMGeneration.generate")
    assert "generation_kwargs.update(self.generation_kwargs)" in source
    assert "'generation_kwargs': self.generation_kwargs" in source  # behind an address


def test_the_server_of_the_readme_knows_its_options():
    known = wheels.fields(wheels.module("trl", "trl/scripts/vllm_serve.py"), "ScriptArguments")
    assert {"model", "max_model_len", "gpu_memory_utilization", "port", "tensor_parallel_size"} <= known


# ---- Unsloth's changes of TRL's settings ----


def unsloths_defaults():
    """Every setting whose default Unsloth changes for SFT or GRPO: name -> value, from the tables in its source."""
    tables = [
        node.value
        for node in ast.walk(wheels.module("unsloth", RL))
        if isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) == "replacements"
        and isinstance(node.value, ast.Dict)
    ]
    changed = {}
    for table in tables:
        changed |= ast.literal_eval(table)
    return changed | {"warmup_steps": 0.1}


@pytest.mark.parametrize(("name", "preset"), GPU_PROFILES)
def test_no_setting_is_left_to_a_default_that_unsloth_changes(name, preset, monkeypatch):
    changed = set(unsloths_defaults()) - {"output_dir"}  # given where the config is made
    assert len(changed) > 25
    for fields, config in zip(
        gpu_fields(name, preset, monkeypatch), ("SFTConfig", "GRPOConfig"), strict=True
    ):
        assert (changed & config_fields(config)) - set(fields) == set(), config


CHECKS = (
    "learning_rate_check",
    "num_train_epochs_check",
    "saving_check",
    "check_dr_grpo",
    "check_num_generations",
)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("name", "preset"), GPU_PROFILES)
def test_unsloths_checks_leave_our_settings_as_they_are(name, preset, check, monkeypatch, capsys):
    codes = [
        node.value.value
        for node in ast.walk(wheels.module("unsloth", RL))
        if isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) == check
        and isinstance(node.value, ast.Constant)
    ]
    assert codes
    given = {**gpu_fields(name, preset, monkeypatch)[1], "output_dir": "x", "num_train_epochs": 3.0}
    given |= {"steps_per_generation": None, "_unsloth_default_loss_type": False}
    after = dict(given)
    exec(codes[0], {"os": os}, after)  # noqa: S102 (constant text of a pinned release)
    assert {key: after[key] for key in given} == given
    assert "change" not in capsys.readouterr().out


def test_unsloths_loss_makes_the_logits_again():
    name = "UNSLOTH_GRPO_LOGPROB_RECOMPUTE"
    loss = text_of("unsloth-zoo", "unsloth_zoo/rl_replacements.py", "grpo_accumulated_loss")
    assert f"os.environ.get('{name}', '0') == '1'" in loss and run.ENVIRONMENT[name] == "1"
    # And reads a step's rollouts by the same function before the update, not by a graph with four parts for each.
    before = text_of("unsloth", REPLACED, "grpo_trainer__get_per_token_logps_and_entropies")
    (choice,) = (
        ast.unparse(node.body)
        for node in ast.walk(ast.parse(before))
        if isinstance(node, ast.If) and ast.unparse(node.test) == f"os.environ.get('{name}', '0') == '1'"
    )
    assert (
        "chunked_hidden_states_selective_log_softmax_recompute as chunked_hidden_states_selective_log_softmax"
        in choice
    )


def test_unsloths_other_changes_do_not_apply():
    """It turns micro-batches into multiples of the group only for trainers that say this."""
    trainer = wheels.wheel("trl").read("trl/trainer/grpo_trainer.py").decode()
    assert "divisible by the number of generations" not in trainer
