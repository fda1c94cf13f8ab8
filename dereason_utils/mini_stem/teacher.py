"""A reference teacher: worked solutions in many wordings, in which a step slips with a stated probability."""

from zlib import crc32

import numpy as np

from dereason_utils.errors import InputError
from dereason_utils.mini_stem.core import pick, sentence, show
from dereason_utils.mini_stem.generate import rebuild

# Empty strings: much of what a person writes has no opening and no link at all.
OPENINGS = ("", "", "", "", "Let us go step by step.", "Work through it in order.", "One step at a time.")
FIRST = ("", "", "", "first, ", "to begin, ", "at first, ")
LATER = ("", "", "", "", "then ", "next, ", "after that, ", "and ")
LAST = ("", "", "", "finally, ", "last, ", "at the end, ")
NUMBERING = ("", "", "", "", "", "", "{i}. ", "{i}) ")
CLOSINGS = (
    r"\boxed{{{answer}}}",
    r"So the answer is \boxed{{{answer}}}.",
    r"Answer: \boxed{{{answer}}}",
    r"The result is \boxed{{{answer}}}.",
    r"This gives \boxed{{{answer}}}.",
    r"Hence \boxed{{{answer}}}.",
)


def solve(problem_id: str, seed: int, slip: float) -> str:
    r"""A solution of one line per step that ends in `\boxed{answer}`, the same for the same arguments.

    Each step goes wrong with probability `slip` (0 to 1), and the later steps go on from the wrong result.
    Without slips the answer is the gold answer. Raises InputError for an unknown id or a `slip` out of range.
    """
    if not 0 <= slip <= 1:
        raise InputError(f"slip = {slip} is no probability: give a number from 0 to 1.")
    instance = rebuild(problem_id)
    rng = np.random.default_rng([seed, crc32(problem_id.encode())])
    given = () if instance.start == "" else (f"We start from {show(instance.start)}.",)
    opening = pick(rng, OPENINGS + given)
    lines = [opening] if opening else []
    numbering = pick(rng, NUMBERING)
    past = [instance.start]
    last = len(instance.steps)
    for i, step in enumerate(instance.steps, 1):
        told = step(past)
        result = pick(rng, told.wrong) if rng.random() < slip else told.result
        past.append(result)
        phrasing = pick(rng, told.phrasings)
        text = told.tell(phrasing, result)
        link = "" if numbering else pick(rng, FIRST if i == 1 else LAST if i == last else LATER)
        if not link and not phrasing.startswith("{x}"):
            text = sentence(text)
        lines.append(numbering.format(i=i) + sentence(link) + text)
    lines.append(pick(rng, CLOSINGS).format(answer=instance.answer(past[-1])))
    return "\n".join(lines)
