"""Routing by answer type, and the number tolerance."""

from fractions import Fraction

import pytest

from dereason_utils.verify import gold_is_scorable, verify
from dereason_utils.verify.numbers import Number, agree, parse_number
from dereason_utils.verify.rules import kind_of

OPTIONS = "Pick one.\n(A) red\n(B) green\n(C) blue"


@pytest.mark.parametrize(
    ("gold", "answer_type", "kind"),
    [
        ("3.5", "Float", "number"),
        ("3", "Integer", "number"),
        ("1/2", "Fraction", "number"),
        ("12%", "Percentage", "number"),
        ("3", "Number", "number"),
        ("x^2", "Expression", "expression"),
        ("True", "Boolean", "boolean"),
        ("B", "Multiple Choice", "choice"),
        ("cell membrane", "String", "text"),
        ("[1, 2]", "List", "list"),
        ("[[1, 2], [3, 4]]", "Matrix", "matrix"),
        ("y = 2x", "Equation", "equation"),
        ("[1, 2)", "Interval", "interval"),
        (r"\{1, 2\}", "Set", "set"),
        ("(1, 2)", "Tuple", "tuple"),
        ("5 m", "Quantity", "quantity"),
        ("H2O", "Formula", "formula"),
        # names that do not fit their gold answer give way to what the answer looks like
        ("5 m", "Float", "quantity"),
        ("2\\sqrt{3}", "Float", "expression"),
        ("Paris", "Boolean", "text"),
        ("7", "Expression", "number"),
        ("7", "String", "number"),
        ("E = mc^2", "Expression", "equation"),
        ("the rate increases", "Expression", "text"),
        # no name, or one that says nothing
        ("7", None, "number"),
        ("7", "", "number"),
        ("7", "Other", "number"),
        ("7", "Some New Type", "number"),
        ("yes", None, "boolean"),
        ("9.81 m/s^2", None, "quantity"),
        ("2x + 1", None, "expression"),
        ("x = 2", None, "equation"),
        ("x > 2", None, "interval"),
        ("(0, 1]", None, "interval"),
        ("(0, 1)", None, "tuple"),
        ("1, 2", None, "set"),
        ("C6H12O6", None, "formula"),
        ("Marie Curie", None, "text"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", None, "matrix"),
        (r"\int f(x) dx", None, None),
        ("", None, None),
    ],
)
def test_kind_of(gold, answer_type, kind):
    assert kind_of("", gold, answer_type) == kind


def test_choice_is_inferred_from_the_options():
    assert kind_of(OPTIONS, "B", None) == "choice"
    assert kind_of(OPTIONS, "green", None) == "choice"
    assert kind_of("", "B", None) == "expression"


@pytest.mark.parametrize(
    ("gold", "answer_type", "response", "right"),
    [
        ("5", "Float", r"\boxed{B}", True),
        ("5", "Float", r"\boxed{(B)}", True),
        ("5", "Float", r"\boxed{5}", True),
        ("5", "Float", r"\boxed{A}", False),
        ("5", "Float", r"\boxed{D}", False),  # there is no such option
        ("2x", "Expression", r"\boxed{C}", True),
        ("2x", "Expression", r"\boxed{B}", False),
    ],
)
def test_a_letter_stands_for_what_its_option_says(gold, answer_type, response, right):
    question = "What is it?\nA) 4\nB) 5.0\nC) x + x"
    assert (verify(question, gold, response, answer_type).verdict == "correct") == right


def test_order_counts_where_the_question_asks_for_it():
    assert kind_of("Sort the numbers.", "1, 2", None) == "list"


@pytest.mark.parametrize(
    ("gold", "answer_type", "scorable"),
    [
        ("12", "Integer", True),
        ("x^2", "Expression", True),
        (r"\{1, \sqrt{2}\}", "Set", True),
        ("", "Integer", False),
        (None, "Integer", False),
        (r"\sum_k a_k", "Expression", False),
        (r"9^{9^{9^{9}}}", "Expression", False),
        (r"\frac{1}{0}", "Expression", False),
        (r"\{1, \frac{1}{0}\}", "Set", False),
        ("see above \\boxed{3}", "Integer", False),
        ("9" * 5000, "Integer", False),
    ],
)
def test_gold_is_scorable(gold, answer_type, scorable):
    assert gold_is_scorable(gold, answer_type) is scorable
    verdict = verify("", gold, r"\boxed{12}", answer_type)
    assert (verdict.verdict == "unscorable") is not scorable
    # What the response does wrong never makes an item unscorable, and never makes an unscorable one score.
    assert (verify("", gold, "no answer here", answer_type).verdict == "unscorable") is not scorable


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("", "no answer"),
        (r"\boxed{12} \boxed{13}", "hedge"),
        (r"\boxed{12, 13}", "hedge"),
        (r"\boxed{" + "1" * 3000 + "}", "limit"),
        ("\\boxed{12\u202e}", "characters"),
        (r"\boxed{12\%}", "percent"),
        (r"\boxed{12 m}", "unit"),
        (r"\boxed{dog}", "form"),
        (r"\boxed{3*4}", "echo"),
        (r"\boxed{13}", "value"),
    ],
)
def test_reasons_of_wrong_answers(response, reason):
    verdict = verify("What is 3*4?", "12", response, "Integer")
    assert (verdict.verdict, verdict.reason) == ("incorrect", reason)


@pytest.mark.parametrize(
    ("text", "value", "digits", "percent"),
    [
        ("1,234", 1234, None, False),
        ("1.5e3", 1500, 2, False),
        (r"1.5 \times 10^{3}", 1500, 2, False),
        (r"-2 \cdot 10^{-3}", Fraction(-2, 1000), 1, False),
        ("3/4", Fraction(3, 4), None, False),
        (r"\frac{3}{4}", Fraction(3, 4), None, False),
        ("-1 1/2", Fraction(-3, 2), None, False),
        ("12.50%", Fraction(25, 2), 4, True),
        ("0.0012", Fraction(12, 10000), 2, False),
        ("3.2 million", 3200000, 2, False),
        ("10^{6}", 10**6, None, False),
        ("seven", 7, None, False),
    ],
)
def test_parse_number(text, value, digits, percent):
    assert parse_number(text) == Number(Fraction(value), digits, percent)


@pytest.mark.parametrize(
    "text",
    ["", "x", "1,23", "1.2.3", "1/0", "1/2/3", "--1", "1e", "e5", "1 2", "0x10", "1_000", "٣", "1e9999", "²"],
)
def test_parse_number_refuses(text):
    assert parse_number(text) is None


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("12", "12.0", True),
        ("12", "12.00001", False),
        ("12345678901234567890", "12345678901234567891", False),
        ("2.718", "2.72", True),
        ("2.718", "2.71", False),
        ("2.718", "2.7", False),
        ("2.7", "2.718", True),
        ("2.0", "2.03", True),
        ("2.0", "2.045", False),
        ("0.5", "0.51", False),
        ("2/3", "0.667", False),
        ("2/3", "0.666667", True),
        ("2/3", "0.666666", False),
        ("0.0", "0.001", False),
        ("-2.718", "2.718", False),
    ],
)
def test_tolerance(gold, answer, expected):
    assert agree(parse_number(gold), parse_number(answer)) is expected
