"""Chemistry: decays, protons of a mixture, carbon skeletons, steps through the elements. Held out: dilution.

Atomic numbers, names, isotopes and formulae are those of the package periodictable.
"""

import periodictable

from dereason_utils.mini_stem.core import (
    Instance,
    between,
    chained,
    described,
    draw_ops,
    listed,
    looked_up,
    near,
    one_of,
    operate,
    pick,
    sample,
    summed,
)

ELEMENTS = [periodictable.elements[z] for z in range(1, 21)]
GROUPS = {"methyl": "CH3", "ethyl": "C2H5", "propyl": "C3H7", "butyl": "C4H9"}
CARBONS = {name: periodictable.formula(formula).atoms[periodictable.C] for name, formula in GROUPS.items()}
HEAVY = [periodictable.elements[z] for z in range(40, 61)]
NUCLIDES = [(e, mass) for e in HEAVY for mass in e.isotopes if 50 <= mass - e.number <= 90]
CHANGES = {"alpha decay": (-2, -2), "beta-minus decay": (1, -1), "electron capture": (-1, 1)}  # of (Z, N)


def decay(rng, steps):
    """Protons or neutrons left after a made-up series of decays."""
    element, mass = pick(rng, NUCLIDES)
    counted = pick(rng, ("protons", "neutrons"))
    numbers = {"protons": element.number, "neutrons": mass - element.number}
    series = [pick(rng, list(CHANGES)) for _ in range(steps)]
    question = one_of(
        rng,
        (
            f"Suppose a nucleus with {numbers['protons']} protons and {numbers['neutrons']} neutrons "
            f"undergoes {listed(rng, series)}. How many {counted} has the product?"
        ),
        (
            f"A nucleus of {element.name}-{mass} has {numbers['protons']} protons and "
            f"{numbers['neutrons']} neutrons. Imagine this happens to it: {listed(rng, series)}. How "
            f"many {counted} are left?"
        ),
        (
            f"Begin with {numbers['protons']} protons and {numbers['neutrons']} neutrons in a nucleus. "
            f"Then comes {listed(rng, series)}. What is the final number of {counted}?"
        ),
    )

    def step(kind):
        change = CHANGES[kind][counted == "neutrons"]
        said = (f"{kind}: {{r}}.", f"{kind}: {{e}} = {{r}}.", f"{kind} leaves {{r}} {counted}.")
        return lambda past: operate(past[-1], ("+" if change > 0 else "-", abs(change)), *said)

    start = numbers[counted]
    return Instance(question, f"{counted} {start} {series}", start, tuple(step(kind) for kind in series))


def protons(rng, steps):
    """Protons of a few atoms: look up, multiply by the number of atoms, add."""
    # n look-ups and n - 1 sums leave room for at most n multiplications.
    kinds = between(rng, (steps + 3) // 3, (steps + 1) // 2)
    repeated = steps - (2 * kinds - 1)
    amounts = sample(rng, [between(rng, 2, 3) for _ in range(repeated)] + [1] * (kinds - repeated), kinds)
    lightest = 20 if kinds == 1 else 8 if repeated else 12  # keeps the sums small
    elements = sample(rng, ELEMENTS[:lightest], kinds)
    content = list(zip(amounts, elements, strict=True))
    atoms = [f"{n} {e.name} atom{'s' * (n > 1)}" for n, e in content]
    mixture = " and ".join([", ".join(atoms[:-1]), atoms[-1]] if kinds > 1 else atoms)
    question = one_of(
        rng,
        f"How many protons are there in {mixture}?",
        f"A sample consists of {mixture}. How many protons does it contain?",
        f"Count the protons in this collection: {mixture}. What is the number of protons?",
    )

    def term(n, element):
        def look(past):
            return _look_up(element)

        said = (f"{n} {element.name} atoms have {{r}}.", f"{n} atoms of it: {{r}}.")
        return [look] if n == 1 else [look, lambda past: operate(past[-1], (f"x{n}", n), *said)]

    steps_told = summed([term(n, e) for n, e in content], False, "together {r}.", "so far {r}.")
    return Instance(question, str(sorted((e.symbol, n) for n, e in content)), "", steps_told)


def carbon_skeleton(rng, steps):
    """Carbon atoms of a molecule to which groups are attached, and from which they are split off."""
    start = between(rng, 2, 20)
    ops = draw_ops(rng, start, steps, ("+", "-", "x2"), 1, 40, digits=sorted(CARBONS.values()))
    group = {carbons: name for name, carbons in CARBONS.items()}
    words = {"+": "{n} is attached", "-": "{n} is split off", "x2": "two such molecules are joined"}
    named = [(kind, f"one {group.get(n)} group") for kind, n in ops]
    done = listed(rng, described(named, words))
    question = one_of(
        rng,
        (
            f"A molecule has {start} carbon atoms. In a synthesis {done}. How many carbon atoms does the "
            "product have?"
        ),
        (
            f"Count carbon atoms: begin with {start} in one molecule, then {done}. How many are in the "
            "final molecule?"
        ),
        (
            f"A chemist starts from a compound with {start} C atoms per molecule. Step by step, {done}. "
            "What is the number of C atoms per molecule at the end?"
        ),
    )

    def step(op):
        said = ("joined: {r} C.", "both together: {r}.")
        if op[0] != "x2":
            said = (f"{group[op[1]]} has {op[1]} C: {{r}}.", f"{group[op[1]]}: {{e}} = {{r}}.")
        return lambda past: operate(past[-1], op, *said)

    return Instance(question, f"{start} {ops}", start, tuple(step(op) for op in ops))


def element_walk(rng, steps):
    """From an element to its atomic number, along the elements, and back to a name."""
    if steps == 1:
        return _named_element(rng)
    z = between(rng, 1, 20)
    name = ELEMENTS[z - 1].name
    ops = draw_ops(rng, z, max(steps - 2, 1), ("+", "-"), 1, 20, digits=range(1, 7))
    changes = listed(rng, described(ops, {"+": "+{n}", "-": "-{n}"}))
    nucleus = f"nucleus with Z = {z}" if steps == 2 else f"{name} nucleus"
    question = one_of(
        rng,
        (
            f"In nuclear reactions the proton number of one {nucleus} changes by {changes}. Which "
            "element is it then?"
        ),
        f"Take one {nucleus} and change its atomic number by {changes}. Name the element at the end.",
        f"Which element results when one {nucleus} changes its number of protons by {changes}?",
    )
    first = () if steps == 2 else (lambda past: _look_up(ELEMENTS[z - 1]),)
    said = dict.fromkeys("+-", ("Z is {r}.", "{r} protons."))
    last = (lambda past: _name(past[-1], "element {a} is {r}.", "Z = {a} is {r}.", past[-1]),)
    start = z if steps == 2 else name
    return Instance(question, f"{z} {ops}", start, first + chained(ops, said) + last, answer_type="text")


def _named_element(rng):
    """One step only: the name that belongs to a number, or the neighbour of an element."""
    side = pick(rng, ("after", "before", "at"))
    goal = between(rng, 1 + (side == "after"), 20 - (side == "before"))
    if side == "at":
        asked = (
            f"Which element has the atomic number {goal}?",
            f"An atom has {goal} protons. Name the element.",
            f"Name element number {goal} of the periodic table.",
        )
        told = ("element {a} is {r}.", "Z = {a} is {r}.", goal)
    else:
        other = ELEMENTS[goal - 1 + {"after": -1, "before": 1}[side]].name
        asked = (
            f"Which element comes right {side} {other} in the order of atomic numbers?",
            f"In the periodic table, name the element right {side} {other} by atomic number.",
            f"The elements are sorted by atomic number. Which one stands right {side} {other}?",
        )
        told = (f"right {side} {{a}} comes {{r}}.", f"the element {side} {{a}} is {{r}}.", other)
    step = (lambda past: _name(goal, *told),)
    return Instance(pick(rng, asked), f"{side} {goal}", told[-1], step, answer_type="text")


def _look_up(element):
    """The atomic number of an element."""
    z, symbol = element.number, element.symbol
    said = ("{a} has Z = {r}.", "{a}: {r}.", "the atomic number of {a} is {r}.")
    said += (f"{symbol} is element {{r}}.", f"Z({symbol}) = {{r}}.")
    return looked_up(element.name, z, near(z, 1), *said)


def _name(z, first, second, told_from):
    """The name of element number z; after slips z can leave the first twenty, and at worst it is hydrogen."""
    z = max(z, 1)
    wrong = tuple(periodictable.elements[i].name for i in (z - 1, z + 1) if i)
    said = (first, second, "it is {r}.", "that is {r}.", "the element is {r}.", "the name is {r}.")
    return looked_up(told_from, periodictable.elements[z].name, wrong, *said)


def dilution(rng, steps):
    """Volume in a beaker."""
    start = between(rng, 2, 30)
    ops = draw_ops(rng, start, steps, ("+", "-", "x2", "/2"), 1, 40)
    words = {
        "+": "add {n} mL of water",
        "-": "take out {n} mL",
        "x2": "double the volume with water",
        "/2": "pour away half",
    }
    todo = listed(rng, described(ops, words))
    question = one_of(
        rng,
        f"A beaker holds {start} mL of a solution. In order: {todo}. What volume, in mL, is in it now?",
        f"You have {start} mL of acid in a flask. Now {todo}. How many mL does the flask contain?",
        f"From a stock of {start} mL a student works as follows: {todo}. Which volume in mL results?",
    )
    said = {"+": ("filled up to {r} mL.",), "-": ("{r} mL stay.",), "/2": ("half, {r} mL, stays.",)}
    return Instance(question, f"{start} {ops}", start, chained(ops, said), answer_type="quantity", unit="mL")


FAMILIES = {
    "decay": decay,
    "protons": protons,
    "carbon_skeleton": carbon_skeleton,
    "element_walk": element_walk,
}
JUDGE_FAMILIES = {"dilution": dilution}
