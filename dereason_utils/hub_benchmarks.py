"""The paper's benchmarks (section 3.2) from the hub at a fixed commit, or from local files with the same columns.

Protocol (probably General-Reasoner's scripts, arXiv 2505.14652): options as lines 'A) ...', the letter in a box. GPQA is
gated: its authors ask that its questions do not appear in plain text on the web, so they and completions that may quote
them are never written to a result file (`Benchmark.secret`).
"""

import hashlib
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dereason_utils.errors import InputError
from dereason_utils.schema import Problem
from dereason_utils.verify.rules import kind_of


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: where its rows are, how a row becomes a problem, and how often each is sampled.

    samples: 8 for GPQA-Diamond (paper, section 3.2); 32 for AIME (General-Reasoner). size: rows, as its authors say.
    """

    name: str
    table: Literal["general", "mathematics"]
    hub: str
    config: str | None
    split: str
    size: int
    samples: int
    problem: Callable[
        [dict, int, int], dict
    ]  # (row, its number from 0, seed) -> question, answer, subject, key, options
    secret: bool = False


def lettered(question: str, options: Sequence[str]) -> str:
    """The question with its options on lines of their own, as the checker reads them."""
    lines = [f"{letter}) {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False)]
    return question.strip() + "\n" + "\n".join(lines)


def _choice(row: dict, key, options: Sequence[str], letter: str, subject: str) -> dict:
    if letter not in string.ascii_uppercase[: len(options)]:
        raise ValueError(f"the answer {letter!r} is none of its {len(options)} options")
    return {
        "key": str(key), "question": lettered(row["question"], options), "answer": letter, "answer_type": "choice",
        "subject": subject, "options": len(options),
    }  # fmt: skip


def _open(key, question: str, answer, subject: str) -> dict:
    answer = str(answer).strip()
    kind = kind_of(question, answer, None)
    if kind is None:
        raise ValueError(f"the checker cannot read the answer {answer!r}")
    return {
        "key": str(key), "question": question.strip(), "answer": answer, "answer_type": kind, "subject": subject,
        "options": 0,
    }  # fmt: skip


def mmlu_pro(row: dict, number: int, seed: int) -> dict:
    options = [option for option in row["options"] if option != "N/A"]  # padding of some rows
    return _choice(row, row.get("question_id", number), options, row["answer"], row["category"])


def supergpqa(row: dict, number: int, seed: int) -> dict:
    return _choice(row, row.get("uuid", number), row["options"], row["answer_letter"], row["discipline"])


def gpqa(row: dict, number: int, seed: int) -> dict:
    """The right answer stands first in the file: the options are shuffled, by seed and question alone."""
    key = hashlib.sha256(row["Question"].encode()).hexdigest()[:16]
    texts = [row["Correct Answer"], *(row[f"Incorrect Answer {i}"] for i in (1, 2, 3))]
    order = np.random.default_rng([seed, int(key, 16)]).permutation(4)
    options = [texts[i].strip() for i in order]
    letter = string.ascii_uppercase[list(order).index(0)]
    return _choice(
        {"question": row["Question"]}, key, options, letter, row.get("High-level domain") or "science"
    )


def bbeh(row: dict, number: int, seed: int) -> dict:
    question = row["question"] if "question" in row else row["input"]
    answer = row["answer"] if "answer" in row else row["target"]
    return _open(row.get("id", number), question, answer, row.get("task") or "all")


def math_500(row: dict, number: int, seed: int) -> dict:
    return _open(row.get("unique_id", number), row["problem"], row["answer"], row["subject"])


def aime(row: dict, number: int, seed: int) -> dict:
    return _open(row.get("id", number), row["problem"], row["answer"], "mathematics")


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("MMLU-Pro", "general", "TIGER-Lab/MMLU-Pro", None, "test", 12032, 1, mmlu_pro),
        Benchmark(
            "GPQA-Diamond", "general", "Idavidrein/gpqa", "gpqa_diamond", "train", 198, 8, gpqa, secret=True
        ),
        Benchmark("SuperGPQA", "general", "m-a-p/SuperGPQA", None, "train", 26529, 1, supergpqa),
        Benchmark("BBEH", "general", "MrLight/bbeh-eval", None, "train", 4520, 1, bbeh),
        Benchmark("MATH-500", "mathematics", "HuggingFaceH4/MATH-500", None, "test", 500, 1, math_500),
        Benchmark("AIME24", "mathematics", "HuggingFaceH4/aime_2024", None, "train", 30, 32, aime),
        Benchmark("AIME25", "mathematics", "yentinglin/aime_2025", None, "train", 30, 32, aime),
    )
}


def to_problems(name: str, rows: Sequence[dict], seed: int) -> list[tuple[Problem, int]]:
    """Each row as a problem, with its number of options (0: an open question).

    Raises InputError, naming the row, where a column is missing or a row contradicts itself: a benchmark is never
    silently made smaller.
    """
    benchmark, made = BENCHMARKS[name], []
    for number, row in enumerate(rows):
        try:
            fields = benchmark.problem(row, number, seed)
            problem = Problem(
                id=f"{name}-{fields['key']}", question=fields["question"], answer=fields["answer"],
                answer_type=fields["answer_type"], subject=fields["subject"], family=f"{name}.{fields['subject']}", steps=0,
            )  # fmt: skip
        except KeyError as error:
            raise InputError(
                f"{name}, row {number + 1}: the column {error.args[0]!r} is missing (it has {', '.join(row)}): "
                f"give it the columns of {benchmark.hub}."
            ) from error
        except (ValueError, TypeError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{name}, row {number + 1}: {reason}: replace the file or report the row."
            ) from error
        made.append((problem, fields["options"]))
    ids = [problem.id for problem, _ in made]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise InputError(f"{name}: the id {twice!r} stands there twice: replace the file.")
    return made
