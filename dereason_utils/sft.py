"""Supervised fine-tuning on the teacher's answers (paper, section 3.1), with TRL's SFTTrainer."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dereason_utils import prompts, sharded, training
from dereason_utils.cpu_llama import body, causal_model, is_readable, quick_training
from dereason_utils.errors import InputError
from dereason_utils.profiles import Hardware, Model, Sft
from dereason_utils.sources import code_hash
from dereason_utils.training import (
    checkpoint_settings,
    mark_whole,
    model_facts,
    progress_callback,
    resume_point,
    step_timer,
    stop_on_nan,
    train_to_end,
)


def tokenise(rows: pd.DataFrame, tokenizer, model: Model) -> tuple[list[dict], int]:
    """Training examples and the number dropped because prompt and answer exceed `model.max_length` tokens.

    rows: columns question and response. Prompt and completion are tokenised apart and joined, exactly as a rollout
    joins them; the end token closes the completion, and only the completion carries loss.
    """
    examples, dropped = [], 0
    for question, response in zip(rows["question"], rows["response"], strict=True):
        prompt = prompts.tokenise_prompt(question, tokenizer, model.prompt_style)
        text = prompts.defuse(response, tokenizer)
        completion = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        if len(prompt) + len(completion) > model.max_length:
            dropped += 1
            continue
        mask = [0] * len(prompt) + [1] * len(completion)
        examples.append({"input_ids": prompt + completion, "completion_mask": mask})
    if not examples:
        raise InputError(
            f"All {dropped} SFT examples are longer than model.max_length = {model.max_length}: raise it."
        )
    return examples, dropped


def loss_tokens(examples: list[dict]) -> int:
    """Tokens of the examples that carry loss: the completions'."""
    return sum(sum(example["completion_mask"]) for example in examples)


def matched(settings: Sft, examples: list[dict], unit: str, amount: float) -> Sft:
    """The settings with as many epochs as cost `amount` of `unit`: optimizer 'updates' or 'tokens' that carry loss."""
    per_epoch = math.ceil(len(examples) / settings.batch_size)
    updates = amount if unit == "updates" else max(1, round(amount / loss_tokens(examples) * per_epoch))
    # Half an update less, because the trainer rounds the product of epochs and updates up.
    return settings.model_copy(update={"epochs": (updates - 0.5) / per_epoch})


def train(
    model, tokenizer, examples: list[dict], validation: list[dict], settings: Sft, folder: Path, seed: int,
    hardware: Hardware | None = None,
):  # fmt: skip
    """Train in place and return one row per optimizer step: step, epoch, loss, grad_norm, learning_rate, ...

    validation: examples for the validation loss, measured four times; may be empty.
    folder: where checkpoints live; training goes on from the last whole one.
    hardware: more than one of its processes train on as many GPUs (sharded.py).
    """
    if hardware and hardware.processes > training.world_size():
        job = {
            "examples": examples,
            "validation": validation,
            "settings": settings.model_dump(),
            "seed": seed,
        }
        return sharded.run("sft", model, tokenizer, hardware, folder, job)
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig

    start = resume_point(
        folder, code=code_hash("03_sft"), settings=settings.model_dump(), examples=examples, validation=validation,
        seed=seed, model=model_facts(model),
    )  # fmt: skip
    config = SFTConfig(
        output_dir=str(folder), **trainer_settings(model, len(examples), bool(validation), settings, seed)
    )
    trainer = sft_trainer_class()(
        model=model,
        processing_class=tokenizer,
        args=config,
        train_dataset=Dataset.from_list(examples),
        eval_dataset=Dataset.from_list(validation) if validation else None,
        callbacks=[step_timer(), mark_whole(), progress_callback("SFT", ("loss",)), stop_on_nan()],
    )
    trainer.remove_callback(PrinterCallback)  # our own progress lines say the same, in a line
    with quick_training(model):
        return step_table(train_to_end(trainer, start))


def trainer_settings(model, examples: int, validate: bool, settings: Sft, seed: int) -> dict:
    """The fields of TRL's SFTConfig, all that TRL, Unsloth or the profile change among them."""
    steps = math.ceil(math.ceil(examples / settings.batch_size) * settings.epochs)
    by_unsloth = model.device.type == "cuda" and training.world_size() == 1
    return {
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.micro_batch_size,
        "per_device_eval_batch_size": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.batch_size // (settings.micro_batch_size * training.world_size()),
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": int(settings.warmup_share * steps),
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "optim": "adamw_torch_fused",  # what Unsloth makes of adamw_torch on a CPU
        "max_length": None,  # over-long examples are dropped and counted above, never cut
        "packing": False,
        "padding_free": False,
        "completion_only_loss": True,
        # The same loss; logits of the completion alone, a chunk at a time, which Unsloth's own kernel does on a GPU.
        "loss_type": "nll" if by_unsloth else "chunked_nll",
        "router_aux_loss_coef": None,
        "eval_strategy": "steps" if validate else "no",
        "eval_steps": max(1, steps // 4),
        **checkpoint_settings(seed, save_every=max(1, steps // 2), bfloat16=model.dtype == torch.bfloat16),
    }  # fmt: skip


def sft_trainer_class():
    """TRL's SFTTrainer with batches of like length in random order (imported late: TRL is slow to load)."""
    from trl import SFTTrainer

    class LikeLengthSFTTrainer(SFTTrainer):
        def _get_train_sampler(self, dataset=None):
            lengths = [len(ids) for ids in (dataset or self.train_dataset)["input_ids"]]
            # The update's batch of all processes together, so that one process and several see the same batches.
            size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            return LikeLength(lengths, size, self.args.data_seed)

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            """Where `cpu_llama` computes the model, it computes the same loss without doing so twice."""
            policy = self.accelerator.unwrap_model(model)
            if not is_readable(policy):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            states = (
                causal_model(policy)
                .base_model(
                    input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
                )
                .last_hidden_state
            )
            carries_loss = inputs["labels"][:, 1:] != -100
            chosen, _ = body(policy).head.log_probabilities(
                states[:, :-1][carries_loss], inputs["labels"][:, 1:][carries_loss], 1.0
            )
            loss = -chosen.sum() / (len(chosen) if num_items_in_batch is None else num_items_in_batch)
            return (loss, {"loss": loss}) if return_outputs else loss

    return LikeLengthSFTTrainer


class LikeLength(torch.utils.data.Sampler):
    """Batches of examples of like length, the batches in random order; (seed, epoch) alone decide.

    Like lengths need little padding. transformers' own `group_by_length` hands each 50 batches out from long to short,
    so that a training ends every such stretch, and itself, on short and therefore easy examples.
    """

    # Batches that are sorted together: enough for like lengths, few enough for ever new neighbours.
    WINDOW = 50

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed, self.epoch = np.array(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self):
        rng = np.random.default_rng([self.seed, self.epoch])
        order, window = rng.permutation(len(self)), self.WINDOW * self.batch_size
        parts = [order[i : i + window] for i in range(0, len(order), window)]
        order = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in parts])
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        # A short batch comes last, or all others would shift.
        short = [batches.pop()] if len(batches[-1]) < self.batch_size else []
        rng.shuffle(batches)
        return iter(np.concatenate([*batches, *short]).tolist())


def step_table(history: list[dict]) -> pd.DataFrame:
    """Tidy learning curve from the trainer's log: one row per step; validation_loss where it was measured; step_s."""
    rows = {entry["step"]: entry for entry in history if "loss" in entry}
    for entry in history:
        if "eval_loss" in entry and entry["step"] in rows:
            rows[entry["step"]]["validation_loss"] = entry["eval_loss"]
    columns = ["step", "epoch", "loss", "grad_norm", "learning_rate", "validation_loss", "step_s"]
    return pd.DataFrame([rows[step] for step in sorted(rows)]).reindex(columns=columns)


if __name__ == "__main__":  # one of several processes, started by sharded.run
    sharded.work(train, Sft)
