"""Tables of 06_figures: our accuracy beside the paper's reported numbers, and what lies behind the averages.

Every number of ours comes from 05_eval's per-item files and is in percent; `render` writes the tables.
"""

import functools
from collections.abc import Iterable

import numpy as np
import pandas as pd

from dereason_utils import paths, results, stats
from dereason_utils.results import Results
from dereason_utils.split import ARMS

TABLES = {"table1": "general", "table2": "mathematics"}
AVERAGE = "Avg."
CORPORA = {"webinstruct-verified": "WebInstruct-verified", "webscale-rl": "Webscale-RL"}
REPORTED = {
    "table1": {
        "mmlu_pro": "MMLU-Pro",
        "gpqa_diamond": "GPQA-D",
        "supergpqa": "SuperGPQA",
        "bbeh": "BBEH",
        "avg": "Avg.",
    },
    "table2": {"aime24": "AIME24", "aime25": "AIME25", "math500": "MATH-500"},
}


def reported(name: str) -> pd.DataFrame:
    """The paper's own rows of 'table1' or 'table2', as transcribed in results/paper."""
    return pd.read_csv(paths.committed() / "paper" / f"reported_{name}.csv")


def on_corpus(theirs: pd.DataFrame, corpus: str) -> pd.DataFrame:
    """Of the paper's rows those trained on a corpus, by arm, and the base model's, which it reports once for both."""
    return theirs[(theirs["corpus"] == corpus) | (theirs["arm"] == "base")].set_index("arm")


@functools.lru_cache(maxsize=4)  # Tables 1 and 2, and figures
def accuracy(read: Results, table: str) -> pd.DataFrame:
    """Tidy accuracies of one table ('general' or 'mathematics'): per arm and benchmark, then the average.

    Columns arm, benchmark, accuracy, low, high (percent), parse_failure (percent of completions without an
    answer), questions, groups, samples, seeds, covers. Accuracy is pass@1: the mean over samples, then
    questions, then seeds.
    """
    rows = []
    for arm in read.arms:
        for name, items in columns(read.items[read.items["table"] == table]):
            estimate, copies = rate(items, arm)
            failed, questions = results.cube(items, arm, "parse_failure")
            parse = _mean_of_means(failed, questions)
            rows.append(
                {"arm": arm, "benchmark": name, **_percent(estimate), "parse_failure": 100 * parse}
                | _sizes(estimate, copies)
            )
    return pd.DataFrame(rows).round(4)


def main_table(read: Results, name: str) -> pd.DataFrame:
    """Table 1 or 2: one row per arm, our columns (value, low, high), then the paper's, all in percent."""
    ours = accuracy(read, TABLES[name])
    rows = []
    for arm in read.arms:
        mine = ours[ours["arm"] == arm].set_index("benchmark")
        row = {"arm": arm, "row": results.label(arm)}
        for benchmark, values in mine.iterrows():
            row |= {
                benchmark: values["accuracy"],
                f"{benchmark} low": values["low"],
                f"{benchmark} high": values["high"],
            }
        row["parse failure"] = mine.loc[AVERAGE, "parse_failure"]
        row |= {key: mine.loc[AVERAGE, key] for key in ("questions", "samples", "seeds", "covers")}
        rows.append(row)
    table = pd.DataFrame(rows)
    for corpus in CORPORA:
        theirs = on_corpus(reported(name), corpus)
        for column in REPORTED[name]:
            table[f"paper {corpus} {column}"] = table["arm"].map(theirs[column])
    return table


def scorings(read: Results) -> pd.DataFrame:
    """Other scorings of the same completions, in percent, per arm and benchmark.

    accuracy: the mean over items (micro), an answer that cannot be read counts as wrong; parse_failure: their share.
    random_credit: where the question has options, such an answer counts 1 / options, the expected value of the random
    letter that General-Reasoner's scripts draw (arXiv 2505.14652). macro: the plain mean of the subjects' (BBEH: tasks')
    accuracies; macro_random_credit likewise.
    """
    rows = []
    for table in TABLES.values():
        for name, items in columns(read.items[read.items["table"] == table])[:-1]:
            for arm in read.arms:
                part = items[items["arm"] == arm].astype({"correct": float})
                subjects = part.groupby("subject")[["correct", "random_credit"]].mean()
                micro = part[["correct", "parse_failure", "random_credit"]].mean()
                shares = [*micro, *subjects.mean()]
                rows.append(
                    [arm, name, part["item_id"].nunique(), *(100 * share for share in shares), len(subjects)]
                )
    names = ["accuracy", "parse_failure", "random_credit", "macro", "macro_random_credit", "subjects"]
    return pd.DataFrame(rows, columns=["arm", "benchmark", "items", *names]).round(4)


@functools.lru_cache(maxsize=4)  # tables by subject and steps, and figures
def by_group(read: Results, column: str) -> pd.DataFrame:
    """Accuracy in percent per arm and value of `column`: 'subject', or 'steps' where they are known."""
    items = read.items[read.items["steps"] > 0] if column == "steps" else read.items
    parts = {value: part.assign(benchmark="one") for value, part in items.groupby(column)}
    rows = []
    for arm in read.arms:
        for value, part in parts.items():
            estimate, copies = rate(part, arm)
            failed = part.loc[part["arm"] == arm, "parse_failure"].mean()
            rows.append(
                {"arm": arm, column: value, **_percent(estimate), "parse_failure": 100 * failed}
                | _sizes(estimate, copies)
            )
    if not rows:  # no benchmark of this run knows its steps
        return pd.DataFrame(columns=["arm", column, "accuracy", "low", "high", "parse_failure", "questions"])
    return pd.DataFrame(rows).round(4)


def pass_and_majority(read: Results) -> pd.DataFrame:
    """pass@k (k = 1, 2, 4, ... samples) and maj@K per arm in percent, as averages of the benchmarks.

    Benchmarks that differ in their number of samples stand apart, their names behind the table's.
    """
    rows = []
    for arm in read.arms:
        for table, items in _equally_sampled(read):
            correct, questions = results.cube(items, arm)
            copies = correct.shape[2]
            powers = [2**i for i in range(copies.bit_length()) if 2**i <= copies]
            for k in sorted({*powers, copies}):
                values = np.stack([stats.pass_at_k(copies, run.sum(1), k) for run in correct])
                rows.append(
                    {"arm": arm, "table": table, "measure": f"pass@{k}"}
                    | _one_per_question(values, questions)
                )
            voted = _majority(items[items["arm"] == arm], correct.shape)
            rows.append(
                {"arm": arm, "table": table, "measure": f"maj@{copies}"} | _one_per_question(voted, questions)
            )
    return pd.DataFrame(rows).round(4)


def _equally_sampled(read: Results) -> list[tuple[str, pd.DataFrame]]:
    """(label, items) of each table, taken apart where its benchmarks differ in their number of samples."""
    parts = []
    for table in TABLES.values():
        items = read.items[read.items["table"] == table]
        copies = items.groupby("benchmark")["sample"].nunique()
        for _, names in copies.groupby(copies, sort=True):
            label = table if len(names) == len(copies) else f"{table}: {', '.join(names.index)}"
            parts.append((label, items[items["benchmark"].isin(names.index)]))
    return parts


def variances(read: Results) -> pd.DataFrame:
    """Where the uncertainty of each trained arm's average comes from: standard errors in points, apart.

    Columns arm, table, training_seeds, questions, samples, together; empty with one training seed, which cannot tell them
    apart.
    """
    rows = []
    trained = [arm for arm in read.arms if ARMS[arm].sft or ARMS[arm].rl]  # the base model is evaluated once
    for arm in trained if len(read.seeds) > 1 else ():
        for table in TABLES.values():
            estimate, _ = rate(read.items[read.items["table"] == table], arm)
            parts = {name.replace(" ", "_"): 100 * part**0.5 for name, part in estimate.variances.items()}
            rows.append({"arm": arm, "table": table, **parts, "together": 100 * estimate.se})
    names = ["arm", "table", "training_seeds", "questions", "samples", "together"]
    return pd.DataFrame(rows, columns=names).round(4)


def training_slopes(
    read: Results, columns: Iterable[str] = ("reward", "response_length", "entropy")
) -> pd.DataFrame:
    """Slope per RL step of each training curve, with its interval (stats.slope), per arm and seed.

    Runs of fewer than stats.SLOPE_POINTS steps have none and are left out.
    """
    rows = []
    for (arm, seed), steps in read.grpo.groupby(["arm", "seed"], sort=False):
        if len(steps) < stats.SLOPE_POINTS:
            continue
        for column in columns:
            estimate = stats.slope(steps[column], steps["step"])
            rows.append(
                {
                    "arm": arm,
                    "seed": seed,
                    "curve": column,
                    "slope": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                    "p": estimate.p_value,
                    "steps": len(steps),
                    "first_quarter": steps[column].head(max(1, len(steps) // 4)).mean(),
                    "last_quarter": steps[column].tail(max(1, len(steps) // 4)).mean(),
                }
            )
    names = ["arm", "seed", "curve", "slope", "low", "high", "p", "steps", "first_quarter", "last_quarter"]
    return pd.DataFrame(rows, columns=names).round(6)


def columns(items: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The benchmarks of a table, the paper's in its order and the others by name, and the average over all of them last."""
    rank = [column for columns in REPORTED.values() for column in columns]
    parts = sorted(items.groupby("benchmark"), key=lambda p: rank.index(p[0]) if p[0] in rank else len(rank))
    return [*parts, (AVERAGE, items)]


def accuracy_of(correct: np.ndarray, groups, benchmarks=None) -> stats.Estimate:
    """correct [seeds, questions, samples]: a rate with its interval, as `stats.rate` or, of several seeds, `hierarchical_rate`."""
    seeds, _, copies = correct.shape
    if seeds == 1:
        return stats.rate(correct[0].mean(1), groups, benchmarks, samples=copies)
    return stats.hierarchical_rate(correct, groups, benchmarks)


def difference_of(a: np.ndarray, b: np.ndarray, groups, benchmarks=None) -> stats.Estimate:
    """a - b, both [seeds, questions, samples], paired by question and, of several seeds, by seed."""
    if len(a) == len(b) == 1:
        return stats.paired_difference(a[0].mean(1), b[0].mean(1), groups, benchmarks)
    return stats.hierarchical_difference(a, b, groups, benchmarks)


def rate(items: pd.DataFrame, arm: str) -> tuple[stats.Estimate, int | str]:
    """The estimate, and the samples of each question: a number, or such as '1 or 8' where benchmarks differ."""
    correct, questions = results.cube(items, arm)
    numbers = sorted(items.groupby("benchmark")["sample"].nunique().unique())
    asked = correct.shape[2] if len(numbers) == 1 else " or ".join(map(str, numbers))
    return accuracy_of(correct, questions["group"], questions["benchmark"]), asked


def _one_per_question(values: np.ndarray, questions: pd.DataFrame) -> dict:
    """values [seeds, questions], already a chance per question, as in pass@k and maj@k."""
    estimate = accuracy_of(values[:, :, None], questions["group"], questions["benchmark"])
    found = _percent(estimate)
    return {
        "value": found["accuracy"],
        "low": found["low"],
        "high": found["high"],
        "questions": estimate.questions,
        "seeds": estimate.seeds,
        "covers": estimate.covers,
    }


def _majority(items: pd.DataFrame, shape: tuple[int, int, int]) -> np.ndarray:
    """[seeds, questions]: maj@K of each question, in the order of `results.cube`, whose shape is given."""
    rows = items.sort_values(["seed", "benchmark", "item_id", "sample"], kind="stable")
    answers, correct = (
        rows[name].to_numpy(object).reshape(-1, shape[2]) for name in ("extracted", "correct")
    )
    return np.array([stats.maj_at_k(*pair) for pair in zip(answers, correct, strict=True)]).reshape(shape[:2])


def _mean_of_means(values: np.ndarray, questions: pd.DataFrame) -> float:
    """values [seeds, questions, samples]: the benchmarks' plain mean."""
    return float(pd.Series(values.mean((0, 2))).groupby(questions["benchmark"].to_numpy()).mean().mean())


def _percent(estimate: stats.Estimate) -> dict:
    return {"accuracy": 100 * estimate.value, "low": 100 * estimate.low, "high": 100 * estimate.high}


def _sizes(estimate: stats.Estimate, copies: int | str) -> dict:
    return {
        "questions": estimate.questions,
        "groups": estimate.groups,
        "samples": copies,
        "seeds": estimate.seeds,
        "covers": estimate.covers,
    }
