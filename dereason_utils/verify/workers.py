"""A few warm worker processes (see `worker`), shared by all threads of this process."""

import atexit
import contextlib
import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SIZE = max(2, min(8, (os.cpu_count() or 2) // 2))
# Longest wait for a reply, in seconds. The worker ends a job much earlier, so only one that was stopped from outside, or gets no
# processor time at all, is met here; its job is given to another one.
REPLY_LIMIT = 30
START_LIMIT = 300
# A job whose child dies this often is what kills it.
MAX_DEATHS = 3

_ROOT = str(Path(__file__).resolve().parents[2])


class _Worker:
    def __init__(self):
        env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [_ROOT, env.get("PYTHONPATH")]))
        command = [sys.executable, "-P", "-m", "dereason_utils.verify.worker"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=env)
        self.is_ready = False
        self.count, self.unread = 0, b""
        self.poll = select.poll()
        self.poll.register(self.process.stdout, select.POLLIN)

    def ask(self, job: dict) -> tuple[bool, str] | None:
        """The reply, or None when this worker is lost. Waits for a worker that is still starting."""
        self.is_ready = self.is_ready or self._line(time.monotonic() + START_LIMIT) == b"ready"
        if not self.is_ready:
            return None
        self.count += 1
        data = json.dumps(job | {"id": self.count}, ensure_ascii=False).encode(errors="replace")
        try:
            return self._exchange(b"%08d" % len(data) + data, time.monotonic() + REPLY_LIMIT)
        except BrokenPipeError:
            return None

    def _exchange(self, job: bytes, deadline: float) -> tuple[bool, str] | None:
        """Send a job and read its reply: '[ID]' at its start, then '[ID, holds, reason]' or, at its CPU limit, 'overrun'.

        'died' says that the child ended in another way: killed from outside, perhaps with this job in its hands. The job is
        sent again, so it can be done twice; what comes of an earlier sending is told by its ID, or comes before '[ID]'.
        """
        self._send(job)
        deaths, has_started = 0, False
        while line := self._line(deadline):
            if line == b"died":
                deaths += 1
                if deaths == MAX_DEATHS:
                    return False, "limit"
                self._send(job)
            elif line == b"overrun":
                if has_started:
                    return False, "limit"
            else:
                number, *said = json.loads(line)
                if number == self.count and said:
                    return tuple(said)
                has_started = has_started or number == self.count
        return None

    def _send(self, job: bytes) -> None:
        self.process.stdin.write(job)
        self.process.stdin.flush()

    def _line(self, deadline: float) -> bytes:
        """One line from the worker, without its end; empty after the deadline or when the worker is gone."""
        while b"\n" not in self.unread:
            wait = max(0.0, deadline - time.monotonic())
            piece = os.read(self.process.stdout.fileno(), 65536) if self.poll.poll(wait * 1000) else b""
            if not piece:
                return b""
            self.unread += piece
        line, _, self.unread = self.unread.partition(b"\n")
        return line

    def stop(self, patience: float = 0.0) -> None:
        """End the process: by the end of its input within `patience` seconds, else by force."""
        with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
            if patience:
                self.process.stdin.close()
                self.process.wait(patience)
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):  # what it was not sent before it died is of no use now
            self.process.stdin.close()
        self.process.stdout.close()


class _Pool:
    """Workers are started when first needed, and lent to one job at a time."""

    def __init__(self):
        self.idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self.workers: list[_Worker] = []
        self.lock = threading.Lock()

    def ask(self, job: dict) -> tuple[bool, str]:
        # A worker that was killed or stopped from outside says nothing about the job, and all may have been.
        for _ in range(SIZE + 1):
            worker = self._borrow()
            try:
                reply = worker.ask(job)
            except BaseException:  # an interrupt in the middle of a reply leaves the pipe out of step
                self._drop(worker)
                raise
            if reply is not None:
                self.idle.put(worker)
                return reply
            self._drop(worker)
        if not worker.is_ready:
            raise RuntimeError(
                f"the checker's workers do not start; see why: {sys.executable} -m dereason_utils.verify.worker"
            )
        return False, "limit"

    def _borrow(self) -> _Worker:
        try:
            return self.idle.get_nowait()
        except queue.Empty:
            pass
        with self.lock:
            if len(self.workers) < SIZE:
                self.workers.append(_Worker())
                return self.workers[-1]
        return self.idle.get()

    def _drop(self, worker: _Worker) -> None:
        worker.stop()
        with self.lock:
            self.workers[self.workers.index(worker)] = replacement = _Worker()
        self.idle.put(replacement)

    def close(self) -> None:
        with self.lock:
            for worker in self.workers:
                worker.stop(patience=1.0)
            self.workers.clear()
        self.idle = queue.LifoQueue()


_pool = _Pool()
atexit.register(lambda: _pool.close())


def _forget_pool() -> None:
    global _pool
    _pool = _Pool()


# A forked child of this process must not share its parent's pipes.
os.register_at_fork(after_in_child=_forget_pool)


def ask(job: dict) -> tuple[bool, str]:
    """Have a worker do one job (see `worker`): (whether it holds, reason). A job that overruns gives (False, 'limit')."""
    return _pool.ask(job)


def map_in_threads(function, rows: list) -> list:
    """function(*row) for every row, as many at a time as there are workers; the results in order."""
    if len(rows) < 2:
        return [function(*row) for row in rows]
    threads = ThreadPoolExecutor(SIZE)
    try:
        return list(threads.map(lambda row: function(*row), rows))
    finally:
        threads.shutdown(cancel_futures=True)  # Ctrl-C does not wait for thousands of rows


def close() -> None:
    """End the worker processes; the next job starts new ones."""
    _pool.close()
