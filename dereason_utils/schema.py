"""The rows that pass between the stages, and the one check that they meet where they enter."""

from collections.abc import Sequence
from typing import Literal

import pandas as pd
import pyarrow
import pydantic

from dereason_utils import manifest
from dereason_utils.errors import InputError, first_line

TEXTS = ("id", "question", "answer", "response")  # columns of which no row may be empty

AnswerType = Literal[
    "number", "quantity", "expression", "equation", "interval", "set", "tuple",
    "list", "matrix", "choice", "boolean", "text", "formula",
]  # fmt: skip


class Problem(pydantic.BaseModel):
    """One training or test problem with a checkable answer.

    `steps` is the true number of dependent reasoning steps; 0 means that the corpus does not know it.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    id: str = pydantic.Field(min_length=1)
    question: str = pydantic.Field(min_length=1)
    answer: str = pydantic.Field(min_length=1)
    answer_type: AnswerType
    subject: str
    family: str
    steps: int = pydantic.Field(ge=0)


def read(step: manifest.Manifest, name: str, columns: Sequence[str]) -> pd.DataFrame:
    """A Parquet file of problems that a finished step wrote, after `check`; extra columns stay.

    Raises InputError, with the command that makes the file again, when it cannot be read or does not pass.
    """
    path = step.folder / name
    command = manifest.command(step.profile, step.stage, step.arm, step.seed)
    remedy = f"make it again with `{command}`"
    try:
        rows = pd.read_parquet(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}): {remedy}.") from error
    return check(rows, str(path), columns, remedy)


def check(rows: pd.DataFrame, where: str, columns: Sequence[str], remedy: str) -> pd.DataFrame:
    """The rows, unless a column is missing, no row is there, an id stands twice or a text is empty: InputError."""
    if missing := [column for column in columns if column not in rows.columns]:
        raise InputError(
            f"{where} lacks the column {missing[0]!r} (it has {', '.join(map(str, rows.columns)) or 'none'}): {remedy}."
        )
    if rows.empty:
        raise InputError(f"{where} has no rows: {remedy}.")
    for column in (name for name in TEXTS if name in columns):
        empty = [not isinstance(text, str) or not text.strip() for text in rows[column]]
        if any(empty):
            raise InputError(f"{where}, row {empty.index(True) + 1}: {column} is empty: {remedy}.")
    if "id" in columns and (again := rows["id"].duplicated()).any():
        twice = rows["id"][again].iloc[0]
        first, second = [place + 1 for place, name in enumerate(rows["id"]) if name == twice][:2]
        raise InputError(f"{where}: the id {twice!r} stands in rows {first} and {second}: {remedy}.")
    return rows
