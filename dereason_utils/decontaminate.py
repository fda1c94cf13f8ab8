"""Training problems that share text with a benchmark are taken out, and the report says which (word n-grams)."""

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from dereason_utils import hub_benchmarks
from dereason_utils.profiles import pinned

SETTING = "corpus.benchmark_folder"

_WORD = re.compile(r"\w+")


def ngrams(text: str, n: int) -> set[str]:
    """The text's sequences of n words, without case and punctuation; of a shorter text, the whole of it."""
    words = _WORD.findall(text.casefold())
    if len(words) <= n:
        return {" ".join(words)} if words else set()
    return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}


def benchmark_questions(folder: str | None) -> dict[str, list[tuple[str, str]]]:
    """(item id, question without its options) of all benchmarks of the paper, by name.

    All seven, whatever is evaluated: a problem that the paper tests on is not trained on. folder: as `hub_benchmarks.read`
    takes it, so that evaluation can have the same one; None: the hub, at the pinned commits. Raises InputError where one
    of them cannot be read.
    """
    questions = {}
    for name, benchmark in hub_benchmarks.BENCHMARKS.items():
        rows = hub_benchmarks.read(name, folder, pinned("datasets", benchmark.hub), SETTING)
        questions[name] = [
            (problem.id, problem.question.rsplit("\nA) ", 1)[0] if options else problem.question)
            for problem, options in hub_benchmarks.to_problems(name, rows, seed=0)
        ]
    return questions


def overlaps(
    problems: pd.DataFrame, benchmarks: Mapping[str, Sequence[tuple[str, str]]], n: int
) -> pd.DataFrame:
    """One row per training problem and benchmark item that share n words in a row: id, benchmark, item, words.

    problems: columns id and question. benchmarks: (item id, question) by benchmark, options left out: choices such as
    "none of the above" would make strangers alike. A question of fewer than n words counts where it is the same.
    """
    index: dict[str, list[tuple[str, str]]] = {}
    for benchmark, items in benchmarks.items():
        for item, question in items:
            for gram in ngrams(question, n):
                index.setdefault(gram, []).append((benchmark, item))
    found = {}
    for problem, question in zip(problems["id"], problems["question"], strict=True):
        for gram in sorted(ngrams(question, n) & index.keys()):
            for where in index[gram]:
                found.setdefault((problem, *where), gram)
    rows = [(*key, words) for key, words in found.items()]
    return pd.DataFrame(rows, columns=["id", "benchmark", "item", "words"])


def report(found: pd.DataFrame, benchmarks: Mapping[str, Sequence[tuple[str, str]]]) -> pd.DataFrame:
    """One row per benchmark: its items, how many of them a training problem overlaps, and how many problems do."""
    return pd.DataFrame([
        {
            "benchmark": benchmark,
            "items": len(items),
            "items_overlapped": found.loc[found["benchmark"] == benchmark, "item"].nunique(),
            "problems_removed": found.loc[found["benchmark"] == benchmark, "id"].nunique(),
        }
        for benchmark, items in benchmarks.items()
    ])  # fmt: skip
