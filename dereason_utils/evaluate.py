"""Evaluation: every arm and the base model decode the same items in the same way and meet the reward's own checker."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dereason_utils import disk, generate, progress, prompts, sources, stats, training
from dereason_utils.benchmarks import BenchmarkItem
from dereason_utils.profiles import Eval, Model
from dereason_utils.verify import verify_many
from dereason_utils.verify.words import gold_letters

TOO_LONG = "too long"  # the reason of rows whose prompt leaves no room for a completion


def evaluate(model, tokenizer, items: Sequence[BenchmarkItem], style: str, settings: Eval, folder: Path,
             label: str, sample: Callable = generate.sample) -> pd.DataFrame:  # fmt: skip
    """Sample and check; one row per item and sample with the columns of items.parquet.

    folder: keeps each finished batch, so that a stopped evaluation goes on from there. label: for progress lines.
    sample: what draws the completions, a function with the parameters of `generate.sample`.
    """
    ids = [prompts.tokenise_prompt(item.problem.question, tokenizer, style) for item in items]
    training.keep_own(
        folder,
        code=sources.code_hash("05_eval"),
        settings=settings.model_dump(exclude={"model_verifier"}),  # which is asked afterwards
        items=[dataclasses.astuple(item) for item in items],
        prompts=ids,
        model=training.model_facts(model),
        sampler="vllm" if hasattr(model, "vllm_engine") else "own",
    )
    batches = _batches(items, ids, settings.batch_size)
    files = [folder / f"batch-{number:05d}.parquet" for number in range(len(batches))]
    todo = [number for number, file in enumerate(files) if not file.is_file()]
    before = done = len(items) - sum(len(batches[number]) for number in todo)
    bar, began, tokens = progress.Bar(len(items), label, start=before), time.monotonic(), 0
    for number in todo:
        chosen = batches[number]
        asked = [items[i] for i in chosen]
        rows = _sample(model, tokenizer, asked, [ids[i] for i in chosen], settings, number, sample)
        # Checked here and not at the end, so that a secret completion never reaches a disk.
        rows = conceal(check(rows, asked), asked)
        disk.write_table(files[number], rows.assign(place=np.repeat(chosen, asked[0].samples)))
        tokens, done = tokens + rows["tokens"].sum(), done + len(chosen)
        bar.update(done, f"{tokens / (time.monotonic() - began):.0f} tokens/s")
    # Read back even in one go, so that an interruption cannot show in the types.
    rows = pd.concat([pd.read_parquet(file) for file in files]).sort_values(["place", "sample"])
    return rows.drop(columns="place").reset_index(drop=True)


def _batches(items: Sequence[BenchmarkItem], ids: list[list[int]], size: int) -> list[list[int]]:
    """The items' places in batches of at most `size` completions, each of items that are asked in the same way."""
    ways: dict[tuple[int, float], list[int]] = {}
    for place, item in enumerate(items):
        ways.setdefault((item.samples, item.temperature), []).append(place)
    return [
        [places[i] for i in batch]
        for (samples, _), places in ways.items()
        for batch in generate.batches([ids[place] for place in places], size // samples)
    ]


def _sample(model, tokenizer, items, ids, settings: Eval, number: int, sample: Callable) -> pd.DataFrame:
    """The unchecked rows of one batch, item by item.

    Its draws depend on `eval.seed` and its number alone: not on the batches before it, so that it can be drawn again,
    and not on the training seed, so that all arms face the same draws.
    """
    drawn = sample(
        model, tokenizer, ids, copies=items[0].samples, max_new_tokens=settings.max_completion,
        temperature=items[0].temperature, seed=settings.seed * 1_000_003 + number, batch_size=settings.batch_size,
    )  # fmt: skip
    rows = [
        _row(item, copy, tokenizer.decode(completion.tokens, skip_special_tokens=True), completion)
        for item, completions in zip(items, drawn, strict=True)
        for copy, completion in enumerate(completions)
    ]
    return pd.DataFrame(rows)


def askable(
    items: Sequence[BenchmarkItem], tokenizer, model: Model, settings: Eval
) -> tuple[list[BenchmarkItem], list[BenchmarkItem]]:
    """(items whose prompt leaves room for a whole completion, items that are too long and must not be cut)."""
    questions = [item.problem.question for item in items]
    fits = prompts.fitting(questions, tokenizer, model, settings.max_completion)
    asked = [item for item, fit in zip(items, fits, strict=True) if fit]
    return asked, [item for item, fit in zip(items, fits, strict=True) if not fit]


def with_too_long(rows: pd.DataFrame, too_long: Sequence[BenchmarkItem]) -> pd.DataFrame:
    """The rows of `evaluate`, and rows with the reason 'too long' for items that no completion was drawn for.

    Such an item counts as wrong for every arm, and is counted apart from answers that cannot be found.
    """
    nothing = generate.Completion([], True, 0.0)
    unasked = [_row(item, number, "", nothing) for item in too_long for number in range(item.samples)]
    if not unasked:
        return rows
    verdict = {"extracted": None, "verdict": "incorrect", "reason": TOO_LONG, "correct": False}
    table = pd.DataFrame(unasked).assign(**verdict, parse_failure=False, random_credit=0.0)
    return pd.concat([rows, conceal(table, too_long)], ignore_index=True)


def _row(item: BenchmarkItem, sample: int, text: str, completion: generate.Completion) -> dict:
    """One unchecked row of items.parquet; the paper's benchmarks have no families."""
    problem = item.problem
    return {
        "benchmark": item.benchmark, "table": item.table, "item_id": problem.id, "subject": problem.subject,
        "family": problem.family or None, "steps": problem.steps, "sample": sample, "gold": problem.answer,
        "completion": text, "tokens": len(completion.tokens), "truncated": not completion.ended,
    }  # fmt: skip


def check(rows: pd.DataFrame, items: Sequence[BenchmarkItem]) -> pd.DataFrame:
    """Add the checker's columns: extracted, verdict, reason, correct, parse_failure, random_credit.

    random_credit: 1 for a right answer, and 1 / options where a multiple-choice question got no readable answer: the
    expected value of the random letter that General-Reasoner's scripts draw there (arXiv 2505.14652).
    """
    asked = {item.problem.id: item for item in items}
    own = [asked[i].problem for i in rows["item_id"]]
    options = [asked[i].options for i in rows["item_id"]]
    verdicts = verify_many(
        [p.question for p in own],
        [p.answer for p in own],
        list(rows["completion"]),
        [p.answer_type for p in own],
    )
    return rows.assign(
        extracted=[v.extracted for v in verdicts],
        verdict=[v.verdict for v in verdicts],
        reason=[v.reason for v in verdicts],
        correct=[v.verdict == "correct" for v in verdicts],
        parse_failure=[v.extracted is None for v in verdicts],
        random_credit=[
            1 / count if count and v.extracted is None else float(v.verdict == "correct")
            for count, v in zip(options, verdicts, strict=True)
        ],
    )


def conceal(rows: pd.DataFrame, items: Sequence[BenchmarkItem]) -> pd.DataFrame:
    """The checked rows without what a secret item must not give away: its completions, its gold answer, and of the
    extracted answers all but the option's letter."""
    secret = {item.problem.id: item.problem.question for item in items if item.secret}
    hidden = rows["item_id"].isin(secret)
    letters = [
        (said if not isinstance(said, str) or not hide else _letter(secret[name], said))
        for name, said, hide in zip(rows["item_id"], rows["extracted"], hidden, strict=True)
    ]
    return rows.assign(
        completion=rows["completion"].mask(hidden, None),
        gold=rows["gold"].mask(hidden, None),
        extracted=letters,
    )


def _letter(question: str, said: str) -> str:
    letters = gold_letters(question, said)
    return next(iter(letters)).upper() if len(letters) == 1 else "other"


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per benchmark: items, samples of each, pass@1 (micro: the mean over items), macro (over subjects or tasks),
    random_credit (pass@1 with a guess's expected credit), maj@k (k = samples), parse failures, too long, truncated, tokens.
    """
    summary = []
    for benchmark, part in rows.groupby("benchmark", sort=False):
        scorable = part[part["verdict"] != "unscorable"]
        votes = [
            stats.maj_at_k(list(item["extracted"]), list(item["correct"]))
            for _, item in scorable.groupby("item_id")
        ]
        summary.append(
            {
                "benchmark": benchmark, "items": part["item_id"].nunique(), "samples": part["sample"].nunique(),
                "pass@1": scorable["correct"].mean(), "parse_failures": part["parse_failure"].mean(),
                "random_credit": scorable["random_credit"].mean(),
                "macro": scorable.groupby("subject")["correct"].mean().mean(), "maj@k": float(np.mean(votes)),
                "too_long": (part["reason"] == TOO_LONG).mean(),
                "truncated": part["truncated"].mean(), "tokens": part["tokens"].mean(),
            }
        )  # fmt: skip
    return pd.DataFrame(summary)


def spot_check(model, tokenizer, problems: pd.DataFrame, style: str, *, copies: int, max_completion: int,
               temperature: float, seed: int) -> pd.DataFrame:  # fmt: skip
    """`copies` checked completions of each problem, for a look before or after training.

    Columns: id, steps, gold, sample, completion, correct, parse_failure, ended, tokens, entropy (nats per token).
    """
    ids = [prompts.tokenise_prompt(question, tokenizer, style) for question in problems["question"]]
    bar = progress.Bar(len(ids), "samples")  # of a whole pool they take many minutes
    drawn = generate.sample(
        model, tokenizer, ids, copies=copies, max_new_tokens=max_completion, temperature=temperature, seed=seed,
        batch_size=128, on_batch=lambda done, _: bar.update(done),
    )  # fmt: skip
    rows = [
        {
            "id": problem.id, "steps": problem.steps, "question": problem.question, "gold": problem.answer,
            "answer_type": problem.answer_type, "sample": number, "ended": completion.ended,
            "completion": tokenizer.decode(completion.tokens, skip_special_tokens=True),
            "tokens": len(completion.tokens), "entropy": completion.entropy,
        }
        for problem, completions in zip(problems.itertuples(), drawn, strict=True)
        for number, completion in enumerate(completions)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    verdicts = verify_many(*(list(table[name]) for name in ("question", "gold", "completion", "answer_type")))
    table["correct"] = [v.verdict == "correct" for v in verdicts]
    table["parse_failure"] = [v.extracted is None for v in verdicts]
    return table.drop(columns=["question", "answer_type"])


def prospects(rows: pd.DataFrame) -> dict[str, float]:
    """What GRPO will find in groups like these: pass@1, pass@k, the share of informative groups, entropy, ...

    rows: from `spot_check` with the group size as `copies`. A group is informative when some but not all of its
    completions are right; only such groups have a gradient.
    """
    groups = rows.groupby("id")["correct"]
    size = int(groups.size().iloc[0])
    return {
        "problems": groups.ngroups,
        "pass@1": float(rows["correct"].mean()),
        f"pass@{size}": float(groups.any().mean()),
        "informative groups": float((groups.any() & ~groups.all()).mean()),
        "entropy (nats per token)": float(np.average(rows["entropy"], weights=rows["tokens"])),
        "parse failures": float(rows["parse_failure"].mean()),
        "ended": float(rows["ended"].mean()),
        "tokens": float(rows["tokens"].mean()),
    }
