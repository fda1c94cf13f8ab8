"""The parts of which every family is made: instances, dependent steps, and the many ways to tell one step.

A family is a function `(rng, steps) -> Instance`. A step is one operation, one look-up or one use of a rule.
It is a function of the results so far, right or wrong, so that a teacher's slip carries on through the later
steps as it would in a person's working.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

Value = int | str | bool | tuple[int, int] | Fraction
Op = tuple[str, int]  # kind ("+", "-", "x2", "x3", "/2", "/3") and operand; the operand of "x2" is 2


@dataclass(frozen=True)
class Told:
    """One step as carried out on given results: what it gives, what a slip might give, and how to say it.

    A phrasing is a format string over `words` and `r`, the result. It begins in lower case and is capitalised
    as a sentence, unless it begins with "{x}": that word is a name from a program or a formula.
    """

    result: Value
    wrong: tuple[Value, ...]
    phrasings: tuple[str, ...]
    words: dict[str, Value]

    def tell(self, phrasing: str, result: Value) -> str:
        return phrasing.format(r=show(result), **{name: show(value) for name, value in self.words.items()})


Step = Callable[[list[Value]], Told]  # argument: the given start value, then the results of all earlier steps
Family = Callable[[np.random.Generator, int], "Instance"]


@dataclass(frozen=True)
class Instance:
    """A problem and its solution. `key` is what was drawn, without names and wording; it decides the split.

    `start` is the value that the question gives, "" if the first step needs none.
    """

    question: str
    key: str
    start: Value
    steps: tuple[Step, ...]
    answer_type: str = "number"
    unit: str = ""

    def trace(self) -> list[Told]:
        """All steps carried out without a slip."""
        past, told = [self.start], []
        for step in self.steps:
            told.append(step(past))
            past.append(told[-1].result)
        return told

    def answer(self, result: Value) -> str:
        return f"{show(result)} {self.unit}".strip()


def show(value: Value) -> str:
    return f"({value[0]}, {value[1]})" if isinstance(value, tuple) else str(value)


def pick(rng: np.random.Generator, items: Sequence):
    """One item, all equally likely. (`Generator.choice` is slow and turns tuples into arrays.)"""
    return items[int(rng.integers(len(items)))]


def one_of(rng: np.random.Generator, *texts: str) -> str:
    return pick(rng, texts)


def between(rng: np.random.Generator, low: int, high: int) -> int:
    return int(rng.integers(low, high + 1))


def sample(rng: np.random.Generator, items: Sequence, count: int) -> list:
    """`count` different items in random order."""
    return [items[i] for i in rng.permutation(len(items))[:count]]


def listed(rng: np.random.Generator, items: Sequence[str]) -> str:
    """The items as one phrase, in one of several styles, so that its length varies for equally many items."""
    if len(items) == 1:
        return items[0]
    style = pick(rng, (", then ", "; ", ", "))
    if style == ", then ":
        return style.join(items)
    return style.join(items[:-1]) + pick(rng, (" and finally ", " and then ", ", then ")) + items[-1]


def count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n} times")


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


# ---- arithmetic steps -----------------------------------------------------------------------------------

PHRASINGS = {
    "+": ("{a} plus {b} is {r}.", "add {b} to {a}: {r}.", "adding {b} gives {r}.", "plus {b}: {r}."),
    "-": (
        "{a} minus {b} is {r}.",
        "take {b} from {a}: {r}.",
        "subtracting {b} leaves {r}.",
        "minus {b}: {r}.",
    ),
    "x2": ("{a} times 2 is {r}.", "double {a}: {r}.", "doubling gives {r}.", "twice {a} is {r}."),
    "x3": ("{a} times 3 is {r}.", "triple {a}: {r}.", "tripling gives {r}.", "three times {a} is {r}."),
    "/2": ("half of {a} is {r}.", "halve {a}: {r}.", "halving leaves {r}.", "{a} divided by 2 is {r}."),
    "/3": ("a third of {a} is {r}.", "split {a} by 3: {r}.", "one third is {r}.", "{a} divided by 3 is {r}."),
}
INVERSE = {"+": "-", "-": "+", "x2": "/2", "/2": "x2", "x3": "/3", "/3": "x3"}
SMOOTH = (4, 6, 8, 9, 10, 12, 15, 16, 18, 20, 24)  # from these, factors of 2 and 3 lead many ways


def near(value: int, low: int = 0) -> tuple[int, ...]:
    """Plausible wrong results, not below `low`: off by one, or by ten where there is a carry to forget."""
    far = (value - 10, value + 10) if abs(value) >= 10 else ()
    return tuple(v for v in (value - 1, value + 1, *far) if v >= min(low, value))


def outcome(x: int | Fraction, op: Op) -> int | Fraction:
    """The value after `op`. Division rounds down, but only after a slip: true values divide evenly."""
    match op[0][0]:
        case "+":
            return x + op[1]
        case "-":
            return x - op[1]
        case "x":
            return x * op[1]
        case _:
            return x // op[1]


def expression(x: Value, op: Op) -> str:
    kind, n = op
    if kind[0] == "x":
        return f"{n} * {show(x)}"
    return f"{show(x)} {kind[0]} ({n})" if n < 0 else f"{show(x)} {kind[0]} {n}"


def operate(x: int, op: Op, /, *said: str, low: int = 0, **names: str) -> Told:
    """One arithmetic operation; `said` adds the family's phrasings, over `names` too, to the general ones."""
    result = outcome(x, op)
    words = {"a": x, "b": op[1], "e": expression(x, op), **names}
    return Told(result, near(result, low), ("{e} = {r}.", *PHRASINGS[op[0]], *said), words)


def chained(ops: Sequence[Op], said: dict[str, tuple[str, ...]]) -> tuple[Step, ...]:
    """Steps that each change the running value; `said` holds the family's phrasings per kind of operation."""
    return tuple(lambda past, op=op: operate(past[-1], op, *said.get(op[0], ())) for op in ops)


def described(ops: Sequence[tuple[str, int | str]], words: dict[str, str]) -> list[str]:
    """The operations in the family's words, which have a place {n} for the operand."""
    return [words[kind].format(n=n) for kind, n in ops]


def draw_ops(
    rng, start: int, count: int, kinds: Sequence[str], low: int, high: int, digits=range(1, 10)
) -> list[Op]:
    """`count` operations that keep the running value within low..high (inclusive) and divide evenly.

    `digits` are the operands of additions and subtractions. Given a choice, no operation undoes the last one.
    """
    ops, x = [], start
    for _ in range(count):
        undo = (INVERSE[ops[-1][0]], ops[-1][1]) if ops else None
        by_kind = [_legal(x, kind, low, high, digits) for kind in kinds]
        fresh = [[op for op in same_kind if op != undo] for same_kind in by_kind]
        ops.append(pick(rng, pick(rng, [c for c in fresh if c] or [c for c in by_kind if c])))
        x = outcome(x, ops[-1])
    return ops


def _legal(x: int, kind: str, low: int, high: int, digits: Sequence[int]) -> list[Op]:
    ops = [(kind, n) for n in (digits if kind in "+-" else (int(kind[1]),))]
    return [op for op in ops if low <= outcome(x, op) <= high and not (kind[0] == "/" and x % op[1])]


def smaller(a: int, b: int, *said: str) -> Told:
    """Keep the smaller of two numbers; a slip keeps the other one."""
    general = ("the smaller of {a} and {b} is {r}.", "compare {a} and {b}: keep {r}.", "min({a}, {b}) = {r}.")
    wrong = (max(a, b),) if a != b else near(a)
    return Told(min(a, b), wrong, (*general, "{a} or {b}? {r} is lower.", *said), {"a": a, "b": b})


def summed(terms: Sequence[Sequence[Step]], given: bool, *said: str, low: int = 0) -> tuple[Step, ...]:
    """Work out one term after the other and add each to the total so far.

    A term's last step gives its value. The total begins at the start value if that is `given`, else at the
    first term.
    """
    steps, total = [], 0 if given else None  # `total` is the place of the total among the results
    for term in terms:
        steps.extend(term)
        if total is not None:
            steps.append(lambda past, at=total: operate(past[at], ("+", past[-1]), *said, low=low))
        total = len(steps)
    return tuple(steps)


# ---- steps that follow a rule or a table ----------------------------------------------------------------

RULE = (
    "{when}: {e} = {r}.",
    "{when}: {r}.",
    "{when}: {a} {sign} {limit}, so {r}.",
    "{when}: {a} {sign} {limit}, {e} = {r}.",
    "{e} = {r} in {when}.",
    "{when} takes {a} to {r}.",
    "after {when}: {r}.",
)
LINK = (
    "{a} leads to {r}.",
    "{a} -> {r}.",
    "from {a} to {r}.",
    "{when}: {r}.",
    "{when}: {a} -> {r}.",
    "after {a} comes {r}.",
)


@dataclass(frozen=True)
class Rule:
    """What happens in every turn: `low` where the value is below the limit, else `high`."""

    start: int
    limit: int
    low: Op
    high: Op

    def operation(self, x: int) -> Op:
        return self.low if x < self.limit else self.high

    def repeats(self, count: int) -> bool:
        """Whether a value comes back within `count` turns, so that a reader could skip the rest."""
        values = [self.start]
        for _ in range(count):
            values.append(outcome(values[-1], self.operation(values[-1])))
        return len(set(values)) <= count


def draw_rule(count: int, draw: Callable[[], Rule]) -> Rule:
    """The first rule drawn in which no value comes back within `count` turns."""
    while (rule := draw()).repeats(count):
        pass
    return rule


def ruled(rule: Rule, count: int, turn: str) -> tuple[Step, ...]:
    """`count` turns of a rule; a slip can also take the wrong branch.

    `turn` is the word for one turn ("day"). Every phrasing names it, so that nobody loses count.
    """

    def follow(past: list[int], i: int) -> Told:
        x = past[-1]
        result = outcome(x, rule.operation(x))
        branches = {max(outcome(x, op), 0) for op in (rule.low, rule.high)}
        words = {
            "a": x,
            "sign": "<" if x < rule.limit else ">=",
            "limit": rule.limit,
            "e": expression(x, rule.operation(x)),
            "when": f"{turn} {i}",
        }
        return Told(result, tuple(sorted({*near(result), *branches} - {result})), RULE, words)

    return tuple(lambda past, i=i: follow(past, i) for i in range(1, count + 1))


def draw_arrows(rng, nodes: Sequence[Value], count: int) -> tuple[Value, dict[Value, Value]]:
    """A start and one arrow from each node, in no order. `count` arrows from the start meet no node twice.

    The other arrows lead anywhere, so that the goal cannot be found from the end.
    """
    arrows = dict(pairwise(nodes[: count + 1]))
    for node in nodes[count:]:
        arrows[node] = pick(rng, [other for other in nodes if other != node])
    return nodes[0], {node: arrows[node] for node in sample(rng, nodes, len(nodes))}


def linked(arrows: dict[Value, Value], count: int, turn: str) -> tuple[Step, ...]:
    """Follow `count` arrows; a slip ends at any other node. `turn` is the word for one ("move")."""

    def follow(past: list[Value], i: int) -> Told:
        goal = arrows[past[-1]]
        wrong = tuple(node for node in arrows if node != goal)
        return Told(goal, wrong, LINK, {"a": past[-1], "when": f"{turn} {i}"})

    return tuple(lambda past, i=i: follow(past, i) for i in range(1, count + 1))


def looked_up(subject: Value, result: Value, wrong: Sequence[Value], *said: str) -> Told:
    """A fact: `subject` ({a}) has the value `result`."""
    return Told(result, tuple(wrong), said, {"a": subject})
