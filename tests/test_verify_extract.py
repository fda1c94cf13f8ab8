"""Where the answer of a response is found."""

import pytest

from dereason_utils.verify import extract_answer, is_strictly_right


@pytest.mark.parametrize(
    ("response", "answer", "reason"),
    [
        (r"so \boxed{12}", "12", "box"),
        (r"\boxed{\frac{1}{2}} and done.", r"\frac{1}{2}", "box"),
        (r"\boxed{\text{a {b} c}}", r"\text{a {b} c}", "box"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}", "box"),
        (r"\boxed {12}", "12", "box"),
        (r"\boxed{\boxed{12}}", "12", "box"),
        (r"\boxed{1} \boxed{2", "1", "box"),
        (r"\boxed{3}" + " then a long derivation" * 5 + r" \boxed{4}", "4", "box"),
        (r"\boxed{3} \boxed{3}", "3", "box"),
        (r"The answer is 7. \boxed{8}", "8", "box"),
        (r"\boxed{3} or \boxed{4}", None, "hedge"),
        (r"\boxed{3 \boxed{4}}", None, "hedge"),
        (r"\boxed{}", None, "no answer"),
        (r"\boxed{3", None, "no answer"),
        ("", None, "no answer"),
        ("The result follows.", None, "no answer"),
        ("The answer is 12.", "12", "line"),
        ("The answer is 12.5.", "12.5", "line"),
        ("The answer is 3. This is because 1 + 2 = 3.", "3", "line"),
        ("The answer is 3 because 1 + 2 = 3", "3", "line"),
        ("Answer: 12", "12", "line"),
        ("**Answer:** 12", "12", "line"),
        ("**Answer**: 12", "12", "line"),
        ("### Final Answer\n\n12\n", "12", "line"),
        ("Final answer:\n$$\nx^2\n$$", "x^2", "line"),
        ("#### 12", "12", "line"),
        ("The correct option is (B).", "(B)", "line"),
        ("The correct answer is: B) dog", "B) dog", "line"),
        ("The answer should be 5", "5", "line"),
        ("Solution: 5", "5", "line"),
        ("Answer: 5\nAnswer: 6\n", "6", "line"),
        ("The answer is", None, "no answer"),
        ("The answer to life is unknown", None, "no answer"),
    ],
)
def test_extract_answer(response, answer, reason):
    assert extract_answer(response) == (answer, reason)


def test_only_the_end_of_a_response_counts():
    assert extract_answer(r"\boxed{12}" + "\nand then" * 2000) == (None, "no answer")
    assert extract_answer("and then\n" * 2000 + r"\boxed{12}") == ("12", "box")


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("3 + 4 = 7.\n\\boxed{7}", True),
        ("\\boxed{ 7 }.", True),
        ("\\boxed{7} as asked", False),
        ("\\boxed{7} \\boxed{7}", False),
        ("\\boxed{7.0}", False),
        ("the answer is 7", False),
        ("\\boxed{7", False),
    ],
)
def test_the_stricter_opinion_wants_one_box_at_the_end_with_the_gold_answer(response, right):
    assert is_strictly_right("7", response) is right
