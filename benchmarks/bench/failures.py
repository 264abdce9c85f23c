"""Errors of other people's code in one line."""

from medfocus.errors import MedfocusError


def first_line(failure: BaseException) -> str:
    """The type of an error and the first line of its message; our own errors are one line."""
    if isinstance(failure, MedfocusError):
        return str(failure)
    lines = str(failure).strip().splitlines()
    return f"{type(failure).__name__}: {lines[0][:160]}" if lines else type(failure).__name__
