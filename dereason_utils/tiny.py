"""Small policies that are trained here from nothing, each a Llama with its own tokenizer, cached once made.

`tiny`, the `smoke` profile's, has a million parameters and takes seconds. It knows mini_stem's language well enough that
a rollout is sometimes right, so that every stage has something to do in a test. It is no evidence about anything.

`nano`, the `nano` profile's, is read only worked solutions of families that the profile's corpus does not take: it can
calculate and box an answer, and has everything about the corpus's own families still to learn.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dereason_utils import mini_stem, models, progress, prompts


@dataclass(frozen=True)
class Recipe:
    """How a small policy is made: its text (problems of `families` with `reasoning` steps), its shape, its training."""

    seed: int
    problems: int  # texts to pretrain on, from the corpus's training split
    families: tuple[str, ...]
    reasoning: tuple[int, int]  # fewest and most reasoning steps, inclusive
    vocabulary: int
    shape: dict[str, int]
    steps: int
    batch: int
    learning_rate: float
    bfloat16: bool  # matrix products in bfloat16; the weights stay in float32


def _shape(width: int, layers: int, heads: int, longest: int) -> dict[str, int]:
    """LlamaConfig's sizes: query heads in pairs share a key, the inner layer is three times as wide."""
    return {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": heads // 2,
            "max_position_embeddings": longest}  # fmt: skip


EVERY_FAMILY = tuple(mini_stem.FAMILIES)
# The families of profiles/nano.yaml, which its policy must not know beforehand.
NANO_CORPUS = ("mathematics.arithmetic", "physics.resistors", "chemistry.carbon_skeleton", "biology.wallace",
               "computer_science.pointers", "economics.ledger")  # fmt: skip
RECIPES = {
    "tiny": Recipe(
        seed=11, problems=4000, families=EVERY_FAMILY, reasoning=(1, 2), vocabulary=1024,
        shape=_shape(128, 4, 4, 512), steps=300, batch=24, learning_rate=3e-3,
        bfloat16=False,
    ),
    "nano": Recipe(
        seed=11, problems=24000, families=tuple(name for name in EVERY_FAMILY if name not in NANO_CORPUS),
        reasoning=(1, 8), vocabulary=1024, shape=_shape(256, 4, 8, 512), steps=900, batch=32, learning_rate=3e-3,
        bfloat16=True,
    ),
}  # fmt: skip


def build(name: str) -> Path:
    """The cached model's folder; made on first use (`tiny` in about a minute on two cores).

    Its name tells the recipe, so that another recipe is another model.
    """
    recipe = asdict(RECIPES[name])
    folder = f"{name}-{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:8]}"
    return models.cached(folder) or models.keep(folder, lambda path: _build(RECIPES[name], path), recipe)


def _build(recipe: Recipe, folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    problems = mini_stem.generate("train", recipe.problems, recipe.seed, recipe.reasoning, recipe.families)
    solutions = [mini_stem.solve(p.id, recipe.seed, 0.0) for p in problems]
    tokenizer = _tokenizer(
        [f"{p.question}\n{solution}" for p, solution in zip(problems, solutions, strict=True)],
        recipe.vocabulary,
    )
    asked = [prompts.tokenise_prompt(p.question, tokenizer, "plain") for p in problems]
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **recipe.shape,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    answered = [tokenizer(solution)["input_ids"] + [tokenizer.eos_token_id] for solution in solutions]
    _pretrain(model, [a + b for a, b in zip(asked, answered, strict=True)], tokenizer, recipe)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer(texts: list[str], vocabulary: int = 1024):
    """Byte-level BPE with single digits, so that numbers are spelled out as in the larger models."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")


def _pretrain(model, sequences: list[list[int]], tokenizer, recipe: Recipe) -> None:
    import torch

    rng = np.random.default_rng(recipe.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.steps)
    bar = progress.Bar(recipe.steps, "pretraining a small policy")
    for step in range(recipe.steps):
        batch = [torch.tensor(sequences[i]) for i in rng.integers(len(sequences), size=recipe.batch)]
        ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=tokenizer.pad_token_id)
        labels = ids.masked_fill(ids == tokenizer.pad_token_id, -100)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            loss = model(input_ids=ids, attention_mask=(labels != -100).long(), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.update(step + 1, f"loss {loss.item():.2f}")
