"""The first minute of a GPU run: what would fail in hour nine fails now, in one sentence, and leaves nothing behind.

The longest sequences go through one update, the sampler draws with the new weights and is compared with the trainer,
a few problems are answered and checked, and the weights are what they were, bit for bit. Where several processes train,
they make a step or two by the stage's own code, from the start of the processes to the weights that come back.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch

from dereason_utils import evaluate, generate, grpo, prompts, sharded, training
from dereason_utils.errors import InputError
from dereason_utils.profiles import Profile

# Large, so that a sampler that was not given the new weights is far from the trainer: for the policies of `smoke` and
# `cpu` 0.2 and 0.3 nats a token, and 0.01 apart with the same weights in bfloat16. The update is taken back.
LEARNING_RATE = 3e-3
FULL_LEARNING_RATE = 3e-4  # where all weights move, a tenth moves the policy as far
# Of several processes: small enough that a policy of billions of weights still writes text; chosen, never measured.
SHARED_LEARNING_RATE = 1e-4
PROMPTS, COPIES, TOKENS = 8, 4, 32  # of the comparison, and of the evaluation batch (without copies)

SKIPPED = "No canary: this is a CPU (-o canary=true asks for it)."
LogProbabilities = Callable[[object, object, list[list[int]], list[list[int]], float], list[list[float]]]


def is_due(settings: Profile) -> bool:
    """On a GPU always, on a CPU only with `canary: true`."""
    return settings.canary or torch.cuda.is_available()


def before_sft(
    model,
    tokenizer,
    examples: list[dict],
    validation: pd.DataFrame,
    settings: Profile,
    folder: Path,
    **options,
) -> str:
    """Check a set-up before SFT; returns a sentence to print.

    examples: of `sft.tokenise`. folder: of several processes' step, gone afterwards. options: see `check`.
    """
    if not is_due(settings):
        return SKIPPED
    longest = sorted(examples, key=lambda example: -len(example["input_ids"]))
    if settings.hardware.processes > 1:
        return _one_update(model, tokenizer, longest[: settings.sft.batch_size], settings, folder)
    rows = [
        (example["input_ids"][:start], example["input_ids"][start:])
        for example in longest[: settings.sft.micro_batch_size]
        for start in [example["completion_mask"].index(1)]
    ]
    return check(model, tokenizer, rows, validation, settings, "sft.micro_batch_size", **options)


def before_grpo(model, tokenizer, problems: pd.DataFrame, settings: Profile, folder: Path, **options) -> str:
    """The same before GRPO: the longest prompts, each with a completion of `grpo.max_completion` tokens.

    Several processes draw the completions, which are as long as they come.
    """
    if not is_due(settings):
        return SKIPPED
    asked = [
        prompts.tokenise_prompt(question, tokenizer, settings.model.prompt_style)
        for question in problems["question"]
    ]
    order = sorted(range(len(asked)), key=lambda place: -len(asked[place]))
    if settings.hardware.processes > 1:
        return _two_steps(model, tokenizer, problems.iloc[order], settings, folder)
    limit, size = settings.grpo.max_completion, settings.grpo.micro_batch_size
    longest = ([asked[place] for place in order] * size)[:size]
    rows = [(prompt, (prompt * limit)[:limit]) for prompt in longest]
    return check(model, tokenizer, rows, problems, settings, "grpo.micro_batch_size", **options)


def _one_update(model, tokenizer, examples: list[dict], settings: Profile, folder: Path) -> str:
    """One update of SFT in the processes; their weights must come back, and be others."""
    tuning, began = settings.sft.model_copy(update={"epochs": 1}), time.perf_counter()
    with _thrown_away(model, folder) as kept:
        # Not through `sft.train`: what 04_grpo imports counts for its results, and they do not depend on sft.py.
        job = {"examples": examples, "validation": [], "settings": tuning.model_dump(), "seed": 0}
        sharded.run("sft", model, tokenizer, settings.hardware, folder / "checkpoints", job)
        if all(
            torch.equal(now.detach().cpu(), old) for now, old in zip(model.parameters(), kept, strict=True)
        ):
            raise InputError(
                "Canary: an update changes no weight: check sft.learning_rate, and the processes' messages above."
            )
    tokens = sum(len(example["input_ids"]) for example in examples)
    return (
        f"Canary: {settings.hardware.processes} processes made an update on the {len(examples)} longest sequences "
        f"({tokens:,} tokens), weights restored, {time.perf_counter() - began:.0f} s."
    )


def _two_steps(model, tokenizer, problems: pd.DataFrame, settings: Profile, folder: Path) -> str:
    """Two steps of GRPO in the processes, on as few prompts as they can share.

    The second step's rollouts need the weights of after an update; `grpo.stop_on_another_sampler` compares both steps'.
    Where no group had a right and a wrong rollout nothing has moved, and the second comparison says no more than the first.
    """
    rl, processes, began = settings.grpo, settings.hardware.processes, time.perf_counter()
    rollouts = math.lcm(rl.group_size, rl.micro_batch_size) * processes
    few = problems.head(rollouts // rl.group_size)
    tuning = rl.model_copy(
        update={
            "steps": 2,
            "prompts_per_step": rollouts // rl.group_size,
            "updates_per_step": 1,
            "save_every": 2,
            "learning_rate": SHARED_LEARNING_RATE,
            "warmup_share": 0.0,
        }
    )
    style, length = settings.model.prompt_style, settings.model.max_length
    with _thrown_away(model, folder):
        curve = grpo.train(
            model, tokenizer, few, style, tuning, folder / "checkpoints", 0, settings.hardware, length
        )
    ratios = " and ".join(f"{ratio:.4f}" for ratio in curve.get("importance_ratio", ()))
    return (
        f"Canary: {processes} processes made two steps of {rollouts} rollouts of the {len(few)} longest prompts, "
        f"{curve['zero_variance_share'].iloc[0]:.0%} of the groups without a gradient, importance ratio "
        f"{ratios or 'not measured'}, weights restored, {time.perf_counter() - began:.0f} s."
    )


@contextmanager
def _thrown_away(model, folder: Path) -> Iterator[list[torch.Tensor]]:
    """After the block the weights are what they were (and what it yields), and what it wrote into `folder` is gone."""
    kept = [weight.detach().to("cpu", copy=True) for weight in model.parameters()]
    try:
        yield kept
    finally:
        with torch.no_grad():
            for weight, before in zip(model.parameters(), kept, strict=True):
                weight.copy_(before)
        shutil.rmtree(folder, ignore_errors=True)


def check(
    model,
    tokenizer,
    rows: list[tuple[list[int], list[int]]],
    problems: pd.DataFrame,
    settings: Profile,
    batch_setting: str,
    sampler_log_probabilities: LogProbabilities | None = None,
) -> str:
    """One update, one comparison of sampler and trainer, one evaluation batch; the weights are restored.

    rows: (prompt, completion) tokens of one micro-batch, the longest there are. problems: columns id, steps, question,
    answer and answer_type. batch_setting: what to lower when memory runs out. sampler_log_probabilities: (model,
    tokenizer, prompts, completions, temperature) -> what the sampler held its drawn tokens to be; the default is what
    vLLM says, and for our own sampler reads them once more, as it reads a prompt. Raises InputError with what is wrong
    and what to change.
    """
    began = time.perf_counter()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kept = [parameter.detach().to("cpu", copy=True) for parameter in trained]
    was_training = model.training
    tokens = sum(len(prompt) + len(completion) for prompt, completion in rows)
    try:
        with torch.random.fork_rng():
            _update(model, tokenizer, rows, trained, settings)
            ratio = _compare(model, tokenizer, problems, settings, sampler_log_probabilities)
            right = _evaluate(model, tokenizer, problems, settings)
    except torch.OutOfMemoryError as error:
        longest = max(len(prompt) + len(completion) for prompt, completion in rows)
        raise InputError(
            f"Canary: {len(rows)} sequences of up to {longest} tokens do not fit the GPU's memory: lower {batch_setting} "
            "or model.max_length, or set model.load_in_4bit (`make plan` says what takes how much)."
        ) from error
    finally:
        with torch.no_grad():
            for parameter, before in zip(trained, kept, strict=True):
                parameter.copy_(before)
                parameter.grad = None
        model.train(was_training)
    return (
        f"Canary: an update on the {len(rows)} longest sequences ({tokens:,} tokens), importance ratio {ratio:.4f}, "
        f"{right:.0%} of an evaluation batch right after it, weights restored, {time.perf_counter() - began:.0f} s."
    )


def _update(model, tokenizer, rows, trained, settings: Profile) -> None:
    """One step of AdamW on the policy gradient of a group, half of it right and half wrong."""
    before = training.trainable_hash(model)
    model.train()
    chosen, mask = _trainers(model, tokenizer, rows, settings.grpo.temperature)
    advantages = torch.linspace(-1, 1, len(rows) + 1, device=chosen.device)[1:, None]
    loss = -(chosen * advantages * mask).sum() / mask.sum()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
    if not torch.isfinite(loss) or not torch.isfinite(norm):
        raise InputError(
            f"Canary: loss {loss.item():.3g} and gradient norm {norm.item():.3g} of the first update are not finite: "
            "check the model's weights, and model.bfloat16."
        )
    rate = FULL_LEARNING_RATE if settings.model.full_finetuning else LEARNING_RATE
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    optimizer.step()
    optimizer.zero_grad()
    if training.trainable_hash(model) == before:
        raise InputError(
            "Canary: an update changes no weight: check that the policy has trainable weights in float32."
        )


def _compare(model, tokenizer, problems, settings: Profile, sampler: LogProbabilities | None) -> float:
    """The mean importance ratio of tokens that the sampler drew with the updated weights."""
    style, temperature = settings.model.prompt_style, settings.grpo.temperature
    longest = problems.loc[problems["question"].str.len().nlargest(PROMPTS).index, "question"]
    asked = [prompts.tokenise_prompt(question, tokenizer, style) for question in longest]
    drawn = generate.sample(
        model, tokenizer, asked, copies=COPIES, max_new_tokens=TOKENS, temperature=temperature, seed=0,
        batch_size=PROMPTS * COPIES,
    )  # fmt: skip
    rows = [(prompt, each.tokens) for prompt, group in zip(asked, drawn, strict=True) for each in group]
    held = [each.log_probabilities for group in drawn for each in group]
    if sampler or held[0] is None:
        held = (sampler or read_again)(model, tokenizer, *map(list, zip(*rows, strict=True)), temperature)
    with torch.no_grad():
        chosen, mask = _trainers(model, tokenizer, rows, temperature)
    own = chosen[mask].float().cpu()
    difference = own - torch.tensor([value for row in held for value in row])
    ratio, distance = difference.exp().mean().item(), difference.abs().mean().item()
    grpo.refuse_another_sampler(ratio, distance, "Canary")
    return ratio


def _evaluate(model, tokenizer, problems, settings: Profile) -> float:
    """The share of right answers among a few problems, through the evaluation's own sampling and checker."""
    answered = evaluate.spot_check(
        model, tokenizer, problems.head(PROMPTS), settings.model.prompt_style, copies=1,
        max_completion=min(TOKENS, settings.eval.max_completion), temperature=settings.eval.temperature, seed=0,
    )  # fmt: skip
    return float(answered["correct"].mean())


def _trainers(model, tokenizer, rows, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The trainer's log-probabilities [rows, longest completion] of all completions, and which places are tokens."""
    left, left_mask, _ = generate.left_padded([prompt for prompt, _ in rows], tokenizer, model.device)
    length = max(len(completion) for _, completion in rows)
    padding = [[tokenizer.pad_token_id] * (length - len(completion)) for _, completion in rows]
    right = torch.tensor([done + pad for (_, done), pad in zip(rows, padding, strict=True)])
    mask = torch.tensor([[1] * len(done) + [0] * (length - len(done)) for _, done in rows])
    right, mask = right.to(model.device), mask.to(model.device)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16):
        chosen, _ = grpo.completion_log_probabilities(
            model, torch.cat([left, right], 1), torch.cat([left_mask, mask], 1), length, temperature
        )
    return chosen, mask.bool()


@torch.inference_mode()
def read_again(
    model, tokenizer, asked: list[list[int]], completions: list[list[int]], temperature: float
) -> list[list[float]]:
    """Log-probability of each completion's tokens, by one pass in evaluation mode and with the sampler's padding."""
    joined = [prompt + done for prompt, done in zip(asked, completions, strict=True)]
    ids, mask, positions = generate.left_padded(joined, tokenizer, model.device)
    was_training = model.training
    model.eval()
    longest = max(map(len, completions))
    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16):
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=longest + 1
        ).logits
    model.train(was_training)
    all_of_them = torch.log_softmax(logits[:, -longest - 1 : -1].float() / temperature, -1)
    chosen = all_of_them.gather(-1, ids[:, -longest:, None]).squeeze(-1)
    return [row[longest - len(done) :].tolist() for row, done in zip(chosen, completions, strict=True)]
