"""Small policies that are trained here from nothing, each a Llama with its own tokenizer, cached once made.

`tiny`, the `smoke` profile's, has a million parameters and takes a minute. It knows mini_stem's language well enough
that a rollout is sometimes right, so that every stage has something to do in a test. It is no evidence about anything.

`nano`, the `nano` profile's, has three million. It has read calculations and short problems of its corpus's families,
though none of the corpus's own: it solves easy problems now and then and long ones hardly ever, as a base model does.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dereason_utils import corpora, mini_stem, models, pretraining, profiles, prompts

# Counted again and again among a tokenizer's texts, so that each two-digit number becomes one token.
NUMBERS = " ".join(map(str, range(100)))


@dataclass(frozen=True)
class Recipe:
    """How a small policy is made: its text (`pretraining`), its shape, its training."""

    seed: int
    families: tuple[str, ...]
    reasoning: tuple[int, int]  # fewest and most reasoning steps of a problem, inclusive
    calculations: float  # their share of the documents; the others are problems
    bare: float  # share of the problems of the last updates that have their answer and no solution
    corpus_of: str | None  # the profile whose corpus it must not have read
    vocabulary: int
    digits: int  # of a number in one token, at most (larger models: 1 or 3)
    shape: dict[str, int]
    steps: int
    rows: int  # windows per update
    window: int  # tokens
    learning_rate: float
    bfloat16: bool  # matrix products, and what is kept; the weights are in float32 while they are trained


def _shape(width: int, inner: int, layers: int, heads: int, longest: int) -> dict[str, int]:
    """LlamaConfig's sizes; query heads in pairs share a key."""
    return {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": heads // 2,
            "max_position_embeddings": longest}  # fmt: skip


RECIPES = {
    "tiny": Recipe(
        seed=11, families=tuple(mini_stem.FAMILIES), reasoning=(1, 2), calculations=0.25, bare=0.0, corpus_of=None,
        vocabulary=1024, digits=1, shape=_shape(128, 384, 4, 4, 512), steps=300, rows=16, window=256,
        learning_rate=4e-3, bfloat16=False,
    ),
    "nano": Recipe(
        seed=11,
        families=("mathematics.arithmetic", "physics.resistors", "chemistry.carbon_skeleton", "biology.wallace",
                  "computer_science.pointers", "economics.ledger"),
        reasoning=(1, 10), calculations=0.4, bare=0.8, corpus_of="nano",
        vocabulary=896, digits=2, shape=_shape(256, 640, 4, 8, 512), steps=3000, rows=16, window=256,
        learning_rate=4e-3, bfloat16=True,
    ),
}  # fmt: skip


def build(name: str) -> Path:
    """The cached model's folder; made on first use (`tiny` in about a minute, `nano` in half an hour).

    Its name tells the recipe, and the corpus that it has not read, so that another recipe is another model.
    """
    recipe = RECIPES[name]
    folder = folder_name(name, recipe)
    return models.cached(folder) or models.keep(folder, lambda path: make(recipe, path), asdict(recipe))


def folder_name(name: str, recipe: Recipe) -> str:
    """The name with a hash of the recipe and of the corpus that is kept from it."""
    corpus = profiles.load(recipe.corpus_of).corpus.model_dump() if recipe.corpus_of else None
    facts = json.dumps([asdict(recipe), corpus], sort_keys=True)
    return f"{name}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"


def corpus_contents(profile: str) -> set[str]:
    """The contents (`Instance.key`) of all problems of a profile's corpus, which mini_stem draws."""
    return {mini_stem.rebuild(name).key for name in corpora.load(profiles.load(profile).corpus)["id"]}


def make(recipe: Recipe, folder: Path) -> None:
    """Pretrain a policy from nothing and write it into the folder, on one thread: on like processors a recipe gives one policy."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    known = corpus_contents(recipe.corpus_of) if recipe.corpus_of else set()
    tokenizer = _tokenizer(_texts(recipe, known, 3000), recipe.vocabulary, recipe.digits)
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **recipe.shape,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would add in another order
    try:
        pretraining.train(model, tokenizer, recipe, known)
    finally:
        torch.set_num_threads(threads)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    # A policy is read in bfloat16, so that to keep more would only make the file larger.
    (model.bfloat16() if recipe.bfloat16 else model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _texts(recipe: Recipe, known: set[str], count: int) -> list[str]:
    """What the tokenizer is made from: problems with their whole prompt, and all numbers below 100."""
    rng = np.random.default_rng(recipe.seed)
    ids = [pretraining.problem(recipe, rng, known) for _ in range(count)]
    asked = [
        [m["content"] for m in prompts.policy_messages(mini_stem.rebuild(i).question, "plain")] for i in ids
    ]
    solved = [mini_stem.solve(i, recipe.seed, 0.0) for i in ids]
    return ["\n".join([*a, "Solution:", s]) for a, s in zip(asked, solved, strict=True)] + [NUMBERS] * 200


def _tokenizer(texts: Iterable[str], vocabulary: int = 1024, digits: int = 1):
    """Byte-level BPE; a number is cut into tokens of at most so many digits, as larger models do."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    numbers = pre_tokenizers.Split(Regex(rf"[0-9]{{1,{digits}}}"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [numbers, pre_tokenizers.ByteLevel(add_prefix_space=False)]
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
