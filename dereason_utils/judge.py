"""The judge: an LLM rates each problem's reasoning intensity from 1 to 5 (paper, section 2.2 and appendix A.1).

The paper's judge is an instruct model of the policy's own size that follows the rubric as it is. A model of 135M
parameters does not, so on small scales it is first tuned on rubric-labelled problems of families that the training
corpus does not contain. Its agreement with the true steps is always reported beside trivial baselines.
"""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy import stats as scipy_stats
from scipy.special import softmax

from dereason_utils import generate, prompts
from dereason_utils.profiles import Judge
from dereason_utils.schema import Problem

RATING = "ReasoningRequired:"
BATCH = 128  # questions that are read and answered together
# Possessive: a reply of a hundred thousand blank lines or colons is read in one pass.
_RATING_LINE = re.compile(r"^[^\w\n]*+ReasoningRequired[^\w:]*+:\W*+([1-5])[^\w\n]*+$", re.MULTILINE)


def rubric(steps: int) -> int:
    """The score that the paper's rubric gives to a problem of so many dependent steps (appendix A.1).

    The rubric's ranges overlap at 5 (3: "about 3-5", 4: "about 5-8"); 5 counts as 4 here. Recall counts as one step.
    """
    return int(np.searchsorted([1, 2, 4, 8], steps) + 1)


def first_hard_steps(threshold: int) -> int:
    """The fewest steps that the rubric scores above the threshold: where a test problem begins to be hard."""
    return next(steps for steps in range(1, 11) if rubric(steps) > threshold)


def parse_rating(reply: str) -> int | None:
    """The rating in the reply's last rating line, or None when there is no such line."""
    found = _RATING_LINE.findall(reply)
    return int(found[-1]) if found else None


def analysis(reply: str) -> str:
    """What the reply says before its rating line."""
    return reply.rpartition(RATING)[0].strip() if RATING in reply else reply.strip()


def reference_scores(steps: pd.Series) -> pd.Series:
    """The rubric's scores for the true steps; empty where they are unknown (0)."""
    return steps.where(steps > 0).map(rubric, na_action="ignore").astype("Int64")


def calibration_reply(problem: Problem) -> str:
    """What a tuned judge should write: a short analysis, then the rating line."""
    plural = "step" if problem.steps == 1 else "dependent steps"
    return f"It takes {problem.steps} {plural}.\n{RATING} {rubric(problem.steps)}"


def calibration_examples(problems: Sequence[Problem], tokenizer, style: str) -> list[dict]:
    """Training examples for `sft.train` from rubric-labelled problems of held-out families."""
    examples = []
    for problem in problems:
        prompt = _prompt(problem.question, tokenizer, style, short=True)
        completion = tokenizer(calibration_reply(problem), add_special_tokens=False)["input_ids"]
        completion += [tokenizer.eos_token_id]
        mask = [0] * len(prompt) + [1] * len(completion)
        examples.append({"input_ids": prompt + completion, "completion_mask": mask})
    return examples


def rate(model, tokenizer, questions: Sequence[str], style: str, settings: Judge, seed: int, max_length: int,
         on_batch=lambda done, batch: None) -> pd.DataFrame:  # fmt: skip
    """Rate every question; columns rating (None if unparsed), expected_rating, analysis, parse_status, attempts.

    The first attempt is greedy; replies without a rating line are drawn again at temperature 1, `settings.retries`
    times. A judge that was tuned here sees a short instruction, one that was not the whole rubric.
    expected_rating is the mean of 1..5 under the judge's own probabilities after its analysis. A question whose prompt
    leaves no room for a reply within `max_length` tokens is not asked: parse_status 'too long', no rating.
    """
    ids = [_prompt(question, tokenizer, style, settings.calibration_size > 0) for question in questions]
    replies: list[str] = [""] * len(ids)
    attempts = [0] * len(ids)
    asked = [i for i, prompt in enumerate(ids) if len(prompt) + settings.max_new_tokens <= max_length]
    expected: dict[int, float] = {}
    digits = _digits(tokenizer)
    waiting = asked
    for attempt in range(settings.retries + 1):
        if not waiting:
            break
        drawn = generate.sample(
            model, tokenizer, [ids[i] for i in waiting], max_new_tokens=settings.max_new_tokens,
            temperature=0.0 if attempt == 0 else 1.0, seed=seed + attempt, batch_size=BATCH,
            watch=digits, on_batch=on_batch if attempt == 0 else lambda done, batch: None,
        )  # fmt: skip
        for i, (completion,) in zip(waiting, drawn, strict=True):
            replies[i] = tokenizer.decode(completion.tokens, skip_special_tokens=True)
            attempts[i] += 1
            if parse_rating(replies[i]) and (logits := logits_of_rating(completion, tokenizer, digits)):
                expected[i] = _mean_rating(logits)
        waiting = [i for i in waiting if parse_rating(replies[i]) is None]
    ratings = [parse_rating(reply) for reply in replies]
    analyses = [analysis(reply) for reply in replies]
    others = [i for i in asked if i not in expected]
    means = expected_ratings(model, tokenizer, [ids[i] for i in others], [analyses[i] for i in others])
    expected |= dict(zip(others, means, strict=True))
    table = pd.DataFrame(
        {
            "rating": pd.array(ratings, dtype="Int64"),
            "expected_rating": pd.Series(expected, dtype=float).reindex(range(len(ids))),
            "analysis": analyses,
            "parse_status": ["unparsed" if rating is None else "ok" for rating in ratings],
            "attempts": attempts,
        }
    )
    table.loc[table["attempts"] == 0, "parse_status"] = "too long"
    return table


@torch.inference_mode()
def expected_ratings(model, tokenizer, prompt_ids: list[list[int]], analyses: list[str]) -> list[float]:
    """Mean rating under the judge's next-token probabilities of 1..5, after its own analysis and `RATING`."""
    opening = tokenizer(f"\n{RATING} 1", add_special_tokens=False)["input_ids"][:-1]
    digits = _digits(tokenizer)
    rows = [
        ids + tokenizer(analysis, add_special_tokens=False)["input_ids"] + opening
        for ids, analysis in zip(prompt_ids, analyses, strict=True)
    ]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    results = [0.0] * len(rows)
    model.eval()
    reader = generate.reader(model)
    for start in range(0, len(rows), BATCH):
        chosen = order[start : start + BATCH]
        logits, _, _ = generate.read_prompts(model, tokenizer, reader, [rows[i] for i in chosen])
        for i, row in zip(chosen, logits[:, digits].tolist(), strict=True):
            results[i] = _mean_rating(row)
    return results


def _digits(tokenizer) -> list[int]:
    """The tokens of 1..5 in a rating line."""
    return [tokenizer(f"{RATING} {k}", add_special_tokens=False)["input_ids"][-1] for k in range(1, 6)]


def _mean_rating(logits: list[float]) -> float:
    return float(softmax(logits) @ np.arange(1, 6))


def logits_of_rating(completion: generate.Completion, tokenizer, digits: list[int]) -> list[float] | None:
    """The logits of 1..5 where the reply's rating was drawn: its last digit, if `RATING` stands before it, else None.

    None too where the sampler watched nothing, as on a GPU.
    """
    places = [place for place, token in enumerate(completion.tokens) if token in digits]
    if (
        places
        and completion.watched
        and tokenizer.decode(completion.tokens[: places[-1]]).rstrip().endswith(RATING)
    ):
        return completion.watched[places[-1]]
    return None


def agreement(scores: pd.DataFrame, questions: Sequence[str]) -> pd.DataFrame:
    """Spearman correlation with the true steps of the judge's ratings and of trivial baselines.

    scores: columns rating, expected_rating, subject, steps. Columns: predictor, spearman, low, high (95%, Fisher's z
    with the Bonett-Wright standard error), n. The subject baseline predicts each problem by its subject's mean steps.
    """
    table = scores.assign(
        question_length=[len(question) for question in questions],
        subject_mean=scores.groupby("subject")["steps"].transform("mean"),
    )
    named = {
        "judge: rating": "rating", "judge: expected rating": "expected_rating",
        "baseline: question length": "question_length", "baseline: subject": "subject_mean",
    }  # fmt: skip
    rows = []
    for name, column in named.items():
        both = table[[column, "steps"]].dropna().astype(float)
        rows.append({"predictor": name, **_spearman(both[column], both["steps"]), "n": len(both)})
    return pd.DataFrame(rows)


def confusion(scores: pd.DataFrame) -> pd.DataFrame:
    """Counts of problems by true steps (rows) and rating (columns; the last one counts unparsed replies)."""
    rating = scores["rating"].astype("string").fillna("unparsed")
    return pd.crosstab(scores["steps"], rating, rownames=["true steps"], colnames=["rating"])


def _prompt(question: str, tokenizer, style: str, short: bool) -> list[int]:
    text = prompts.render(prompts.judge_messages(question, short), tokenizer, style)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _spearman(x: pd.Series, y: pd.Series) -> dict[str, float | None]:
    if len(x) < 4 or x.nunique() < 2 or y.nunique() < 2:
        return {"spearman": None, "low": None, "high": None}
    rho = float(scipy_stats.spearmanr(x, y).statistic)
    error = np.sqrt((1 + rho**2 / 2) / (len(x) - 3))  # Bonett and Wright (2000), Psychometrika 65, p. 23
    centre = np.arctanh(np.clip(rho, -0.999999, 0.999999))
    low, high = np.tanh([centre - 1.959964 * error, centre + 1.959964 * error])
    return {"spearman": rho, "low": float(low), "high": float(high)}
