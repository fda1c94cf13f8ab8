"""What the machine itself reaches: matrix products of the model's shapes, and memory bandwidth."""

import time

import torch
import torch.nn.functional as F

from dereason_utils.cpu_ops import Packed
from dereason_utils.memory_model import Shape

ROUNDS = 7


def best(run) -> float:
    """Seconds of the quickest of a few calls: a ceiling is not an average."""
    run()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def products(shape: Shape, dtype: torch.dtype, rows: int) -> tuple[float, float]:
    """(operations, seconds) of one layer's matrix products for so many rows, weights packed where that is possible."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    pairs = [
        (shape.hidden, queries + 2 * keys),
        (queries, shape.hidden),
        (shape.hidden, 2 * shape.intermediate),
        (shape.intermediate, shape.hidden),
    ]
    operations = seconds = 0.0
    with torch.inference_mode():
        for inputs, outputs in pairs:
            x, weight = torch.randn(rows, inputs, dtype=dtype), torch.randn(outputs, inputs, dtype=dtype)
            packed = Packed(weight)
            seconds += min(best(lambda: F.linear(x, weight)), best(lambda: packed(x)))  # noqa: B023 (called at once)
            operations += 2 * rows * inputs * outputs
    return operations, seconds


def copy(megabytes: int) -> tuple[float, float]:
    """(bytes read and written, seconds) of copying a buffer that no cache holds."""
    source = torch.ones(megabytes * 2**20 // 4)
    target = torch.empty_like(source)
    return 2 * source.nbytes, best(lambda: target.copy_(source))
