"""What 01_score and 02_split wrote, as the later stages read it: the corpus, the teacher's answers, an arm's problems."""

from typing import Literal

import pandas as pd

from dereason_utils import corpora, schema, split, teacher
from dereason_utils.manifest import Manifest


def corpus(scored: Manifest) -> pd.DataFrame:
    """All problems of 01_score, whichever split they are of: columns corpora.COLUMNS."""
    return schema.read(scored, "problems.parquet", corpora.COLUMNS)


def answered(scored: Manifest, taught: Manifest) -> pd.DataFrame:
    """The corpus's problems that the teacher of 02_split answered, with its `response` and `response_correct`."""
    answers = schema.read(taught, "answers.parquet", ["id", "answered", "response_correct"])
    return teacher.with_answer(corpus(scored).merge(answers, on="id", validate="one_to_one"))


def of_arm(
    problems: pd.DataFrame, splits: Manifest, arm: str, use: Literal["sft", "rl"]
) -> pd.DataFrame | None:
    """Those of the problems that an arm's SFT or RL sees by 02_split, in its phases (`split.arm_set`)."""
    return split.arm_set(problems, pd.read_parquet(splits.folder / "sets.parquet"), arm, use)
