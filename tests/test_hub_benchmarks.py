"""Rows in the benchmarks' real columns; rows of the real files where ../shared/data is there."""

import json
from pathlib import Path

import pytest

from dereason_utils import paths
from dereason_utils.errors import InputError
from dereason_utils.hub_benchmarks import BENCHMARKS, to_problems
from dereason_utils.verify import verify

ROWS = {
    "MMLU-Pro": {"question_id": 70, "question": "Which?", "options": ["one", "two", "N/A"], "answer": "B",
                 "answer_index": 1, "category": "business"},
    "SuperGPQA": {"uuid": "u1", "question": "Which?", "options": ["one", "two", "three"], "answer": "three",
                  "answer_letter": "C", "discipline": "Medicine", "field": "f", "subfield": "s", "difficulty": "hard"},
    "GPQA-Diamond": {"Question": "Which?", "Correct Answer": "right\n", "Incorrect Answer 1": "x", "Incorrect Answer 2": "y",
                     "Incorrect Answer 3": "z", "High-level domain": "Physics"},
    "BBEH": {"task": "object counting", "input": "How many?", "target": "12"},
    "MATH-500": {"problem": "Halve it.", "solution": "...", "answer": r"\frac{1}{2}", "subject": "Algebra", "level": 2,
                 "unique_id": "test/algebra/1.json"},
    "AIME24": {"id": 60, "problem": "Find m.", "answer": "204"},
    "AIME25": {"problem": "Find n.", "answer": "70"},
}  # fmt: skip


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_row_becomes_a_problem_that_its_own_answer_solves(name):
    [(problem, options)] = to_problems(name, [ROWS[name]], seed=0)
    assert problem.id.startswith(f"{name}-") and problem.subject
    assert (
        verify(problem.question, problem.answer, f"\\boxed{{{problem.answer}}}", problem.answer_type).verdict
        == "correct"
    )
    assert options == {"MMLU-Pro": 2, "SuperGPQA": 3, "GPQA-Diamond": 4}.get(name, 0)


def test_every_benchmark_has_a_row_here():
    assert set(ROWS) == set(BENCHMARKS)


def test_options_stand_on_lines_of_their_own():
    [(problem, _)] = to_problems("MMLU-Pro", [ROWS["MMLU-Pro"]], seed=0)
    assert problem.question == "Which?\nA) one\nB) two"
    assert verify(problem.question, "B", r"\boxed{two}", "choice").verdict == "correct"


def test_gpqa_options_are_shuffled_by_seed_and_question_alone():
    rows = [{**ROWS["GPQA-Diamond"], "Question": f"Which of {i}?"} for i in range(40)]
    made = [problem for problem, _ in to_problems("GPQA-Diamond", rows, seed=0)]
    assert {problem.answer for problem in made} == set("ABCD")
    for problem in made:
        assert f"{problem.answer}) right" in problem.question.splitlines()
    alone = to_problems("GPQA-Diamond", rows[7:8], seed=0)[0][0]
    assert alone == made[7]
    assert [p.answer for p, _ in to_problems("GPQA-Diamond", rows, seed=1)] != [p.answer for p in made]


@pytest.mark.fault
@pytest.mark.parametrize(
    "name, change, says",
    [
        ("MMLU-Pro", {"answer": "E"}, "row 2: the answer 'E' is none of its 2 options"),
        ("MMLU-Pro", {"question": None}, "row 2"),
        ("MMLU-Pro", {"options": None}, "row 2"),
        ("AIME24", {"answer": ""}, "row 2: the checker cannot read the answer ''"),
        ("MATH-500", {"unique_id": "first"}, "'MATH-500-first' stands there twice"),
    ],
)
def test_a_bad_row_is_named(name, change, says):
    first = {**ROWS[name], **({"unique_id": "first"} if name == "MATH-500" else {"id": 1, "question_id": 1})}
    with pytest.raises(InputError, match=says):
        to_problems(name, [first, {**ROWS[name], **change}], seed=0)


@pytest.mark.fault
def test_a_missing_column_is_named():
    with pytest.raises(InputError, match="row 1: the column 'options' is missing"):
        to_problems("SuperGPQA", [{"question": "Which?"}], seed=0)


SHARED = paths.REPO.parent / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data with bbeh_mini.json")
def test_the_real_rows_of_bbeh_can_be_read_and_scored():
    rows = json.loads(Path(SHARED / "bbeh_mini.json").read_text())["examples"]
    made = to_problems("BBEH", rows, seed=0)
    assert len(made) == 460
    verdicts = [
        verify(p.question, p.answer, f"\\boxed{{{p.answer}}}", p.answer_type).verdict for p, _ in made
    ]
    assert verdicts.count("correct") == 460
