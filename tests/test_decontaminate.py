import pandas as pd
import pytest
from test_hub_benchmarks import ROWS, put

from dereason_utils import decontaminate, hub_benchmarks, paths
from dereason_utils.errors import InputError

QUESTION = "A train leaves the station at nine and travels north at sixty miles an hour for two hours"


def found(question, n=8, benchmark=QUESTION):
    problems = pd.DataFrame({"id": ["p"], "question": [question]})
    return decontaminate.overlaps(problems, {"B": [("b1", benchmark)]}, n)


def test_shared_words_in_a_row_are_found_whatever_their_case_and_punctuation():
    rows = found("Yesterday, a TRAIN leaves the station; at nine and then it stops.")
    assert rows[["id", "benchmark", "item"]].values.tolist() == [["p", "B", "b1"]]
    assert rows["words"][0] == "a train leaves the station at nine and"


def test_seven_shared_words_are_not_eight():
    assert found("Yesterday a train leaves the station at nine, then stops.").empty


def test_a_short_question_counts_only_as_a_whole():
    assert len(found("What is 2 + 2?", benchmark="what is 2+2")) == 1
    assert found("Tell me, what is 2 + 2?", benchmark="what is 2+2").empty
    assert found("", benchmark="").empty


def test_the_report_counts_items_and_problems():
    problems = pd.DataFrame({"id": ["p", "q", "r"], "question": [QUESTION, QUESTION + "!", "Something else"]})
    benchmarks = {"B": [("b1", QUESTION), ("b2", "Another question")], "C": [("c1", "Nothing alike")]}
    rows = decontaminate.overlaps(problems, benchmarks, 8)
    table = decontaminate.report(rows, benchmarks).set_index("benchmark")
    assert table.loc["B"].tolist() == [2, 1, 2]
    assert table.loc["C"].tolist() == [1, 0, 0]


FORMATS = {"gpqa_diamond": ".csv", "bbeh": ".json", "mmlu_pro": ".parquet"}  # as their authors offer them


def test_one_folder_serves_decontamination_and_evaluation_from_wherever_it_is_called(tmp_path, monkeypatch):
    """A relative folder is the repository's, although JupyterLab's kernels work in notebooks/."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "notebooks").mkdir()
    for name, row in ROWS.items():
        put(tmp_path / "shared", name, [row], FORMATS.get(name, ".jsonl"))
    monkeypatch.setattr(paths, "REPO", tmp_path)
    monkeypatch.chdir(tmp_path / "notebooks")
    questions = decontaminate.benchmark_questions("shared")
    assert set(questions) == set(hub_benchmarks.BENCHMARKS)
    assert [question for _, question in questions["bbeh"]] == ["How many?"]
    assert [question for _, question in questions["gpqa_diamond"]] == ["Which?"]
    assert len(hub_benchmarks.read("bbeh", "shared")) == 1


@pytest.mark.fault
def test_a_gated_benchmark_says_how_to_get_access(monkeypatch):
    def refuse(hub, *_, **__):
        raise ConnectionError(f"Dataset {hub!r} is a gated dataset on the Hub.")

    monkeypatch.setattr("datasets.load_dataset", refuse)  # no hub can be reached from a test
    monkeypatch.setattr(decontaminate, "pinned", lambda *_: "a" * 40)
    with pytest.raises(
        InputError, match="accept its terms.*HF_TOKEN.*or set corpus.benchmark_folder to a folder"
    ):
        decontaminate.benchmark_questions(None)
