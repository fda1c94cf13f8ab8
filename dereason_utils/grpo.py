"""Reinforcement learning with verifiable rewards: GRPO (paper, section 2.1 and Eq. 1-2) with TRL's GRPOTrainer."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.checkpoint import checkpoint

from dereason_utils import disk, generate, gpu, prompts, sharded, training, vllm_sampling
from dereason_utils.cpu_llama import body, causal_model, is_readable, quick_training
from dereason_utils.errors import InputError
from dereason_utils.profiles import Grpo, Hardware
from dereason_utils.sources import code_hash
from dereason_utils.training import (
    checkpoint_settings,
    draw_order_by_epoch,
    mark_whole,
    model_facts,
    progress_callback,
    resume_point,
    stop_on_nan,
    train_to_end,
)
from dereason_utils.verify import verify_many

# How far sampler and trainer may be apart on the sampler's own tokens (`refuse_another_sampler`).
RATIO_TOLERANCE = 0.01  # of the mean importance ratio around 1
# Nats a token. Drawn tokens' mean ratio is 1 for any two policies in the long run; that they are the same shows here.
DISTANCE_TOLERANCE = 0.05
SAMPLERS_RATIO, SAMPLERS_DISTANCE = (  # as TRL logs them for rollouts of vLLM
    "sampling/importance_sampling_ratio/mean", "sampling/sampling_logp_difference/mean",
)  # fmt: skip
HEAD_CHUNK = 256  # completion tokens whose logits exist at once: 50 MB in float32 for a vocabulary of 49k


def rewards(rows: list[dict], completions: list[str]) -> list[float | None]:
    """The paper's Eq. 2: 1 for a correct answer, else 0; None where the gold answer cannot be scored.

    rows: one dict per completion with question, answer, answer_type. The checker is the evaluation's.
    """
    verdicts = verify_many(
        [row["question"] for row in rows],
        [row["answer"] for row in rows],
        completions,
        [row["answer_type"] for row in rows],
    )
    return [None if v.verdict == "unscorable" else float(v.verdict == "correct") for v in verdicts]


def train(
    model, tokenizer, problems: pd.DataFrame, style: str, settings: Grpo, folder: Path, seed: int,
    hardware: Hardware | None = None, max_length: int | None = None,
    callbacks: Sequence = (),
) -> pd.DataFrame:  # fmt: skip
    """Train in place on `problems` (columns id, question, answer, answer_type) and return one row per step.

    folder: where checkpoints and the rollouts of each step live; training goes on from the last whole checkpoint.
    hardware: who draws the rollouts, and how many processes train (sharded.py); None is our own sampler in this one.
    A policy that was loaded with vLLM on a CPU draws them itself. max_length: tokens of prompt and completion together,
    which TRL's vLLM makes room for.
    callbacks: more of the trainer's callbacks, such as `rl_curve.every_so_often`'s.
    """
    if hardware and hardware.processes > training.world_size():
        job = {"problems": problems[["id", "question", "answer", "answer_type"]].to_dict("records"), "style": style,
               "settings": settings.model_dump(), "seed": seed, "max_length": max_length}  # fmt: skip
        return sharded.run("grpo", model, tokenizer, hardware, folder, job)
    if settings.kl_weight and is_readable(model):
        # TRL's reference is the policy under another adapter, and cpu_llama reads the policy's own.
        raise InputError(
            "grpo.kl_weight above 0 would have no effect on a CPU with an adapter: set it to 0, or train on a GPU."
        )
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOConfig

    start = resume_point(
        folder, code=code_hash("04_grpo"), settings=settings.model_dump(), problems=problems.to_dict("records"),
        style=style, seed=seed, model=model_facts(model), hardware=hardware and hardware.model_dump(),
    )  # fmt: skip
    fields = trainer_settings(model, settings, seed)
    rows = problems[["id", "question", "answer", "answer_type"]].assign(prompt=problems["question"])
    own_engine = model.device.type == "cpu" and hasattr(model, "vllm_engine")
    if own_engine:
        fields |= gpu.correction_settings(hardware)
    if by_vllm := hardware is not None and hardware.sampler == "vllm" and not own_engine:
        ends = generate.end_tokens(model, tokenizer)
        fields |= gpu.rollout_settings(hardware, max_length, ends)
        rows["prompt"] = gpu.prompt_texts(list(problems["question"]), tokenizer, style)
    trainer = (gpu.grpo_trainer_class() if by_vllm else grpo_trainer_class())(
        model=model,
        processing_class=tokenizer,
        args=GRPOConfig(output_dir=str(folder), **fields),
        train_dataset=Dataset.from_pandas(rows, preserve_index=False),
        reward_funcs=reward_function(folder, settings),
        rollout_func=None if by_vllm else rollout_function(tokenizer, style, settings, seed),
        callbacks=[
            mark_whole(),
            progress_callback("GRPO", ("reward", "entropy_sampled")),
            stop_on_nan(),
            stop_on_another_sampler(),
            *callbacks,
        ],
    )
    trainer.remove_callback(PrinterCallback)  # our own progress lines say the same, in a line
    if own_engine:
        vllm_sampling.let_trl_correct(trainer)
    with quick_training(model):
        return step_table(train_to_end(trainer, start), settings.updates_per_step)


def trainer_settings(model, settings: Grpo, seed: int) -> dict:
    """The fields of TRL's GRPOConfig, all that TRL, Unsloth or the profile change among them; without vLLM."""
    processes = training.world_size()
    per_update = settings.prompts_per_step * settings.group_size // settings.updates_per_step
    updates = settings.steps * settings.updates_per_step
    return {
        "max_steps": updates,
        "per_device_train_batch_size": settings.micro_batch_size,
        "per_device_eval_batch_size": settings.group_size,  # never used, and whole groups all the same
        "gradient_accumulation_steps": per_update // (settings.micro_batch_size * processes),
        "generation_batch_size": settings.prompts_per_step * settings.group_size,
        "num_generations": settings.group_size,
        "max_completion_length": settings.max_completion,
        "temperature": settings.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        "warmup_steps": int(settings.warmup_share * updates),
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "optim": "adamw_torch_fused",  # what Unsloth makes of adamw_torch on a CPU
        "beta": settings.kl_weight,
        "epsilon": settings.clip_low,
        "epsilon_high": settings.clip_high,
        "loss_type": settings.loss,
        "scale_rewards": "group" if settings.scale_rewards else "none",
        "mask_truncated_completions": settings.mask_truncated,
        "num_iterations": 1,
        "importance_sampling_level": "token",
        "use_vllm": False,
        "vllm_mode": "colocate",
        "vllm_importance_sampling_correction": False,
        "generation_kwargs": None,
        "router_aux_loss_coef": None,
        "shuffle_dataset": True,
        **checkpoint_settings(seed, save_every=settings.save_every, bfloat16=model.dtype == torch.bfloat16),
    }  # fmt: skip


def rollout_function(tokenizer, style: str, settings: Grpo, seed: int):
    """TRL's hook for another sampler. Seeds depend on (seed, step) alone, so that a resumed run draws the same."""

    def rollout(batch: list[str], trainer) -> dict:
        began = time.perf_counter()
        questions = batch[:: settings.group_size]  # TRL repeats each prompt group_size times in a row
        ids = [prompts.tokenise_prompt(question, tokenizer, style) for question in questions]
        policy = trainer.accelerator.unwrap_model(trainer.model)
        drawn = generate.sample(
            policy, tokenizer, ids, copies=settings.group_size, max_new_tokens=settings.max_completion,
            temperature=settings.temperature, seed=seed * 1_000_003 + trainer.state.global_step, batch_size=len(batch),
        )  # fmt: skip
        flat = [completion for group in drawn for completion in group]
        return {
            "prompt_ids": [prompt for prompt in ids for _ in range(settings.group_size)],
            "completion_ids": [completion.tokens for completion in flat],
            # None from our own sampler: the update follows at once, and the ratio's denominator is the policy itself.
            "logprobs": None
            if flat[0].log_probabilities is None
            else [each.log_probabilities for each in flat],
            "sampled_entropy": [completion.entropy for completion in flat],
            "rollout_s": [time.perf_counter() - began] * len(flat),
        }

    return rollout


def reward_function(folder: Path, settings: Grpo):
    """TRL's reward hook: checks the completions, logs the rollout's own measures and keeps every rollout on disk."""

    def reward(completions, completion_ids, trainer_state, log_metric, **columns) -> list[float | None]:
        rows = [
            dict(zip(("id", "question", "answer", "answer_type"), values, strict=True))
            for values in zip(
                *(columns[name] for name in ("id", "question", "answer", "answer_type")), strict=True
            )
        ]
        values = rewards(rows, completions)
        lengths = [len(ids) for ids in completion_ids]
        seconds = columns["rollout_s"][0]
        entropy = sum(h * n for h, n in zip(columns["sampled_entropy"], lengths, strict=True)) / sum(lengths)
        log_metric("entropy_sampled", entropy)
        log_metric("uninformative_share", uninformative_share(values, settings.group_size))
        log_metric("rollout_s", seconds)
        log_metric("rollout_tokens_per_s", sum(lengths) / seconds)
        step = trainer_state.global_step // settings.updates_per_step + 1
        table = pd.DataFrame(rows)[["id", "answer"]].assign(
            step=step, completion=completions, reward=values, tokens=lengths
        )
        # Each of several processes has the rollouts of its own prompts.
        part = f"-{os.environ['RANK']}" if training.world_size() > 1 else ""
        disk.write_table(folder / "rollouts" / f"step-{step:05d}{part}.parquet", table)
        return values

    return reward


def uninformative_share(values: list[float | None], group_size: int) -> float:
    """Share of groups without a gradient: all completions right, all wrong, or a gold answer that cannot be scored."""
    groups = [values[i : i + group_size] for i in range(0, len(values), group_size)]
    return sum(len(set(group) - {None}) < 2 for group in groups) / len(groups)


def grpo_trainer_class():
    """TRL's GRPOTrainer with four savings that leave the gradient as it is (imported late: TRL is slow to load)."""
    from trl import GRPOTrainer

    class LeanGRPOTrainer(GRPOTrainer):
        def _get_train_sampler(self, dataset=None):
            return draw_order_by_epoch(super()._get_train_sampler(dataset), self.args.data_seed)

        def _prepare_inputs(self, generation_batch):
            """Sort each update's rollouts so that advantages of zero, and equal prompts or lengths, share a micro-batch."""
            before = self._buffered_inputs
            inputs = super()._prepare_inputs(generation_batch)
            if self.model.training and self._buffered_inputs is not before:
                window = self.args.gradient_accumulation_steps
                # Only `cpu_llama` reads a prompt once for all its rollouts.
                by_prompt = is_readable(self.accelerator.unwrap_model(self.model))
                buffered = self._buffered_inputs
                self._buffered_inputs = [
                    batch
                    for i in range(0, len(buffered), window)
                    for batch in sort_window(buffered[i : i + window], by_prompt)
                ]
                inputs = self._buffered_inputs[self._step % self.args.steps_per_generation]
            return inputs

        def _compute_loss(self, model, inputs):
            """A micro-batch whose advantages are all zero has no gradient (without a KL term): skip its passes."""
            if self.beta == 0.0 and not inputs["advantages"].any():
                return sum((p.sum() * 0.0 for p in model.parameters() if p.requires_grad), torch.zeros(()))
            return super()._compute_loss(model, inputs)

        def _get_per_token_logps_and_entropies(
            self, model, input_ids, attention_mask, logits_to_keep, *args, **options
        ):
            """On a CPU logits only of completion tokens, a chunk at a time (Unsloth has its own way on a GPU)."""
            if input_ids.device.type != "cpu":
                return super()._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, logits_to_keep, *args, **options
                )
            policy = self.accelerator.unwrap_model(model)
            with self.accelerator.autocast():
                values = completion_log_probabilities(
                    policy, input_ids, attention_mask, logits_to_keep, self.temperature
                )
            return *values, None

    return LeanGRPOTrainer


def completion_log_probabilities(
    model, input_ids: torch.Tensor, attention_mask: torch.Tensor, length: int, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each of the last `length` tokens and the entropy (nats) where it was drawn.

    input_ids and attention_mask [rows, tokens]; both results [rows, length], zero where the mask is. The entropy has
    no gradient. All logits at once would take gigabytes; a few tokens at a time have theirs, which the backward pass of
    a model that `cpu_llama` cannot compute needs again.
    """
    causal, head = causal_model(model), model.get_output_embeddings()
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    # Padding on the left of each prompt; it is moved to the right, as `quick_training` wants it.
    blanks = attention_mask.argmax(1, keepdim=True)
    moved = (places + blanks) % len(places)
    states = causal.base_model(
        input_ids=input_ids.gather(1, moved), attention_mask=attention_mask.gather(1, moved), use_cache=False
    ).last_hidden_state
    before = places[-length - 1 : -1] - blanks  # where each completion token is predicted
    mask = attention_mask[:, -length:].bool()
    states = states[torch.arange(len(states))[:, None], before][mask]
    labels = input_ids[:, -length:][mask]
    if is_readable(model):
        chosen, entropy = body(model).head.log_probabilities(states, labels, temperature)
    else:
        chunks = [
            checkpoint(_read_head, head, *chunk, temperature, use_reentrant=False)
            for chunk in zip(states.split(HEAD_CHUNK), labels.split(HEAD_CHUNK), strict=True)
        ]
        chosen, entropy = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    empty = torch.zeros(mask.shape, dtype=chosen.dtype, device=mask.device)
    return empty.masked_scatter(mask, chosen), empty.masked_scatter(mask, entropy)


def _read_head(head, states, labels, temperature) -> tuple[torch.Tensor, torch.Tensor]:
    log_probabilities = torch.log_softmax(head(states).float() / temperature, -1)
    with torch.no_grad():
        entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
    return log_probabilities.gather(-1, labels[:, None]).squeeze(-1), entropy


def sort_window(batches: list[dict], by_prompt: bool = False) -> list[dict]:
    """Redistribute the rows of one update's micro-batches by (advantage is zero, length) and cut unused padding.

    Each batch maps names to tensors [rows, ...] or to scalars shared by all rows. The set of rows, and with it the
    sum of their losses, stays the same; DAPO's and Dr. GRPO's normalisers do not depend on the order. `by_prompt` keeps
    a prompt's rows together, the prompts in the order of their longest rows, so that a micro-batch can share a prompt.
    """
    size = len(batches[0]["advantages"])
    rowwise = [k for k, v in batches[0].items() if torch.is_tensor(v) and v.dim() > 0 and len(v) == size]
    joined = {k: torch.cat([batch[k] for batch in batches]) for k in rowwise}
    length = joined["prompt_mask"].sum(1) + joined["completion_mask"].sum(1)
    keys = [length, joined["advantages"] == 0]  # the last one counts first
    if by_prompt:
        prompt = torch.unique(joined["prompt_ids"], dim=0, return_inverse=True)[1]
        longest = torch.zeros_like(prompt).scatter_reduce_(0, prompt, length, "amax")[prompt]
        keys[1:1] = [prompt, longest]
    # On the CPU, whose indices suit tensors of any device: some of a GPU's batches are on the CPU.
    order = torch.from_numpy(np.lexsort([key.cpu().numpy() for key in keys]))
    out = []
    for i, batch in enumerate(batches):
        rows = order[i * size : (i + 1) * size]
        new = {**batch, **{k: v[rows] for k, v in joined.items()}}
        prompt, completion = int(new["prompt_mask"].sum(1).max()), int(new["completion_mask"].sum(1).max())
        for name in ("prompt_ids", "prompt_mask"):
            new[name] = new[name][:, new[name].shape[1] - prompt :]  # prompts are padded on the left
        for name in rowwise:
            if name not in ("prompt_ids", "prompt_mask") and new[name].dim() == 2:
                new[name] = new[name][:, :completion]
        out.append(new)
    return out


def step_table(history: list[dict], updates_per_step: int) -> pd.DataFrame:
    """Tidy training curve from the trainer's log: one row per step, that is, per batch of rollouts.

    Of a step's updates the first one's log carries the rollouts' measures; its loss, gradient norm and clip share are
    those of that update, and update_s is the time of all. importance_ratio (trainer to sampler, mean over the drawn
    tokens) is there when vLLM drew them.
    """
    names = {
        "step": "step", "reward": "reward", "reward_std": "reward_std", "completions/mean_length": "response_length",
        "entropy_sampled": "entropy", "uninformative_share": "zero_variance_share",
        "completions/clipped_ratio": "truncated_share", "clip_ratio/region_mean": "clip_share",
        "grad_norm": "grad_norm", "loss": "loss", "learning_rate": "learning_rate", "rollout_s": "rollout_s",
        "step_time": "step_s", "rollout_tokens_per_s": "rollout_tokens_per_s",
    }  # fmt: skip
    if any(SAMPLERS_RATIO in entry for entry in history):
        names[SAMPLERS_RATIO] = "importance_ratio"
    logs = [entry for entry in history if "loss" in entry]
    steps = [logs[i : i + updates_per_step] for i in range(0, len(logs), updates_per_step)]
    rows = [
        {**updates[0], "step": number, "step_time": sum(update["step_time"] for update in updates)}
        for number, updates in enumerate(steps, 1)
    ]
    table = pd.DataFrame(rows).reindex(columns=list(names)).rename(columns=names)
    table["update_s"] = table.pop("step_s") - table["rollout_s"]
    return table


def stop_on_another_sampler():
    """A trainer callback that ends training when the first rollouts of vLLM do not come from the trainer's policy.

    The first two batches since the start or the checkpoint: before the second, weights are handed over after an update.
    Rollouts without vLLM's log-probabilities are not looked at.
    """
    from transformers import TrainerCallback

    class StopOnAnotherSampler(TrainerCallback):
        looks = 2

        def on_log(self, args, state, control, logs=None, **_):
            if not self.looks or SAMPLERS_RATIO not in (logs or {}):
                return
            self.looks -= 1
            refuse_another_sampler(
                logs[SAMPLERS_RATIO], logs[SAMPLERS_DISTANCE], f"After update {state.global_step}"
            )

    return StopOnAnotherSampler()


def refuse_another_sampler(ratio: float, distance: float, when: str) -> None:
    """Raise InputError unless sampler and trainer are one policy on the tokens that the sampler drew.

    ratio: mean importance ratio, trainer to sampler; distance: mean absolute difference of log-probabilities, nats a token.
    """
    if not (abs(ratio - 1) <= RATIO_TOLERANCE and distance <= DISTANCE_TOLERANCE):
        raise InputError(
            f"{when}: sampler and trainer disagree on the sampler's own tokens (mean importance ratio {ratio:.3f}, "
            f"{distance:.3f} nats a token apart): the sampler does not have the trainer's weights, or computes otherwise; "
            "try hardware.sampler: own, or other versions."
        )


def collect_rollouts(folder: Path, steps: int) -> pd.DataFrame:
    """All rollouts of the finished run, in step order. Raises InputError when a step's file is missing."""
    names = [f"step-{step:05d}" for step in range(1, steps + 1)]
    files = [sorted((folder / "rollouts").glob(f"{name}*.parquet")) for name in names]
    missing = [name for name, found in zip(names, files, strict=True) if not found]
    if missing:
        raise InputError(f"{folder} lacks the rollouts of {missing[0]}.parquet: run 04_grpo again.")
    return pd.concat([pd.read_parquet(path) for found in files for path in found], ignore_index=True)


if __name__ == "__main__":  # one of several processes, started by sharded.run
    sharded.work(train, Grpo)
