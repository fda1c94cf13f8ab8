"""What both files share: `nano`'s policy and a few problems. `make test-gpu` runs each file in a process of its own."""

import os

import pandas as pd
import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no GPU: `make test-gpu` runs these on a machine with one", allow_module_level=True)

import unsloth  # noqa: F401 (before transformers)

from dereason_utils import generate, grpo, mini_stem, models, profiles, prompts, run, tiny

for name, value in run.ENVIRONMENT.items():  # as the notebooks' kernels have it
    os.environ.setdefault(name, value)
LENGTH = 24
FEW = {"steps": 3, "prompts_per_step": 4, "group_size": 4, "micro_batch_size": 2, "learning_rate": 1e-2,
       "warmup_share": 0.0, "max_completion": LENGTH, "save_every": 3}  # fmt: skip


def settings(**changes) -> profiles.Profile:
    return profiles.load("nano", changes)


def load(profile: profiles.Profile):
    """(model, tokenizer) with an adapter, as 04_grpo has them."""
    return models.load_policy(
        str(tiny.build("nano")), profile.model, 0, train=True, hardware=profile.hardware
    )


def problems() -> pd.DataFrame:
    made = mini_stem.generate("train", 8, 3, (1, 2))
    rows = [(p.id, p.question, p.answer, p.answer_type, p.steps) for p in made]
    return pd.DataFrame(rows, columns=["id", "question", "answer", "answer_type", "steps"])


def asked(tokenizer) -> list[list[int]]:
    return [prompts.tokenise_prompt(question, tokenizer, "plain") for question in problems()["question"]]


def adapters(model) -> list[torch.Tensor]:
    return [parameter for name, parameter in model.named_parameters() if "lora_B" in name]


def distances(model, prompt: list[int], drawn: list[generate.Completion]) -> torch.Tensor:
    """The trainer's minus the sampler's log-probability of every token that the sampler drew."""
    rows = []
    for one in drawn:
        ids = torch.tensor([prompt + one.tokens], device=model.device)
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            own, _ = grpo.completion_log_probabilities(model, ids, torch.ones_like(ids), len(one.tokens), 1.0)
        rows.append(own[0].float().cpu() - torch.tensor(one.log_probabilities))
    return torch.cat(rows)
