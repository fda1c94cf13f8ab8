"""The training corpus: problems with their split, in one schema whatever the source."""

import pandas as pd

from dereason_utils import decontaminate, mini_stem, schema, web_corpora
from dereason_utils.profiles import Corpus, MiniStem, WebCorpus
from dereason_utils.schema import Problem

COLUMNS = [*Problem.model_fields, "split"]


def load(settings: Corpus) -> pd.DataFrame:
    """All problems, one row each: the fields of `schema.Problem` and split ('train', 'validation' or 'test')."""
    return build(settings)[0]


def build(settings: Corpus) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """(what `load` gives, tables that say what was left out of it by name; none for a generated corpus).

    Web corpora have no test problems: the benchmarks are their test.
    """
    rows, reports = _web(settings) if isinstance(settings, WebCorpus) else (_mini_stem(settings), {})
    where = f"The corpus {settings.name} (seed {settings.seed})"
    return schema.check(rows, where, COLUMNS, "change corpus.seed or its sizes")[COLUMNS], reports


def _mini_stem(settings: MiniStem) -> pd.DataFrame:
    """Only training problems are skewed by subject, so that corpora of every skew share their test."""
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
    return pd.DataFrame(rows)


def _web(settings: WebCorpus) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """filters: how many rows each filter dropped. decontamination: per benchmark. overlaps: the pairs, by id alone,
    because some benchmarks ask that their text is not spread.
    """
    benchmarks = decontaminate.benchmark_questions(settings.benchmark_folder)
    rows = web_corpora.read(settings.name, settings.path, settings.revision)
    made = web_corpora.to_problems(rows, settings.name, settings.max_question, settings.max_answer)
    found = decontaminate.overlaps(made.problems, benchmarks, settings.overlap_words)
    clean = made.problems[~made.problems["id"].isin(found["id"])].reset_index(drop=True)
    dropped = len(made.problems) - len(clean)
    overlapping = {"filter": "overlaps a benchmark", "dropped": dropped, "left": len(clean)}
    reports = {
        "filters": pd.concat([made.counts, pd.DataFrame([overlapping])], ignore_index=True),
        "decontamination": decontaminate.report(found, benchmarks),
        "overlaps": found.drop(columns="words"),
    }
    return web_corpora.subset(clean, settings.train_size, settings.validation_size, settings.seed), reports


def problems(rows: pd.DataFrame) -> list[Problem]:
    """Rows of `load` as problems again."""
    return [Problem(**row) for row in rows[list(Problem.model_fields)].to_dict("records")]


def teacher_answers(rows: pd.DataFrame, slip: float, seed: int) -> pd.DataFrame:
    """Add the reference teacher's `response` and whether it is right (`response_correct`), by the reward's checker."""
    from dereason_utils.verify import verify_many

    responses = [mini_stem.solve(problem_id, seed, slip) for problem_id in rows["id"]]
    verdicts = verify_many(list(rows["question"]), list(rows["answer"]), responses, list(rows["answer_type"]))
    return rows.assign(response=responses, response_correct=[v.verdict == "correct" for v in verdicts])
