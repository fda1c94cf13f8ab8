"""Biology: codons and melting temperatures, a population, a pathway. Held out: mutations of a sequence.

The genetic code and the Wallace rule are Biopython's.
"""

from Bio.Data import CodonTable
from Bio.SeqUtils import MeltingTemp

from dereason_utils.mini_stem.core import (
    Instance,
    Rule,
    Told,
    between,
    count,
    draw_arrows,
    draw_rule,
    linked,
    listed,
    one_of,
    operate,
    pick,
    ruled,
    sample,
    times,
)

CODE = CodonTable.unambiguous_rna_by_name["Standard"]
# Few enough to be learned, and no start codon, so that nobody can think that reading begins in the middle.
CODONS = ("GUU", "UUU", "GGG", "AAA", "CCC", "GAA", "UGG", "GCU", "CAU", "UAU")
DEGREES = {base: int(MeltingTemp.Tm_Wallace(base)) for base in "ACGT"}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


def translation(rng, steps):
    """An mRNA read codon by codon up to a stop codon, which counts as a step; what follows it does not."""
    if steps == 1:
        codons = [pick(rng, CODONS) for _ in range(between(rng, 1, 6))]
        at = between(rng, 0, len(codons) - 1)
        read, stop = codons[at : at + 1], []
        which, mrna = f"the {ORDINALS[at]} codon", "-".join(codons)
        task = one_of(
            rng,
            f"Which amino acid (one-letter code) belongs to {which} of the mRNA {mrna}?",
            f"Read {mrna} from the left. What amino acid does {which} stand for, in one-letter code?",
            f"An mRNA has the reading frame {mrna}. Give the one-letter code of the amino acid of {which}.",
        )
    else:
        read = [pick(rng, CODONS) for _ in range(steps - 1)]
        stop = [pick(rng, sorted(CODE.stop_codons))]
        codons = read + stop + [pick(rng, CODONS) for _ in range(pick(rng, (0, 0, 1, 2, 3)))]
        how = "Give the one-letter codes of the amino acids joined by hyphens."
        task = one_of(
            rng,
            f"Translate the mRNA {'-'.join(codons)} from its first codon up to the stop. {how}",
            (
                f"The mRNA {'-'.join(codons)} is read from the left, codon by codon, until a stop. Which "
                f"peptide results? {how}"
            ),
            f"What peptide does the reading frame {'-'.join(codons)} encode? {how}",
        )

    def add(codon):
        def step(past):
            chain = f"{past[-1]}-" if past[-1] else ""
            right = CODE.forward_table[codon]
            wrong = tuple(chain + a for a in sorted({CODE.forward_table[c] for c in CODONS}) if a != right)
            said = ("{c}: {r}.", "{c} gives {r}.", "read {c}: {r}.", "with {c} we have {r}.", "{c} -> {r}.")
            return Told(chain + right, wrong, said, {"c": codon})

        return step

    def end(past):
        said = ("{c} is a stop: {r}.", "stop at {c}: {r}.", "{c} ends it: {r}.", "{c}: stop, {r}.")
        return Told(past[-1], (f"{past[-1]}-L", past[-1][:-2] or "L"), said, {"c": stop[0]})

    steps_told = tuple(add(codon) for codon in read) + ((end,) if stop else ())
    return Instance(task, f"{codons} {read}", "", steps_told, answer_type="text")


def wallace(rng, steps):
    """Melting temperature of a primer that grows: 2 degrees for A or T, 4 for G or C."""
    start = 2 * between(rng, 2, 20)
    bases = [pick(rng, "ACGT") for _ in range(steps)]
    added = listed(rng, bases) if pick(rng, (True, False)) else "-".join(bases)
    question = one_of(
        rng,
        (
            f"By the Wallace rule a primer melts at {start} degrees. It is extended by {added}. What is "
            "its new melting temperature by the same rule, in degrees?"
        ),
        (
            f"Wallace rule: each A or T adds {DEGREES['A']} degrees to a primer's melting temperature, "
            f"each G or C adds {DEGREES['G']}. It is {start} degrees before {added} "
            f"{'is' if steps == 1 else 'are'} added. What is it then?"
        ),
        (
            f"A short primer has a Wallace temperature of {start} degrees. How many degrees is it after "
            f"adding {added}?"
        ),
    )

    def step(base):
        said = (f"{base} adds {DEGREES[base]}: {{r}}.", f"{base}: {{r}}.", f"{base}: {{e}} = {{r}}.")
        return lambda past: operate(past[-1], ("+", DEGREES[base]), *said)

    return Instance(question, f"{start} {bases}", start, tuple(step(base) for base in bases))


def population(rng, steps):
    """Growth below the carrying capacity, losses above it."""

    def draw():
        limit = between(rng, 8, 25)
        return Rule(between(rng, 2, 40), limit, ("x2", 2), ("-", between(rng, 3, 8)))

    rule = draw_rule(steps, draw)
    start, limit, loss = rule.start, rule.limit, rule.high[1]
    animal = pick(rng, ("rabbits", "fish", "beetles", "mice"))
    question = one_of(
        rng,
        (
            f"A reserve has {start} {animal}. Each year their number doubles if it is below {limit}; "
            f"otherwise {loss} die. How many are there after {count(steps, 'year')}?"
        ),
        (
            f"Biologists count {start} {animal}. In a year that begins with fewer than {limit} of them "
            f"the number doubles; in any other year it falls by {loss}. How many {animal} live there "
            f"{count(steps, 'year')} later?"
        ),
        (
            f"A colony of {animal} doubles in every year that it begins smaller than {limit}, and loses "
            f"{loss} in every other year. It has {start} now. What is its size after "
            f"{count(steps, 'year')}?"
        ),
    )
    return Instance(question, str(rule), start, ruled(rule, steps, "year"))


def pathway(rng, steps):
    """Reactions told in no order: substance after substance has to be found."""
    substances = sample(rng, "ABCDEFGHKLMNPQRSTUVWXYZ", between(rng, max(steps + 2, 6), max(steps + 2, 10)))
    start, arrows = draw_arrows(rng, substances, steps)
    reactions = ", ".join(f"{a} -> {b}" for a, b in arrows.items())
    question = one_of(
        rng,
        (
            f"A metabolism has these reactions: {reactions}. Which substance is formed from {start} "
            f"after {count(steps, 'reaction')}?"
        ),
        (
            f"Enzymes convert substances as follows: {reactions}. A cell takes up {start}. What has "
            f"become of it after {count(steps, 'conversion')}?"
        ),
        (
            f"A labelled atom enters at {start} and takes part in a reaction {times(steps)}. Reactions: "
            f"{reactions}. In which substance is it then?"
        ),
    )
    return Instance(
        question,
        f"{start} {sorted(arrows.items())}",
        start,
        linked(arrows, steps, "reaction"),
        answer_type="text",
    )


def mutations(rng, steps):
    """A short DNA that is changed base by base."""
    start = "-".join(pick(rng, "ACGT") for _ in range(between(rng, 4, 6)))
    changes, dna = [], start
    for _ in range(steps):
        size = len(dna.split("-"))
        kind = pick(rng, ["swap"] + ["lose"] * (size > 3) + ["gain"] * (size < 7))
        at = between(rng, 1, size)
        base = pick(rng, [b for b in "ACGT" if kind == "gain" or b != dna.split("-")[at - 1]])
        changes.append((kind, at, base, pick(rng, ("first", "last"))))
        dna = _mutated(dna, changes[-1])
    words = {
        "swap": "base {at} becomes {base}",
        "lose": "the {end} base is lost",
        "gain": "{base} is added at the end",
    }
    named = [words[kind].format(at=at, base=base, end=end) for kind, at, base, end in changes]
    done = listed(rng, named)
    question = one_of(
        rng,
        f"A DNA strand reads {start}. These mutations happen in order: {done}. What does it read now?",
        f"Bases are numbered from the left, from 1. In {start}, {done}. Write the new sequence with hyphens.",
        f"The gene fragment {start} mutates: {done}. Give the final sequence (first base on the left).",
    )

    def step(change, name):
        def told(past):
            new = _mutated(past[-1], change)
            wrong = tuple(new[:-1] + base for base in "ACGT" if base != new[-1])
            said = (f"{name}: {{r}}.", "{r}.", "it reads {r}.", "from {a} to {r}.")
            return Told(new, wrong, said, {"a": past[-1]})

        return told

    steps_told = tuple(step(change, name) for change, name in zip(changes, named, strict=True))
    return Instance(question, f"{start} {changes}", start, steps_told, answer_type="text")


def _mutated(dna, change):
    kind, at, base, end = change
    old = dna.split("-")
    new = {
        "swap": [*old[: at - 1], base, *old[at:]],
        "lose": old[1:] if end == "first" else old[:-1],
        "gain": [*old, base],
    }
    return "-".join(new[kind])


FAMILIES = {"translation": translation, "wallace": wallace, "population": population, "pathway": pathway}
JUDGE_FAMILIES = {"mutations": mutations}
