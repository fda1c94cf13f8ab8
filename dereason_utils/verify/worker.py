"""The process in which symbolic algebra runs: `python -m dereason_utils.verify.worker`, JSON in and out.

It imports sympy once and then lets a forked child do the jobs. The kernel ends a child that overruns its time (a timer that no
computation can hold up) or its memory; the loss is one job, and the next child is there in milliseconds. A child is replaced
after some jobs anyway. All of them end when the process that asks is gone. This process has one thread and no torch, so
forking it is safe.
"""

import json
import os
import resource
import select
import signal

from . import rules, symbolic

# Processor time per job, in seconds: nothing here waits for anything, so on a machine with time to spare this is wall time,
# and on a busy one verdicts stay what they are. A verdict takes two jobs at most (the gold answer alone, then the
# comparison): under 2 s together even with half a core.
CPU_LIMIT = 0.5
MEMORY_LIMIT = 512 * 2**20
JOBS_OF_A_CHILD = 100
# Exit statuses of a child; any other means that a job ended it.
NO_MORE_JOBS, REPLACE_ME = 0, 75


def main() -> None:
    """Keep one child at work until the asking process closes the pipe or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(
        signal.SIGPROF, signal.SIG_DFL
    )  # the timer's signal ends a process, whatever it is computing
    asker = os.getppid()
    _warm_up()
    os.write(1, b"ready\n")
    while True:
        child = os.fork()
        if child == 0:
            _serve(asker)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == NO_MORE_JOBS:
            return
        if status != REPLACE_ME:
            os.write(1, b"overrun\n" if status == -signal.SIGPROF else b"died\n")


def _warm_up() -> None:
    """Load what sympy loads on first use, before the first fork."""
    symbolic.equal("expression", r"\frac{1}{2}\sin^2 x + n!", r"\sqrt{x} e^{i y}")
    symbolic.equal("equation", "y = 2x", "2y = 4x")
    rules.infer("", "5 kg")
    symbolic.equal("value", "1.414", r"\sqrt{2}")
    symbolic.equal("expression", r"\sqrt{2}+\sqrt[3]{x}", r"\sqrt{5+2\sqrt6}-|x|\binom{n}{2}")


def _serve(asker: int) -> None:
    """The child: do jobs, each within its limits, and end."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file can grow
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for _ in range(JOBS_OF_A_CHILD):
        while not select.select([0], [], [], 1.0)[0]:
            if not _is_alive(asker):
                os._exit(NO_MORE_JOBS)
        job = _read_job()
        if job is None:
            os._exit(NO_MORE_JOBS)
        signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT)
        os.write(1, f"[{job['id']}]\n".encode())
        try:
            reply = _decide(job)
        except (MemoryError, RecursionError):
            reply = (False, "limit")
        except Exception:  # noqa: BLE001
            # sympy refuses an expression in many ways; whichever it is, nothing was shown to be equal.
            reply = (False, "form")
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.write(1, json.dumps([job["id"], *reply]).encode() + b"\n")
    os._exit(REPLACE_ME)


def _read_job() -> dict | None:
    """The next job: eight digits that give its length, then JSON. None at the end, or after a sender's death in the middle.

    Not a byte more is read: what is in the pipe belongs to the next child if this one ends.
    """
    try:
        return json.loads(_read(int(_read(8))))
    except ValueError:
        return None


def _read(size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := os.read(0, size - len(data))):
        data += piece
    return data


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _decide(job: dict) -> tuple[bool, str]:
    if "answer" in job:
        correct, reason = rules.compare(
            job["question"], job["gold"], job["answer"], job["kind"], symbolic.equal
        )
        return bool(correct), reason
    for kind, text in rules.algebra_of(job["kind"], job["gold"]):
        ok, reason = symbolic.check(kind, text)
        if not ok:
            return False, reason
    return True, ""


if __name__ == "__main__":
    main()
