import pandas as pd

from dereason_utils import decontaminate

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
