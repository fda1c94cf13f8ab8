"""vLLM in this process: the engine that answers (judge, teacher, verifier) and one that samples from a policy.

The same code runs on a GPU and on vLLM's CPU build. There it needs a few settings that must stand in the environment
before vLLM is imported; what the user has set there stays.
"""

import gc
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import torch

from dereason_utils.errors import InputError
from dereason_utils.generate import Completion

# One process, so that weights can be handed over without a copy; threads as OMP_NUM_THREADS says; 1 GB for keys and values.
ON_CPU = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1",
}  # fmt: skip


def engine(where: str, *, revision: str | None = None, max_length: int, memory_share: float, seed: int):
    """vLLM's engine for the model at `where` (a folder, or a hub id with its revision).

    memory_share: part of the device's memory that it may take. Log-probabilities are those of the distribution that
    tokens are drawn from, temperature included. Raises InputError where vLLM is not installed.
    """
    on_cpu = not torch.cuda.is_available()
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # vLLM would report its use to its makers
    for name, value in ON_CPU.items() if on_cpu else ():
        os.environ.setdefault(name, value)
    try:
        from vllm import LLM
    except ModuleNotFoundError as error:
        raise InputError(
            "vLLM is not installed: set hardware.sampler to own (and judge.via and teacher.via to an address), or use an "
            "environment that has it; `make test-vllm` sets up .venv-vllm with its CPU build."
        ) from error
    if on_cpu and torch.cpu._is_amx_tile_supported():
        torch.cpu._init_amx()  # where there are AMX tiles, the first product dies without it
    # A CPU's random generator cannot be set back, which vLLM does for a seeded request whose prompt is read in parts.
    whole_prompts = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, max_length)}
    return LLM(
        model=where, revision=revision, tokenizer_revision=revision, max_model_len=max_length, dtype="bfloat16",
        gpu_memory_utilization=memory_share, seed=seed, trust_remote_code=False, logprobs_mode="processed_logprobs",
        enforce_eager=on_cpu,  # compiling takes a CPU a minute
        **(whole_prompts if on_cpu else {}),
    )  # fmt: skip


def sample(
    llm,
    ends: list[int],
    prompts: list[list[int]],
    *,
    copies: int = 1,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    on_batch: Callable[[int, list[Completion]], None] = lambda done, batch: None,
) -> list[list[Completion]]:
    """`generate.sample` with vLLM's engine: `copies` completions of each tokenised prompt, [prompts][copies].

    ends: the tokens that end a completion. Every completion has a seed of its own, made from `seed` and its place.
    `entropy` is an estimate: the mean negative log-probability of the drawn tokens, whose expectation per token is the
    entropy (at every temperature above 0).
    """
    outputs = draw(
        llm,
        ends,
        prompts,
        copies=copies,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    flat = []
    for output in outputs:
        held = log_probabilities(output)
        surprise = -sum(held) / len(held) if temperature else 0.0
        flat.append(Completion(list(output.token_ids), output.finish_reason == "stop", surprise, held))
    on_batch(len(prompts), flat)
    return [flat[start : start + copies] for start in range(0, len(flat), copies)]


def draw(llm, ends, prompts, *, copies: int, max_new_tokens: int, temperature: float, seed: int) -> list:
    """vLLM's own outputs, flat: the copies of the first prompt, then of the second, ..."""
    from vllm import SamplingParams

    repeated = [{"prompt_token_ids": ids} for ids in prompts for _ in range(copies)]
    sampling = [
        SamplingParams(
            max_tokens=max_new_tokens, temperature=temperature, top_p=1.0, top_k=-1, logprobs=0,
            seed=first_seed(seed) + number, stop_token_ids=ends, detokenize=False,
        )
        for number in range(len(repeated))
    ]  # fmt: skip
    return [result.outputs[0] for result in llm.generate(repeated, sampling, use_tqdm=False)]


def first_seed(seed: int) -> int:
    """The seed of a batch's first completion; those of the others follow it.

    Batches whose seeds are one apart get ranges a million apart: else their questions would share random streams.
    """
    return seed * 1_000_003 % 2**31


def release(model) -> None:
    """Shut down the engine of a policy that was loaded with one and take it from the policy, which cannot sample any more.

    That frees the cache of keys and values. On a GPU the two share the weights: those stay as long as the policy does.
    """
    if (llm := getattr(model, "vllm_engine", None)) is None:
        return
    llm.llm_engine.engine_core.shutdown()
    for part in model.modules():
        for name in ("vllm_engine", "fast_generate", "fast_generate_batches"):  # the latter two are Unsloth's
            vars(part).pop(name, None)


def free_share() -> float:
    """The part of the GPU's memory that is free when what nobody refers to has been given back; 1 on a CPU."""
    gc.collect()
    if not torch.cuda.is_available():
        return 1.0
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return free / total


def log_probabilities(output) -> list[float]:
    """The log-probability of each drawn token of one of vLLM's outputs."""
    return [at[token].logprob for token, at in zip(output.token_ids, output.logprobs, strict=True)]


def refresh(llm, model) -> None:
    """Give the engine the policy's weights as they are now, with an adapter merged, and forget what it had read."""
    llm.collective_rpc("reload_weights", kwargs={"weights_iterator": merged_weights(model)})
    llm.reset_prefix_cache()


def let_trl_correct(trainer) -> None:
    """Have TRL weigh drawn tokens by the ratio of the trainer's to the engine's probability, as for a vLLM of its own.

    TRL does so only with an engine that it has made and hands the weights to; `generate.sample` does that here.
    """
    trainer.use_vllm, trainer._last_loaded_step = True, -1
    trainer.vllm_generation = SimpleNamespace(sync_weights=lambda: None)


@torch.no_grad()
def merged_weights(model) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, weight) of the plain model; a LoRA product is added in float32 and rounded to the weight's type once.

    That rounding loses the smallest updates (LOG.md), so the trainer's own log-probabilities count, not the sampler's.
    """
    layers = {
        f"{name}.base_layer.weight": layer
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A")
    }
    for name, weight in model.named_parameters():
        if "lora_" in name:
            continue
        weight = weight.detach()
        if layer := layers.get(name):
            change = sum(layer.get_delta_weight(adapter).float() for adapter in layer.active_adapters)
            weight = (weight.float() + change).to(weight.dtype)
        yield name.removeprefix("base_model.model.").replace(".base_layer.", "."), weight
