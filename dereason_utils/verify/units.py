r"""Quantities: a number and a unit. '5 m', '9.81 m/s^2', '5\ \mathrm{kg\,m^{2}\,s^{-2}}', '25 °C', '$5'; by pint.

The unit is taken apart here, factor by factor, and pint is asked for single names only: no text of a model reaches a
parser of expressions.
"""

import functools
import math
import re
import threading
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from .normalise import clean
from .numbers import Number, agree, parse_number

if TYPE_CHECKING:  # pint takes a third of a second to load
    import pint

MAX_FACTORS = 8

_NAME = r"[A-Za-zµμΩÅ°$€£%]+"
_FACTOR = re.compile(
    rf"\s*(?:(?P<op>[/*·.]|\\cdot|\\times|per\b)\s*)?(?P<name>{_NAME})(?P<power>(?:\^|\*\*)?\s*[{{(]?[+-]?[0-9][)}}]?)?"
)
_SPELLINGS = {
    "°": "degree", "°C": "degC", "°F": "degF", "degrees": "degree", "deg": "degree", "µ": "micro", "Ω": "ohm", "Å": "angstrom",
    "secs": "second", "sec": "second", "mins": "minute", "hrs": "hour", "lbs": "pound", "yrs": "year", "yr": "year",
    "amu": "unified_atomic_mass_unit", "cc": "milliliter", "liters": "liter", "litres": "liter", "ohms": "ohm",
    "$": "dollar", "dollars": "dollar", "cents": "cent", "€": "euro", "euros": "euro", "£": "pound_sterling", "USD": "dollar",
}  # fmt: skip
_NUMBER_THEN_UNIT = re.compile(
    r"(?P<number>[+-]?\s?(?:\$|€|£)?\s?(?:\\frac\s*\{[0-9.]+\}\s*\{[0-9.]+\}|[0-9.][0-9.,/ ]*(?:[eE][+-]?[0-9]+(?![0-9A-Za-z]))?)"
    r"(?:\s*(?:\\times|\\cdot|×|\*|x|·)\s*10\s*(?:\^|\*\*)\s*(?:\{\s*[+-]?[0-9]+\s*\}|\([+-]?[0-9]+\)|[+-]?[0-9]+))?"
    r"(?:\s(?:thousand|million|billion|trillion)\b)?)"
    r"(?P<unit>.*)",
    re.DOTALL,
)
_CURRENCY = re.compile(r"([+-]?)\s?([$€£])\s?(.*)", re.DOTALL)
_NO_NOUN = re.compile(
    r"\b(?:not|no|less|more|than|least|most|minus|plus|times|over|under|to|hundreds?|thousands?|millions?|billions?|tens?|half|halves"
    r"|quarters?|thirds?|squared|cubed|factorial|and|or)\b",
    re.IGNORECASE,
)
# Words after 'in' that are units as well (year, attosecond, technical atmosphere, inch, ...).
_NO_UNIT = frozenset({"a", "as", "at", "in", "are", "am", "us"})
_UNIT_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")


def split_quantity(text: str) -> tuple[Number, str] | None:
    """(number, text of the unit) of a cleaned answer that starts with a number (or a currency sign); else None."""
    if len(text) > 200:
        return None
    text = _UNIT_FRACTION.sub(lambda m: m.group() if parse_number(m.group()) else f" {m[1]}/({m[2]})", text)
    currency = _CURRENCY.fullmatch(text)
    if currency:
        number = parse_number(currency[1] + currency[3])
        return (number, currency[2]) if number else None
    match = _NUMBER_THEN_UNIT.fullmatch(text)
    if not match:
        return None
    number, unit = parse_number(match["number"].strip()), match["unit"].strip()
    return (number, unit) if number and unit else None


def parse_unit(text: str) -> "pint.Unit | None":
    """The pint unit of a text such as 'kg m^2/s^2' or 'J/(mol K)', or None. Factors after a slash are all below it."""
    return _parse_unit(text.strip())


@functools.lru_cache(maxsize=4096)
def _parse_unit(text: str):
    if not text or len(text) > 100:
        return None
    text = text.replace("( ", "(").replace(" )", ")")
    bracket = re.fullmatch(r"([^()]*/\s*)\(([^()^]*(?:\^[{(]?-?[0-9][)}]?[^()^]*)*)\)", text)
    if bracket:
        text = bracket[1] + bracket[2]
    factors, below, position = [], False, 0
    while text[position:].strip():
        match = _FACTOR.match(text, position)
        if not match or len(factors) == MAX_FACTORS:
            return None
        below = below or match["op"] in ("/", "per")
        power = int(re.sub(r"[^0-9-]", "", match["power"])) if match["power"] else 1
        factors.append((match["name"], -power if below else power))
        position = match.end()
    units = [_named_unit(name) for name, _ in factors]
    if None in units:
        return None
    powers = [unit**power for unit, (_, power) in zip(units, factors, strict=True)]
    return math.prod(powers, start=_registry().Unit("dimensionless"))


_LOCK = threading.Lock()


def _registry():
    with _LOCK:  # two threads must not build one each: units of different registries do not compare
        return _build_registry()


@functools.lru_cache(maxsize=1)
def _build_registry():
    import pint

    registry = pint.UnitRegistry(on_redefinition="ignore")
    # Radians count as a unit here: 5 Hz is not 5 rad/s.
    registry.define("radian = [angle] = rad")
    registry.define("dollar = [currency]")
    registry.define("cent = 0.01 dollar")
    registry.define("euro = [currency_of_europe]")
    registry.define("pound_sterling = [currency_of_britain]")
    return registry


@functools.lru_cache(maxsize=4096)
def _named_unit(name: str):
    import pint

    name = _SPELLINGS.get(name, name)
    if not name.replace("µ", "").replace("μ", "").replace("_", "").isascii():
        return None
    try:
        return _registry().Unit(_registry().get_name(name))
    except pint.PintError:
        return None


@functools.lru_cache(maxsize=4096)
def asked_units(question: str) -> tuple:
    """The units that a question asks for ('in km', 'how many grams'): an answer may leave them out, or add them."""
    question = clean(question)
    found = re.findall(
        rf"(?i:\b(?:in|how many|units? of|number of))\s+({_NAME}(?:[/^]{_NAME}?[0-9]?)*)", question
    )
    units = [unit for text in found if text not in _NO_UNIT and (unit := parse_unit(text))]
    if re.search(r"\$|\bdollars?\b", question) and "cent" not in question:
        units.append(parse_unit("dollar"))
    if (
        re.search(r"°(?![CF])|\bdegrees?\b(?! (?:C|F|Celsius|Fahrenheit|of freedom))", question)
        and "radian" not in question
    ):
        units.append(parse_unit("degree"))
    return tuple(units)


def is_implied(unit_text: str, question: str) -> bool:
    """Whether a unit that the gold answer leaves out is the one the question asks for or, if it asks for none, is made of
    the units of its numbers ('100 m in 8 s' implies m/s)."""
    unit, asked = parse_unit(unit_text), asked_units(question)
    if unit is None:
        # A noun of the question: '12 apples'. Whole words, and none that changes the number.
        is_noun = re.fullmatch(r"[A-Za-z ]{2,40}", unit_text) and not _NO_NOUN.search(unit_text)
        return bool(is_noun) and re.search(rf"\b{unit_text}\b", question, re.IGNORECASE) is not None
    if asked:
        return unit in asked
    mentioned = re.findall(rf"[0-9]\s?({_NAME}(?:\s?[/·]\s?{_NAME})?)", clean(question))
    names = {name for text in mentioned for name in re.findall(_NAME, text)}
    return set(re.findall(_NAME, unit_text)) <= names


def same_quantity(gold: tuple[Number, str], answer: tuple[Number, str]) -> tuple[bool, str]:
    """Whether two (number, unit text) pairs are the same quantity; the second value says what differs."""
    (gold_number, gold_text), (number, text) = gold, answer
    if gold_text == text:
        return agree(gold_number, number), "value"
    gold_unit, unit = parse_unit(gold_text), parse_unit(text)
    if gold_unit is None or unit is None:
        same_word = _stem(gold_text) == _stem(text)
        return same_word and agree(gold_number, number), "value" if same_word else "unit"
    if gold_unit.dimensionality != unit.dimensionality:
        return False, "unit"
    if gold_unit == unit:
        return agree(gold_number, number), "value"
    import pint

    try:
        converted = _registry().Quantity(float(number.value), unit).to(gold_unit).magnitude
    except pint.PintError:  # logarithmic units and products with degrees Celsius
        return False, "unit"
    return agree(gold_number, replace(number, value=Fraction(converted)), converted=True), "value"


def _stem(word: str) -> str:
    return word.lower().removesuffix("s")
