"""mini_stem: graded, balanced, disjoint in content, right, and told in many ways."""

import hashlib
import math
import os
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import periodictable
import pytest
from Bio.Seq import Seq
from Bio.SeqUtils import MeltingTemp
from scipy import constants

from dereason_utils.errors import InputError
from dereason_utils.mini_stem import (
    FAMILIES,
    JUDGE_FAMILIES,
    MAX_STEPS,
    biology,
    chemistry,
    computer_science,
    core,
    generate,
    generate_judge_calibration,
    physics,
    rebuild,
    solve,
)
from dereason_utils.mini_stem.generate import _collect

ALL = [*FAMILIES, *JUDGE_FAMILIES]
STEPS = range(1, MAX_STEPS + 1)
EVERY_CELL = [f"{family}-s{steps}-{number}" for family in ALL for steps in STEPS for number in range(5)]


def gold(problem_id):
    instance = rebuild(problem_id)
    return instance.answer(instance.trace()[-1].result)


def boxed(solution):
    return re.fullmatch(r".*\\boxed\{(.*)\}\.?", solution, re.DOTALL)[1]


def examples(family, steps=STEPS, numbers=range(20)):
    """(question, gold answer) of many problems of one family."""
    ids = [f"{family}-s{s}-{n}" for s in steps for n in numbers]
    return [(rebuild(i).question, gold(i)) for i in ids]


# ---- the corpus as a whole ----------------------------------------------------------------------------


def test_there_are_enough_families_and_subjects():
    assert len(FAMILIES) >= 24
    assert len(JUDGE_FAMILIES) >= 6
    assert not set(FAMILIES) & set(JUDGE_FAMILIES)
    for families in (FAMILIES, JUDGE_FAMILIES):
        per_subject = Counter(name.partition(".")[0] for name in families)
        assert len(per_subject) == 6
        assert len(set(per_subject.values())) == 1


@pytest.mark.parametrize("family", ALL)
def test_a_family_is_graded_from_one_step_to_ten(family):
    for steps in STEPS:
        for number in range(20):
            assert len(rebuild(f"{family}-s{steps}-{number}").trace()) == steps


def test_every_step_can_be_told_in_four_ways_and_can_go_wrong_plausibly():
    for problem_id in EVERY_CELL:
        for told in rebuild(problem_id).trace():
            assert len({told.tell(phrasing, told.result) for phrasing in told.phrasings}) >= 4, problem_id
            assert told.wrong, problem_id
            assert all(type(w) is type(told.result) and w != told.result for w in told.wrong), problem_id


def test_texts_are_short_and_ascii():
    for problem_id in EVERY_CELL:
        question, solution = rebuild(problem_id).question, solve(problem_id, 0, 0.1)
        assert question.isascii() and solution.isascii(), problem_id
        assert len(question.split()) < 120
        assert not re.search(r"[{}\\]", question), problem_id
        lines = solution.split("\n")
        steps = int(re.search(r"-s(\d+)-", problem_id)[1])
        assert steps + 1 <= len(lines) <= steps + 2
        assert all(len(line.split()) <= 20 for line in lines), problem_id


def test_answers_fit_their_type_and_cannot_be_guessed():
    types = {}
    for family in FAMILIES:
        ids = [f"{family}-s{s}-{n}" for s in range(2, MAX_STEPS + 1) for n in range(20)]
        kinds = {rebuild(i).answer_type for i in ids}
        assert len(kinds) == 1
        types[family] = kinds.pop()
        answers = Counter(gold(i) for i in ids)
        pattern = {
            "number": r"-?\d+(/\d+)?",
            "quantity": r"\d+ (m|km|cm|ohm)",
            "tuple": r"\(\d+, \d+\)",
            "boolean": "True|False",
            "text": r"[A-Za-z01-]+",
        }[types[family]]
        assert all(re.fullmatch(pattern, answer) for answer in answers), family
        limit = 0.65 if types[family] == "boolean" else 0.2
        assert max(answers.values()) / len(ids) < limit, family
    assert Counter(types.values())["boolean"] <= 2
    assert set(types.values()) == {"number", "quantity", "tuple", "boolean", "text"}


# ---- generate -----------------------------------------------------------------------------------------


def test_families_steps_and_subjects_are_balanced_and_independent():
    problems = generate("train", 24 * 8 * 2, seed=3, steps=(1, 8))
    assert set(Counter((p.family, p.steps) for p in problems).values()) == {2}
    assert set(Counter((p.subject, p.steps) for p in problems).values()) == {8}
    assert {p.subject for p in problems} == {
        "mathematics", "physics", "chemistry", "biology", "computer science", "economics",
    }  # fmt: skip

    uneven = generate("test", 500, seed=3, steps=(2, 6))
    for counts, gap in ((Counter(p.family for p in uneven), 1), (Counter(p.steps for p in uneven), 2)):
        assert max(counts.values()) - min(counts.values()) <= gap


def test_no_content_occurs_twice_or_in_two_splits():
    keys = {}
    for split in ("train", "validation", "test"):
        keys[split] = set()
        for size, seed, steps in ((300, 0, (1, 10)), (150, 1, (1, 3)), (90, 7, (4, 8))):
            problems = generate(split, size, seed, steps)
            assert len(problems) == size == len({p.id for p in problems})
            contents = [(p.steps, rebuild(p.id).key) for p in problems]
            assert len(set(contents)) == size
            keys[split] |= {key for _, key in contents}
    assert not keys["train"] & keys["validation"]
    assert not keys["train"] & keys["test"]
    assert not keys["validation"] & keys["test"]


def test_the_key_is_free_of_phrasing():
    """Among few contents, the same one is asked in several ways, under one key."""
    questions = {}
    for number in range(60):
        instance = rebuild(f"chemistry.protons-s1-{number}")
        element = re.search(r"1 (\w+) atom", instance.question)[1]
        questions.setdefault((element, instance.key), set()).add(instance.question)
    assert len(questions) <= 20
    assert max(map(len, questions.values())) >= 3


def test_an_id_rebuilds_its_problem():
    for problem in generate("test", 48, 0, (1, 10)):
        instance = rebuild(problem.id)
        assert instance.question == problem.question
        assert gold(problem.id) == problem.answer
        assert instance.answer_type == problem.answer_type
        assert problem.id.startswith(f"{problem.family}-s{problem.steps}-")


def test_the_judge_is_tuned_on_other_families():
    problems = generate_judge_calibration(120, 0, (1, 10))
    assert {p.family for p in problems} == set(JUDGE_FAMILIES)
    assert set(Counter((p.family, p.steps) for p in problems).values()) == {2}
    assert not {p.family for p in generate("train", 240, 0, (1, 10))} & set(JUDGE_FAMILIES)


def test_chosen_families_alone_are_drawn_and_unknown_ones_are_refused():
    chosen = ("physics.resistors", "economics.ledger")
    assert {p.family for p in generate("train", 40, 0, (1, 4), chosen)} == set(chosen)
    with pytest.raises(InputError, match=r"no family 'physics\.resistor'"):
        generate("train", 40, 0, (1, 4), ("physics.resistor",))
    with pytest.raises(InputError, match="nothing to draw from"):
        generate("train", 40, 0, (1, 4), ())


def test_the_same_bytes_in_every_process():
    code = (
        "from dereason_utils.mini_stem import generate, solve\n"
        "problems = generate('train', 60, 5, (1, 10))\n"
        "print([(p.model_dump_json(), solve(p.id, 2, 0.1)) for p in problems])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("0", "1")
    }
    assert len(outputs) == 1
    assert "mathematics.arithmetic-s" in outputs.pop()
    assert generate("train", 60, 5, (1, 10)) != generate("train", 60, 6, (1, 10))


@pytest.mark.parametrize(
    ("split", "size", "seed", "steps", "message"),
    [
        ("dev", 10, 0, (1, 3), "train, validation, test"),
        ("train", 0, 0, (1, 3), "at least 1"),
        ("train", 10, -1, (1, 3), "at least 0"),
        ("train", 10, 0, (0, 3), "1..10"),
        ("train", 10, 0, (3, 11), "1..10"),
        ("train", 10, 0, (5, 4), "1..10"),
    ],
)
def test_bad_arguments_are_refused(split, size, seed, steps, message):
    with pytest.raises(InputError, match=re.escape(message)):
        generate(split, size, seed, steps)


def test_too_large_a_size_is_refused_and_others_fill_in_before():
    protons = {"chemistry.protons": FAMILIES["chemistry.protons"]}
    with pytest.raises(InputError, match=r"only 20 were found"):  # one step: the first 20 elements
        _collect(protons, lambda key: True, 40, 0, (1, 1))
    both = protons | {"physics.segments": FAMILIES["physics.segments"]}
    counts = Counter(p.family for p in _collect(both, lambda key: True, 60, 0, (1, 1)))
    assert counts == {"chemistry.protons": 20, "physics.segments": 40}


@pytest.mark.parametrize(
    "problem_id",
    ["", "physics.segments", "physics.segments-s0-1", "physics.segments-s11-1", "x.y-s1-1", "../a-s1-1"],
)
def test_a_foreign_id_is_refused(problem_id):
    with pytest.raises(InputError, match="no id of a mini_stem problem"):
        rebuild(problem_id)


# ---- the teacher --------------------------------------------------------------------------------------


def test_a_teacher_without_slips_is_always_right():
    for problem_id in EVERY_CELL:
        for seed in (0, 1):
            assert boxed(solve(problem_id, seed, 0.0)) == gold(problem_id)


@pytest.mark.parametrize(("steps", "slip"), [(1, 0.1), (4, 0.1), (8, 0.1)])
def test_slips_make_long_solutions_worse(steps, slip):
    ids = [f"{family}-s{steps}-{number}" for family in FAMILIES for number in range(25)]
    accuracy = sum(boxed(solve(i, 0, slip)) == gold(i) for i in ids) / len(ids)
    flawless = (1 - slip) ** steps
    assert flawless - 0.05 < accuracy < flawless + 0.1  # a later slip or a rule can cancel an earlier slip


def test_one_step_that_slips_is_always_wrong_and_long_chains_of_slips_still_end():
    for family in ALL:
        assert all(boxed(solve(f"{family}-s1-{n}", 0, 1.0)) != gold(f"{family}-s1-{n}") for n in range(10))
        assert all("\\boxed{" in solve(f"{family}-s10-{n}", 0, 1.0) for n in range(30))


def test_a_slip_carries_on():
    steps = core.chained([("+", 5), ("x2", 2), ("-", 4)], {})
    assert [step([7, 12, 24][: i + 1]).result for i, step in enumerate(steps)] == [12, 24, 20]
    assert steps[1]([7, 13]).result == 26  # 12 was the true value
    assert steps[1]([7, 13]).tell("{e} = {r}.", 26) == "2 * 13 = 26."


def test_one_problem_is_told_in_many_ways():
    solutions = [solve("economics.ledger-s4-0", seed, 0.0) for seed in range(200)]
    assert len(set(solutions)) == 200
    assert len({s.split("\n")[0] for s in solutions}) >= 20
    assert len({s.split("\n")[-1] for s in solutions}) >= 4
    assert solve("economics.ledger-s4-0", 3, 0.2) == solve("economics.ledger-s4-0", 3, 0.2)


@pytest.mark.parametrize("slip", [-0.1, 1.1, float("nan")])
def test_a_slip_out_of_range_is_refused(slip):
    with pytest.raises(InputError, match="no probability"):
        solve("economics.ledger-s4-0", 0, slip)


# ---- the parts, against examples worked by hand -------------------------------------------------------


def run(start, steps):
    past = [start]
    for step in steps:
        past.append(step(past).result)
    return past[1:]


def test_sums_of_terms_by_hand():
    def term(v, t):
        return [lambda past: core.operate(v, (f"x{t}", t))]

    terms = [term(4, 2), term(5, 3)]
    assert run("", core.summed(terms, False)) == [8, 15, 23]  # 2 * 4, 3 * 5, 8 + 15
    assert run(10, core.summed(terms, True)) == [8, 18, 15, 33]


def test_rules_by_hand():
    rule = core.Rule(9, 12, ("x2", 2), ("-", 5))
    assert run(9, core.ruled(rule, 4, "year")) == [18, 13, 8, 16]
    assert not rule.repeats(4)
    assert core.Rule(8, 10, ("+", 2), ("-", 2)).repeats(2)  # 8, 10, 8


def test_arrows_by_hand():
    arrows = {"A": "C", "B": "A", "C": "B", "D": "A"}
    assert run("D", core.linked(arrows, 3, "move")) == ["A", "C", "B"]
    assert run(0, [lambda past: core.smaller(14, 9), lambda past: core.smaller(past[-1], 12)]) == [9, 9]


def test_bits_and_bases_by_hand():
    after = {name: change("0111") for name, change in computer_science.BIT_OPERATIONS.items()}
    assert after == {
        "invert all bits": "1000",
        "rotate left by one": "1110",
        "rotate right by one": "1011",
        "reverse the bit order": "1110",
        "flip the leftmost bit": "1111",
        "flip the rightmost bit": "0110",
    }
    assert biology._mutated("A-C-G", ("swap", 2, "T", "first")) == "A-T-G"
    assert biology._mutated("A-C-G", ("lose", 1, "T", "first")) == "C-G"
    assert biology._mutated("A-C-G", ("gain", 1, "T", "first")) == "A-C-G-T"


# ---- facts, and answers worked out again from the question alone --------------------------------------


def test_facts_are_those_of_the_packages():
    for name, exponent in physics.PREFIXES.items():
        assert 10.0**exponent == pytest.approx(getattr(constants, name), rel=1e-12)
    assert [element.number for element in chemistry.ELEMENTS] == list(range(1, 21))
    assert chemistry.ELEMENTS[10].name == "sodium"
    assert chemistry.CARBONS == {"methyl": 1, "ethyl": 2, "propyl": 3, "butyl": 4}
    assert chemistry.CHANGES["alpha decay"] == (-periodictable.He.number, periodictable.He.number - 4)
    for changes in (chemistry.CHANGES["beta-minus decay"], chemistry.CHANGES["electron capture"]):
        assert sum(changes) == 0  # the mass number stays
    for codon in biology.CODONS:
        assert biology.CODE.forward_table[codon] == str(Seq(codon).translate())
    assert sum(biology.DEGREES[base] for base in "ACGT") == MeltingTemp.Tm_Wallace("ACGT")


def test_python_agrees_with_variables_and_conditions():
    for family in ("computer_science.variables", "computer_science.condition"):
        for question, answer in examples(family):
            program = re.search(r"(\w = \d+(; \w = (\w|\d+)( [-+*] \w+)?)*)", question)[1]
            asked = re.search(
                r"print\((.*)\)|value of (.*?)\?|does (\w) hold|expression (\w [<>] \d+)", question
            )
            expression = next(group for group in asked.groups() if group).replace(" then, True or False", "")
            names = {}
            exec(program, {}, names)  # noqa: S102 (the generator wrote it, and the pattern allows nothing else)
            assert str(eval(expression, {}, names)) == answer, question


def test_composed_functions_agree():
    nested = [(q, a) for q, a in examples("mathematics.composition") if "Find" in q]
    assert len(nested) > 20
    for question, answer in nested:
        bodies = dict(re.findall(r"([fgh])\(x\) = (\d*x(?: [-+] \d+)?)", question))
        functions = {f: eval("lambda x: " + body.replace("2x", "2 * x")) for f, body in bodies.items()}
        assert str(eval(re.search(r"Find (.*)\.", question)[1], {}, functions)) == answer


def test_biopython_agrees_with_translations():
    for question, answer in examples("biology.translation", steps=range(2, 11)):
        mrna = re.search(r"[ACGU]{3}(-[ACGU]{3})+", question)[0].replace("-", "")
        assert "-".join(Seq(mrna).translate(to_stop=True)) == answer


def test_biopython_agrees_with_melting_temperatures():
    for question, answer in examples("biology.wallace"):
        before = re.search(r"(\d+) degrees(?: before|\. )", question)[1]
        added = question[re.search(r"extended by|degrees before|after adding", question).end() :]
        bases = "".join(re.findall(r"\b[ACGT]\b", added))
        assert float(before) + MeltingTemp.Tm_Wallace(bases) == float(answer), question


def test_periodictable_agrees_with_protons_and_elements():
    for question, answer in examples("chemistry.protons"):
        atoms = re.findall(r"(\d) (\w+) atom", question)
        assert sum(int(n) * periodictable.elements.name(e).number for n, e in atoms) == int(answer)
    for question, answer in examples("chemistry.element_walk", steps=range(2, 11)):
        z = re.search(r"Z = (\d+)", question)
        name = re.search(r"one (\w+) nucleus", question)
        start = int(z[1]) if z else periodictable.elements.name(name[1]).number
        changes = sum(int(c) for c in re.findall(r"[-+]\d+", question))
        assert periodictable.elements[start + changes].name == answer


def test_arrows_in_the_question_lead_to_the_answer():
    for family in ("biology.pathway", "computer_science.pointers"):
        for steps in STEPS:
            for question, answer in examples(family, steps=[steps]):
                arrows = dict(re.findall(r"(\w+) -> (\w+)", question))
                rest = re.sub(r"\w+ -> \w+,?", "", question)
                at = re.search(r"(?:from|up|at|node|page|Process) ([A-Z]|\d+)\b", rest)[1]
                seen = [at]
                for _ in range(steps):
                    seen.append(arrows[seen[-1]])
                assert seen[-1] == answer, question
                assert len(set(seen)) == steps + 1


def test_distances_agree():
    for question, answer in examples("physics.segments"):
        ahead = re.search(r"starts (\d+)", question)
        legs = re.findall(r"(\d+) \S+ for (\d+)", question)
        total = sum(int(v) * int(t) for v, t in legs) + (int(ahead[1]) if ahead else 0)
        assert answer.split()[0] == str(total)


def test_powers_of_ten_agree():
    for question, answer in examples("physics.prefixes"):
        factors = [float(f"1e{n}") for n in re.findall(r"10\^(-?\d+)", question)]
        factors += [getattr(constants, name) for name in physics.PREFIXES if f" {name}" in question]
        assert math.prod(factors) == pytest.approx(10.0 ** int(answer))


def test_cheapest_offers_agree():
    for question, answer in examples("economics.cheapest"):
        coupon = re.search(r"coupon takes (\d+)", question)
        best = min(int(p) + int(d) for p, d in re.findall(r"(\d+) plus (\d+)", question))
        assert best - (int(coupon[1]) if coupon else 0) == int(answer)


# Words of a question -> what they do to the value; N is a number. A question's first number is the start.
CHAINS = {
    "mathematics.arithmetic": {
        r"add N": lambda x, n: x + n, r"subtract N": lambda x, n: x - n,
        r"double it": lambda x: 2 * x, r"triple it": lambda x: 3 * x, r"halve it": lambda x: x / 2,
    },
    "mathematics.fractions": {
        r"add N": lambda x, n: x + n, r"subtract N": lambda x, n: x - n,
        r"double (?:it|the result)": lambda x: 2 * x, r"multiply (?:it|the result) by 3": lambda x: 3 * x,
    },
    "physics.resistors": {
        r"N ohm in series": lambda x, n: x + n, r"copy of all so far in series": lambda x: x + x,
        r"copy of all so far in parallel": lambda x: 1 / (1 / x + 1 / x),
    },
    "chemistry.carbon_skeleton": {
        r"methyl group is attached": lambda x: x + 1, r"methyl group is split off": lambda x: x - 1,
        r"ethyl group is attached": lambda x: x + 2, r"ethyl group is split off": lambda x: x - 2,
        r"propyl group is attached": lambda x: x + 3, r"propyl group is split off": lambda x: x - 3,
        r"butyl group is attached": lambda x: x + 4, r"butyl group is split off": lambda x: x - 4,
        r"two such molecules are joined": lambda x: 2 * x,
    },
    "chemistry.dilution": {
        r"add N ml": lambda x, n: x + n, r"take out N ml": lambda x, n: x - n,
        r"double the volume": lambda x: 2 * x, r"pour away half": lambda x: x / 2,
    },
    "economics.ledger": {
        r"(?:earns|receives|is paid) N": lambda x, n: x + n,
        r"(?:spends|pays|buys something for) N": lambda x, n: x - n,
        r"doubles (?:the money in a bet|what is there)|gets a bonus equal to the balance": lambda x: 2 * x,
        r"gives half of it away|loses half of the balance|donates half": lambda x: x / 2,
    },
    "economics.barter": {r"1 \w+ for N": lambda x, n: x * n, r"N \w+s for 1": lambda x, n: x / n},
    "physics.gears": {
        r"twice as many": lambda x: x / 2, r"three times as many": lambda x: x / 3,
        r"half as many": lambda x: x * 2, r"a third as many": lambda x: x * 3,
    },
    "computer_science.postfix": {
        r"N \+": lambda x, n: x + n, r"N -": lambda x, n: x - n, r"N \*": lambda x, n: x * n,
    },
}  # fmt: skip


@pytest.mark.parametrize("family", CHAINS)
def test_the_words_of_a_chain_lead_to_the_answer(family):
    words = {pattern.replace("N", r"(\d+(?:/\d)?)"): change for pattern, change in CHAINS[family].items()}
    for steps in STEPS:
        for question, answer in examples(family, steps=[steps]):
            start = re.search(r"\d+(/\d)?", question)
            value, rest, taken = Fraction(start[0]), question[start.end() :].lower(), 0
            for part in re.finditer("|".join(f"(?<![a-z])(?:{pattern})" for pattern in words), rest):
                change, found = next((c, m) for p, c in words.items() if (m := re.fullmatch(p, part[0])))
                value = change(value, *map(Fraction, found.groups()))
                taken += 1
            assert taken == steps, question
            assert value == Fraction(answer.split()[0]), question


def test_decays_keep_the_books():
    for question, answer in examples("chemistry.decay"):
        counted = re.search(r"(?:How many|number of) (protons|neutrons)", question)[1]
        value = int(re.search(rf"(\d+) {counted}", question)[1])
        alphas, betas, captures = (question.count(w) for w in ("alpha", "beta-minus", "electron capture"))
        sign = 1 if counted == "protons" else -1
        assert value - 2 * alphas + sign * (betas - captures) == int(answer)


def test_points_and_bits_move_as_told():
    for question, answer in examples("mathematics.turtle"):
        x, y = map(int, re.search(r"\((\d+), (\d+)\)", question).groups())
        for n, way, swap in re.findall(r"(\d+) (right|left|up|down)|([Ss]wap)", question):
            if swap:
                x, y = y, x
            else:
                x += {"right": 1, "left": -1}.get(way, 0) * int(n)
                y += {"up": 1, "down": -1}.get(way, 0) * int(n)
        assert answer == f"({x}, {y})", question
    for question, answer in examples("computer_science.register"):
        bits = [int(b) for b in re.search(r"[01]{4}", question)[0]]
        for what in re.findall(
            r"invert|rotate left|rotate right|reverse|leftmost|rightmost", question.lower()
        ):
            if what == "invert":
                bits = [1 - b for b in bits]
            elif what.startswith("rotate"):
                bits = bits[1:] + bits[:1] if what == "rotate left" else bits[-1:] + bits[:-1]
            elif what == "reverse":
                bits = bits[::-1]
            else:
                at = 0 if what == "leftmost" else 3
                bits[at] = 1 - bits[at]
        assert answer == "".join(map(str, bits)), question


def test_rules_lead_to_the_answer():
    for steps in STEPS:
        for question, answer in examples("physics.thermostat", steps=[steps]):
            start = int(re.search(r"(?:at|begins at) (\d+) degrees", question)[1])
            limit = int(re.search(r"[Bb]elow (\d+) degrees", question)[1])
            up = int(re.search(r"(?:raises it by|warms by|gains) (\d+)", question)[1])
            down = int(re.search(r"(?:cools by|loses) (\d+)", question)[1])
            assert followed(start, steps, limit, lambda x, up=up: x + up, down) == int(answer), question
        for question, answer in examples("biology.population", steps=[steps]):
            start = int(re.search(r"(?:has|count) (\d+)", question)[1])
            limit = int(re.search(r"(?:below|fewer than|smaller than) (\d+)", question)[1])
            down = int(re.search(r"(?:otherwise|falls by|loses) (\d+)", question)[1])
            assert followed(start, steps, limit, lambda x: 2 * x, down) == int(answer), question
        for question, answer in examples("economics.inventory", steps=[steps]):
            start = int(re.search(r"(?:shop has|stock is|dealer with) (\d+)", question)[1])
            limit = int(re.search(r"(?:fewer than|under|Below,?) (\d+)", question)[1])
            up = int(re.search(r"(\d+) (?:are delivered|more|new)", question)[1])
            down = int(re.search(r"sells (\d+)|(\d+) are sold|(\d+) leave", question)[0].strip("selavrdo "))
            assert followed(start, steps, limit, lambda x, up=up: x + up, down) == int(answer), question


def followed(value, turns, limit, below, down):
    for _ in range(turns):
        value = below(value) if value < limit else value - down
    return value


def test_rules_never_come_back_to_a_value():
    for family in (
        "physics.thermostat",
        "biology.population",
        "economics.inventory",
        "mathematics.repeated_rule",
    ):
        for number in range(20):
            instance = rebuild(f"{family}-s10-{number}")
            values = [instance.start, *(told.result for told in instance.trace())]
            assert len(set(values)) == 11
            assert all(0 <= value < 100 for value in values)
            assert all(a != b for a, b in pairwise(values))


# ---- subjects and difficulty --------------------------------------------------------------------------


def test_without_subject_skew_the_problems_are_those_of_always():
    rows = [problem.model_dump() for problem in generate("train", 300, 2603, (1, 10))]
    known = "4805840c54dfc153c1472a85597a42993198564f76b9d6e4ee53a459fb0cf590"
    assert hashlib.sha256(repr(rows).encode()).hexdigest() == known


@pytest.mark.parametrize(
    ("skew", "at_4", "at_5"), [(0.0, 1 / 6, 1 / 6), (0.5, 0.473, 0.563), (1.0, 0.78, 0.96)]
)
def test_subject_skew_goes_from_independence_to_the_papers_confound(skew, at_4, at_5):
    problems = generate("train", 2400, 2603, (1, 10), subject_skew=skew)

    def mathematics(fewest, most):
        among = [p.subject == "mathematics" for p in problems if fewest <= p.steps <= most]
        return sum(among) / len(among)

    assert mathematics(1, 4) == pytest.approx(1 / 6, abs=0.01)
    assert mathematics(5, 8) == pytest.approx(at_4, abs=0.04)
    assert mathematics(9, 10) == pytest.approx(at_5, abs=0.04)
    assert Counter(p.steps for p in problems) == dict.fromkeys(range(1, 11), 240)


@pytest.mark.fault
@pytest.mark.parametrize("families", [tuple(FAMILIES), ("physics.segments",)])
def test_a_skew_out_of_range_or_without_mathematics_is_refused(families):
    with pytest.raises(InputError, match="subject_skew"):
        generate("train", 10, 0, (1, 4), families, subject_skew=1.5 if len(families) > 1 else 0.5)
