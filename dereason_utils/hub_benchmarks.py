"""The paper's benchmarks (section 3.2) from the hub at a fixed commit, or from local files with the same columns.

Protocol (probably General-Reasoner's scripts, arXiv 2505.14652): options as lines 'A) ...', the letter in a box. GPQA is
gated: its authors ask that its questions do not appear in plain text on the web, so they and completions that may quote
them are never written to a result file or shown in a notebook (`Benchmark.secret`). What is sampled once is decoded
greedily, what is sampled often at `eval.temperature`.
"""

import hashlib
import json
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow

from dereason_utils import paths
from dereason_utils.benchmarks import BenchmarkItem
from dereason_utils.errors import InputError, first_line
from dereason_utils.profiles import Eval, is_commit
from dereason_utils.schema import Problem
from dereason_utils.verify.rules import kind_of

_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|([0-9]))\s*(?:\{([^{}]*)\}|([0-9]))")


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: its name (a column of results/paper's tables), where its rows are, how a row becomes a problem, and
    how often each is sampled.

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
    answer = _spelled(str(answer).strip())
    if not answer:
        raise ValueError("its answer is empty")
    # An answer that the checker cannot read stays: its verdict is unscorable, for every arm alike.
    return {
        "key": str(key), "question": question.strip(), "answer": answer, "subject": subject, "options": 0,
        "answer_type": kind_of(question, answer, None) or "expression",
    }  # fmt: skip


def _spelled(answer: str) -> str:
    r"""MATH-500's shorthand as the checker reads it: '\frac{270}7' with both braces, '11,\! 111' without space."""
    return _FRACTION.sub(r"\\frac{\1\2}{\3\4}", re.sub(r"\\!\s*", "", answer))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _listed(options) -> list[str]:
    if isinstance(options, str):  # a CSV file has no lists
        raise TypeError("its options are one text and no list")
    return list(options)


def mmlu_pro(row: dict, number: int, seed: int) -> dict:
    options = [option for option in _listed(row["options"]) if option != "N/A"]  # padding of some rows
    return _choice(row, row.get("question_id", number), options, row["answer"], row["category"])


def supergpqa(row: dict, number: int, seed: int) -> dict:
    return _choice(
        row, row.get("uuid", number), _listed(row["options"]), row["answer_letter"], row["discipline"]
    )


def gpqa(row: dict, number: int, seed: int) -> dict:
    """The right answer stands first in the file: the options are shuffled, by seed and question alone."""
    key = _hash(row["Question"])
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
    """Named by the problem: a contest's two papers may number their problems alike.

    Answers are whole numbers up to 999, which some files pad with zeros: 25 is right where '025' stands.
    """
    answer = str(row["answer"]).strip()
    number = str(int(answer)) if answer.isdecimal() else answer
    return _open(_hash(row["problem"]), row["problem"], number, "mathematics")


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("mmlu_pro", "general", "TIGER-Lab/MMLU-Pro", None, "test", 12032, 1, mmlu_pro),
        Benchmark(
            "gpqa_diamond", "general", "Idavidrein/gpqa", "gpqa_diamond", "train", 198, 8, gpqa, secret=True
        ),
        Benchmark("supergpqa", "general", "m-a-p/SuperGPQA", None, "train", 26529, 1, supergpqa),
        Benchmark("bbeh", "general", "MrLight/bbeh-eval", None, "train", 4520, 1, bbeh),
        Benchmark("math500", "mathematics", "HuggingFaceH4/MATH-500", None, "test", 500, 1, math_500),
        Benchmark("aime24", "mathematics", "HuggingFaceH4/aime_2024", None, "train", 30, 32, aime),
        Benchmark("aime25", "mathematics", "yentinglin/aime_2025", None, "train", 30, 32, aime),
    )
}


def items(settings: Eval) -> list[BenchmarkItem]:
    """The items of the paper's benchmarks that `eval.benchmarks` names, at most `eval.items_per_benchmark` of each.

    A smaller draw of the same seed is a part of a larger one. Raises InputError where a file, a commit or the access to
    a gated benchmark is missing.
    """
    commits = dict(entry.split("@") for entry in settings.benchmark_commits)
    made = []
    for name in [name for name in settings.benchmarks if name in BENCHMARKS]:
        rows = read(name, settings.benchmark_folder, commits.get(name))
        made += _items(name, _drawn(to_problems(name, rows, settings.seed), settings), settings.temperature)
    return made


def _drawn(problems: list, settings: Eval) -> list:
    order = np.random.default_rng([settings.seed, 4]).permutation(len(problems))
    return [problems[i] for i in np.sort(order[: settings.items_per_benchmark])]


def _items(name: str, problems: list[tuple[Problem, int]], temperature: float) -> list[BenchmarkItem]:
    benchmark = BENCHMARKS[name]
    often = benchmark.samples > 1
    if often and temperature == 0:
        raise InputError(f"{name} is sampled {benchmark.samples} times: set eval.temperature above 0.")
    return [
        BenchmarkItem(
            name, benchmark.table, problem, benchmark.samples, temperature if often else 0.0, options, benchmark.secret
        )
        for problem, options in problems
    ]  # fmt: skip


def read(
    name: str, folder: str | None = None, commit: str | None = None, setting: str = "eval.benchmark_folder"
) -> list[dict]:
    """A benchmark's rows: of the Parquet, JSON or CSV files in <folder>/<name>, or the hub's at a commit.

    folder: from the repository's root; setting: its name, for the messages. A .json file is a list of rows, or holds one
    under its only list (BBEH's 'examples'). Raises InputError, which for a gated benchmark says how to get access.
    """
    benchmark = BENCHMARKS[name]
    if folder is not None:
        return _read_files(name, paths.REPO / folder / name)
    if not is_commit(commit):
        raise InputError(
            f"{name} has no commit of {benchmark.hub}: run `make pins`, or {_or_files(name, setting)}."
        )
    from datasets import load_dataset

    try:
        rows = load_dataset(benchmark.hub, benchmark.config, split=benchmark.split, revision=commit)
    except Exception as error:  # the libraries below raise errors of a dozen kinds
        gated = "gated" in f"{type(error).__name__} {error}".lower()
        remedy = (
            f"it is gated: {access(name, setting)}"
            if gated
            else f"check the network and the commit, or {_or_files(name, setting)}"
        )
        raise InputError(f"{benchmark.hub} cannot be read ({first_line(error)}): {remedy}.") from error
    return rows.to_list()


def access(name: str, setting: str) -> str:
    """What to do about a gated benchmark, as the end of a sentence. setting: the name of the folder's setting."""
    return (
        f"accept its terms at https://huggingface.co/datasets/{BENCHMARKS[name].hub} with your account, then run "
        f"`hf auth login` or set HF_TOKEN on this machine, or {_or_files(name, setting)}"
    )


def _or_files(name: str, setting: str) -> str:
    return f"set {setting} to a folder with a folder {name} of its files"


def _read_files(name: str, folder: Path) -> list[dict]:
    files = sorted(path for path in folder.glob("*") if path.suffix in READERS) if folder.is_dir() else []
    if len({path.suffix for path in files}) != 1:
        what = "files of several formats" if files else "no file"
        raise InputError(f"{folder} holds {what}: put {name} there, in one of {', '.join(READERS)}.")
    rows = []
    for path in files:
        try:
            rows += READERS[path.suffix](path)
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            # Not the library's words: they may quote a line of a secret file.
            raise InputError(f"{path} cannot be read ({type(error).__name__}): replace the file.") from None
    if not rows:
        raise InputError(f"{folder} has no rows: replace {files[0].name}.")
    return rows


def _read_json(path: Path) -> list[dict]:
    tree = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(tree, dict):
        [tree] = [value for value in tree.values() if isinstance(value, list)]
    return tree


READERS = {
    ".parquet": lambda path: pd.read_parquet(path).to_dict("records"),
    ".jsonl": lambda path: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()],
    ".json": _read_json,
    ".csv": lambda path: pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records"),
}  # fmt: skip


def to_problems(name: str, rows: Sequence[dict], seed: int) -> list[tuple[Problem, int]]:
    """Each row as a problem, with its number of options (0: an open question); no family, steps unknown (0).

    Raises InputError, naming the row, where a column is missing or a row contradicts itself: a benchmark is never
    silently made smaller.
    """
    benchmark, made = BENCHMARKS[name], []
    for number, row in enumerate(rows):
        try:
            fields = benchmark.problem(row, number, seed)
            problem = Problem(
                id=f"{name}-{fields['key']}", question=fields["question"], answer=fields["answer"],
                answer_type=fields["answer_type"], subject=fields["subject"], family="", steps=0,
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
