"""Compare the memory model with measured peaks: `python tests/measure_memory.py` writes results/robustness/memory_model.csv.

Each case is a process of its own that trains a small Llama for two updates of two micro-batches with plain torch,
transformers and peft, and reports its largest resident size above that before the model was made. malloc gives memory
back at once there (MALLOC_MMAP_THRESHOLD_), because the model counts tensors that are alive, not what an allocator
keeps. `sft` reads all logits at once; `grpo` reads those of the completion in chunks, computed again in the backward
pass, and runs on the same data twice: once without and once with gradient.
"""

import argparse
import json
import os
import subprocess
import sys

from dereason_utils import disk, paths
from dereason_utils import memory_model as memory

SHAPES = {
    "wide": memory.Shape(512, 6, 8, 2, 64, 1408, 8192, True),
    "deep": memory.Shape(256, 16, 4, 4, 64, 768, 4096, False),
    "smollm2": memory.Shape(576, 8, 9, 3, 64, 1536, 49152, True),
}
CHUNK = 128  # completion tokens whose logits exist at once in `grpo`
# kind, shape, precision, LoRA rank, rows, length
CASES = [
    (kind, shape, precision, rank, rows, length)
    for shape, rows, length in [("wide", 4, 256), ("deep", 2, 1024), ("smollm2", 4, 128)]
    for precision in ("float32", "bfloat16", "autocast")
    for rank in (None, 16)
    for kind in ("sft", "grpo")
    if not (precision == "autocast" and rank is None)
]


def precision_of(name: str, rank: int | None) -> memory.Precision:
    weight = memory.FLOAT32 if name == "float32" else memory.BFLOAT16
    return memory.Precision(weight, rank, autocast=name == "autocast")


def predicted(kind, shape, precision, rank, rows, length) -> dict[str, float]:
    at_once = rows * length if kind == "sft" else CHUNK
    how = {"logit_tokens": at_once, "chunked": kind == "grpo"}
    return memory.training(SHAPES[shape], precision_of(precision, rank), rows * length, **how)


def measured(*case) -> int:
    """Bytes, from a fresh process."""
    line = [sys.executable, __file__, "--case", json.dumps(case)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(paths.REPO)}
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout.split()[-1])


def compare(case) -> dict:
    """One row of the table."""
    return row_of(case, measured(*case))


def row_of(case, peak: float) -> dict:
    """A case, the prediction's parts and the measured bytes."""
    parts = predicted(*case)
    total = sum(parts.values())
    names = ("kind", "shape", "precision", "lora_rank", "rows", "length")
    row = dict(zip(names, (*case[:3], case[3] or "all", *case[4:]), strict=True))
    row |= {f"{name}_mb": round(size / 1e6, 1) for name, size in parts.items()}
    row |= {"predicted_mb": round(total / 1e6, 1), "measured_mb": round(peak / 1e6, 1)}
    return row | {"ratio": round(total / peak, 3), "within_15_percent": abs(total / peak - 1) <= 0.15}


# ---- the child ----


def resident(field: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def fields(shape: memory.Shape) -> dict:
    """The shape as a config.json names it, which `memory_model.shape_from` reads."""
    return {
        "hidden_size": shape.hidden, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim, "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocab, "tie_word_embeddings": shape.tied,
    }  # fmt: skip


def build(shape: memory.Shape, precision: str, rank: int | None):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**fields(shape), max_position_embeddings=4096, use_cache=False))
    model = model.to(torch.float32 if precision == "float32" else torch.bfloat16)
    if rank is None:
        return model
    from peft import LoraConfig, get_peft_model

    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))


def train(model, kind: str, precision: str, rows: int, length: int) -> None:
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=1e-4)
    ids = torch.randint(0, model.config.vocab_size, (rows, length))
    loss = sft_loss if kind == "sft" else grpo_loss
    for _ in range(2):
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
                value = loss(model, ids)
            value.backward()
        adamw.step()
        adamw.zero_grad()


def sft_loss(model, ids):
    return model(input_ids=ids, attention_mask=ids.new_ones(ids.shape), labels=ids).loss


def grpo_loss(model, ids):
    import torch

    with torch.no_grad():
        old = log_probabilities(model, ids)
    ratio = (log_probabilities(model, ids) - old).exp()
    advantage = torch.linspace(-1, 1, len(ids))[:, None]
    return -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage).mean()


def log_probabilities(model, ids):
    """[rows, length / 2]: of the second half of each row, the completion."""
    import torch
    from torch.utils.checkpoint import checkpoint

    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    begin = ids.shape[1] // 2
    states = inner.model(input_ids=ids, attention_mask=ids.new_ones(ids.shape)).last_hidden_state
    states, labels = states[:, begin - 1 : -1].flatten(0, 1), ids[:, begin:].flatten()

    def read(states, labels):
        return torch.log_softmax(inner.lm_head(states).float(), -1).gather(-1, labels[:, None])

    chunks = zip(states.split(CHUNK), labels.split(CHUNK), strict=True)
    return torch.cat([checkpoint(read, *chunk, use_reentrant=False) for chunk in chunks]).view(len(ids), -1)


def child(kind, shape, precision, rank, rows, length) -> None:
    import gc

    small = memory.Shape(64, 1, 1, 1, 64, 64, 64, True)
    train(build(small, precision, rank), kind, precision, 2, 8)  # what the libraries keep once they are used
    gc.collect()
    before = resident("VmRSS")
    model = build(SHAPES[shape], precision, rank)
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the largest resident size starts anew: making the weights is no part of a step
    train(model, kind, precision, rows, length)
    print(resident("VmHWM") - before)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the memory model with measured peaks.")
    parser.add_argument("--case", help="for its own child processes")
    options = parser.parse_args()
    if options.case:
        child(*json.loads(options.case))
        return
    import pandas as pd

    table = pd.DataFrame([compare(case) for case in CASES])
    disk.write_table(paths.committed() / "robustness" / "memory_model.csv", table)
    print(table.to_string())


if __name__ == "__main__":
    main()
