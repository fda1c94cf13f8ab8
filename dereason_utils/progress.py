"""Progress as whole plain-text lines, readable in a terminal, a log file and a saved notebook.

04_grpo dereason seed 0 [#####---------------] 6/24  reward 0.21  3m10s gone, 9m left
"""

import time
from collections.abc import Iterable, Iterator, Sized

WIDTH = 20  # characters of the bar
MIN_PAUSE = 3.0  # seconds: never more often than this
MAX_PAUSE = 30.0  # seconds: about this often even when little moved
MIN_SHARE = 0.05  # of the whole: between the two pauses, a line for every such share


class Bar:
    """A bar over `total` units of work, of which `start` were already done before (a resumed run).

    `update(done, facts)` prints a line when it is time for one; the last unit always prints one.
    """

    def __init__(self, total: int, label: str, start: int = 0, clock=time.monotonic):
        self.total, self.label, self.start, self.clock = total, label, start, clock
        self.begun = self.printed_at = clock()
        self.printed = start

    def update(self, done: int, facts: str = "") -> None:
        now = self.clock()
        pause, share = now - self.printed_at, (done - self.printed) / max(self.total, 1)
        due = pause >= MAX_PAUSE or (pause >= MIN_PAUSE and share >= MIN_SHARE)
        finished = done >= self.total > self.printed
        if due or finished:
            self.printed_at, self.printed = now, done
            print(self.line(done, facts, now - self.begun), flush=True)

    def line(self, done: int, facts: str, gone: float) -> str:
        filled = WIDTH * min(done, self.total) // max(self.total, 1)
        parts = [f"{self.label} [{'#' * filled}{'-' * (WIDTH - filled)}] {done}/{self.total}", facts]
        times = f"{duration(gone)} gone"
        if self.start < done < self.total:
            times += f", {duration(gone / (done - self.start) * (self.total - done))} left"
        return "  ".join(part for part in (*parts, times) if part)


def track(iterable: Iterable, label: str, total: int | None = None) -> Iterator:
    """Yield the items of an iterable and print progress; `total` is needed when it has no length."""
    if total is None:
        if not isinstance(iterable, Sized):
            raise TypeError(f"track({label!r}) needs total=... for an iterable without a length")
        total = len(iterable)
    bar = Bar(total, label)
    for done, item in enumerate(iterable, start=1):
        yield item
        bar.update(done)


def duration(seconds: float) -> str:
    """42s, 3m10s, 9m, 1h05m: two units at most."""
    seconds = round(seconds)
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    if minutes >= 5 or (minutes and not rest):
        return f"{minutes}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
