"""The rows that pass between the stages."""

from typing import Literal

import pydantic

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
