"""Who rates: the policy itself, tuned first, or an instruct model that follows the rubric (profile section `judge`)."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from dereason_utils import chat, judge, mini_stem, models, profiles, progress, prompts, sft
from dereason_utils.manifest import Step

# (questions, a name for this round of questions) -> (a row per question with the columns of `judge.rate`, every reply:
# a row each with question (its number), attempt and the fields of `chat.Reply`; None where they are not kept apart)
Rate = Callable[[Sequence[str], str], tuple[pd.DataFrame, pd.DataFrame | None]]


def open_judge(settings: profiles.Profile, step: Step) -> Rate:
    """The profile's judge, ready to rate. Unfinished work lies in the step's folder 'judge'."""
    if settings.judge.via == "policy":
        return _policy(settings, step)
    seed, ask = settings.corpus.seed, chat.open_model(settings.judge, settings.corpus.seed, "judge")
    return lambda questions, name: follow_rubric(
        ask, questions, settings.judge, seed, step.folder / "judge" / name, step.label
    )


def follow_rubric(
    ask: chat.Ask,
    questions: Sequence[str],
    settings: profiles.ModelJudge,
    seed: int,
    folder: Path,
    label: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rate by the whole rubric, analysis first (paper, appendix A.1); returns what `Rate` says.

    Replies without a rating line are drawn again at temperature 1, `settings.retries` times. Such a judge's
    probabilities are not asked for, so expected_rating is empty. folder: keeps finished shards of replies.
    """
    asked = [prompts.judge_messages(prompts.defuse_turns(question), short=False) for question in questions]
    best: list[chat.Reply] = [chat.TOO_LONG] * len(asked)
    attempts, kept, waiting = [0] * len(asked), [], list(range(len(asked)))
    for attempt in range(settings.retries + 1):
        if not waiting:
            break
        decoding = chat.decoding(settings, seed + attempt * len(asked))
        if attempt:
            decoding = replace(decoding, temperature=1.0)
        replies = chat.in_shards(
            [asked[i] for i in waiting], ask, decoding, folder / f"attempt-{attempt}", settings.shard_size, label,
            model=settings.name, revision=settings.revision,
        )  # fmt: skip
        for i, reply in zip(waiting, replies, strict=True):
            kept.append({"question": i, "attempt": attempt, **asdict(reply)})
            best[i] = reply
            attempts[i] += reply != chat.TOO_LONG
        waiting = [i for i in waiting if attempts[i] and judge.parse_rating(best[i].text) is None]
    ratings = [judge.parse_rating(reply.text) for reply in best]
    status = ["ok" if rating is not None else "unparsed" for rating in ratings]
    table = pd.DataFrame({
        "rating": pd.array(ratings, dtype="Int64"),
        "expected_rating": pd.Series(None, index=range(len(asked)), dtype=float),
        "analysis": [judge.analysis(reply.text) for reply in best],
        "parse_status": [given if tried else "too long" for given, tried in zip(status, attempts, strict=True)],
        "attempts": attempts,
    })  # fmt: skip
    return table, pd.DataFrame(kept)


def _policy(settings: profiles.Profile, step: Step) -> Rate:
    """The policy as judge, tuned on the calibration problems."""
    seed, style = settings.corpus.seed, settings.model.prompt_style
    model, tokenizer = models.load_policy(models.locate(settings.model), settings.model, seed, train=True)
    if settings.judge.calibration_size:
        steps = (settings.corpus.min_steps, settings.corpus.max_steps)
        labelled = mini_stem.generate_judge_calibration(settings.judge.calibration_size, seed, steps)
        examples = judge.calibration_examples(labelled, tokenizer, style)
        tuned = settings.sft.model_copy(
            update=settings.judge.model_dump(include={"epochs", "batch_size", "learning_rate"})
        )
        curve = sft.train(model, tokenizer, examples, [], tuned, step.folder / "judge", seed)
        print(curve[["step", "loss"]].iloc[[0, -1]].to_string(index=False))

    def rate(questions: Sequence[str], name: str) -> tuple[pd.DataFrame, None]:
        bar = progress.Bar(len(questions), step.label)
        rated = judge.rate(
            model, tokenizer, questions, style, settings.judge, seed, settings.model.max_length,
            on_batch=lambda done, batch: bar.update(done),
        )  # fmt: skip
        return rated, None

    return rate
