"""The first minute of a GPU run: what would fail in hour nine fails now, in one sentence, and leaves nothing behind.

The longest sequences go through one update, the sampler draws with the new weights and is compared with the trainer,
a few problems are answered and checked, and the weights are what they were, bit for bit.
"""

import time
from collections.abc import Callable

import pandas as pd
import torch

from dereason_utils import evaluate, generate, grpo, prompts, training
from dereason_utils.errors import InputError
from dereason_utils.profiles import Profile

# Large, so that a sampler that was not given the new weights is far from the trainer: for the policies of `smoke` and
# `cpu` 0.2 and 0.3 nats a token, and 0.01 apart with the same weights in bfloat16. The update is taken back.
LEARNING_RATE = 3e-3
FULL_LEARNING_RATE = 3e-4  # where all weights move, a tenth moves the policy as far
RATIO_TOLERANCE = 0.01  # of the mean importance ratio around 1
# Nats a token. Drawn tokens' mean ratio is 1 for any two policies in the long run; that they are the same shows here.
DISTANCE_TOLERANCE = 0.05
PROMPTS, COPIES, TOKENS = 8, 4, 32  # of the comparison, and of the evaluation batch (without copies)

LogProbabilities = Callable[[object, object, list[list[int]], list[list[int]], float], list[list[float]]]


def is_due(settings: Profile) -> bool:
    """On a GPU always, on a CPU only with `canary: true`."""
    return settings.canary or torch.cuda.is_available()


def before_sft(
    model, tokenizer, examples: list[dict], validation: pd.DataFrame, settings: Profile, **options
) -> str:
    """Check a set-up before SFT; returns a sentence to print. examples: of `sft.tokenise`. options: see `check`."""
    longest = sorted(examples, key=lambda example: -len(example["input_ids"]))
    rows = [
        (example["input_ids"][:start], example["input_ids"][start:])
        for example in longest[: settings.sft.micro_batch_size]
        for start in [example["completion_mask"].index(1)]
    ]
    return _if_due(model, tokenizer, rows, validation, settings, "sft.micro_batch_size", **options)


def before_grpo(model, tokenizer, problems: pd.DataFrame, settings: Profile, **options) -> str:
    """The same before GRPO: the longest prompts, each with a completion of `grpo.max_completion` tokens."""
    asked = [
        prompts.tokenise_prompt(question, tokenizer, settings.model.prompt_style)
        for question in problems["question"]
    ]
    limit = settings.grpo.max_completion
    longest = sorted(asked, key=lambda prompt: -len(prompt))
    longest = (longest * settings.grpo.micro_batch_size)[: settings.grpo.micro_batch_size]
    rows = [(prompt, (prompt * limit)[:limit]) for prompt in longest]
    return _if_due(model, tokenizer, rows, problems, settings, "grpo.micro_batch_size", **options)


def _if_due(model, tokenizer, rows, problems, settings, batch_setting, **options) -> str:
    if settings.hardware.processes > 1:
        return f"No canary: {settings.hardware.processes} processes train, each with a part of the weights, and not this one."
    if not is_due(settings):
        return "No canary: this is a CPU (-o canary=true asks for it)."
    return check(model, tokenizer, rows, problems, settings, batch_setting, **options)


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
    if not (abs(ratio - 1) <= RATIO_TOLERANCE and distance <= DISTANCE_TOLERANCE):
        raise InputError(
            f"Canary: sampler and trainer disagree on the sampler's own tokens (mean importance ratio {ratio:.3f}, "
            f"{distance:.3f} nats a token apart): the sampler does not have the trainer's weights, or computes otherwise."
        )
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
