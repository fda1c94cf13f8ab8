"""What the profile says is what TRL's real settings hold, with Unsloth imported; tests/test_contracts.py does the GPU's part."""

import unsloth  # noqa: F401 (before trl)  # isort: skip
import pandas as pd
import pytest
import small_policy
import torch
from trl import GRPOConfig, SFTConfig

from dereason_utils import generate, gpu, grpo, models, processor, profiles, sft
from dereason_utils.errors import InputError

VARIANTS = [(name, None) for name in profiles.names()] + [
    ("single_gpu", preset) for preset in profiles.presets("single_gpu")
]


class Policy:
    """What trainer_settings asks of a model."""

    dtype, device = torch.bfloat16, torch.device("cpu")


def expected_of_all(seed):
    return {
        "seed": seed, "data_seed": seed, "optim": "adamw_torch_fused", "fp16": False, "report_to": [], "logging_steps": 1,
        "logging_nan_inf_filter": False, "save_strategy": "steps", "save_total_limit": 2, "auto_find_batch_size": False,
        "eval_accumulation_steps": 1, "include_num_input_tokens_seen": "no", "torch_empty_cache_steps": None,
        "router_aux_loss_coef": None, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8,
        "lr_scheduler_kwargs": None, "dataloader_drop_last": False, "label_smoothing_factor": 0.0, "use_liger_kernel": False,
    }  # fmt: skip


@pytest.mark.parametrize(("name", "preset"), VARIANTS)
def test_sft_settings_resolve_to_the_profile(name, preset, tmp_path):
    profile = profiles.load(name, {"preset": preset})
    given = sft.trainer_settings(Policy, 640, True, profile.sft, 7)
    config = SFTConfig(output_dir=str(tmp_path), **given)
    settings = profile.sft
    steps = -(-640 // settings.batch_size) * settings.epochs
    table = expected_of_all(7) | {
        "num_train_epochs": settings.epochs, "per_device_train_batch_size": settings.micro_batch_size,
        "per_device_eval_batch_size": settings.micro_batch_size, "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule, "warmup_steps": int(settings.warmup_share * steps),
        "weight_decay": settings.weight_decay, "max_grad_norm": settings.max_grad_norm, "max_length": None,
        "packing": False, "padding_free": False, "completion_only_loss": True, "loss_type": "chunked_nll",
        # Unsloth takes it back where the processor has no instructions for it; load_policy then loads float32 (test_models.py).
        "bf16": bool(processor.BFLOAT16 & processor.info()[1]),
        "eval_strategy": "steps", "max_steps": -1,
    }  # fmt: skip
    assert given["bf16"] and {key: getattr(config, key) for key in table} == table
    assert config.per_device_train_batch_size * config.gradient_accumulation_steps == settings.batch_size


@pytest.mark.parametrize(("name", "preset"), VARIANTS)
def test_grpo_settings_resolve_to_the_profile(name, preset, tmp_path):
    profile = profiles.load(name, {"preset": preset})
    settings, given = profile.grpo, grpo.trainer_settings(Policy, profile.grpo, 7)
    if by_vllm := profile.hardware.sampler == "vllm":
        given |= gpu.rollout_settings(profile.hardware, profile.model.max_length, [5, 6])
    config = GRPOConfig(output_dir=str(tmp_path), **given)
    table = expected_of_all(7) | {
        "num_generations": settings.group_size, "max_completion_length": settings.max_completion,
        "temperature": settings.temperature, "top_p": 1.0, "top_k": -1 if by_vllm else 0, "min_p": None,
        "repetition_penalty": 1.0, "learning_rate": settings.learning_rate, "weight_decay": settings.weight_decay,
        "lr_scheduler_type": {"constant": "constant_with_warmup"}.get(settings.schedule, settings.schedule),
        "max_grad_norm": settings.max_grad_norm, "beta": settings.kl_weight, "epsilon": settings.clip_low,
        "epsilon_high": settings.clip_high, "delta": None, "loss_type": settings.loss, "entropy_coef": 0.0,
        "scale_rewards": "group" if settings.scale_rewards else "none", "num_iterations": 1,
        "mask_truncated_completions": settings.mask_truncated, "importance_sampling_level": "token",
        "max_steps": settings.steps * settings.updates_per_step, "shuffle_dataset": True, "top_entropy_quantile": 1.0,
        "generation_batch_size": settings.prompts_per_step * settings.group_size, "sync_ref_model": False,
        "use_vllm": by_vllm, "vllm_mode": "colocate", "vllm_importance_sampling_correction": by_vllm,
        "off_policy_mask_threshold": None, "generation_kwargs": {"stop_token_ids": [5, 6]} if by_vllm else None,
    }  # fmt: skip
    assert {key: getattr(config, key) for key in table} == table
    per_update = config.per_device_train_batch_size * config.gradient_accumulation_steps
    assert per_update * settings.updates_per_step == config.generation_batch_size


@pytest.mark.parametrize("name", profiles.names())
def test_a_gpu_gets_the_same_settings_but_for_what_it_computes_with(name, monkeypatch):
    profile = profiles.load(name)
    on_cpu = [
        sft.trainer_settings(Policy, 640, True, profile.sft, 7),
        grpo.trainer_settings(Policy, profile.grpo, 7),
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Policy, "device", torch.device("cuda"))
    on_gpu = [
        sft.trainer_settings(Policy, 640, True, profile.sft, 7),
        grpo.trainer_settings(Policy, profile.grpo, 7),
    ]
    allowed = {"use_cpu", "gradient_checkpointing", "dataloader_pin_memory"}
    differing = [{key for key in a if a[key] != b[key]} for a, b in zip(on_cpu, on_gpu, strict=True)]
    assert differing == [allowed | {"loss_type"}, allowed]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = small_policy.build(tmp_path_factory.mktemp("policy"))
    return models.load_policy(str(folder), small_policy.settings(folder), 0, train=True)


def test_the_trainer_of_vllms_rollouts_logs_what_ours_logs(policy, tmp_path, monkeypatch):
    """GRPO with gpu.VllmGRPOTrainer, in which our own sampler stands where vLLM would draw."""
    model, tokenizer = policy

    class WithoutVllm(gpu.grpo_trainer_class()):
        def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, **_):
            drawn = generate.sample(
                self.model, tokenizer, prompt_ids[::num_generations], copies=num_generations, max_new_tokens=8,
                temperature=1.0, seed=1, batch_size=16,
            )  # fmt: skip
            tokens = [one.tokens for group in drawn for one in group]
            seen.extend(prompt_ids)
            return tokens, [[-0.5] * len(row) for row in tokens]

    seen = []
    hardware = profiles.load("single_gpu").hardware
    monkeypatch.setattr(gpu, "grpo_trainer_class", lambda: WithoutVllm)
    # Ours must run where vLLM is not installed; everything else of its settings stays.
    plain = gpu.rollout_settings
    off = {"use_vllm": False, "generation_kwargs": None, "top_k": 0}
    monkeypatch.setattr(gpu, "rollout_settings", lambda *arguments: plain(*arguments) | off)
    problems = pd.DataFrame(
        {"id": ["a", "b"], "question": ["Ann?", "How many?"], "answer": "7", "answer_type": "number"}
    )
    settings = profiles.load("smoke").grpo.model_copy(
        update={"steps": 2, "prompts_per_step": 2, "group_size": 4, "micro_batch_size": 4}
    )
    curve = grpo.train(model, tokenizer, problems, "plain", settings, tmp_path, 0, hardware, 64)
    assert curve["step"].tolist() == [1, 2]
    assert curve["entropy"].tolist() == pytest.approx([0.5, 0.5]) and (curve["rollout_s"] > 0).all()
    assert grpo.collect_rollouts(tmp_path, 2)["tokens"].max() <= 8
    from dereason_utils import prompts

    assert sorted(set(map(tuple, seen))) == sorted(
        tuple(prompts.tokenise_prompt(question, tokenizer, "plain")) for question in problems["question"]
    )


@pytest.mark.fault
def test_a_tokenizer_that_adds_tokens_to_a_prompt_is_refused(policy, monkeypatch):
    _, tokenizer = policy
    assert gpu.prompt_texts(["Ann?"], tokenizer, "plain")[0].endswith("Ann?\nSolution:\n")

    def with_start(text, **options):
        made = tokenizer(text, **options)
        return made if options.get("add_special_tokens") is False else {"input_ids": [0, *made["input_ids"]]}

    class Starting:
        name_or_path, chat_template = "starting", None
        all_special_tokens, added_tokens_decoder = (
            tokenizer.all_special_tokens,
            tokenizer.added_tokens_decoder,
        )
        __call__ = staticmethod(with_start)

    with pytest.raises(InputError, match=r"set hardware\.sampler to own"):
        gpu.prompt_texts(["Ann?"], Starting(), "plain")


def test_hugging_faces_generate_gives_completions_like_ours(policy):
    """On a GPU without vLLM (03_sft's looks): greedy tokens are those of our own sampler."""
    model, tokenizer = policy
    rows = [[5, 6, 7], [9, 8, 7, 6, 5], [4]]
    ours = generate.sample(model, tokenizer, rows, max_new_tokens=6, temperature=0, seed=0, batch_size=8)
    ends = generate.end_tokens(model, tokenizer)
    theirs = gpu.by_generate(model, tokenizer, rows, ends, 1, 6, 0.0, 0)
    assert [group[0][0] for group in theirs] == [group[0].tokens for group in ours]
    assert [group[0][1] for group in theirs] == [group[0].ended for group in ours]
    drawn = gpu.by_generate(model, tokenizer, rows, ends, 3, 6, 1.0, 0)
    assert [len(group) for group in drawn] == [3, 3, 3]


@pytest.mark.fault
def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def away(*_, **__):
        raise LocalEntryNotFoundError("cannot reach the hub\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", away)
    with pytest.raises(InputError, match="hf auth login") as caught:
        gpu.local_copy("some/model", "0" * 40)
    assert "\n" not in str(caught.value)
