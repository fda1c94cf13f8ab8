"""What a GPU does differently: where the policy's files are, and vLLM as the sampler of rollouts and evaluation.

Of it only `by_generate` and `correction_settings` are used on a CPU. tests/test_contracts.py holds every call against the sources of the
releases that requirements-gpu.lock pins.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from dereason_utils import prompts
from dereason_utils.errors import InputError, first_line
from dereason_utils.profiles import Hardware

_MODEL_FILES = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]
_CACHE_SHARE = 0.5  # of the free memory that `by_generate` fills with keys and values


def local_copy(where: str, revision: str | None) -> str:
    """The folder of a model that may be a hub id: vLLM inside Unsloth reads no revision but the newest.

    Raises InputError when the hub cannot be reached or does not have the commit.
    """
    if Path(where).is_dir():
        return where
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return snapshot_download(where, revision=revision, allow_patterns=_MODEL_FILES)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{where} at {revision} cannot be downloaded ({first_line(error)}): check the network and `hf auth login`, or "
            "set model.name to a folder with the model."
        ) from error


def engine_settings(hardware: Hardware | None, lora_rank: int) -> dict:
    """Arguments of Unsloth's `from_pretrained` that start vLLM on the same weights; none without it."""
    if hardware is None or hardware.sampler != "vllm":
        return {}
    return {
        "fast_inference": True,
        "gpu_memory_utilization": hardware.memory_share,
        "max_lora_rank": lora_rank,
    }


def rollout_settings(hardware: Hardware, max_length: int, ends: list[int]) -> dict:
    """The fields of TRL's GRPOConfig that have vLLM draw the rollouts.

    ends: token ids that end a completion. vLLM reads them from the model's files, where a base model names another
    one than the chat template's.
    """
    return {
        "use_vllm": True,
        "vllm_mode": "server" if hardware.server else "colocate",
        "vllm_server_base_url": hardware.server,
        "vllm_gpu_memory_utilization": hardware.memory_share,
        "vllm_max_model_length": max_length,
        "vllm_enable_sleep_mode": False,
        **correction_settings(hardware),
        "generation_kwargs": {"stop_token_ids": ends},
        "top_k": -1,  # all tokens; 0, which means the same to TRL, is changed to -1 by Unsloth
    }


def correction_settings(hardware: Hardware) -> dict:
    """Fields of GRPOConfig: each token counts by the ratio of trainer to sampler, capped; the two round differently."""
    return {
        "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": "token_truncate",
        "vllm_importance_sampling_clip_max": hardware.ratio_cap,
        "vllm_importance_sampling_clip_min": None,
    }


def prompt_texts(questions: Sequence[str], tokenizer, style: str) -> list[str]:
    """The prompts as TRL will tokenise them. Raises InputError if that gives other tokens than SFT and evaluation see."""
    texts = [
        prompts.render(prompts.policy_messages(question, style), tokenizer, style) for question in questions
    ]
    if texts and tokenizer(texts[0])["input_ids"] != prompts.tokenise_prompt(questions[0], tokenizer, style):
        raise InputError(
            f"The tokenizer of {tokenizer.name_or_path} puts tokens of its own around a prompt: vLLM's rollouts would not "
            "start where SFT's answers do; set hardware.sampler to own."
        )
    return texts


def sample(
    model, tokenizer, rows: list[list[int]], ends: list[int], *, copies: int, max_new_tokens: int, temperature: float,
    seed: int, on_batch: Callable, completion: type,
) -> list[list]:  # fmt: skip
    """`generate.sample` on a GPU: with vLLM if the policy was loaded with it, else with Hugging Face's `generate`.

    rows: tokenised prompts. completion: makes the result from (tokens, ended, entropy) and vLLM's log-probabilities.
    """
    draw = by_vllm if hasattr(model, "vllm_engine") else by_generate
    drawn = draw(model, tokenizer, rows, ends, copies, max_new_tokens, temperature, seed)
    results = [[completion(*parts) for parts in group] for group in drawn]
    on_batch(len(rows), [one for group in results for one in group])
    return results


def by_vllm(model, tokenizer, rows, ends, copies, max_new_tokens, temperature, seed) -> list[list[tuple]]:
    """(tokens, ended, entropy, log-probabilities) for each prompt and copy.

    vLLM gives the copies of a prompt seeds one apart, so each has its own, as in `vllm_sampling.draw`. The entropy is an
    estimate: the mean of -log p of what was drawn.
    """
    from vllm import SamplingParams

    from dereason_utils.vllm_sampling import first_seed

    sampling = [
        SamplingParams(
            n=copies, temperature=temperature, top_p=1.0, top_k=-1, max_tokens=max_new_tokens, logprobs=0,
            stop_token_ids=ends, seed=first_seed(seed) + number * copies, detokenize=False,
        )
        for number in range(len(rows))
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        # A folder that does not exist yet: only then are the adapter's settings written into it.
        adapter = (
            model.load_lora(str(Path(folder) / "adapter"), load_tensors=True)
            if hasattr(model, "peft_config")
            else None
        )
        asked = [{"prompt_token_ids": row} for row in rows]
        outputs = model.fast_generate(asked, sampling_params=sampling, lora_request=adapter, use_tqdm=False)
    return [[_parts(one) for one in output.outputs] for output in outputs]


def _parts(one) -> tuple[list[int], bool, float, list[float]]:
    held = [at[token].logprob for token, at in zip(one.token_ids, one.logprobs, strict=True)]
    return list(one.token_ids), one.finish_reason == "stop", -sum(held) / len(held), held


@torch.inference_mode()
def by_generate(model, tokenizer, rows, ends, copies, max_new_tokens, temperature, seed) -> list[list[tuple]]:
    """(tokens, ended, entropy) for each prompt and copy; the entropy is not measured (NaN)."""
    from dereason_utils.generate import batches, left_padded

    torch.manual_seed(seed)
    was_training = model.training
    model.eval()
    drawing = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    results: list[list[tuple]] = [[] for _ in rows]
    for chosen in batches(rows, rows_that_fit(model, max(map(len, rows)) + max_new_tokens) // copies):
        ids, mask, _ = left_padded([rows[i] for i in chosen], tokenizer, model.device)
        out = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, num_return_sequences=copies,
            eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, **(drawing if temperature else {"do_sample": False}),
        )  # fmt: skip
        for place, tokens in enumerate(out[:, ids.shape[1] :].tolist()):
            end = next((i + 1 for i, token in enumerate(tokens) if token in ends), None)
            results[chosen[place // copies]].append((tokens[:end], end is not None, float("nan")))
    model.train(was_training)
    return results


def rows_that_fit(model, length: int) -> int:
    """How many rows of `length` tokens have their keys and values in _CACHE_SHARE of the free memory of a GPU.

    Bytes per token: 2 (key, value) x layers x key/value heads x head size x 2 (bfloat16).
    """
    if model.device.type != "cuda":
        return 128
    config = model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * head * 2
    free, _ = torch.cuda.mem_get_info(model.device)
    return max(1, int(_CACHE_SHARE * free / (per_token * length)))


def grpo_trainer_class():
    """TRL's GRPOTrainer, whose rollouts vLLM draws, with what our reward function logs (imported late).

    Nothing of grpo.LeanGRPOTrainer: Unsloth computes log-probabilities in chunks itself and counts on the batches'
    padding as TRL made it; and where several processes train, none may skip a forward pass that the others make.
    """
    from trl import GRPOTrainer

    from dereason_utils.training import draw_order_by_epoch

    class VllmGRPOTrainer(GRPOTrainer):
        def _get_train_sampler(self, dataset=None):
            return draw_order_by_epoch(super()._get_train_sampler(dataset), self.args.data_seed)

        def _generate(self, prompts: list):
            """Adds to each rollout its entropy (the mean of -log p of what was drawn) and the seconds of the batch."""
            began = time.perf_counter()
            *before, logprobs, fields, images, tool_images = super()._generate(prompts)
            entropy = [-sum(values) / len(values) for values in logprobs]
            seconds = [time.perf_counter() - began] * len(logprobs)
            fields = {**fields, "sampled_entropy": entropy, "rollout_s": seconds}
            return *before, logprobs, fields, images, tool_images

    return VllmGRPOTrainer
