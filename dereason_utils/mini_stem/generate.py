"""Draw problems, balanced over families and steps and disjoint in content; rebuild them from their ids."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from zlib import crc32

import numpy as np

from dereason_utils.errors import InputError
from dereason_utils.mini_stem import biology, chemistry, computer_science, economics, mathematics, physics
from dereason_utils.mini_stem.core import Family, Instance, pick
from dereason_utils.schema import Problem

SUBJECTS = (mathematics, physics, chemistry, biology, computer_science, economics)


def _named(table: str) -> dict[str, Family]:
    """Family id ("physics.segments") -> function; neighbours in this order differ in subject."""
    columns = [
        [
            (f"{subject.__name__.rpartition('.')[2]}.{name}", family)
            for name, family in vars(subject)[table].items()
        ]
        for subject in SUBJECTS
    ]
    return dict(family for row in zip(*columns, strict=True) for family in row)


FAMILIES = _named("FAMILIES")
JUDGE_FAMILIES = _named("JUDGE_FAMILIES")  # in none of the splits: the judge is tuned on them
MAX_STEPS = 10
# Said in a quarter of the questions, so that a question's length does not only follow its steps.
ASIDES = (
    "This question comes from a {subject} class.",
    "No calculator is needed.",
    "Read the question carefully.",
    "This is a short exercise in {subject}.",
    "Take the numbers exactly as they are given.",
    "Work it out by hand.",
)
NUMBERS = 1_000_000  # instances per family and number of steps
TRIES = 300  # drawings without a new content after which a family counts as exhausted at a number of steps
# The paper's Figure 2: the share of mathematics among the problems of score 4 (5 to 8 steps) and 5 (more).
MATHEMATICS = {4: 0.78, 5: 0.96}
SPLITS = {"train": (0, 50), "validation": (50, 70), "test": (70, 100)}  # per cent of all contents


def generate(
    split: str,
    size: int,
    seed: int,
    steps: tuple[int, int],
    families: Sequence[str] = tuple(FAMILIES),
    subject_skew: float = 0.0,
) -> list[Problem]:
    """`size` problems of a split, with `steps` = (fewest, most) dependent steps, both inclusive.

    The hash of a content alone decides whether it belongs to train, validation or test, so the splits are
    disjoint for all sizes and seeds. Families and numbers of steps are balanced; where a family has no new
    content left at a number of steps, the next ones fill in. `subject_skew` (0 to 1) brings the share of
    mathematics among problems of five and more steps from the families' own to the paper's, linearly. Raises
    InputError for bad arguments and for more problems than there are.
    """
    if split not in SPLITS:
        raise InputError(f"There is no split {split!r} of mini_stem: choose one of {', '.join(SPLITS)}.")
    if not families or (unknown := set(families) - set(FAMILIES)):
        named = f"no family {min(unknown)!r}" if families else "nothing to draw from without a family"
        raise InputError(f"mini_stem has {named}: choose from {', '.join(FAMILIES)}.")
    chosen = {name: family for name, family in FAMILIES.items() if name in families}
    if not 0 <= subject_skew <= 1 or (subject_skew and not _mathematics(chosen)):
        raise InputError(
            f"subject_skew = {subject_skew}: give a number from 0 to 1, and above 0 a mathematics family with it."
        )
    low, high = SPLITS[split]
    return _collect(chosen, lambda key: low <= _percent(key) < high, size, seed, steps, subject_skew)


def generate_judge_calibration(size: int, seed: int, steps: tuple[int, int]) -> list[Problem]:
    """Like `generate`, but from the held-out families, which no split contains."""
    return _collect(JUDGE_FAMILIES, lambda key: True, size, seed, steps)


def rebuild(problem_id: str) -> Instance:
    """The instance behind an id such as "physics.segments-s4-183". Raises InputError for any other text."""
    parts = re.fullmatch(r"([a-z_.]+)-s([0-9]{1,2})-([0-9]{1,6})", problem_id)
    if not parts or parts[1] not in FAMILIES | JUDGE_FAMILIES or not 1 <= int(parts[2]) <= MAX_STEPS:
        raise InputError(
            f"{problem_id!r} is no id of a mini_stem problem: one looks like physics.segments-s4-183."
        )
    return _instance(parts[1], int(parts[2]), int(parts[3]))


def _instance(family: str, steps: int, number: int) -> Instance:
    rng = np.random.default_rng([crc32(family.encode()), steps, number])
    instance = (FAMILIES | JUDGE_FAMILIES)[family](rng, steps)
    question = instance.question
    if rng.random() < 0.25:
        aside = pick(rng, ASIDES).format(subject=_subject(family))
        question = f"{aside} {question}"
    return replace(instance, question=question, key=f"{family} {instance.key}")


def _subject(family: str) -> str:
    return family.partition(".")[0].replace("_", " ")


def _percent(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 100


def split_of(key: str) -> str:
    """The split to which a content (`Instance.key`) belongs."""
    return next(name for name, (low, high) in SPLITS.items() if low <= _percent(key) < high)


def _mathematics(families) -> list[str]:
    return [name for name in families if _subject(name) == "mathematics"]


def _turned_to_mathematics(names: list[str], steps: int, skew: float) -> float:
    """The share of turns that must go to mathematics families for the share of such problems that `skew` asks for."""
    if steps < 5:
        return 0.0
    own = len(_mathematics(names)) / len(names)
    return skew * max(0.0, (MATHEMATICS[4 if steps <= 8 else 5] - own) / (1 - own)) if own < 1 else 0.0


def _collect(families: dict[str, Family], wanted, size: int, seed: int, steps, subject_skew: float = 0.0):
    fewest, most = steps
    if not 1 <= fewest <= most <= MAX_STEPS:
        raise InputError(
            f"steps = {tuple(steps)} is no range for mini_stem: give (fewest, most) within 1..{MAX_STEPS}."
        )
    if size < 1 or seed < 0:
        raise InputError(
            f"mini_stem needs a size of at least 1 and a seed of at least 0, not {size} and {seed}."
        )
    rng = np.random.default_rng([seed, size, fewest, most])
    first = int(rng.integers(len(families)))
    names = [*families][first:] + [*families][:first]
    mathematics = _mathematics(names)
    turns = np.random.default_rng([seed, size, 5])  # a stream of its own: without skew nothing changes
    seen: set[str] = set()
    exhausted: set[tuple[str, int]] = set()
    problems = []
    for i in range(size):
        # In a round over the families neighbours differ in steps; in the next round all move on by one.
        turn, place = divmod(i, len(names))
        count = fewest + (turn + place) % (most - fewest + 1)
        order = names[place:] + names[:place]
        if turns.random() < _turned_to_mathematics(names, count, subject_skew):
            order = [mathematics[i % len(mathematics)], *mathematics, *order]
        for family in order:
            problem = None if (family, count) in exhausted else _fresh(family, count, rng, wanted, seen)
            if problem:
                problems.append(problem)
                break
            exhausted.add((family, count))
        else:
            raise InputError(
                f"This split of mini_stem has no {size} different problems of {fewest} to {most} steps (only "
                f"{len(problems)} were found): ask for a smaller size or a wider range of steps."
            )
    return [problems[i] for i in rng.permutation(size)]


def _fresh(family: str, steps: int, rng, wanted: Callable[[str], bool], seen: set[str]) -> Problem | None:
    """A problem with a content that is wanted and not yet `seen`, or None after many vain drawings."""
    for _ in range(TRIES):
        number = int(rng.integers(NUMBERS))
        instance = _instance(family, steps, number)
        content = f"{steps} {instance.key}"
        if content in seen or not wanted(instance.key):
            continue
        seen.add(content)
        return Problem(
            id=f"{family}-s{steps}-{number}",
            question=instance.question,
            answer=instance.answer(instance.trace()[-1].result),
            answer_type=instance.answer_type,
            subject=_subject(family),
            family=family,
            steps=steps,
        )
    return None
