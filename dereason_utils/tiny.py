"""The `smoke` profile's policy: a Llama of about a million parameters with its own tokenizer, trained here in seconds.

It is no evidence about anything. It knows mini_stem's language well enough that a rollout is sometimes right, so that
every stage of the pipeline has something to do in a test.
"""

from pathlib import Path

import numpy as np

from dereason_utils import mini_stem, models, progress, prompts

SEED = 11
PROBLEMS = 4000  # texts to pretrain on, from the corpus's training split
STEPS = 300
BATCH = 24
LEARNING_RATE = 3e-3
VOCABULARY = 1024
SHAPE = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip


def build_tiny() -> Path:
    """The cached model's folder; made on first use (about a minute on two cores)."""
    return models.cached("tiny") or models.keep(
        "tiny", _build, {"seed": SEED, "steps": STEPS, "problems": PROBLEMS}
    )


def _build(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    problems = mini_stem.generate("train", PROBLEMS, SEED, (1, 2))
    solutions = [mini_stem.solve(p.id, SEED, 0.0) for p in problems]
    tokenizer = _tokenizer(
        [f"{p.question}\n{solution}" for p, solution in zip(problems, solutions, strict=True)]
    )
    asked = [prompts.tokenise_prompt(p.question, tokenizer, "plain") for p in problems]
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer), tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **SHAPE,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    answered = [tokenizer(solution)["input_ids"] + [tokenizer.eos_token_id] for solution in solutions]
    _pretrain(model, [a + b for a, b in zip(asked, answered, strict=True)], tokenizer)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(texts: list[str]):
    """Byte-level BPE with single digits, so that numbers are spelled out as in the larger models."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")


def _pretrain(model, sequences: list[list[int]], tokenizer) -> None:
    import torch

    rng = np.random.default_rng(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    bar = progress.Bar(STEPS, "building the smoke policy")
    for step in range(STEPS):
        batch = [torch.tensor(sequences[i]) for i in rng.integers(len(sequences), size=BATCH)]
        ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=tokenizer.pad_token_id)
        labels = ids.masked_fill(ids == tokenizer.pad_token_id, -100)
        loss = model(input_ids=ids, attention_mask=(labels != -100).long(), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.update(step + 1, f"loss {loss.item():.2f}")
