"""Every case of verify_cases.jsonl: verdict, time and memory."""

import mmap
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dereason_utils.errors import InputError
from dereason_utils.verify import close, report, verify, verify_many

CASES = report.load_cases(Path(__file__).with_name("verify_cases.jsonl"))
# Right answers that the rules are known to miss: they must be missed, not called unscorable, and they count in the recall.
GAPS = [case for case in CASES if case.group == "gap"]
SETTLED = [case for case in CASES if case.group != "gap"]


def _name(case):
    return f"{case.group}-{case.why}"


@pytest.fixture(scope="module")
def timed():
    """The verdict and wall time of every case, asked one by one."""
    verify("", "x", r"\boxed{x+1}")  # start the workers
    outcomes = {}
    for case in CASES:
        start = time.perf_counter()
        verdict = verify(case.question, case.gold, case.response, case.answer_type)
        outcomes[case] = (verdict, time.perf_counter() - start)
    close()
    return outcomes


def test_the_table_is_large_enough():
    assert len(CASES) >= 250
    assert sum(case.hostile for case in CASES) >= 100
    assert (
        len({(case.question, case.gold, case.response, case.answer_type) for case in CASES}) >= len(CASES) - 5
    )


@pytest.mark.parametrize("case", SETTLED, ids=_name)
def test_case(case, timed):
    verdict = timed[case][0]
    assert verdict.verdict == case.expected, verdict


@pytest.mark.parametrize("case", GAPS, ids=_name)
def test_a_known_gap_is_only_missed(case, timed):
    assert timed[case][0].verdict == "incorrect"


def test_no_case_is_slow_or_large(timed):
    outcomes = timed
    # A stall of the whole machine hits few cases: the slow ones are asked once more.
    slow = [case for case in CASES if outcomes[case][1] >= 2]
    assert len(slow) < 5
    for case in slow:
        start = time.perf_counter()
        verify(case.question, case.gold, case.response, case.answer_type)
        assert time.perf_counter() - start < 2, case


MEMORY = """
import resource, sys
from dereason_utils.verify import close, report, verify
for case in report.load_cases(sys.argv[1]):
    verify(case.question, case.gold, case.response, case.answer_type)
close()
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


def test_no_worker_grows_large():
    # In a process of its own: the children of this one include other tests' kernels.
    table = str(Path(__file__).with_name("verify_cases.jsonl"))
    done = subprocess.run([sys.executable, "-c", MEMORY, table], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 512


def test_a_batch_gives_the_same_verdicts_in_order(timed):
    columns = zip(
        *[(case.question, case.gold, case.response, case.answer_type) for case in CASES], strict=True
    )
    assert verify_many(*columns) == [timed[case][0] for case in CASES]


@pytest.mark.parametrize(
    "case", [case for case in SETTLED if case.expected == "correct" and not case.hostile], ids=_name
)
def test_swapped_arguments_earn_nothing(case):
    # A response in the place of the gold answer cannot be scored; a bare gold answer in the place of a response is no answer.
    assert verify(case.question, case.response, case.gold, case.answer_type).verdict != "correct"


def test_summary_by_hand():
    case = report.Case("g", True, "q", "1", "1", None, "correct", "w")
    wrong = report.Case("g", False, "q", "1", "2", None, "incorrect", "w")
    outcomes = [
        report.Outcome(v, s)
        for v, s in (("correct", 0.1), ("correct", 0.2), ("incorrect", 0.3), ("hung", 2.0))
    ]
    result = report.summary([case, wrong, case, wrong], outcomes)
    assert result["precision"] == 0.5 and result["recall"] == 0.5
    assert result["wrongly accepted"] == 1 and result["hostile wrongly accepted"] == 0
    assert result["stopped or failed"] == 1 and result["worst wall time, s"] == 2.0


def test_math_verify_alone_has_the_measured_traps():
    trap = report.Case("g", True, "", "listen", r"\boxed{silent}", None, "incorrect", "anagram")
    with mmap.mmap(-1, 5 * 2**30):  # as large as a process that has loaded torch
        assert report.math_verify_alone(trap, limit=60) == "correct"  # its imports alone may take seconds
    assert report.ours(trap) == "incorrect"


def test_an_incomplete_case_is_named(tmp_path):
    path = tmp_path / "cases.jsonl"
    path.write_text('{"group": "g"}\n')
    with pytest.raises(InputError, match="line 1: the case lacks"):
        report.load_cases(path)
