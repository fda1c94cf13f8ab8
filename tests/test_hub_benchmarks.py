"""Rows in the benchmarks' real columns; rows of the real files where ../shared/data is there."""

import json
import traceback

import datasets
import pandas as pd
import pytest

from dereason_utils import hub_benchmarks, paths, profiles, tables
from dereason_utils.errors import InputError
from dereason_utils.hub_benchmarks import BENCHMARKS, to_problems
from dereason_utils.verify import verify

ROWS = {
    "mmlu_pro": {"question_id": 70, "question": "Which?", "options": ["one", "two", "N/A"], "answer": "B",
                 "answer_index": 1, "category": "business"},
    "supergpqa": {"uuid": "u1", "question": "Which?", "options": ["one", "two", "three"], "answer": "three",
                  "answer_letter": "C", "discipline": "Medicine", "field": "f", "subfield": "s", "difficulty": "hard"},
    "gpqa_diamond": {"Question": "Which?", "Correct Answer": "right\n", "Incorrect Answer 1": "x", "Incorrect Answer 2": "y",
                     "Incorrect Answer 3": "z", "High-level domain": "Physics"},
    "bbeh": {"task": "object counting", "input": "How many?", "target": "12"},
    "math500": {"problem": "Halve it.", "solution": "...", "answer": r"\frac{1}{2}", "subject": "Algebra", "level": 2,
                 "unique_id": "test/algebra/1.json"},
    "aime24": {"id": 60, "problem": "Find m.", "answer": "204"},
    "aime25": {"problem": "Find n.", "answer": "70"},
}  # fmt: skip


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_row_becomes_a_problem_that_its_own_answer_solves(name):
    [(problem, options)] = to_problems(name, [ROWS[name]], seed=0)
    assert problem.id.startswith(f"{name}-") and problem.subject
    assert (
        verify(problem.question, problem.answer, f"\\boxed{{{problem.answer}}}", problem.answer_type).verdict
        == "correct"
    )
    assert options == {"mmlu_pro": 2, "supergpqa": 3, "gpqa_diamond": 4}.get(name, 0)


@pytest.mark.parametrize(
    ("name", "gold", "response", "verdict"),
    [
        ("aime24", "025", "25", "correct"),
        ("aime24", "025", "52", "incorrect"),
        ("aime25", 0, "0", "correct"),
        ("math500", r"\frac{270}7\text{ degrees}", r"\frac{270}{7}", "correct"),
        ("math500", r"\frac{270}7\text{ degrees}", r"\frac{27}{7}^\circ", "incorrect"),
        ("math500", r"\dfrac9{19}", "9/19", "correct"),
        ("math500", r"\frac12", "0.5", "correct"),
        ("math500", r"11,\! 111,\! 111,\! 100", "11111111100", "correct"),
        ("math500", r"\sqrt{\frac{1", "1", "unscorable"),
    ],
)
def test_golds_as_the_files_spell_them(name, gold, response, verdict):
    row = ROWS[name] | {"answer": gold, "problem": "How many degrees?"}
    [(problem, _)] = to_problems(name, [row], seed=0)
    found = verify(problem.question, problem.answer, f"\\boxed{{{response}}}", problem.answer_type)
    assert found.verdict == verdict


def test_every_benchmark_has_a_row_here():
    assert set(ROWS) == set(BENCHMARKS)


def test_options_stand_on_lines_of_their_own():
    [(problem, _)] = to_problems("mmlu_pro", [ROWS["mmlu_pro"]], seed=0)
    assert problem.question == "Which?\nA) one\nB) two"
    assert verify(problem.question, "B", r"\boxed{two}", "choice").verdict == "correct"


def test_gpqa_options_are_shuffled_by_seed_and_question_alone():
    rows = [{**ROWS["gpqa_diamond"], "Question": f"Which of {i}?"} for i in range(40)]
    made = [problem for problem, _ in to_problems("gpqa_diamond", rows, seed=0)]
    assert {problem.answer for problem in made} == set("ABCD")
    for problem in made:
        assert f"{problem.answer}) right" in problem.question.splitlines()
    alone = to_problems("gpqa_diamond", rows[7:8], seed=0)[0][0]
    assert alone == made[7]
    assert [p.answer for p, _ in to_problems("gpqa_diamond", rows, seed=1)] != [p.answer for p in made]


@pytest.mark.fault
@pytest.mark.parametrize(
    "name, change, says",
    [
        ("mmlu_pro", {"answer": "E"}, "row 2: the answer 'E' is none of its 2 options"),
        ("mmlu_pro", {"question": None}, "row 2"),
        ("mmlu_pro", {"options": None}, "row 2"),
        ("aime24", {"answer": " "}, "row 2: its answer is empty"),
        ("math500", {"unique_id": "first"}, "'math500-first' stands there twice"),
    ],
)
def test_a_bad_row_is_named(name, change, says):
    first = {**ROWS[name], **({"unique_id": "first"} if name == "math500" else {"id": 1, "question_id": 1})}
    with pytest.raises(InputError, match=says):
        to_problems(name, [first, {**ROWS[name], **change}], seed=0)


@pytest.mark.fault
def test_a_missing_column_is_named():
    with pytest.raises(InputError, match="row 1: the column 'options' is missing"):
        to_problems("supergpqa", [{"question": "Which?"}], seed=0)


def evaluation(**changes):
    chosen = {"eval.benchmarks": ["mmlu_pro", "aime24"], "eval.temperature": 0.6, "eval.samples": 2}
    return profiles.load("smoke", chosen | {f"eval.{name}": value for name, value in changes.items()}).eval


def put(folder, name, rows, ending=".jsonl"):
    path = folder / name / f"rows{ending}"
    path.parent.mkdir()
    if ending == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif ending == ".json":
        path.write_text(json.dumps({"canary": "x", "examples": rows}))
    elif ending == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        pd.DataFrame(rows).to_parquet(path)


def test_the_profiles_name_these_benchmarks_and_the_tables_their_columns():
    assert set(BENCHMARKS) == set(profiles.BENCHMARKS) - {"mini_stem", "reasoning_gym"}
    for table, columns in tables.REPORTED.items():
        kind = tables.TABLES[table]
        assert {b.name for b in BENCHMARKS.values() if b.table == kind} == set(columns) - {"avg"}
    for name in ("single_gpu", "paper"):
        assert set(profiles.load(name).eval.benchmarks) == set(BENCHMARKS)


def test_the_protocol_stands_with_the_benchmark():
    often = {name: b.samples for name, b in BENCHMARKS.items() if b.samples > 1}
    assert often == {"gpqa_diamond": 8, "aime24": 32, "aime25": 32}
    assert [name for name, b in BENCHMARKS.items() if b.secret] == ["gpqa_diamond"]


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_local_file_of_any_format_gives_the_same_items(tmp_path, name, ending):
    put(tmp_path, name, [ROWS[name]], ending)
    settings = evaluation(benchmarks=[name], benchmark_folder=str(tmp_path))
    if ending == ".csv" and name in ("mmlu_pro", "supergpqa"):
        with pytest.raises(InputError, match="row 1: its options are one text and no list"):
            hub_benchmarks.items(settings)
        return
    [item] = hub_benchmarks.items(settings)
    [(problem, options)] = to_problems(name, [ROWS[name]], seed=settings.seed)
    samples = BENCHMARKS[name].samples
    assert (item.problem.question, item.problem.answer) == (problem.question, problem.answer)
    assert (item.benchmark, item.options, item.samples) == (name, options, samples)
    assert item.temperature == (0.6 if samples > 1 else 0.0) and item.problem.family == ""


def test_a_cap_draws_by_seed_and_a_smaller_draw_is_part_of_a_larger_one(tmp_path):
    put(tmp_path, "mmlu_pro", [{**ROWS["mmlu_pro"], "question_id": i} for i in range(50)])
    put(tmp_path, "aime24", [ROWS["aime24"]])

    def ids(cap, seed=7):
        settings = evaluation(benchmark_folder=str(tmp_path), items_per_benchmark=cap, seed=seed)
        return [i.problem.id for i in hub_benchmarks.items(settings) if i.benchmark == "mmlu_pro"]

    assert len(ids(None)) == 50 and len(ids(20)) == 20 and set(ids(5)) < set(ids(20))
    assert ids(5) == ids(5) != ids(5, seed=8)


@pytest.mark.fault
@pytest.mark.parametrize(
    "files, says",
    [
        ([], "holds no file: put mmlu_pro there"),
        (["mmlu_pro.csv", "mmlu_pro.json"], "holds files of several formats: put mmlu_pro there"),
        (["mmlu_pro.jsonl"], r"mmlu_pro.jsonl cannot be read \(JSONDecodeError\): replace"),
        (["mmlu_pro.parquet"], r"mmlu_pro.parquet cannot be read \(ArrowInvalid\): replace"),
        (["mmlu_pro.json"], r"mmlu_pro.json cannot be read"),
    ],
)
def test_a_missing_or_damaged_file_is_named_and_not_quoted(tmp_path, files, says):
    (tmp_path / "mmlu_pro").mkdir()
    for name in files:
        (tmp_path / "mmlu_pro" / name).write_text("a secret line\n")
    with pytest.raises(InputError, match=says) as caught:
        hub_benchmarks.read("mmlu_pro", str(tmp_path))
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.fault
def test_without_folder_or_commit_it_says_what_to_set():
    with pytest.raises(InputError, match="run `make pins`, or set eval.benchmark_folder to a folder with"):
        hub_benchmarks.items(evaluation(benchmarks=["mmlu_pro"]))
    with pytest.raises(InputError, match="'mmlu_pro@main' is not a benchmark's name, @ and the 40 digits"):
        evaluation(benchmark_commits=["mmlu_pro@main"])
    with pytest.raises(InputError, match="unknown benchmark 'mmlu'"):
        evaluation(benchmarks=["mmlu"])
    with pytest.raises(InputError, match="stands there twice"):
        evaluation(benchmarks=["bbeh", "bbeh"])


@pytest.mark.fault
def test_what_is_sampled_often_is_not_greedy(tmp_path):
    put(tmp_path, "aime24", [ROWS["aime24"]])
    settings = evaluation(benchmarks=["aime24"], benchmark_folder=str(tmp_path), temperature=0.0, samples=1)
    with pytest.raises(InputError, match="aime24 is sampled 32 times: set eval.temperature above 0"):
        hub_benchmarks.items(settings)


@pytest.mark.fault
@pytest.mark.parametrize(
    "error, says",
    [
        (
            "Dataset 'Idavidrein/gpqa' is a gated dataset on the Hub.",
            "accept its terms at https://huggingface.co/datasets/",
        ),
        ("Couldn't reach the Hub", "check the network and the commit"),
    ],
)
def test_a_gated_or_unreachable_benchmark_is_one_sentence(monkeypatch, error, says):
    def refuse(*_, **__):
        raise ConnectionError(error)

    monkeypatch.setattr(datasets, "load_dataset", refuse)  # no hub can be reached from a test
    with pytest.raises(InputError, match=says) as caught:
        hub_benchmarks.items(
            evaluation(benchmarks=["gpqa_diamond"], benchmark_commits=["gpqa_diamond@" + "a" * 40])
        )
    assert "\n" not in str(caught.value)


SHARED = paths.REPO.parent / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data with bbeh_mini.json")
def test_the_real_rows_of_bbeh_can_be_read_and_scored(tmp_path):
    (tmp_path / "bbeh").mkdir()
    (tmp_path / "bbeh" / "bbeh_mini.json").write_bytes((SHARED / "bbeh_mini.json").read_bytes())
    items = hub_benchmarks.items(evaluation(benchmarks=["bbeh"], benchmark_folder=str(tmp_path)))
    made = [(item.problem, item.options) for item in items]
    assert len(made) == 460
    assert {problem.subject for problem, _ in made} == {"all"}  # the mini version does not name its tasks
    verdicts = [
        verify(p.question, p.answer, f"\\boxed{{{p.answer}}}", p.answer_type).verdict for p, _ in made
    ]
    assert verdicts.count("correct") == 460


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data with mmlu_stem.jsonl and gsm8k.jsonl")
def test_real_rows_in_other_benchmarks_columns_can_be_read_and_scored(tmp_path):
    """MMLU's rows as MMLU-Pro's, GSM8K's as AIME's: not those benchmarks, and real questions all the same."""
    mmlu = [json.loads(line) for line in (SHARED / "mmlu_stem.jsonl").read_text().splitlines()]
    put(tmp_path, "mmlu_pro", [
        {"question_id": i, "question": row["question"], "options": row["choices"], "answer": "ABCD"[row["answer"]],
         "category": row["type"]} for i, row in enumerate(mmlu)
    ])  # fmt: skip
    gsm8k = [json.loads(line) for line in (SHARED / "gsm8k.jsonl").read_text().splitlines()]
    rows = [
        {"id": row["idx"], "problem": row["question"], "answer": row["answer"].split("####")[1]}
        for row in gsm8k
    ]
    put(tmp_path, "aime24", rows)
    items = hub_benchmarks.items(evaluation(benchmark_folder=str(tmp_path)))
    assert [len([i for i in items if i.benchmark == name]) for name in ("mmlu_pro", "aime24")] == [3018, 1319]
    right = [
        verify(i.problem.question, i.problem.answer, f"\\boxed{{{i.problem.answer}}}", i.problem.answer_type)
        for i in items
    ]
    assert {verdict.verdict for verdict in right} == {"correct"}
