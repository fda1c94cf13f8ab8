"""What a small policy is pretrained on, and how: windows of text, calculations and problems.

A base model is not made of problems alone. Much of what this one reads are running calculations, which teach the
operations that its problems' steps consist of with ten tokens each; the problems, most of them short, teach what a
question asks for. Towards the end most of them stand there with their bare answer, as on the web: the model can work
problems out and mostly does not, as a base model that has to be taught, or reinforced, to reason.
Documents follow each other without padding, so a window needs no attention mask.
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from dereason_utils import mini_stem, progress, prompts
from dereason_utils.mini_stem import core

PROMPTED = 0.3  # share of the problems that stand in the policy's whole prompt; the others save its 60 tokens
# Share of the updates, at the end, in which bare answers are read (`Recipe.bare` of the problems).
LATE = 0.1
Document = tuple[list[int], list[bool]]  # token ids, and which of them carry loss


def calculation(rng: np.random.Generator) -> str:
    """A running calculation of 1 to 10 operations in the wordings of mini_stem, below 60."""
    value = core.between(rng, 1, 40)
    lines = [f"We start from {value}."]
    kinds = ("+", "-", "x2", "x3", "/2")
    for op in core.draw_ops(rng, value, core.between(rng, 1, 10), kinds, 1, 60, range(1, 13)):
        told = core.operate(value, op)
        lines.append(core.sentence(told.tell(core.pick(rng, told.phrasings), told.result)))
        value = told.result
    return "\n".join(lines)


def problem(recipe, rng: np.random.Generator, known: set[str]) -> str:
    """The id of a problem of mini_stem's training split, n steps with a probability that falls as 1/n.

    known: contents (`Instance.key`) that are not to be read; neither is any of the validation and test splits.
    """
    counts = np.arange(recipe.reasoning[0], recipe.reasoning[1] + 1)
    while True:
        steps = int(rng.choice(counts, p=(1 / counts) / (1 / counts).sum()))
        name = f"{core.pick(rng, recipe.families)}-s{steps}-{rng.integers(mini_stem.NUMBERS)}"
        key = mini_stem.rebuild(name).key
        if mini_stem.split_of(key) == "train" and key not in known:
            return name


def documents(recipe, tokenizer, known: set[str], bare: float = 0.0) -> Iterator[Document]:
    """Without end: calculations (loss on everything) and problems (loss on the solution alone).

    bare: share of the problems whose answer stands there without a solution.
    """
    rng = np.random.default_rng([recipe.seed, round(100 * bare)])
    while True:
        if rng.random() < recipe.calculations:
            ids = tokenizer(calculation(rng))["input_ids"] + [tokenizer.eos_token_id]
            yield ids, [True] * len(ids)
            continue
        name = problem(recipe, rng, known)
        instance = mini_stem.rebuild(name)
        question = instance.question
        if rng.random() < PROMPTED:
            asked = prompts.tokenise_prompt(question, tokenizer, "plain")
        else:
            asked = tokenizer(f"{question}\nSolution:\n")["input_ids"]
        if bare and rng.random() < bare:
            solution = rf"\boxed{{{instance.answer(instance.trace()[-1].result)}}}"
        else:
            solution = mini_stem.solve(name, recipe.seed, 0.0)
        solved = tokenizer(solution)["input_ids"] + [tokenizer.eos_token_id]
        yield asked + solved, [False] * len(asked) + [True] * len(solved)


def windows(stream: Iterator[Document], length: int) -> Iterator[Document]:
    """The documents one after the other, cut into windows of `length` + 1 tokens, each begun by a new document.

    What a window's last document has too much is dropped: a problem never begins in its middle.
    """
    while True:
        ids, losses = [], []
        while len(ids) <= length:
            more, carry = next(stream)
            ids += more
            losses += carry
        yield ids[: length + 1], losses[: length + 1]


def train(model, tokenizer, recipe, known: set[str]) -> None:
    """Pretrain in place: Muon for the layers' matrices, Adam for the (tied) embedding. The norms' gains stay 1."""
    import torch
    import torch.nn.functional as F

    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    trained = [*matrices, model.model.embed_tokens.weight]
    for parameter in model.parameters():
        parameter.requires_grad_(any(parameter is one for one in trained))
    optimizers = [
        torch.optim.Muon(matrices, recipe.learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(trained[-1:], recipe.learning_rate, weight_decay=0.0, betas=(0.9, 0.95)),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: pace(done, recipe.steps))
        for optimizer in optimizers
    ]
    early, late = (
        windows(documents(recipe, tokenizer, known, bare), recipe.window) for bare in (0.0, recipe.bare)
    )
    bar = progress.Bar(recipe.steps, "pretraining a small policy")
    for step in range(recipe.steps):
        rows = list(islice(early if step < (1 - LATE) * recipe.steps else late, recipe.rows))
        ids = torch.tensor([ids for ids, _ in rows])
        wanted = ids.masked_fill(~torch.tensor([losses for _, losses in rows]), -100)[:, 1:]
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            # All logits, though some carry no loss: products of ever new sizes would make the memory grow.
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
            loss = F.cross_entropy(logits.float().flatten(0, 1), wanted.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for part in (*optimizers, *schedules):
            part.step()
        model.zero_grad()
        bar.update(step + 1, f"loss {loss.item():.2f}")


def pace(done: int, steps: int) -> float:
    """The learning rate's share after `done` of `steps` updates: up in 30, level, down to 2% in the last 40%."""
    return min(1.0, (done + 1) / 30, max(0.02, (steps - done) / (0.4 * steps)))
