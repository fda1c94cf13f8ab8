"""The one exception that a user's input can raise."""


class InputError(ValueError):
    """Something the user handed in is wrong. The message is one sentence: what is wrong, where, what to do."""


def first_line(error: BaseException) -> str:
    """What a library's error says first, without a full stop, for a sentence of ours; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
