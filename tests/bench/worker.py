"""One variant in a process of its own: `python worker.py ours folder`.

Answers each line on its standard input, a task and the number of the repetition, with the repetition's measurements, a
JSON line on standard output. Number 0 is a little one, to warm up.
"""

import functools
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import counts
import work

TASKS = ("04_grpo", "03_sft", "05_eval", "01_rating", "checker")
PLAIN = ("trl_float32", "trl_bfloat16")
VARIANTS = {
    "01_rating": ("ours", *PLAIN),
    "03_sft": ("ours", *PLAIN),
    "04_grpo": ("ours", "ours_all_groups", *PLAIN),
    "05_eval": ("ours", *PLAIN),
    "checker": ("ours", "math_verify"),
}
MACHINE = "machine"


def main(variant: str, folder: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")  # the libraries' own output goes to the log instead
    os.dup2(2, 1)
    repeat = prepare(variant, work.load(folder))
    for line in sys.stdin:
        task, number = line.split()
        forget_peak()
        with tempfile.TemporaryDirectory() as temporary:
            rows = repeat(task, int(number), Path(temporary))
        peak = peak_mb()
        print(json.dumps([{"peak_mb": peak, **row} for row in rows]), file=answers, flush=True)


def forget_peak() -> None:
    """The largest resident size starts anew; what the process holds now is still in it."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)


def prepare(variant: str, own: work.Work):
    """repeat(task, number of the repetition, an empty folder) -> measurements. The model is loaded when it is needed."""
    loaded = functools.cache(lambda: load(own, variant))
    stages = {"01_rating": rating, "03_sft": sft, "04_grpo": grpo, "05_eval": evaluation}

    def repeat(task: str, number: int, folder: Path) -> list[dict]:
        if variant == MACHINE:
            return machine(own)
        if task == "checker":
            return checker(own, variant, number)
        return stages[task](own if number else own.little(), variant, *loaded(), number, folder)

    return repeat


def load(own: work.Work, variant: str):
    """(model, tokenizer, the precision of its products)."""
    if variant in PLAIN:
        import plain

        dtype = variant.removeprefix("trl_")
        return *plain.load(own.where, own.adapter, dtype), dtype
    from dereason_utils import models

    settings = own.settings.model
    made = models.load_policy(own.where, settings, 0, train=True, policy=own.adapter)
    return *made, "bfloat16" if settings.bfloat16 else "float32"


def shape_of(model):
    from dereason_utils.memory_model import shape_from

    return shape_from(model.config.to_dict())


def timed(run):
    began = time.perf_counter()
    result = run()
    return result, time.perf_counter() - began


def measurement(
    measure: str, seconds: float, items: int, tokens: int = 0, counted=(0, 0), note: str = ""
) -> dict:
    """items: problems, sequences or answers; tokens: those that the measure counts; counted: operations and bytes."""
    return {"measure": measure, "seconds": seconds, "items": items, "tokens": tokens, "operations": counted[0],
            "bytes": counted[1], "note": note}  # fmt: skip


def machine(own: work.Work) -> list[dict]:
    import ceiling
    import torch
    from transformers import AutoConfig

    from dereason_utils.memory_model import shape_from

    shape = shape_from(AutoConfig.from_pretrained(own.where).to_dict())
    rows = []
    for dtype in ("float32", "bfloat16"):
        operations, seconds = ceiling.products(shape, getattr(torch, dtype), own.size.rows)
        rows.append(measurement(f"products_{dtype}", seconds, own.size.rows, counted=(operations, 0)))
    moved, seconds = ceiling.copy(own.size.buffer_mb)
    return [*rows, measurement("copy", seconds, 1, counted=(0, moved))]


def rating(own, variant, model, tokenizer, dtype, number, folder) -> list[dict]:
    from dereason_utils import judge

    style, settings = own.settings.model.prompt_style, own.settings.judge.model_copy(update={"retries": 0})
    prompts = [judge._prompt(q, tokenizer, style, settings.calibration_size > 0) for q in own.questions]
    lengths = []
    if variant == "ours":
        _, seconds = timed(lambda: judge.rate(
            model, tokenizer, own.questions, style, settings, 0, own.settings.model.max_length,
            on_batch=lambda done, batch: lengths.extend(len(each.tokens) for each in batch),
        ))  # fmt: skip
    else:
        import plain

        drawn, seconds = timed(lambda: plain.rate(model, tokenizer, own.questions, style, settings))
        lengths += map(len, drawn)
    read = sum(map(len, prompts)) + sum(lengths)
    counted = counts.sampling(shape_of(model), prompts, [[length] for length in lengths], dtype, 64)
    return [measurement("rating", seconds, len(prompts), read, counted)]


def sft(own, variant, model, tokenizer, dtype, number, folder) -> list[dict]:
    settings = own.settings.sft.model_copy(update={"epochs": 1})
    if variant == "ours":
        from dereason_utils import sft as stage

        curve = stage.train(model, tokenizer, own.examples, [], settings, folder, number)
        seconds = curve["step_s"].sum()
    else:
        import plain

        log = plain.sft(model, tokenizer, own.examples, settings, dtype, folder, seed=number)
        seconds = sum(entry["step_s"] for entry in log)
    rows = [
        (example["input_ids"][:start], len(example["input_ids"]) - start)
        for example in own.examples
        for start in [example["completion_mask"].index(1)]
    ]
    counted = counts.training(
        shape_of(model), rows, dtype, own.settings.model.lora_rank, settings.micro_batch_size
    )
    tokens = sum(len(example["input_ids"]) for example in own.examples)
    return [measurement("sft", seconds, len(rows), tokens, counted)]


def grpo(own, variant, model, tokenizer, dtype, number, folder) -> list[dict]:
    """One whole step: rollout, checks, update. `ours_all_groups` finds every group informative, so that none is skipped."""
    import pandas as pd

    from dereason_utils import grpo as stage
    from dereason_utils import prompts

    style, settings, checked = own.settings.model.prompt_style, own.grpo, []
    plain_rewards = stage.rewards

    def watched(rows, completions):
        values = plain_rewards(rows, completions)
        if variant == "ours_all_groups":
            values = [float(i % 2) for i in range(len(values))]
        checked.extend(values)
        return values

    stage.rewards = watched
    try:
        if variant in PLAIN:
            import plain

            (log,), (rollout_s,), (drawn,) = plain.grpo_steps(
                model, tokenizer, own.problems, style, settings, dtype, folder, number
            )
            step_s = log["step_time"]
            completions = [len(ids) for ids in drawn]
        else:
            curve = stage.train(model, tokenizer, pd.DataFrame(own.problems), style, settings, folder, number)
            rollout_s, step_s = curve["rollout_s"][0], curve["rollout_s"][0] + curve["update_s"][0]
            completions = stage.collect_rollouts(folder, 1)["tokens"].tolist()
    finally:
        stage.rewards = plain_rewards
    # Which prompt a completion belongs to matters little for the counts: the prompts are of like length.
    asked = [prompts.tokenise_prompt(row["question"], tokenizer, style) for row in own.problems]
    size, shape = settings.group_size, shape_of(model)
    groups = [completions[i : i + size] for i in range(0, len(completions), size)]
    rows = [(prompt, length) for prompt, group in zip(asked, groups, strict=True) for length in group]
    sampled = counts.sampling(shape, asked, groups, dtype, len(rows))
    learnt = counts.training(shape, rows, dtype, own.settings.model.lora_rank, settings.micro_batch_size)
    new, read = sum(completions), sum(len(prompt) + length for prompt, length in rows)
    informative = f"{1 - stage.uninformative_share(checked, size):.3f} of the groups informative"
    return [
        measurement("rollout", rollout_s, len(rows), new, sampled),
        measurement("update", step_s - rollout_s, len(rows), read, learnt, informative),
        measurement("step", step_s, len(rows), new, note=informative),
    ]


def evaluation(own, variant, model, tokenizer, dtype, number, folder) -> list[dict]:
    from dereason_utils import evaluate, prompts

    style, settings, items = own.settings.model.prompt_style, own.eval, own.items
    if variant == "ours":
        table, seconds = timed(
            lambda: evaluate.evaluate(model, tokenizer, items, style, settings, folder / "parts", "bench")
        )
        lengths = table["tokens"].tolist()
    else:
        import plain

        drawn, seconds = timed(lambda: plain.evaluate_items(model, tokenizer, items, style, settings))
        lengths = list(map(len, drawn))
    asked = [prompts.tokenise_prompt(item.problem.question, tokenizer, style) for item in items]
    copies = items[0].samples
    groups = [lengths[i : i + copies] for i in range(0, len(lengths), copies)]
    counted = counts.sampling(shape_of(model), asked, groups, dtype, settings.batch_size)
    return [measurement("evaluation", seconds, len(items) * copies, sum(lengths), counted)]


def checker(own: work.Work, variant: str, number: int) -> list[dict]:
    """Each repetition has answers of its own, because gold answers are kept once they are parsed."""
    size = own.size.checked
    answers = own.answers[number * size : (number + 1) * size]
    if variant == "ours":
        from dereason_utils.verify import verify_many

        question, gold, response, kind = (list(column) for column in zip(*answers, strict=True))
        _, seconds = timed(lambda: verify_many(question, gold, response, kind))
    else:
        import plain

        _, seconds = timed(lambda: plain.check(answers))
    return [measurement("checker", seconds, size)]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
