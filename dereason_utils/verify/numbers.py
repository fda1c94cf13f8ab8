r"""Plain numbers: '1,234', '1.5e3', '1.5 \times 10^{3}', '3/4', '\frac{3}{4}', '1 1/2', '12%', '3.2 million'.

Values are exact fractions. The tolerance of the whole checker is `agree`, here and nowhere else.
"""

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

# Differences below this are rounding of the machine, not of the author.
MACHINE_NOISE = Fraction(1, 10**12)
# An answer rounded more coarsely than a decimal gold answer must still show this many significant digits: textbooks ask
# for three.
MIN_DIGITS = 3
# Where the gold answer is exact (1/3, \\sqrt{2}) a decimal must show this many; math-verify rounds to six as well.
MIN_DIGITS_OF_EXACT = 6
# A gold answer that was itself rounded to two digits is met by any answer that rounds to it; one digit is no rounding
# (0.5 means one half).
MIN_GOLD_DIGITS = 2
# Two digits can leave 5% open; no more than this is granted, and less after a conversion: 1.5 bar is not 1.5 atm.
MAX_RELATIVE = Fraction(2, 100)
MAX_CONVERTED = Fraction(5, 1000)
# Longest text that is read as a number, and the largest power of ten.
MAX_LENGTH = 1000


@dataclass(frozen=True, slots=True)
class Number:
    """A value, how many significant digits it shows (None: exact, an integer or a fraction), and whether in percent."""

    value: Fraction
    digits: int | None = None
    percent: bool = False


_GROUPED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+|[0-9]+)"
_TIMES = r"\s*(?:\*|x|×|\\times|\\cdot|·)\s*"
_TEN = r"10\s*(?:\^|\*\*)\s*(?:\{\s*(?P<p1>[+-]?\s?[0-9]{1,3})\s*\}|\(\s*(?P<p2>[+-]?[0-9]{1,3})\s*\)|(?P<p3>[+-]?[0-9]{1,3}))"
_SIMPLE = re.compile(
    rf"(?P<sign>[+-]?)\s*(?:(?P<mantissa>{_GROUPED}(?:\.[0-9]*)?|\.[0-9]+)"
    rf"(?:[eE](?P<e>[+-]?[0-9]{{1,3}})|{_TIMES}{_TEN})?|{_TEN.replace('<p', '<q')})"
)
_FRACTION = re.compile(
    r"(?P<sign>[+-]?)\s*(?:(?P<whole>[0-9]{1,9})\s*)?"
    r"(?:\\frac\s*(?:\{(?P<a>[^{}]{1,300})\}|(?P<c>[0-9]))\s*(?:\{(?P<b>[^{}]{1,300})\}|(?P<d>[0-9]))"
    r"|(?P<n>[+-]?[0-9][0-9.,]{0,300})\s*/\s*(?P<m>[0-9][0-9.,]{0,300}))"
)
_PERCENT = re.compile(r"\s*(?:%|per\s?cent)$", re.IGNORECASE)
_SCALE = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALED = re.compile(r"\s+(thousand|million|billion|trillion)$", re.IGNORECASE)
_WORDS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
]  # fmt: skip


def parse_number(text: str) -> Number | None:
    """Read a cleaned text (see `normalise.clean`) that is nothing but a number; None for everything else."""
    text = text.strip()
    if not text or len(text) > MAX_LENGTH:
        return None
    percent = _PERCENT.search(text)
    if percent:
        text = text[: percent.start()]
    scaled = _SCALED.search(text)
    if scaled:
        text = text[: scaled.start()]
    number = _simple(text) or _fraction(text)
    if number is None and text.lower() in _WORDS:
        number = Number(Fraction(_WORDS.index(text.lower())))
    if number is None:
        return None
    if scaled:
        number = replace(number, value=number.value * 10 ** _SCALE[scaled.group(1).lower()])
    return replace(number, percent=True) if percent else number


def _simple(text: str) -> Number | None:
    match = _SIMPLE.fullmatch(text)
    if not match:
        return None
    part = match.groupdict()
    powers = [part[name] for name in ("e", "p1", "p2", "p3", "q1", "q2", "q3") if part[name] is not None]
    power = int(powers[0].replace(" ", "")) if powers else 0
    mantissa = (part["mantissa"] or "1").replace(",", "").replace(" ", "")
    sign = -1 if part["sign"] == "-" else 1
    value = sign * Fraction("0" + mantissa.rstrip(".")) * Fraction(10) ** power
    written = mantissa.rstrip(".")
    exact = "." not in written and (not powers or part["mantissa"] is None)
    return Number(value, None if exact else max(1, len(written.replace(".", "").lstrip("0"))))


def _fraction(text: str) -> Number | None:
    match = _FRACTION.fullmatch(text)
    if not match:
        return None
    part = match.groupdict()
    top, bottom = _simple(part["a"] or part["c"] or part["n"]), _simple(part["b"] or part["d"] or part["m"])
    if top is None or bottom is None or bottom.value == 0:
        return None
    value = top.value / bottom.value
    if part["whole"]:
        # '1 1/2' is a mixed number; '11/2' never comes here, and '2 3/2' or '2 -1/2' are not mixed numbers.
        glued = part["n"] and not re.match(r"[+-]?\s*[0-9]+\s", text)
        if glued or not 0 < value < 1:
            return None
        value += int(part["whole"])
    digits = [number.digits for number in (top, bottom) if number.digits is not None]
    return Number(-value if part["sign"] == "-" else value, min(digits, default=None))


def agree(gold: Number, answer: Number, converted: bool = False) -> bool:
    """Whether two numbers are the same answer (percent signs are the caller's business).

    Equal values agree, and an integer agrees with nothing else. Otherwise both are taken as roundings of one value: the
    more exact one, rounded to the significant digits of the other, must give the other. `converted` says that the answer
    was converted from another unit, by which it got machine noise.
    """
    difference = abs(gold.value - answer.value)
    if difference == 0:
        return True
    is_integer = gold.digits is None and gold.value.denominator == 1
    if (converted or not is_integer) and difference <= MACHINE_NOISE * abs(gold.value):
        return True
    if is_integer or (gold.digits is None and answer.digits is None):
        return False
    gold_is_coarser = answer.digits is None or (gold.digits is not None and gold.digits <= answer.digits)
    coarse = gold if gold_is_coarser else answer
    least = MIN_GOLD_DIGITS if gold_is_coarser else MIN_DIGITS_OF_EXACT if gold.digits is None else MIN_DIGITS
    if coarse.value == 0 or coarse.digits < least:
        return False
    last_place = Fraction(10) ** (_magnitude(coarse.value) - coarse.digits + 1)
    return difference <= min(last_place / 2, abs(gold.value) * (MAX_CONVERTED if converted else MAX_RELATIVE))


def _magnitude(value: Fraction) -> int:
    return (Decimal(abs(value.numerator)) / Decimal(value.denominator)).adjusted()
