"""Mathematics: operations on a number, functions, points, fractions. Held out: a repeated rule."""

from fractions import Fraction

from dereason_utils.mini_stem.core import (
    Instance,
    Rule,
    Told,
    between,
    chained,
    count,
    described,
    draw_ops,
    draw_rule,
    listed,
    one_of,
    operate,
    outcome,
    pick,
    ruled,
    sample,
    sentence,
    show,
    times,
)


def arithmetic(rng, steps):
    """Operations on one number, in words."""
    start = between(rng, 1, 20)
    ops = draw_ops(rng, start, steps, ("+", "-", "x2", "x3", "/2"), 1, 40)
    words = {"+": "add {n}", "-": "subtract {n}", "x2": "double it", "x3": "triple it", "/2": "halve it"}
    todo = listed(rng, described(ops, words))
    question = one_of(
        rng,
        f"Start with {start}. {sentence(todo)}. What number do you get?",
        f"A number machine receives {start} and does the following in this order: {todo}. What comes out?",
        f"Think of {start}. Now {todo}. What is the result?",
        (
            f"Tom writes {start} on the board. He changes it step by step: {todo}. Which number does he "
            "end with?"
        ),
    )
    said = {"+": ("from {a} go up to {r}.",), "-": ("from {a} go down to {r}.",)}
    return Instance(question, f"{start} {ops}", start, chained(ops, said))


def composition(rng, steps):
    """Three small functions applied in a given order."""
    start = between(rng, 1, 20)
    up, down = sample(rng, range(2, 10), 2)  # different, so that no function undoes another
    by_kind = {"+": ("+", up), "-": ("-", down), "x": ("x2", 2)}
    names = dict(zip(by_kind, sample(rng, "fgh", 3), strict=True))
    body = {"+": "x + {n}", "-": "x - {n}", "x": "{n}x"}
    defined = sorted(f"{names[k]}(x) = {body[k].format(n=n)}" for k, (_, n) in by_kind.items())
    ops, x = [], start
    for _ in range(steps):
        ops.append(pick(rng, [op for op in by_kind.values() if 0 <= outcome(x, op) <= 40]))
        x = outcome(x, ops[-1])
    order = [names[kind[0]] for kind, _ in ops]
    functions = f"{defined[0]}, {defined[1]} and {defined[2]}"
    nested = "(".join(reversed(order)) + f"({start})" + ")" * (steps - 1)
    question = one_of(
        rng,
        f"Let {functions}. Start with x = {start} and apply {listed(rng, order)}. What is the final value?",
        f"Given {functions}, begin with {start} and apply {' then '.join(order)}. What do you get?",
        f"Let {functions}. Find {nested}.",
    )

    def apply(op):
        f = names[op[0][0]]
        said = ("{x}({a}) = {r}.", "{x}({a}) = {e} = {r}.", "apply {x}: {r}.", "{x} takes {a} to {r}.")
        return lambda past: operate(past[-1], op, *said, x=f)

    return Instance(question, f"{start} {ops}", start, tuple(apply(op) for op in ops))


DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "up": (0, 1), "down": (0, -1)}
SWAP = ("swap", 0)  # the mirror image in the diagonal
EVERY_MOVE = (*((name, n) for name in DIRECTIONS for n in range(1, 10)), *[SWAP] * 9)  # all five kinds alike


def turtle(rng, steps):
    """A point that is moved along the axes or mirrored in the diagonal."""
    start = (between(rng, 2, 12), between(rng, 2, 12))
    moves, seen = [], [start]
    while len(moves) < steps:
        move = pick(rng, EVERY_MOVE)
        point = _moved(seen[-1], move)
        if min(point) >= 0 and max(point) <= 20 and point not in seen[-2:]:  # stays near, and undoes nothing
            moves.append(move)
            seen.append(point)
    path = listed(rng, ["swap the coordinates" if move == SWAP else f"{move[1]} {move[0]}" for move in moves])
    question = one_of(
        rng,
        (
            f"A point starts at {show(start)} in the plane. It moves as follows: {path}. Where is it "
            "now, as (x, y)?"
        ),
        f"A robot stands on a grid at {show(start)}. Its program is: {path}. Give its final position (x, y).",
        (
            f"Begin at {show(start)}, where right and up are the positive directions. Follow this path: "
            f"{path}. Which point (x, y) do you reach?"
        ),
    )
    said = (
        "{n} {d}: {r}.",
        "{n} {d} from {a} is {r}.",
        "{d} by {n} leads to {r}.",
        "the point is {r}.",
        "{a} goes {n} {d} to {r}.",
    )
    said_of_swap = (
        "swap: {r}.",
        "swapping {a} gives {r}.",
        "mirrored, {a} is {r}.",
        "exchange x and y: {r}.",
    )

    def step(move):
        def told(past):
            x, y = _moved(past[-1], move)
            wrong = ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1))
            words = {"a": past[-1], "d": move[0], "n": move[1]}
            return Told((x, y), wrong, said_of_swap if move == SWAP else said, words)

        return told

    return Instance(question, f"{start} {moves}", start, tuple(step(m) for m in moves), answer_type="tuple")


def _moved(point, move):
    (x, y), (name, n) = point, move
    if move == SWAP:
        return y, x
    return x + n * DIRECTIONS[name][0], y + n * DIRECTIONS[name][1]


def fractions(rng, steps):
    """Fractions over one prime: every true result is already in lowest terms."""
    prime = pick(rng, (5, 7))
    kinds = ("+", "-", "x2", "x3")
    while True:  # a numerator that the prime divides would be a whole number: draw again
        numerator = between(rng, 1, 9)
        ops = draw_ops(rng, numerator, steps, kinds, 1, 30)
        numerators = [numerator]
        for op in ops:
            numerators.append(outcome(numerators[-1], op))
        if all(n % prime for n in numerators) and all(n % prime for _, n in ops):
            break
    start = Fraction(numerator, prime)
    exact = [(kind, Fraction(n, prime) if kind in "+-" else n) for kind, n in ops]
    words = {"+": "add {n}", "-": "subtract {n}", "x2": "double the result", "x3": "multiply the result by 3"}
    todo = listed(rng, described(exact, words)).replace("the result", "it", 1)
    question = one_of(
        rng,
        f"Start with the fraction {start}. {sentence(todo)}. What fraction do you get?",
        (
            f"A pupil writes down {start} and works on with exact fractions: {todo}. Which fraction is "
            "the result?"
        ),
        f"Work exactly with fractions: begin at {start}, then {todo}. What is the result?",
    )

    said_of = {
        "+": ("add {b}: {r}.", "adding {b} gives {r}."),
        "-": ("minus {b}: {r}.", "subtracting {b} leaves {r}."),
        "x2": ("double it: {r}.", "doubling gives {r}."),
        "x3": ("three times that is {r}.", "tripling gives {r}."),
    }

    def step(op):
        def carried_out(past):
            told = operate(past[-1], op)
            wrong = (told.result - Fraction(1, prime), told.result + Fraction(1, prime))
            said = (*said_of[op[0]], "{e} = {r}.", "the fraction is {r}.", "{r} now.")
            return Told(told.result, wrong, said, told.words)

        return carried_out

    return Instance(question, f"{start} {ops}", start, tuple(step(op) for op in exact))


def repeated_rule(rng, steps):
    """A rule with a case distinction, applied many times: no formula skips a step."""

    def draw():
        low = pick(rng, (("x2", 2), ("+", between(rng, 3, 9))))
        return Rule(between(rng, 2, 40), between(rng, 8, 25), low, ("-", between(rng, 3, 8)))

    rule = draw_rule(steps, draw)
    start, limit, low, high = rule.start, rule.limit, rule.low, rule.high
    action = "double it" if low[0] == "x2" else f"add {low[1]}"
    question = one_of(
        rng,
        (
            f"Rule: if a number is below {limit}, {action}; otherwise subtract {high[1]}. Start with "
            f"{start} and apply the rule {times(steps)}. What is the last number?"
        ),
        (
            f"A sequence begins with {start}. To get the next term, {action} if the term is less than "
            f"{limit}; if not, subtract {high[1]}. What is the value after {count(steps, 'change')}?"
        ),
        (
            f"Apply this {times(steps)} to {start}: numbers under {limit}: {action}; all others: "
            f"subtract {high[1]}. What do you get?"
        ),
    )
    return Instance(question, str(rule), start, ruled(rule, steps, pick(rng, ("turn", "step", "round"))))


FAMILIES = {"arithmetic": arithmetic, "composition": composition, "turtle": turtle, "fractions": fractions}
JUDGE_FAMILIES = {"repeated_rule": repeated_rule}
