"""What goes wrong in other people's code, as a line."""

from triton.errors import TritonError

from medfocus.errors import MedfocusError

# What a contender may raise that cannot do the job here: PyTorch and its compiler raise
# RuntimeError, FlashAttention's checks are assertions, a package may be too old for a call.
FAILURES = (
    RuntimeError,
    ImportError,
    AssertionError,
    AttributeError,
    TypeError,
    ValueError,
    TritonError,
    MedfocusError,
)


def first_line(failure: BaseException) -> str:
    """The kind of a failure, and what it says first; our own errors are whole lines."""
    if isinstance(failure, MedfocusError):
        return str(failure)
    said = str(failure).strip().splitlines()
    return f"{type(failure).__name__}: {said[0][:160]}" if said else type(failure).__name__
