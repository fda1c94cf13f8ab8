"""Economics: a purse, a stock rule, barter, the cheapest offer. Held out: a shopping bill."""

from itertools import pairwise

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
    one_of,
    operate,
    pick,
    ruled,
    sample,
    smaller,
    summed,
)

TRANSACTIONS = tuple(
    dict(zip(("+", "-", "x2", "/2"), words, strict=True))
    for words in (
        ("earns {n}", "spends {n}", "doubles the money in a bet", "gives half of it away"),
        ("receives {n}", "pays {n}", "gets a bonus equal to the balance", "loses half of the balance"),
        ("is paid {n}", "buys something for {n}", "doubles what is there", "donates half"),
    )
)


def ledger(rng, steps):
    """Money coming in and going out."""
    start = between(rng, 3, 30)
    ops = draw_ops(rng, start, steps, ("+", "-", "x2", "/2"), 1, 40)
    words = pick(rng, TRANSACTIONS)
    done = listed(rng, described(ops, words))
    who = pick(rng, ("Anna", "Ben", "Mia", "Omar", "Lea"))
    question = one_of(
        rng,
        f"{who} has {start} dollars and {done}. How many dollars are left?",
        (
            f"There are {start} dollars in the account of {who}. Then {who} {done}. What is the balance "
            "in dollars?"
        ),
        (
            f"{who} opens the week with {start} dollars. During the week {who} {done}. How many dollars "
            f"does {who} have then?"
        ),
    )
    said = {"+": ("balance {r}.", "{b} in: {r}."), "-": ("balance {r}.", "{b} out: {r}.")}
    return Instance(question, f"{start} {ops}", start, chained(ops, said))


def inventory(rng, steps):
    """A reorder rule."""

    def draw():
        limit, delivered = between(rng, 6, 16), between(rng, 3, 9)
        sold = between(rng, 3, min(limit, 9))
        return Rule(between(rng, 2, limit + 12), limit, ("+", delivered), ("-", sold))

    rule = draw_rule(steps, draw)
    start, limit, delivered, sold = rule.start, rule.limit, rule.low[1], rule.high[1]
    goods = pick(rng, ("boxes", "lamps", "chairs", "bikes"))
    question = one_of(
        rng,
        (
            f"A shop has {start} {goods}. On a day that begins with fewer than {limit} it sells none and "
            f"{delivered} are delivered; on any other day it sells {sold}. How many {goods} are there "
            f"after {count(steps, 'day')}?"
        ),
        (
            f"Reorder rule of a store: stock under {limit} in the morning means {delivered} more and no "
            f"sale that day, otherwise {sold} are sold. The stock is {start} {goods}. What is it after "
            f"{count(steps, 'day')}?"
        ),
        (
            f"A dealer with {start} {goods} checks them every morning. Below {limit}, the day brings "
            f"{delivered} new ones; if not, {sold} leave the shop that day. How many are left after "
            f"{count(steps, 'day')}?"
        ),
    )
    return Instance(question, str(rule), start, ruled(rule, steps, "day"))


GOODS = [
    "apple",
    "pear",
    "plum",
    "egg",
    "hen",
    "goat",
    "coat",
    "hat",
    "pot",
    "lamp",
    "book",
    "pen",
    "rope",
    "boat",
    "ring",
]


def barter(rng, steps):
    """Everything is exchanged, again and again, at given rates."""
    start = pick(rng, range(1, 25) if steps < 3 else SMOOTH)
    ops = draw_ops(rng, start, steps, ("x2", "x3", "/2", "/3"), 1, 72)
    goods = sample(rng, GOODS, steps + 1)
    rates = [
        f"1 {a} for {n} {b}s" if kind[0] == "x" else f"{n} {a}s for 1 {b}"
        for (kind, n), (a, b) in zip(ops, pairwise(goods), strict=True)
    ]
    trades = listed(rng, rates)
    have = f"{start} {goods[0]}{'s' * (start > 1)}"
    question = one_of(
        rng,
        f"Lea has {have} and trades all she has: {trades}. How many {goods[-1]}s does she have?",
        (
            f"At a market everything is exchanged at fixed rates. Omar brings {have} and swaps all of it "
            f"each time: {trades}. How many {goods[-1]}s does he take home?"
        ),
        f"Exchange {have} completely, {trades}. What number of {goods[-1]}s results?",
    )

    def step(op, good):
        return lambda past: operate(past[-1], op, f"that is {{r}} {good}s.", f"{{a}} buys {{r}} {good}s.")

    steps_told = tuple(step(op, good) for op, good in zip(ops, goods[1:], strict=True))
    return Instance(question, f"{start} {ops}", start, steps_told)


def cheapest(rng, steps):
    """Offers with delivery costs: add, compare with the best so far; an even number of steps has a coupon."""
    shops = (steps + 1) // 2
    offers = [(between(rng, 5, 30), between(rng, 1, 9)) for _ in range(shops)]
    coupon = between(rng, 1, 5) if steps % 2 == 0 else 0
    who = sample(rng, ("Arno", "Bell", "Cora", "Dunn", "Egon", "Finn"), shops)
    list_ = ", ".join(f"{w} {p} plus {d}" for w, (p, d) in zip(who, offers, strict=True))
    off = f" A coupon takes {coupon} off the final price." if coupon else ""
    best = "the cheapest total" if shops > 1 else "the total"
    question = one_of(
        rng,
        f"Price plus delivery in dollars: {list_}.{off} How many dollars is {best}?",
        f"A lamp is offered at these prices plus shipping: {list_}.{off} What is {best} in dollars?",
        f"Offers for a book, price plus postage: {list_}.{off} How many dollars does a buyer pay at least?",
    )

    def total(w, p, d):
        return lambda past: operate(p, ("+", d), f"{w} asks {{r}}.", f"{w}: {{e}} = {{r}}.", f"{w}: {{r}}.")

    steps_told = [total(who[0], *offers[0])]
    for i, offer in enumerate(offers[1:], 1):
        steps_told.append(total(who[i], *offer))
        steps_told.append(lambda past: smaller(past[-2], past[-1], "the best so far is {r}."))
    if coupon:
        steps_told.append(lambda past: operate(past[-1], ("-", coupon), "with the coupon {r}."))
    return Instance(question, f"{offers} {coupon}", "", tuple(steps_told))


def bill(rng, steps):
    """Number of pieces x price, added up; an even number of steps begins with an amount due."""
    given = steps % 2 == 0
    lines = [(pick(rng, (2, 3)), between(rng, 1, 9 if steps < 6 else 6)) for _ in range((steps + 1) // 2)]
    start = between(rng, 2, 20) if given else 0
    goods = sample(rng, GOODS, len(lines))
    bought = listed(rng, [f"{n} {good}s at {p} each" for (n, p), good in zip(lines, goods, strict=True)])
    due = f"{start} dollars are already on the bill. " if given else ""
    question = one_of(
        rng,
        f"{due}A customer buys {bought} (prices in dollars). How much is the whole bill in dollars?",
        f"{due}Add {bought}, all in dollars. What is the total to pay?",
        f"In a shop: {bought}. {due}How many dollars have to be paid in all?",
    )
    terms = [[lambda past, n=n, p=p: operate(p, (f"x{n}", n), f"{n} at {p}: {{r}}.")] for n, p in lines]
    steps_told = summed(terms, given, "the bill is {r}.")
    return Instance(question, f"{start} {sorted(lines)}", start if given else "", steps_told)


FAMILIES = {"ledger": ledger, "inventory": inventory, "barter": barter, "cheapest": cheapest}
JUDGE_FAMILIES = {"bill": bill}
