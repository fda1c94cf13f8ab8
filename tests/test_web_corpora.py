"""Small files in the real corpora's columns, good rows and bad ones."""

import json

import pandas as pd
import pytest

from dereason_utils import web_corpora
from dereason_utils.errors import InputError

WEBINSTRUCT = [
    {"id": 11, "question": "What is 3 + 4?", "answer": "7", "answer_type": "Integer", "category": "Mathematics",
     "difficulty": "University"},
    {"id": 12, "question": "Is 7 prime?", "answer": "Yes", "answer_type": "Boolean", "category": "Mathematics",
     "difficulty": "University"},
    {"id": 13, "question": "Which gas do plants take up?\nA) oxygen\nB) carbon dioxide", "answer": "B",
     "answer_type": "Multiple Choice", "category": "Biology", "difficulty": "Senior High School"},
    {"id": 14, "question": "What is the momentum?", "answer": "5 kg m/s", "answer_type": "Float", "category": "Physics",
     "difficulty": "PhD"},
    {"id": 15, "question": "Differentiate x^2.", "answer": "2x", "answer_type": "Expression", "category": "Mathematics",
     "difficulty": "University"},
]  # fmt: skip
WEBSCALE = [
    {"pretraining_text": "Lyon lies on the Rhone.", "domain": "Geography", "persona": "student",
     "question": "On which river does Lyon lie?", "answer": "the Rhone"},
    {"pretraining_text": "It sold 1,200 units.", "domain": "Commerce", "persona": "analyst",
     "question": "How many units were sold?", "answer": "1,200"},
]  # fmt: skip


def write(folder, rows, form="parquet"):
    folder.mkdir(exist_ok=True)
    if form == "parquet":
        pd.DataFrame(rows).to_parquet(folder / "train.parquet")
    else:
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("form", ["parquet", "json"])
@pytest.mark.parametrize("name, rows", [("webinstruct_verified", WEBINSTRUCT), ("webscale_rl", WEBSCALE)])
def test_a_local_folder_serves_as_the_corpus(tmp_path, name, rows, form):
    read = web_corpora.read(name, write(tmp_path / "data", rows, form))
    made = web_corpora.to_problems(read, name, 2000, 200).problems
    assert made["question"].tolist() == [row["question"] for row in rows]
    assert made["answer"].tolist() == [row["answer"] for row in rows]
    assert made["id"].is_unique and made["id"].str.startswith(name).all()
    assert set(made["steps"]) == {0}


def test_answer_types_are_the_projects(tmp_path):
    made = web_corpora.to_problems(pd.DataFrame(WEBINSTRUCT), "webinstruct_verified", 2000, 200).problems
    assert made["answer_type"].tolist() == ["number", "boolean", "choice", "quantity", "expression"]
    assert made["subject"].tolist() == ["mathematics", "mathematics", "biology", "physics", "mathematics"]
    assert made["id"].tolist()[0] == "webinstruct_verified-11"


@pytest.mark.fault
@pytest.mark.parametrize(
    "change, label",
    [
        ({"question": "  "}, "malformed"),
        ({"question": None}, "malformed"),
        ({"answer": 7.5}, "malformed"),
        ({"answer": ["7"]}, "malformed"),
        ({"id": None}, "malformed"),
        ({"question": "what  is 3 + 4?"}, "repeated"),
        ({"question": "x" * 2001}, "question too long"),
        ({"answer": "y" * 201}, "answer too long"),
        ({"answer": r"\frac{", "answer_type": "Expression"}, "unverifiable"),
    ],
)
def test_a_bad_row_is_counted_under_its_filter(change, label):
    bad = {**WEBINSTRUCT[0], "id": 99, "question": "What is 5 + 2?"} | change
    rows = pd.DataFrame([*WEBINSTRUCT, bad], dtype=object)
    made = web_corpora.to_problems(rows, "webinstruct_verified", 2000, 200)
    assert made.counts[made.counts["dropped"] > 0][["filter", "dropped"]].values.tolist() == [[label, 1]]
    assert made.counts["left"].iloc[-1] == len(made.problems) == len(WEBINSTRUCT)
    assert made.dropped[["row", "filter"]].values.tolist() == [[len(rows), label]]


def test_of_two_answers_to_one_question_neither_is_believed():
    rows = pd.DataFrame([*WEBINSTRUCT, {**WEBINSTRUCT[0], "id": 99, "answer": "8"}])
    made = web_corpora.to_problems(rows, "webinstruct_verified", 2000, 200)
    assert made.dropped[["row", "filter"]].values.tolist() == [[1, "contradictory"], [6, "contradictory"]]


def test_a_malformed_row_takes_no_other_row_along():
    rows = pd.DataFrame([{**WEBINSTRUCT[0], "id": 99, "answer": None}, *WEBINSTRUCT], dtype=object)
    made = web_corpora.to_problems(rows, "webinstruct_verified", 2000, 200)
    assert made.dropped[["row", "filter"]].values.tolist() == [[1, "malformed"]]
    assert len(made.problems) == len(WEBINSTRUCT)


@pytest.mark.fault
def test_rows_without_a_single_problem_are_refused():
    rows = pd.DataFrame([{**row, "answer": ""} for row in WEBINSTRUCT])
    with pytest.raises(InputError, match="'malformed' dropped 5"):
        web_corpora.to_problems(rows, "webinstruct_verified", 2000, 200)


@pytest.mark.fault
def test_an_id_that_stands_twice_is_named():
    rows = pd.DataFrame([*WEBINSTRUCT, {**WEBINSTRUCT[0], "question": "What is 5 + 2?"}])
    with pytest.raises(InputError, match="the id '11' twice"):
        web_corpora.to_problems(rows, "webinstruct_verified", 2000, 200)


@pytest.mark.fault
def test_what_is_wrong_with_a_folder_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="no Parquet or JSON file"):
        web_corpora.read("webscale_rl", str(tmp_path / "nothing"))
    lacking = [{k: v for k, v in row.items() if k != "domain"} for row in WEBSCALE]
    with pytest.raises(InputError, match="lacks the column 'domain'"):
        web_corpora.read("webscale_rl", write(tmp_path / "lacking", lacking))
    (tmp_path / "lacking" / "more.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="both Parquet and JSON"):
        web_corpora.read("webscale_rl", str(tmp_path / "lacking"))
    (tmp_path / "cut").mkdir()
    whole = (tmp_path / "lacking" / "train.parquet").read_bytes()
    (tmp_path / "cut" / "train.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read .*replace the damaged file"):
        web_corpora.read("webscale_rl", str(tmp_path / "cut"))


@pytest.mark.fault
@pytest.mark.parametrize("revision", [None, "main", "abc123"])
def test_the_hub_is_read_at_a_commit_alone(revision):
    with pytest.raises(InputError, match="40 digits of a commit"):
        web_corpora.read("webscale_rl", None, revision)


def test_subsets_are_nested_disjoint_and_seeded():
    rows = pd.DataFrame({"id": [f"p{i}" for i in range(50)]})
    small, large = (web_corpora.subset(rows, size, 5, seed=1) for size in (10, 20))
    ids = {split: set(part["id"]) for split, part in large.groupby("split")}
    assert {split: len(part) for split, part in ids.items()} == {"train": 20, "validation": 5}
    assert not ids["train"] & ids["validation"]
    assert set(small["id"]) <= set(large["id"])
    assert set(web_corpora.subset(rows, 10, 5, seed=2)["id"]) != set(small["id"])
    assert len(web_corpora.subset(rows, None, 5, seed=1)) == 50
    with pytest.raises(InputError, match="lower corpus.train_size"):
        web_corpora.subset(rows, 46, 5, seed=1)


@pytest.mark.fault
def test_a_hub_out_of_reach_is_one_sentence_with_the_local_folder(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match="Webscale-RL .*cannot be read .*or set corpus.path to a local"
    ) as caught:
        web_corpora.read("webscale_rl", None, "0" * 40)
    assert "\n" not in str(caught.value)
