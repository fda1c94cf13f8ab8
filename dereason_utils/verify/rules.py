"""Which rule decides an answer, and the decisions that need no symbolic algebra.

`kind_of` routes a gold answer, `compare` decides. Whatever needs algebra is handed to the `symbolic` function that the
caller passes in: in the caller's process it raises `NeedsWorker`, in a worker process it is `symbolic.equal`.
"""

import functools
import re
from collections.abc import Callable

from .algebra import parse
from .lexer import FUNCTIONS, GREEK, SAME_FUNCTION, NotMath
from .normalise import clean, squeeze
from .numbers import agree, parse_number
from .structures import EQUALITY, is_readable, leaves, looks_like, same_structure, split_list
from .units import asked_units, is_implied, parse_unit, same_quantity, split_quantity
from .words import formula, gold_letters, options, same_choice, same_formula, same_text, same_truth, truth

# The project's kinds, and what the real corpora call them. 'infer' looks at the gold answer.
_ALIASES = {
    "number": "number int integer float decimal real numeric numerical number fraction rational percentage percent",
    "quantity": "quantity unit measurement physical",
    "expression": "expression formula_expression algebraic symbolic polynomial",
    "equation": "equation",
    "interval": "interval inequality",
    "set": "set",
    "tuple": "tuple point coordinate coordinates vector ordered_pair",
    "list": "list sequence array",
    "matrix": "matrix",
    "choice": "choice multiple_choice mcq multichoice multiple-choice option",
    "boolean": "boolean bool true/false yes/no true_false",
    "text": "text word phrase",
    "formula": "formula chemical_formula chemical chemistry",
}
_KIND = {alias: kind for kind, aliases in _ALIASES.items() for alias in aliases.split()}
SYMBOLIC_KINDS = frozenset({"expression", "equation"})
STRUCTURES = frozenset({"interval", "set", "tuple", "list", "matrix"})

Symbolic = Callable[[str, str, str], tuple[bool, str]]


class NeedsWorker(Exception):
    """The pair cannot be decided without symbolic algebra."""


def ask_worker(kind: str, gold: str, answer: str) -> tuple[bool, str]:
    """The `symbolic` function of the caller's process. What cannot be read, or is too large, needs no worker."""
    try:
        for side in EQUALITY.split(answer) if kind == "equation" else [answer]:
            parse(side.strip())
    except NotMath as error:
        return False, error.reason
    raise NeedsWorker


@functools.lru_cache(maxsize=16384)
def kind_of(question: str, gold: str, answer_type: str | None) -> str | None:
    """The project's answer kind of a gold answer, or None where the gold answer cannot be scored by that kind.

    A type name that does not fit its gold answer (Float with '5 m', Boolean with 'Paris') gives way to what the answer
    looks like: corpora mislabel.
    """
    text = clean(gold)
    if not text or "\\boxed" in text:
        return None
    named = _KIND.get((answer_type or "").strip().lower().replace(" ", "_"))
    if (
        named in ("text", "expression", "equation", "quantity")
        and parse_number(text)
        and not _CODE.match(text)
    ):
        named = "number"
    if named == "number" and parse_number(text) is None:
        named = None
    if named == "expression" and "=" in text:
        named = "equation"
    if named == "boolean" and truth(text) is None:
        named = None
    if named == "choice" and not gold_letters(question, gold):
        named = None
    if named == "quantity" and split_quantity(text) is None:
        named = None
    if named == "formula" and formula(text) is None:
        named = None
    if named in STRUCTURES and not is_readable(named, text):
        named = None
    kind = named or infer(question, gold)
    if any(not _is_readable(*leaf) for leaf in algebra_of(kind, gold)):
        # A phrase that was typed as mathematics is a phrase; a formula outside the grammar cannot be scored.
        return "text" if _PHRASE.fullmatch(text) else None
    return kind


def algebra_of(kind: str, gold: str) -> list[tuple[str, str]]:
    """The parts (kind, text) of a gold answer that only symbolic algebra can compare."""
    text = clean(gold)
    if kind in SYMBOLIC_KINDS:
        return [(kind, text)]
    if kind not in STRUCTURES:
        return []
    parts = [(infer("", leaf), leaf) for leaf in leaves(kind, text)]
    return [(part, leaf) for part, leaf in parts if part in SYMBOLIC_KINDS]


def _is_readable(kind: str, text: str) -> bool:
    try:
        for side in EQUALITY.split(text) if kind == "equation" else [text]:
            parse(side.strip())
    except NotMath as error:
        return error.reason == "limit"  # readable, but too large: the check of the gold answer says so
    return True


# Leading zeros count in codes and bit patterns: 0011 is not 11.
_CODE = re.compile("0[0-9]")
_ASKS_ORDER = re.compile(r"\b(?:sort|order|arrange|ascending|descending|sequence|rank)", re.IGNORECASE)
# Words, times, ratios, numbers with a base: compared as text where they are no mathematics. No operators, no macros.
_PHRASE = re.compile(r"[\w\s:.,;'\"()&%/-]+")
_BARE_WORD = re.compile(r"[A-Za-z]{3,}")
_LETTER_RUN = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_KNOWN_WORDS = FUNCTIONS | SAME_FUNCTION.keys() | GREEK | {"pi"}


def infer(question: str, gold: str) -> str:
    """The kind that a gold answer looks like."""
    text = clean(gold)
    if truth(text) is not None:
        return "boolean"
    if options(question) and gold_letters(question, gold) & set(options(question)):
        return "choice"
    if parse_number(text):
        return "text" if _CODE.match(text) else "number"
    quantity = split_quantity(text)
    if quantity and _is_unit(text, quantity[1]):
        return "quantity"
    structure = looks_like(text)
    if structure == "list" and not text.startswith("["):
        # Values in a row are a set ('the roots are 1, -2') unless their order is asked for; long parts make a sentence.
        is_sentence = any(len(member.split()) > 4 for member in leaves("list", text))
        return "text" if is_sentence else "list" if _ASKS_ORDER.search(question) else "set"
    if structure:
        return structure
    has_digits = re.search(r"[A-Z][a-z]?\d|\d[A-Z]", text) and len(re.findall("[A-Z]", text)) > 1
    if (has_digits or text.endswith(("+", "-", "+}", "-}"))) and formula(text):
        return "formula"
    return _math_kind(text)


def _is_unit(text: str, unit: str) -> bool:
    """'5 m' is a quantity, '5m' and '2h' are products; '5kg' and '9.8 m/s' are quantities again."""
    glued = not re.search(r"[\s°$%]" + re.escape(unit[:1]), text) and len(unit) == 1 and unit not in "°$€£%"
    return not glued and parse_unit(unit) is not None


def _math_kind(text: str) -> str:
    unknown = [word for word in _LETTER_RUN.findall(text) if word not in _KNOWN_WORDS]
    if unknown and not re.search(r"\\[a-z]+|[=^]", text):
        return "text"
    if not any(character.isalnum() for character in text):
        return "text"
    if EQUALITY.search(text):
        return "equation"
    if re.search(r"(?<![A-Za-z])[A-Za-z]\(", text) or any(word in _KNOWN_WORDS for word in text.split()):
        return "expression"
    is_math = re.search(r"[\\^/*+=√π∞]|[0-9]|-\s*[A-Za-z(]", text) or re.fullmatch("[A-Za-z]", text)
    return "expression" if is_math else "text"


def compare(question: str, gold: str, answer: str, kind: str, symbolic: Symbolic) -> tuple[bool, str]:
    """(whether the answer is the gold answer, by which rule or why not). Both texts raw."""
    if kind == "choice":
        return same_choice(question, gold, answer)
    gold, answer = clean(gold), clean(answer)
    offered, letter = options(question), answer.strip("() .:")
    names_option = letter in offered and gold.strip("() .:") not in offered
    if names_option:  # the gold answer is what the option says
        answer = clean(offered[letter])
    if gold == answer or (len(gold) > 2 and kind != "text" and squeeze(gold) == squeeze(answer)):
        return True, "same"
    if kind == "boolean":
        return same_truth(gold, answer)
    if kind == "text":
        return same_text(gold, answer)
    if kind == "formula":
        return same_formula(gold, answer)
    if kind in STRUCTURES:
        return same_structure(kind, gold, answer, functools.partial(compare_element, symbolic=symbolic))
    if not names_option and _is_echo(question, answer, kind):
        return False, "echo"
    if kind == "number":
        return _same_number(question, gold, _right_side(answer), symbolic)
    if kind == "quantity":
        return _same_measure(question, gold, _right_side(answer), symbolic)
    if _BARE_WORD.fullmatch(gold) and _BARE_WORD.fullmatch(answer):
        return False, "text"  # 'cat' and 'act' are no products
    return symbolic(kind, gold, answer)


def compare_element(gold: str, answer: str, symbolic: Symbolic) -> tuple[bool, str]:
    """Compare two members of a set, tuple, list, matrix or the ends of an interval."""
    kind = infer("", gold)
    return compare("", gold, answer, "text" if kind == "boolean" else kind, symbolic)


def _is_echo(question: str, answer: str, kind: str) -> bool:
    """A piece of the question, such as 12*7 where 84 is asked or 500 cm where metres are, is no answer although equal."""
    text = "".join(squeeze(answer).split())
    if len(text) < 3 or not (kind == "quantity" or re.search(r"[-+*/^!()=\\]", text[1:])):
        return False
    # Whole pieces only: '5 cm' is not taken from '15 cm'.
    return (
        re.search(r"(?<![\w.])" + r"\s?".join(map(re.escape, text)) + r"(?!\w)", clean(question)) is not None
    )


def _right_side(answer: str) -> str:
    """'x = 12' and 'f(2) = 12' say 12; the left side must be one name."""
    match = re.fullmatch(
        r"\\?[A-Za-z]{1,8}(?:_\{?\w{1,8}\}?)?(?:\(\w{1,8}\))?\s*(?:=|\\approx|≈)\s*([^=]+)", answer
    )
    answer = match[1].strip() if match else re.sub(r"^(?:approximately|about)\s+", "", answer)
    return answer[1:-1].strip() if re.fullmatch(r"\{[^{}]*\}|\([^()]*\)", answer) else answer


_ASKS_PERCENT = re.compile(
    r"\b(?:what|how many|as an?|in|find the|calculate the)\s(?:\w+\s){0,3}per\s?cent(?:age)?\b|\(in %\)",
    re.IGNORECASE,
)


def _same_number(question: str, gold: str, answer: str, symbolic: Symbolic) -> tuple[bool, str]:
    expected, said = parse_number(gold), parse_number(answer)
    if said is None:
        return _number_in_words(question, gold, answer, symbolic)
    if expected.percent != said.percent and not _ASKS_PERCENT.search(question):
        return False, "percent"
    if expected.value.denominator == 1 and expected.digits is None and re.search(r"\d\s*/|frac", answer):
        return False, "form"  # 12/4 is no answer where 3 is asked
    return agree(expected, said), "value"


def _number_in_words(question: str, gold: str, answer: str, symbolic: Symbolic) -> tuple[bool, str]:
    """A number with a unit or a noun that the question names, or a closed form of a decimal gold answer."""
    if len(split_list(answer)) > 1 or re.search(r"\bor\b|\band\b", answer):
        return False, "hedge"
    quantity = split_quantity(answer)
    if quantity:
        implied = is_implied(quantity[1], question)
        return (agree(parse_number(gold), quantity[0]), "value") if implied else (False, "unit")
    expected = parse_number(gold)
    is_exact = expected.digits is None and expected.value.denominator == 1
    if (
        not is_exact
        and not expected.percent
        and re.search(r"\\?(?:sqrt|pi|frac|log|ln|sin|cos|tan|exp)|[√πe^]", answer)
    ):
        return symbolic("value", gold, answer)
    return False, "form"


def _same_measure(question: str, gold: str, answer: str, symbolic: Symbolic) -> tuple[bool, str]:
    expected, said = split_quantity(gold), split_quantity(answer)
    if said:
        return same_quantity(expected, said)
    number = parse_number(answer)
    if number is None:
        return False, "hedge" if len(split_list(answer)) > 1 else "form"
    if not number.percent and parse_unit(expected[1]) in asked_units(question):
        return agree(expected[0], number), "value"
    return False, "unit"
