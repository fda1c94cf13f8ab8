r"""Answers that hold several values: sets, tuples, lists, intervals and their unions, matrices."""

import re
from collections.abc import Callable

# More members than this are not compared (reason 'limit').
MAX_MEMBERS = 64

Element = Callable[[str, str], tuple[bool, str]]

Interval = tuple[str, str, str, str, str]

_OPEN, _CLOSE = "([{", ")]}"
_UNION = re.compile(r"\\cup|∪|\bU\b|\bor\b")
_MATRIX = re.compile(r"\\begin\{([pbvBV]?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_INFINITY = re.compile(r"[+]?\s*(?:\\infty|∞|\binf(?:inity)?\b|\boo\b)")
RELATION = re.compile(r"<=|>=|<|>|≤|≥|\\leq?(?![a-z])|\\geq?(?![a-z])|\\lt(?![a-z])|\\gt(?![a-z])")
EQUALITY = re.compile(rf"!=|{RELATION.pattern}|\\neq?(?![a-z])|≠|=")
_NAME = re.compile(r"\\?[A-Za-z]+(?:_\{?\w\}?)?")


def split_list(text: str, separators: str = ",;") -> list[str]:
    """Split at the separators outside every bracket; '1,234' is one number. One pass, no recursion."""
    parts, start, depth = [], 0, 0
    for i, character in enumerate(text):
        if character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth = max(0, depth - 1)
        elif depth == 0 and character in separators and not _is_thousands(text, i):
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def _is_thousands(text: str, i: int) -> bool:
    return (
        text[i] == ","
        and re.match(r",[0-9]{3}(?![0-9])", text[i:]) is not None
        and re.search(r"(?<![0-9,])[0-9]{1,3}(?:,[0-9]{3})*$", text[:i]) is not None
    )


def _members(text: str, is_bracketed: bool) -> list[str]:
    text = re.sub(r",?\s+(?:and|or)\s+", ", ", text)
    parts = split_list(text, ";") if ";" in text else split_list(text)
    if len(parts) == 1 and is_bracketed:  # (12,102) is a pair, 12,102 a number
        parts = [part.strip() for part in text.split(",")]
    members = []
    for part in parts:
        part = re.sub(r"^\\?[A-Za-z](?:_\{?\w\}?)?\s*=\s*", "", part)
        signs = re.findall(r"\\pm|±", part)
        members += [re.sub(r"\\pm|±", sign, part) for sign in "+-"] if len(signs) == 1 else [part]
    return [re.sub(r"^\+\s*", "", member) for member in members]


def _body(text: str, brackets: tuple[tuple[str, str], ...]) -> str | None:
    """The text inside one pair of brackets that spans all of it."""
    for left, right in brackets:
        if text.startswith(left) and text.endswith(right) and len(text) >= len(left) + len(right):
            inside = text[len(left) : len(text) - len(right)]
            depth = 0
            for character in inside:
                depth += (character in _OPEN) - (character in _CLOSE)
                if depth < 0:
                    return None
            return inside
    return None


def _bare(text: str) -> str:
    """Without a left side such as 'x =', '(x, y) =' or 'x \\in'."""
    return re.sub(r"^(?:\\?[A-Za-z]|\([A-Za-z](?:,\s*[A-Za-z])*\))\s*(?:=|\\in(?![a-z])|∈)\s*", "", text)


def set_members(text: str) -> list[str] | None:
    r"""The members of a set: '\{1, 2\}', '1, 2', 'x = 1 or x = 2', '\pm 1'."""
    text = _bare(text)
    if re.fullmatch(r"\\emptyset|\\varnothing|∅|\\?\{\s*\\?\}", text):
        return []
    body = _body(text, ((r"\{", r"\}"), ("{", "}")))
    return _members(text if body is None else body, body is not None) or None


def tuple_members(text: str) -> list[str] | None:
    """The members of a tuple, in brackets or not, or of a row or column vector."""
    text = _bare(text)
    rows = matrix_rows(text) if text.startswith("\\begin") else None
    if rows and 1 in (len(rows), len(rows[0])):
        return [cell for row in rows for cell in row]
    body = _body(text, (("(", ")"), (r"\langle", r"\rangle"), ("<", ">")))
    return _members(text if body is None else body, body is not None) or None


def list_members(text: str) -> list[str] | None:
    """The members of a list, in any brackets or none."""
    text = _bare(text)
    body = _body(text, (("[", "]"), ("(", ")"), (r"\{", r"\}")))
    return _members(text if body is None else body, body is not None) or None


def matrix_rows(text: str) -> list[list[str]] | None:
    """The rows of a LaTeX matrix or of nested lists, if they are of one length."""
    text = _bare(text)
    match = _MATRIX.fullmatch(text)
    if match:
        rows = [
            [cell.strip() for cell in row.split("&")] for row in re.split(r"\\\\", match[2]) if row.strip()
        ]
    else:
        body = _body(text, (("[", "]"), ("(", ")")))
        rows = (
            [list_members(row) for row in split_list(body)]
            if body and body.strip().startswith(("[", "("))
            else None
        )
    return rows if rows and all(rows) and len({len(row) for row in rows}) == 1 else None


def intervals(text: str) -> list[Interval] | None:
    """(left bracket, left end, right end, right bracket, name) of each part of a union, also of 'a <= x < b' and 'x > a'."""
    parts = []
    text = re.sub(r"\\mathbb\s*\{?R\}?|(?i:all\s+real(?:\s+number)?s)", r"(-\\infty, \\infty)", _bare(text))
    for part in _UNION.split(_INFINITY.sub(r"\\infty", text)):
        part = part.strip()
        relations = RELATION.findall(part)
        if relations:
            interval = _from_inequality(RELATION.split(part), relations)
        elif part[:1] in ("(", "[") and part[-1:] in (")", "]") and len(_members(part[1:-1], True)) == 2:
            low, high = _members(part[1:-1], True)
            interval = (part[0], low, high, part[-1], "")
        else:
            interval = None
        if interval is None:
            return None
        parts.append(interval)
    return parts or None


def _from_inequality(sides: list[str], relations: list[str]) -> Interval | None:
    sides = [side.strip() for side in sides]
    less = ["<" in r or "≤" in r or "\\l" in r for r in relations]
    closed = ["=" in r or r in "≤≥" or "eq" in r or r in (r"\le", r"\ge") for r in relations]
    if len(set(less)) > 1 or len(sides) > 3 or not all(sides):
        return None
    if not less[0]:
        sides, closed = sides[::-1], closed[::-1]
    if len(sides) == 3 and _NAME.fullmatch(sides[1]):
        return "[" if closed[0] else "(", sides[0], sides[2], "]" if closed[1] else ")", sides[1]
    if len(sides) == 2 and _NAME.fullmatch(sides[0]) and "infty" not in sides[0]:
        return "(", r"-\infty", sides[1], "]" if closed[0] else ")", sides[0]
    if len(sides) == 2 and _NAME.fullmatch(sides[1]) and "infty" not in sides[1]:
        return "[" if closed[0] else "(", sides[0], r"\infty", ")", sides[1]
    return None


_READ = {
    "set": set_members,
    "tuple": tuple_members,
    "list": list_members,
    "matrix": matrix_rows,
    "interval": intervals,
}


def leaves(kind: str, text: str) -> list[str]:
    """The single values in a structure."""
    found = _READ[kind](text) or []
    if kind == "interval":
        return [end for interval in found for end in interval[1:3]]
    return [cell for row in found for cell in row] if kind == "matrix" else found


def is_readable(kind: str, text: str) -> bool:
    """Whether a cleaned gold answer that is named to be of this kind can be read so."""
    members = _READ[kind](text)
    return members is not None and (kind != "tuple" or len(members) > 1)


def looks_like(text: str) -> str | None:
    """The structure that a cleaned gold answer shows by its outer form. Values in a row without brackets are a 'list'."""
    bare = _bare(text)
    if matrix_rows(text) is not None:
        return "matrix"
    if _body(bare, ((r"\{", r"\}"),)) is not None or set_members(text) == [] or "\\pm" in text or "±" in text:
        return "set"
    found = intervals(text)
    if found and (
        len(found) > 1
        or RELATION.search(text)
        or found[0][0] + found[0][3] in ("(]", "[)")
        or "infty" in str(found)
    ):
        return "interval"
    body = _body(bare, (("(", ")"), (r"\langle", r"\rangle")))
    if body is not None and len(_members(body, True)) > 1:
        return "tuple"
    return "list" if len(list_members(text) or []) > 1 else None


def same_structure(kind: str, gold: str, answer: str, same: Element) -> tuple[bool, str]:
    """Compare two structures member by member: sets and unions in any order, all else in order."""
    expected, said = _READ[kind](gold), _READ[kind](answer)
    if said is None or expected is None:
        return False, "form"
    if max(len(expected), len(said)) > MAX_MEMBERS:
        return False, "limit"
    if len(expected) != len(said):
        return False, "members"
    if kind == "interval":
        return _same_unordered(expected, said, lambda a, b: _same_interval(a, b, same))
    if kind == "set":
        return _same_unordered(expected, said, same)
    if kind == "matrix":
        if len(expected[0]) != len(said[0]):
            return False, "members"
        expected, said = [cell for row in expected for cell in row], [cell for row in said for cell in row]
    return all(same(a, b)[0] for a, b in zip(expected, said, strict=True)), "value"


def _same_interval(a: Interval, b: Interval, same: Element) -> tuple[bool, str]:
    same_name = a[4] == b[4] or "" in (a[4], b[4])
    return same_name and (a[0], a[3]) == (b[0], b[3]) and same(a[1], b[1])[0] and same(a[2], b[2])[0], "value"


def _same_unordered(expected: list, said: list, same: Callable) -> tuple[bool, str]:
    left = list(said)
    for member in expected:
        found = next((i for i, other in enumerate(left) if same(member, other)[0]), None)
        if found is None:
            return False, "value"
        del left[found]
    return True, "value"
