"""The decisions that a GPU brings: what is loaded how, and what vLLM is asked. The libraries' calls are recorded.

No GPU is here, so Unsloth's loader and vLLM's engine are stood in for; tests/test_contracts.py holds the same calls
against their sources.
"""

import json
import sys
from types import SimpleNamespace

import pytest
import small_policy
import torch
import unsloth

from dereason_utils import generate, gpu, models, profiles, training
from dereason_utils.errors import InputError


@pytest.fixture
def loads(tmp_path, monkeypatch):
    """Loads policies as on a GPU and keeps what Unsloth was asked: (load, asked)."""
    folder = small_policy.build(tmp_path / "base")
    real = models.load_policy(str(folder), small_policy.settings(folder), 0, train=True)
    asked = {}

    def from_pretrained(name, **options):
        asked.update(loaded=name, **options)
        return real

    def get_peft_model(model, **options):
        asked.update(adapter=options)
        return model

    monkeypatch.setattr(unsloth.FastLanguageModel, "from_pretrained", from_pretrained)
    monkeypatch.setattr(unsloth.FastLanguageModel, "get_peft_model", get_peft_model)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def load(name, preset=None, with_hardware=False, **options):
        asked.clear()
        profile = profiles.load(name, {"preset": preset})
        settings = profile.model.model_copy(update={"prompt_style": "plain"})
        hardware = profile.hardware if with_hardware else None
        models.load_policy(str(folder), settings, 0, hardware=hardware, **options)
        return asked

    return load, folder


def test_a_small_card_trains_four_bits_and_a_larger_one_sixteen(loads):
    load, folder = loads
    asked = load("single_gpu", train=True)
    assert asked["load_in_4bit"] and not asked["full_finetuning"] and asked["dtype"] == torch.bfloat16
    assert asked["loaded"] == str(folder) and asked["revision"] is None and asked["adapter"]["r"] == 64
    assert "fast_inference" not in asked  # SFT keeps the memory for itself
    assert not load("single_gpu", "80gb", train=True)["load_in_4bit"]


def test_grpo_puts_a_fresh_adapter_on_the_merged_policy_and_shares_it_with_vllm(loads, tmp_path):
    load, _ = loads
    merged = small_policy.build(tmp_path / "merged")
    asked = load("single_gpu", with_hardware=True, train=True, policy=merged)
    assert asked["loaded"] == str(merged) and asked["adapter"]["r"] == asked["max_lora_rank"] == 64
    assert asked["fast_inference"] and asked["gpu_memory_utilization"] == 0.5


def test_evaluation_has_sixteen_bits_no_adapter_and_vllm(loads, tmp_path):
    load, _ = loads
    for name in ("single_gpu", "paper"):
        asked = load(name, with_hardware=True, train=False)
        assert asked["fast_inference"] and not asked["load_in_4bit"] and not asked["full_finetuning"]
        assert "adapter" not in asked and asked["dtype"] == torch.bfloat16


def test_the_kernel_of_several_processes_holds_sixteen_bits_and_no_vllm(loads):
    load, _ = loads
    asked = load("paper", with_hardware=True, train=True)
    assert "fast_inference" not in asked and "adapter" not in asked
    assert not asked["full_finetuning"] and asked["dtype"] == torch.bfloat16


def test_a_trained_adapter_is_merged_on_a_gpu_and_kept_apart_on_a_cpu(tmp_path, monkeypatch):
    folder = small_policy.build(tmp_path / "base")
    model, tokenizer = models.load_policy(str(folder), small_policy.settings(folder), 0, train=True)
    models.save_policy(model, tokenizer, tmp_path / "cpu")
    assert (tmp_path / "cpu" / "adapter_model.safetensors").is_file()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    models.save_policy(model, tokenizer, tmp_path / "gpu")
    models.check_weights(tmp_path / "gpu")
    assert not (tmp_path / "gpu" / "adapter_model.safetensors").exists()
    assert json.loads((tmp_path / "gpu" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


class SamplingParams(SimpleNamespace):
    pass


def test_vllm_is_asked_for_every_copy_with_its_own_seed_and_our_end_tokens(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=SamplingParams))
    asked = {}

    def fast_generate(prompts, sampling_params, lora_request, use_tqdm):
        asked.update(prompts=prompts, sampling=sampling_params, adapter=lora_request)
        at = [{token: SimpleNamespace(logprob=-1.5)} for token in (5, 6)]
        one = SimpleNamespace(token_ids=(5, 6), finish_reason="stop", logprobs=at)
        at = [{token: SimpleNamespace(logprob=-0.5)} for token in (5, 6, 7)]
        cut = SimpleNamespace(token_ids=(5, 6, 7), finish_reason="length", logprobs=at)
        return [SimpleNamespace(outputs=[one, cut]) for _ in prompts]

    model = SimpleNamespace(
        device=torch.device("cuda"), vllm_engine=True, fast_generate=fast_generate, peft_config={},
        load_lora=lambda folder, load_tensors: ("adapter", load_tensors),
        generation_config=SimpleNamespace(eos_token_id=[2, 9]),
    )  # fmt: skip
    seen = []
    drawn = generate.sample(
        model, SimpleNamespace(eos_token_id=4), [[1, 2], [3]], copies=2, max_new_tokens=3, temperature=0.7, seed=10,
        batch_size=1, on_batch=lambda done, batch: seen.append((done, len(batch))),
    )  # fmt: skip
    first = generate.Completion([5, 6], True, 1.5, [-1.5, -1.5])
    second = generate.Completion([5, 6, 7], False, 0.5, [-0.5] * 3)
    assert drawn == [[first, second]] * 2 and seen == [(2, 4)]
    assert asked["prompts"] == [{"prompt_token_ids": [1, 2]}, {"prompt_token_ids": [3]}]
    assert asked["adapter"] == ("adapter", True)
    assert [params.seed for params in asked["sampling"]] == [10 * 1_000_003, 10 * 1_000_003 + 2]
    assert all(params.stop_token_ids == [2, 4, 9] and params.n == 2 for params in asked["sampling"])


def test_no_two_completions_of_an_evaluation_share_a_seed(monkeypatch):
    """Its batches have seeds one apart (evaluate._sample), as rollouts and ratings have."""
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=SamplingParams))
    seeds = []

    def fast_generate(prompts, sampling_params, **_):
        seeds.extend(params.seed + copy for params in sampling_params for copy in range(params.n))
        return []

    model = SimpleNamespace(fast_generate=fast_generate)
    for batch in range(200):
        gpu.by_vllm(model, None, [[1]] * 32, [2], 8, 3, 0.7, 7 * 1_000_003 + batch)
    assert len(set(seeds)) == len(seeds) == 200 * 32 * 8 and max(seeds) < 2**32


def test_the_cache_of_generate_is_cut_to_the_free_memory(monkeypatch):
    config = SimpleNamespace(
        num_hidden_layers=36, num_key_value_heads=8, head_dim=128, hidden_size=2560, num_attention_heads=32
    )
    model = SimpleNamespace(device=torch.device("cuda"), config=config)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20 * 10**9, 24 * 10**9))
    # 147,456 bytes a token of Qwen3-4B; half of 20 GB over 4096 tokens a row.
    assert gpu.rows_that_fit(model, 4096) == int(10**10 / (147456 * 4096))


def test_the_shipped_fsdp_settings_are_accelerates(tmp_path):
    from accelerate import FullyShardedDataParallelPlugin
    from transformers import TrainingArguments

    arguments = TrainingArguments(
        str(tmp_path), fsdp=True, fsdp_config=str(training.FSDP), use_cpu=True
    ).fsdp_plugin_args
    plugin = FullyShardedDataParallelPlugin(**arguments)
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward and plugin.activation_checkpointing
    assert "FULL_STATE_DICT" in str(plugin.state_dict_type)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, "vLLM is not installed: set hardware.sampler to own"),
        ({"server": "http://localhost:8000"}, "hardware.server hands weights over between GPUs"),
    ],
)
def test_vllm_on_a_cpu_that_cannot_be_had_is_one_sentence(tmp_path, monkeypatch, changed, says):
    folder = small_policy.build(tmp_path / "base")
    monkeypatch.setitem(sys.modules, "vllm", None)
    hardware = profiles.load("cpu").hardware.model_copy(update={"sampler": "vllm", **changed})
    with pytest.raises(InputError, match=says) as caught:
        models.load_policy(str(folder), small_policy.settings(folder), 0, train=True, hardware=hardware)
    assert "\n" not in str(caught.value)
