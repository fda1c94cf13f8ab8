r"""Find the final answer in a response: the last balanced `\boxed{}` of its end, else the last marked answer line."""

import re

# About 1024 tokens, the window of the general-verifier protocol: an answer further up is not at the end.
END = 6000
# Two different boxes with no more than this between them are one hedged answer, not a correction.
ADJACENT = 60

_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_MARKER = re.compile(
    r"(?:(?<![a-z])(?:answer|solution|(?:correct|right|best)\s+(?:option|choice))(?:\s+(?:choice|to\s+the\s+(?:question|problem)))?"
    r"[*_]*\s{0,3}(?:(?:is|are|(?:would|should|must|will)\s+be)\b\s{0,3}[:：]?|[:：=])"
    r"|^[ \t#*]*final\s+answer[ \t*:]*$"
    r"|^[ \t]*\#{4}(?=[ \t]))[*_\s]*",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE_END = re.compile(r"\.\s+(?=[A-Z])|\s+(?:because|since)\s|\.?\s*$", re.IGNORECASE)


def extract_answer(response: str) -> tuple[str | None, str]:
    """Return (answer text, where it was found) or (None, why there is none).

    Places: 'box', 'line'. Failures: 'no answer', 'hedge' (two different boxes side by side, or one box around more
    than a box).
    """
    end = response[-END:]
    boxes = _closed_boxes(end)
    if boxes:
        return _from_boxes(end, boxes)
    marks = list(_MARKER.finditer(end))
    # A marked line can announce the answer of the next line, and the last mark can be followed by nothing at all.
    for mark in reversed(marks):
        line = _first_line(end[mark.end() :])
        if line:
            return line, "line"
    return None, "no answer"


def is_strictly_right(gold: str, response: str) -> bool:
    r"""A second, stricter opinion: exactly one closed `\boxed{}`, nothing after it, and the gold answer in it letter for letter.

    Blanks and a final stop do not count. It decides no reward; it is there to show which rewards deserve a look.
    """
    boxes = _closed_boxes(response)
    if len(boxes) != 1:
        return False
    _, inside, stop = boxes[0]
    return response[stop + 1 :].strip(" \n.$") == "" and response[inside:stop].split() == gold.split()


def _closed_boxes(text: str) -> list[tuple[int, int, int]]:
    """(start, start of content, end of content) of every closed box, in the order in which they close; one pass."""
    opened, closed = [], []
    for match in _BRACES.finditer(text):
        token = match.group()
        if token[-1] == "{" and token != r"\{":
            opened.append((match.start(), match.end(), len(token) > 1))
        elif token == "}" and opened:
            start, inside, is_box = opened.pop()
            if is_box:
                closed.append((start, inside, match.start()))
    return closed


def _from_boxes(end: str, boxes: list[tuple[int, int, int]]) -> tuple[str | None, str]:
    start, inside, stop = boxes[-1]
    # Boxes in the last one must wrap the same content: \boxed{\boxed{5}} is 5, \boxed{4 \boxed{5}} says two things.
    for inner_start, inner_inside, inner_stop in reversed(boxes[:-1]):
        if inner_start <= start:
            break
        if end[inside:inner_start].strip() or end[inner_stop + 1 : stop].strip():
            return None, "hedge"
        inside, stop = inner_inside, inner_stop
    answer = end[inside:stop].strip()
    before = [box for box in boxes if box[2] < start]
    if before:
        other = end[before[-1][1] : before[-1][2]]
        if start - before[-1][2] <= ADJACENT and "".join(other.split()) != "".join(answer.split()):
            return None, "hedge"
    return (answer, "box") if answer else (None, "no answer")


def _first_line(text: str) -> str:
    """The first line with a letter or digit, up to the end of its first sentence."""
    line = next((line for line in text.splitlines() if re.search(r"[^\W_]", line)), "")
    return line[: _SENTENCE_END.search(line).start()].strip().strip("*_").strip()
