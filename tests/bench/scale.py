"""How the cost of each stage grows: `python scale.py` writes results/bench/scale.csv and the figure scale.

Against the number of problems, the length of completions and the size of a group. The policy is the `smoke` profile's
(a million parameters) for lengths and groups, and one of 30 thousand parameters with its tokenizer for numbers of
problems: with the real one 20,000 problems would take days. No token ends a completion here, so that its
length is what the axis says. Each line of a panel is a process of its own; its points come in rising order, each with
its wall and processor seconds and its largest resident size. Growth is fitted to processor seconds, which other work
on the machine does not change.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from worker import forget_peak, peak_mb

from dereason_utils import disk, paths
from dereason_utils.plotting import PALETTE, STYLE, TWO_COLUMNS, label_ends

PROBLEMS, LENGTHS, GROUPS = (200, 1000, 5000, 20000), (32, 64, 128, 256, 512), (4, 8, 16, 32)
ROWS = 32  # completions, or examples, at each length
SHORT = 8  # tokens of a completion where problems are counted
LINES = {
    "problems": {name: PROBLEMS for name in ("01", "02", "03", "04", "05", "06")},
    "tokens of a completion": {name: LENGTHS for name in ("03", "04", "05")},
    "completions of a group": {"04": GROUPS},
}
QUICK = {"problems": {"02": (20, 40), "04": (4, 8)}, "tokens of a completion": {"05": (4, 8)}}


def child(axis: str, stage: str, values: list[int]) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run = prepare(axis, stage)
    run(values[0], Path(tempfile.mkdtemp()))  # what is loaded on first use is not counted
    for value in values:
        forget_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            run(value, Path(folder))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        row = {
            "axis": axis,
            "stage": stage,
            "value": value,
            "seconds": round(wall, 3),
            "cpu_s": round(cpu, 3),
        }
        print(json.dumps(row | {"peak_mb": peak_mb()}), file=answers, flush=True)


def prepare(axis: str, stage: str):
    """run(value, folder) of one stage, with everything made that is not part of its cost."""
    if stage == "06":
        return tables
    from dereason_utils import corpora, generate, models, profiles

    settings = profiles.load("smoke")
    where = models.locate(settings.model)
    if axis == "problems":
        where = smallest(where, Path(tempfile.mkdtemp()))
    model, tokenizer = models.load_policy(where, settings.model, 0, train=True)
    generate.end_tokens = lambda model, tokenizer: [-1]
    size = max(PROBLEMS) if axis == "problems" else 200
    corpus = settings.corpus.model_copy(update={"train_size": int(1.2 * size) + 50})
    train = corpora.load(corpus).query("split == 'train'").head(size).reset_index(drop=True)
    stages = {"01": rating, "02": splitting, "03": sft, "04": grpo, "05": evaluation}
    return lambda value, folder: stages[stage](axis, value, folder, settings, model, tokenizer, train)


def smallest(where: str, folder: Path) -> str:
    """A policy of one narrow layer, with the tokenizer that lies in `where`."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(where)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=24, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def rating(axis, value, folder, settings, model, tokenizer, train):
    from dereason_utils import judge

    own = settings.judge.model_copy(update={"retries": 0, "max_new_tokens": SHORT})
    judge.rate(model, tokenizer, list(train["question"][:value]), "plain", own, 0, 10_000)


def splitting(axis, value, folder, settings, model, tokenizer, train):
    from dereason_utils import corpora, judge, split

    part = train.head(value)
    scored = part.assign(score=judge.reference_scores(part["steps"]), pass_rate=np.nan)
    answered = corpora.teacher_answers(scored, settings.teacher.slip, 0)
    disk.write_table(folder / "answers.parquet", answered)
    disk.write_table(folder / "sets.parquet", split.selections(answered, 3, 0))


def sft(axis, value, folder, settings, model, tokenizer, train):
    from dereason_utils import sft as stage

    count, length = (value, SHORT) if axis == "problems" else (ROWS, value)
    rows = pd.DataFrame({"question": train["question"][:count], "response": "\\boxed{7}"})
    own = settings.model.model_copy(update={"max_length": 10_000})
    examples, _ = stage.tokenise(rows, tokenizer, own)
    for example in examples:  # the prompt, and so many tokens of answer
        start = example["completion_mask"].index(1)
        answer = example["input_ids"][start:]
        example["input_ids"] = example["input_ids"][:start] + (answer * length)[:length]
        example["completion_mask"] = [0] * start + [1] * length
    changes = {"epochs": 1, "batch_size": ROWS, "micro_batch_size": ROWS}
    stage.train(model, tokenizer, examples, [], settings.sft.model_copy(update=changes), folder, 0)


def grpo(axis, value, folder, settings, model, tokenizer, train):
    """Against the length and the group all groups are informative, so that no update is skipped."""
    from dereason_utils import grpo as stage

    prompts, group, length, steps = 4, 8, ROWS, 1
    if axis == "problems":
        prompts, group, length = min(200, value), 2, SHORT
        steps = value // prompts
    elif axis == "completions of a group":
        group = value
    else:
        length = value
    changes = {"steps": steps, "prompts_per_step": prompts, "group_size": group, "max_completion": length,
               "micro_batch_size": min(ROWS, prompts * group // 4), "save_every": 10_000}  # fmt: skip
    if axis == "problems":
        changes["micro_batch_size"] = prompts * group // 4
    rewards, every = stage.rewards, axis != "problems"
    if every:
        stage.rewards = lambda rows, texts: [float(i % 2) for i, _ in enumerate(rewards(rows, texts))]
    own = settings.grpo.model_copy(update=changes)
    stage.train(
        model,
        tokenizer,
        train.head(max(value if axis == "problems" else 0, prompts)),
        "plain",
        own,
        folder,
        0,
    )
    stage.rewards = rewards


def evaluation(axis, value, folder, settings, model, tokenizer, train):
    from dereason_utils import benchmarks, corpora, evaluate

    count, length = (value, SHORT) if axis == "problems" else (ROWS, value)
    items = benchmarks.build(corpora.problems(train.head(count)), [], 4, 1, 1.0)
    own = settings.eval.model_copy(update={"max_completion": length})
    evaluate.evaluate(model, tokenizer, items, "plain", own, folder / "parts", "scale")


def tables(value, folder):
    """Two arms, four samples of so many questions: the two main tables, differences and pass@k."""
    sys.path.insert(0, str(paths.REPO / "tests"))
    import synthetic_results as synthetic

    from dereason_utils import comparisons, results, tables

    os.environ["DEREASON_RESULTS"] = str(folder)
    synthetic.write(arms=("base", "sft_only"), test_size=value, gym_size=24)
    read = results.load("cpu", ("base", "sft_only"), (0,))
    for name in ("table1", "table2"):
        tables.main_table(read, name)
    comparisons.differences(read)
    tables.pass_and_majority(read)


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """The slope of log(processor seconds) against log(value) over the whole range and over its last step."""
    rows = []
    for (axis, stage), part in table.groupby(["axis", "stage"], sort=False):
        x, y = np.log(part["value"]), np.log(part["cpu_s"].clip(lower=1e-3))
        last = (y.iloc[-1] - y.iloc[-2]) / (x.iloc[-1] - x.iloc[-2])
        rows.append(
            (axis, stage, np.polyfit(x, y, 1)[0], last, part["peak_mb"].iloc[0], part["peak_mb"].iloc[-1])
        )
    names = ["axis", "stage", "exponent", "at_the_end", "peak_mb_first", "peak_mb_last"]
    found = pd.DataFrame(rows, columns=names).round(2)
    steep = found[["exponent", "at_the_end"]].max(axis=1) > 1.1
    return found.assign(verdict=np.where(steep, "faster than linear", "at most linear"))


def draw(folder: Path) -> list[str]:
    """Write scale.png and scale.pdf from scale.csv."""
    table = pd.read_csv(folder / "scale.csv", dtype={"stage": str})
    axes_named = list(dict.fromkeys(table["axis"]))
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(
            1, len(axes_named), figsize=(TWO_COLUMNS, 2.6), squeeze=False, sharey=True
        )
        for axis, name in zip(axes[0], axes_named, strict=True):
            ends, part = [], table[table["axis"] == name]
            for stage, line in part.groupby("stage"):
                colour = PALETTE[int(stage) - 1]
                axis.plot(line["value"], line["cpu_s"], marker="o", color=colour)
                ends.append((np.log10(line["cpu_s"].iloc[-1]), stage, colour))
            x = np.array([part["value"].min(), part["value"].max()], float)
            low = part["cpu_s"].min()
            axis.plot(x, low * x / x[0], ls=":", color="#6b6b6b", lw=1)
            axis.set(
                xscale="log", yscale="log", xlabel=name, title="dotted: linear" if axis is axes[0][0] else ""
            )
            ticks = sorted(set(part["value"]))
            axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            axis.minorticks_off()
            label_ends(axis, [(10**y, text, colour) for y, text, colour in ends])
        axes[0][0].set_ylabel("processor seconds")
        for ending, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            with disk.atomic_path(folder / f"scale.{ending}") as path:
                figure.savefig(path, format=ending, metadata=metadata)
        plt.close(figure)
    return ["scale.png", "scale.pdf"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=paths.committed() / "bench")
    parser.add_argument("--draw", action="store_true", help="only draw the figure again")
    parser.add_argument("--child", help="for its own child processes")
    options = parser.parse_args()
    if options.child:
        child(*json.loads(options.child))
        return
    if not options.draw:
        from bench import environment

        rows = []
        for axis, lines in (QUICK if options.quick else LINES).items():
            for stage, values in lines.items():
                line = [sys.executable, __file__, "--child", json.dumps((axis, stage, values))]
                done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True, env=environment(),
                                      stderr=subprocess.DEVNULL)  # fmt: skip
                rows += [json.loads(row) for row in done.stdout.splitlines()]
                print(f"{axis}, {stage}: {rows[-1]['seconds']} s at {rows[-1]['value']}", flush=True)
        disk.write_table(options.out / "scale.csv", pd.DataFrame(rows))
        disk.write_table(options.out / "growth.csv", exponents(pd.DataFrame(rows)))
    print(pd.read_csv(options.out / "growth.csv", dtype={"stage": str}).to_string(index=False))
    print("Written:", *draw(options.out))


if __name__ == "__main__":
    main()
