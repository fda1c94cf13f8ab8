"""Rates of the checker: `python tests/bench_verify.py [size of the mixed batch]`. Prints one line per kind of answer."""

import resource
import sys
import time

from dereason_utils.verify import close, verify, verify_many

TEXT = "We write down what is given, and then work out the result step by step.\n" * 20


def rate(name, rows):
    """Print how many of these rows (question, gold, response, answer_type) are decided in a second."""
    verify(*rows[0])  # what is loaded on first use is not counted
    start, cpu = time.perf_counter(), time.process_time()
    verify_many(*zip(*rows, strict=True))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(
        f"{name}: {len(rows)} in {seconds:.2f} s, {len(rows) / seconds:.0f} per second ({cpu:.2f} s of this process)"
    )


def mixed(n):
    """79% simple answers, 20% expressions, 1% hostile ones."""
    hostile = ["9^{9^{9^9}}", "(10^7)!", "{" * 2000, r"\tan(" * 12 + "10^{3000}x" + ")" * 12]
    rows = []
    for i in range(n):
        if i % 100 == 7:
            rows.append(("", "x", f"{TEXT}\\boxed{{{hostile[i // 100 % 4]}}}", "expression"))
        elif i % 5 == 0:
            rows.append(("", f"x^2-{i * i}", rf"{TEXT}\boxed{{(x-{i})(x+{i})}}", "expression"))
        else:
            rows.append(("", str(i), rf"{TEXT}\boxed{{{i + i % 2}}}", "number"))
    return rows


def main():
    """Print the rates, and the memory and processor time of the workers."""
    question = "Which animal barks?\nA) cat\nB) dog\nC) cow"
    rate("numbers", [("", str(i), rf"{TEXT}\boxed{{{i}.0}}", "number") for i in range(5000)])
    rate("words", [("", f"word {i}", rf"{TEXT}\boxed{{Word {i}}}", "text") for i in range(5000)])
    rate("choices", [(question, "B", rf"{TEXT}\boxed{{{'ABC'[i % 3]}}}", "choice") for i in range(5000)])
    rate(
        "quantities",
        [("", f"{i} m", rf"{TEXT}\boxed{{{i}00\ \text{{cm}}}}", "quantity") for i in range(2000)],
    )
    rate("lists", [("", f"[{i}, 2, 3]", rf"{TEXT}\boxed{{[{i}, 2, 4]}}", "list") for i in range(2000)])
    expressions = [("", f"x^2-{i * i}", rf"{TEXT}\boxed{{(x-{i})(x+{i})}}", "expression") for i in range(400)]
    rate("expressions, a new gold answer each", expressions)
    rate(
        "expressions, groups of 8",
        [("", f"x^2-{i // 8}", rf"\boxed{{x^2-{i}}}", "expression") for i in range(400)],
    )
    rate("mixed batch", mixed(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
    close()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"workers: at most {children.ru_maxrss / 1024:.0f} MB each, {children.ru_utime + children.ru_stime:.1f} s in all"
    )


if __name__ == "__main__":
    main()
