"""The one exception that a user's input can raise, and how a command tells it."""

import functools
import sys
from collections.abc import Callable


class InputError(ValueError):
    """Something the user handed in is wrong. The message is one sentence: what is wrong, where, what to do."""


def first_line(error: BaseException) -> str:
    """What a library's error says first, without a full stop, for a sentence of ours; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Make a command's exit status of its `main`: a user's wrong input is one sentence on stderr, and status 2 as argparse has it."""

    @functools.wraps(main)
    def run(*arguments) -> int:
        try:
            return main(*arguments) or 0
        except InputError as error:
            print(f"Error: {error}", file=sys.stderr)
            return 2

    return run
