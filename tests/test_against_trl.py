"""Our trainings and plain TRL's, from the same weights on the same data: the same curves, within rounding."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_policy
import torch

from dereason_utils import generate, grpo, models, paths, profiles, sft
from dereason_utils.cpu_llama import quick_training

BENCH = paths.REPO / "tests" / "bench"
RIGHT, WRONG, LONG = "3 + 4 = 7. \\boxed{7}", "\\boxed{8}", "Ann has 3 pens. 3 + 4 = 8. \\boxed{8}"
TEXTS = {
    "How many pens has Ann?": [RIGHT, WRONG, LONG, RIGHT],
    "How many more?": [WRONG, WRONG, LONG, WRONG],  # no signal: ours skips it
    "Heads or tails?": [LONG, RIGHT, RIGHT, RIGHT],
}
PROBLEMS = [{"id": q, "question": q, "answer": "7", "answer_type": "number"} for q in TEXTS]


def load(folder: str, adapter: str, bfloat16: bool):
    own = small_policy.settings(folder, bfloat16=bfloat16)
    return models.load_policy(folder, own, 0, train=True, policy=Path(adapter))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A policy whose adapter is not zero, and fixed data; also written down for the process with plain TRL."""
    folder = small_policy.build(tmp_path_factory.mktemp("policy"))
    model, tokenizer = models.load_policy(str(folder), small_policy.settings(folder), 0, train=True)
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.05, generator=generator)
    adapter = tmp_path_factory.mktemp("adapter") / "policy"
    models.save_policy(model, tokenizer, adapter)
    rows = pd.DataFrame({"question": list(TEXTS) * 4, "response": [RIGHT, LONG, WRONG] * 4})
    examples, _ = sft.tokenise(rows, tokenizer, small_policy.settings(folder, max_length=1024))
    smoke = profiles.load("smoke")
    trained = {
        "batch_size": 4,
        "micro_batch_size": 2,
        "epochs": 2,
        "learning_rate": 1e-2,
        "schedule": "constant",
    }
    drawn = {"steps": 4, "prompts_per_step": 3, "group_size": 4, "micro_batch_size": 4, "learning_rate": 1e-2,
             "warmup_share": 0.0, "save_every": 100}  # fmt: skip
    return {
        "where": str(folder), "adapter": str(adapter), "examples": examples, "texts": TEXTS, "problems": PROBLEMS,
        "sft": smoke.sft.model_copy(update=trained | {"warmup_share": 0.0}),
        "grpo": smoke.grpo.model_copy(update=drawn),
    }  # fmt: skip


@pytest.fixture(scope="module")
def theirs(case, tmp_path_factory):
    path = tmp_path_factory.mktemp("case") / "case.pickle"
    path.write_bytes(pickle.dumps(case))
    done = subprocess.run(
        [sys.executable, str(BENCH / "trajectories.py"), str(path)],
        capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(paths.REPO), "PATH": "/usr/bin:/bin", "HOME": str(path.parent), "TQDM_DISABLE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def our_sft(case, folder, monkeypatch, bfloat16):
    """Batches in the order of the examples, as the other side has them."""
    monkeypatch.setattr(sft.LikeLength, "__iter__", lambda sampler: iter(range(len(sampler))))
    model, tokenizer = load(case["where"], case["adapter"], bfloat16)
    return sft.train(model, tokenizer, case["examples"], [], case["sft"], folder, 0)


def our_grpo(case, folder, monkeypatch, bfloat16):
    monkeypatch.syspath_prepend(str(BENCH))
    from trajectories import scripted

    model, tokenizer = load(case["where"], case["adapter"], bfloat16)
    rollout = scripted(TEXTS, tokenizer, case["grpo"].group_size, str)
    monkeypatch.setattr(grpo, "rollout_function", lambda *arguments: rollout)
    return grpo.train(model, tokenizer, pd.DataFrame(PROBLEMS), "plain", case["grpo"], folder, 0)


OURS = {"sft": our_sft, "grpo": our_grpo}


@pytest.mark.parametrize("stage", OURS)
def test_in_float32_the_curves_are_plain_trls(stage, case, theirs, tmp_path, monkeypatch):
    ours, plain = OURS[stage](case, tmp_path, monkeypatch, False), theirs[f"{stage} float32"]
    assert len(ours) == len(plain["loss"]) >= 4
    for column, values in plain.items():
        np.testing.assert_allclose(ours[column], values, rtol=2e-4, atol=2e-6, err_msg=column)
    assert np.ptp(plain["grad_norm"]) > 0.05 * max(plain["grad_norm"]), "the policy moves in between"


@pytest.mark.parametrize("stage", OURS)
def test_in_bfloat16_the_curves_are_no_further_from_float32_than_plain_trls(
    stage, case, theirs, tmp_path, monkeypatch
):
    """Both round every product, in another order: neither curve is the other's, and both are float32's but for rounding."""
    ours = OURS[stage](case, tmp_path, monkeypatch, True)
    for column, exact in theirs[f"{stage} float32"].items():
        exact = np.array(exact)
        own = np.abs(ours[column] - exact).mean()
        plain = np.abs(np.array(theirs[f"{stage} bfloat16"][column]) - exact).mean()
        assert own <= 2 * plain + 0.004 * np.abs(exact).mean(), (column, own, plain)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_samplers_own_probabilities_are_the_trainers(bfloat16, case, monkeypatch):
    """The importance ratio of the tokens that the sampler drew, by the logits that it drew them from."""
    model, tokenizer = load(case["where"], case["adapter"], bfloat16)
    draw, seen, temperature = generate.draw, [], 0.8

    def watched(logits, heat, generator):
        token, entropy = draw(logits, heat, generator)
        seen.append(torch.log_softmax(logits.float() / heat, -1).gather(-1, token[:, None]).squeeze(-1))
        return token, entropy

    monkeypatch.setattr(generate, "draw", watched)
    monkeypatch.setattr(
        generate, "_SHRINK_AT", 0
    )  # rows that have ended stay, so that rows and columns match
    asked = sorted((tokenizer(q)["input_ids"] for q in TEXTS), key=len)
    drawn = generate.sample(
        model, tokenizer, asked, copies=16, max_new_tokens=24, temperature=temperature, seed=0, batch_size=64
    )
    flat = [(prompt, each.tokens) for prompt, group in zip(asked, drawn, strict=True) for each in group]
    sampled = torch.stack(seen, 1)
    left, left_mask, _ = generate.left_padded([prompt for prompt, _ in flat], tokenizer, model.device)
    blank = [[0] * (24 - len(done)) for _, done in flat]
    right = torch.tensor([done + pad for (_, done), pad in zip(flat, blank, strict=True)])
    mask = torch.tensor([[1] * len(done) + pad for (_, done), pad in zip(flat, blank, strict=True)])
    with torch.no_grad(), quick_training(model):
        trained, _ = grpo.completion_log_probabilities(
            model, torch.cat([left, right], 1), torch.cat([left_mask, mask], 1), 24, temperature
        )
    kept = mask.bool()
    ratio = (trained - sampled[:, :24])[kept].exp()
    assert len(ratio) > 800
    assert abs(ratio.mean().item() - 1) < (0.01 if bfloat16 else 1e-5)
    assert (ratio.log().abs().mean() < (0.03 if bfloat16 else 1e-5)).item()
