"""The fewest operations and bytes that a task needs, from the model's shape: where a variant lies under the roof.

Operations are multiplications and additions of the matrix products (2 per weight and token) and of attention (4 per
layer, head dimension and pair of tokens). What all prompts begin with, and a prompt that several completions share, is
counted once. With LoRA the weights are frozen, so a backward pass costs one product per forward product (the input's
gradient), not two; the adapters' own thin products are left out. Bytes: the weights once per pass, the cache's keys and
values once per token drawn, and what the backward pass needs written and read once.
"""

from os.path import commonprefix

from dereason_utils.memory_model import BFLOAT16, FLOAT32, Precision, Shape, activations, kv_cache

SIZES = {"float32": FLOAT32, "bfloat16": BFLOAT16}


def reading(shape: Shape, first: int, last: int) -> float:
    """Operations of the body on one row's tokens number `first` to `last` - 1."""
    pairs = (last * (last + 1) - first * (first + 1)) / 2
    return 2 * shape.linear * (last - first) + 4 * shape.layers * shape.heads * shape.head_dim * pairs


def sampling(shape: Shape, prompts: list[list[int]], lengths: list[list[int]], dtype: str, batch_size: int):
    """(operations, bytes) of `lengths[i]` completions of each prompt, `batch_size` completions at a time."""
    size, start = SIZES[dtype], len(commonprefix(prompts)) if len(prompts) > 1 else 0
    weights = size * (shape.linear + shape.vocab * shape.hidden)
    operations = reading(shape, 0, start)
    moved, each = 0.0, max(1, batch_size // len(lengths[0]))
    for i in range(0, len(prompts), each):
        batch = list(zip(prompts[i : i + each], lengths[i : i + each], strict=True))
        moved += weights * max(length for _, group in batch for length in group)
        for prompt, group in batch:
            operations += reading(shape, start, len(prompt))
            for length in group:
                operations += reading(shape, len(prompt), len(prompt) + length - 1)
                operations += 2 * shape.vocab * shape.hidden * length
                moved += kv_cache(shape, 1) * size / BFLOAT16 * (len(prompt) * length + length * length / 2)
    return operations, moved


def training(shape: Shape, rows: list[tuple[list[int], int]], dtype: str, rank: int, micro_batch: int):
    """(operations, bytes) of one update on rows (prompt, tokens of the completion)."""
    prompts = [prompt for prompt, _ in rows]
    start = len(commonprefix(prompts)) if len(prompts) > 1 else 0
    passes = -(-len(rows) // micro_batch)
    operations, tokens = passes * reading(shape, 0, start), passes * start
    for prompt in {tuple(prompt) for prompt in prompts}:
        operations += reading(shape, start, len(prompt))
        tokens += len(prompt) - start
    for prompt, length in rows:
        operations += (
            reading(shape, len(prompt), len(prompt) + length) + 2 * shape.vocab * shape.hidden * length
        )
        tokens += length
    weights = SIZES[dtype] * (shape.linear + shape.vocab * shape.hidden)
    precision = Precision(SIZES[dtype], rank)
    return 2 * operations, 2 * passes * weights + 2 * activations(shape, precision, tokens)
