"""Bring an answer into one plain spelling: Unicode forms, LaTeX wrappers, spaces."""

import re
import unicodedata

# Longer answers are not compared at all (reason 'limit'): no gold answer of the corpora comes near it.
MAX_ANSWER = 2000
# Only this much of a question is looked at, for its options, units and words.
MAX_QUESTION = 10_000

_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_SUBSCRIPT = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SUBSCRIPT_RUN = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_VULGAR_FRACTION = re.compile("(?<=[0-9])(?=[¼½¾⅐-⅞])")
_DASHES = str.maketrans({"−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "⁄": "/", "∕": "/"})
_INVISIBLE = re.compile("[\u200b\u200c\u200d\u2060\ufeff\u00ad]")
# Direction marks change what a reader sees, control characters what a parser sees: no honest answer needs them.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

_WRAPPER = re.compile(
    r"\\(?:text|textrm|textbf|textit|texttt|textnormal|mathrm|mathbf|mathit|mathsf|mathnormal|operatorname\*?"
    r"|mbox|hbox|ce|unit|emph|underline|boldsymbol)\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}"
)
_DECORATION = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|bigl?|bigr?|Bigl?|Bigr?|limits)(?![A-Za-z])"
)
_SPACE = re.compile(r"(?<!\\)\\(?:q?quad(?![A-Za-z])|[,;:> ])|~|&nbsp;")
_DEGREE = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|\^\s*\{?\s*°\s*\}?")
_MATH_MARKS = re.compile(r"(?<!\\)\\[()\[\]]")
_DOLLAR_PAIR = re.compile(r"\$([^$]*)\$")


def is_forbidden(text: str) -> bool:
    """Whether the text holds control characters or direction marks."""
    return _FORBIDDEN.search(text) is not None


def without_forbidden(text: str) -> str:
    """The text without them: corpora carry stray marks in gold answers."""
    return _FORBIDDEN.sub("", text)


def clean(text: str) -> str:
    r"""One spelling for the same answer. Keeps letters' case and LaTeX macros that carry meaning, such as \frac.

    A `$` that is left in the result is the currency.
    """
    text = _SUPERSCRIPT_RUN.sub(lambda run: "^{" + run.group().translate(_SUPERSCRIPT) + "}", text)
    text = _SUBSCRIPT_RUN.sub(lambda run: "_{" + run.group().translate(_SUBSCRIPT) + "}", text)
    text = unicodedata.normalize("NFKC", _VULGAR_FRACTION.sub(" ", text))
    text = _INVISIBLE.sub("", text).translate(_DASHES)
    if "$" in text:
        text = _DOLLAR_PAIR.sub(r"\1", text.replace(r"\$", "\x00")).replace("\x00", "$")
    if "\\" in text or "^" in text or "{" in text or "~" in text:
        text = (
            text.replace("{,}", ",")
            .replace(r"\%", "%")
            .replace(r"\#", "#")
            .replace(r"\_", "_")
            .replace(r"\!", "")
        )
        text = re.sub(r"_\{([A-Za-z0-9])\}(?![A-Za-z0-9])", r"_\1", text)
        text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
        for _ in range(4):  # wrappers nest two or three deep in practice
            unwrapped = _WRAPPER.sub(_unwrap, text)
            if unwrapped == text:
                break
            text = unwrapped
        text = _MATH_MARKS.sub(" ", _SPACE.sub(" ", _DECORATION.sub("", text)))
        text = _DEGREE.sub("°", text)
    text = " ".join(text.split()).strip("*` ")
    text = re.sub(r"^(?:=|≈|\\approx(?![a-z]))\s*(?=\S)", "", text)
    while text.endswith((".", ",", ";")) and not text.endswith("..."):
        text = text[:-1].rstrip()
    return text


def _unwrap(match: re.Match) -> str:
    r"""The content of a wrapper; '\sin\mathrm{x}' must not become '\sinx'."""
    is_after_macro = re.search(r"\\[A-Za-z]+$", match.string[max(0, match.start() - 20) : match.start()])
    return (" " if is_after_macro else "") + match[1]


def squeeze(text: str) -> str:
    """The cleaned text without spaces that separate nothing: '1 1/2' keeps its space, '2 + x' does not."""
    return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])", "", clean(text))
