"""The training corpus: problems with their split, in one schema whatever the source."""

import pandas as pd

from dereason_utils import mini_stem, schema
from dereason_utils.profiles import Corpus
from dereason_utils.schema import Problem

COLUMNS = [*Problem.model_fields, "split"]


def load(settings: Corpus) -> pd.DataFrame:
    """All problems, one row each: the fields of `schema.Problem` and split ('train', 'validation' or 'test').

    Only training problems are skewed by subject, so that corpora of every skew share their test.
    """
    sizes = {"train": settings.train_size, "validation": settings.validation_size, "test": settings.test_size}
    steps = (settings.min_steps, settings.max_steps)
    families = tuple(mini_stem.FAMILIES) if settings.families == "all" else settings.families
    rows = [
        {**problem.model_dump(), "split": split}
        for split, size in sizes.items()
        for problem in mini_stem.generate(
            split, size, settings.seed, steps, families, settings.subject_skew if split == "train" else 0.0
        )
    ]
    where = f"The corpus {settings.name} (seed {settings.seed})"
    return schema.check(pd.DataFrame(rows), where, COLUMNS, "change corpus.seed or its sizes")[COLUMNS]


def problems(rows: pd.DataFrame) -> list[Problem]:
    """Rows of `load` as problems again."""
    return [Problem(**row) for row in rows[list(Problem.model_fields)].to_dict("records")]


def teacher_answers(rows: pd.DataFrame, slip: float, seed: int) -> pd.DataFrame:
    """Add the reference teacher's `response` and whether it is right (`response_correct`), by the reward's checker."""
    from dereason_utils.verify import verify_many

    responses = [mini_stem.solve(problem_id, seed, slip) for problem_id in rows["id"]]
    verdicts = verify_many(list(rows["question"]), list(rows["answer"]), responses, list(rows["answer_type"]))
    return rows.assign(response=responses, response_correct=[v.verdict == "correct" for v in verdicts])
