"""Computer science: variables, conditions, bit registers, linked nodes. Held out: postfix notation."""

from functools import reduce

from dereason_utils.mini_stem.core import (
    Instance,
    Told,
    between,
    chained,
    count,
    described,
    draw_arrows,
    draw_ops,
    linked,
    listed,
    one_of,
    operate,
    outcome,
    pick,
    sample,
    sentence,
    times,
)

KINDS = ("+", "-", "x2", "x3")
SAID = ("{x} = {r}.", "{x} = {e} = {r}.", "{x} becomes {r}.", "{x} is {r} after this line.")


def _program(rng, start, ops):
    """Python statements that do `ops` to a variable, its name, and its steps.

    A second variable is a constant in the statements, or idle: a distraction.
    """
    name, other = pick(rng, (("x", "y"), ("a", "b"), ("n", "k"), ("s", "t")))
    constant = between(rng, 2, 9)
    body = {"+": f"{name} + {{n}}", "-": f"{name} - {{n}}", "x2": f"2 * {name}", "x3": f"3 * {name}"}
    named = [(kind, other if kind in "+-" and n == constant else n) for kind, n in ops]
    lines = [f"{name} = {line}" for line in described(named, body)]
    if pick(rng, (True, False)) or any(n == other for _, n in named):
        lines = [f"{other} = {constant}", *lines]
    steps = tuple(lambda past, op=op: operate(past[-1], op, *SAID, x=name) for op in ops)
    return "; ".join([f"{name} = {start}", *lines]), name, steps


def variables(rng, steps):
    """A Python variable that is reassigned."""
    start = between(rng, 1, 20)
    ops = draw_ops(rng, start, steps, KINDS, 0, 40)
    code, name, steps_told = _program(rng, start, ops)
    question = one_of(
        rng,
        f"What does this Python program print? {code}; print({name})",
        f"A Python program runs these statements: {code}. What is the final value of {name}?",
        f"Trace the code: {code}. Which value does {name} hold at the end?",
    )
    return Instance(question, f"{start} {ops}", start, steps_told)


def condition(rng, steps):
    """The same, but the last step is a comparison near the true value."""
    start = between(rng, 1, 30)
    ops = draw_ops(rng, start, steps - 1, KINDS, 0, 40)
    code, name, steps_told = _program(rng, start, ops)
    sign = pick(rng, "<>")
    final = reduce(outcome, ops, start)
    limit = pick(rng, [n for n in range(final - 3, final + 4) if n >= 0 and n != final])
    question = one_of(
        rng,
        f"What does this Python program print? {code}; print({name} {sign} {limit})",
        f"After the code {code}, is the expression {name} {sign} {limit} True or False?",
        f"Python runs {code}. What is the value of {name} {sign} {limit} then, True or False?",
    )
    said = ("{a} {s} {b} is {r}.", "is {a} {s} {b}? {r}.", "{a} {s} {b} gives {r}.", "{a} against {b}: {r}.")

    def compare(past):
        holds = past[-1] < limit if sign == "<" else past[-1] > limit
        return Told(holds, (not holds,), said, {"a": past[-1], "s": sign, "b": limit})

    key = f"{start} {ops} {sign} {limit}"
    return Instance(question, key, start, (*steps_told, compare), answer_type="boolean")


FLIP = str.maketrans("01", "10")
BIT_OPERATIONS = {  # all can be undone, so that no step makes the earlier ones irrelevant
    "invert all bits": lambda b: b.translate(FLIP),
    "rotate left by one": lambda b: b[1:] + b[0],
    "rotate right by one": lambda b: b[-1] + b[:-1],
    "reverse the bit order": lambda b: b[::-1],
    "flip the leftmost bit": lambda b: b[0].translate(FLIP) + b[1:],
    "flip the rightmost bit": lambda b: b[:-1] + b[-1].translate(FLIP),
}


def register(rng, steps):
    """Operations on a register of four bits."""
    start = "".join(pick(rng, "01") for _ in range(4))
    names, seen = [], [start]
    for _ in range(steps):  # every operation changes the register and does not undo the one before it
        names.append(pick(rng, [n for n, f in BIT_OPERATIONS.items() if f(seen[-1]) not in seen[-2:]]))
        seen.append(BIT_OPERATIONS[names[-1]](seen[-1]))
    todo = listed(rng, names)
    question = one_of(
        rng,
        f"A 4-bit register holds {start}. The processor does this: {todo}. What does the register hold then?",
        f"Take the 4-bit pattern {start}; {todo}. Write the resulting four bits.",
        f"A 4-bit word is {start}. {sentence(todo)}. Which bits do you get?",
    )

    def step(name):
        def change(past):
            result = BIT_OPERATIONS[name](past[-1])
            wrong = tuple(result[:i] + result[i].translate(FLIP) + result[i + 1 :] for i in range(4))
            said = (
                "{n}: {r}.",
                "{a} -> {r}.",
                "{a} becomes {r}.",
                "{n}, which gives {r}.",
                "the bits are {r}.",
            )
            return Told(result, wrong, said, {"a": past[-1], "n": name})

        return change

    return Instance(
        question, f"{start} {names}", start, tuple(step(name) for name in names), answer_type="text"
    )


def pointers(rng, steps):
    """Linked nodes in scattered memory cells."""
    nodes = sample(rng, range(1, 13), between(rng, max(steps + 2, 6), max(steps + 2, 10)))
    start, arrows = draw_arrows(rng, nodes, steps)
    table = ", ".join(f"{a} -> {b}" for a, b in arrows.items())
    question = one_of(
        rng,
        (
            f"In memory, nodes point to each other like this: {table}. Start at node "
            f"{start} and follow {count(steps, 'pointer')}. At which node are you?"
        ),
        (
            f"Each web page has one link: {table}. A crawler begins on page {start} and clicks "
            f"{times(steps)}. On which page does it end?"
        ),
        (
            f"A token is handed on between processes: {table}. Process {start} has it now. Who has it "
            f"after {count(steps, 'hand-over')}? Give the number."
        ),
    )
    return Instance(question, f"{start} {sorted(arrows.items())}", start, linked(arrows, steps, "move"))


def postfix(rng, steps):
    """Reverse Polish notation."""
    start = between(rng, 1, 20)
    ops = draw_ops(rng, start, steps, KINDS, 0, 40)
    sign = {"+": "+", "-": "-", "x": "*"}
    text = " ".join([str(start)] + [f"{n} {sign[kind[0]]}" for kind, n in ops])
    question = one_of(
        rng,
        f"Evaluate the postfix expression {text}",
        f"A stack machine gets this in reverse Polish notation: {text}. Which number is left on the stack?",
        f"What is the value of {text} in postfix notation?",
    )
    said = dict.fromkeys(KINDS, ("the stack holds {r}.", "push {r}."))
    return Instance(question, f"{start} {ops}", start, chained(ops, said))


FAMILIES = {"variables": variables, "condition": condition, "register": register, "pointers": pointers}
JUDGE_FAMILIES = {"postfix": postfix}
