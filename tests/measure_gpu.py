"""Compare `make plan` with a card: `python tests/measure_gpu.py` writes results/robustness/gpu.csv. Needs a GPU and some minutes.

The policy has the shape of the profile's and random weights, with the tokenizer of `nano`: memory and time depend on
shapes, not on what was learned, and no hub is needed. Each preset of `single_gpu` and each training stage is a process of its
own: it loads the policy as the notebooks do, runs the canary on the longest sequences that the profile allows, and
then a few updates on sequences of that length by the stage's own function. Rollouts of that length are random tokens,
every other one rewarded, because drawing them without vLLM takes minutes; the canary draws real ones. Of a larger card another
process holds what a card of the preset would not have, because Unsloth sizes its passes by what is free; results/robustness/gpu.csv
was measured before that was so.
"""

import argparse
import faulthandler
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import measure_memory

from dereason_utils import disk, memory_model, models, needs, paths, plan, profiles
from dereason_utils.run import ENVIRONMENT

STAGES = ("03_sft", "04_grpo")
MICRO_BATCHES, UPDATES = 4, 2
GB = 1e9
TABLE = paths.committed() / "robustness" / "gpu.csv"
HOLD = """import sys, torch
_, total = torch.cuda.mem_get_info()
held = torch.empty(max(0, total - int(sys.argv[1])), dtype=torch.uint8, device="cuda")
print(len(held), flush=True)
sys.stdin.read()"""


def settings_of(preset: str, policy: Path) -> profiles.Profile:
    """The preset with our own sampler and few, small updates; every length and micro-batch is the preset's."""
    profile = profiles.load("single_gpu", {"preset": preset})
    sft = MICRO_BATCHES * profile.sft.micro_batch_size
    rollouts = max(MICRO_BATCHES * profile.grpo.micro_batch_size, profile.grpo.group_size)
    few = {
        "model.name": str(policy), "model.prompt_style": "plain", "hardware.sampler": "own", "sft.batch_size": sft,
        "grpo.steps": UPDATES, "grpo.save_every": UPDATES, "grpo.prompts_per_step": rollouts // profile.grpo.group_size,
    }  # fmt: skip
    return profiles.load("single_gpu", {"preset": preset, **few})


def rows_and_length(profile: profiles.Profile, stage: str) -> tuple[int, int]:
    """Sequences of a micro-batch, and tokens of the longest."""
    section = profile.sft if stage == "03_sft" else profile.grpo
    return section.micro_batch_size, profile.model.max_length


def predicted(profile: profiles.Profile, stage: str, machine: needs.Machine) -> dict[str, float]:
    """Bytes, by part."""
    precision = needs.precision_of(profile.model, machine.gpu)
    return needs.update(
        profile, needs.shape_of(profile.model.name), precision, machine, *rows_and_length(profile, stage)
    )


def make_policy(folder: Path, shape: memory_model.Shape) -> None:
    """Random bfloat16 weights of a Qwen3 with this shape, and nano's tokenizer."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(**measure_memory.fields(shape), max_position_embeddings=32768)
    tokenizer = AutoTokenizer.from_pretrained(next(paths.base_policies().glob("nano-*")))
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Qwen3ForCausalLM(config)
    torch.set_default_dtype(before)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# ---- one case, in a process of its own ----


def child(preset: str, stage: str, policy: Path) -> dict:
    """What was measured: bytes, seconds, tokens/s, and what the canary said."""
    profile = settings_of(preset, policy)
    began = time.perf_counter()
    model, tokenizer = models.load_policy(
        str(policy), profile.model, 0, train=True, hardware=profile.hardware
    )
    import torch

    facts = {"load_s": round(time.perf_counter() - began, 1), "loaded_gb": torch.cuda.memory_allocated() / GB}
    with tempfile.TemporaryDirectory() as folder:
        run = sft_case if stage == "03_sft" else grpo_case
        facts |= run(model, tokenizer, profile, Path(folder))
    return facts


def problems_for(profile: profiles.Profile, tokenizer, count: int):
    """Problems whose prompts leave room for a completion and no more."""
    import pandas as pd

    from dereason_utils import prompts

    limit = profile.grpo.max_completion
    longer_and_longer = ["7 + " * sums + "1" for sums in range(1, profile.model.max_length - limit)]
    sums = sum(prompts.fitting(longer_and_longer, tokenizer, profile.model, limit))
    return pd.DataFrame(
        {
            "id": f"p{i}",
            "steps": 1,
            "question": "7 + " * sums + str(i),
            "answer": "7",
            "answer_type": "integer",
        }
        for i in range(count)
    )


def sft_case(model, tokenizer, profile, folder: Path) -> dict:
    from dereason_utils import canary, sft

    rows, length = rows_and_length(profile, "03_sft")
    ids = [7 + i % 200 for i in range(length)]
    mask = [0] * 100 + [1] * (length - 100)
    examples = [{"input_ids": ids, "completion_mask": mask} for _ in range(rows * MICRO_BATCHES * UPDATES)]
    asked = problems_for(profile, tokenizer, canary.PROMPTS)
    facts = with_peak("canary", lambda: canary.before_sft(model, tokenizer, examples, asked, profile, folder))
    facts |= with_peak("update", lambda: sft.train(model, tokenizer, examples, [], profile.sft, folder, 0))
    steps = facts.pop("update")
    return facts | speed(steps["step_s"].iloc[-1], rows * MICRO_BATCHES * length)


def grpo_case(model, tokenizer, profile, folder: Path) -> dict:
    import torch

    from dereason_utils import canary, generate, grpo, prompts

    rl, style = profile.grpo, profile.model.prompt_style
    asked = problems_for(profile, tokenizer, max(rl.prompts_per_step, canary.PROMPTS))
    facts = with_peak("canary", lambda: canary.before_grpo(model, tokenizer, asked, profile, folder))
    ids = [prompts.tokenise_prompt(question, tokenizer, style) for question in asked["question"]]
    began = time.perf_counter()
    drawn = generate.sample(
        model, tokenizer, ids, copies=rl.group_size, max_new_tokens=64, temperature=1.0, seed=0, batch_size=64
    )
    tokens = sum(len(one.tokens) for group in drawn for one in group)
    facts["generate_tokens_per_s"] = round(tokens / (time.perf_counter() - began))

    def random_rollouts(model, tokenizer, asked, *, copies, max_new_tokens, seed, **_):
        drawn = torch.randint(
            7, 200, (len(asked), copies, max_new_tokens), generator=torch.Generator().manual_seed(seed)
        )
        return [[generate.Completion(row, False, 0.0) for row in group] for group in drawn.tolist()]

    generate.sample = random_rollouts
    grpo.rewards = lambda rows, completions: [float(i % 2) for i in range(len(rows))]
    few = asked.head(rl.prompts_per_step)
    facts |= with_peak(
        "update", lambda: grpo.train(model, tokenizer, few, style, rl, folder, 0, profile.hardware)
    )
    steps = facts.pop("update")
    facts |= {
        "grad_norm": round(float(steps["grad_norm"].iloc[-1]), 4),
        "loss": round(float(steps["loss"].iloc[-1]), 6),
    }
    tokens = rl.prompts_per_step * rl.group_size * profile.model.max_length
    return facts | speed(steps["update_s"].iloc[-1], tokens)


def with_peak(name: str, run) -> dict:
    """What `run` returns, and the largest bytes of tensors and of the allocator's blocks meanwhile."""
    import torch

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    result = run()
    torch.cuda.synchronize()
    return {
        name: result,
        f"{name}_gb": torch.cuda.max_memory_allocated() / GB,
        f"{name}_reserved_gb": torch.cuda.max_memory_reserved() / GB,
    }


def speed(seconds: float, tokens: int) -> dict:
    """Of one update: its seconds, and the tokens, padding included, that it went through in each."""
    return {"update_s": round(seconds, 2), "tokens_per_s": round(tokens / seconds)}


# ---- all cases ----


@contextmanager
def no_more_than(size: float):
    """Leave `size` bytes of the card; the rest is held until the end."""
    line = [sys.executable, "-c", HOLD, str(int(size))]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        if not holder.stdout.readline():
            raise RuntimeError("The rest of the card could not be taken: is another program on it?")
        yield  # leaving the block closes its input, which ends it


def case(preset: str, stage: str, policy: Path) -> dict:
    """A row of the table; `error` says why a case ended early."""
    line = [sys.executable, __file__, "--case", preset, stage, str(policy)]
    places = os.pathsep.join(filter(None, (str(paths.REPO), os.environ.get("PYTHONPATH"))))
    environment = {**ENVIRONMENT, **os.environ, "PYTHONPATH": places}  # as a notebook has it
    with no_more_than(float(preset.removesuffix("gb")) * GB):
        done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    if done.returncode:
        facts = {"error": f"ended with code {done.returncode}; what it said is above"}
    else:
        facts = json.loads(done.stdout.strip().splitlines()[-1])
    print(preset, stage, facts, flush=True)
    profile = settings_of(preset, policy)
    rows, length = rows_and_length(profile, stage)
    parts = predicted(profile, stage, plan.machine_for(profile, None, preset))
    row = {
        "preset": preset,
        "stage": stage,
        "rows": rows,
        "length": length,
        "predicted_gb": sum(parts.values()) / GB,
    }
    return row | {f"{name}_gb": size / GB for name, size in parts.items()} | card() | facts


def card() -> dict:
    """The card and the libraries that decide about memory and speed."""
    import torch

    versions = {
        name: metadata.version(name) for name in ("torch", "unsloth", "trl", "transformers", "bitsandbytes")
    }
    return {"card": torch.cuda.get_device_name()} | versions


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the plan of single_gpu with a card.")
    cases = [f"{preset}:{stage}" for preset in profiles.presets("single_gpu") for stage in STAGES]
    parser.add_argument("--cases", nargs="*", default=cases)
    parser.add_argument("--case", nargs=3, help="for its own child processes")
    parser.add_argument("--to", type=Path, default=TABLE)
    options = parser.parse_args()
    if options.case:
        faulthandler.dump_traceback_later(60, repeat=True)  # where it is: a compiler can take minutes
        preset, stage, policy = options.case
        print(json.dumps(child(preset, stage, Path(policy))))
        return
    import pandas as pd

    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder) / "policy"
        make_policy(policy, memory_model.QWEN3_4B)
        rows = []
        for asked in options.cases:
            rows.append(case(*asked.split(":"), policy))
            disk.write_table(options.to, pd.DataFrame(rows).round(3))
    print(pd.DataFrame(rows).round(2).to_string())


if __name__ == "__main__":
    main()
