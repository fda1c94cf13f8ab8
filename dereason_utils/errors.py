"""The one exception that a user's input can raise."""


class InputError(ValueError):
    """Something the user handed in is wrong. The message is one sentence: what is wrong, where, what to do."""
