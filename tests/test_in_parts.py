"""Problems in parts: the same rows as at once, whatever the size of a part, and what is damaged is named."""

import numpy as np
import pandas as pd
import pytest

from dereason_utils import corpora, disk, in_parts, manifest
from dereason_utils.errors import InputError

COUNT = 50
PROBLEMS = pd.DataFrame({
    "id": [f"p{i}" for i in range(COUNT)], "question": [f"What is {i}?" for i in range(COUNT)], "answer": "7",
    "answer_type": "number", "subject": ["mathematics", "physics"] * 25, "family": "f", "steps": 1 + np.arange(COUNT) % 8,
    "split": ["train", "train", "train", "test", "validation"] * 10,
})  # fmt: skip


def teach(rows, name):
    said = ["" if i == "p2" else f"It is {i}." for i in rows["id"]]
    return rows.assign(response=said, response_correct=True), pd.DataFrame({"id": rows["id"], "round": name})


@pytest.fixture(params=[7, 20_000])
def size(request, monkeypatch):
    monkeypatch.setattr(in_parts, "ROWS", request.param)
    monkeypatch.setattr(in_parts.read, "__defaults__", (None, request.param))
    return request.param


def test_answers_are_those_of_the_whole_table(size, tmp_path):
    disk.write_table(tmp_path / "problems.parquet", PROBLEMS)
    replies = in_parts.answer(tmp_path / "problems.parquet", teach, tmp_path / "answers.parquet")
    asked = PROBLEMS[PROBLEMS["split"] != "test"].reset_index(drop=True)
    whole, _ = teach(asked, "")
    expected = whole[["id", "response", "response_correct"]].assign(answered=whole["response"] != "")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "answers.parquet"), expected, check_dtype=False)
    assert list(replies["id"]) == list(asked["id"]) and not expected["answered"].all()
    assert replies["round"].nunique() == -(-COUNT // size)


def test_texts_and_their_tokens_are_found_by_id(size, tmp_path):
    disk.write_table(tmp_path / "problems.parquet", PROBLEMS)
    rows = in_parts.some(tmp_path / "problems.parquet", ["p30", "p2"])
    assert list(rows["question"]) == ["What is 2?", "What is 30?"]
    counts = in_parts.token_counts(
        tmp_path / "problems.parquet", lambda texts: {"input_ids": [list(text) for text in texts]}, "question"
    )
    assert counts.to_dict() == {row.id: len(row.question) for row in PROBLEMS.itertuples()}


DAMAGED = {
    "row 3: question is empty": PROBLEMS.assign(question=["a", "b", " ", *PROBLEMS["question"][3:]]),
    "'p0' stands in rows 1 and 50": PROBLEMS.assign(id=[*PROBLEMS["id"][:-1], "p0"]),
    "lacks the column 'answer'": PROBLEMS.drop(columns="answer"),
    "lacks the column 'id'": PROBLEMS.drop(columns="id"),
}


@pytest.mark.fault
@pytest.mark.parametrize("message", DAMAGED)
def test_what_is_damaged_is_named_with_its_row_and_remedy(message, size, roots):
    step = manifest.begin("01_score", "cpu", parameters={})
    disk.write_table(step.folder / "problems.parquet", DAMAGED[message])
    with pytest.raises(InputError, match=f"{message}.*make it again with"):
        in_parts.require(
            manifest.finish(step, outputs=["problems.parquet"]), "problems.parquet", corpora.COLUMNS
        )


@pytest.mark.fault
def test_a_file_that_is_no_parquet_is_named(roots):
    step = manifest.begin("01_score", "cpu", parameters={})
    (step.folder / "problems.parquet").write_text("no table")
    with pytest.raises(InputError, match="problems.parquet cannot be read"):
        in_parts.require(
            manifest.finish(step, outputs=["problems.parquet"]), "problems.parquet", corpora.COLUMNS
        )
