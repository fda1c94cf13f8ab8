"""Who answers the SFT problems: mini_stem's own solver or an instruct model (profile section `teacher`; paper, section
3.1).
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from dereason_utils import chat, corpora, profiles, prompts
from dereason_utils.verify import verify_many

# (problems, a name for this round of them) -> (the problems with `response`, `response_correct` and, from a model,
# `response_verdict`; every reply: a row each with id and the fields of `chat.Reply`, None from the solver)
Teach = Callable[[pd.DataFrame, str], tuple[pd.DataFrame, pd.DataFrame | None]]


def open_teacher(settings: profiles.Profile, seed: int, folder: Path, label: str) -> Teach:
    """The profile's teacher, ready to answer. folder: keeps unfinished work. label: for progress lines."""
    if settings.teacher.via == "reference":
        return lambda rows, name: (corpora.teacher_answers(rows, settings.teacher.slip, seed), None)
    ask = chat.open_model(settings.teacher, seed, "teacher")
    return lambda rows, name: by_model(ask, rows, settings.teacher, seed, folder / name, label)


def by_model(
    ask: chat.Ask, rows: pd.DataFrame, settings: profiles.Instruct, seed: int, folder: Path, label: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Answers of an instruct model, judged by the reward's checker; returns what `Teach` says.

    A reply that the token limit cut, or an empty one, is no answer (`response` is empty): to learn from it would be to
    learn to stop in the middle. It stays in the replies, and its verdict is 'unanswered'.
    """
    asked = [prompts.teacher_messages(prompts.defuse_turns(question)) for question in rows["question"]]
    replies = chat.in_shards(
        asked, ask, chat.decoding(settings, seed), folder, settings.shard_size, label, model=settings.name,
        revision=settings.revision,
    )  # fmt: skip
    responses = [reply.text.strip() if reply.ended else "" for reply in replies]
    verdicts = verify_many(list(rows["question"]), list(rows["answer"]), responses, list(rows["answer_type"]))
    named = [v.verdict if said else "unanswered" for v, said in zip(verdicts, responses, strict=True)]
    answered = rows.assign(
        response=responses,
        response_correct=[verdict == "correct" for verdict in named],
        response_verdict=named,
    )
    kept = pd.DataFrame([asdict(reply) for reply in replies])
    kept.insert(0, "id", list(rows["id"]))
    return answered, kept


def summary(answered: pd.DataFrame) -> pd.DataFrame:
    """One row per score: problems and teacher_accuracy (of all of them), from a model also unanswered and unscorable."""
    table = answered.groupby("score")["response_correct"].agg(["size", "mean"]).reset_index()
    table.columns = ["score", "problems", "teacher_accuracy"]
    for verdict in ("unanswered", "unscorable"):
        if "response_verdict" in answered:
            counts = (answered["response_verdict"] == verdict).groupby(answered["score"]).sum()
            table[verdict] = counts.to_numpy()
    return table


def with_answer(problems: pd.DataFrame) -> pd.DataFrame:
    """The problems that can be learnt from: those the teacher answered."""
    return problems[problems["answered"]]
