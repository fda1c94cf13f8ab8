r"""One checker of answers, for the reward and for the evaluation alike.

    verify("How far?", "5 km", r"... so the distance is \boxed{5000\ \mathrm{m}}.")
    -> Verdict(verdict='correct', extracted='5000\\ \\mathrm{m}', reason='value')

A response is 'correct' or 'incorrect'; 'unscorable' speaks of the gold answer alone, so no response can escape its zero.
Numbers, words, letters and units are decided here; algebra is done in worker processes with limits (`workers`).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .extract import extract_answer, is_strictly_right
from .normalise import MAX_ANSWER, MAX_QUESTION, is_forbidden, without_forbidden
from .rules import NeedsWorker, algebra_of, ask_worker, compare, kind_of
from .workers import ask, close, map_in_threads

__all__ = [
    "Verdict",
    "close",
    "extract_answer",
    "gold_is_scorable",
    "is_strictly_right",
    "verify",
    "verify_many",
]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on one response, the answer that was read in it (None: none found), and why."""

    verdict: Literal["correct", "incorrect", "unscorable"]
    extracted: str | None
    reason: str


def verify(question: str, gold: str, response: str, answer_type: str | None = None) -> Verdict:
    """Decide one response. `answer_type` is a name of this project or of the corpora; None: read from the gold answer."""
    return verify_many([question], [gold], [response], [answer_type])[0]


def verify_many(
    questions: Sequence[str],
    golds: Sequence[str],
    responses: Sequence[str],
    answer_types: Sequence[str | None],
) -> list[Verdict]:
    """Decide many responses; the verdicts come in the order of the responses."""
    rows = list(zip(questions, golds, responses, answer_types, strict=True))
    verdicts = [_decide(*row, in_process=True) for row in rows]
    left = [i for i, verdict in enumerate(verdicts) if verdict is None]
    for i, verdict in zip(left, map_in_threads(_decide, [rows[i] for i in left]), strict=True):
        verdicts[i] = verdict
    return verdicts


def gold_is_scorable(gold: str, answer_type: str | None = None, question: str = "") -> bool:
    """Whether any response could be judged against this gold answer."""
    return not _gold_problem(question, gold, answer_type, in_process=False)


def _decide(
    question: str, gold: str, response: str, answer_type: str | None, in_process: bool = False
) -> Verdict | None:
    """The verdict; with `in_process`, None where a worker is needed for it."""
    gold = without_forbidden(gold) if isinstance(gold, str) else ""
    question = question[-MAX_QUESTION:]
    extracted, reason = extract_answer(response)
    problem = _gold_problem(question, gold, answer_type, in_process)
    if problem is None:
        return None
    if problem:
        return Verdict("unscorable", extracted, problem)
    if extracted is None:
        return Verdict("incorrect", None, reason)
    if len(extracted) > MAX_ANSWER:
        return Verdict("incorrect", extracted, "limit")
    if is_forbidden(extracted):
        return Verdict("incorrect", extracted, "characters")
    kind = kind_of(question, gold, answer_type)
    try:
        correct, reason = compare(question, gold, extracted, kind, ask_worker)
    except (ArithmeticError, RecursionError):
        correct, reason = False, "limit"
    except NeedsWorker:
        if in_process:
            return None
        correct, reason = ask({"question": question, "gold": gold, "answer": extracted, "kind": kind})
    return Verdict("correct" if correct else "incorrect", extracted, reason)


def _gold_problem(question: str, gold: str, answer_type: str | None, in_process: bool) -> str | None:
    """Why the gold answer cannot be scored; '' if it can; None if that takes a worker and `in_process` forbids one."""
    if not isinstance(gold, str) or not gold.strip():
        return "gold missing"
    if len(gold) > MAX_ANSWER:
        return "gold limit"
    kind = kind_of(question, gold, answer_type)
    if kind is None:
        return "gold unparsable"
    if not algebra_of(kind, gold):
        return ""
    return None if in_process else _checked(kind, gold)


@functools.lru_cache(maxsize=65536)
def _checked(kind: str, gold: str) -> str:
    """The problem that symbolic algebra has with a gold answer; ''. Asked once for each gold answer."""
    ok, reason = ask({"kind": kind, "gold": gold})
    return "" if ok else "gold limit" if reason == "limit" else "gold unparsable"
