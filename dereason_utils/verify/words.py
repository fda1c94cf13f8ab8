"""Answers made of words: choice letters, yes and no, phrases, chemical formulae."""

import functools
import re
import unicodedata

from .normalise import clean

_OPTION = re.compile(r"^[ \t]*\(?([A-Za-z])[).:][ \t]+(\S.*)$", re.MULTILINE)
_TOKEN = re.compile(r"[^\W_]+(?:[.,][0-9]+)*|[^\w\s]|_")
_SENTENCE_MARKS = set(".,;:!?\"'`()[]“”‘’{}")
_ARTICLES = {"a", "an", "the"}
_TRUE, _FALSE = {"yes", "true", "correct"}, {"no", "false", "incorrect"}


def options(question: str) -> dict[str, str]:
    """The options {letter: text} of a multiple-choice question: lines 'A) text', '(A) text', 'A. text' or 'A: text'."""
    found = {letter: text.rstrip() for letter, text in _OPTION.findall(question)}
    first = next(iter(found), "")
    expected = [chr(ord(first) + i) for i in range(len(found))] if first in ("A", "a") else []
    return found if len(found) > 1 and list(found) == expected else {}


def words(text: str) -> tuple[str, ...]:
    """The words of a short phrase: case, accents, articles at the front and sentence marks do not count; signs do."""
    text = re.sub(r"(?<=[^\W\d_])-(?=[^\W\d_])", " ", clean(text))
    if len(text.strip("".join(_SENTENCE_MARKS))) > 2:
        text = text.casefold()
    text = re.sub("(?<=[A-Za-z])[\u0300-\u036f]+", "", unicodedata.normalize("NFKD", text))
    tokens = [token for token in _TOKEN.findall(text) if token not in _SENTENCE_MARKS]
    if len(tokens) > 1 and tokens[0].lower() in _ARTICLES:
        tokens = tokens[1:]
    return tuple(tokens)


def same_text(gold: str, answer: str) -> tuple[bool, str]:
    """Whether two phrases have the same words in the same order."""
    return (words(gold) == words(answer) != ()), "text"


def truth(text: str) -> bool | None:
    """True for 'yes' and 'true', False for 'no' and 'false', None for anything else, such as 'yes and no'."""
    parts = [part.lower() for part in words(text)]
    if not parts or parts[0] not in _TRUE | _FALSE:
        return None
    # 'Yes, because ...' says yes; 'yes or no' and 'yes, but not always' say nothing.
    rest = set(parts[1:]) & (_TRUE | _FALSE | {"not", "or", "unless", "but"})
    if rest or (len(parts) > 1 and not re.match(r"\W*\w+\s*[,.;:]", clean(text))):
        return None
    return parts[0] in _TRUE


def same_truth(gold: str, answer: str) -> tuple[bool, str]:
    """Whether both say yes, or both no."""
    said = truth(answer)
    return said is not None and said == truth(gold), "form" if said is None else "value"


def gold_letters(question: str, gold: str) -> frozenset[str]:
    """The letters that a gold answer of a choice question names, by letter or by an option's text; empty if none."""
    gold = clean(gold)
    bare = gold.strip("() .:")
    if re.fullmatch(r"[A-Za-z]", bare):
        return frozenset(bare)
    if re.fullmatch(r"[A-Z](?:(?:\s*,\s*(?:and\s+)?|\s+and\s+|\s*&\s*)[A-Z])+", bare):
        return frozenset(re.findall(r"[A-Z](?![a-z])", bare))
    by_text = [letter for letter, text in options(question).items() if words(text) == words(gold)]
    if by_text:
        return frozenset(by_text[:1])
    labelled = re.match(r"\(?([A-Za-z])[).:]\s", gold)
    return frozenset(labelled[1]) if labelled else frozenset()


def same_choice(question: str, gold: str, answer: str) -> tuple[bool, str]:
    """Whether an answer picks the option of the gold answer, by its letter, its text, or both without contradiction."""
    expected, offered, answer = gold_letters(question, gold), options(question), clean(answer)
    texts = {letter: words(text) for letter, text in offered.items()}
    said = words(answer)
    answer = re.sub(
        r"^(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)\s*(?:is\s*)?:?\s*",
        "",
        answer,
        flags=re.IGNORECASE,
    )
    bare = answer.strip("() .:")
    if len(expected) > 1:
        return gold_letters("", answer) == expected, "value"
    if re.fullmatch(r"[A-Za-z]", bare):
        return {bare} == expected, "value"
    by_text = [letter for letter, text in texts.items() if text == said]
    if by_text:
        return set(by_text) == expected, "value"
    labelled = re.match(r"\(?([A-Za-z])(?:\)\s*[.:,]?|[.:,]|\s-|\s(?=\())\s*(\S.*)", answer)
    if not labelled:
        listed = re.fullmatch(r"\W*[A-Z]\W*(?:(?:\s|,|or|and|/)+\W*[A-Z]\W*)+", answer)
        return False, "hedge" if listed else "form"
    letter, rest = labelled[1], labelled[2]
    if texts.get(letter) == words(rest):
        return {letter} == expected, "value"
    others = set(re.findall(r"(?<![A-Za-z'])[A-Z](?![A-Za-z'])", rest)) & set(offered or "ABCDEFGHIJ") - {
        letter
    }
    if others or any(words(rest) == text for other, text in texts.items() if other != letter):
        return False, "hedge"
    return {letter} == expected, "value"


_ELEMENTS = [
    "H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar", "K",
    "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr",
    "Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I",
    "Xe", "Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb",
    "Lu", "Hf", "Ta", "W", "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn", "Fr",
    "Ra", "Ac", "Th", "Pa", "U", "Np", "Pu", "Am", "Cm", "Bk", "Cf", "Es", "Fm", "Md", "No", "Lr", "Rf",
    "Db", "Sg", "Bh", "Hs", "Mt", "Ds", "Rg", "Cn", "Nh", "Fl", "Mc", "Lv", "Ts", "Og", "D",
]  # fmt: skip
_ATOM = "(?:" + "|".join(sorted(_ELEMENTS, key=len, reverse=True)) + ")"
# Atomic: 'Sn' is never tried again as S and n, so a long text costs one pass.
_SPECIES = re.compile(rf"[0-9]*(?>(?:{_ATOM}[0-9]*|[(\[]|[)\]][0-9]*|·[0-9]*)+|e)(?:[0-9]*[+-])?")
_ARROW = re.compile(r"-+>|→|⟶|⇌|<=+>|=|\\(?:long)?(?:right|leftright)arrow|\\rightleftharpoons|\\to(?![a-z])")


@functools.lru_cache(maxsize=4096)
def formula(text: str) -> tuple[tuple[str, ...], ...] | None:
    """A chemical formula, or each side of a reaction, as sorted species; None if it is neither. Case counts."""
    if len(text) > 300:
        return None
    text = re.sub(r"\((?:aq|s|l|g)\)", "", _ARROW.sub(" → ", clean(text)))
    text = re.sub(r"_\{?([0-9]+)\}?", r"\1", text).replace("\\cdot", "·").replace("*", "·").replace("•", "·")
    sides = []
    for side in text.split(" → "):
        species = [re.sub(r"[{}\s^]", "", part) for part in re.split(r"\s\+\s", side)]
        if not all(_SPECIES.fullmatch(part) and part.count("(") == part.count(")") for part in species):
            return None
        sides.append(tuple(sorted(species)))
    return tuple(sides)


def same_formula(gold: str, answer: str) -> tuple[bool, str]:
    """Whether two formulae or reaction equations are written with the same species (isomers differ)."""
    said = formula(answer)
    return said is not None and said == formula(gold), "form" if said is None else "value"
