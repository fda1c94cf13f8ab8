"""Cut mathematics, LaTeX or plain, into tokens: numbers, macros, names with their subscripts and primes, signs."""

import re

MAX_TOKENS = 400

GREEK = frozenset(
    [
        "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta",
        "iota", "kappa", "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "varphi",
        "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi",
        "Psi", "Omega", "hbar", "ell",
    ]
)  # fmt: skip
FUNCTIONS = frozenset(
    [
        "sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "arcsin", "arccos",
        "arctan", "arcsinh", "arccosh", "arctanh", "ln", "log", "exp", "sqrt", "abs",
    ]
)  # fmt: skip
SAME_FUNCTION = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "arsinh": "arcsinh", "arcosh": "arccosh", "artanh": "arctanh",
    "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh", "lg": "log10", "cosec": "csc", "tg": "tan", "ctg": "cot",
}  # fmt: skip
_WORDS = FUNCTIONS | SAME_FUNCTION.keys() | {"pi", "inf", "infinity"}
_LETTERS = str.maketrans(
    {"π": r"\pi ", "√": r"\sqrt ", "∞": r"\infty ", "∙": "·", "⋅": "·", "μ": r"\mu ", "ħ": r"\hbar "}
)
_GREEK_LETTERS = dict(
    zip(
        "αβγδεζηθκλνξρστφχψωΓΔΘΛΞΣΦΨΩ",
        [
            "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda", "nu", "xi",
            "rho", "sigma", "tau", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi",
            "Sigma", "Phi", "Psi", "Omega",
        ],
        strict=True,
    )
)  # fmt: skip

_TOKEN = re.compile(
    r"\s*(?:(?P<num>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
    r"|(?P<macro>\\[A-Za-z]+)|(?P<word>[A-Za-z]+)|(?P<op>\*\*|\\[{}|]|[-+*/^_!|()\[\]{}',·×÷°]))"
)
_SUBSCRIPT = re.compile(
    r"\s*_\s*(?:([a-z]{3,}|[0-9]+|[A-Za-z])|\{\s*(\\?[A-Za-z0-9][A-Za-z0-9,+\- ]{0,20})\s*\}|(\\[a-z]+))"
)
_INDEX = re.compile("[0-9]+(?![.0-9])")
_PRIME = re.compile(r"\s*('+|\^\s*\{?\s*(?:\\prime\s*)+\}?|\^\s*\{?\s*\*\s*\}?(?![0-9A-Za-z({\\]))")


class NotMath(Exception):
    """The text is not read: `reason` is 'form' (outside the grammar) or 'limit' (too long, too deep, too large)."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def tokens_of(text: str) -> list[tuple[str, str]]:
    """(kind, value) of each token, the kinds 'num', 'sym', 'macro', 'op' and a last 'end'. Raises NotMath."""
    for letter, name in _GREEK_LETTERS.items():
        text = text.replace(letter, f"\\{name} ")
    text = re.sub(r"\blog(2|10)\(", r"\\log_{\1}(", text.translate(_LETTERS))
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            if text[position:].strip():
                raise NotMath("form")
            break
        position = match.end()
        kind, value = match.lastgroup, match[match.lastgroup]
        if kind == "num":
            tokens.append(("num", value.replace(",", "")))
        elif kind == "op":
            tokens.append(("op", {"**": "^", r"\{": "(", r"\}": ")", r"\|": "|"}.get(value, value)))
        else:
            is_greek = kind == "macro" and value[1:] in GREEK
            names = (
                [_greek(value[1:])]
                if is_greek
                else [("macro", value)]
                if kind == "macro"
                else _split_word(value)
            )
            if names[-1][0] == "sym":
                # Subscripts and primes belong to the name: x_1, x1, x', \theta_0.
                for suffix in (_INDEX, _SUBSCRIPT, _PRIME, _SUBSCRIPT):
                    found = suffix.match(text, position)
                    if found:
                        position = found.end()
                        mark = re.sub(r"[\s{}\\^_]", "", found.group()).replace("prime", "'")
                        names[-1] = ("sym", f"{names[-1][1]}_{mark}")
            tokens += names
        if len(tokens) > MAX_TOKENS:
            raise NotMath("limit")
    return [*tokens, ("end", "")]


def _greek(name: str) -> tuple[str, str]:
    return ("sym", "\\" + name.removeprefix("var"))


def _split_word(word: str) -> list[tuple[str, str]]:
    """A run of letters: 'xsinx' is x sin x and 'mgh' a product; more than three letters that say nothing are a word."""
    names, position, letters = [], 0, 0
    while position < len(word):
        for length in range(min(10, len(word) - position), 1, -1):
            piece = word[position : position + length]
            if piece in _WORDS:
                names.append(("macro", "\\" + piece))
                break
            if piece in GREEK and length == len(word):
                return [_greek(word)]
        else:
            length, letters = 1, letters + 1
            names.append(("sym", word[position]))
        position += length
    if letters > 3 or (len(word) > 2 and letters == len(word) and word.isupper()):
        raise NotMath("form")
    return names
