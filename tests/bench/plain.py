"""Plain TRL and transformers, as their documentation shows them: the baseline. Nothing of ours but data and checker.

The profile decides what it also decides for ours (batch, learning rate, sampling, loss, LoRA); all else is the
library's own default, gradient checkpointing included. Unsloth, which rewrites TRL's trainers, is never imported here.
"""

import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dereason_utils import evaluate, grpo, judge, prompts, training
from dereason_utils.profiles import Grpo, Sft

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load(where: str, adapter, dtype: str):
    """(model with its LoRA, tokenizer). PEFT keeps a trainable adapter in float32, whatever the weights are."""
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(where, dtype=DTYPES[dtype])
    return PeftModel.from_pretrained(model, adapter, is_trainable=True), AutoTokenizer.from_pretrained(where)


def sft(model, tokenizer, examples: list[dict], settings: Sft, dtype: str, folder, **options):
    """Train on pre-tokenised examples; the trainer's log, a row per update."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        output_dir=str(folder), num_train_epochs=settings.epochs, per_device_train_batch_size=settings.micro_batch_size,
        gradient_accumulation_steps=settings.batch_size // settings.micro_batch_size,
        learning_rate=settings.learning_rate, lr_scheduler_type=settings.schedule, max_grad_norm=settings.max_grad_norm,
        max_length=None, completion_only_loss=True, use_cpu=True, bf16=dtype == "bfloat16", logging_steps=1,
        report_to="none", disable_tqdm=True, **options,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model, processing_class=tokenizer, args=config, train_dataset=Dataset.from_list(examples),
        callbacks=[training.step_timer()],
    )  # fmt: skip
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def grpo_steps(model, tokenizer, problems: list[dict], style: str, settings: Grpo, dtype: str, folder, seed: int,
               rollout_func=None, **options):  # fmt: skip
    """Train for `settings.steps` steps; (the trainer's log, seconds of each step's rollout, its completions' ids)."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    batch = settings.prompts_per_step * settings.group_size
    config = GRPOConfig(
        output_dir=str(folder), max_steps=settings.steps * settings.updates_per_step,
        per_device_train_batch_size=settings.micro_batch_size,
        gradient_accumulation_steps=batch // settings.updates_per_step // settings.micro_batch_size,
        generation_batch_size=batch, num_generations=settings.group_size, max_completion_length=settings.max_completion,
        temperature=settings.temperature, top_p=1.0, top_k=0, learning_rate=settings.learning_rate,
        lr_scheduler_type="constant", max_grad_norm=settings.max_grad_norm, beta=settings.kl_weight,
        epsilon=settings.clip_low, epsilon_high=settings.clip_high, loss_type=settings.loss,
        scale_rewards="group" if settings.scale_rewards else "none", use_cpu=True, bf16=dtype == "bfloat16",
        logging_steps=1, report_to="none", disable_tqdm=True, seed=seed, **options,
    )  # fmt: skip
    rows = [
        {**row, "prompt": prompts.render(prompts.policy_messages(row["question"], style), tokenizer, style)}
        for row in problems
    ]

    def reward(completions, question, answer, answer_type, **_):
        columns = ("question", "answer", "answer_type")
        asked = [
            dict(zip(columns, row, strict=True)) for row in zip(question, answer, answer_type, strict=True)
        ]
        return grpo.rewards(asked, completions)

    trainer = GRPOTrainer(
        model=model, processing_class=tokenizer, args=config, reward_funcs=reward, rollout_func=rollout_func,
        train_dataset=Dataset.from_list(rows),
    )  # fmt: skip
    generate, seconds, drawn = trainer._generate, [], []

    def timed(*arguments, **named):
        began = time.perf_counter()
        output = generate(*arguments, **named)
        seconds.append(time.perf_counter() - began)
        drawn.append(output[1])
        return output

    trainer._generate = timed
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry], seconds, drawn


@torch.inference_mode()
def generate(model, tokenizer, texts: list[str], batch_size: int, **sampling) -> list[list[int]]:
    """Completions' token ids up to their end token, `num_return_sequences` of each text in a row."""
    model.eval()
    tokenizer.padding_side, drawn = "left", []
    copies = sampling.get("num_return_sequences", 1)
    for start in range(0, len(texts), batch_size // copies):
        chosen = texts[start : start + batch_size // copies]
        inputs = tokenizer(chosen, return_tensors="pt", padding=True, add_special_tokens=False)
        ids = model.generate(**inputs, **sampling)[:, inputs["input_ids"].shape[1] :].tolist()
        drawn += [
            row[: row.index(tokenizer.eos_token_id) + 1] if tokenizer.eos_token_id in row else row
            for row in ids
        ]
    return drawn


def evaluate_items(model, tokenizer, items, style: str, settings) -> list[list[int]]:
    """Sample every item as the profile says, and check."""
    texts = [
        prompts.render(prompts.policy_messages(i.problem.question, style), tokenizer, style) for i in items
    ]
    drawn = generate(
        model, tokenizer, texts, settings.batch_size, do_sample=True, temperature=items[0].temperature, top_k=0,
        top_p=1.0, max_new_tokens=settings.max_completion, num_return_sequences=items[0].samples,
    )  # fmt: skip
    own = [item.problem for item in items for _ in range(item.samples)]
    evaluate.verify_many(
        [p.question for p in own], [p.answer for p in own], tokenizer.batch_decode(drawn, skip_special_tokens=True),
        [p.answer_type for p in own],
    )  # fmt: skip
    return drawn


@torch.inference_mode()
def rate(model, tokenizer, questions: list[str], style: str, settings) -> list[list[int]]:
    """Greedy ratings, then the judge's own probabilities of 1 to 5 after its analysis, as `judge.rate` reads them."""
    texts = [
        prompts.render(prompts.judge_messages(q, settings.calibration_size > 0), tokenizer, style)
        for q in questions
    ]
    drawn = generate(model, tokenizer, texts, 64, do_sample=False, max_new_tokens=settings.max_new_tokens)
    replies = tokenizer.batch_decode(drawn, skip_special_tokens=True)
    digits = [
        tokenizer(f"{judge.RATING} {k}", add_special_tokens=False)["input_ids"][-1] for k in range(1, 6)
    ]
    read = [f"{t}{judge.analysis(reply)}\n{judge.RATING} " for t, reply in zip(texts, replies, strict=True)]
    for start in range(0, len(read), 64):
        inputs = tokenizer(
            read[start : start + 64], return_tensors="pt", padding=True, add_special_tokens=False
        )
        torch.softmax(model(**inputs, logits_to_keep=1).logits[:, -1, digits].float(), -1)
    return drawn


def check(answers: list[tuple[str, str, str, str]]) -> None:
    """TRL's own accuracy reward (math-verify) on (question, answer, response, answer_type)."""
    from trl.rewards import accuracy_reward

    accuracy_reward(
        [[{"role": "assistant", "content": row[2]}] for row in answers], [row[1] for row in answers]
    )
