"""Coverage-guided fuzzing of what reads a model's text: extraction, the checker's own rules, the judge's rating.

    pip install atheris==3.0.0                                # in an environment of its own
    PYTHONPATH=.:<this project's site-packages> python tests/fuzz_verify.py -max_total_time=300 [CORPUS_FOLDER]

Not a test of the suite: what it found is in verify_cases.jsonl and in the tests. It stops at the first input that raises
anything or takes two seconds.
"""

import sys

import atheris

with atheris.instrument_imports(include=["dereason_utils.verify", "dereason_utils.judge"]):
    from dereason_utils.judge import parse_rating
    from dereason_utils.verify.extract import extract_answer, is_strictly_right
    from dereason_utils.verify.model_verifier import build_prompt, parse_decision, refusal
    from dereason_utils.verify.normalise import MAX_ANSWER, is_forbidden
    from dereason_utils.verify.rules import NeedsWorker, ask_worker, compare, kind_of

GOLDS = [
    ("12", "number"), ("3.14", "Float"), ("10%", "Percentage"), ("5 m/s^2", "quantity"), ("x^2-1", "expression"),
    ("y=2x+3", "equation"), ("[1,2)", "interval"), (r"\{1,2\}", "set"), ("(1,x)", "tuple"), ("[1,2,3]", "list"),
    ("[[1,2],[3,4]]", "matrix"), ("B", "choice"), ("yes", "boolean"), ("dog", "text"), ("H2O", "formula"),
]  # fmt: skip
QUESTION = "How fast, in m/s?\nA) cat\nB) dog"


def read_everything(data: bytes) -> None:
    """Every reader, on one text. What they may raise, their callers catch."""
    provider = atheris.FuzzedDataProvider(data)
    gold, kind = GOLDS[provider.ConsumeIntInRange(0, len(GOLDS) - 1)]
    text = provider.ConsumeUnicode(4000)
    for response in (text, f"\\boxed{{{text}}}"):
        answer, reason = extract_answer(response)
        assert (answer is None) == (reason in ("no answer", "hedge")) and (
            answer is None or answer.strip() == answer
        )
        is_strictly_right(gold, response)
    assert parse_rating(text) in (None, 1, 2, 3, 4, 5)
    assert parse_decision(text) in (None, True, False)
    assert (
        refusal(gold, text) in (None, "limit", "injection")
        and build_prompt(text, gold, text).count("###") == 3
    )
    if len(text) > MAX_ANSWER or is_forbidden(text):
        return
    for asked, right, said in ((QUESTION, gold, text), (text, gold, gold), ("", text, gold)):
        own = kind_of(asked, right, kind)
        if own is None:
            continue
        try:
            compare(asked, right, said, own, ask_worker)
        except (NeedsWorker, ArithmeticError, RecursionError):  # `verify._decide` turns these into verdicts
            continue


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], "-timeout=2", *sys.argv[1:]], read_everything)
    atheris.Fuzz()
