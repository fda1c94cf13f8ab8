"""Are two expressions equal? By sympy, on trees that `algebra.parse` read and bounded. Runs in worker processes only.

Trees become sympy objects through constructors: no text is given to sympify. Equality is decided by exact difference first,
then by value at fixed points: two expressions that agree to 20 digits at every point are taken to be equal.
"""

import functools
import zlib
from fractions import Fraction

import sympy

from .algebra import Node, parse, symbols
from .lexer import NotMath
from .numbers import Number, agree, parse_number
from .structures import EQUALITY, RELATION

DIGITS = 20
# Precision that an evaluation may rise to before a difference counts as zero.
MAX_DIGITS = 120
POINTS = 8
MIN_POINTS = 3
MAX_SYMBOLS = 12
_CLOSE = sympy.Float(10, DIGITS) ** (3 - DIGITS)

_FUNCTIONS = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "sinh": sympy.sinh, "cosh": sympy.cosh, "tanh": sympy.tanh, "coth": sympy.coth, "arcsin": sympy.asin,
    "arccos": sympy.acos, "arctan": sympy.atan, "arcsinh": sympy.asinh, "arccosh": sympy.acosh, "arctanh": sympy.atanh,
    "ln": sympy.log, "exp": sympy.exp, "sqrt": sympy.sqrt, "abs": sympy.Abs, "floor": sympy.floor, "ceil": sympy.ceiling,
    "binom": sympy.binomial, "root": lambda x, n: _root(x, n), "log10": lambda x: sympy.log(x, 10),
}  # fmt: skip
_CONSTANTS = {"e": sympy.E, "i": sympy.I, "pi": sympy.pi, "oo": sympy.oo}
# 'log' may mean base e or 10 and authors do not say: it equals itself and neither of the two.
_LOG_BASE = sympy.Rational(7919, 1000)


def equal(kind: str, gold: str, answer: str) -> tuple[bool, str]:
    """Compare two cleaned texts: 'expression', 'equation', or 'value' (a decimal gold answer against a closed form)."""
    try:
        if kind == "equation":
            return _same_equation(gold, answer)
        if kind == "value":
            value = _constant(_build(parse(answer)))
            return value is not None and agree(parse_number(gold), Number(value)), "value"
        return _same_expression(parse(gold), answer)
    except NotMath as error:
        return False, error.reason


def check(kind: str, gold: str) -> tuple[bool, str]:
    """Whether a gold answer can be evaluated within the limits: (True, '') or (False, why not)."""
    try:
        expression = _difference(gold)[1] if kind == "equation" else _build(parse(gold))
        if expression.has(sympy.nan, sympy.zoo) or (
            kind == "equation" and _same(expression, sympy.Integer(0))
        ):
            return False, "form"
        _value(expression, 0)
    except NotMath as error:
        return False, error.reason
    return True, ""


def _same_expression(gold: Node, answer: str) -> tuple[bool, str]:
    left = _build(gold)
    number = parse_number(answer)
    if number is not None and number.digits is not None:
        value = _constant(left)
        if value is not None:
            return agree(Number(value), number), "value"
    tree = parse(answer)
    if symbols(gold) ^ symbols(tree) and not symbols(gold):
        return False, "value"
    return _same(left, _build(tree)), "value"


def _build(node: Node) -> sympy.Expr:
    if len(symbols(node)) > MAX_SYMBOLS:
        raise NotMath("limit")
    return _construct(node)


def _construct(node: Node) -> sympy.Expr:
    kind = node[0]
    if kind == "num":
        value = Fraction("0" + node[1].rstrip("."))
        return sympy.Rational(value.numerator, value.denominator)
    if kind == "sym":
        return sympy.Symbol(node[1])
    inner = [_construct(child) for child in node[1:] if isinstance(child, tuple)]
    if kind == "add":
        return inner[0] + inner[1]
    if kind == "mul":
        return inner[0] * inner[1]
    if kind == "div":
        return inner[0] / inner[1]
    if kind == "pow":
        return inner[0] ** inner[1]
    if kind == "neg":
        return -inner[0]
    if kind == "fact":
        return sympy.factorial(inner[0])
    if node[1] in _CONSTANTS:
        return _CONSTANTS[node[1]]
    if node[1] == "log":
        return sympy.log(inner[0]) / sympy.log(_LOG_BASE)
    if node[1] in _FUNCTIONS:
        return _FUNCTIONS[node[1]](*inner)
    return _unknown_function(node[1], inner[0])


def _root(radicand: sympy.Expr, index: sympy.Expr) -> sympy.Expr:
    r"""\sqrt[3]{-8} is -2, not the principal complex root."""
    if index.is_Integer and index.is_odd:
        return sympy.sign(radicand) * sympy.Abs(radicand) ** (1 / index)
    return radicand ** (1 / index)


def _unknown_function(name: str, argument: sympy.Expr) -> sympy.Expr:
    """f(x) stands for some smooth function, a different one for every name."""
    slope = sympy.Rational(zlib.crc32(name.encode()) % 97 + 31, 53)
    return sympy.sin(slope * argument) + argument**2 / slope


def _same(left: sympy.Expr, right: sympy.Expr) -> bool:
    if left == right:
        return not left.has(sympy.nan, sympy.zoo)
    if left.has(sympy.oo, -sympy.oo, sympy.nan, sympy.zoo) or right.has(
        sympy.oo, -sympy.oo, sympy.nan, sympy.zoo
    ):
        return False
    if left.is_Rational and right.is_Rational:
        return False
    difference = left - right
    if difference == 0:
        return True
    if not difference.free_symbols:
        return _is_zero(difference)
    real, others = [], []
    for point in range(POINTS):
        a, b = _value(left, point), _value(right, point)
        if a is None or b is None:
            continue
        both_real = all(abs(sympy.im(v)) <= _CLOSE * (1 + abs(v)) for v in (a, b))
        (real if both_real else others).append(_is_zero(difference, point))
    # Where both are real they must agree (|x| is not x); what is real nowhere is compared as it is.
    decisive = real if len(real) >= MIN_POINTS else real + others
    return len(decisive) >= MIN_POINTS and all(decisive)


def _is_zero(expression: sympy.Expr, point: int = 0) -> bool:
    value = _evaluate(expression, point)
    # Without a single correct digit at the highest precision, the value is zero.
    return all(part == 0 or getattr(part, "_prec", DIGITS) == 1 for part in value.as_real_imag())


def _evaluate(expression: sympy.Expr, point: int) -> sympy.Expr:
    # Numbers are put in during the evaluation: exact substitution would simplify first, without any bound.
    places = {symbol: _place(symbol.name, point) for symbol in expression.free_symbols}
    return expression.evalf(DIGITS, subs=places, maxn=MAX_DIGITS)


def _value(expression: sympy.Expr, point: int) -> sympy.Expr | None:
    """The number at one of the fixed points, or None where there is none (a pole, an overflow)."""
    value = _evaluate(expression, point)
    if not value.is_number or value.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
        return None
    real, imaginary = value.as_real_imag()
    return value if real.is_Float or imaginary.is_Float or value.is_Rational else None


@functools.lru_cache(maxsize=4096)
def _place(name: str, point: int) -> sympy.Rational:
    """A rational number between 0.3 and 3.3, positive at even points and of any sign at odd ones."""
    number = zlib.crc32(f"{name}/{point}".encode())
    place = sympy.Rational(3 * (number % 9973) + 2991, 9973)
    return -place if point % 2 and number // 9973 % 2 else place


def _constant(expression: sympy.Expr) -> Fraction | None:
    """The real value of an expression without symbols, to 30 digits."""
    if expression.free_symbols or expression.has(sympy.oo, sympy.nan, sympy.zoo):
        return None
    if expression.is_Rational:
        return Fraction(int(expression.p), int(expression.q))
    value = expression.evalf(30, maxn=MAX_DIGITS)
    return Fraction(str(value)) if value.is_Float else None


def _same_equation(gold: str, answer: str) -> tuple[bool, str]:
    sides = [side.strip() for side in gold.split("=")]
    if "=" not in answer and not RELATION.search(answer) and len(sides) == 2 and _is_name(parse(sides[0])):
        return _same_expression(parse(sides[1]), answer)  # 'y = 2x + 3' is also said by '2x + 3'
    relation, expected = _difference(gold)
    said_relation, said = _difference(answer)
    if relation != said_relation or expected.free_symbols != said.free_symbols:
        return False, "value"
    ratios = []
    for point in range(POINTS):
        a, b = _value(expected, point), _value(said, point)
        if a is not None and b is not None and a != 0:
            ratios.append(b / a)
    # The same equation up to a constant factor, which must be positive where the direction of '<' counts.
    if len(ratios) < MIN_POINTS or abs(ratios[0]) < _CLOSE or (relation != "=" and not ratios[0].is_positive):
        return False, "value"
    return all(abs(ratio - ratios[0]) <= _CLOSE * abs(ratios[0]) for ratio in ratios), "value"


def _is_name(node: Node) -> bool:
    """'y', 'x_1' or 'f(x)'."""
    return node[0] == "sym" or (
        node[0] == "call" and node[2:] != () and all(child[0] == "sym" for child in node[2:])
    )


_SAME_RELATION = {
    "≤": "<=",
    r"\le": "<=",
    r"\leq": "<=",
    "≥": ">=",
    r"\ge": ">=",
    r"\geq": ">=",
    r"\lt": "<",
    r"\gt": ">",
    "≠": "!=",
    r"\ne": "!=",
    r"\neq": "!=",
}


def _difference(text: str) -> tuple[str, sympy.Expr]:
    """'=' , '!=', '<' or '<=' and left minus right of an equation or inequality (turned round if it says '>')."""
    relations = EQUALITY.findall(text)
    if len(relations) != 1:
        raise NotMath("form")
    left, right = (_build(parse(side.strip())) for side in EQUALITY.split(text))
    relation = _SAME_RELATION.get(relations[0], relations[0])
    if relation.startswith(">"):
        relation, left, right = relation.replace(">", "<"), right, left
    return relation, left - right
