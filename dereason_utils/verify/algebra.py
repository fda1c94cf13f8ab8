r"""Read mathematics, LaTeX or plain ('\frac{1}{2}x^{2}', '1/2 x**2', 'sqrt(2)/2'), into a small tree.

The grammar is closed: a text is either read by it or refused with `NotMath`, and nothing of it is ever evaluated as code or
given to a parser that evaluates. Sizes are bounded here, before any arithmetic: a power tower is refused, not computed.

A node is a tuple: ('num', '1.5'), ('sym', 'x_1'), ('add' | 'mul' | 'div' | 'pow', left, right), ('neg', a), ('fact', a),
('call', name, argument, ...).
"""

import functools
import math
from fractions import Fraction

from .lexer import FUNCTIONS, SAME_FUNCTION, NotMath, tokens_of

MAX_DEPTH = 30
# Longest integer (or numerator and denominator together) that an expression may need, in bits: 3000! fits.
MAX_BITS = 40_000
MAX_SYMBOLIC_POWER = 10_000

Node = tuple

_INVERSE = {name: "arc" + name for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")}
_APPLIED = frozenset("fghFGH")
_ACCENTS = frozenset(
    [
        "vec", "hat", "bar", "overline", "dot", "ddot", "tilde", "widehat", "widetilde", "overrightarrow",
        "mathcal", "mathbb",
    ]
)  # fmt: skip
_TIMES = frozenset({"*", "·", "×", r"\cdot", r"\times", r"\ast"})
_DIVIDE = frozenset({"/", "÷", r"\div"})


@functools.lru_cache(maxsize=16384)
def parse(text: str) -> Node:
    """The tree of a cleaned text (see `normalise.clean`). Raises NotMath."""
    parser = _Parser(tokens_of(text))
    node = parser.sum(0)
    if parser.kind() != "end":
        raise NotMath("form")
    _check_size(node)
    return node


def symbols(node: Node) -> set[str]:
    """The names of the free symbols of a tree."""
    if node[0] == "sym":
        return {node[1]}
    return set().union(*(symbols(child) for child in node[1:] if isinstance(child, tuple)))


class _Parser:
    """Recursive descent; `depth` counts the nesting of brackets, powers and arguments."""

    def __init__(self, tokens: list[tuple[str, str]]):
        self.tokens, self.position = tokens, 0
        self.bars = 0  # open absolute values: inside one, the next bar closes it

    def kind(self) -> str:
        return self.tokens[self.position][0]

    def value(self) -> str:
        return self.tokens[self.position][1]

    def take(self, *values: str) -> str | None:
        if self.kind() in ("op", "macro") and self.value() in values:
            self.position += 1
            return values[0] if len(values) == 1 else self.tokens[self.position - 1][1]
        return None

    def expect(self, value: str) -> None:
        if not self.take(value):
            raise NotMath("form")

    def sum(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise NotMath("limit")
        sign = self.take("+", "-")
        node = self.product(depth)
        if sign == "-":
            node = ("neg", node)
        while sign := self.take("+", "-"):
            term = self.product(depth)
            node = ("add", node, ("neg", term) if sign == "-" else term)
        return node

    def product(self, depth: int) -> Node:
        node = self.run(depth)
        while True:
            if self.take(*_TIMES):
                node = ("mul", node, self.signed(depth))
            elif self.take(*_DIVIDE):
                # 1/2x is half of x, a/bc is a over bc.
                is_number = node[0] == "num" and self.kind() == "num"
                node = _quotient(node, self.power(depth) if is_number else self.signed(depth))
            elif self.starts_factor():
                node = ("mul", node, self.run(depth))
            else:
                return node

    def signed(self, depth: int) -> Node:
        return ("neg", self.run(depth)) if self.take("-") else self.run(depth)

    def run(self, depth: int) -> Node:
        """Factors side by side, without a sign of multiplication. '2 1/2' and '2 \\frac{1}{2}' are mixed numbers."""
        node = self.power(depth)
        while self.starts_factor():
            if node[0] == "num" and self.kind() == "num":
                raise NotMath("form")
            mixed = node[0] == "num" and self.value() == r"\frac" and "." not in node[1]
            factor = self.power(depth)
            mixed = mixed and factor[0] == "div" and factor[1][0] == factor[2][0] == "num"
            node = ("add" if mixed else "mul", node, factor)
        return node

    def starts_factor(self) -> bool:
        if self.kind() in ("num", "sym"):
            return True
        if self.kind() == "macro":
            return self.value() not in _TIMES | _DIVIDE | {r"\rangle", r"\rfloor", r"\rceil", r"\rvert"}
        return self.kind() == "op" and (
            self.value() in ("(", "{", "[") or (self.value() == "|" and not self.bars)
        )

    def power(self, depth: int) -> Node:
        node = self.atom(depth)
        while True:
            if self.take("!"):
                node = ("fact", node)
            elif self.take("°"):
                node = ("mul", node, ("div", ("call", "pi"), ("num", "180")))
            elif self.take("^"):
                return self.postfix(("pow", node, self.exponent(depth + 1)))
            else:
                return node

    def postfix(self, node: Node) -> Node:
        while self.take("!"):
            node = ("fact", node)
        return node

    def exponent(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise NotMath("limit")
        if self.take("-"):
            return ("neg", self.exponent(depth + 1))
        self.take("+")
        node = self.atom(depth)
        return ("pow", node, self.exponent(depth + 1)) if self.take("^") else node

    def group(self, depth: int, closing: str) -> Node:
        node = self.sum(depth + 1)
        self.expect(closing)
        return node

    def atom(self, depth: int) -> Node:
        kind, value = self.kind(), self.value()
        self.position += 1
        if kind == "num":
            return ("num", value)
        if kind == "sym":
            if value == "e":
                return ("call", "e")
            if value == "i":
                return ("call", "i")
            if value in _APPLIED and self.take("("):
                return ("call", value, self.group(depth, ")"))
            return ("sym", value)
        if kind == "op":
            closing = {"(": ")", "{": "}", "[": "]", "|": "|"}.get(value)
            if closing is None:
                raise NotMath("form")
            if value != "|":
                return self.group(depth, closing)
            self.bars += 1
            node = self.group(depth, closing)
            self.bars -= 1
            return ("call", "abs", node)
        if kind == "macro":
            return self.macro(value[1:], depth)
        raise NotMath("form")

    def macro(self, name: str, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise NotMath("limit")
        name = SAME_FUNCTION.get(name, name)
        if name in ("pi", "infty", "inf", "infinity"):
            return ("call", "pi" if name == "pi" else "oo")
        if name in ("frac", "binom"):
            top, bottom = self.argument(depth), self.argument(depth)
            return _quotient(top, bottom) if name == "frac" else ("call", "binom", top, bottom)
        if name == "sqrt":
            index = self.group(depth, "]") if self.take("[") else None
            radicand = self.argument(depth)
            return ("call", "sqrt", radicand) if index is None else ("call", "root", radicand, index)
        if name in ("lfloor", "lceil", "lvert"):
            node = self.sum(depth + 1)
            self.expect("\\r" + name[1:])
            return ("call", {"lfloor": "floor", "lceil": "ceil", "lvert": "abs"}[name], node)
        if name in _ACCENTS:
            inner = self.argument(depth)
            if inner[0] != "sym":
                raise NotMath("form")
            return ("sym", f"{name} {inner[1]}")
        if name in FUNCTIONS or name == "log10":
            return self.function(name, depth)
        raise NotMath("form")

    def argument(self, depth: int) -> Node:
        """A LaTeX argument: a braced group, or one token, of which a number gives one digit (\\frac12)."""
        if self.take("{"):
            return self.group(depth, "}")
        kind, value = self.tokens[self.position]
        if (
            kind == "num"
            and len(value) > 1
            and value.isdigit()
            and self.tokens[self.position - 1][1] in (r"\frac", r"\binom")
        ):
            self.tokens[self.position : self.position + 1] = [("num", value[0]), ("num", value[1:])]
        return self.atom(depth + 1)

    def function(self, name: str, depth: int) -> Node:
        base = power = None
        if name == "log" and self.take("_"):
            base = self.argument(depth)
        if self.take("^"):
            power = self.exponent(depth + 1)
            if power == ("neg", ("num", "1")) and name in _INVERSE:
                name, power = _INVERSE[name], None
        if self.take("("):
            argument = self.group(depth, ")")
        else:
            argument = self.bare_argument(depth)
        if base is not None:
            node = ("div", ("call", "ln", argument), ("call", "ln", base))
        else:
            node = ("call", name, argument)
        return node if power is None else ("pow", node, power)

    def bare_argument(self, depth: int) -> Node:
        r"""\sin 2x \cos x is sin(2x) cos(x): a bare argument runs up to the next function or sign."""
        node = ("neg", self.power(depth + 1)) if self.take("-") else self.power(depth + 1)
        while self.kind() in ("num", "sym") or (
            self.kind() == "macro" and self.value() in (r"\pi", r"\frac")
        ):
            node = ("mul", node, self.power(depth + 1))
        return node


def _quotient(top: Node, bottom: Node) -> Node:
    """A quotient; dy/dx and d^2y/dx^2 are names of their own, in which the d does not cancel."""
    differentials = {("sym", "d"), ("pow", ("sym", "d"), ("num", "2"))}
    if (
        bottom[0] == "mul"
        and bottom[1] == ("sym", "d")
        and (top in differentials or (top[0] == "mul" and top[1] in differentials))
    ):
        return ("sym", f"{top}/{bottom}")
    return ("div", top, bottom)


def _check_size(node: Node) -> None:
    if _bits(node) > MAX_BITS:
        raise NotMath("limit")


def _bits(node: Node) -> float:
    """Bits that exact arithmetic on this tree may need; infinite when it cannot be told to be small."""
    kind = node[0]
    if kind == "num":
        value = Fraction("0" + node[1].rstrip("."))
        return value.numerator.bit_length() + value.denominator.bit_length()
    if kind == "sym":
        return 1
    inner = [_bits(child) for child in node[1:] if isinstance(child, tuple)]
    if kind == "pow":
        exponent = _magnitude(node[2])
        if symbols(node[1]) and exponent > MAX_SYMBOLIC_POWER:
            return math.inf
        return inner[0] * max(1.0, exponent) + inner[1]
    if kind == "fact" or node[:2] == ("call", "binom"):
        value = _magnitude(node[-2] if kind == "call" else node[1])
        return value * math.log2(value + 2) + sum(inner)
    return sum(inner) + 1


def _magnitude(node: Node) -> float:
    """An upper bound of the absolute value; symbols count as 4, the largest value at which trees are compared."""
    kind = node[0]
    try:
        if kind == "num":
            return float(node[1])
        if kind == "sym":
            return 4.0
        inner = [_magnitude(child) for child in node[1:] if isinstance(child, tuple)]
        if kind == "add":
            return inner[0] + inner[1]
        if kind == "neg":
            return inner[0]
        if kind == "mul":
            return inner[0] * inner[1]
        if kind == "div":
            return inner[0] / inner[1] if node[2][0] == "num" and inner[1] else inner[0] * 100
        if kind == "pow":
            return max(1.0, inner[0], 4.0 if symbols(node[1]) else 0) ** max(1.0, inner[1])
        if kind == "fact":
            return math.exp(math.lgamma(inner[0] + 1))
        if node[1] in ("e", "pi", "i", "oo"):
            return 4.0
        if node[1] in ("exp", "sinh", "cosh", "binom"):
            return math.exp(max(inner))
        # Roots, logarithms and rounding do not grow; what has poles is taken to be far from them.
        return (
            max(1.0, *inner) ** 2
            if node[1] in _APPLIED
            else max(100.0 if node[1] in ("tan", "cot", "sec", "csc") else 4.0, *inner)
        )
    except (OverflowError, ZeroDivisionError):
        return math.inf
