"""The selection of reasoning_gym tasks is fixed, checkable and free of questions with doubtful answers."""

import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from dereason_utils import benchmarks, profiles
from dereason_utils.benchmarks import TASKS, build, own_items, reasoning_gym_items
from dereason_utils.errors import InputError
from dereason_utils.schema import Problem
from dereason_utils.verify import verify


@pytest.fixture(scope="module")
def items():
    return reasoning_gym_items(96, 7)


def level(problem):
    return problem.id.rsplit("-", 2)[1]


def test_at_least_eight_tasks_each_easy_and_hard(items):
    cells = Counter((problem.family, level(problem)) for problem in items)
    assert len(TASKS) >= 8 and set(cells) == {
        (task.name, kind) for task in TASKS for kind in ("easy", "hard")
    }
    assert max(cells.values()) - min(cells.values()) <= 1 and len(items) == 96
    assert len({problem.id for problem in items}) == len({problem.question for problem in items}) == 96
    assert all(re.fullmatch(r"rg\.[a-z_]+-(easy|hard)-\d+", problem.id) for problem in items)


def test_the_same_in_another_process_with_another_hash_seed(items):
    code = (
        "from dereason_utils.benchmarks import reasoning_gym_items as f;"
        "print(''.join(p.model_dump_json() for p in f(96, 7)))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == "".join(problem.model_dump_json() for problem in items)
    assert reasoning_gym_items(96, 8) != items


def test_a_smaller_selection_is_part_of_a_larger_one(items):
    assert set(reasoning_gym_items(50, 7)) <= set(items)
    assert {p.id for p in reasoning_gym_items(4, 7, ["gcd"])} == {
        f"rg.gcd-{k}-{n}" for k in ("easy", "hard") for n in (0, 1)
    }


def test_mathematics_and_general_tasks_have_enough_families(items):
    families = {True: set(), False: set()}
    for problem in items:
        families[problem.subject == "mathematics"].add(problem.family)
    assert len(families[True]) >= 4 and len(families[False]) >= 6


def test_questions_are_short_and_answers_check(items):
    for problem in items:
        assert len(problem.question) < 600 and problem.steps == 0
        right = verify(
            problem.question, problem.answer, rf"So \boxed{{{problem.answer}}}.", problem.answer_type
        )
        assert right.verdict == "correct", problem
        wrong = "17:59:58" if problem.answer_type == "text" else "123456789"
        assert (
            verify(problem.question, problem.answer, rf"\boxed{{{wrong}}}", problem.answer_type).verdict
            == "incorrect"
        )


def test_gold_answers_of_the_kept_entries():
    """Recomputed from the question alone, where that is a line of code."""
    for problem in reasoning_gym_items(96, 11):
        if problem.family == "letter_counting":
            letter, text = re.search(r'letter "(.)" appear in the text: "(.*)"', problem.question).groups()
            assert text.count(letter) == text.lower().count(letter) == int(problem.answer)
        elif problem.family == "spell_backward":
            assert problem.question.rsplit(" ", 1)[1][::-1] == problem.answer
        elif problem.family == "simple_geometry":
            angles = [float(angle) for angle in re.findall(r"([\d.]+)°", problem.question)]
            assert sum(angles) + float(problem.answer) == 180 * (len(angles) - 1)
            assert 0 < float(problem.answer) < 180
        elif problem.family == "time_intervals":
            first, last = re.findall(r"\d\d:\d\d(?::\d\d)?", problem.question)
            assert seconds(last) - seconds(first) == seconds(problem.answer) > 0
        elif problem.family == "count_bits":
            assert int(re.search(r"number (\d+)", problem.question)[1]).bit_count() == int(problem.answer)
        elif problem.family == "gcd":
            assert problem.answer != "1"
        elif problem.family == "color_cube_rotation":
            turns = problem.question.split("\n\n", 1)[1].rsplit("\n\n", 1)[0]
            assert "bottom" not in turns
        elif problem.family == "leg_counting":
            assert "starfish" not in problem.question


def seconds(clock):
    parts = [int(part) for part in clock.split(":")] + [0]
    return parts[0] * 3600 + parts[1] * 60 + parts[2]


def problem(name, subject, steps):
    return Problem(
        id=name, question="?", answer="1", answer_type="number", subject=subject, family="f", steps=steps
    )


def test_build_names_the_benchmarks(items):
    test = [
        problem("a-s2-1", "physics", 2),
        problem("b-s4-1", "physics", 4),
        problem("c-s8-1", "mathematics", 8),
    ]
    built = build(test, items, hard_from_steps=4, samples=2, temperature=0.7)
    assert [(item.benchmark, item.table) for item in built[:3]] == [
        ("mini_stem easy", "general"),
        ("mini_stem hard", "general"),
        ("mini_stem mathematics", "mathematics"),
    ]
    assert {(item.samples, item.temperature) for item in built} == {(2, 0.7)}
    assert {item.benchmark for item in built} == {*benchmarks.GENERAL, *benchmarks.MATHEMATICS}
    assert all((item.table == "mathematics") == (item.problem.subject == "mathematics") for item in built)
    easy = {item.problem.id for item in built if item.benchmark == "reasoning_gym easy"}
    assert easy and all("-easy-" in name for name in easy)


def test_bad_input_is_named():
    with pytest.raises(InputError, match="Unknown reasoning_gym task 'chess'"):
        reasoning_gym_items(8, 0, ["chess"])
    with pytest.raises(InputError, match="No reasoning_gym task"):
        reasoning_gym_items(8, 0, [])
    with pytest.raises(InputError, match="has only 31 distinct problems"):
        reasoning_gym_items(200, 0, ["count_bits"])
    with pytest.raises(InputError, match="occurs twice"):
        build([problem("a", "physics", 2)] * 2, [], 4, 1, 0.0)
    with pytest.raises(InputError, match="no number of steps"):
        build([problem("a", "physics", 0)], [], 4, 1, 0.0)


def test_the_profile_says_which_of_our_benchmarks_are_asked():
    settings = profiles.load("smoke").eval
    test = [problem("a-s2-1", "physics", 2)]
    both = own_items(settings, test, 4)
    assert benchmarks.overview(both).loc["mini_stem easy"].tolist() == [1, 2, 1.0, 0]
    assert len(both) == 1 + settings.reasoning_gym_size
    alone = own_items(settings.model_copy(update={"benchmarks": ("mini_stem", "bbeh")}), test, 4)
    assert alone == both[:1]
    with pytest.raises(InputError, match="take mini_stem out of eval.benchmarks"):
        own_items(settings, [], 4)
