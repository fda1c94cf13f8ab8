"""Physics: distances, resistors, SI prefixes (scipy.constants), a thermostat. Held out: a train of gears."""

from math import log10

from scipy import constants

from dereason_utils.mini_stem.core import (
    SMOOTH,
    Instance,
    Rule,
    between,
    chained,
    count,
    described,
    draw_ops,
    draw_rule,
    listed,
    looked_up,
    one_of,
    operate,
    pick,
    ruled,
    sample,
    summed,
)

MOVERS = (("A cart", "m/s", "m", "s"), ("A tram", "km/h", "km", "h"), ("A snail", "cm/min", "cm", "min"))


def segments(rng, steps):
    """Way = speed x time, over several segments; an even number of steps begins away from the origin."""
    vehicle, unit, length, moment = pick(rng, MOVERS)
    given = steps % 2 == 0
    legs = [(between(rng, 1, 9 if steps < 3 else 5), pick(rng, (2, 3))) for _ in range((steps + 1) // 2)]
    start = between(rng, 1, 20) if given else 0
    ahead = f" It starts {start} {length} ahead of the gate." if given else ""
    parts = listed(rng, [f"{v} {unit} for {t} {moment}" for v, t in legs])
    question = one_of(
        rng,
        (
            f"{vehicle} moves in a straight line.{ahead} Its motion: {parts}. How far "
            f"{'ahead of the gate is it' if given else 'has it moved'} at the end, in {length}?"
        ),
        (
            f"{vehicle} moves on without turning.{ahead} It goes at {parts}. Find "
            f"{'its final distance from the gate' if given else 'the distance covered'} in {length}."
        ),
        (
            f"Along a straight track {vehicle.lower()} travels at {parts}.{ahead} What is "
            f"{'its distance from the gate at the end' if given else 'the whole distance'} in {length}?"
        ),
    )

    def way(v, t):
        said = (
            "{b} " + moment + " at " + str(v) + f" {unit}: {{r}} {length}.",
            f"this part is {{r}} {length}.",
        )
        return lambda past: operate(v, (f"x{t}", t), *said)

    steps_told = summed(
        [[way(v, t)] for v, t in legs], given, f"in all {{r}} {length}.", f"the total is now {{r}} {length}."
    )
    return Instance(
        question,
        f"{unit} {start} {legs}",
        start if given else "",
        steps_told,
        answer_type="quantity",
        unit=length,
    )


def resistors(rng, steps):
    """A network that grows in series or is put in parallel with an equal one."""
    start = between(rng, 2, 20)
    ops = draw_ops(rng, start, steps, ("+", "x2", "/2"), 1, 40)
    words = {
        "+": "{n} ohm in series",
        "x2": "a copy of all so far in series",
        "/2": "a copy of all so far in parallel",
    }
    added = listed(rng, described(ops, words))
    question = one_of(
        rng,
        f"A circuit is a single {start} ohm resistor. Added to it: {added}. What is its resistance in ohm?",
        f"Begin with {start} ohm and connect {added}. Find the total resistance in ohm.",
        (
            f"A network grows from one resistor of {start} ohm by {added}. Which resistance, in ohm, is "
            "measured?"
        ),
    )
    said = {
        "+": ("series adds: {e} = {r} ohm.", "{b} ohm in series: {r} ohm."),
        "x2": ("two equal parts in series: {r} ohm.",),
        "/2": ("two equal parts in parallel: {r} ohm.",),
    }
    return Instance(question, f"{start} {ops}", start, chained(ops, said), answer_type="quantity", unit="ohm")


def thermostat(rng, steps):
    """Heating below a limit, cooling above it, minute by minute."""

    def draw():
        limit = between(rng, 15, 35)
        return Rule(
            between(rng, limit - 12, limit + 12), limit, ("+", between(rng, 2, 8)), ("-", between(rng, 2, 8))
        )

    rule = draw_rule(steps, draw)
    start, limit, up, down = rule.start, rule.limit, rule.low[1], rule.high[1]
    question = one_of(
        rng,
        (
            f"A room is at {start} degrees. Each minute, if it is below {limit} degrees the heater "
            f"raises it by {up}; otherwise it cools by {down}. How many degrees is it after "
            f"{count(steps, 'minute')}?"
        ),
        (
            f"A thermostat checks a tank once a minute. Below {limit} degrees the tank warms by {up} "
            f"degrees in that minute, else it cools by {down}. It begins at {start} degrees. What is "
            f"its temperature in degrees after {count(steps, 'minute')}?"
        ),
        (
            f"An oven at {start} degrees gains {up} degrees in every minute that begins below {limit} "
            f"degrees and loses {down} in every other minute. What temperature (degrees) does it have "
            f"after {count(steps, 'minute')}?"
        ),
    )
    return Instance(question, str(rule), start, ruled(rule, steps, "minute"))


PREFIXES = {
    name: round(log10(vars(constants)[name]))
    for name in ("tera", "giga", "mega", "kilo", "hecto", "centi", "milli", "micro", "nano", "pico")
}


def prefixes(rng, steps):
    """A product of SI prefixes as a power of ten; an even number of steps begins with a power."""
    powers = [n for n in range(-9, 10) if n]
    if steps == 1 and pick(rng, (True, False)):  # the other kind of step alone
        names, start, more = [], pick(rng, powers), [pick(rng, powers)]
    else:
        names, more = sample(rng, list(PREFIXES), (steps + 1) // 2), []
        start = pick(rng, powers) if steps % 2 == 0 else ""
    factors = " times ".join([f"10^{n}" for n in (start, *more) if n] + names)
    question = one_of(
        rng,
        f"With SI prefixes read as numbers, {factors} equals 10^n. What is n?",
        f"Write {factors} as one power of ten, 10^n (SI prefixes). Give n.",
        f"In SI units, which power of ten 10^n is {factors}? State the exponent n.",
    )

    def look(name):
        n = PREFIXES[name]
        said = ("{a} is 10^{r}.", "{a}: {r}.", "{a} means 10^{r}.", "the exponent of {a} is {r}.")
        return lambda past: looked_up(name, n, (-n, n + 1, n - 1), *said)

    said = ("the exponent is {r}.",)
    steps_told = summed([[look(name)] for name in names], bool(start), *said, low=-99)
    steps_told += tuple(lambda past, n=n: operate(past[-1], ("+", n), *said, low=-99) for n in more)
    return Instance(question, f"{start} {more} {sorted(names)}", start, steps_told)


def gears(rng, steps):
    """Speed along a train of gears: twice the teeth turn half as fast."""
    start = pick(rng, range(2, 25) if steps < 3 else SMOOTH)
    ops = draw_ops(rng, start, steps, ("x2", "x3", "/2", "/3"), 1, 72)
    words = {
        "/2": "twice as many",
        "/3": "three times as many",
        "x2": "half as many",
        "x3": "a third as many",
    }
    teeth = listed(rng, described(ops, words))
    question = one_of(
        rng,
        (
            f"Gears drive each other in a row. The first turns at {start} rpm. Compared with the gear "
            f"that drives it, each further gear has teeth: {teeth}. How fast is the last gear in rpm?"
        ),
        (
            f"A motor gear makes {start} rpm. The next gears have, each against the one before: {teeth} "
            "teeth. Find the speed of the last one in rpm."
        ),
        (
            f"In a gear train with an input of {start} rpm the number of teeth changes from gear to "
            f"gear: {teeth}. What is the output speed in rpm?"
        ),
    )
    said = dict.fromkeys(words, ("the gear makes {r} rpm.", "this one turns at {r}."))
    return Instance(question, f"{start} {ops}", start, chained(ops, said), answer_type="quantity", unit="rpm")


FAMILIES = {"segments": segments, "resistors": resistors, "prefixes": prefixes, "thermostat": thermostat}
JUDGE_FAMILIES = {"gears": gears}
