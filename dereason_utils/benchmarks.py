"""The benchmarks of the `cpu` profile: `mini_stem`'s test problems and a fixed selection of reasoning_gym
tasks.

reasoning_gym (Stojanovski et al. 2025, arXiv 2505.24760) was written by others, and no training family is
modelled on it. Twelve of its tasks are used, each in an easy and a hard configuration. Its gold answers are
not always the only right ones, so each task states which entries to keep; tasks whose gold answers are wrong
or ambiguous by construction were left out (family_relationships swaps some in-law and niece relations and
depends on the hash seed, syllogism assumes existential import, fraction_simplification accepts the
unsimplified fraction as an equal number).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from dereason_utils.errors import InputError
from dereason_utils.profiles import Eval
from dereason_utils.schema import AnswerType, Problem

Level = Literal["easy", "hard"]
GENERAL = ("mini_stem easy", "mini_stem hard", "reasoning_gym easy", "reasoning_gym hard")
MATHEMATICS = ("mini_stem mathematics", "reasoning_gym mathematics")
_LOOK_AT = 5000  # dataset entries to look at before a cell counts as exhausted


@dataclass(frozen=True)
class BenchmarkItem:
    """A problem, the column of Table 1 ('general') or Table 2 ('mathematics') in which it counts, and how it is asked.

    temperature 0 is greedy. options: of a multiple-choice question, 0 of an open one. secret: neither the question nor a
    completion may be stored or shown.
    """

    benchmark: str
    table: Literal["general", "mathematics"]
    problem: Problem
    samples: int = 1
    temperature: float = 0.0
    options: int = 0
    secret: bool = False


@dataclass(frozen=True)
class Task:
    """A reasoning_gym task with its two configurations; `keep(entry, level)` picks its entries."""

    name: str
    subject: str
    answer_type: AnswerType
    easy: dict
    hard: dict
    keep: Callable[[dict, Level], bool] = lambda entry, level: True


def _one_case(entry: dict, level: Level) -> bool:
    """Letters only, and the same count whether or not capitals count as the letter."""
    letter, text = entry["metadata"]["target_letter"], " ".join(entry["metadata"]["span"])
    return letter.isalpha() and text.count(letter) == int(entry["answer"])


def _lower_case(entry: dict, level: Level) -> bool:
    """A backward proper name would leave the place of its capital open."""
    return entry["answer"].islower()


def _clear_legs(entry: dict, level: Level) -> bool:
    """Whether a starfish has legs is a matter of opinion."""
    return "starfish" not in entry["metadata"]["animals"]


def _within_a_day(entry: dict, level: Level) -> bool:
    """An end at midnight reads 00:00, which makes the gold answer negative; zero minutes need no thought."""
    return not entry["answer"].startswith("-") and set(entry["answer"]) != {"0", ":"}


def _more_than_a_week(entry: dict, level: Level) -> bool:
    return level == "easy" or entry["metadata"]["delta_days"] > 7


def _one_axis(entry: dict, level: Level) -> bool:
    """Bottom to top is half a turn about either of two axes, which end differently: not a unique answer."""
    return "bottom" not in entry["metadata"]["rotations"]


def _worth_a_thought(entry: dict, level: Level) -> bool:
    """Random numbers are often coprime, so that always answering 1 would score well."""
    return entry["answer"] != "1"


def _convex(entry: dict, level: Level) -> bool:
    """The task draws angles freely; the remaining one must fit a convex polygon."""
    return 0 < float(entry["answer"]) < 180


TASKS = (
    Task("letter_counting", "language", "number", {"min_words": 3, "max_words": 4},
         {"min_words": 8, "max_words": 12}, _one_case),
    Task("spell_backward", "language", "text", {"min_word_len": 3, "max_word_len": 3},
         {"min_word_len": 7, "max_word_len": 10}, _lower_case),
    Task("leg_counting", "biology", "number", {"min_animals": 1, "max_animals": 2, "max_instances": 5},
         {"min_animals": 4, "max_animals": 6}, _clear_legs),
    Task("time_intervals", "time", "text", {"task_types": ["time"], "max_time_difference_seconds": 3600},
         {"task_types": ["time_seconds"]}, _within_a_day),
    # Up to 58 days after 1 January stays before a leap day, which the question leaves open.
    Task("calendar_arithmetic", "time", "text",
         {"tasks": ["weekday_of_date_from_first_date"], "offset_upper_bound": 6},
         {"tasks": ["weekday_of_date_from_first_date"], "offset_upper_bound": 58}, _more_than_a_week),
    Task("color_cube_rotation", "space", "text", {"max_rotations": 1},
         {"min_rotations": 3, "max_rotations": 4}, _one_axis),
    Task("count_bits", "computer science", "number", {"max_n": 31}, {"min_n": 1000, "max_n": 100_000}),
    Task("chain_sum", "mathematics", "number", {"max_terms": 2, "max_digits": 1},
         {"min_terms": 4, "max_terms": 6, "min_digits": 2, "max_digits": 4}),
    Task("products", "mathematics", "number", {"max_digits": 1}, {"min_digits": 3, "max_digits": 4}),
    Task("simple_equations", "mathematics", "number", {"max_terms": 2, "max_value": 10}, {"min_terms": 3}),
    Task("gcd", "mathematics", "number", {"max_value": 20}, {"max_numbers": 3, "min_value": 100},
         _worth_a_thought),
    Task("simple_geometry", "mathematics", "number", {"max_sides": 3}, {"min_sides": 5}, _convex),
)  # fmt: skip


def reasoning_gym_items(size: int, seed: int, tasks: Iterable[str] | None = None) -> list[Problem]:
    """`size` problems spread evenly over the tasks' easy and hard configurations, in a fixed order.

    Ids are `rg.<task>-<easy|hard>-<n>`, the family is the task, `steps` is 0 (unknown). Problem n of a task
    does not depend on `size` or on the other tasks. Raises InputError for an unknown task or more problems
    than a task has.
    """
    chosen = _chosen(tasks)
    cells = [(task, level) for task in chosen for level in ("easy", "hard")]
    share, rest = divmod(size, len(cells))
    # The remainder goes first to the easy cells, then to the hard ones, so that no task is favoured twice.
    order = sorted(range(len(cells)), key=lambda i: (cells[i][1] != "easy", i))
    extra = set(order[:rest])
    return [
        problem
        for i, (task, level) in enumerate(cells)
        for problem in _cell(task, level, share + (i in extra), seed)
    ]


def _chosen(tasks: Iterable[str] | None) -> list[Task]:
    known = {task.name: task for task in TASKS}
    names = list(known) if tasks is None else list(tasks)
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"Unknown reasoning_gym task {unknown[0]!r}: choose among {', '.join(known)}.")
    if not names:
        raise InputError(f"No reasoning_gym task was named: choose among {', '.join(known)}.")
    return [known[name] for name in names]


def _cell(task: Task, level: Level, count: int, seed: int) -> list[Problem]:
    """The first `count` distinct, kept entries of one task at one level."""
    import reasoning_gym  # a second to import, and only this function needs it

    place = 2 * [known.name for known in TASKS].index(task.name) + (level == "hard")
    # reasoning_gym draws entry i from seed + i, so cells get seeds far apart.
    own_seed = int(np.random.default_rng([seed, place]).integers(2**40)) * _LOOK_AT
    settings = task.easy if level == "easy" else task.hard
    entries = reasoning_gym.create_dataset(task.name, size=_LOOK_AT, seed=own_seed, **settings)
    found: dict[str, str] = {}
    for i in range(_LOOK_AT):
        if len(found) == count:
            break
        entry = entries[i]
        if task.keep(entry, level):
            found.setdefault(entry["question"].strip(), entry["answer"])
    if len(found) < count:
        raise InputError(
            f"reasoning_gym's {task.name} ({level}) has only {len(found)} distinct problems, not {count}: "
            "lower eval.reasoning_gym_size."
        )
    return [
        Problem(
            id=f"rg.{task.name}-{level}-{n}", question=question, answer=answer, answer_type=task.answer_type,
            subject=task.subject, family=task.name, steps=0,
        )
        for n, (question, answer) in enumerate(found.items())
    ]  # fmt: skip


def own_items(settings: Eval, test_problems: Iterable[Problem], hard_from_steps: int) -> list[BenchmarkItem]:
    """The items of mini_stem and reasoning_gym, where `eval.benchmarks` names them; see `build`."""
    names = settings.benchmarks
    others = (
        reasoning_gym_items(settings.reasoning_gym_size, settings.seed) if "reasoning_gym" in names else []
    )
    test = list(test_problems) if "mini_stem" in names else []
    if "mini_stem" in names and not test:
        raise InputError(
            "This corpus has no test problems of mini_stem: take mini_stem out of eval.benchmarks."
        )
    return build(test, others, hard_from_steps, settings.samples, settings.temperature)


def overview(items: Sequence[BenchmarkItem]) -> pd.DataFrame:
    """One row per benchmark: its items, samples of each, temperature, and options of its first item."""
    table = pd.DataFrame(
        [(i.benchmark, i.samples, i.temperature, i.options) for i in items],
        columns=["benchmark", "samples", "temperature", "options"],
    )
    groups = table.groupby("benchmark", sort=False)
    return groups.agg("first").assign(items=groups.size())[["items", "samples", "temperature", "options"]]


def build(
    test_problems: Iterable[Problem],
    rg_problems: Iterable[Problem],
    hard_from_steps: int,
    samples: int,
    temperature: float,
) -> list[BenchmarkItem]:
    """Sort problems into the benchmarks: mathematics into Table 2, the others into Table 1's easy and hard
    columns.

    `hard_from_steps`: a mini_stem problem with at least so many steps is hard. `samples`, `temperature`: of each
    item. Raises InputError where a mini_stem problem has unknown steps or two problems share an id.
    """
    asked = {"samples": samples, "temperature": temperature}
    items = [
        *(
            _item("mini_stem", problem, _mini_stem_level(problem, hard_from_steps), asked)
            for problem in test_problems
        ),
        *(_item("reasoning_gym", problem, problem.id.rsplit("-", 2)[1], asked) for problem in rg_problems),
    ]
    seen: set[str] = set()
    for item in items:
        if item.problem.id in seen:
            raise InputError(
                f"The benchmark problem id {item.problem.id!r} occurs twice: ids must be unique."
            )
        seen.add(item.problem.id)
    return items


def _item(source: str, problem: Problem, level: str, asked: dict) -> BenchmarkItem:
    if problem.subject == "mathematics":
        return BenchmarkItem(f"{source} mathematics", "mathematics", problem, **asked)
    return BenchmarkItem(f"{source} {level}", "general", problem, **asked)


def _mini_stem_level(problem: Problem, hard_from_steps: int) -> Level:
    if problem.steps == 0:
        raise InputError(
            f"mini_stem problem {problem.id!r} has no number of steps: it cannot be called easy or hard."
        )
    return "hard" if problem.steps >= hard_from_steps else "easy"
