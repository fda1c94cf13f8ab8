"""Measure the checker on a table of cases, beside plain math-verify.

    python -m dereason_utils.verify.report tests/verify_cases.jsonl [results/robustness/checker.csv]

The CSV file, a row per checker, is what the README's table of robustness is made from. Measure on an idle machine.

The table is JSON lines with the keys group, hostile, question, gold, response, answer_type, expected, why. A gold answer or
response may be a list of parts, where a part [text, n] stands for n repetitions. The group 'gap' holds right answers that the
rules are known not to see: they count in the recall.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil

from .. import disk
from ..errors import InputError
from . import close, verify

# What plain math-verify may use for a case before it counts as hung.
LIMIT = 2.0


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table, repetitions written out."""

    group: str
    hostile: bool
    question: str
    gold: str
    response: str
    answer_type: str | None
    expected: str
    why: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a checker said ('hung' if it was stopped), and its wall time in seconds."""

    verdict: str
    seconds: float


def load_cases(path: str | Path) -> list[Case]:
    """The cases of a table. Raises InputError where a row lacks a key."""
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    cases = []
    for i, row in enumerate(rows, 1):
        missing = set(Case.__dataclass_fields__) - set(row)
        if missing:
            raise InputError(f"{path}, line {i}: the case lacks {sorted(missing)}; give every case all keys.")
        cases.append(Case(**row | {key: _written_out(row[key]) for key in ("gold", "response")}))
    return cases


def _written_out(text: str | list) -> str:
    return text if isinstance(text, str) else "".join(p if isinstance(p, str) else p[0] * p[1] for p in text)


def run(cases: Sequence[Case], check: Callable[[Case], Outcome | str]) -> list[Outcome]:
    """Ask a checker about each case, one after the other."""
    outcomes = []
    for case in cases:
        start = time.perf_counter()
        said = check(case)
        outcomes.append(Outcome(said, time.perf_counter() - start))
    return outcomes


def ours(case: Case) -> str:
    """The verdict of this package."""
    return verify(case.question, case.gold, case.response, case.answer_type).verdict


def math_verify_alone(case: Case, limit: float = LIMIT) -> str:
    """The verdict of math-verify's own parse and verify, in a forked child that is killed after `limit` seconds."""
    import math_verify

    # The child begins with this process's address space, which torch, for one, makes gigabytes large.
    address_space = psutil.Process().memory_info().vms + 4 * 2**30
    child = os.fork()
    if child == 0:
        code = 3
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
            # A gold answer in a box is the form that math-verify reads best.
            gold = math_verify.parse(f"\\boxed{{{case.gold}}}", raise_on_error=False)
            code = (
                2
                if not gold
                else int(math_verify.verify(gold, math_verify.parse(case.response, raise_on_error=False)))
            )
        finally:
            os._exit(code)
    deadline = time.perf_counter() + limit
    while time.perf_counter() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return {0: "incorrect", 1: "correct", 2: "unscorable"}.get(code, "hung")
        time.sleep(0.001)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "hung"


def summary(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Counts, precision and recall of 'correct', and the worst wall time."""
    pairs = list(zip(cases, outcomes, strict=True))
    accepted = [case for case, outcome in pairs if outcome.verdict == "correct"]
    right = [case for case in accepted if case.expected == "correct"]
    return {
        "cases": len(cases),
        "hostile": sum(case.hostile for case in cases),
        "accepted": len(accepted),
        "wrongly accepted": len(accepted) - len(right),
        "hostile wrongly accepted": sum(case.hostile and case.expected != "correct" for case in accepted),
        "stopped or failed": sum(outcome.verdict == "hung" for _, outcome in pairs),
        "precision": len(right) / max(1, len(accepted)),
        "recall": len(right) / max(1, sum(case.expected == "correct" for case in cases)),
        "worst wall time, s": max(outcome.seconds for outcome in outcomes),
    }


def report(path: str | Path) -> dict[str, dict[str, float]]:
    """The summaries of math-verify alone and of this package, and the largest memory of a worker process in MB."""
    cases = load_cases(path)
    own = summary(cases, run(cases, ours))
    close()  # the children of this process are the workers so far
    own["worker memory, MB"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"math-verify alone": summary(cases, run(cases, math_verify_alone)), "dereason_utils.verify": own}


def main() -> None:
    """Print the report as a Markdown table and, if a file is named, write it as CSV."""
    if len(sys.argv) not in (2, 3):
        raise SystemExit("usage: python -m dereason_utils.verify.report CASES.jsonl [OUT.csv]")
    columns = report(sys.argv[1])
    if len(sys.argv) == 3:
        table = pd.DataFrame(columns).T.rename_axis("checker").reset_index()
        disk.write_table(Path(sys.argv[2]), table.round(4))
    print("|  | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns))
    for name in columns["dereason_utils.verify"]:
        cells = [
            f"{column[name]:.3f}".rstrip("0").rstrip(".") if name in column else ""
            for column in columns.values()
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
